"""How much of the measuring a model's size affords, when the user did not say."""

from __future__ import annotations

from assay.errors import SubjectError
from assay.sensitivity.config import SensitivityConfig
from assay.subject import Subject

_BUDGET = 9e10
"""Activations computed by the attack's gradient steps: about two minutes on two cores."""
_FEWEST_INPUTS = 6


def fitted(config: SensitivityConfig, subject: Subject) -> tuple[SensitivityConfig, tuple[str, ...]]:
    """The configuration with unset fields lowered to fit a fixed budget, and what the reader must know of it.

    Random starts of the attack go first, then random directions, then inputs; what the user set stays. The budget
    counts activations, not seconds, so the same model and data always get the same configuration.

    Returns:
        Configuration and warnings.
    """
    affordable = _BUDGET / _activations(subject)
    changes: dict[str, int] = {}

    def steps() -> float:
        current = config.model_copy(update=changes)
        count = min(current.inputs, len(subject.data) if subject.data is not None else 1)
        return count * len(current.relative_sizes) * (2 + current.attack_random_starts) * current.attack_steps

    if steps() > affordable and "attack_random_starts" not in config.model_fields_set:
        changes["attack_random_starts"] = 0
        if "random_directions" not in config.model_fields_set:
            changes["random_directions"] = min(config.random_directions, 50)
    if steps() > affordable and "inputs" not in config.model_fields_set:
        per_input = steps() / min(config.inputs, len(subject.data) if subject.data is not None else 1)
        changes["inputs"] = max(_FEWEST_INPUTS, min(config.inputs, int(affordable / per_input)))
    if not changes:
        return config, ()
    said = ", ".join(f"{name} = {value}" for name, value in changes.items())
    return config.model_copy(update=changes), (
        f"The model is large, so less was measured than by default: {said}. Set these to measure more.",
    )


def _activations(subject: Subject) -> int:
    try:
        return max(1, sum(node.spec.size_per_sample for node in subject.graph.layers))
    except SubjectError:
        return 100 * subject.example[0].numel()
