"""How much of the smoothness analysis a model's size affords, when the user did not say."""

from __future__ import annotations

from assay.errors import SubjectError
from assay.graph.cost import operations
from assay.smoothness.config import SmoothnessConfig
from assay.subject import Subject

BUDGET = 1e12
"""Multiplications and additions of an audit's share, in double precision: some minutes on two cores."""
_FEWEST = {"paths": 1, "outputs": 1, "samples": 33, "index_inputs": 100}


def fitted(config: SmoothnessConfig, subject: Subject) -> tuple[SmoothnessConfig, tuple[str, ...]]:
    """The configuration with unset fields lowered to fit a fixed budget, and what the reader must know of it.

    The budget counts operations, not seconds, so the same model and data always get the same configuration.

    Returns:
        Configuration and warnings.
    """
    each, lowered = per_pass(subject), {}
    for name, fewest in _FEWEST.items():
        needed = passes(config, subject) * each
        asked = getattr(config, name)
        if needed <= BUDGET:
            break
        if name in config.model_fields_set or asked <= fewest:
            continue
        lowered[name] = max(fewest, int(asked * BUDGET / needed))
        config = config.model_copy(update={name: lowered[name]})
    if not lowered:
        return config, ()
    said = ", ".join(f"{name} = {value}" for name, value in lowered.items())
    return config, (f"The model is large, so less was looked at than by default: {said}. Set these to look at more.",)


def per_pass(subject: Subject) -> float:
    """Operations of one forward pass of one input."""
    try:
        return float(sum(operations(subject.graph).values()))
    except SubjectError:
        return 100.0 * subject.example[0].numel()


def followed(config: SmoothnessConfig, subject: Subject) -> int:
    """Outputs that are followed."""
    return min(config.outputs, subject.output_count)


def movements(config: SmoothnessConfig, subject: Subject) -> tuple[str, ...]:
    """The kinds of paths that make sense for these inputs: pictures move, other inputs are joined by lines only."""
    shape = subject.example.shape[1:]
    picture = len(shape) == 3 and min(shape[-2:]) >= 4
    return tuple(name for name in config.movements if picture or name == "line")


def passes(config: SmoothnessConfig, subject: Subject) -> float:
    """Forward passes of one input that the analysis takes, a backward pass counted as two: an estimate."""
    sweep = config.samples * (3.0 + 2.0 * followed(config, subject))
    along = config.paths * len(movements(config, subject)) * sweep
    parts = {"prediction": 2.0 * along, "remedies": 6.0 * sweep, "indices": float(config.index_inputs)}
    return along + sum(parts[part] for part in config.parts)
