"""Propagation methods, one file per method: `(request, *, options) -> Moments`.

To add a method, add a file and a line here; its keyword-only parameters become options of `propagate`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType

from assay.moments.methods import (
    control_variate,
    cumulant,
    dense,
    diagonal,
    factor,
    linearise,
    monte_carlo,
    split,
    two_stage,
)
from assay.moments.methods.request import Request
from assay.moments.result import Moments

METHODS: Mapping[str, Callable[..., Moments]] = MappingProxyType(
    {
        "exact": dense.exact,
        "gain": dense.gain,
        "cumulant": cumulant.cumulant,
        "factor": factor.factor,
        "linearize": linearise.linearise,
        "diagonal": diagonal.diagonal,
        "mc": monte_carlo.monte_carlo,
        "two_stage": two_stage.two_stage,
        "split": split.split,
        "mc_cv": control_variate.control_variate,
    }
)

GRAPH_METHODS = frozenset({"exact", "gain", "cumulant", "factor", "diagonal", "split"})
"""Methods that need the captured graph; the others only evaluate the model."""


def option_names(method: str) -> tuple[str, ...]:
    """Options that one method takes beyond those of every method."""
    parameters = inspect.signature(METHODS[method]).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)


__all__ = ["GRAPH_METHODS", "METHODS", "Request", "option_names"]
