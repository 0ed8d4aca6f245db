"""What a sensitivity analysis will cost, before it runs."""

from __future__ import annotations

from assay.effort import Estimate, per_pass
from assay.errors import SubjectError
from assay.inputs import rows_per_pass
from assay.sensitivity.config import SensitivityConfig
from assay.sensitivity.effort import activations, fitted, measured_cost, section_costs, starts
from assay.sensitivity.sections.section import Context
from assay.subject import Subject


def plan(subject: Subject, config: SensitivityConfig) -> Estimate:
    """Passes, operations and memory, in plain words and in numbers."""
    config, _ = fitted(config, subject)
    count = min(config.inputs, len(subject.data) if subject.data is not None else 0)
    sizes = len(config.relative_sizes)
    forward = count * sizes * config.random_directions
    gradient = count * sizes * starts(config) * config.attack_steps
    text = (
        f"{count} inputs × {sizes} sizes: {forward:,} forward passes for random directions, {gradient:,} gradient "
        f"steps of the attack, "
        f"and Jacobian norms over {subject.output_count:,} outputs{_sections(subject, config)}"
    )
    costs = section_costs(config, subject)
    passes = measured_cost(config, subject) + sum(costs[name] for name in config.sections)
    rows = rows_per_pass(subject.example, config.batch_size, gradients=False)
    memory = 6.0 * activations(subject) * min(rows, max(sizes * config.random_directions, 1))
    disk = 8.0 * config.directions_shown * 2 * subject.example[0].numel()
    return Estimate(text, passes * per_pass(subject), memory, disk)


def _sections(subject: Subject, config: SensitivityConfig) -> str:
    """The other parts, with the inputs they are limited to."""
    if not config.sections:
        return ""
    try:
        context = Context(subject, config, subject.example, subject.example)
        few = context.few if context.large else config.section_inputs
    except SubjectError:
        return ""
    rounded = f", {len(config.formats)} number formats" if "roundoff" in config.sections else ""
    runs = f", a bit plan run on up to {config.bits_inputs} inputs" if "bits" in config.sections else ""
    return f"; then {', '.join(config.sections)} on up to {few} inputs{rounded}{runs}"
