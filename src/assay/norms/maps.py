"""Layers as maps whose norm is wanted: what is exact at once, which guaranteed bounds exist, how to apply them.

`Convolution` has a file of its own. A map of one sample; the batch is the first axis of what `apply` takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from assay.errors import UsageError
from assay.norms.gram import chunked_gram, spectral_norm, vector_norm

MATRIX_LIMIT = 4_000_000  # elements of a dense matrix made without being asked
ROW_BLOCK = 2_000


@dataclass(frozen=True)
class Effort:
    """Limits of the work on one layer.

    Attributes:
        matrix: elements of a dense matrix made without being asked.
        work: multiply-adds spent on guaranteed bounds.
        steps: Lanczos steps.
        tolerance: relative residual at which Lanczos stops.
        seed: of the Lanczos start.
    """

    matrix: int = MATRIX_LIMIT
    work: float = 1e11
    steps: int = 60
    tolerance: float = 1e-6
    seed: int = 0


class Map:
    """One layer. Subclasses say what they know; nothing known is None or an empty mapping."""

    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float64
    linear: bool = True
    notes: tuple[str, ...] = ()

    def apply(self, x: Tensor) -> Tensor:
        """The linear part: (B, *input_shape) -> (B, *output_shape)."""
        raise NotImplementedError

    def exact(self, effort: Effort) -> tuple[float, str] | None:
        """The norm up to rounding and how it was found, where that is cheap."""
        return None

    def bounds(self, effort: Effort) -> dict[str, float]:
        """Guaranteed upper bounds by method."""
        return {}

    def infinity(self) -> tuple[float, bool] | None:
        """(Bound of) the norm from inf to inf, and whether it is exact."""
        return None

    def frobenius(self) -> float | None:
        """The Frobenius norm, exactly."""
        return None

    @property
    def dense_elements(self) -> int:
        """Elements of what `dense` makes."""
        return math.prod(self.input_shape) * math.prod(self.output_shape)

    def dense(self) -> Tensor:
        """(blocks, rows, columns) float64: the blocks of the unrolled, block-diagonal matrix, up to permutations."""
        size = math.prod(self.input_shape)
        units = torch.eye(size, dtype=torch.float64).reshape(size, *self.input_shape)
        return self.apply(units).reshape(1, size, -1).mT


@dataclass(frozen=True, eq=False)
class Fixed(Map):
    """A layer whose Lipschitz constants are known numbers: moves of elements, activations, max pooling.

    Attributes:
        gain: in the 2-norm; attained (or approached) by some pair of inputs.
        gain_inf: the same from inf to inf.
        gain_frobenius: Frobenius norm where the layer is linear.
        attained: False where `gain` is only an upper bound.
        function: the layer, where it is linear and a composition may need to apply it.
        relative_error: of `gain`, where it was found numerically.
    """

    gain: float
    gain_inf: float
    gain_frobenius: float | None = None
    attained: bool = True
    function: Callable[[Tensor], Tensor] | None = None
    relative_error: float = 0.0
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    method: str = "formula"
    notes: tuple[str, ...] = ()

    @property
    def linear(self) -> bool:  # type: ignore[override]
        """Whether it can be applied as a linear map."""
        return self.function is not None

    def apply(self, x: Tensor) -> Tensor:
        """The layer itself."""
        assert self.function is not None
        return self.function(x)

    def exact(self, effort: Effort) -> tuple[float, str] | None:
        """The known number."""
        return (self.gain, self.method) if self.attained else None

    def bounds(self, effort: Effort) -> dict[str, float]:
        """The known number."""
        return {self.method: self.gain}

    def infinity(self) -> tuple[float, bool] | None:
        """The known number."""
        return self.gain_inf, self.attained

    def frobenius(self) -> float | None:
        """The known number, for linear layers."""
        return self.gain_frobenius


@dataclass(frozen=True, eq=False)
class Diagonal(Map):
    """y = scale * x, as batch norm in evaluation mode and products with a constant are.

    Attributes:
        scale: broadcasts against one sample.
        input_shape: of one sample.
        output_shape: larger where `scale` broadcasts the sample.
    """

    scale: Tensor
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """Of the scale."""
        return self.scale.dtype

    def apply(self, x: Tensor) -> Tensor:
        """Elementwise product."""
        return x * self.scale.to(x.dtype)

    @cached_property
    def _weights(self) -> Tensor:
        """Squared column norms: one input element may reach several outputs."""
        wide = self.scale.double().square().expand(self.output_shape)
        return wide.sum_to_size(self.input_shape) if math.prod(self.input_shape) else wide

    def exact(self, effort: Effort) -> tuple[float, str] | None:
        """The largest column norm: rows of different inputs do not meet."""
        return float(self._weights.max().sqrt()), "diagonal"

    def infinity(self) -> tuple[float, bool] | None:
        """The largest factor."""
        return float(self.scale.double().abs().max()), True

    def frobenius(self) -> float | None:
        """Root of the sum of squared factors."""
        return float(self._weights.sum().sqrt())


@dataclass(frozen=True, eq=False)
class Matrix(Map):
    """y = W x along one axis, at every place of the other axes.

    Attributes:
        weight: (out, in).
        input_shape: of one sample; its `axis`-th entry is `in`.
        axis: negative, counted from the end.
    """

    weight: Tensor
    input_shape: tuple[int, ...]
    axis: int = -1

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """Of the weight."""
        return self.weight.dtype

    @property
    def output_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Of one sample."""
        shape = list(self.input_shape)
        shape[self.axis] = self.weight.shape[0]
        return tuple(shape)

    @property
    def dense_elements(self) -> int:
        """The weight: every place has the same block."""
        return self.weight.numel()

    def dense(self) -> Tensor:
        """The weight in double precision."""
        return self.weight.double().unsqueeze(0)

    def apply(self, x: Tensor) -> Tensor:
        """Matrix product."""
        return (x.movedim(self.axis, -1) @ self._cast(x.dtype).mT).movedim(-1, self.axis)

    def _cast(self, dtype: torch.dtype) -> Tensor:
        return self.weight if self.weight.dtype == dtype else self.weight.to(dtype)

    def exact(self, effort: Effort) -> tuple[float, str] | None:
        """By the smaller Gram matrix while that is within the limit on elements, and its product within the work."""
        short, long = sorted(self.weight.shape)
        if short * short > effort.matrix or short * short * (long + 10 * short) > effort.work:
            return None
        return _by_gram(self.weight), "dense"

    def bounds(self, effort: Effort) -> dict[str, float]:
        """Frobenius, Schur (1911: sqrt of largest row sum times largest column sum), and blocks of rows.

        A matrix in blocks of rows has ||W||^2 <= sum of ||W_i||^2, with every ||W_i|| exact by its own Gram matrix.

        Args:
            effort: limits on work and on the side of a block.

        Returns:
            Bound by method.
        """
        weight = self.weight if self.weight.shape[0] <= self.weight.shape[1] else self.weight.mT
        rows, columns = weight.shape
        row, total, column = 0.0, 0.0, torch.zeros(columns, dtype=torch.float64)
        for part in weight.split(max(1, MATRIX_LIMIT // max(columns, 1))):  # never a double copy of the whole
            absolute = part.double().abs()
            row = max(row, float(absolute.sum(1).max()))
            column += absolute.sum(0)
            total = math.hypot(total, vector_norm(absolute))
        found = {"frobenius": total, "schur": math.sqrt(row) * math.sqrt(float(column.max()))}
        side = min(ROW_BLOCK, math.isqrt(effort.matrix), max(1, int(min(effort.work / (rows * (columns + 10)), 1e9))))
        if side >= 16 and side < rows:
            count = -(rows // -side)
            parts = weight.split(-(rows // -count))
            found["blocks"] = math.hypot(*(_by_gram(part) for part in parts))
        return found

    def infinity(self) -> tuple[float, bool] | None:
        """Largest absolute row sum."""
        return float(self.weight.abs().sum(1, dtype=torch.float64).max()), True

    def frobenius(self) -> float | None:
        """Once per place."""
        places = math.prod(self.input_shape) // self.weight.shape[1]
        parts = self.weight.flatten().split(MATRIX_LIMIT)
        return math.sqrt(places) * math.hypot(*(vector_norm(part) for part in parts))


@dataclass(frozen=True, eq=False)
class Separable(Map):
    """A matrix along each of the last axes, as average pooling, resizing and padding are; channels do not mix.

    Attributes:
        matrices: (out_i, in_i) float64, one for each of the last axes.
        input_shape: of one sample.
    """

    matrices: tuple[Tensor, ...]
    input_shape: tuple[int, ...]
    method: str = "separable"

    @property
    def output_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Of one sample."""
        kept = self.input_shape[: len(self.input_shape) - len(self.matrices)]
        return (*kept, *(matrix.shape[0] for matrix in self.matrices))

    def apply(self, x: Tensor) -> Tensor:
        """One matrix product per axis."""
        for place, matrix in enumerate(self.matrices):
            axis = place - len(self.matrices)
            x = (x.movedim(axis, -1) @ matrix.to(x.dtype).mT).movedim(-1, axis)
        return x

    def exact(self, effort: Effort) -> tuple[float, str] | None:
        """The norm of a Kronecker product is the product of the norms."""
        return math.prod(float(spectral_norm(matrix)) for matrix in self.matrices), self.method

    def infinity(self) -> tuple[float, bool] | None:
        """Row sums of a Kronecker product multiply too."""
        return math.prod(float(matrix.abs().sum(1).max()) for matrix in self.matrices), True

    def frobenius(self) -> float | None:
        """Once per channel."""
        channels = math.prod(self.input_shape[: len(self.input_shape) - len(self.matrices)])
        return math.sqrt(channels) * math.prod(float(matrix.norm()) for matrix in self.matrices)


@dataclass(frozen=True, eq=False)
class Generic(Map):
    """A linear map of which nothing more is known; its only guaranteed bound is the Frobenius norm, column by column.

    Attributes:
        function: (B, *input_shape) -> (B, *output_shape), linear.
        input_shape: of one sample.
        output_shape: of one sample.
        precision: of its coefficients.
    """

    function: Callable[[Tensor], Tensor]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    precision: torch.dtype = torch.float64

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """Of its coefficients."""
        return self.precision

    def apply(self, x: Tensor) -> Tensor:
        """The function."""
        return self.function(x)

    def bounds(self, effort: Effort) -> dict[str, float]:
        """The Frobenius norm, where the work allows to apply the map to every unit vector."""
        if self.dense_elements > effort.work:
            return {}
        return {"frobenius": self.frobenius() or 0.0}

    def frobenius(self) -> float | None:
        """Column by column, in chunks."""
        size, total = math.prod(self.input_shape), 0.0
        step = max(1, MATRIX_LIMIT // max(size, math.prod(self.output_shape), 1))
        for start in range(0, size, step):
            rows = torch.arange(start, min(size, start + step))
            units = torch.zeros(len(rows), size, dtype=torch.float64)
            units[torch.arange(len(rows)), rows] = 1
            total = math.hypot(total, vector_norm(self.apply(units.reshape(-1, *self.input_shape))))
        return total


@dataclass(frozen=True, eq=False)
class Composition(Map):
    """Layers one after the other.

    Attributes:
        members: first to last.
        alternative: the same before batch norms were folded, for the product bound; empty when nothing was folded.
        notes: what was folded.
    """

    members: Sequence[Map]
    alternative: Sequence[Map] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Of the first member."""
        return self.members[0].input_shape

    @property
    def output_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Of the last member."""
        return self.members[-1].output_shape

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """The lowest precision of all."""
        return max((member.dtype for member in self.members), key=lambda dtype: torch.finfo(dtype).eps)

    @property
    def linear(self) -> bool:  # type: ignore[override]
        """Whether all are."""
        return all(member.linear for member in self.members)

    def apply(self, x: Tensor) -> Tensor:
        """One after the other."""
        for member in self.members:
            x = member.apply(x)
        return x

    def exact(self, effort: Effort) -> tuple[float, str] | None:
        """Of a single member only."""
        return self.members[0].exact(effort) if len(self.members) == 1 else None

    def bounds(self, effort: Effort) -> dict[str, float]:
        """The product of the members' tightest bounds, folded and not: both are legal."""
        single = self.members[0].bounds(effort) if len(self.members) == 1 else {}
        products = {"product": math.prod(tightest(member, effort)[0] for member in self.members)}
        if self.alternative:
            products["product unfolded"] = math.prod(tightest(member, effort)[0] for member in self.alternative)
        return single | products

    def infinity(self) -> tuple[float, bool] | None:
        """The product; exact for a single member."""
        found = [member.infinity() for member in self.members]
        if any(part is None for part in found):
            return None
        exact = len(found) == 1 and bool(found[0] and found[0][1])
        return math.prod(part[0] for part in found if part is not None), exact

    def frobenius(self) -> float | None:
        """Of a single member, else of the unrolled product."""
        if len(self.members) == 1:
            return self.members[0].frobenius()
        return Generic(self.apply, self.input_shape, self.output_shape).frobenius() if self.linear else None


def tightest(layer: Map, effort: Effort) -> tuple[float, str, dict[str, float]]:
    """The smallest guaranteed bound; exact values count, dense ones where affordable.

    Args:
        layer: any map.
        effort: limits.

    Returns:
        The bound, its method, and all bounds by method.

    Raises:
        UsageError: where no bound is affordable.
    """
    exact = layer.exact(effort)
    if exact is None and layer.linear and layer.dense_elements <= effort.matrix:
        exact = float(spectral_norm(layer.dense()).max()), "dense"
    if exact is not None:
        return exact[0], exact[1], {exact[1]: exact[0]}
    found = layer.bounds(effort)
    if not found:
        raise UsageError(
            f"No guaranteed bound of the norm of a map of {math.prod(layer.input_shape):,} to "
            f"{math.prod(layer.output_shape):,} elements is affordable.",
            where="effort",
            advice="Allow more work, for example Effort(work=1e13).",
        )
    method = min(found, key=lambda name: found[name])
    return found[method], method, found


def _by_gram(weight: Tensor) -> float:
    """Exact norm by the smaller Gram matrix, scaled against overflow."""
    short = weight if weight.shape[0] <= weight.shape[1] else weight.mT
    peak = float(short.abs().max()) if short.numel() else 0.0
    if peak == 0:
        return 0.0
    if not 1e-100 < peak < 1e100:
        return float(spectral_norm(short.double()))
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(chunked_gram(short))[-1])))
