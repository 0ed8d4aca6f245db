"""Where a path is sampled: rows of points in order, cut at the path's own kinks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from assay.errors import SubjectError, UsageError
from assay.smoothness.paths.path import Path

_SHIFT = 0.00618
"""Inner samples lie off round numbers by this share of a step: kinks at round parameters fall between samples."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Points of a path in runs of neighbours.

    Attributes:
        t: (r,) parameters.
        last: (r,) whether a row ends a smooth piece of the path: its tangent is taken from the left.
        first: (r,) whether a row begins one.
        linked: (r,) whether a row and the next one are ends of a step; False for the last row.
    """

    t: Tensor
    last: Tensor
    first: Tensor
    linked: Tensor

    def __len__(self) -> int:
        return len(self.t)

    def part(self, begin: int, end: int) -> Rows:
        """Rows from `begin` to before `end`."""
        linked = self.linked[begin:end].clone()
        linked[-1] = False
        return Rows(self.t[begin:end], self.last[begin:end], self.first[begin:end], linked)

    def chunks(self, rows: int) -> Iterator[Rows]:
        """Parts of at most that many rows that share their border rows, so that no step is lost."""
        begin = 0
        while begin < len(self):
            end = min(len(self), begin + max(2, rows))
            yield self.part(begin, end)
            if end == len(self):
                return
            begin = end - 1 if bool(self.linked[end - 1]) else end

    def points(self, path: Path) -> tuple[Tensor, Tensor]:
        """Points (r, ...) and tangents (r, ...) of the path in float64.

        Returns:
            Both.

        Raises:
            SubjectError: when the path is not finite.
        """
        x, tangent = path.at(self.t, side="right")
        if bool(self.last.any()):
            tangent = tangent.clone()
            tangent[self.last] = path.at(self.t[self.last], side="left")[1].to(tangent.dtype)
        finite = torch.isfinite(x).flatten(1).all(1) & torch.isfinite(tangent).flatten(1).all(1)
        if not bool(finite.all()):
            raise SubjectError(
                "The path or its tangent is NaN or infinite.",
                where=f"t = {float(self.t[~finite][0]):.6g}",
                advice="Check the inputs that the path goes through.",
            )
        return x.detach().double(), tangent.detach().double()


def planned(path: Path, samples: int) -> Rows:
    """Rows that cover a path from end to end, about evenly, with every knot at the end of a step.

    Args:
        path: the path.
        samples: wanted number of different parameters; more where the path has more knots.

    Returns:
        The rows; knots occur twice, with the tangent of either side.

    Raises:
        UsageError: for fewer than two samples, or a path without length or with knots out of order.
    """
    if samples < 2:
        raise UsageError(
            f"A path needs at least 2 samples, got {samples}.", where="samples", advice="Ask for more, such as 65."
        )
    ends = [float(path.start), *(float(knot) for knot in path.knots), float(path.end)]
    if any(not low < high for low, high in pairwise(ends)) or not all(map(math.isfinite, ends)):
        raise UsageError(
            "The parameters of a path must increase from its start over its knots to its end.",
            where=f"path from {ends[0]:.6g} to {ends[-1]:.6g}",
            advice="Give knots that lie strictly between start and end, in ascending order.",
        )
    pieces = list(pairwise(ends))
    steps = _shared([high - low for low, high in pieces], max(len(pieces), samples - 1))
    parts = []
    for (low, high), count in zip(pieces, steps, strict=True):
        inner = (torch.arange(1, count, dtype=torch.float64) + _SHIFT) * ((high - low) / count) + low
        parts.append(torch.cat([inner.new_tensor([low]), inner, inner.new_tensor([high])]))
    sizes = torch.tensor([len(part) for part in parts])
    closing = torch.zeros(int(sizes.sum()), dtype=torch.bool)
    closing[sizes.cumsum(0) - 1] = True
    opening = torch.zeros_like(closing)
    opening[sizes.cumsum(0) - sizes] = True
    return Rows(torch.cat(parts), closing, opening, ~closing)


def bisected(rows: Rows, steps: Tensor) -> Rows:
    """The rows around chosen steps with a new row in the middle of each, runs of neighbouring steps kept together.

    Args:
        rows: in order.
        steps: (s,) indices of rows that begin the chosen steps, ascending.

    Returns:
        Only the chosen steps, each in two.
    """
    t, last, first, linked = [], [], [], []
    previous = -2
    for step in steps.tolist():
        if step != previous + 1 or not t:
            t.append(float(rows.t[step]))
            last.append(bool(rows.last[step]))
            first.append(bool(rows.first[step]))
            linked.append(True)
        else:
            linked[-1] = True
        low, high = float(rows.t[step]), float(rows.t[step + 1])
        t += [low + (high - low) / 2, high]
        last += [False, bool(rows.last[step + 1])]
        first += [False, bool(rows.first[step + 1])]
        linked += [True, False]
        previous = step
    return Rows(torch.tensor(t, dtype=torch.float64), torch.tensor(last), torch.tensor(first), torch.tensor(linked))


def _shared(lengths: list[float], total: int) -> list[int]:
    """Whole numbers that add up to `total`, at least one each, in proportion to lengths as nearly as possible."""
    counts = [1] * len(lengths)
    spare, whole = total - len(lengths), sum(lengths)
    wanted = [spare * length / whole for length in lengths]
    counts = [1 + int(want) for want in wanted]
    order = sorted(range(len(lengths)), key=lambda place: int(wanted[place]) - wanted[place])
    for place in order[: total - sum(counts)]:
        counts[place] += 1
    return counts
