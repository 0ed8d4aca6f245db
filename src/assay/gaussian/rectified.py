"""One rectified Gaussian: probability of being active, mean and variance of relu(x).

With a = mean/std, relu(x) has mean std*g(a) and variance std^2*v(a), where g(a) = a Phi(a) + phi(a) and
v(a) = (1 + a^2) Phi(a) + a phi(a) - g(a)^2. Those formulas lose everything to cancellation away from zero, so the
values are built at -|a| out of the Mills ratio, as products of positive numbers, and carried to a > 0 by the
reflection relu(x) = x + relu(-x).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from assay.gaussian.arguments import Number, as_tensors, broadcast, require_deviation
from assay.gaussian.blocks import followed, in_blocks
from assay.gaussian.normal import FAR, density, distribution, mills_ratio

_SWITCH, _LEVELS = 3.0, 60
"""From where the continued fraction takes over, and its length: 1.6e-16 relative error there."""


class RectifiedStatistics(NamedTuple):
    """Statistics of relu(a + z) for a standard normal z: all of the shape of a."""

    probability: Tensor
    """Phi(a), the probability of being active; also the derivative of the mean."""
    mean: Tensor
    """g(a)."""
    variance: Tensor
    """v(a), between 0 and 1."""


def lower_tail(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Phi, g and v at -t for t >= 0; each is relatively accurate down to underflow.

    Half precision is computed in double and rounded once: there the differences below lose digits nobody sees.

    Returns:
        Phi(-t), g(-t), v(-t).
    """
    if t.dtype == torch.float32:
        return in_blocks(_tail_by_polynomials, t)  # type: ignore[return-value]
    if t.dtype != torch.float64:
        return tuple(value.to(t.dtype) for value in _tail_by_differences(t.double()))  # type: ignore[return-value]
    probability, first, second = _tail_by_differences(t, variance=False)
    deep = t > _SWITCH
    if bool(deep.any()):
        # Laplace's continued fraction: r_n = n / (t + r_(n+1)), R = 1 / (t + r_1); products only, no differences.
        point, height = t[deep], density(t[deep])
        previous, rest = torch.zeros_like(point), torch.zeros_like(point)
        for level in range(_LEVELS, 0, -1):
            previous, rest = rest, level / (point + rest)
        tail = height / (point + rest)
        probability[deep] = tail
        first[deep] = tail * rest
        second[deep] = tail * rest * previous
    first, second = first.clamp(min=0), second.clamp(min=0)
    return probability, first, (second - first * first).clamp(min=0)


def _tail_by_differences(t: Tensor, *, variance: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Phi, g, and v (or the second moment) at -t from the Mills ratio; relative error 5e-12 at t = 20."""
    phi, ratio = density(t), mills_ratio(t)
    first = phi * (1 - t * ratio)
    second = phi * ((1 + t * t) * ratio - t)
    if variance:
        first, second = first.clamp(min=0), (second - first * first).clamp(min=0)
    return phi * ratio, first, second


_LAST, _BEND = 13.0, 4.0
_RATIOS = (
    (0.578011253, 0.304027447, 0.296282273),
    (0.395013151, 0.357236199, 0.455311017),
    (0.197760694, 0.23199845, 0.343223802),
    (0.0690703581, 0.0918073738, 0.143658487),
    (0.0140742579, 0.0178931068, 0.0237816745),
    (0.000138832253, -0.00152164039, -0.00628138947),
    (-0.000712264831, -0.00149824977, -0.00313267192),
    (-7.62883362e-05, -3.96378857e-05, 0.00021620957),
    (3.41294221e-05, 9.69593902e-05, 0.00025488068),
)
"""R, 1 - t R and (1 + t^2) R - t over s, s^2 and s^3, with s = 4 / (4 + t): powers of s scaled to [-1, 1].

Interpolated at Chebyshev points for 0 <= t <= 13, where single precision underflows; relative error below 6e-7."""


def _tail_by_polynomials(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Phi, g and v at -t in single precision: products of positive numbers, relative error 5e-6; 0 from t = 13 on."""
    near = t < _LAST
    t = t.clamp(max=_LAST)  # beyond, the products would be slow subnormal numbers
    s = (t / _BEND).add_(1).reciprocal_()
    least = _BEND / (_BEND + _LAST)
    powers = t.new_empty((len(_RATIOS), t.numel()))
    powers[0] = 1
    torch.mul(s.reshape(-1) - (1 + least) / 2, 2 / (1 - least), out=powers[1])
    for degree in range(2, len(_RATIOS)):
        torch.mul(powers[degree // 2], powers[degree - degree // 2], out=powers[degree])
    ratios = (t.new_tensor(_RATIOS).T @ powers).reshape(3, *t.shape)
    scale = density(t) * near
    values = []
    for ratio in ratios:
        scale = scale * s
        values.append(scale * ratio)
    probability, first, second = values
    return probability, first, (second - first * first).clamp(min=0)


class _Rectified(torch.autograd.Function):
    """(Phi, g, v)(a) with the derivatives phi(a), Phi(a) and 2 g(a) Phi(-a)."""

    @staticmethod
    def forward(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        active = a > 0
        probability, mean, variance = lower_tail(a.abs())
        reflected_variance = 1 - 2 * probability + variance
        return (
            torch.where(active, 1 - probability, probability),
            torch.where(active, a + mean, mean),
            torch.where(active, reflected_variance, variance),
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(inputs[0], output[0], output[1])
        ctx.save_for_forward(inputs[0], output[0], output[1])

    @staticmethod
    def _slopes(ctx: Any) -> tuple[Tensor, Tensor, Tensor]:
        a, probability, mean = ctx.saved_tensors
        # Beyond FAR the tail is zero, and the product with an unbounded mean must be zero too.
        bounded = torch.where(a > FAR, torch.zeros_like(mean), mean)
        return density(a), probability, 2 * bounded * distribution(-a)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        terms = zip(grad_outputs, _Rectified._slopes(ctx), strict=True)
        return sum(upstream * slope for upstream, slope in terms)

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Any:
        (tangent,) = grad_inputs
        return tuple(slope * tangent for slope in _Rectified._slopes(ctx))

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _Rectified.apply(args[0].movedim(in_dims[0], 0)), (0, 0, 0)


def rectified(a: Number) -> RectifiedStatistics:
    """Phi(a), g(a) and v(a): relu of a Gaussian with mean a and standard deviation 1.

    Relative error below 1e-12 down to underflow in float64 (1e-5 for a >= -8 in float32); never negative, never NaN
    for a number, and at large a the variance is 1. Differentiable any number of times.

    Args:
        a: standardised means, any shape.

    Returns:
        Three tensors of the shape of a. Grade: exact.

    Example:
        >>> statistics = rectified(1.0)
        >>> [round(float(value), 6) for value in statistics]
        [0.841345, 1.083315, 0.751088]
    """
    (a,) = as_tensors(a)
    return RectifiedStatistics(*_Rectified.apply(a))


def standardise(mean: Tensor, std: Tensor) -> Tensor:
    """The standardised mean mean/std, safe where std is zero or tiny.

    Where |mean| >= 40 std the sign is certain: the result is the constant -40, 0 or 40, with zero gradient, at which
    Phi is 0, 1/2 or 1 and every tail is zero. A zero std at zero mean counts as a tie, 0.

    Args:
        mean: means, broadcast with std.
        std: standard deviations, zero or larger.

    Returns:
        Standardised means within [-40, 40], of the broadcast shape.

    Example:
        >>> standardise(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0]))
        tensor([0.5000, 0.0000])
    """
    certain = mean.abs() >= FAR * std
    quotient = torch.where(certain, torch.zeros_like(mean), mean) / torch.where(certain, torch.ones_like(std), std)
    return torch.where(certain, FAR * torch.sign(mean.detach()), quotient)


def smoothed_relu(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of relu(x), its expected slope, and the variance that this slope leaves unexplained.

    Args:
        mean: means of x, any shape.
        std: standard deviations of x, zero or larger; of the same shape.

    Returns:
        E relu(x), P(x > 0) and Var relu(x) - P^2 Var x, which is never negative: all of that shape. Grade: exact.

    Example:
        >>> value, slope, rest = smoothed_relu(torch.zeros(1), torch.ones(1))
        >>> [round(float(part), 4) for part in (value, slope, rest)]
        [0.3989, 0.5, 0.0908]
    """
    if followed(mean, std):
        return _smoothed_relu(mean, std)
    return in_blocks(_relu_values, mean, std)  # type: ignore[return-value]


def _relu_values(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    certain = mean.clamp(min=0), (mean > 0).to(mean), torch.zeros_like(mean)
    return where_uncertain(_uncertain_relu, certain, mean, std)  # type: ignore[return-value]


def _uncertain_relu(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    probability, first, variance = lower_tail(distance(mean, std))
    value = mean.clamp(min=0).addcmul_(std, first)
    rest = (variance - probability.square()).clamp_(min=0).mul_(std).mul_(std)
    return value, torch.where(mean > 0, 1 - probability, probability), rest


def where_uncertain(
    function: Callable[..., tuple[Tensor, ...]], certain: tuple[Tensor, ...], gap: Tensor, std: Tensor, *others: Tensor
) -> tuple[Tensor, ...]:
    """A function of (gap, std, *others) where the sign of a Gaussian gap is in doubt, given values elsewhere.

    In single precision all tails are zero beyond 13 deviations, so the values are the same; where the noise is small
    most units of a network lie there, and cost nothing.

    Args:
        function: elementwise, of what is given.
        certain: its values where the sign is certain; overwritten.
        gap: means, contiguous.
        std: standard deviations.
        others: what else the function takes.

    Returns:
        The function's values.
    """
    inputs = (gap, std, *others)
    if gap.dtype != torch.float32:
        return function(*inputs)
    doubtful = ((gap.abs() >= _LAST * std) & (gap != 0)).logical_not_()  # NaN is in doubt, and a tie, which counts half
    count = int(torch.count_nonzero(doubtful))
    if 2 * count > gap.numel():
        return function(*inputs)
    if count:
        places = doubtful.reshape(-1).nonzero().squeeze(1)
        found = function(*(value.reshape(-1).index_select(0, places) for value in inputs))
        for whole, part in zip(certain, found, strict=True):
            whole.view(-1).index_copy_(0, places, part)
    return certain


def distance(mean: Tensor, std: Tensor) -> Tensor:
    """|mean| in standard deviations, at most 40 and safe where std is zero; for values that nothing differentiates."""
    return (mean.abs() / std.clamp(min=torch.finfo(std.dtype).tiny)).clamp_(max=FAR)


def _smoothed_relu(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    standard = standardise(mean, std)
    ahead = standard > 0
    # relu(x) = x + relu(-x), and Var relu(a + z) - Phi(a)^2 is an even function of a: only the small tail is needed
    tail = rectified(torch.where(ahead, -standard, standard))
    value = torch.where(ahead, mean, torch.zeros_like(mean)) + std * tail.mean
    slope = torch.where(ahead, 1 - tail.probability, tail.probability)
    return value, slope, std.square() * (tail.variance - tail.probability.square()).clamp(min=0)


def relu_moments(mean: Number, std: Number) -> tuple[Tensor, Tensor]:
    """Mean and variance of relu(x) for Gaussian x.

    Where std is zero the mean is relu(mean) and the variance 0; gradients there are finite.

    Args:
        mean: means of x, any shape; Python floats are read as float64.
        std: standard deviations of x, zero or larger; broadcasts with mean.

    Returns:
        Mean and variance of relu(x), of the broadcast shape, in the units of x and x^2. Grade: exact.

    Raises:
        UsageError: a standard deviation is negative.

    Example:
        >>> mean, variance = relu_moments(0.0, 1.0)
        >>> round(float(mean), 6), round(float(variance), 6)
        (0.398942, 0.340845)
    """
    mean, std = as_tensors(mean, std)
    require_deviation(std, "relu_moments(std)")
    a = standardise(mean, std)
    active = a > 0
    # relu(x) = x + relu(-x): the part beyond relu(mean) is always a small positive tail.
    tail = rectified(torch.where(active, -a, a)).mean
    return torch.where(active, mean, torch.zeros_like(mean)) + std * tail, std.square() * rectified(a).variance


def relu_gain(mean: Number, std: Number) -> Tensor:
    """Probability that a Gaussian is positive: the expected slope of relu, P(active) = Phi(mean/std).

    Args:
        mean: means, any shape.
        std: standard deviations, zero or larger; broadcasts with mean. Zero gives 0, 1, or 1/2 at mean zero.

    Returns:
        Probabilities, of the broadcast shape. Grade: exact.

    Raises:
        UsageError: a standard deviation is negative.

    Example:
        >>> float(relu_gain(0.0, 0.0)), float(relu_gain(2.0, 0.0))
        (0.5, 1.0)
    """
    mean, std = as_tensors(mean, std)
    require_deviation(std, "relu_gain(std)")
    return rectified(standardise(mean, std)).probability


def comonotone_covariance(a: Tensor, b: Tensor) -> Tensor:
    """Cov(relu(a + z), relu(b + z)) for one standard normal z: the limit of the kernel at correlation one.

    For a + b <= 0 this is v(m) + g(m) (g(m) + M - m - g(M)) with m = min, M = max, a sum of positive terms;
    otherwise both are reflected, which adds Phi(a) + Phi(b) - 1.

    Args:
        a: standardised means, finite; |a| beyond 40 is read as 40, which changes no number.
        b: the same, broadcasts with a.

    Returns:
        Covariances, of the broadcast shape, positive. Grade: exact.

    Example:
        >>> round(float(comonotone_covariance(torch.tensor(0.0), torch.tensor(0.0))), 6)
        0.340845
    """
    a, b = broadcast(a.clamp(-FAR, FAR), b.clamp(-FAR, FAR))
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    reflect = low + high > 0
    lower, upper = torch.where(reflect, -high, low), torch.where(reflect, -low, high)
    _, small, variance = rectified(lower)
    positive = upper > 0
    excess = torch.where(positive, -lower, upper - lower) - rectified(torch.where(positive, -upper, upper)).mean
    linear = torch.where(reflect, distribution(low) - distribution(-high), torch.zeros_like(low))
    return linear + variance + small * (small + excess)
