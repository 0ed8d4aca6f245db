"""Two Gaussians: the bivariate normal distribution and the covariance of two rectified variables.

Both come from one integral over the correlation (Plackett 1954, Price 1958). With phi2 the bivariate density,
    Phi2(a, b; rho) = Phi(a) Phi(b) + integral_0^rho phi2(a, b; s) ds
    K(a, b; rho)    = rho Phi(a) Phi(b) + integral_0^rho (rho - s) phi2(a, b; s) ds = Cov(relu(a + z1), relu(b + z2)),
which after s = sin t (Drezner and Wesolowsky 1990) is smooth. Near |rho| = 1 a boundary layer of width |a - b|
appears; there the integral is taken from the other end, where five terms of it are closed (the idea of Genz 2004 for
Phi2). Neither form contains a difference of large numbers, so means of any size are safe.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from assay.gaussian.arguments import Number, as_tensors, require_correlation, require_deviation
from assay.gaussian.blocks import pieces
from assay.gaussian.elementwise import Elementwise
from assay.gaussian.normal import FAR, ROOT_TWO_PI, density, distribution
from assay.gaussian.quadrature import legendre
from assay.gaussian.rectified import comonotone_covariance, rectified, standardise

_BLOCK = 1 << 18
"""Elements evaluated together: temporaries stay in cache, and memory does not grow with n x n inputs."""

_SCHEDULE = {
    torch.float64: ((0.2, 6), (0.5, 8), (0.75, 12), (0.9, 18)),
    torch.float32: ((0.5, 4), (0.9, 6)),
}
"""(largest |rho|, nodes) that reach the round-off of the dtype; beyond the last entry the end correction takes over."""

_LEAST_STRIP = 64
"""Rows evaluated together by `rectified_covariance_matrix`."""

_GRADIENT_MARGIN = {torch.float64: 1e-12, torch.float32: 1e-7}
"""Distance of |rho| from 1 kept in derivatives, where the conditional standard deviation would be zero."""


def _arc_integral(a: Tensor, b: Tensor, rho: Tensor, nodes: int, rectify: bool) -> Tensor:
    """Integral of (rho - s)^rectify phi2(a, b; s) over s from 0 to rho, for |rho| not near 1."""
    angle = torch.asin(rho)
    half_square = (a - b).square_().mul_(0.5)
    product = a * b
    total = torch.zeros_like(rho)
    for node, weight in legendre(nodes):
        s = (angle * node).sin_()
        # (a^2 - 2 s a b + b^2) / (2 (1 - s^2)), written so that a near b does not cancel
        term = (half_square / (1 - s)).add_(product).div_(1 + s).neg_().exp_()
        if rectify:
            term.mul_(rho - s)
        total.add_(term, alpha=weight)
    return total.mul_(angle).mul_(1 / (2 * math.pi))


def _reciprocal_series(coefficients: list[Tensor]) -> list[Tensor]:
    inverse = [1 / coefficients[0]]
    for order in range(1, len(coefficients)):
        terms = [coefficients[k] * inverse[order - k] for k in range(1, order + 1)]
        inverse.append(-torch.stack(terms).sum(0) * inverse[0])
    return inverse


def _end_integral(lower: Tensor, upper: Tensor, magnitude: Tensor, rectify: bool) -> Tensor:
    """Integral of (s - r)^rectify phi2(lower, upper; s) over s from r to 1, for r near 1 and lower + upper <= 0.

    In y = sqrt(1 - s^2) the integrand is a boundary layer exp(-D^2 / 2 y^2) times a smooth h(y^2): five terms of h are
    integrated in closed form, the rest (tiny) by twelve nodes.

    Returns:
        The integral, at most 1; zero where it underflows.
    """
    width_square = (1 - magnitude) * (1 + magnitude)
    width = width_square.sqrt()
    gap, product = upper - lower, upper * lower
    tiny = torch.finfo(width.dtype).tiny
    exponent = gap.square() / (2 * width_square.clamp(min=tiny))
    limit = 700.0 if width.dtype == torch.float64 else 80.0
    visible = (exponent + 0.5 * product < limit) & (width > 0)
    zero = torch.zeros_like(gap)
    gap, product = torch.where(visible, gap, zero), torch.where(visible, product, zero)
    exponent = torch.where(visible, exponent, zero)

    # exp(-p/(1+s)) = exp(-p/2) exp(sum rate_k w^k) with w = y^2, s = sqrt(1 - w)
    rates = [-product * factor for factor in (1 / 8, 1 / 16, 5 / 128, 7 / 256)]
    growth = [torch.ones_like(gap)]
    for order in range(1, 5):
        terms = [k * rates[k - 1] * growth[order - k] for k in range(1, order + 1)]
        growth.append(torch.stack(terms).sum(0) / order)
    if rectify:  # 1 / (s (s + r))
        r = magnitude
        inverse = _reciprocal_series([1 + r, -1 - r / 2, -r / 8, -r / 16, -5 * r / 128])
    else:  # 1 / s
        inverse = [torch.full_like(gap, factor) for factor in (1, 1 / 2, 3 / 8, 5 / 16, 35 / 128)]
    series = [torch.stack([growth[k] * inverse[n - k] for k in range(n + 1)]).sum(0) for n in range(5)]

    # layer_n = integral_0^Y y^(2n) exp(-D^2 / 2 y^2) dy by recursion
    edge = torch.exp(-exponent)
    safe_width = width.clamp(min=tiny)
    layer = width * edge - gap * (ROOT_TWO_PI * distribution(-gap / safe_width))
    power = width.clone()
    total = zero
    for order in range(5):
        power = power * width_square
        following = (power * edge - gap.square() * layer) / (2 * order + 3)
        total = total + series[order] * ((width_square * layer - following) if rectify else layer)
        layer = following

    for node, weight in legendre(12 if width.dtype == torch.float64 else 4):
        w = width_square * node**2
        s = (1 - w).sqrt()
        smooth = torch.exp(product * (s - 1) / (2 * (1 + s))) / (s * (s + magnitude) if rectify else s)
        expansion = series[4]
        for order in (3, 2, 1, 0):
            expansion = expansion * w + series[order]
        rest = (smooth - expansion) * torch.exp(-exponent / node**2)
        total = total + (weight * width) * rest * ((width_square - w) if rectify else 1)
    return torch.where(visible, total * torch.exp(-0.5 * product), zero) / (2 * math.pi)


def _near_one(a: Tensor, b: Tensor, rho: Tensor, rectify: bool) -> Tensor:
    """Phi2 or K for |rho| above the last entry of the schedule, up to and including 1."""
    magnitude, positive = rho.abs(), rho > 0
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    reflect = low + high > 0
    linear = torch.where(reflect, distribution(low) - distribution(-high), torch.zeros_like(low))
    low, high = torch.where(reflect, -high, low), torch.where(reflect, -low, high)
    partner = torch.where(positive, high, -high)
    lower, upper = torch.minimum(low, partner), torch.maximum(low, partner)
    layer = _end_integral(lower, upper, magnitude, rectify)
    if not rectify:
        return linear + torch.where(positive, distribution(low) - layer, layer).clamp(min=0)
    together = comonotone_covariance(low, high) - (1 - magnitude) * distribution(low)
    opposed = -rectified(low).mean * rectified(high).mean
    return rho * linear + torch.where(positive, together, opposed) + layer


def _flat(a: Tensor, b: Tensor, rho: Tensor, base: Tensor, rectify: bool) -> Tensor:
    """Phi2 or K of one block, each element with the nodes that its |rho| needs."""
    magnitude = rho.abs()
    schedule = _SCHEDULE[rho.dtype]
    result, below = torch.full_like(rho, math.nan), -1.0
    if rho.dtype == torch.float32 and rho.numel():
        # so few nodes that sorting elements by them costs more than it saves: all take those of the largest
        below, largest = schedule[-1][0], float(magnitude.max())
        nodes = next((count for limit, count in schedule if largest <= limit), schedule[-1][1])
        result = _arc_integral(a, b, rho.clamp(-below, below), nodes, rectify).add_(base)
        if largest <= below:
            return result
        schedule = ()
    for limit, nodes in (*schedule, (1.0, 0)):
        index = ((magnitude > below) & (magnitude <= limit)).nonzero().squeeze(1)
        below = limit
        if index.numel() == 0:
            continue
        every = index.numel() == rho.numel()
        first, second, corr, start = (v if every else v[index] for v in (a, b, rho, base))
        if nodes:
            value = _arc_integral(first, second, corr, nodes, rectify).add_(start)
        else:
            value = _near_one(first, second, corr, rectify)
        if every:
            return value
        result[index] = value
    return result


def _evaluate(a: Tensor, b: Tensor, rho: Tensor, rectify: bool) -> Tensor:
    a, b, rho = a.clamp(-FAR, FAR), b.clamp(-FAR, FAR), rho.clamp(-1, 1)
    active_a, active_b = distribution(a), distribution(b)
    shape = torch.broadcast_shapes(a.shape, b.shape, rho.shape)
    result = torch.empty(shape, dtype=rho.dtype, device=rho.device)
    views = [value.expand(shape) for value in (a, b, rho, active_a, active_b)]
    for place in pieces(shape, _BLOCK):
        first, second, corr, p, q = (view[place].reshape(-1) for view in views)
        base = p * q * corr if rectify else p * q
        result[place] = _flat(first, second, corr, base, rectify).reshape(result[place].shape)
    return result if rectify else result.clamp_(min=0)


def _conditionals(a: Tensor, b: Tensor, rho: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Conditional standard deviation q, P(V < b | U = a) and P(U < a | V = b)."""
    margin = _GRADIENT_MARGIN[rho.dtype]
    inner = rho.clamp(-1 + margin, 1 - margin)
    q = ((1 - inner) * (1 + inner)).sqrt()
    return q, distribution((b - rho * a) / q), distribution((a - rho * b) / q)


class _BivariateDistribution(Elementwise):
    @staticmethod
    def forward(a: Tensor, b: Tensor, rho: Tensor) -> Tensor:
        return _evaluate(a, b, rho, rectify=False)

    @staticmethod
    def partials(*arguments: Tensor) -> tuple[Tensor, ...]:
        a, b, rho = arguments[0].clamp(-FAR, FAR), arguments[1].clamp(-FAR, FAR), arguments[2].clamp(-1, 1)
        q, below_b, below_a = _conditionals(a, b, rho)
        same = rho >= 0
        partner, magnitude = torch.where(same, b, -b), rho.abs()
        exponent = (a - partner).square() / (2 * q.square()) + a * partner / (1 + magnitude)
        return density(a) * below_b, density(b) * below_a, torch.exp(-exponent) / (2 * math.pi * q)


class _RectifiedCovariance(Elementwise):
    @staticmethod
    def forward(a: Tensor, b: Tensor, rho: Tensor) -> Tensor:
        return _evaluate(a, b, rho, rectify=True)

    @staticmethod
    def partials(*arguments: Tensor) -> tuple[Tensor, ...]:
        a, b, rho = arguments[0].clamp(-FAR, FAR), arguments[1].clamp(-FAR, FAR), arguments[2].clamp(-1, 1)
        both = _BivariateDistribution.apply(a, b, rho)
        _, below_b, below_a = _conditionals(a, b, rho)
        slope_a, slope_b = density(a) * below_b, density(b) * below_a

        def towards(x: Tensor, y: Tensor, own: Tensor, other: Tensor) -> Tensor:
            # dK/dx, with y reflected to y <= 0 so that no large y multiplies a rounding error
            upper = y > 0
            below = torch.where(upper, -y, y)
            outside = torch.where(upper, distribution(x) - both, both).clamp(min=0)
            return below * outside + other + rho * own - distribution(x) * rectified(below).mean

        return towards(a, b, slope_a, slope_b), towards(b, a, slope_b, slope_a), both


def bivariate_normal_cdf(h: Number, k: Number, rho: Number) -> Tensor:
    """Bivariate normal distribution function Phi2(h, k; rho) = P(U < h, V < k).

    Absolute error below 1e-15 in float64 and 5e-7 in float32 for every rho in [-1, 1]. Never negative; at negative rho
    a probability below that size may come out as 0. Sources: Drezner and Wesolowsky 1990, Genz 2004.

    Args:
        h: upper limits of U, any shape.
        k: upper limits of V, broadcasts with h.
        rho: correlations in [-1, 1], broadcasts with h and k.

    Returns:
        Probabilities, of the broadcast shape. Grade: exact.

    Raises:
        UsageError: a correlation is outside [-1, 1].

    Example:
        >>> round(float(bivariate_normal_cdf(0.0, 0.0, 0.5)), 12)
        0.333333333333
    """
    h, k, rho = as_tensors(h, k, rho)
    require_correlation(rho, "bivariate_normal_cdf(rho)")
    return _BivariateDistribution.apply(h, k, rho)


def rectified_covariance(a: Number, b: Number, rho: Number) -> Tensor:
    """The kernel K(a, b; rho) = Cov(relu(a + z1), relu(b + z2)) for standard normal z with correlation rho.

    Absolute error below 1e-15 in float64 and 5e-7 in float32 for every a, b and rho in [-1, 1], the ends included.
    Derivatives are exact, dK/drho = Phi2(a, b; rho), finite at |rho| = 1, and cost memory for the arguments only.
    Correlations beyond 1 by rounding are read as 1; beyond that use `relu_covariance`, which checks.

    Args:
        a: standardised means, any shape.
        b: standardised means, broadcasts with a.
        rho: correlations, broadcasts with a and b.

    Returns:
        Covariances, of the broadcast shape. Grade: exact.

    Example:
        >>> round(float(rectified_covariance(0.0, 0.0, 0.5)), 9)
        0.145343947
    """
    a, b, rho = as_tensors(a, b, rho)
    return _RectifiedCovariance.apply(a, b, rho)


def rectified_covariance_matrix(a: Tensor, correlation: Tensor) -> Tensor:
    """The kernel K for all pairs of one vector, at about half the cost of `rectified_covariance`: K is symmetric.

    Args:
        a: (..., n) standardised means.
        correlation: (..., n, n), symmetric.

    Returns:
        (..., n, n). Grade: exact.

    Example:
        >>> a = torch.zeros(2, dtype=torch.float64)
        >>> correlation = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
        >>> [round(float(value), 6) for value in rectified_covariance_matrix(a, correlation)[0]]
        [0.340845, 0.145344]
    """
    count = a.shape[-1]
    step = max(_LEAST_STRIP, count // 16)
    differentiated = torch.is_grad_enabled() and (a.requires_grad or correlation.requires_grad)
    if differentiated or step >= count:
        return rectified_covariance(a.unsqueeze(-1), a.unsqueeze(-2), correlation)
    # the diagonal has its own closed form, and left out it needs no end correction
    correlation = correlation - torch.diag_embed(correlation.diagonal(dim1=-2, dim2=-1))
    result = torch.empty_like(correlation)
    for start in range(0, count, step):
        rows = slice(start, start + step)
        strip = rectified_covariance(
            a[..., rows].unsqueeze(-1), a[..., start:].unsqueeze(-2), correlation[..., rows, start:]
        )
        result[..., rows, start:] = strip
        result[..., start:, rows] = strip.mT
    result.diagonal(dim1=-2, dim2=-1).copy_(rectified(a).variance)
    return result


def relu_covariance(mean1: Number, std1: Number, mean2: Number, std2: Number, rho: Number) -> Tensor:
    """Covariance of relu(x) and relu(y) for jointly Gaussian x and y of any means.

    A zero standard deviation gives zero covariance. For a full covariance matrix pass column and row vectors; the
    diagonal (rho = 1) is then the variance of `relu_moments`.

    Args:
        mean1: means of x, any shape.
        std1: standard deviations of x, zero or larger.
        mean2: means of y.
        std2: standard deviations of y, zero or larger.
        rho: correlations of x and y, in [-1, 1]. All five broadcast.

    Returns:
        Covariances, of the broadcast shape, in the units of x times y. Grade: exact.

    Raises:
        UsageError: a standard deviation is negative, or a correlation is outside [-1, 1].

    Example:
        >>> round(float(relu_covariance(0.5, 1.0, -0.3, 1.0, 0.8)), 9)
        0.253703309
    """
    mean1, std1, mean2, std2, rho = as_tensors(mean1, std1, mean2, std2, rho)
    require_deviation(std1, "relu_covariance(std1)")
    require_deviation(std2, "relu_covariance(std2)")
    require_correlation(rho, "relu_covariance(rho)")
    kernel = _RectifiedCovariance.apply(standardise(mean1, std1), standardise(mean2, std2), rho)
    return std1 * std2 * kernel
