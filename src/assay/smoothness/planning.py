"""What the smoothness analysis will cost, before it runs."""

from __future__ import annotations

import math

from assay.effort import Estimate, per_pass
from assay.errors import SubjectError
from assay.smoothness.config import SmoothnessConfig
from assay.smoothness.effort import fitted, followed, movements, passes
from assay.smoothness.prediction.drawn_windows import CLOSED
from assay.smoothness.prediction.plug_in import WINDOWS
from assay.subject import Subject

_MEMORY = 3e8
_COPIES = 12
"""Of the moments of all windows of large pools, as measured on SqueezeNet."""
_DOUBLE = 7.0
"""Operations of single precision that take as long as one of double, which has no fast convolutions."""
_TIE = 2e6
"""Operations that take as long as the law of one tie in the presence of one more candidate, by quasi-random points."""


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
    pools = _large_windows(subject) if "prediction" in config.parts else []
    laws = sum(min(count, WINDOWS) * math.comb(size, 2) * (size - 2) for count, size in pools)
    moments = sum(8.0 * count * size**2 for count, size in pools)
    return Estimate(text, _DOUBLE * operations + len(kinds) * _TIE * laws, _MEMORY + _COPIES * moments)


def _large_windows(subject: Subject) -> list[tuple[int, int]]:
    """Windows of every max pool whose law takes quasi-random points, and candidates in each."""
    try:
        nodes = subject.graph.layers
    except SubjectError:
        return []
    pools = [(node.spec.size_per_sample, math.prod(node.attributes["kernel_size"])) for node in nodes
             if node.op == "max_pool"]  # fmt: skip
    return [(count, size) for count, size in pools if size > CLOSED]
