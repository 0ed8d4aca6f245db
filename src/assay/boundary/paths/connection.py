"""Paths inside one class region between pairs of inputs: found, certified, or inconclusive; never "disconnected"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from assay.attacks.target import Bounds
from assay.boundary.field import Field, field_of
from assay.boundary.paths.certificate import (
    CERTIFIED,
    REFUTED,
    UNDECIDED,
    SegmentCertificate,
    certify_segment,
    checked_pair,
)
from assay.boundary.paths.prepared import Prepared, prepared
from assay.boundary.paths.search import Search
from assay.boundary.paths.segments import sample_segments
from assay.boundary.paths.waypoints import by_waypoints
from assay.brief import Brief
from assay.errors import UsageError
from assay.results import Displayed
from assay.seeding import content_generator

AUTO_SHARE = 0.5
"""Share of the logits' standard deviation along the straight segment that margin="auto" asks for."""
_WEAKER = (1.0, 0.25, 0.0625)
_DETOURS = 2


@dataclass(frozen=True, eq=False)
class PathChecks(Brief):
    """How the paths were checked; one entry per row.

    Attributes:
        sampled: (B,) points of the network evaluated in checks of segments.
        dense: (B,) samples per segment of the last check, 0 where it was not reached.
        dense_passed: (B,) whether all segments passed it.
        certified: (B,) segments of the path with a proof.
        undecided: (B,) segments whose proof ran out of boxes.
        refuted: (B,) segments of which it is proven that they leave the class; such a row has no path.
        boxes: (B,) pieces of segment bounded.
        unsupported: operators without bounds, which stop every certificate; empty otherwise.
    """

    sampled: Tensor
    dense: Tensor
    dense_passed: Tensor
    certified: Tensor
    undecided: Tensor
    refuted: Tensor
    boxes: Tensor
    unsupported: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Connection(Displayed):
    """Paths between the rows of two batches, inside the region of one class each.

    Attributes:
        x1: (B, ...) first ends.
        x2: (B, ...) second ends.
        label: (B,) class of the region; -1 where the two ends are predicted differently and no label was given.
        status: per row ``found`` (every sample of the path is in the class), ``certified`` (every point is: a proof)
            or ``inconclusive`` (no path was found; this does not say that there is none).
        reason: per row empty, ``different classes`` (an end is not predicted as the label), ``depth`` (pieces still
            left the class after all halvings, or a finer check found places where they do), ``projection`` (a midpoint
            could not be moved to a margin) or ``refuted`` (a certificate found another class).
        path: per row anchors (A, ...) of a piecewise straight path from x1 to x2; empty (0, ...) when inconclusive.
        length_ratio: (B,) float64 length of the path over the distance of its ends (1 when these are equal), NaN where
            inconclusive.
        min_margin: (B,) float64 smallest sampled f_own - max others on the path, NaN where inconclusive.
        anchors: (B,) number of anchors, ends included; 2 for a straight path, 0 where inconclusive.
        straight: (B,) bool, the straight segment passed the dense check.
        margin: (B,) float64 margin that midpoints were asked for at first.
        checks: how it was checked.
    """

    x1: Tensor
    x2: Tensor
    label: Tensor
    status: tuple[str, ...]
    reason: tuple[str, ...]
    path: tuple[Tensor, ...]
    length_ratio: Tensor
    min_margin: Tensor
    anchors: Tensor
    straight: Tensor
    margin: Tensor
    checks: PathChecks

    @property
    def connected(self) -> Tensor:
        """(B,) bool: a path was found. False is inconclusive, never "disconnected"."""
        return torch.tensor([status != "inconclusive" for status in self.status])


def connect(
    model: Any,
    x1: Tensor,
    x2: Tensor,
    *,
    label: Tensor | int | None = None,
    margin: float | Literal["auto"] = "auto",
    depth: int = 10,
    bounds: Bounds | Literal["auto"] = "auto",
    certify: bool = False,
    seed: int = 0,
    points: int = 100,
    dense: int = 1000,
    waypoints: int = 200,
    max_boxes: int | None = None,
) -> Connection:
    """Look for a path between two inputs on which the predicted class never changes.

    The straight segment, else midpoints moved to a positive margin m = f_own - max others, recursively (Fawzi et al.
    2018, with margins: a midpoint on the boundary leaves the region again). Ends whose margin is smaller are first
    moved inward. Where that fails it is tried again with a quarter and a sixteenth of the margin, then over random
    waypoints. Every segment of a path passes `points` samples, then `dense` ones with a search between them where the
    margin dips. Grade: sampled; with `certify` a bound, where it succeeds. Rows do not influence each other.

    Args:
        model: a module, a Subject, a function (B, ...) -> (B, K) or a Field.
        x1: (B, ...) inputs.
        x2: (B, ...) inputs.
        label: class or (B,) classes of the region; the predicted one when None. Rows with an end outside are
            inconclusive with the reason ``different classes``.
        margin: logit difference asked of midpoints; "auto" takes half of the root-mean-square standard
            deviation between the logits along the straight segment, row by row, so it scales with the logits.
        depth: halvings of a piece before it is given up.
        bounds: legal range that anchors keep to, "auto" for a Subject's, None for none.
        certify: prove each segment of each path (piecewise linear networks; see `certify_segment`).
        seed: of the random steps.
        points: samples per segment in the search.
        dense: samples per segment at the end.
        waypoints: random points for rows that halving does not solve; 0 for none.
        max_boxes: per segment to certify, see `certify_segment`.

    Returns:
        The paths.

    Raises:
        UsageError: for options or labels out of range, or ends of different shapes.
        SubjectError: for inputs that the model does not take.

    Example:
        >>> ring = lambda x: torch.stack([x.norm(dim=1).sub(3).abs(), torch.ones(len(x))], 1).neg()  # 2 < |x| < 4
        >>> a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[-3.0, 0.0]])
        >>> found = connect(ring, a, b)
        >>> found.status, bool(found.straight), len(found.path[0]) > 2
        (('found',), False, True)
    """
    _checked_options(margin, depth, points, dense, waypoints)
    target = field_of(model)
    x1, x2, own = checked_pair(target, x1, x2, label)
    limits = target.bounds if bounds == "auto" else bounds
    first, second = target.label(x1), target.label(x2)
    shared = first if own is None else own
    same = (first == shared) & (second == shared)
    work = _Work(target, x1, x2, shared, limits, seed, points, dense)
    work.straight(same, margin)
    work.search(depth, waypoints)
    if certify:
        work.certify(prepared(model, x1), max_boxes)
    return work.result(torch.where(same, shared, -1) if own is None else shared)


def _checked_options(margin: float | str, depth: int, points: int, dense: int, waypoints: int) -> None:
    if margin != "auto" and (isinstance(margin, str) or not 0 < margin < float("inf")):
        raise UsageError(f"margin={margin!r} is no margin.", where="margin", advice='Use a positive number or "auto".')
    for name, value, least in (("depth", depth, 0), ("points", points, 1), ("dense", dense, 1)):
        if value < least:
            raise UsageError(f"{name}={value} is too small.", where=name, advice=f"Use {least} or more.")
    if waypoints < 0:
        raise UsageError(f"waypoints={waypoints} is negative.", where="waypoints", advice="Use 0 for none.")


class _Work:
    """All rows of one call, and what is known of each."""

    def __init__(
        self,
        target: Field,
        x1: Tensor,
        x2: Tensor,
        own: Tensor,
        bounds: Bounds,
        seed: int,
        points: int,
        dense: int,
    ) -> None:
        self.target, self.x1, self.x2, self.own, self.bounds = target, x1, x2, own, bounds
        self.seed, self.points, self.dense = seed, points, dense
        count = len(x1)
        self.distance = (x2.double() - x1.double()).flatten(1).norm(dim=1)
        self.reason = [""] * count
        self.paths: dict[int, list[Tensor]] = {}
        self.lowest = torch.full((count,), torch.nan, dtype=torch.float64)
        self.is_straight = torch.zeros(count, dtype=torch.bool)
        self.sampled = torch.zeros(count, dtype=torch.long)
        self.counts = torch.zeros(4, count, dtype=torch.long)  # certified, undecided, refuted, boxes
        self.proven = torch.zeros(count, dtype=torch.bool)
        self.unsupported: tuple[str, ...] = ()
        self.wanted = torch.full((count,), torch.nan, dtype=torch.float64)

    def straight(self, same: Tensor, margin: float | str) -> None:
        """Straight segments first, coarsely, then densely."""
        for row in (~same).nonzero()[:, 0].tolist():
            self.reason[row] = "different classes"
        rows = same.nonzero()[:, 0]
        if not len(rows):
            return
        found = sample_segments(self.target, self.x1[rows], self.x2[rows], self.own[rows], self.points)
        self.sampled[rows.cpu()] += found.points
        share = AUTO_SHARE * found.spread.double().cpu()
        self.wanted[rows.cpu()] = share if margin == "auto" else torch.full_like(share, float(margin))
        rows = rows[found.valid]
        if not len(rows):
            return
        found = sample_segments(self.target, self.x1[rows], self.x2[rows], self.own[rows], self.dense, zoom=True)
        self.sampled[rows.cpu()] += found.points
        for place in found.valid.nonzero()[:, 0].tolist():
            row = int(rows[place])
            self.paths[row] = [self.x1[row], self.x2[row]]
            self.lowest[row] = float(found.lowest[place])
            self.is_straight[row] = True

    def search(self, depth: int, waypoints: int) -> None:
        """Halving with three margins, then waypoints; every path that is kept passed the dense check."""
        for share in _WEAKER:
            rows = self._open()
            if not len(rows):
                return
            search = self._search(share, depth)
            for row, path in search.run(rows, self.x1[rows], self.x2[rows]).items():
                self._keep(search, row, path)
            for row in rows.tolist():
                self.reason[row] = self.reason[row] or search.reason[row]
        if not waypoints:
            return
        for row in self._open().tolist():
            for share in _WEAKER[:2]:
                search = self._search(share, depth)
                path = by_waypoints(search, row, self.x1[row], self.x2[row], waypoints)
                if path is not None and self._keep(search, row, path):
                    break

    def _open(self) -> Tensor:
        rows = [r for r in range(len(self.x1)) if r not in self.paths and self.reason[r] != "different classes"]
        return torch.tensor(rows, dtype=torch.long, device=self.x1.device)

    def _search(self, share: float, depth: int) -> Search:
        tiny = torch.finfo(self.x1.dtype).tiny ** 0.5
        wanted = (share * self.wanted).nan_to_num(1.0).clamp(min=tiny).to(self.x1)
        radius = self.distance.clamp(min=tiny).to(self.x1)
        generators = [
            content_generator(torch.stack([one, two]), self.seed) for one, two in zip(self.x1, self.x2, strict=True)
        ]
        return Search(self.target, self.own, wanted, radius, generators, self.bounds, depth, self.points, self.sampled)

    def _keep(self, search: Search, row: int, path: list[Tensor]) -> bool:
        """A path that passes the dense check, repaired if need be."""
        path, found = search.repair(row, path, self.dense)
        if found is None:
            self.reason[row] = "depth"
            return False
        self.paths[row], self.lowest[row], self.reason[row] = path, float(found.lowest.min()), ""
        return True

    def certify(self, network: Prepared, max_boxes: int | None) -> None:
        """Prove the segments of every path; a segment that is refuted gets a detour."""
        self.unsupported = network.unsupported
        if network.unsupported:
            return
        pending = list(self.paths)
        for _ in range(_DETOURS + 1):
            if not pending:
                return
            owner = torch.tensor([row for row in pending for _ in self.paths[row][1:]], device=self.x1.device)
            start = torch.stack([anchor for row in pending for anchor in self.paths[row][:-1]])
            end = torch.stack([anchor for row in pending for anchor in self.paths[row][1:]])
            own = self.own[owner]
            found = certify_segment(self.target, start, end, own, max_boxes=max_boxes, network=network)
            pending = [row for row in pending if not self._settled(row, (owner == row).nonzero()[:, 0].tolist(), found)]
        for row in pending:
            self._drop(row, "refuted")

    def _settled(self, row: int, segments: list[int], found: SegmentCertificate) -> bool:
        """Write down what is proven of a path; where a segment is refuted, make a detour, which is not settled."""
        status = [found.status[i] for i in segments]
        counts = [status.count(one) for one in (CERTIFIED, UNDECIDED, REFUTED)]
        boxes = int(found.boxes[segments].sum()) + int(self.counts[3, row])
        self.counts[:, row] = torch.tensor([*counts, boxes])
        if not counts[2]:
            self.proven[row] = not counts[1]
            return True
        places = {i: float(found.counterexample[k]) for i, k in enumerate(segments) if found.status[k] == REFUTED}
        search = self._search(1.0, 0)
        if self._keep(search, row, search.detour(row, self.paths[row], places)):
            self.is_straight[row] = False
            return False
        self._drop(row, "refuted")
        return True

    def _drop(self, row: int, reason: str) -> None:
        self.paths.pop(row)
        self.reason[row] = reason
        self.is_straight[row] = False

    def result(self, label: Tensor) -> Connection:
        """Everything, row by row."""
        count = len(self.x1)
        status, ratio = [], torch.full((count,), torch.nan, dtype=torch.float64)
        anchors = torch.zeros(count, dtype=torch.long)
        paths: list[Tensor] = []
        for row in range(count):
            if row not in self.paths:
                status.append("inconclusive")
                paths.append(self.x1.new_zeros((0, *self.x1.shape[1:])))
                self.lowest[row] = torch.nan
                continue
            path = torch.stack(self.paths[row])
            paths.append(path)
            anchors[row] = len(path)
            length = path.double().diff(dim=0).flatten(1).norm(dim=1).sum()
            ratio[row] = length / self.distance[row] if float(self.distance[row]) else 1.0
            status.append(CERTIFIED if bool(self.proven[row]) else "found")
        passed = anchors > 0
        certified, undecided, refuted, boxes = self.counts
        checks = PathChecks(
            self.sampled, passed * self.dense, passed, certified, undecided, refuted, boxes, self.unsupported
        )
        reason = tuple(self.reason[row] if row not in self.paths else "" for row in range(count))
        return Connection(
            self.x1,
            self.x2,
            label,
            tuple(status),
            reason,
            tuple(paths),
            ratio,
            self.lowest,
            anchors,
            self.is_straight,
            self.wanted,
            checks,
        )
