"""Proof that a straight segment stays in one class region: zonotopes over pieces of it, halved where need be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from assay.boundary.field import Field, field_of
from assay.boundary.paths.prepared import Prepared, prepared
from assay.boundary.paths.zonotope import UNIT, segment
from assay.errors import UsageError
from assay.results import Displayed

FIRST = 4
"""Pieces a segment is cut into at first."""
_NARROWEST = 2.0**-44
_WORK = 2**24  # pieces times units of the widest layer
_PER_PASS = 2**17  # units of the widest layer; tensors of a pass stay in the cache
CERTIFIED, REFUTED, UNDECIDED, UNSUPPORTED = "certified", "refuted", "undecided", "unsupported"


@dataclass(frozen=True, eq=False)
class SegmentCertificate(Displayed):
    """What is known about segments, one entry per row.

    The network meant is the one with the given weights, evaluated in real arithmetic: float32 weights are converted
    to float64 without loss, and all rounding of the float64 computation is part of the bounds. What the network
    computes in float32 differs from it by its own rounding.

    Attributes:
        status: per row ``certified`` (the class wins at every point; a proof), ``refuted`` (another class wins at
            `counterexample`; a proof), ``undecided`` (the budget of boxes ended) or ``unsupported``.
        label: (B,) the class that the segment should stay in.
        margin: (B,) float64 lower bound on the smallest f_label - f_j over the segment; NaN unless certified.
        counterexample: (B,) float64 place t in [0, 1] of start + t (end - start); NaN unless refuted.
        boxes: (B,) pieces bounded.
        unsupported: operators, by place, that have no bounds, or why there is no graph; empty otherwise.
    """

    status: tuple[str, ...]
    label: Tensor
    margin: Tensor
    counterexample: Tensor
    boxes: Tensor
    unsupported: tuple[str, ...] = ()

    @property
    def certified(self) -> Tensor:
        """(B,) bool."""
        return torch.tensor([one == CERTIFIED for one in self.status])


def certify_segment(
    model: Any,
    start: Tensor,
    end: Tensor,
    label: Tensor | int | None = None,
    *,
    max_boxes: int | None = None,
    network: Prepared | None = None,
) -> SegmentCertificate:
    """Prove that straight segments stay in one class region of a piecewise linear network, or that they leave it.

    Every piece of a segment is carried through the layers as centre + slope s + error (a zonotope with one symbol);
    classes are compared by f_label - f_j with the last dense layer composed, so what they share cancels. Pieces that do
    not suffice are halved. Grade: bound. Cost: three passes forward per
    piece, in float64.

    Args:
        model: a module, a Subject or a Field of either.
        start: (B, ...) ends of the segments.
        end: (B, ...).
        label: class or (B,) classes to stay in; the class predicted at `start` when None.
        max_boxes: pieces per segment before it is undecided; None allows 32 to 2,000, fewer for wide networks. The
            error grows from layer to layer: some 14 layers take thousands of pieces.
        network: what `prepared` made of the model, to save capturing it again.

    Returns:
        A verdict per segment.

    Raises:
        UsageError: for ends or labels that do not fit each other.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).double()
        >>> x = torch.zeros(1, 2, dtype=torch.float64)
        >>> certify_segment(net, x, x + 1e-3).status
        ('certified',)
    """
    target = field_of(model)
    start, end, own = checked_pair(target, start, end, label)
    if own is None:
        own = target.label(start)
    network = prepared(target, start) if network is None else network
    if network.unsupported:
        nothing = torch.full((len(start),), torch.nan, dtype=torch.float64)
        boxes = torch.zeros(len(start), dtype=torch.long)
        return SegmentCertificate((UNSUPPORTED,) * len(start), own, nothing, nothing, boxes, network.unsupported)
    if max_boxes is None:
        max_boxes = max(32, min(2000, _WORK // network.units))
    search = _Search(network, start.cpu().double(), end.cpu().double(), own.cpu(), max_boxes)
    with torch.no_grad():
        search.run()
    names = (UNDECIDED, CERTIFIED, REFUTED)
    status = tuple(names[state] for state in search.state.tolist())
    margin = torch.where(search.state == 1, search.margin, torch.nan)
    return SegmentCertificate(status, own, margin, search.place, search.boxes)


def checked_pair(
    target: Field, start: Tensor, end: Tensor, label: Tensor | int | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Ends in the model's type and labels as a tensor (B,), None where none are given.

    Returns:
        First ends, second ends, labels.

    Raises:
        UsageError: where they do not fit.
    """
    start, end = target.prepared(start), target.prepared(end)
    if start.shape != end.shape:
        raise UsageError(
            f"The two ends have shapes {tuple(start.shape)} and {tuple(end.shape)}.",
            where="x1, x2",
            advice="Give one end per row: two batches of the same shape.",
        )
    if label is None:
        return start, end, None
    own = torch.as_tensor(label)
    if own.dtype.is_floating_point or own.dtype == torch.bool or own.dim() > 1 or own.numel() not in (1, len(start)):
        raise UsageError(
            f"Labels must be one class or {len(start)} classes, got {own.dtype} of shape {tuple(own.shape)}.",
            where="label",
            advice="Give an integer, or one per row.",
        )
    own = own.long().reshape(-1).expand(len(start)).to(start.device)
    classes = target.logits(start[:1]).shape[1]
    if int(own.min()) < 0 or int(own.max()) >= classes:
        raise UsageError(
            f"Labels range from {int(own.min())} to {int(own.max())}; the network has {classes} classes.",
            where="label",
            advice=f"Use 0 to {classes - 1}.",
        )
    return start, end, own


@dataclass
class _Search:
    """Pieces that are not decided yet, breadth first over all segments."""

    network: Prepared
    start: Tensor
    end: Tensor
    own: Tensor
    budget: int
    state: Tensor = field(init=False)  # 0 undecided, 1 certified, 2 refuted
    margin: Tensor = field(init=False)
    place: Tensor = field(init=False)
    boxes: Tensor = field(init=False)

    def run(self) -> None:
        count = len(self.start)
        self.state = torch.ones(count, dtype=torch.long)
        self.margin = torch.full((count,), torch.inf, dtype=torch.float64)
        self.place = torch.full((count,), torch.nan, dtype=torch.float64)
        self.boxes = torch.zeros(count, dtype=torch.long)
        grid = torch.linspace(0, 1, FIRST + 1, dtype=torch.float64)
        rows = torch.arange(count).repeat_interleave(FIRST)
        low, high = grid[:-1].repeat(count), grid[1:].repeat(count)
        ends = torch.arange(count).repeat_interleave(2)
        self._try(ends, torch.tensor([0.0, 1.0], dtype=torch.float64).repeat(count))
        while True:
            keep = self.state[rows] == 1
            rows, low, high = rows[keep], low[keep], high[keep]
            if not len(rows):
                return
            over = self.boxes + torch.bincount(rows, minlength=count) > self.budget
            self.state[over & (self.state == 1)] = 0
            keep = ~over[rows]
            rows, low, high = rows[keep], low[keep], high[keep]
            rows, low, high = self._cut(rows, low, high)

    def _cut(self, rows: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bound pieces, and halve those that are not settled."""
        if not len(rows):
            return rows, low, high
        self.boxes += torch.bincount(rows, minlength=len(self.boxes))
        bound, ideal = self._bounds(rows, low, high)
        settled = bound > 0
        self.margin.scatter_reduce_(0, rows[settled], bound[settled], "amin")
        narrow = ~settled & (high - low < _NARROWEST)
        self.state[rows[narrow]] = 0
        keep = ~settled & (self.state[rows] == 1)
        rows, low, high, ideal = (part[keep] for part in (rows, low, high, ideal))
        middle = (low + high) / 2
        leaves = ideal <= 0  # even the linear part leaves the class: look there
        self._try(rows[leaves], middle[leaves])
        return torch.cat([rows, rows]), torch.cat([low, middle]), torch.cat([middle, high])

    def _bounds(self, rows: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Lower bound on the margin over each piece, and what it would be without the errors."""
        bounds, ideals = [], []
        size = max(1, _PER_PASS // self.network.units)
        for part in torch.arange(len(rows)).split(size):
            r = rows[part]
            element = segment(self.start[r], self.end[r], low[part], high[part])
            found = self.network.differences(element, self.own[r])
            ideal = found.centre - found.slope.abs()
            bound = ideal - found.error - 8 * UNIT * found.magnitude
            own = self.own[r][:, None]
            bounds.append(bound.scatter(1, own, torch.inf).amin(1))
            ideals.append(ideal.scatter(1, own, torch.inf).amin(1))
        return torch.cat(bounds), torch.cat(ideals)

    def _try(self, rows: Tensor, places: Tensor) -> None:
        """Refute segments that leave their class at one of these places."""
        size = max(1, 4 * _PER_PASS // self.network.units)
        for part in torch.arange(len(rows)).split(size):
            r, t = rows[part], places[part]
            x = torch.lerp(self.start[r], self.end[r], t.reshape((-1,) + (1,) * (self.start.dim() - 1)))
            out = self.network.margins(x, self.own[r]) < 0
            if not bool(out.any()):
                continue
            out[out.clone()] = self.network.outside(x[out], self.own[r][out])
            self.state[r[out]] = 2
            self.place[r[out]] = t[out]
