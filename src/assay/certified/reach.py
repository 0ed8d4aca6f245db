"""What travels along the edges in the domain of certified balls: how far a node can move from its value at the centre.

A change is written as sum_i R_i s_i + u: sources s_i with ||s_i|| <= F_i, known matrices R_i, and a rest u of known
norm. The input is the first source; an activation whose slope is not certain over the ball adds one. Nodes that share a
source move together, so a sum adds their matrices and not their norms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.certified.stretch import ENTRIES, SIDE, spectral_norms
from assay.norms.gram import vector_norm

SLACK = 1 + 1e-10  # what rounding in double precision may have taken off a norm


@dataclass(frozen=True, eq=False)
class Source:
    """Part of a change: columns^T s with ||s|| <= size.

    Attributes:
        columns: (c, 1, ...) what each element of s does to the node.
        size: bound on ||s||.
    """

    columns: Tensor
    size: float

    @property
    def flat(self) -> Tensor:
        """(c, n)."""
        return self.columns.flatten(1)

    def norm(self, weights: Tensor | None = None) -> float:
        """Bound on the norm of this part, its elements multiplied by weights (n,)."""
        flat = self.flat if weights is None else self.flat[:, weights > 0] * weights[weights > 0]
        if flat.numel() == 0 or self.size == 0:
            return 0.0
        if min(flat.shape) > SIDE:
            return self.size * vector_norm(flat)
        return self.size * float(spectral_norms(flat[None])[0])

    def spread(self) -> Tensor:
        """(n,) bound on every element of this part."""
        return self.size * self.flat.norm(dim=0)


@dataclass(frozen=True, eq=False)
class Reach:
    """How far a node can move while the input stays in its ball; of one sample.

    Attributes:
        value: (1, ...) at the centre.
        spread: (1, ...) most that each element can move.
        sources: parts of the change, by name.
        rest: norm of the part that is in no source.
    """

    value: Tensor
    spread: Tensor
    sources: Mapping[str, Source]
    rest: float = 0.0

    @classmethod
    def ball(cls, name: str, value: Tensor, radius: float) -> Reach:
        """All points within a radius of a value."""
        spread = torch.full_like(value, radius)
        if value.numel() > SIDE:
            return cls(value, spread, {}, radius)
        eye = torch.eye(value.numel(), dtype=value.dtype).reshape(-1, *value.shape)
        return cls(value, spread, {name: Source(eye, radius)})

    def norm(self, weights: Tensor | None = None) -> float:
        """Bound on the norm of the change, its elements multiplied by weights of the node's shape.

        Returns:
            The smaller of what the sources and what the elements say.
        """
        flat = None if weights is None else weights.reshape(-1)
        loose = self.rest * (1.0 if flat is None else float(flat.max()))
        whole = sum(source.norm(flat) for source in self.sources.values()) + loose
        each = self.spread.reshape(-1) if flat is None else self.spread.reshape(-1) * flat
        return min(whole, vector_norm(each)) * SLACK

    def collapsed(self, name: str) -> Reach:
        """The same reach as one source of its own, which forgets how the node's elements move together."""
        moving = self.spread.reshape(-1) > 0
        size, count = self.norm(), int(moving.sum())
        if count == 0:
            return Reach(self.value, self.spread, {})
        if count > SIDE or count * self.value.numel() > ENTRIES:
            return Reach(self.value, self.spread.clamp(max=size), {}, size)
        eye = torch.eye(self.value.numel(), dtype=self.value.dtype)[moving].reshape(-1, *self.value.shape)
        return Reach(self.value, self.spread.clamp(max=size), {name: Source(eye, size)})


def settle(
    value: Tensor,
    sources: Mapping[str, Source],
    rest: float,
    rest_spread: Tensor | float,
    limit: Tensor | None = None,
) -> Reach:
    """A reach whose spread follows from its sources and rest, and stays below a known limit."""
    kept = {name: source for name, source in sources.items() if source.columns.numel() and source.size > 0}
    total = torch.zeros(value.numel(), dtype=value.dtype)
    for source in kept.values():
        total = total + source.spread()
    spread = (total * SLACK).reshape(value.shape) + rest_spread
    return Reach(value, spread if limit is None else torch.minimum(spread, limit), kept, rest)


def added(parts: Sequence[Reach], value: Tensor) -> Reach:
    """A sum, or tensors laid side by side in zeros: parts of one source add as matrices."""
    sources: dict[str, Source] = {}
    for part in parts:
        for name, source in part.sources.items():
            before = sources.get(name)
            sources[name] = source if before is None else Source(before.columns + source.columns, source.size)
    rest = sum(part.rest for part in parts)
    limit = parts[0].spread
    for part in parts[1:]:
        limit = limit + part.spread
    return settle(value, sources, rest, rest, limit)
