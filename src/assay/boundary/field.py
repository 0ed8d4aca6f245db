"""A classifier as pairwise fields F = f_rival - f_own, with gradients and Hessian products.

One sign convention holds in the whole package: F is negative where the network says `own`, its gradient points out of
that region, and a positive curvature means that the boundary bends towards the input.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import grad, linearize
from torch.nn.attention import SDPBackend, sdpa_kernel

from assay.attacks import Target, target_of
from assay.attacks.target import Bounds, Model, chunk_size
from assay.boundary.smoothness import Smoothness, smoothness_of
from assay.errors import SubjectError, UsageError
from assay.inputs import checked_inputs
from assay.subject import Subject

HessianProduct = Callable[[Tensor], Tensor]


class Field:
    """Logits of a classifier and the differences between them. Rows of a batch do not influence each other.

    Attributes:
        model: what was given: a module, a Subject or a function (B, ...) -> (B, K).
        bounds: legal range of inputs, known from a Subject, else None.
        batch_size: samples per pass; None chooses by memory.

    Example:
        >>> field = Field(lambda x: torch.stack([x.sum(1), -x.sum(1)], 1))
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> field.label(x), field.value(x, own=torch.tensor([0]), rival=torch.tensor([1]))
        (tensor([0]), tensor([-6.]))
    """

    def __init__(self, model: Model, *, batch_size: int | None = None) -> None:
        self.model = model
        self.target: Target = target_of(model)
        self.bounds: Bounds = self.target.bounds
        self.batch_size = batch_size

    @property
    def dtype(self) -> torch.dtype | None:
        """Floating type of the model's parameters, or None for a model without any."""
        module = self.model.model if isinstance(self.model, Subject) else self.model
        if not isinstance(module, nn.Module):
            return None
        return next((p.dtype for p in module.parameters() if p.dtype.is_floating_point), None)

    def prepared(self, x: Tensor) -> Tensor:
        """Inputs in the model's type, after checking that they can be differentiated at.

        Args:
            x: (B, ...) inputs.

        Returns:
            (B, ...) detached.

        Raises:
            SubjectError: for anything but a finite floating-point batch that the model takes and answers with (B, K),
                K at least 2.
        """
        checked_inputs(x)
        x = x.detach().to(self.dtype or x.dtype)
        try:
            logits = self.logits(x[:1])
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise SubjectError(
                f"The model does not take inputs of shape {tuple(x.shape)}: {str(error).splitlines()[0][:200]}",
                where="x",
                advice="Reshape them to the model's input shape.",
            ) from error
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 1 or logits.shape[1] < 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise SubjectError(
                f"The model returned {shape} for one input.",
                where="model",
                advice="A decision boundary needs the logits (B, K) of at least two classes.",
            )
        return x

    def passes(self, x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The batch in parts that fit into memory, with what belongs to each row."""
        size = chunk_size(x, self.batch_size)
        yield from zip(*(each.split(size) for each in (x, *others)), strict=True)

    def logits(self, x: Tensor) -> Tensor:
        """Values of the network, detached.

        Args:
            x: (B, ...) inputs.

        Returns:
            (B, K) logits.

        Raises:
            SubjectError: where they are NaN or infinite.
        """
        with torch.no_grad():
            found = [self.target(part) for (part,) in self.passes(x)]
        if len(found) == 1 and not isinstance(found[0], Tensor):
            return found[0]
        outputs = torch.cat(found)
        if not bool(torch.isfinite(outputs).all()):
            row = int((~torch.isfinite(outputs).flatten(1).all(1)).nonzero()[0])
            raise SubjectError(
                "The model returns NaN or infinity.", where=f"sample {row}", advice="Check the scale of this input."
            )
        return outputs

    def label(self, x: Tensor) -> Tensor:
        """(B,) predicted class."""
        return self.logits(x).argmax(1)

    def value(self, x: Tensor, own: Tensor, rival: Tensor) -> Tensor:
        """(B,) F = f_rival - f_own at (B, ...) inputs."""
        return pair(self.logits(x), own, rival)

    def value_and_gradient(self, x: Tensor, own: Tensor, rival: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) F and its gradient (B, ...), detached. Costs one pass forward and one backward."""
        values, gradients = [], []
        for part, mine, theirs in self.passes(x, own, rival):
            with torch.enable_grad():
                point = part.detach().requires_grad_(True)
                value = pair(self.target(point.clone()), mine, theirs)
                gradient = (
                    torch.autograd.grad(value.sum(), point, allow_unused=True)[0] if value.requires_grad else None
                )
            values.append(value.detach())
            gradients.append(torch.zeros_like(part) if gradient is None else gradient.detach())
        return torch.cat(values), torch.cat(gradients)

    def gradient(self, x: Tensor, own: Tensor, rival: Tensor) -> Tensor:
        """(B, ...) gradient of F."""
        return self.value_and_gradient(x, own, rival)[1]

    def gradients_to(self, x: Tensor, own: Tensor, rivals: Tensor) -> tuple[Tensor, Tensor]:
        """F (B, R) and gradients (B, R, ...) towards several rivals (B, R): one pass forward, R backward."""
        values, gradients = [], []
        for part, mine, theirs in self.passes(x, own, rivals):
            with torch.enable_grad():
                point = part.detach().requires_grad_(True)
                logits = self.target(point.clone())
                every = logits.gather(1, theirs) - logits.gather(1, mine[:, None])
                columns = []
                for column in range(theirs.shape[1]):
                    found = None
                    if every.requires_grad:
                        (found,) = torch.autograd.grad(
                            every[:, column].sum(), point, retain_graph=column + 1 < theirs.shape[1], allow_unused=True
                        )
                    columns.append(torch.zeros_like(part) if found is None else found.detach())
            values.append(every.detach())
            gradients.append(torch.stack(columns, 1))
        return torch.cat(values), torch.cat(gradients)

    @cached_property
    def _smoothness(self) -> dict[tuple[int, ...], Smoothness]:
        return {}

    def smoothness(self, x: Tensor) -> Smoothness:
        """Whether second derivatives of the logits mean anything: `smooth`, `mixed`, `piecewise_linear`, `linear`."""
        shape = tuple(x.shape[1:])
        if shape not in self._smoothness:
            self._smoothness[shape] = smoothness_of(self.model, self.target, x)
        return self._smoothness[shape]

    def hessian_product(self, point: Tensor, own: int, rival: int) -> HessianProduct:
        """Products of the exact Hessian of F at one point with any number of vectors, the network linearised once.

        Forward over reverse mode; memory is that of one tangent pass per vector.

        Args:
            point: (...) one input without the batch axis.
            own: class the network says there.
            rival: the other class.

        Returns:
            A function from vectors (m, ...) to products (m, ...).

        Raises:
            UsageError: for a network whose Hessian is zero because it is piecewise linear, not because it is flat.
        """
        refuse_piecewise_linear(self.smoothness(point[None]))

        def scalar(z: Tensor) -> Tensor:
            logits = self.target(z[None])[0]
            return logits[rival] - logits[own]

        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():  # the fused kernels have no second derivative
            warnings.filterwarnings("ignore", message="Attempted to insert a get_attr Node")
            _, product = linearize(grad(scalar), point.detach())

        def products(vectors: Tensor) -> Tensor:
            size = chunk_size(vectors, self.batch_size)
            with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
                return torch.cat([torch.func.vmap(product)(part) for part in vectors.split(size)])

        return products


def refuse_piecewise_linear(smoothness: Smoothness) -> None:
    """An exact second derivative of a piecewise linear network would be a silent zero.

    Raises:
        UsageError: saying what to use instead.
    """
    if smoothness == "piecewise_linear":
        raise UsageError(
            "This network is piecewise linear: its exact Hessian is zero everywhere and says nothing about how the "
            "boundary bends.",
            where="estimator",
            advice="Use frames, gaussian or difference (curvature at a stated scale), or softplus.",
        )


def pair(logits: Tensor, own: Tensor, rival: Tensor) -> Tensor:
    """(B,) f_rival - f_own of logits (B, K)."""
    return (logits.gather(1, rival[:, None]) - logits.gather(1, own[:, None]))[:, 0]


def runner_up(logits: Tensor, own: Tensor) -> Tensor:
    """(B,) the class with the largest logit besides `own`."""
    masked = logits.clone()
    masked.scatter_(1, own[:, None], -torch.inf)
    return masked.argmax(1)


def field_of(model: Model | Field, *, batch_size: int | None = None) -> Field:
    """A Field as it is, or one made of a module, a Subject or a function."""
    return model if isinstance(model, Field) else Field(model, batch_size=batch_size)
