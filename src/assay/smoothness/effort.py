"""How much of the smoothness analysis a model's size affords, when the user did not say."""

from __future__ import annotations

from assay.effort import SHARE, begun, changed, lowered, per_pass
from assay.smoothness.config import SmoothnessConfig
from assay.subject import Subject

BUDGET = 1e12
"""Multiplications and additions of an audit's share, in double precision: some minutes on two cores."""
_FEWEST = {"paths": 1, "outputs": 1, "samples": 33, "index_inputs": 100}
_QUICKEST = _FEWEST | {"samples": 17, "index_inputs": 20}


def fitted(config: SmoothnessConfig, subject: Subject) -> tuple[SmoothnessConfig, tuple[str, ...]]:
    """The configuration with unset fields at the level of effort and lowered to fit its budget, and what to know of it.

    Numbers go down first; a quick look then leaves out the costliest parts. The budget counts operations, not seconds,
    so the same model and data always get the same configuration.

    Returns:
        Configuration and warnings.
    """
    given, config = config.model_fields_set, begun(config)
    budget, each = BUDGET * SHARE[config.effort], per_pass(subject)
    fewer: dict[str, int] = {}
    for name, fewest in (_QUICKEST if config.effort == "quick" else _FEWEST).items():
        needed = passes(config, subject) * each
        asked = getattr(config, name)
        if needed <= budget:
            break
        if name in given or asked <= fewest:
            continue
        fewer[name] = max(fewest, int(asked * budget / needed))
        config = changed(config, {name: fewer[name]})
    notes, left_out = [lowered(fewer)] if fewer else [], []
    while (
        config.effort == "quick" and "parts" not in given and config.parts and passes(config, subject) * each > budget
    ):
        cost = costs(config, subject)
        left_out.append(max(config.parts, key=lambda part: cost[part]))
        config = changed(config, {"parts": tuple(part for part in config.parts if part != left_out[-1])})
    if left_out:
        notes.append(f"A quick look at a large model leaves out {' and '.join(left_out)}. Set parts to have them.")
    return config, tuple(notes)


def followed(config: SmoothnessConfig, subject: Subject) -> int:
    """Outputs that are followed."""
    return min(config.outputs, subject.output_count)


def movements(config: SmoothnessConfig, subject: Subject) -> tuple[str, ...]:
    """The kinds of paths that make sense for these inputs: pictures move, other inputs are joined by lines only."""
    shape = subject.example.shape[1:]
    picture = len(shape) == 3 and min(shape[-2:]) >= 4
    return tuple(name for name in config.movements if picture or name == "line")


def costs(config: SmoothnessConfig, subject: Subject) -> dict[str, float]:
    """Forward passes of one input that the paths and each part take, a backward pass counted as two: an estimate."""
    sweep = config.samples * (3.0 + 2.0 * followed(config, subject))
    along = config.paths * len(movements(config, subject)) * sweep
    return {"paths": along, "prediction": 2.0 * along, "remedies": 6.0 * sweep, "indices": float(config.index_inputs)}


def passes(config: SmoothnessConfig, subject: Subject) -> float:
    """Forward passes of one input that the analysis takes, a backward pass counted as two: an estimate."""
    cost = costs(config, subject)
    return cost["paths"] + sum(cost[part] for part in config.parts)
