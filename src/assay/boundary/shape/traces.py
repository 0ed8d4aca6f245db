"""Mean curvature from few products: Hutchinson, Hutch++ and XTrace, each with a standard error.

All work on a symmetric operator of the tangent space, given by its products, and return the trace.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from assay.boundary.shape.products import Products
from assay.boundary.shape.tangent import Tangent
from assay.errors import UsageError

Trace = Literal["auto", "full", "hutchinson", "hutch++", "xtrace"]
_CHUNK = 256


def trace(
    products: Products, tangent: Tangent, *, method: Trace, probes: int, generator: torch.Generator
) -> tuple[float, float]:
    """Trace of an operator on the tangent space.

    Args:
        products: (m, d) -> (m, d), already projected.
        tangent: the space, of dimension n = d - 1.
        method: `full`, `hutchinson`, `hutch++`, `xtrace`; `auto` is full when n <= probes, else hutchinson.
        probes: products to spend; with n or more of them the other methods are exact, too, and full is used.
        generator: randomness.

    Returns:
        The trace and its standard error, 0 where exact.

    Raises:
        UsageError: for an unknown method or fewer probes than a standard error needs.
    """
    if method not in {"auto", "full", "hutchinson", "hutch++", "xtrace"}:
        raise UsageError(
            f"trace={method!r} is no method.", where="trace", advice="Use auto, full, hutchinson, hutch++ or xtrace."
        )
    least = {"hutch++": 6, "xtrace": 4}.get(method, 2)
    if probes < least:
        raise UsageError(f"probes={probes} gives no standard error.", where="probes", advice=f"Use {least} or more.")
    if method == "full" or (tangent.dimension <= probes and method != "hutchinson"):
        return full(products, tangent), 0.0
    if method == "hutch++":
        return hutch_plus_plus(products, tangent, probes, generator)
    if method == "xtrace":
        return xtrace(products, tangent, probes, generator)
    return hutchinson(products, tangent, probes, generator)


def full(products: Products, tangent: Tangent) -> float:
    """The trace itself, from d - 1 products."""
    total = 0.0
    for start in range(0, tangent.dimension, _CHUNK):
        basis = tangent.basis(start, min(start + _CHUNK, tangent.dimension))
        total += float((basis * products(basis)).sum())
    return total


def hutchinson(
    products: Products, tangent: Tangent, probes: int, generator: torch.Generator, *, known: Tensor | None = None
) -> tuple[float, float]:
    """Girard 1989 and Hutchinson 1990 with directions uniform on the tangent sphere.

    Each sample is n v.Gv; its variance is 2 n / (n + 2) (||G||_F^2 - tr(G)^2 / n), below the 2 ||G||_F^2 of Gaussian
    probes and zero on a sphere.

    Args:
        products: of the operator G.
        tangent: the space, n = d - 1.
        probes: samples.
        generator: randomness.
        known: (k, d) orthonormal eigenvectors whose eigenvalues are counted apart: samples see the rest only.

    Returns:
        The trace (without the part of `known`) and its standard error.
    """
    directions = tangent.draw(probes, generator)
    size = tangent.dimension
    if known is not None and len(known):
        directions = directions - (directions @ known.T) @ known
        size -= len(known)
    directions = directions / directions.norm(dim=1, keepdim=True)
    samples = size * (directions * products(directions)).sum(1)
    return float(samples.mean()), float(samples.std() / math.sqrt(probes))


def hutch_plus_plus(
    products: Products, tangent: Tangent, probes: int, generator: torch.Generator
) -> tuple[float, float]:
    """Meyer, Musco, Musco and Woodruff 2021: a third of the products finds the large part, which is traced exactly.

    Better than Hutchinson for decaying spectra and 100 products or more; worse for flat ones.

    Returns:
        The trace and the standard error of its sampled part.
    """
    third = probes // 3
    # Rounding must not turn noise into directions: a singular sketch is one of an operator of low rank.
    range_of = _orthonormal(products(tangent.draw(third, generator)))
    exact = float((range_of * products(range_of)).sum())
    if len(range_of) < third:
        return exact, 0.0
    directions = tangent.draw(probes - 2 * third, generator)
    rest = directions - (directions @ range_of.T) @ range_of
    samples = (rest * products(rest)).sum(1)
    return exact + float(samples.mean()), float(samples.std() / math.sqrt(len(samples)))


def xtrace(products: Products, tangent: Tangent, probes: int, generator: torch.Generator) -> tuple[float, float]:
    """Epperly, Tropp and Webber 2024, sec. 2.1 and 3: every probe tests the space that the others span.

    Of m test vectors each is left out in turn: the trace on the span of the products of the others is exact, the one
    left out samples the rest. The m estimates are exchangeable; their mean is the estimate.

    Returns:
        The trace and the standard error std / sqrt(m) that the paper uses.
    """
    count = min(probes // 2, tangent.dimension)
    tests = tangent.draw(count, generator)
    sketch = products(tests)
    basis = _orthonormal(sketch)
    if len(basis) < count:  # the operator has low rank and the sketch has all of it
        return float((basis * products(basis)).sum()), 0.0
    small = basis @ products(basis).T
    small = (small + small.T) / 2
    sketched = basis @ sketch.T  # columns: products in the basis
    inside = basis @ tests.T
    # Column i: unit vector of the span of all products that is orthogonal to all products but the i-th.
    left_out = torch.linalg.inv(sketched).T
    left_out = left_out / left_out.norm(dim=0)
    part = inside - left_out * (left_out * inside).sum(0)
    explained = small.diagonal().sum() - (left_out * (small @ left_out)).sum(0)
    rest = (tests * sketch).sum(1) - 2 * (part * sketched).sum(0) + (part * (small @ part)).sum(0)
    length = tests.square().sum(1) - part.square().sum(0)
    estimates = explained + rest * (tangent.dimension - count + 1) / length
    return float(estimates.mean()), float(estimates.std() / math.sqrt(count))


def _orthonormal(vectors: Tensor) -> Tensor:
    """Rows that span the rows of (m, d): fewer than m where these are dependent."""
    left, values, right = torch.linalg.svd(vectors, full_matrices=False)
    del left
    if not len(values) or float(values[0]) == 0:
        return right[:0]
    return right[values > values[0] * 1e-7]
