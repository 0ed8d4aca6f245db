"""Products of the Hessian of F with tangent vectors, projected back to the tangent space inside the product.

Two ways give the same exact products: reverse over reverse mode with the graph of the gradient kept (no set-up, about
one backward pass per vector) and the linearised network of `Field.hessian_product` (a second of tracing, then half the
price per vector of a block). Which one is cheaper is decided by the number of products to come.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from assay.attacks.target import chunk_size
from assay.boundary.field import Field, pair, refuse_piecewise_linear
from assay.boundary.shape.places import Places
from assay.errors import NumericalError

Products = Callable[[Tensor], Tensor]
"""From flat float64 vectors (m, d) to flat float64 products (m, d)."""
TRACING_PAYS = 3000
"""Products at one point from which linearising the network is worth its set-up."""
_BLOCK = 64
_ROWS = 64


def tangent_products(places: Places, row: int, *, expected: int = 0) -> Products:
    """Products v -> P H P v at one place, not divided by the norm of the gradient.

    Args:
        places: the points.
        row: which.
        expected: number of products to come, to choose the cheaper way.

    Returns:
        The function; it holds the graph of one gradient.

    Raises:
        UsageError: for a piecewise linear network.
    """
    tangent, point = places.tangent(row), places.point[row]
    if expected >= TRACING_PAYS:
        raw: Products = places.field.hessian_product(point, int(places.label[row]), int(places.rival[row]))
    else:
        rows = slice(row, row + 1)
        every = batch_products(places.field, point[None], places.label[rows], places.rival[rows])

        raw = lambda vectors: every(vectors[None])[0]  # noqa: E731

    def products(vectors: Tensor) -> Tensor:
        given = tangent.project(vectors).to(point.dtype).reshape(-1, *point.shape)
        return tangent.project(checked(raw(given).flatten(1).double()))

    return products


def batch_products(field: Field, points: Tensor, own: Tensor, rival: Tensor) -> Callable[[Tensor], Tensor]:
    """Exact Hessian products at several points at once, from vectors (B, m, ...) to products (B, m, ...).

    Args:
        field: the network.
        points: (B, ...).
        own: (B,) classes the network says there.
        rival: (B,) the other classes.

    Returns:
        The function; it holds the graph of the gradients at all points.

    Raises:
        UsageError: for a piecewise linear network, whose products are zero and say nothing.
    """
    refuse_piecewise_linear(field.smoothness(points))
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
        z = points.detach().clone().requires_grad_(True)
        total = pair(field.target(z.clone()), own, rival).sum()
        gradient = None
        if total.requires_grad:
            (gradient,) = torch.autograd.grad(total, z, create_graph=True, allow_unused=True)

    def products(vectors: Tensor) -> Tensor:
        if gradient is None or not gradient.requires_grad:
            return torch.zeros_like(vectors)
        with sdpa_kernel(SDPBackend.MATH):
            if len(vectors) == 1 and vectors.shape[1] > 1:
                size = min(_BLOCK, chunk_size(vectors[0], field.batch_size))
                parts = [_product(gradient, z, part[:, None], batched=True) for part in vectors[0].split(size)]
                return torch.cat(parts)[:, 0][None]
            return torch.stack([_product(gradient, z, each, batched=False) for each in vectors.unbind(1)], 1)

    return products


def _product(gradient: Tensor, z: Tensor, vectors: Tensor, *, batched: bool) -> Tensor:
    (found,) = torch.autograd.grad(
        gradient, z, vectors, retain_graph=True, allow_unused=True, is_grads_batched=batched, materialize_grads=True
    )
    return found.detach()


def rayleigh(places: Places, row: int, products: Products, directions: Tensor) -> Tensor:
    """(m,) curvatures v.Hv / ||grad F|| along unit tangent directions (m, d)."""
    return (directions * products(directions)).sum(1) / places.gradient_norm[row]


def row_groups(places: Places) -> list[Tensor]:
    """Indices of rows that are taken together in one graph."""
    size = min(_ROWS, chunk_size(places.point, places.field.batch_size))
    return list(torch.arange(len(places)).split(size))


def checked(values: Tensor) -> Tensor:
    """The values, if they are numbers.

    Returns:
        The same.

    Raises:
        NumericalError: for NaN or infinity.
    """
    if not bool(torch.isfinite(values).all()):
        raise NumericalError(
            "Second derivatives of the network are NaN or infinite at a boundary point.",
            where="curvature",
            advice='Check the scale of the inputs, or use estimator="difference".',
        )
    return values
