"""The model as attacks see it: a frozen module in evaluation mode that shares the weights and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from assay.errors import NumericalError, UsageError
from assay.subject import Subject, private_copy

Model = nn.Module | Subject | Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
Bounds = tuple[float, float] | None
SLACK = 1e-4  # of the legal range; inputs that leave it by rounding are not an error


class Target(nn.Module):
    """A model to attack: in evaluation mode, with no parameter that collects gradients.

    It is a module, so that attacks of other libraries take it; it has no parameters of its own, so that they leave no
    gradients behind and spend no time on them.

    Attributes:
        bounds: legal range of inputs, known from a Subject, else None.

    Example:
        >>> target = Target(lambda x: torch.stack([x.sum(1), -x.sum(1)], 1))
        >>> target(torch.ones(1, 2))
        tensor([[ 2., -2.]])
    """

    def __init__(self, model: Model, parameters: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.bounds: Bounds = model.preprocessing.bounds if isinstance(model, Subject) else None
        self._function = _function(model, parameters)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (B, K) of a batch."""
        return self._function(x)


def target_of(model: Model, parameters: Mapping[str, Tensor] | None = None) -> Target:
    """The model as attacks see it; a Target stays as it is.

    Args:
        model: a module, a Subject, or a function (B, ...) -> (B, K). Modules are used in evaluation mode, whatever
            mode they are in, and are not changed; a function is used as it is.
        parameters: weights to exchange, by name, as in `Subject.call`: the network to attack is then the changed one.

    Returns:
        A module to attack.

    Raises:
        SubjectError: for a module that cannot be copied.
        UsageError: for changed parameters of a plain function, or names that the model does not have.

    Example:
        >>> target = target_of(lambda x: x)
        >>> target_of(target) is target
        True
    """
    return model if isinstance(model, Target) and not parameters else Target(model, parameters)


def _function(model: Model, parameters: Mapping[str, Tensor] | None) -> Callable[[Tensor], Tensor]:
    module = model.model if isinstance(model, Subject) else model
    if not isinstance(module, nn.Module) or isinstance(module, Target):
        if parameters:
            raise UsageError(
                "Parameters of a plain function cannot be exchanged.",
                where="parameters",
                advice="Pass the module or the Subject.",
            )
        return module
    if not isinstance(model, Subject):
        module = private_copy(module)
    state = {name: tensor.detach() for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    detached = {id(tensor): tensor.detach() for tensor in (parameters or {}).values()}  # one value stays one for ties
    changed = {name: detached[id(tensor)] for name, tensor in (parameters or {}).items()}
    known = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    unknown = set(changed) - set(known)
    if unknown:
        raise UsageError(
            f"The model has no parameters {', '.join(sorted(unknown))}.",
            where="parameters",
            advice=f"Use names such as {', '.join(list(state)[:4])}.",
        )
    # The first name of tied weights stands in `state`; a change under another name has to take its place.
    exchanged = {id(known[name]) for name in changed}
    state = {name: tensor for name, tensor in state.items() if id(known[name]) not in exchanged} | changed
    return lambda x: functional_call(module, state, (x,))


def checked_batch(x: Tensor, y: Tensor, bounds: Bounds) -> None:
    """Refuse what cannot be attacked: shapes that do not fit, NaN, inputs outside the bounds.

    Raises:
        NumericalError: for NaN or infinite inputs.
        UsageError: for the rest.
    """
    if not isinstance(x, Tensor) or not x.dtype.is_floating_point or x.dim() < 2 or not x.numel():
        shown = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise UsageError(f"Inputs must be a floating-point batch (B, ...), got {shown}.", where="x")
    if not isinstance(y, Tensor) or y.dim() < 1 or len(y) != len(x):
        raise UsageError(
            f"There are {len(x)} inputs, and the targets are {tuple(y.shape) if isinstance(y, Tensor) else type(y)}.",
            where="y",
            advice="Give one label (or regression target) per input.",
        )
    if not bool(torch.isfinite(x).all()):
        raise NumericalError("The inputs hold NaN or infinity.", where="x", advice="Clean or drop these samples.")
    if bounds is None:
        return
    low, high = bounds
    if not low < high:
        raise UsageError(f"bounds must be (low, high) with low < high, got {bounds}.", where="bounds")
    slack = SLACK * (high - low)
    if float(x.min()) < low - slack or float(x.max()) > high + slack:
        raise UsageError(
            f"The inputs range from {float(x.min()):.4g} to {float(x.max()):.4g}, outside [{low:.4g}, {high:.4g}].",
            where="bounds",
            advice="Give the bounds in the units of the inputs, or normalise inside the model.",
        )


def inside(x: Tensor, clean: Tensor, bounds: Bounds) -> Tensor:
    """X within the bounds; where the clean input is outside by rounding, it is the bound."""
    if bounds is None:
        return x
    return torch.minimum(torch.maximum(x, clean.clamp(max=bounds[0])), clean.clamp(min=bounds[1]))


def loss_of(loss: Loss | None, y: Tensor) -> Loss:
    """The loss to climb: as given, else cross-entropy for integer labels and squared error for other targets."""
    if loss is not None:
        return loss
    if y.dtype.is_floating_point:
        return lambda outputs, targets: (outputs - targets.reshape(outputs.shape)).square().sum()
    return lambda outputs, targets: nn.functional.cross_entropy(outputs, targets, reduction="sum")


def input_gradient(target: Target, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """Gradient of the summed loss by the input; parameters collect none.

    Args:
        target: the model.
        x: (B, ...) inputs.
        y: (B,) labels or targets.
        loss: (outputs, y) -> a number, or one per sample.

    Returns:
        A tensor of the shape of x; zeros where the output does not depend on the input.

    Raises:
        NumericalError: for a gradient that is NaN or infinite.
        UsageError: for labels outside the model's outputs, or outputs that are no matrix.
    """
    with torch.enable_grad():
        point = x.detach().requires_grad_(True)
        outputs = target(point.clone())  # the first layer may work in place, which a leaf does not allow
        check_outputs(outputs, y)
        total = loss(outputs, y).sum()
        if not total.requires_grad:
            return torch.zeros_like(x)
        (gradient,) = torch.autograd.grad(total, point, allow_unused=True)
    return checked_gradient(gradient, x)


def checked_gradient(gradient: Tensor | None, x: Tensor) -> Tensor:
    """What automatic differentiation gave, as numbers that can be used.

    Args:
        gradient: by the input; None where the output does not depend on it.
        x: (B, ...) the input.

    Returns:
        The gradient, detached, or zeros.

    Raises:
        NumericalError: for NaN or infinity, naming the sample.
    """
    if gradient is None:
        return torch.zeros_like(x)
    finite = torch.isfinite(gradient.flatten(1)).all(1)
    if not bool(finite.all()):
        raise NumericalError(
            "The gradient of the loss is NaN or infinite.",
            where=f"sample {int((~finite).nonzero()[0])} of the batch",
            advice="Check the weights and the scale of this input.",
        )
    return gradient.detach()


def check_outputs(outputs: Tensor, y: Tensor) -> None:
    """Refuse outputs that are no matrix (B, K), and labels that are none of its columns.

    Raises:
        UsageError: saying which.
    """
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or len(outputs) != len(y):
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise UsageError(f"The model returned {shape} for {len(y)} inputs.", where="model", advice="Return (B, K).")
    if y.dtype.is_floating_point:
        return
    if y.dim() != 1 or int(y.min()) < 0 or int(y.max()) >= outputs.shape[1]:
        raise UsageError(
            f"Labels of shape {tuple(y.shape)} from {int(y.min())} to {int(y.max())} do not fit {outputs.shape[1]} "
            "outputs.",
            where="y",
            advice="Give labels 0..K-1 in the order of the model's outputs.",
        )


def chunk_size(x: Tensor, batch_size: int | None) -> int:
    """Samples per pass: as asked, else as many as keep 4 MiB of inputs, at most 512.

    Returns:
        The number.

    Raises:
        UsageError: for fewer than one.
    """
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch_size={batch_size} is no batch.", where="batch_size", advice="Use 1 or more, or None.")
    return batch_size or max(1, min(512, 2**22 // (x[0].numel() * x.element_size())))
