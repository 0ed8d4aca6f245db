"""Norm of a layer by a method: dense, Lanczos, Fourier, Gram, kernel; the two other norms; what `auto` chooses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import vjp

from assay.errors import UsageError
from assay.grade import Grade
from assay.norms import fourier
from assay.norms.convolution import Convolution
from assay.norms.golub_kahan import LargestSingular, largest_singular
from assay.norms.gram import gram_norm
from assay.norms.maps import Composition, Effort, Fixed, Map, Matrix, tightest
from assay.norms.modules import describe
from assay.norms.result import OperatorNorm

Method = Literal["auto", "lanczos", "fourier", "gram", "kernel", "dense", "infinity", "frobenius"]
METHODS = ("auto", "lanczos", "fourier", "gram", "kernel", "dense", "infinity", "frobenius")
DENSE_ELEMENTS = 400_000_000
DOUBLE_ELEMENTS = 300_000  # inputs plus outputs up to which Lanczos runs in double precision
KRYLOV_BYTES = 500_000_000
FAILURE = 1e-6  # probability, over the seed, that the norm exceeds `probable`


def operator_norm(
    layer: nn.Module,
    input_shape: int | Sequence[int],
    *,
    method: Method = "auto",
    effort: Effort | None = None,
) -> OperatorNorm:
    """Norm of a layer as a map of one sample; for a non-linear layer its Lipschitz constant.

    Biases do not matter. A `Sequential` has its batch norms folded into the convolutions and dense layers beside them;
    with non-linear members its value is the product of their bounds.

    Methods: ``auto`` is exact where that is cheap (a formula, non-overlapping windows, circular padding, or an unrolled
    matrix of at most 4e6 elements), else Lanczos with the tightest bound that `effort.work` affords; ``lanczos``
    (Golub-Kahan: a lower estimate); ``fourier`` (exact for circular padding, else a bound); ``gram`` (Gram iteration on
    frequency blocks or the matrix: a bound); ``kernel`` (reshaped kernel: a bound); ``dense`` (singular values of the
    unrolled matrix); ``infinity`` and ``frobenius`` are other norms.

    Args:
        layer: in evaluation mode. It is not changed.
        input_shape: of one sample, such as (C, H, W), or the length of a vector; a leading batch axis is dropped where
            the number of axes tells.
        method: see above.
        effort: limits on matrices, work, Lanczos steps; and the seed.

    Returns:
        Value, lower and guaranteed upper bound, with grades.

    Raises:
        UsageError: for an unknown method, one that does not apply to the layer, or a shape that does not fit.
        SubjectError: for a batch norm or dropout in training mode, weights that are not floating point, and layers
            without a finite gain; `UnsupportedOperator` for unknown layers and `NumericalError` for NaN weights.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        >>> norm = operator_norm(layer, (2,))
        >>> print(norm.value, norm.grade.value)
        3.0 exact
    """
    effort = effort or Effort()
    if not isinstance(layer, nn.Module):
        raise UsageError(
            f"A layer is an nn.Module, got {type(layer).__name__}.",
            where="layer",
            advice="Put a matrix into nn.Linear, or use gram_norm for a plain tensor.",
        )
    with torch.no_grad():
        described = describe(layer, _shape(input_shape))
        return measure(described, method, effort)


def _shape(given: int | Sequence[int]) -> tuple[int, ...]:
    try:
        return tuple(index(size) for size in ((given,) if isinstance(given, int) else given))
    except TypeError as error:
        raise UsageError(
            f"A shape holds whole numbers, got {given!r}.",
            where="input_shape",
            advice="Give one sample's shape, for example (3, 32, 32) or tuple(x.shape[1:]).",
        ) from error


def measure(layer: Map, method: str = "auto", effort: Effort | None = None) -> OperatorNorm:
    """The same for a described layer.

    Args:
        layer: from `describe` or `describe_node`.
        method: see `operator_norm`.
        effort: limits.

    Returns:
        Value and bounds.

    Raises:
        UsageError: for a method that is unknown or does not apply.
    """
    effort = effort or Effort()
    if method not in METHODS:
        raise UsageError(f"Unknown method {method!r}.", where="method", advice=f"One of {', '.join(METHODS)}.")
    if isinstance(layer, Composition) and len(layer.members) == 1 and method not in ("auto", "lanczos"):
        return measure(layer.members[0], method, effort)
    return _METHODS[method](layer, effort)


def margin(layer: Map) -> float:
    """Relative safety of guaranteed bounds against rounding; 0 where the number is a formula without any."""
    if isinstance(layer, Fixed):
        return layer.relative_error
    return 1e-10 if layer.dtype == torch.float64 else 1e-5


def _auto(layer: Map, effort: Effort) -> OperatorNorm:
    if isinstance(layer, Fixed) and not layer.attained:
        return _only_bound(layer, layer.method, layer.gain, {layer.method: layer.gain})
    exact = layer.exact(effort)
    if exact is not None:
        return _exact(layer, *exact)
    if not layer.linear:
        upper, method, found = tightest(layer, effort)
        return _only_bound(layer, method, upper, found)
    if layer.dense_elements <= effort.matrix:
        return _dense(layer, effort)
    return _lanczos(layer, effort)


def _dense(layer: Map, effort: Effort) -> OperatorNorm:
    if not layer.linear:
        raise _inapplicable("dense", layer)
    if layer.dense_elements > DENSE_ELEMENTS:
        raise UsageError(
            f"The unrolled matrix has {layer.dense_elements:,} elements.",
            where="method='dense'",
            advice="Use method='lanczos' or 'auto'.",
        )
    matrix = layer.dense()
    if isinstance(layer, Matrix) and min(matrix.shape[1:]) > 512:
        found = tightest(layer, Effort(matrix=matrix.numel() * 10**6, work=math.inf))
        return _exact(layer, found[0], "dense")
    return _exact(layer, float(torch.linalg.svdvals(matrix).max()) if matrix.numel() else 0.0, "dense")


def _lanczos(layer: Map, effort: Effort) -> OperatorNorm:
    if not layer.linear:
        raise _inapplicable("lanczos", layer)
    single = layer.members[0] if isinstance(layer, Composition) and len(layer.members) == 1 else layer
    operator = GroupOperator(single) if isinstance(single, Convolution) else MapOperator(layer)
    outputs, inputs = math.prod(layer.output_shape), math.prod(layer.input_shape)
    double = inputs + outputs <= DOUBLE_ELEMENTS
    dtype = torch.float64 if double else torch.float32
    bytes_per_step = (inputs + outputs) * (8 if double else 4)
    steps = min(effort.steps, max(4, KRYLOV_BYTES // bytes_per_step))
    found: LargestSingular = largest_singular(
        operator, dtype=dtype, tolerance=effort.tolerance, max_steps=steps, seed=effort.seed
    )
    value = float(found.value.max())
    rounding = 1e-12 if double else 1e-5
    upper, method, bounds = _upper(layer, effort)
    upper = max(upper * (1 + margin(layer)), value)
    return OperatorNorm(
        value=value,
        grade=Grade.STATISTICAL,
        lower=value * (1 - rounding),
        upper=upper,
        probable=min(float(found.upper(FAILURE / len(found.value)).max()) * (1 + rounding), upper),
        method="lanczos",
        upper_method=method,
        bounds=bounds,
        iterations=int(found.iterations.max()),
        notes=layer.notes,
    )


def _upper(layer: Map, effort: Effort) -> tuple[float, str, dict[str, float]]:
    exact = layer.exact(effort)
    found = layer.bounds(effort) if exact is None else {exact[1]: exact[0]}
    if not found and not (layer.linear and layer.dense_elements <= effort.matrix):
        return math.inf, "none", {}
    if not found:
        return tightest(layer, effort)
    method = min(found, key=lambda name: found[name])
    return found[method], method, found


def _fourier(layer: Map, effort: Effort, *, gram: bool = False) -> OperatorNorm:
    name = "gram" if gram else "fourier"
    if gram and isinstance(layer, Matrix):
        value = float(gram_norm(layer.weight.double()))
        return _only_bound(layer, "gram", value, {"gram": value})
    if not isinstance(layer, Convolution):
        raise _inapplicable(name, layer)
    if not gram and fourier.circular_sizes(layer.axes) is not None:
        return _exact(layer, fourier.circular_norm(layer), "fourier")
    found = fourier.bounds(layer, 10 * effort.work, gram=gram)
    if not found:
        raise UsageError(
            f"The {name} bound of this layer needs more than {10 * effort.work:.3g} multiply-adds.",
            where="effort",
            advice="Allow more, for example Effort(work=1e13), or use method='kernel'.",
        )
    return _only_bound(layer, name, found[name], found)


def _gram(layer: Map, effort: Effort) -> OperatorNorm:
    return _fourier(layer, effort, gram=True)


def _kernel(layer: Map, effort: Effort) -> OperatorNorm:
    if not isinstance(layer, Convolution):
        raise _inapplicable("kernel", layer)
    value = layer.kernel_bound()
    if all(axis.reads <= 1 and axis.full for axis in layer.axes):
        return _exact(layer, value, "kernel")
    return _only_bound(layer, "kernel", value, {"kernel": value})


def _infinity(layer: Map, effort: Effort) -> OperatorNorm:
    found = layer.infinity()
    if (found is None or not found[1]) and layer.linear and layer.dense_elements <= effort.matrix:
        found = float(layer.dense().abs().sum(2).max()), True
    if found is None:
        raise _inapplicable("infinity", layer)
    if found[1]:
        return _exact(layer, found[0], "infinity", norm="inf")
    return _only_bound(layer, "infinity", found[0], {"infinity": found[0]}, norm="inf")


def _frobenius(layer: Map, effort: Effort) -> OperatorNorm:
    value = layer.frobenius()
    if value is None:
        raise _inapplicable("frobenius", layer)
    return _exact(layer, value, "frobenius", norm="frobenius")


_METHODS: dict[str, Callable[[Map, Effort], OperatorNorm]] = {
    "auto": _auto,
    "lanczos": _lanczos,
    "fourier": _fourier,
    "gram": _gram,
    "kernel": _kernel,
    "dense": _dense,
    "infinity": _infinity,
    "frobenius": _frobenius,
}


def _exact(layer: Map, value: float, method: str, norm: str = "2") -> OperatorNorm:
    safety = margin(layer)
    upper = value * (1 + safety)
    lower = value * (1 - safety)
    bounds = {method: value}
    return OperatorNorm(value, Grade.EXACT, lower, upper, upper, method, method, norm, bounds, 0, layer.notes)


def _only_bound(layer: Map, method: str, value: float, bounds: dict[str, float], norm: str = "2") -> OperatorNorm:
    upper = value * (1 + margin(layer))
    return OperatorNorm(value, Grade.BOUND, 0.0, upper, upper, method, method, norm, bounds, 0, layer.notes)


def _inapplicable(method: str, layer: Map) -> UsageError:
    kind = "a linear layer" if method in ("lanczos", "dense", "infinity", "frobenius") else "a single convolution"
    kind += " or a dense layer" if method == "gram" else ""
    return UsageError(
        f"method={method!r} needs {kind}.", where="operator_norm", advice="Use method='auto', which fits every layer."
    )


@dataclass(frozen=True, eq=False)
class MapOperator:
    """A map as the operator that `largest_singular` takes; the transpose is one reverse pass."""

    layer: Map
    _pullbacks: dict[torch.dtype, Callable[[Tensor], Tensor]] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(1, K, n)."""
        return 1, math.prod(self.layer.output_shape), math.prod(self.layer.input_shape)

    def forward(self, v: Tensor) -> Tensor:
        """A v: (1, n) -> (1, K)."""
        return self.layer.apply(v.reshape(1, *self.layer.input_shape)).reshape(1, -1)

    def transpose(self, u: Tensor) -> Tensor:
        """A^T u: (1, K) -> (1, n)."""
        return self._pullback(u.dtype)(u.reshape(1, *self.layer.output_shape)).reshape(1, -1)

    def _pullback(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        if dtype not in self._pullbacks:
            zeros = torch.zeros(1, *self.layer.input_shape, dtype=dtype)
            linearised = vjp(self.layer.apply, zeros)
            self._pullbacks[dtype] = lambda u: linearised[1](u)[0]
        return self._pullbacks[dtype]

    def select(self, rows: Tensor) -> MapOperator:
        """There is one map only."""
        return self


@dataclass(frozen=True, eq=False)
class GroupOperator:
    """A convolution as a batch of maps, one per group of channels: groups do not mix, so each converges on its own."""

    layer: Convolution

    @cached_property
    def _whole(self) -> MapOperator:
        return MapOperator(self.layer)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(groups, K, n)."""
        _, outputs, inputs = self._whole.shape
        return self.layer.groups, outputs // self.layer.groups, inputs // self.layer.groups

    def forward(self, v: Tensor) -> Tensor:
        """(groups, n) -> (groups, K)."""
        return self._whole.forward(v.reshape(1, -1)).reshape(self.layer.groups, -1)

    def transpose(self, u: Tensor) -> Tensor:
        """(groups, K) -> (groups, n)."""
        return self._whole.transpose(u.reshape(1, -1)).reshape(self.layer.groups, -1)

    def select(self, rows: Tensor) -> GroupOperator:
        """The groups that are still at work."""
        weight = self.layer.weight.unflatten(0, (self.layer.groups, -1))[rows].flatten(0, 1)
        return GroupOperator(Convolution(weight, self.layer.axes, len(rows), self.layer.adjoint))
