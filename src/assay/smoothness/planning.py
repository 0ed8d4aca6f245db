"""What the smoothness analysis will cost, before it runs."""

from __future__ import annotations

from assay.smoothness.config import SmoothnessConfig
from assay.smoothness.effort import fitted, followed, movements, passes, per_pass
from assay.subject import Subject


def plan(subject: Subject, config: SmoothnessConfig) -> str:
    """Paths, outputs and operations in plain words."""
    config, _ = fitted(config, subject)
    kinds = movements(config, subject)
    if not kinds:
        return "cannot run: these inputs are no pictures, and only pictures can be moved"
    needed = passes(config, subject)
    return (
        f"kinks of {followed(config, subject)} outputs along {config.paths} paths of each kind ({', '.join(kinds)}) "
        f"at {config.samples} points: about {needed:,.0f} forward passes of one input, "
        f"{needed * per_pass(subject) / 1e9:,.0f} billion operations in double precision"
    )
