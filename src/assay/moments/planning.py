"""What a moments analysis will cost, before it runs."""

from __future__ import annotations

from assay.effort import Estimate
from assay.errors import SubjectError
from assay.moments.batches import largest_batch_bytes
from assay.moments.config import MomentsConfig
from assay.moments.decisions import attacked_inputs
from assay.moments.effort import attack_work, available, fitted, work
from assay.moments.effort import draws as draws_of
from assay.subject import Subject


def plan(subject: Subject, config: MomentsConfig) -> Estimate:
    """Passes, operations and memory, in plain words and in numbers."""
    config, _ = fitted(config, subject)
    count = available(config, subject)
    levels = len(config.sigmas)
    draws = draws_of(config, subject, count)
    check = f"{count * levels * draws:,} forward passes to check them" if draws else "no check by sampling"
    attacked = len(attacked_inputs(subject, config, count)[0]) if subject.task == "classification" else 0
    needed = work(config, subject) + attacked * attack_work(config, subject)
    memory = float(largest_batch_bytes(subject, count, config.method, config.rank))
    disk = 8.0 * min(config.maps, count) * 4 * subject.example[0].numel()
    try:
        graph = subject.graph
    except SubjectError:
        text = f"{count} inputs × {levels} noise levels, linearised (the model cannot be captured); {check}"
        return Estimate(text, needed, memory, disk)
    widest = max(node.spec.size_per_sample for node in graph if node.name in graph.dependent)
    text = (
        f"{count} inputs × {levels} noise levels through {len(graph.layers)} layers (widest {widest:,} units), "
        f"method {config.method}; {check}{_attack(subject, config, attacked)}"
    )
    return Estimate(text, needed, memory, disk)


def _attack(subject: Subject, config: MomentsConfig, inputs: int) -> str:
    if subject.task != "classification":
        return ""
    return f"; Gaussian attack on {inputs} inputs, {config.attack_steps} steps" if inputs else "; no Gaussian attack"
