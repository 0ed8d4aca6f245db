"""The recursive search for a path: midpoints moved to a margin, breadth first over all rows at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from assay.attacks.target import Bounds
from assay.boundary.field import Field
from assay.boundary.paths.margin import reached, to_margin
from assay.boundary.paths.segments import Samples, sample_segments

_HALVINGS = 6
_FULL_DEPTH = 3
_WIDEST = 256
"""Open pieces of one row before it is given up: a row that goes on halving everywhere has found nothing."""


@dataclass
class Search:
    """One attempt at paths for some rows.

    Attributes:
        target: the network.
        own: (B,) classes.
        wanted: (B,) margin of the midpoints.
        radius: (B,) distance between the two inputs.
        generators: one per row.
        bounds: legal range.
        depth: halvings of a piece.
        points: samples per check.
        sampled: (B,) points evaluated so far.
        reason: per row, why there is no path; empty while there may be one.
    """

    target: Field
    own: Tensor
    wanted: Tensor
    radius: Tensor
    generators: list[torch.Generator]
    bounds: Bounds
    depth: int
    points: int
    sampled: Tensor
    reason: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.reason = [""] * len(self.own)

    def check(self, rows: Tensor, start: Tensor, end: Tensor, points: int | None = None, zoom: bool = False) -> Samples:
        """Sample segments that belong to rows."""
        found = sample_segments(self.target, start, end, self.own[rows], points or self.points, zoom=zoom)
        self.sampled += torch.bincount(rows.cpu(), found.points.double(), minlength=len(self.own)).long()
        return found

    def move(self, rows: Tensor, x: Tensor, wanted: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Points of rows moved to a margin, and the margins there."""
        generators = [self.generators[row] for row in rows.tolist()]
        return to_margin(self.target, x, self.own[rows], wanted, radius, generators, self.bounds)

    def inward(self, rows: Tensor, x: Tensor) -> Tensor:
        """Ends of rows moved to the wanted margin where the way there stays in the class; as they are elsewhere.

        The margin asked for is halved up to six times.

        Returns:
            Points of the shape of x.
        """
        result, wanted = x.clone(), self.wanted[rows].clone()
        left = torch.arange(len(rows), device=rows.device)
        for _ in range(_HALVINGS + 1):
            if not len(left):
                break
            r = rows[left]
            moved, margin = self.move(r, x[left], wanted[left], self.radius[r])
            good = reached(margin, wanted[left])
            inside = self.check(r[good], x[left[good]], moved[good]).valid if bool(good.any()) else good[good]
            good[good.clone()] = inside
            result[left[good]] = moved[good]
            left = left[~good]
            wanted[left] /= 2
        return result

    def run(self, rows: Tensor, start: Tensor, end: Tensor) -> dict[int, list[Tensor]]:
        """Halve until every piece passes the check.

        Returns:
            Anchors in order, ends included, of the rows that have a path; the other ones get a reason.
        """
        first, last = self.inward(rows, start), self.inward(rows, end)
        anchors: dict[int, dict[float, Tensor]] = {}
        for place, row in enumerate(rows.tolist()):
            anchors[row] = {-1.0: start[place], 0.0: first[place], 1.0: last[place], 2.0: end[place]}
        low, high = torch.zeros(len(rows), dtype=torch.float64), torch.ones(len(rows), dtype=torch.float64)
        left, right = first, last
        for depth in range(self.depth + 1):
            invalid = ~self.check(rows, left, right).valid
            rows, left, right = rows[invalid], left[invalid], right[invalid]
            low, high = low[invalid.cpu()], high[invalid.cpu()]
            keep = self._alive(rows, depth)
            rows, left, right, low, high = rows[keep], left[keep], right[keep], low[keep.cpu()], high[keep.cpu()]
            if not len(rows):
                break
            wanted = self.wanted[rows] * 0.5 ** max(0, depth - _FULL_DEPTH)
            middle, margin = self.move(rows, (left + right) / 2, wanted, self._length(left, right))
            found = reached(margin, wanted)
            for row in rows[~found].tolist():
                self.reason[row] = self.reason[row] or "projection"
            place = (low + high) / 2
            for row, at, point in zip(rows.tolist(), place.tolist(), middle, strict=True):
                anchors[row][at] = point
            keep = self._alive(rows, 0)
            rows, left, right, middle = rows[keep], left[keep], right[keep], middle[keep]
            if not len(rows):
                break
            low, high, place = low[keep.cpu()], high[keep.cpu()], place[keep.cpu()]
            rows, left, right = torch.cat([rows, rows]), torch.cat([left, middle]), torch.cat([middle, right])
            low, high = torch.cat([low, place]), torch.cat([place, high])
        paths = {row: [found[at] for at in sorted(found)] for row, found in anchors.items() if not self.reason[row]}
        return {row: without_repeats(path) for row, path in paths.items()}

    def _alive(self, rows: Tensor, depth: int) -> Tensor:
        """Rows that go on: no reason against them, depth left, not too many open pieces."""
        counts = torch.bincount(rows.cpu(), minlength=len(self.own))
        for row in rows.unique().tolist():
            if depth >= self.depth or int(counts[row]) > _WIDEST:
                self.reason[row] = self.reason[row] or "depth"
        return torch.tensor([not self.reason[row] for row in rows.tolist()], dtype=torch.bool, device=rows.device)

    @staticmethod
    def _length(left: Tensor, right: Tensor) -> Tensor:
        return (right - left).flatten(1).norm(dim=1)

    def repair(self, row: int, path: list[Tensor], points: int, rounds: int = 4) -> tuple[list[Tensor], Samples | None]:
        """Check a path densely; where a segment fails, put an anchor with a margin at its lowest point and try again.

        Returns:
            The path and its last check, or None instead of it when the path could not be repaired.
        """
        for _ in range(rounds):
            start, end = torch.stack(path[:-1]), torch.stack(path[1:])
            rows = torch.full((len(start),), row, device=start.device)
            found = self.check(rows, start, end, points, zoom=True)
            if bool(found.valid.all()):
                return path, found
            path = self.detour(row, path, {int(i): float(found.place[i]) for i in (~found.valid).nonzero()[:, 0]})
        return path, None

    def detour(self, row: int, path: list[Tensor], places: dict[int, float]) -> list[Tensor]:
        """The path with one more anchor, moved to a margin, on each of these segments."""
        longer: list[Tensor] = []
        for index, anchor in enumerate(path):
            longer.append(anchor)
            if index in places:
                step = path[index + 1] - anchor
                rows = torch.tensor([row], device=anchor.device)
                x = (anchor + places[index] * step)[None]
                moved, margin = self.move(rows, x, self.wanted[rows], step.norm()[None])
                if bool((margin > 0).all()):
                    longer.append(moved[0])
        return without_repeats(longer)


def without_repeats(path: list[Tensor]) -> list[Tensor]:
    """Neighbours that are equal become one; a path keeps at least its two ends."""
    kept = path[:1]
    for anchor in path[1:]:
        if not torch.equal(anchor, kept[-1]):
            kept.append(anchor)
    return kept if len(kept) > 1 else [path[0], path[-1]]
