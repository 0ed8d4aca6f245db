"""What a sensitivity analysis will cost, before it runs."""

from __future__ import annotations

from assay.errors import SubjectError
from assay.sensitivity.config import SensitivityConfig
from assay.sensitivity.effort import fitted
from assay.sensitivity.sections.section import Context
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
        f"and Jacobian norms over {subject.output_count:,} outputs{_sections(subject, config)}"
    )


def _sections(subject: Subject, config: SensitivityConfig) -> str:
    """The other parts, with the inputs they are limited to."""
    if not config.sections:
        return ""
    try:
        context = Context(subject, config, subject.example, subject.example)
        few = 4 if context.large else config.section_inputs
    except SubjectError:
        return ""
    rounded = f", {len(config.formats)} number formats" if "roundoff" in config.sections else ""
    runs = f", a bit plan run on up to {config.bits_inputs} inputs" if "bits" in config.sections else ""
    return f"; then {', '.join(config.sections)} on up to {few} inputs{rounded}{runs}"
