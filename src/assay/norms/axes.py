"""One spatial axis of a convolution or pooling: which input element every tap of every window reads.

Windows are products over axes, so counts per axis multiply: reads per input element, elements per window, overlaps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.errors import UsageError

MODES = ("zeros", "circular", "reflect", "replicate")


@dataclass(frozen=True, eq=False)
class Axis:
    """Geometry along one axis.

    Attributes:
        size: elements of the input.
        kernel: taps.
        stride: between windows.
        dilation: between taps.
        low: padding before the first element.
        high: padding after the last one.
        mode: ``zeros``, ``circular``, ``reflect`` or ``replicate``.
        outputs: windows; -1 stands for all that fit.
    """

    size: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    low: int = 0
    high: int = 0
    mode: str = "zeros"
    outputs: int = -1

    def __post_init__(self) -> None:
        fitting = (self.size + self.low + self.high - self.span) // self.stride + 1
        limit = {"reflect": self.size - 1, "circular": self.size}.get(self.mode, math.inf)
        if fitting < 1 or self.outputs > fitting or self.size < 1 or max(self.low, self.high) > limit:
            raise UsageError(
                f"A kernel of {self.kernel} taps (dilation {self.dilation}, {self.mode} {self.low}+{self.high}) "
                f"does not fit {self.size} elements.",
                where="input_shape",
                advice="Give the shape of one sample as the layer sees it, for example (channels, height, width).",
            )
        if self.outputs < 0:
            object.__setattr__(self, "outputs", fitting)

    @property
    def span(self) -> int:
        """Elements from the first to the last tap."""
        return self.dilation * (self.kernel - 1) + 1

    @cached_property
    def source(self) -> Tensor:
        """(low + size + high,) input element at every padded position, -1 for a zero."""
        inside = torch.arange(self.size)
        if self.mode == "zeros":
            return F.pad(inside, (self.low, self.high), value=-1)
        place = torch.arange(-self.low, self.size + self.high)
        if self.mode == "circular":
            return place % self.size
        if self.mode == "replicate":
            return place.clamp(0, self.size - 1)
        return (self.size - 1) - ((self.size - 1) - place.abs()).abs()

    @cached_property
    def taps(self) -> Tensor:
        """(outputs, kernel) input element that each tap reads, -1 for a zero."""
        windows = torch.arange(self.outputs)[:, None] * self.stride
        return self.source[windows + torch.arange(self.kernel)[None, :] * self.dilation]

    @cached_property
    def reads(self) -> int:
        """Most often that one input element is read: the squared norm of unfolding (im2col), padding included."""
        return _most(self.taps)

    @cached_property
    def copies(self) -> int:
        """Most often that padding repeats one element: its squared norm. 1 for zeros."""
        return max(1, _most(self.source))

    @cached_property
    def full(self) -> bool:
        """Some window reads `kernel` different elements, so one row holds the whole kernel."""
        ordered = self.taps.sort(1).values
        distinct = (ordered[:, 1:] != ordered[:, :-1]).all(1)
        return bool((distinct & (ordered[:, 0] >= 0)).any())

    @cached_property
    def products(self) -> Tensor:
        """(kernel, kernel) in how many windows two taps read the same element; the diagonal counts reads inside."""
        same = (self.taps[:, :, None] == self.taps[:, None, :]) & (self.taps >= 0)[:, :, None]
        return same.sum(0).double()

    @property
    def reach(self) -> int:
        """Zeros needed between copies of the input on a circle so that no window sees two of them."""
        last = (self.outputs - 1) * self.stride + self.span - 1 - self.low
        return max(0, self.low, last - (self.size - 1))

    def unpadded(self) -> Axis:
        """The same windows over an input that holds the padding already."""
        return Axis(self.size + self.low + self.high, self.kernel, self.stride, self.dilation, outputs=self.outputs)


def adaptive_windows(size: int, outputs: int) -> list[tuple[int, int]]:
    """(start, end) of every window of adaptive pooling."""
    return [(i * size // outputs, -((i + 1) * size // -outputs)) for i in range(outputs)]


def overlaps(windows: list[tuple[int, int]], size: int) -> int:
    """Most windows that share one element."""
    count = torch.zeros(size + 1, dtype=torch.int64)
    for start, end in windows:
        count[start] += 1
        count[end] -= 1
    return int(count.cumsum(0).max())


def _most(index: Tensor) -> int:
    present = index[index >= 0]
    return int(torch.bincount(present).max()) if present.numel() else 0
