"""Sampled checks of straight segments: margins at many places, and between them where a dip could hide."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from assay.boundary.field import Field
from assay.boundary.paths.margin import margin_of

_DIPS = 3
_ZOOM = 21
_ROUNDS = 6
_PER_PASS = 2**22


@dataclass(frozen=True, eq=False)
class Samples:
    """What sampling found on N segments.

    Attributes:
        valid: (N,) every sampled margin is positive, beyond rounding inside the segment (at the ends, within it).
        lowest: (N,) smallest sampled margin, ends included.
        place: (N,) where it is, in [0, 1].
        spread: (N,) root mean square over the samples of the standard deviation between the logits.
        points: points evaluated per segment.
    """

    valid: Tensor
    lowest: Tensor
    place: Tensor
    spread: Tensor
    points: Tensor


def sample_segments(
    target: Field, start: Tensor, end: Tensor, own: Tensor, points: int, *, zoom: bool = False
) -> Samples:
    """Evaluate the margin at evenly spaced places of segments, ends included.

    With `zoom`, up to three interior local minima that are low beside the change between neighbours are searched again,
    six times with a tenfold smaller step: a notch between two samples shows by its flanks.

    Args:
        target: the network.
        start: (N, ...) ends.
        end: (N, ...).
        own: (N,) classes that the segments should stay in.
        points: places between the ends.
        zoom: look between the samples.

    Returns:
        What was found. A sample proves nothing about the places between.
    """
    grid = torch.linspace(0, 1, points + 2, dtype=torch.float64)
    places = grid.expand(len(start), -1)
    margins, spreads, sizes = _margins(target, start, end, own, places)
    floor = 8 * torch.finfo(margins.dtype).eps * sizes
    inner = margins[:, 1:-1]
    ends = torch.stack([margins[:, 0], margins[:, -1]], 1)
    valid = (inner > floor[:, None]).all(1) & (ends >= -floor[:, None]).all(1)
    lowest, index = margins.min(1)
    place = grid.to(index.device)[index]
    count = torch.full((len(start),), points + 2)
    if zoom:
        rows = valid.nonzero()[:, 0]
        owner, low, high = _dips(margins[rows])
        owner = rows[owner]
        for _ in range(_ROUNDS):
            if not len(owner):
                break
            share = torch.linspace(0, 1, _ZOOM, dtype=torch.float64)
            near = low[:, None] + (high - low)[:, None] * share
            found = _margins(target, start[owner], end[owner], own[owner], near)[0]
            count += _ZOOM * torch.bincount(owner.cpu(), minlength=len(count))
            least, position = found.min(1)
            for row, value, at in zip(
                owner.tolist(), least.tolist(), near.gather(1, position.cpu()[:, None])[:, 0].tolist(), strict=True
            ):
                if value < float(lowest[row]):
                    lowest[row], place[row] = value, at
                if value <= float(floor[row]):
                    valid[row] = False
            position = position.cpu()[:, None]
            low, high = (near.gather(1, (position + side).clamp(0, _ZOOM - 1))[:, 0] for side in (-1, 1))
            keep = valid[owner].cpu()
            owner, low, high = owner[keep.to(owner.device)], low[keep], high[keep]
    return Samples(valid, lowest, place, spreads, count)


def _margins(target: Field, start: Tensor, end: Tensor, own: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Margins (N, P) at places (N, P), root mean square deviation between logits (N,), largest absolute logit (N,)."""
    count = places.shape[1]
    rows = torch.arange(len(start)).repeat_interleave(count)
    flat = places.reshape(-1).to(start)
    size = max(1, _PER_PASS // start[0].numel())
    margins, spreads, sizes = [], [], []
    shape = (-1,) + (1,) * (start.dim() - 1)
    for part in torch.arange(len(rows)).split(size):
        r, t = rows[part].to(start.device), flat[part].reshape(shape)
        # exactly the ends at 0 and 1, whatever rounding does between
        x = torch.where(t < 0.5, start[r] + t * (end[r] - start[r]), end[r] - (1 - t) * (end[r] - start[r]))
        logits = target.logits(x)
        margins.append(margin_of(logits, own[r]))
        spreads.append(logits.var(1, correction=0))
        sizes.append(logits.abs().amax(1))
    whole = [torch.cat(parts).reshape(-1, count) for parts in (margins, spreads, sizes)]
    return whole[0], whole[1].mean(1).sqrt(), whole[2].amax(1)


def _dips(margins: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and intervals around interior local minima that are low beside what the margin changes next to them."""
    middle, left, right = margins[:, 1:-1], margins[:, :-2], margins[:, 2:]
    change = torch.maximum((left - middle).abs(), (right - middle).abs())
    dip = (middle <= left) & (middle <= right) & (middle <= 4 * change)
    ranked = torch.where(dip, middle, torch.inf)
    value, index = ranked.topk(min(_DIPS, ranked.shape[1]), dim=1, largest=False)
    row, column = torch.isfinite(value).nonzero(as_tuple=True)
    place = index[row, column].cpu().double() + 1
    steps = margins.shape[1] - 1
    return row, (place - 1) / steps, (place + 1) / steps
