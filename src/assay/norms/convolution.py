"""Convolutions of any dimension, stride, padding, dilation and groups, and their adjoints (transposed convolutions)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vjp

from assay.norms import fourier
from assay.norms.axes import Axis
from assay.norms.gram import spectral_norm
from assay.norms.maps import Effort, Map


@dataclass(frozen=True, eq=False)
class Convolution(Map):
    """A convolution, or with `adjoint` the transposed convolution that is its adjoint. Norms of the two agree.

    Attributes:
        weight: (co, ci / groups, *kernel) of the convolution, whichever way it is applied.
        axes: geometry of the convolution; of an adjoint, `size` is that of the result.
        groups: of the convolution.
        adjoint: apply the transpose.
    """

    weight: Tensor
    axes: tuple[Axis, ...]
    groups: int = 1
    adjoint: bool = False
    _casts: dict[torch.dtype, Tensor] = field(default_factory=dict, repr=False)

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """Of the kernel."""
        return self.weight.dtype

    @property
    def _small(self) -> tuple[int, ...]:
        return (self.weight.shape[0], *(axis.outputs for axis in self.axes))

    @property
    def _large(self) -> tuple[int, ...]:
        return (self.weight.shape[1] * self.groups, *(axis.size for axis in self.axes))

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Of one sample."""
        return self._small if self.adjoint else self._large

    @property
    def output_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Of one sample."""
        return self._large if self.adjoint else self._small

    @property
    def padded(self) -> bool:
        """Whether padding repeats elements of the input."""
        return any(axis.mode != "zeros" and (axis.low or axis.high) for axis in self.axes)

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """How bounds for padding that repeats elements are made."""
        return ("bounds: norm of the padding times that of the convolution behind it",) if self.padded else ()

    def scaled(self, outputs: Tensor | None = None, inputs: Tensor | None = None) -> Convolution:
        """With factors per output and input channel of the map as applied (batch norms around it) in the kernel."""
        first, second = (inputs, outputs) if self.adjoint else (outputs, inputs)
        weight, ones = self.weight.double(), (1,) * len(self.axes)
        if first is not None:
            weight = weight * first.double().reshape(-1, 1, *ones)
        if second is not None:
            factors = second.double().reshape(self.groups, 1, -1).expand(-1, weight.shape[0] // self.groups, -1)
            weight = weight * factors.reshape(weight.shape[0], weight.shape[1], *ones)
        return Convolution(weight, self.axes, self.groups, self.adjoint)

    def apply(self, x: Tensor) -> Tensor:
        """The layer without its bias."""
        return self._forward(x, self._cast(x.dtype))

    def _cast(self, dtype: torch.dtype) -> Tensor:
        if dtype not in self._casts:
            self._casts[dtype] = self.weight.to(dtype)
        return self._casts[dtype]

    def _forward(self, x: Tensor, weight: Tensor) -> Tensor:
        dims = len(self.axes)
        stride, dilation = [axis.stride for axis in self.axes], [axis.dilation for axis in self.axes]
        if self.adjoint:  # padding of transposed layers is symmetric zeros
            rest = [a.size - ((a.outputs - 1) * a.stride - 2 * a.low + a.span) for a in self.axes]
            function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
            padding = [axis.low for axis in self.axes]
            return function(x, weight, None, stride, padding, rest, self.groups, dilation)
        pads = [(axis.low, axis.high) for axis in self.axes]
        function = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
        symmetric = all(low == high for low, high in pads) and not self.padded
        if not symmetric:
            flat = [pad for pair in reversed(pads) for pad in pair]
            mode = self.axes[0].mode
            x = F.pad(x, flat, "constant" if mode == "zeros" else mode)
        return function(x, weight, None, stride, [low for low, _ in pads] if symmetric else 0, dilation, self.groups)

    @property
    def dense_elements(self) -> int:
        """One block per group."""
        return math.prod(self._small) * math.prod(self._large) // self.groups

    def dense(self) -> Tensor:
        """(groups, outputs, inputs): every group's matrix, by the convolution of unit vectors."""
        forward = Convolution(self.weight, tuple(self.axes), self.groups) if self.adjoint else self
        channels, sizes = self.weight.shape[1], [axis.size for axis in self.axes]
        block = channels * math.prod(sizes)
        units = torch.eye(block, dtype=torch.float64).reshape(block, 1, channels, *sizes)
        units = units.expand(block, self.groups, channels, *sizes).reshape(block, -1, *sizes)
        made = forward._forward(units, self.weight.double())
        for axis, geometry in enumerate(self.axes, start=2):
            made = made.narrow(axis, 0, geometry.outputs)
        return made.reshape(block, self.groups, -1).permute(1, 2, 0)

    @cached_property
    def kernels(self) -> Tensor:
        """(groups, co / groups, ci / groups * taps) float64."""
        return self.weight.detach().double().reshape(self.groups, self.weight.shape[0] // self.groups, -1)

    def exact(self, effort: Effort) -> tuple[float, str] | None:
        """Where windows do not overlap (1 x 1, patches), and for circular padding that the stride divides."""
        if all(axis.reads <= 1 and axis.full for axis in self.axes):
            return float(spectral_norm(self.kernels).max()), "kernel"
        cost = fourier.circular_cost(self)
        if cost is not None and cost <= effort.work:
            return fourier.circular_norm(self), "fourier"
        return None

    def bounds(self, effort: Effort) -> dict[str, float]:
        """Kernel, Schur and Fourier bounds within the work allowed."""
        found = {"kernel": self.kernel_bound(), "schur": self.schur_bound()}
        return found | fourier.bounds(self, effort.work)

    def kernel_bound(self) -> float:
        """sqrt(reads) ||K as a (co, ci k) matrix||, the largest over groups.

        Unfolding has a diagonal Gram matrix that counts reads of every input element: at most ceil(k / (s / gcd(s, d)))
        per axis without repeating padding, counted exactly here for every padding mode.

        Returns:
            A guaranteed bound.
        """
        reads = math.prod(axis.reads for axis in self.axes)
        return math.sqrt(reads) * float(spectral_norm(self.kernels).max())

    def schur_bound(self) -> float:
        """sqrt(largest absolute row sum * largest absolute column sum) (Schur 1911); one pass and its transpose."""
        rows, columns = self._sums()
        return math.sqrt(float(rows.max())) * math.sqrt(float(columns.max()))  # the product could overflow

    def _sums(self) -> tuple[Tensor, Tensor]:
        """Absolute row and column sums; upper bounds of them where padding repeats elements."""
        weight = self.weight.detach().double().abs()
        ones = torch.ones(1, *self.input_shape, dtype=torch.float64)
        linearised = vjp(lambda x: self._forward(x, weight), ones)
        rows = linearised[0]
        return rows, linearised[1](torch.ones_like(rows))[0]

    def infinity(self) -> tuple[float, bool] | None:
        """Largest absolute row sum; exact unless padding repeats elements in every window."""
        if not self.adjoint and all(axis.full for axis in self.axes):
            return float(self.kernels.abs().sum(2).max()), True
        return float(self._sums()[0].max()), not self.padded

    def frobenius(self) -> float | None:
        """Exact for every padding: sum over taps i, j of <K_i, K_j> times the windows where both read one element."""
        taps = self.weight.detach().double().flatten(2).permute(2, 0, 1).flatten(1)
        peak = float(taps.abs().max()) or 1.0  # so that squares neither overflow nor vanish
        taps = taps / peak
        shared = torch.ones(1, 1, dtype=torch.float64)
        for axis in self.axes:
            shared = torch.kron(shared, axis.products)
        return peak * math.sqrt(max(0.0, float(((taps @ taps.mT) * shared).sum())))


def convolution_axes(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: str | Sequence[int],
    dilation: Sequence[int],
    mode: str = "zeros",
) -> tuple[Axis, ...]:
    """Axes of a convolution; `padding` may be ``same`` or ``valid`` as torch has them."""
    made = []
    for place, size in enumerate(sizes):
        total = dilation[place] * (kernel[place] - 1)
        low = high = 0
        if padding == "same":
            low = total // 2
            high = total - low
        elif not isinstance(padding, str):
            low = high = padding[place]
        made.append(Axis(size, kernel[place], stride[place], dilation[place], low, high, mode))
    return tuple(made)


def transposed_axes(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Axis, ...]:
    """Axes of the convolution whose adjoint a transposed convolution with these arguments is."""
    made = []
    for place, size in enumerate(sizes):
        span = dilation[place] * (kernel[place] - 1) + 1
        result = (size - 1) * stride[place] - 2 * padding[place] + span + output_padding[place]
        pad = padding[place]
        made.append(Axis(result, kernel[place], stride[place], dilation[place], pad, pad, outputs=size))
    return tuple(made)
