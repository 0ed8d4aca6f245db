"""What the boundary analysis will cost, before it runs."""

from __future__ import annotations

from assay.boundary.config import BoundaryConfig
from assay.boundary.effort import fitted, passes
from assay.effort import Estimate, per_pass
from assay.subject import Subject

_MEMORY = 3e8


def plan(subject: Subject, config: BoundaryConfig) -> Estimate:
    """Inputs, parts and operations, in plain words and in numbers."""
    if subject.task != "classification":
        return Estimate("cannot run: a regression network has no decision boundary", runs=False)
    config, _ = fitted(config, subject)
    count = min(config.inputs, len(subject.data) if subject.data is not None else 0)
    needed = passes(config, subject)
    operations = needed * per_pass(subject)
    parts = f"; then {', '.join(config.parts)}" if config.parts else ""
    text = (
        f"nearest boundary points of {count} inputs{parts}: about {needed:,.0f} forward passes of one input, "
        f"{operations / 1e9:,.0f} billion operations"
    )
    return Estimate(text, operations, _MEMORY)
