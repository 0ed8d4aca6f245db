"""How much of the measuring a model's size affords, when the user did not say."""

from __future__ import annotations

from collections.abc import Mapping

from assay.effort import SHARE, Level, begun, changed, lowered, per_pass
from assay.errors import SubjectError
from assay.sensitivity.config import SensitivityConfig
from assay.subject import Subject

_BUDGET = 9e10
"""Activations computed by the attack's gradient steps: about two minutes on two cores."""
SECTIONS_BUDGET = 4e13
"""Multiplications and additions of the other parts together: some minutes on two cores."""
_FEWEST_INPUTS: Mapping[Level, int] = {"quick": 3, "standard": 6, "thorough": 6}
FEW: Mapping[Level, int] = {"quick": 2, "standard": 4, "thorough": 16}
"""Inputs that the other parts take of a large model."""


def fitted(config: SensitivityConfig, subject: Subject) -> tuple[SensitivityConfig, tuple[str, ...]]:
    """The configuration with unset fields at the level of effort and lowered to fit its budget, and what to know of it.

    Random starts of the attack go first, then random directions, then inputs; the costliest parts are left out last.
    What the user set stays. The budgets count activations and operations, not seconds, so the same model and data
    always get the same configuration.

    Returns:
        Configuration and warnings.
    """
    given = config.model_fields_set
    config = begun(config)
    affordable = _BUDGET * SHARE[config.effort] / activations(subject)
    changes: dict[str, int] = {}

    def steps() -> float:
        current = changed(config, changes)
        return available(current, subject) * len(current.relative_sizes) * starts(current) * current.attack_steps

    if steps() > affordable and "attack_random_starts" not in given:
        changes["attack_random_starts"] = 0
        if "random_directions" not in given:
            changes["random_directions"] = min(config.random_directions, 50)
    if steps() > affordable and "inputs" not in given:
        per_input = steps() / available(config, subject)
        fewest = _FEWEST_INPUTS[config.effort]
        changes["inputs"] = max(fewest, min(config.inputs, int(affordable / per_input)))
    notes = [lowered(changes)] if changes else []
    config = changed(config, changes)
    if "sections" not in given:
        config, left_out = _fewer_sections(config, subject)
        if left_out:
            notes.append(
                f"The model is large, so the {'part' if len(left_out) == 1 else 'parts'} on {' and '.join(left_out)} "
                f"{'was' if len(left_out) == 1 else 'were'} left out. Set sections to have them."
            )
    return config, tuple(notes)


def available(config: SensitivityConfig, subject: Subject) -> int:
    """Inputs that are analysed."""
    return min(config.inputs, len(subject.data) if subject.data is not None else 1)


def starts(config: SensitivityConfig) -> int:
    """Starts of the attack per input and size."""
    return 2 + config.attack_random_starts


def activations(subject: Subject) -> int:
    """Activations of one input, by which the attack is budgeted."""
    try:
        return max(1, sum(node.spec.size_per_sample for node in subject.graph.layers))
    except SubjectError:
        return 100 * subject.example[0].numel()


def _fewer_sections(config: SensitivityConfig, subject: Subject) -> tuple[SensitivityConfig, list[str]]:
    """Without the costliest parts, until the rest fits."""
    each, cost = per_pass(subject), section_costs(config, subject)
    budget, left_out = SECTIONS_BUDGET * SHARE[config.effort], []
    kept = list(config.sections)
    while kept and sum(cost[name] for name in kept) * each > budget:
        left_out.append(max(kept, key=lambda name: cost[name]))
        kept.remove(left_out[-1])
    return changed(config, {"sections": tuple(kept)} if left_out else {}), left_out


def section_costs(config: SensitivityConfig, subject: Subject) -> dict[str, float]:
    """Forward passes of one input in single precision that each part takes: an estimate, for large models."""
    few = min(available(config, subject), FEW[config.effort])
    runs = min(config.bits_inputs, len(subject.data) if subject.data is not None else 1)
    return {
        "norms": 300.0,
        "bounds": 300.0 + few * 150.0,
        "parameters": few * 50.0,
        "roundoff": few * len(config.formats) * 80.0,
        "bits": few * 250.0 + runs * 15.0,
    }


def measured_cost(config: SensitivityConfig, subject: Subject) -> float:
    """Forward passes of one input that the condition numbers, random directions and the attack take: an estimate."""
    count, sizes = available(config, subject), len(config.relative_sizes)
    outputs = subject.output_count
    jacobian = 1.5 * outputs if outputs <= 64 else 2.5 * min(config.max_steps, 15) + 1.5 * config.frobenius_samples
    return count * (jacobian + sizes * (config.random_directions + 1.5 * starts(config) * config.attack_steps))
