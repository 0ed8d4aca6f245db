"""Past Gaussian closure: full covariance with third and fourth cumulants of every layer."""

from __future__ import annotations

from dataclasses import replace

import torch

from assay.covariance import select
from assay.errors import UsageError
from assay.graph import OPERATORS
from assay.moments.cumulants import CumulantDomain
from assay.moments.layers import average_layers
from assay.moments.methods.dense import outcome
from assay.moments.methods.request import Request
from assay.moments.result import Moments

MOST_SOURCES = 8192
"""Units of non-linearities in the whole network: matrices of this size squared are held."""
_ELEMENTS = 60_000_000
"""Elements of one such matrix over a chunk of inputs."""


def cumulant(request: Request) -> Moments:
    """As ``exact``, corrected to leading order for the non-Gaussian shape of every pre-activation.

    Cost: with N units of non-linearities in the network and n in a layer, O(n N^2) per layer beside the cost of
    ``exact``; memory 3 N^2 per input.

    Returns:
        Moments; closed form: exact up to terms that fall faster than 1 / width.

    Raises:
        UsageError: when the network has more than 8,192 such units.
    """
    sources = source_count(request)
    if sources > MOST_SOURCES:
        raise UsageError(
            f"The network bends {sources:,} units; cumulants of more than {MOST_SOURCES:,} do not fit.",
            where="method='cumulant'",
            advice="Use method='mc_cv', or 'factor'.",
        )
    batch = request.mean.shape[0]
    size = max(1, min(batch, _ELEMENTS // max(1, sources * sources)))
    parts = [_walk(request, slice(start, start + size)) for start in range(0, batch, size)]
    warnings = dict.fromkeys(warning for part in parts for warning in part.warnings)
    return replace(
        parts[0],
        mean=torch.cat([part.mean for part in parts]),
        covariance=torch.cat([part.covariance for part in parts]),
        warnings=tuple(warnings),
        layers=average_layers([part.layers for part in parts], [len(part.mean) for part in parts]),
    )


def _walk(request: Request, rows: slice) -> Moments:
    part = replace(
        request,
        mean=request.mean[rows],
        covariance=select(request.covariance, rows),
        outputs=None if request.outputs is None else request.outputs[rows],
    )
    domain = CumulantDomain(fallback=request.fallback)
    found = outcome(part, domain, "cumulant")
    if not domain.beyond:
        return found
    largest = max(max(domain.shape[name]) for name in domain.beyond)
    warning = (
        f"{len(domain.beyond)} of {len(domain.shape)} non-linearities bend values too far from Gaussian for the series "
        f"(standardised cumulants up to {largest:.1f}): add check=N, or use method='mc_cv'."
    )
    return replace(found, warnings=(*found.warnings, warning))


def source_count(request: Request) -> int:
    """Units of elementwise non-linearities and maxima that noise reaches."""
    bending = {name for name, operator in OPERATORS.items() if operator.elementwise and not operator.linear_in}
    bending |= {"maximum", "minimum"}
    nodes = [node for node in request.graph.nodes if node.name in request.graph.dependent and node.op in bending]
    return sum(node.spec.size_per_sample for node in nodes)
