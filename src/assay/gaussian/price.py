"""Functions whose second derivative is a polynomial times the normal density: GELU, and Phi(x) with it erf.

Price's theorem (1958), used twice, gives what an expected-Jacobian map leaves of the covariance of f(x) and f(y),
    Cov(f(x), f(y)) - c E f' E f' = integral_0^c (c - t) E_t[f''(x) f''(y)] dt,
where E_t has covariance t. With f'' = p(x) phi(x) the expectation is elementary: two more Gaussian factors make a
Gaussian again. Nothing is subtracted, so tiny noise and single precision lose no digits, and at x = y it is the
variance that the map leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from assay.gaussian.blocks import pieces
from assay.gaussian.normal import FAR
from assay.gaussian.quadrature import legendre

_BLOCK = 1 << 15
"""Elements evaluated together where no derivatives are wanted: temporaries stay small."""

_SCHEDULE = {
    torch.float64: ((0.3, 8), (0.6, 12), (0.85, 20), (0.96, 36), (1.0, 80)),
    torch.float32: ((0.3, 4), (0.6, 6), (0.85, 10), (0.96, 18), (1.0, 40)),
}
"""(largest |r|, nodes): r = t / (S1 S2) stays below 1, and nears it only for noise far wider than the function."""


class Tilted(NamedTuple):
    """Law of (x, y) weighted with phi(x) phi(y): Gaussian with these means, variances and covariance."""

    mean1: Tensor
    mean2: Tensor
    variance1: Tensor
    variance2: Tensor
    covariance: Tensor


Curvature = Callable[[Tilted], Tensor]


def gelu_curvature(law: Tilted) -> Tensor:
    """E[(2 - x^2)(2 - y^2)], from GELU'' = (2 - x^2) phi(x)."""
    first = 2 - law.mean1.square() - law.variance1
    second = 2 - law.mean2.square() - law.variance2
    return first * second + law.covariance * (4 * law.mean1 * law.mean2 + 2 * law.covariance)


def probit_curvature(law: Tilted) -> Tensor:
    """E[x y], from Phi'' = -x phi(x)."""
    return law.mean1 * law.mean2 + law.covariance


def price_covariance(
    curvature: Curvature, mean1: Tensor, variance1: Tensor, mean2: Tensor, variance2: Tensor, covariance: Tensor
) -> Tensor:
    """What the first-order term leaves of Cov(f(x), f(y)): the integral above.

    Args:
        curvature: E[p(x) p(y)] under the tilted law, where f'' = p phi.
        mean1: means of x, any shape.
        variance1: variances of x, zero or larger.
        mean2: means of y.
        variance2: variances of y.
        covariance: covariances of x and y, at most sqrt(variance1 variance2) in magnitude. All five broadcast.

    Returns:
        Cov(f(x), f(y)) - covariance E f'(x) E f'(y), of the broadcast shape. Absolute error below 1e-14 times
        sqrt(variance1 variance2) in float64 for standard deviations up to 10. Differentiating stores the nodes, 8 to
        80 per element; without derivatives memory does not depend on them. Grade: exact.

    Example:
        >>> one = torch.ones((), dtype=torch.float64)
        >>> round(float(price_covariance(gelu_curvature, 0 * one, one, 0 * one, one, 0.5 * one)), 9)
        0.022717443
    """
    spread1, spread2 = 1 + variance1, 1 + variance2
    root1, root2 = spread1.sqrt(), spread2.sqrt()
    standard1, standard2 = (mean1 / root1).clamp(-FAR, FAR), (mean2 / root2).clamp(-FAR, FAR)
    arguments = (standard1, variance1, spread1, root1, standard2, variance2, spread2, root2, covariance)
    shape = torch.broadcast_shapes(*(argument.shape for argument in arguments))
    views = [argument.expand(shape) for argument in arguments]
    if torch.is_grad_enabled() and any(argument.requires_grad for argument in arguments):
        return _by_nodes(curvature, *(view.reshape(-1) for view in views)).reshape(shape)
    result = torch.empty(shape, dtype=covariance.dtype, device=covariance.device)
    for place in pieces(shape, _BLOCK):
        piece = [view[place].reshape(-1) for view in views]
        result[place] = _by_nodes(curvature, *piece).reshape(result[place].shape)
    return result


def _by_nodes(curvature: Curvature, *arguments: Tensor) -> Tensor:
    """Each element with as many nodes as its r needs."""
    root1, root2, covariance = arguments[3], arguments[7], arguments[8]
    magnitude = (covariance / (root1 * root2)).detach().abs()
    result, below = torch.zeros_like(covariance), -1.0
    for limit, nodes in _SCHEDULE[covariance.dtype]:
        index = ((magnitude > below) & (magnitude <= limit)).nonzero().squeeze(1)
        below = limit
        if index.numel() == magnitude.numel():
            return _integral(curvature, nodes, *arguments)
        if index.numel():
            result = result.index_put((index,), _integral(curvature, nodes, *(a[index] for a in arguments)))
    return result


def _integral(
    curvature: Curvature,
    nodes: int,
    standard1: Tensor,
    variance1: Tensor,
    spread1: Tensor,
    root1: Tensor,
    standard2: Tensor,
    variance2: Tensor,
    spread2: Tensor,
    root2: Tensor,
    covariance: Tensor,
) -> Tensor:
    """Gauss-Legendre over the angle asin(t / (S1 S2)), as for two rectified variables."""
    scale = root1 * root2
    margin = 4 * torch.finfo(scale.dtype).eps
    angle = torch.asin((covariance / scale).clamp(-1 + margin, 1 - margin))
    mean1, mean2 = standard1 * root1, standard2 * root2
    half_square, product = 0.5 * (standard1 - standard2).square(), standard1 * standard2
    total = torch.zeros_like(covariance)
    for node, weight in legendre(nodes):
        r = torch.sin(angle * node)
        t = scale * r
        rest = (1 - r) * (1 + r)
        determinant = scale.square() * rest
        square = t.square()
        law = Tilted(
            (spread2 * mean1 - t * mean2) / determinant,
            (spread1 * mean2 - t * mean1) / determinant,
            (variance1 * spread2 - square) / determinant,
            (variance2 * spread1 - square) / determinant,
            t / determinant,
        )
        # (h^2 - 2 r h k + k^2) / (2 (1 - r^2)), written so that h near k does not cancel
        height = torch.exp(-(half_square / (1 - r) + product) / (1 + r))
        total = total + weight * (covariance - t) * height * curvature(law)
    return total * angle / (2 * math.pi)
