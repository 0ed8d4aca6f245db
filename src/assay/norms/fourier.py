"""Norms of convolutions from their symbol: exact on a circle, guaranteed upper bounds for every other padding.

Sedghi, Gupta and Long 2019 (circular, stride 1). A stride s is a stride of 1 on s^d times as many channels (polyphase).
Zero padding: the layer is a part of the same convolution on any circle long enough that copies do not meet, so the norm
there bounds it. For large images a grid serves all sizes at once: u^* F v is a trigonometric polynomial of degree
(q - 1) / 2 per axis, so its maximum is at most that over N equidistant points divided by cos(pi (q - 1) / (2 N))
(Ehlich and Zeller 1964). Padding that repeats elements: norm of the padding, times a bound of what follows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from assay.errors import UsageError
from assay.norms.axes import MODES, Axis
from assay.norms.gram import gram_norm, spectral_norm

if TYPE_CHECKING:
    from assay.norms.convolution import Convolution

EXACT_SIDE = 64  # up to this many channels a block's norm is found exactly, above by Gram iteration
GRAM_STEPS = 5
CHUNK = 4_000_000  # elements of the symbol held at once
CIRCLES = 9  # lengths tried


@dataclass(frozen=True, eq=False)
class Symbol:
    """Polyphase kernel of a convolution.

    Attributes:
        blocks: (groups, a, b, taps) real; b counts channels times phases.
        places: (taps, dims) position of every tap on the coarse lattice.
    """

    blocks: Tensor
    places: Tensor

    @property
    def side(self) -> int:
        """Smaller side of a block."""
        return min(self.blocks.shape[1:3])

    @property
    def lengths(self) -> list[int]:
        """Taps along every axis after the largest common step is taken out: their lattice has the same supremum."""
        found = []
        for place in self.places.T:
            step = math.gcd(*(int(p) for p in (place - place.min())))
            found.append(int((place.max() - place.min()) // max(step, 1)) + 1)
        return found

    def coarsened(self) -> Symbol:
        """Taps moved to a lattice without common steps; same supremum over all frequencies, not the same circle."""
        columns = []
        for place in self.places.T:
            moved = place - place.min()
            columns.append(moved // max(math.gcd(*(int(p) for p in moved)), 1))
        return Symbol(self.blocks, torch.stack(columns, 1))

    def cost(self, frequencies: float, *, exact: bool | None = None) -> float:
        """Real multiply-adds for the norms of so many blocks."""
        groups, rows, columns, taps = self.blocks.shape
        exact = self.side <= EXACT_SIDE if exact is None else exact
        per_block = 2 * taps * rows * columns + 4 * self.side**2 * (max(rows, columns))
        per_block += 4 * self.side**3 * (10 if exact else GRAM_STEPS)
        return frequencies * groups * per_block

    def at(self, angles: Tensor) -> Tensor:
        """(f, groups, a, b) complex at frequencies (f, dims) in radians."""
        turns = angles @ self.places.to(angles.dtype).T
        flat = self.blocks.flatten(0, 2)
        real, imaginary = (part @ flat.T for part in (turns.cos(), turns.sin()))
        return torch.complex(real, imaginary).reshape(len(angles), *self.blocks.shape[:3])

    def maximum(self, sizes: Sequence[int], *, exact: bool | None = None, steps: int = GRAM_STEPS) -> Tensor:
        """Largest block norm over the frequencies of a circle of these sizes; an upper bound of it where not `exact`.

        Frequencies whose rough bound falls below the largest bound so far are left out.

        Args:
            sizes: points per axis.
            exact: block norms by eigenvalues, or bounds by Gram iteration; by size when None.
            steps: of the Gram iteration.

        Returns:
            Scalar, differentiable.
        """
        exact = self.side <= EXACT_SIDE if exact is None else exact
        best = self.blocks.new_zeros(())
        groups, rows, columns, _ = self.blocks.shape
        for angles in _frequencies(sizes, max(1, CHUNK // (groups * rows * columns)), self.blocks.dtype):
            blocks = self.at(angles).flatten(0, 1)
            if exact:
                best = torch.maximum(best, spectral_norm(blocks).max())
                continue
            if float(best) > 0:
                blocks = blocks[gram_norm(blocks.detach(), 1) > best.detach()]
            if len(blocks):
                best = torch.maximum(best, gram_norm(blocks, steps).max())
        return best


def symbol(weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int = 1) -> Symbol:
    """Polyphase symbol of a kernel (co, ci / groups, *k): tap j reads phase (d j mod s) at coarse place d j // s."""
    outputs, inputs, *kernel = weight.shape
    flat = weight.reshape(groups, outputs // groups, inputs, -1)
    grids = torch.meshgrid(*(torch.arange(k) for k in kernel), indexing="ij")
    reach = torch.stack([g.flatten() for g in grids], 1) * torch.tensor(list(dilation))
    strides = torch.tensor(list(stride))
    coarse, phase = reach // strides, reach % strides
    places, place_of = torch.unique(coarse, dim=0, return_inverse=True)
    phases, phase_of = torch.unique(phase, dim=0, return_inverse=True)
    made = flat.new_zeros(*flat.shape[:3], len(phases) * len(places))
    made = made.index_copy(3, phase_of * len(places) + place_of, flat)
    made = made.reshape(*flat.shape[:3], len(phases), len(places)).flatten(2, 3)
    return Symbol(made, places)


def circular_sizes(axes: Sequence[Axis]) -> list[int] | None:
    """Coarse circle on which the layer is exactly circulant, or None."""
    for axis in axes:
        whole = axis.mode == "circular" or (axis.kernel == 1 and axis.low == axis.high == 0)
        if not whole or axis.size % axis.stride or axis.outputs != axis.size // axis.stride:
            return None
    return [axis.size // axis.stride for axis in axes]


def circular_cost(layer: Convolution) -> float | None:
    """Multiply-adds of `circular_norm`; None where the layer is not circulant."""
    sizes = circular_sizes(layer.axes)
    return None if sizes is None else _symbol(layer).cost(math.prod(sizes) / 2, exact=True)


def circular_norm(layer: Convolution) -> float:
    """Exact norm of a circulant layer: the largest over all frequencies."""
    sizes = circular_sizes(layer.axes)
    assert sizes is not None
    return float(_symbol(layer).maximum(sizes, exact=True))


def bounds(layer: Convolution, work: float, *, gram: bool | None = None) -> dict[str, float]:
    """Guaranteed bounds by circles and grids, those that `work` multiply-adds allow.

    Args:
        layer: any convolution.
        work: multiply-adds.
        gram: block norms by Gram iteration (True) or exactly (False); by size when None.

    Returns:
        ``fourier`` (exact block norms) or ``gram`` (bounds of them) -> bound; empty where even the coarsest grid costs
        too much.
    """
    made = _symbol(layer)
    exact = made.side <= EXACT_SIDE if gram is None else not gram
    factor, axes = 1.0, list(layer.axes)
    circle = circular_sizes(axes)
    if circle is not None:
        if made.cost(math.prod(circle) / 2 + 1, exact=exact) > work:
            return {}
        return {"fourier" if exact else "gram": float(made.maximum(circle, exact=exact))}
    if layer.padded:
        factor = math.sqrt(math.prod(axis.copies for axis in axes))
        axes = [axis.unpadded() for axis in axes]
    found = []
    coarse = made.coarsened()
    for sizes, excess in _grids(coarse):  # finest first; one of them
        cost = coarse.cost(math.prod(sizes) / 2 + 1, exact=exact)
        if cost <= work:
            work -= cost
            found.append(excess * coarse.maximum(sizes, exact=exact))
            break
    for more in range(CIRCLES):
        sizes = [_shortest(axis) + more for axis in axes]
        cost = made.cost(math.prod(sizes) / 2 + 1, exact=exact)
        if cost <= work:
            work -= cost
            found.append(made.maximum(sizes, exact=exact))
    return {"fourier" if exact else "gram": factor * min(float(bound) for bound in found)} if found else {}


def convolution_bound(
    weight: Tensor,
    sizes: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    steps: int = 6,
) -> Tensor:
    """Guaranteed bound of a convolution's spectral norm that can be differentiated in the kernel.

    Gram iteration (Delattre et al. 2023) on every frequency block of the shortest circle on which copies of the padded
    input do not meet; circulant layers on their own circle. Cost: matrix products only, H W / 2 blocks.

    Args:
        weight: (co, ci / groups, *k).
        sizes: of one input, without channels.
        stride: as in the layer.
        padding: as in the layer, numbers only.
        dilation: as in the layer.
        groups: as in the layer.
        padding_mode: ``zeros``, ``circular``, ``reflect`` or ``replicate``.
        steps: of the Gram iteration.

    Returns:
        Scalar; grade: bound.

    Raises:
        UsageError: for sizes the kernel does not fit, or an unknown padding mode.

    Example:
        >>> kernel = torch.ones(1, 1, 3, dtype=torch.float64) / 3
        >>> print(f"{float(convolution_bound(kernel, (16,), padding=1)):.6f}")
        1.000000
    """
    if padding_mode not in MODES:
        raise UsageError(
            f"Unknown padding mode {padding_mode!r}.", where="padding_mode", advice=f"One of {', '.join(MODES)}."
        )
    dims = weight.dim() - 2
    given = [[value] * dims if isinstance(value, int) else list(value) for value in (stride, padding, dilation)]
    axes = [
        Axis(size, kernel, s, d, p, p, padding_mode)
        for size, kernel, s, p, d in zip(sizes, weight.shape[2:], *given, strict=True)
    ]
    made = symbol(weight, given[0], given[2], groups)
    circle, factor = circular_sizes(axes), 1.0
    if circle is None:
        if padding_mode != "zeros":
            factor = math.sqrt(math.prod(axis.copies for axis in axes))
            axes = [axis.unpadded() for axis in axes]
        circle = [_shortest(axis) for axis in axes]
    return factor * made.maximum(circle, exact=False, steps=steps)


def _symbol(layer: Convolution) -> Symbol:
    strides, dilations = [axis.stride for axis in layer.axes], [axis.dilation for axis in layer.axes]
    return symbol(layer.weight.detach().double(), strides, dilations, layer.groups)


def _shortest(axis: Axis) -> int:
    """Coarse length of the shortest circle that holds input and padding; distinct windows stay distinct on it."""
    return max(-((axis.size + axis.reach) // -axis.stride), axis.outputs)


def _grids(coarse: Symbol) -> Iterator[tuple[list[int], float]]:
    """Sizes of grids, finest first, and the factor between the supremum and the maximum on each."""
    for times in (16, 8, 4, 2):
        sizes = [times * q if q > 1 else 1 for q in coarse.lengths]
        yield (
            sizes,
            math.prod(1 / math.cos(math.pi * (q - 1) / (2 * n)) for q, n in zip(coarse.lengths, sizes, strict=True)),
        )


def _frequencies(sizes: Sequence[int], count: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """Angles (f, dims) of a circle in chunks; half of the last axis, the rest being complex conjugates."""
    halves = [*sizes[:-1], sizes[-1] // 2 + 1]
    total = math.prod(halves)
    for start in range(0, total, count):
        index = torch.arange(start, min(total, start + count))
        parts = []
        for size, half in zip(reversed(sizes), reversed(halves), strict=True):
            parts.append((index % half).to(dtype) * (2 * math.pi / size))
            index = index // half
        yield torch.stack(parts[::-1], 1)
