"""How much of the boundary analysis a model's size affords, when the user did not say."""

from __future__ import annotations

from assay.boundary.config import BoundaryConfig
from assay.errors import SubjectError
from assay.graph.cost import operations
from assay.subject import Subject

BUDGET = 4e12
"""Multiplications and additions of an audit's share: about two minutes on two cores."""
_FEWEST = {"inputs": 8, "pairs": 4, "spectrum_inputs": 1, "noise_draws": 200}


def fitted(config: BoundaryConfig, subject: Subject) -> tuple[BoundaryConfig, tuple[str, ...]]:
    """The configuration with unset fields lowered to fit a fixed budget, and what the reader must know of it.

    The budget counts operations, not seconds, so the same model and data always get the same configuration.

    Returns:
        Configuration and warnings.
    """
    needed = passes(config, subject) * per_pass(subject)
    if needed <= BUDGET:
        return config, ()
    share = BUDGET / needed
    changes = {
        name: max(fewest, int(getattr(config, name) * share))
        for name, fewest in _FEWEST.items()
        if name not in config.model_fields_set and getattr(config, name) > fewest
    }
    if not changes:
        return config, ()
    said = ", ".join(f"{name} = {value}" for name, value in changes.items())
    return config.model_copy(update=changes), (
        f"The model is large, so less was looked at than by default: {said}. Set these to look at more.",
    )


def per_pass(subject: Subject) -> float:
    """Operations of one forward pass of one input."""
    try:
        return float(sum(operations(subject.graph).values()))
    except SubjectError:
        return 100.0 * subject.example[0].numel()


def passes(config: BoundaryConfig, subject: Subject) -> float:
    """Forward passes of one input that the analysis takes, a backward pass counted as two: an estimate."""
    count = min(config.inputs, len(subject.data) if subject.data is not None else 1)
    total = count * 100.0  # DeepFool, bisection, refinement
    if "curvature" in config.parts:
        total += count * config.probes * 6 + config.spectrum_inputs * 100 * 4
    if "noise" in config.parts:
        total += config.spectrum_inputs * len(config.noise_levels) * config.noise_draws
    if "paths" in config.parts:
        total += 4 * config.pairs * 1500 + config.slices * 60**2
    if "detection" in config.parts:
        total += count * (1 + len(config.attack_sizes)) * (config.probes * 10 + 150)
    return total
