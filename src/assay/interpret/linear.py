"""Linear maps of graph nodes: an operator's linear part, elementwise gains, a Jacobian at a point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from assay.covariance.functions import safe_sqrt
from assay.graph import Operator

_PROBES = 32


class OperatorMap:
    """Linear part of an operator in some of its inputs, the others held fixed.

    Args:
        operator: affine in the inputs at `varying`.
        inputs: all inputs; those at `varying` only give shapes.
        varying: positions of the varying inputs.
        attributes: attributes with sizes resolved.

    Example:
        >>> from assay.graph import OPERATORS
        >>> inputs = [torch.zeros(1, 2), torch.tensor([[1.0, 2.0]]), None]
        >>> OperatorMap(OPERATORS["linear"], inputs, frozenset({0}), {}).apply(torch.ones(1, 1, 2))
        tensor([[[3.]]])
    """

    def __init__(
        self, operator: Operator, inputs: Sequence[Tensor | None], varying: frozenset[int], attributes: dict[str, Any]
    ) -> None:
        self.operator = operator
        # of what varies only the shape is kept: steps of a long walk must not hold every activation
        self.inputs = tuple(
            v.new_zeros(()).expand(v.shape) if i in varying and v is not None else v for i, v in enumerate(inputs)
        )
        self.varying = tuple(sorted(varying))
        self.attributes = dict(attributes)

    def _fill(self, values: Sequence[Tensor]) -> list[Tensor | None]:
        filled = list(self.inputs)
        for position, value in zip(self.varying, values, strict=True):
            filled[position] = value
        return filled

    def _linear(self, *values: Tensor) -> Tensor:
        return self.operator.linear_part(self._fill(values), frozenset(self.varying), self.attributes)

    def apply(self, *columns: Tensor) -> Tensor:
        """(r, B, ...) per varying input -> (r, B, ...)."""
        if columns[0].shape[0] == 0:
            shape = self._linear(*(torch.zeros_like(self.inputs[i]) for i in self.varying)).shape  # type: ignore[arg-type]
            return columns[0].new_zeros((0, *shape))
        return vmap(self._linear)(*columns)

    def squared(self, *variances: Tensor) -> Tensor:
        """Exact where the operator knows its squared form, else from fixed sign probes."""
        if self.operator.squared is not None:
            return self.operator.squared_part(self._fill(variances), frozenset(self.varying), self.attributes)
        return probe_variances(self, variances)

    def transpose(self, cotangents: Tensor) -> tuple[Tensor, ...]:
        """(k, B, ...) -> one (k, B, ...) per varying input."""
        if self.operator.transposed is not None and self.varying == (0,):
            data, *fixed = self.inputs
            assert data is not None
            back = self.operator.transposed(cotangents, data.shape, *fixed, **self.attributes)
            if back is not None:
                return (back,)
        zeros = [torch.zeros_like(self.inputs[i]) for i in self.varying]  # type: ignore[arg-type]
        pullback = vjp(self._linear, *zeros)[1]
        return vmap(pullback)(cotangents)


class Gains:
    """Elementwise factors, one tensor per input: y = sum_i gain_i * x_i, broadcasting.

    Example:
        >>> Gains(torch.tensor([[1.0, 3.0]])).squared(torch.ones(1, 2))
        tensor([[1., 9.]])
    """

    def __init__(self, *gains: Tensor, shapes: Sequence[torch.Size] | None = None) -> None:
        self.gains = gains
        self.shapes = shapes or [gain.shape for gain in gains]

    def apply(self, *columns: Tensor) -> Tensor:
        """(r, B, ...) per input -> (r, B, ...)."""
        return sum_all([gain * column for gain, column in zip(self.gains, columns, strict=True)])

    def squared(self, *variances: Tensor) -> Tensor:
        """(B, ...) per input -> (B, ...)."""
        return sum_all([gain * gain * variance for gain, variance in zip(self.gains, variances, strict=True)])

    def transpose(self, cotangents: Tensor) -> tuple[Tensor, ...]:
        """(k, B, ...) -> one (k, B, ...) per input, summed over axes that were broadcast."""
        count = cotangents.shape[0]
        return tuple(
            (gain * cotangents).sum_to_size((count, *shape))
            for gain, shape in zip(self.gains, self.shapes, strict=True)
        )


class JacobianMap:
    """Jacobian of any function of one or several tensors at a point.

    Example:
        >>> JacobianMap(torch.sin, [torch.zeros(1, 2)]).apply(torch.ones(1, 1, 2))
        tensor([[[1., 1.]]])
    """

    def __init__(self, function: Callable[..., Tensor], point: Sequence[Tensor]) -> None:
        self.function = function
        self.point = tuple(point)

    def apply(self, *columns: Tensor) -> Tensor:
        """Jacobian-vector products of a stack."""
        if columns[0].shape[0] == 0:
            return columns[0].new_zeros((0, *self.function(*self.point).shape))
        return vmap(lambda *tangents: jvp(self.function, self.point, tangents)[1])(*columns)

    def squared(self, *variances: Tensor) -> Tensor:
        """From fixed sign probes."""
        return probe_variances(self, variances)

    def transpose(self, cotangents: Tensor) -> tuple[Tensor, ...]:
        """Vector-Jacobian products of a stack."""
        pullback = vjp(self.function, *self.point)[1]
        return vmap(pullback)(cotangents)


class Tied:
    """A map that reads one tensor at several places, such as x * x.

    Its variances do not add up as those of independent tensors.

    Args:
        linear: map of several inputs.
        names: name of the tensor at each input.
    """

    def __init__(self, linear: Any, names: Sequence[str]) -> None:
        self.linear = linear
        self.names = tuple(names)

    def squared(self, *variances: Tensor) -> Tensor:
        """From fixed sign probes, the same at all places of a tensor: exact for elementwise maps."""
        return probe_variances(self.linear, variances, self.names)


def probe_variances(linear: Any, variances: Sequence[Tensor], names: Sequence[str] = ()) -> Tensor:
    """Variance of A sqrt(v) s for random signs s, averaged over a fixed set of sign vectors.

    The relative error is about sqrt(2 / probes).
    The signs are the same for every sample, so a batch equals single inputs; inputs of one name share them.

    Returns:
        Estimated variances (B, ...).
    """
    generator = torch.Generator().manual_seed(0)
    stacks: list[Tensor] = []
    for place, variance in enumerate(variances):
        if place and names and names[place] in names[:place]:
            stacks.append(stacks[names.index(names[place])])
            continue
        shape = (_PROBES, 1, *variance.shape[1:])
        signs = torch.randint(0, 2, shape, generator=generator, dtype=torch.int8).to(variance.device)
        stacks.append((2 * signs - 1).to(variance.dtype) * safe_sqrt(variance))
    return linear.apply(*stacks).square().mean(0)


def sum_all(terms: Sequence[Tensor]) -> Tensor:
    """Sum of at least one tensor."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
