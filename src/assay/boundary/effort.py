"""How much of the boundary analysis a model's size affords, when the user did not say."""

from __future__ import annotations

from assay.boundary.config import BoundaryConfig
from assay.errors import SubjectError
from assay.graph.cost import operations
from assay.subject import Subject

BUDGET = 4e12
"""Multiplications and additions of an audit's share: some minutes on two cores."""
CERTIFIED_UNITS = 50_000
"""Activations per input up to which proofs, which go back through every unit, are affordable."""
_FEWEST = {"inputs": 8, "pairs": 4, "spectrum_inputs": 1, "noise_draws": 200}
_PROOFS = ("certified_inputs", "certified_segments")


def fitted(config: BoundaryConfig, subject: Subject) -> tuple[BoundaryConfig, tuple[str, ...]]:
    """The configuration with unset fields lowered to fit a fixed budget, and what the reader must know of it.

    Numbers go down first, then the costliest parts are left out. The budget counts operations, not seconds, so the same
    model and data always get the same configuration.

    Returns:
        Configuration and warnings.
    """
    each, notes, changes = per_pass(subject), [], {}
    if _units(subject) > CERTIFIED_UNITS:
        changes |= {name: 0 for name in _PROOFS if name not in config.model_fields_set}
        if changes:
            notes.append(
                "Nothing is certified: proofs go back through every unit, and there are too many "
                f"({_units(subject):,} activations). Ask for them with {' and '.join(changes)}."
            )
    needed = passes(config, subject) * each
    if needed > BUDGET:
        lowered = {
            name: max(fewest, int(getattr(config, name) * BUDGET / needed))
            for name, fewest in _FEWEST.items()
            if name not in config.model_fields_set and getattr(config, name) > fewest
        }
        changes |= lowered
        if lowered:
            said = ", ".join(f"{name} = {value}" for name, value in lowered.items())
            notes.append(
                f"The model is large, so less was looked at than by default: {said}. Set these to look at more."
            )
    config = config.model_copy(update=changes)
    if "parts" not in config.model_fields_set:
        config, left_out = _fewer_parts(config, subject, each)
        if left_out:
            notes.append(
                f"The model is large, so {' and '.join(left_out)} {'was' if len(left_out) == 1 else 'were'} left out. "
                "Set parts to have them."
            )
    return config, tuple(notes)


def _fewer_parts(config: BoundaryConfig, subject: Subject, each: float) -> tuple[BoundaryConfig, list[str]]:
    """Without the costliest parts, until the rest fits."""
    left_out: list[str] = []
    while config.parts and passes(config, subject) * each > BUDGET:
        cost = costs(config, subject)
        worst = max(config.parts, key=lambda part: cost[part])
        left_out.append(worst)
        config = config.model_copy(update={"parts": tuple(part for part in config.parts if part != worst)})
    return config, left_out


def per_pass(subject: Subject) -> float:
    """Operations of one forward pass of one input."""
    try:
        return float(sum(operations(subject.graph).values()))
    except SubjectError:
        return 100.0 * subject.example[0].numel()


def _units(subject: Subject) -> int:
    try:
        return sum(node.spec.size_per_sample for node in subject.graph.layers)
    except SubjectError:
        return 0


def costs(config: BoundaryConfig, subject: Subject) -> dict[str, float]:
    """Forward passes of one input that each part takes, a backward pass counted as two: an estimate."""
    count = min(config.inputs, len(subject.data) if subject.data is not None else 1)
    return {
        "distances": count * 400.0,  # DeepFool, bisection, refinement
        "curvature": count * config.probes * 18.0 + config.spectrum_inputs * 400,
        "noise": config.spectrum_inputs * len(config.noise_levels) * (config.noise_draws + 6.0 * config.probes),
        "paths": 4.0 * config.pairs * 3000 + config.slices * 60**2,
        "detection": count * (1 + len(config.attack_sizes)) * (config.probes * 10.0 + 150),
    }


def passes(config: BoundaryConfig, subject: Subject) -> float:
    """Forward passes of one input that the analysis takes, a backward pass counted as two: an estimate."""
    cost = costs(config, subject)
    return cost["distances"] + sum(cost[part] for part in config.parts)
