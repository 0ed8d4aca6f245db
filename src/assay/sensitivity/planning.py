"""What a sensitivity analysis will cost, before it runs."""

from __future__ import annotations

from assay.sensitivity.config import SensitivityConfig
from assay.sensitivity.effort import fitted
from assay.subject import Subject


def plan(subject: Subject, config: SensitivityConfig) -> str:
    """Passes in plain words."""
    config, _ = fitted(config, subject)
    count = min(config.inputs, len(subject.data) if subject.data is not None else 0)
    sizes = len(config.relative_sizes)
    forward = count * sizes * config.random_directions
    starts = 2 + config.attack_random_starts
    gradient = count * sizes * starts * config.attack_steps
    return (
        f"{count} inputs × {sizes} sizes: {forward:,} forward passes for random directions, {gradient:,} gradient "
        f"steps of the attack, "
        f"and Jacobian norms over {subject.output_count:,} outputs"
    )
