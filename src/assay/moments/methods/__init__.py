"""Propagation methods, one file per method: `(request) -> Moments`. To add a method, add a file and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from assay.moments.methods import dense, diagonal, factor, linearise, monte_carlo
from assay.moments.methods.request import Request
from assay.moments.result import Moments

METHODS: Mapping[str, Callable[[Request], Moments]] = MappingProxyType(
    {
        "exact": dense.exact,
        "gain": dense.gain,
        "factor": factor.factor,
        "linearize": linearise.linearise,
        "diagonal": diagonal.diagonal,
        "mc": monte_carlo.monte_carlo,
    }
)

GRAPH_METHODS = frozenset({"exact", "gain", "factor", "diagonal"})
"""Methods that need the captured graph; the others only evaluate the model."""

__all__ = ["GRAPH_METHODS", "METHODS", "Request"]
