"""Search for the input change of a given size that changes the output most: projected gradient ascent on the sphere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from assay.errors import UsageError
from assay.probe import Probe
from assay.results import Displayed


@dataclass(frozen=True, eq=False)
class Response(Displayed):
    """The largest output change found for every sample.

    Attributes:
        change: (B,) ||f(x + d) - f(x)||, float64; a lower estimate of the worst case, grade `sampled`.
        perturbation: (B, ...) the input change d that caused it.
        start: (B,) index of the start that led there.
    """

    change: Tensor
    perturbation: Tensor
    start: Tensor


def largest_response(
    probe: Probe,
    x: Tensor,
    radius: Tensor,
    starts: Tensor,
    *,
    steps: int = 30,
    first_step: float = 10.0,
    last_step: float = 0.1,
    bounds: tuple[float, float] | None = None,
) -> Response:
    """Maximise ||f(x + d) - f(x)|| over ||d|| = radius from several starts, keeping the best point of every path.

    Each step moves d / radius by `step` along the normalised gradient and projects back to the sphere; the step falls
    geometrically from `first_step` to `last_step`. Cost per sample and start: `steps` passes forward and backward and
    one forward; memory: the activations of B S samples, S the number of starts. With `bounds`, x + d is clipped to the
    legal range after each projection, so that ||d|| may be smaller than the radius.

    Args:
        probe: the model as a function.
        x: (B, ...) inputs.
        radius: (B,) size of the change.
        starts: (B, S, ...) directions to start from; any length but zero.
        steps: gradient steps.
        first_step: step length at the start, in units of the radius; long ones act like power iteration.
        last_step: step length at the end.
        bounds: lowest and highest legal input value, or None; inputs already outside are left where they are.

    Returns:
        The best point of every sample's paths.

    Raises:
        UsageError: for shapes that do not fit, or fewer than one step or start.

    Example:
        >>> from torch import nn
        >>> probe, x = Probe(nn.Linear(2, 1, bias=False)), torch.zeros(1, 2)
        >>> _ = probe.model.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> found = largest_response(probe, x, torch.tensor([0.1]).double(), torch.ones(1, 1, 2))
        >>> found.change  # 0.1 times the norm of (3, 4)
        tensor([0.5000], dtype=torch.float64)
    """
    count = starts.shape[1] if starts.dim() > 1 else 0
    if steps < 1 or count < 1 or starts.shape != (len(x), count, *x.shape[1:]) or radius.shape != (len(x),):
        raise UsageError(
            f"x {tuple(x.shape)}, radius {tuple(radius.shape)}, starts {tuple(starts.shape)} and steps={steps} do "
            "not fit.",
            where="largest_response",
            advice="Give radius (B,), starts (B, S, ...) with S >= 1 and at least one step.",
        )
    clean = probe(x).repeat_interleave(count, 0)
    x = x.repeat_interleave(count, 0)
    flat_radius = radius.to(x.dtype).repeat_interleave(count)[:, None]
    low, high = (None, None) if bounds is None else (x.clamp(max=bounds[0]), x.clamp(min=bounds[1]))

    def placed(direction: Tensor) -> Tensor:
        """On the sphere, and inside the bounds where there are any."""
        change = (_unit(direction) * flat_radius).reshape(x.shape)
        return change if low is None or high is None else torch.minimum(torch.maximum(x + change, low), high) - x

    change = placed(starts.to(x.dtype).reshape(len(x), -1))
    best = torch.full((len(x),), -1.0, dtype=torch.float64)
    best_change = change
    scale = torch.where(flat_radius == 0, torch.ones_like(flat_radius), flat_radius)
    for index in range(steps + 1):
        outputs, pullback = probe.vjp(x + change) if index < steps else (probe(x + change), None)
        difference = outputs - clean
        size = difference.double().norm(dim=1)
        better = size > best
        best = torch.where(better, size, best)
        best_change = torch.where(better.reshape(-1, *[1] * (x.dim() - 1)), change, best_change)
        if pullback is None:
            break
        unit = difference / torch.where(size == 0, 1.0, size).to(difference.dtype)[:, None]
        gradient = _unit(pullback(unit).flatten(1))
        step = first_step * (last_step / first_step) ** (index / max(1, steps - 1))
        change = placed(change.flatten(1) / scale + step * gradient)
    table = best.reshape(-1, count)
    start = table.argmax(1)
    chosen = start + count * torch.arange(len(start))
    return Response(best[chosen], best_change[chosen], start)


def _unit(vectors: Tensor) -> Tensor:
    """Rows of length one, however small they were; zero rows stay zero."""
    peak = vectors.abs().amax(1, keepdim=True)  # divided out first, so that squares do not underflow
    vectors = vectors / torch.where(peak == 0, torch.ones_like(peak), peak)
    length = vectors.norm(dim=1, keepdim=True)
    return vectors / torch.where(length == 0, torch.ones_like(length), length)
