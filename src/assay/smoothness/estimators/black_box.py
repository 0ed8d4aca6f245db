"""SMP of a model of which only outputs are seen: samples of every smooth piece of a path."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from assay.grade import Grade
from assay.inputs import checked_outputs, rows_per_pass
from assay.smoothness.kinks import Smp
from assay.smoothness.network import Network, selection
from assay.smoothness.paths.path import Path
from assay.subject import Subject, as_subject, private_copy

_FEWEST = 5
_JUMP = 0.5
"""Growth of a second difference with the step below which it is a jump (0) and no kink (1)."""


def black_box(
    model: nn.Module | Subject | Network,
    path: Path,
    outputs: int | Sequence[int] | Tensor | None,
    samples: int,
    batch_size: int | None,
    notes: tuple[str, ...] = (),
) -> Smp:
    """The sampled estimate: kinks found one by one in second differences, between the knots of the path.

    Args:
        model: anything that gives outputs; evaluated in double precision where it allows that.
        path: the path.
        outputs: which outputs.
        samples: points of the path.
        batch_size: points per pass.
        notes: passed on.

    Returns:
        The estimate with notes on its resolution; grade sampled, `kinks` is None, `group` is known for one output only.
    """
    from assay.smoothness.estimators.sampled import sampled

    ends = torch.tensor([path.start, *path.knots, path.end], dtype=torch.float64)
    total = float(path.end - path.start)
    tracks, grids, sides = [], [], []
    value, energy, signed = 0.0, 0.0, 0.0
    count, resolution, broken = 0.0, 0.0, 0
    function, projection, precise = _function(model, path, outputs)
    for low, high in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        points = max(_FEWEST, round((samples - 1) * (high - low) / total) + 1)
        t = torch.linspace(low, high, points, dtype=torch.float64)
        y = _evaluated(function, path, t, batch_size)
        y = y if projection is None else y @ projection
        step = (high - low) / (points - 1)
        found = [sampled(column, step) for column in y.T]
        jumps = [torch.as_tensor(one.jump, dtype=torch.float64) for one in found]
        value = value + torch.tensor([one.value for one in found], dtype=torch.float64)
        energy = energy + torch.stack([one.square().sum() for one in jumps])
        signed = signed + torch.stack([one.sum() for one in jumps])
        count += max(len(one) for one in jumps)
        broken += max(int((one.exponent < _JUMP).sum()) for one in found)
        resolution = max(resolution, *(one.kinks_per_step for one in found))
        tracks.append(y)
        grids.append(t)
        slopes = torch.gradient(y, spacing=step, dim=0, edge_order=2)[0]
        sides.append(slopes)
    assert isinstance(value, Tensor)
    assert isinstance(energy, Tensor)
    assert isinstance(signed, Tensor)
    at_knots = [after[0] - before[-1] for before, after in pairwise(sides)]
    kept = [part[:-1] for part in grids[:-1]] + grids[-1:]
    told = [f"Only samples were seen: about {resolution:.2g} kinks per step. Above 0.2 the estimate is low."]
    if broken:
        told.append(
            f"At {broken} places the output itself seems to jump (or samples are noisy): there SMP is not defined, and "
            "the number given grows with the number of samples."
        )
    if not precise:
        told.append("The model runs in single precision only, which hides small jumps.")
    return Smp(
        value=value,
        grade=Grade.SAMPLED,
        estimator="sampled",
        group=float(value[0]) if len(value) == 1 else float("nan"),
        count=count,
        energy=energy / total,
        signed=signed,
        path=torch.stack(at_knots).abs().sum(0) if at_knots else torch.zeros_like(value),
        by_layer={},
        length=total,
        samples=sum(len(part) for part in kept),
        t=torch.cat(kept),
        outputs=torch.cat([part[: len(grid)] for part, grid in zip(tracks, kept, strict=True)]),
        slopes=torch.cat([part[: len(grid)] for part, grid in zip(sides, kept, strict=True)]),
        notes=(*notes, *told),
    )


def _function(model: nn.Module | Subject | Network, path: Path, outputs: int | Sequence[int] | Tensor | None):
    """Function from points to outputs, projection, and whether it computes in double precision."""
    if isinstance(model, Network):
        return model.values, None, True
    x = path.at(torch.tensor([path.start], dtype=torch.float64))[0]
    tensors = model.model.parameters() if isinstance(model, Subject) else getattr(model, "parameters", tuple)()
    dtype = next((p.dtype for p in tensors if p.dtype.is_floating_point), x.dtype)
    subject = as_subject(model, torch.cat([x, x]).to(dtype))
    module = private_copy(subject.model).double()
    with torch.no_grad():
        try:
            precise = module(x).dtype == torch.float64
        except RuntimeError:  # numbers of its own in single precision
            precise = False
        width = subject.model(x.to(dtype)).shape[1]
    if precise:
        return module, selection(outputs, width), True
    return lambda points: subject.model(points.to(dtype)).double(), selection(outputs, width), False


def _evaluated(function, path: Path, t: Tensor, batch_size: int | None) -> Tensor:
    parts = []
    rows = rows_per_pass(path.at(t[:1])[0], batch_size, gradients=False)
    with torch.no_grad():
        for piece in t.split(rows):
            parts.append(checked_outputs(function(path.at(piece)[0])).double())
    return torch.cat(parts)
