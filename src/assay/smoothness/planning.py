"""What the smoothness analysis will cost, before it runs."""

from __future__ import annotations

from assay.effort import Estimate, per_pass
from assay.smoothness.config import SmoothnessConfig
from assay.smoothness.effort import fitted, followed, movements, passes
from assay.subject import Subject

_MEMORY = 3e8
_DOUBLE = 7.0
"""Operations of single precision that take as long as one of double, which has no fast convolutions."""


def plan(subject: Subject, config: SmoothnessConfig) -> Estimate:
    """Paths, outputs and operations, in plain words and in numbers."""
    config, _ = fitted(config, subject)
    kinds = movements(config, subject)
    if not kinds:
        return Estimate("cannot run: these inputs are no pictures, and only pictures can be moved", runs=False)
    needed = passes(config, subject)
    operations = needed * per_pass(subject)
    text = (
        f"kinks of {followed(config, subject)} outputs along {config.paths} paths of each kind ({', '.join(kinds)}) "
        f"at {config.samples} points: about {needed:,.0f} forward passes of one input, "
        f"{operations / 1e9:,.0f} billion operations in double precision"
    )
    return Estimate(text, _DOUBLE * operations, _MEMORY)
