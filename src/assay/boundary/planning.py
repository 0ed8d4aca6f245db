"""What the boundary analysis will cost, before it runs."""

from __future__ import annotations

from assay.boundary.config import BoundaryConfig
from assay.boundary.effort import fitted, passes, per_pass
from assay.subject import Subject


def plan(subject: Subject, config: BoundaryConfig) -> str:
    """Inputs, parts and operations in plain words."""
    if subject.task != "classification":
        return "cannot run: a regression network has no decision boundary"
    config, _ = fitted(config, subject)
    count = min(config.inputs, len(subject.data) if subject.data is not None else 0)
    needed = passes(config, subject)
    parts = f"; then {', '.join(config.parts)}" if config.parts else ""
    return (
        f"nearest boundary points of {count} inputs{parts}: about {needed:,.0f} forward passes of one input, "
        f"{needed * per_pass(subject) / 1e9:,.0f} billion operations"
    )
