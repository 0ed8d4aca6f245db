"""The truth that flip probabilities are checked against: noise drawn, and the share of changed decisions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from assay.attacks.target import Model
from assay.boundary.field import Field, field_of, pair
from assay.errors import UsageError
from assay.grade import Grade
from assay.intervals import wilson
from assay.results import Displayed
from assay.seeding import content_generator

_BLOCK = 2**22  # numbers drawn at a time; a constant, so that draws do not depend on the size of passes


@dataclass(frozen=True, eq=False)
class SampledFlips(Displayed):
    """Decisions that changed among draws of noise, per input.

    Attributes:
        rate: (B,) float64 share of draws whose decision is not `label`.
        standard_error: (B,) of `rate`: sqrt(p (1 - p) / samples); 0 where no draw or every draw changed it.
        low: (B,) lower end of the Wilson interval of `rate` at 95 %.
        high: (B,) upper end.
        pair: (B,) share of draws in which the rival's logit exceeds that of `label`, NaN where no rival was given. This
            is what the boundary between the two decides; `rate` counts all other classes too.
        label: (B,) the decision asked about.
        samples: draws per input.
        grade: sampled.
    """

    rate: Tensor
    standard_error: Tensor
    low: Tensor
    high: Tensor
    pair: Tensor
    label: Tensor
    samples: int
    grade: Grade = Grade.SAMPLED


def sampled_flips(
    model: Model | Field,
    x: Tensor,
    noise: Tensor | float,
    *,
    label: Tensor | None = None,
    rival: Tensor | None = None,
    samples: int = 10_000,
    seed: int = 0,
    batch_size: int | None = None,
) -> SampledFlips:
    """Share of Gaussian draws x + N(0, noise^2 I) that the model decides differently, by sampling.

    Args:
        model: a module, a Subject, a function (B, ...) -> (B, K), or a Field.
        x: (B, ...) inputs.
        noise: standard deviation of every element, a number or (B,); draws are not clipped to any range.
        label: (B,) decisions to ask about; the model's own at x when None.
        rival: (B,) the other class of a pair; None leaves `pair` NaN.
        samples: draws per input, at least 1.
        seed: the draws of an input follow from this and the input alone.
        batch_size: samples per pass; None chooses by memory.

    Returns:
        SampledFlips. Costs `samples` forward passes per input.

    Raises:
        UsageError: for negative noise or fewer than one draw.

    Example:
        >>> found = sampled_flips(
        ...     lambda x: x, torch.tensor([[1.0, 0.0]]), 0.5, samples=2000
        ... )  # P = Phi(-sqrt(2)) = 0.079
        >>> bool((found.low < 0.0787) & (0.0787 < found.high))
        True
    """
    field = field_of(model, batch_size=batch_size)
    x = field.prepared(x)
    spread = torch.as_tensor(noise, dtype=torch.float64).reshape(-1).expand(len(x))
    if samples < 1 or not bool((torch.isfinite(spread) & (spread >= 0)).all()):
        raise UsageError(
            f"Sampling needs at least one draw and noise of 0 or more, got {samples} draws.", where="samples or noise"
        )
    own = field.label(x) if label is None else label.to(x.device)
    rate, pairs = [], []
    step = max(1, _BLOCK // x[0].numel())
    for row, point in enumerate(x):
        generator = content_generator(point, seed)
        changed = beaten = 0
        for begin in range(0, samples, step):
            count = min(step, samples - begin)
            draws = torch.randn((count, *point.shape), generator=generator, dtype=x.dtype).to(x.device)
            logits = field.logits(point + float(spread[row]) * draws)
            mine = own[row].expand(count)
            changed += int((logits.argmax(1) != mine).sum())
            if rival is not None:
                beaten += int((pair(logits, mine, rival[row].to(x.device).expand(count)) > 0).sum())
        rate.append(changed / samples)
        pairs.append(beaten / samples if rival is not None else torch.nan)
    share = torch.tensor(rate, dtype=torch.float64)
    ends = torch.tensor([wilson(each, samples) for each in rate], dtype=torch.float64)
    error = (share * (1 - share) / samples).sqrt()
    return SampledFlips(
        share, error, ends[:, 0], ends[:, 1], torch.tensor(pairs, dtype=torch.float64), own.cpu(), samples
    )
