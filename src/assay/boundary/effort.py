"""How much of the boundary analysis a model's size affords, when the user did not say."""

from __future__ import annotations

from assay.boundary.config import BoundaryConfig
from assay.effort import SHARE, begun, changed, lowered, per_pass
from assay.errors import SubjectError
from assay.subject import Subject

BUDGET = 1e13
"""Multiplications and additions of an audit's share: some minutes on two cores."""
CERTIFIED_UNITS = 50_000
"""Activations per input up to which proofs, which go back through every unit, are affordable."""
_FEWEST = {"inputs": 8, "pairs": 4, "spectrum_inputs": 1, "noise_draws": 200}
_QUICKEST = _FEWEST | {"inputs": 3, "pairs": 2}
_PROOFS = ("certified_inputs", "certified_segments")


def fitted(config: BoundaryConfig, subject: Subject) -> tuple[BoundaryConfig, tuple[str, ...]]:
    """The configuration with unset fields at the level of effort and lowered to fit its budget, and what to know of it.

    Numbers go down first, then the costliest parts are left out. The budget counts operations, not seconds, so the same
    model and data always get the same configuration.

    Returns:
        Configuration and warnings.
    """
    given, config = config.model_fields_set, begun(config)
    each, notes = per_pass(subject), []
    budget = BUDGET * SHARE[config.effort]
    if _units(subject) > CERTIFIED_UNITS:
        proofs = {name: 0 for name in _PROOFS if name not in given}
        config = changed(config, proofs)
        if proofs:
            notes.append(
                "Nothing is certified: proofs go back through every unit, and there are too many "
                f"({_units(subject):,} activations). Ask for them with {' and '.join(proofs)}."
            )
    needed = passes(config, subject) * each
    if needed > budget:
        fewer = {
            name: max(fewest, int(getattr(config, name) * budget / needed))
            for name, fewest in (_QUICKEST if config.effort == "quick" else _FEWEST).items()
            if name not in given and getattr(config, name) > fewest
        }
        config = changed(config, fewer)
        notes += [lowered(fewer)] if fewer else []
    if "parts" not in given:
        config, left_out = _fewer_parts(config, subject, each, budget)
        if left_out:
            notes.append(
                f"The model is large, so {' and '.join(left_out)} {'was' if len(left_out) == 1 else 'were'} left out. "
                "Set parts to have them."
            )
    return config, tuple(notes)


def _fewer_parts(
    config: BoundaryConfig, subject: Subject, each: float, budget: float
) -> tuple[BoundaryConfig, list[str]]:
    """Without the costliest parts, until the rest fits."""
    left_out: list[str] = []
    while config.parts and passes(config, subject) * each > budget:
        cost = costs(config, subject)
        worst = max(config.parts, key=lambda part: cost[part])
        left_out.append(worst)
        config = changed(config, {"parts": tuple(part for part in config.parts if part != worst)})
    return config, left_out


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
