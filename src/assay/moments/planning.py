"""What a moments analysis will cost, before it runs."""

from __future__ import annotations

from assay.errors import SubjectError
from assay.moments.config import MomentsConfig
from assay.moments.decisions import attacked_inputs
from assay.moments.evidence import planned_draws
from assay.subject import Subject


def plan(subject: Subject, config: MomentsConfig) -> str:
    """Passes and memory in plain words."""
    count = min(config.inputs, len(subject.data) if subject.data is not None else 0)
    levels = len(config.sigmas)
    draws = planned_draws(subject, config, count)
    check = f"{count * levels * draws:,} forward passes to check them" if draws else "no check by sampling"
    try:
        graph = subject.graph
    except SubjectError:
        return f"{count} inputs × {levels} noise levels, linearised (the model cannot be captured); {check}"
    widest = max(node.spec.size_per_sample for node in graph if node.name in graph.dependent)
    return (
        f"{count} inputs × {levels} noise levels through {len(graph.layers)} layers (widest {widest:,} units), "
        f"method {config.method}; "
        f"{check}{_attack(subject, config, count)}"
    )


def _attack(subject: Subject, config: MomentsConfig, count: int) -> str:
    if subject.task != "classification":
        return ""
    inputs = len(attacked_inputs(subject, config, count)[0])
    return f"; Gaussian attack on {inputs} inputs, {config.attack_steps} steps" if inputs else "; no Gaussian attack"
