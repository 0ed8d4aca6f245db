"""How much of the moments analysis a model's size affords, when the user did not say."""

from __future__ import annotations

from collections.abc import Mapping

from assay.effort import SHARE, Level, begun, changed, lowered, per_pass
from assay.moments.batches import activations
from assay.moments.config import MomentsConfig
from assay.subject import Subject

BUDGET = 2e13
"""Multiplications and additions of an audit's share: some minutes on two cores."""
FEWEST: Mapping[Level, int] = {"quick": 2, "standard": 4, "thorough": 4}
"""Inputs that are looked at whatever they cost."""
_DRAWS: Mapping[Level, tuple[int, int]] = {"quick": (50, 500), "standard": (100, 1000), "thorough": (100, 10000)}
_CHECKED = 1.2e11
"""Activations computed for the check by sampling when the number of draws is not given."""


def fitted(config: MomentsConfig, subject: Subject) -> tuple[MomentsConfig, tuple[str, ...]]:
    """The configuration with unset fields at the level of effort, fewer inputs where that would exceed its budget.

    The budget counts operations, not seconds, so the same model and data always get the same configuration.

    Returns:
        Configuration and warnings.
    """
    config = begun(config)
    budget = BUDGET * SHARE[config.effort]
    count = available(config, subject)
    needed = work(config, subject)
    if needed <= budget or "inputs" in config.model_fields_set:
        return config, ()
    fewer = min(count, max(FEWEST[config.effort], int(count * budget / needed)))
    if fewer >= count:
        return config, ()
    return changed(config, {"inputs": fewer}), (lowered({"inputs": fewer}),)


def available(config: MomentsConfig, subject: Subject) -> int:
    """Inputs that are analysed."""
    return min(config.inputs, len(subject.data) if subject.data is not None else 0)


def draws(config: MomentsConfig, subject: Subject, inputs: int) -> int:
    """Draws per input and level: as asked, else what a fixed budget of activations affords, within limits."""
    if config.check is not None:
        return config.check
    fewest, most = _DRAWS[config.effort]
    budget = _CHECKED * SHARE[config.effort]
    affordable = int(budget / (activations(subject) * max(1, inputs) * len(config.sigmas)))
    return max(fewest, min(most, affordable // fewest * fewest))


def work(config: MomentsConfig, subject: Subject) -> float:
    """Operations of propagation by columns and its check, an estimate."""
    count = available(config, subject)
    followed = min(
        subject.output_count, 64 if subject.task == "regression" or subject.output_count <= 64 else config.top
    )
    columns = config.rank + 10 + 2 * followed
    maps = min(config.maps, count) * 2 * columns
    return (count * len(config.sigmas) * (columns + draws(config, subject, count)) + maps) * per_pass(subject)


def attack_work(config: MomentsConfig, subject: Subject) -> float:
    """Operations of the Gaussian attack on one input, an estimate: its columns forward and backward at every step."""
    return 3.0 * config.attack_steps * (config.rank + 10) * per_pass(subject)
