"""Layer, RMS, group and instance norm: y = w c / sqrt(q + eps) + b, c the centred group, q its mean square.

The mean square of a noisy group is larger than that of its mean, and it fluctuates; both follow from the covariance C
within the group. Moments of q + eps are those of a log-normal variable with the exact mean and variance. Stein's lemma
E[c s^p] = E[s^p] m + (2 p / n) C E[c s^(p-1)], with s the statistic and the ratio of both sides' powers put at its
typical size, is solved rather than expanded, so large noise shrinks values and never turns them around.

Linearising at the mean keeps the noiseless statistic instead, and overstates mean and variance behind every norm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from assay.grade import Grade
from assay.moments.rules.elementwise import alone
from assay.moments.rules.groups import Layout, Spread, spread_within
from assay.moments.rules.table import TABLE
from assay.moments.smoothed import Operands, Smoothed

_NOTE = "smoothed statistics"

_SLACK = 0.25
"""Share by which a map may carry more variance than its group can have: it stands in for common innovations."""


@TABLE.rule("layer_norm", grade=Grade.LINEARISED, note=_NOTE, applies=alone)
def layer_norm(operands: Operands) -> Smoothed:
    """Groups are the last axes."""
    attributes = operands.attributes
    layout = _last(operands)
    weight, bias = operands.values[1], operands.values[2]
    return _normalised(operands, layout, weight, bias, attributes.get("eps", 1e-5), centred=True)


@TABLE.rule("rms_norm", grade=Grade.LINEARISED, note=_NOTE, applies=alone)
def rms_norm(operands: Operands) -> Smoothed:
    """As layer norm, without centring."""
    eps = operands.attributes.get("eps")
    eps = torch.finfo(operands.mean().dtype).eps if eps is None else eps
    return _normalised(operands, _last(operands), operands.values[1], None, eps, centred=False)


@TABLE.rule("group_norm", grade=Grade.LINEARISED, note=_NOTE, applies=alone)
def group_norm(operands: Operands) -> Smoothed:
    """Groups are runs of channels with all their positions; instance norm has one channel per group."""
    mean = operands.mean()
    size = mean[0].numel() // operands.attributes["num_groups"]
    layout = Layout(tuple(mean.shape[1:]), size)
    weight, bias = (
        None if value is None else value.reshape(-1, *(1,) * (mean.dim() - 2)) for value in operands.values[1:3]
    )
    return _normalised(operands, layout, weight, bias, operands.attributes.get("eps", 1e-5), centred=True)


def _last(operands: Operands) -> Layout:
    shape = tuple(operands.attributes["normalized_shape"])
    return Layout(tuple(operands.mean().shape[1:]), torch.Size(shape).numel())


def _normalised(
    operands: Operands, layout: Layout, weight: Tensor | None, bias: Tensor | None, eps: float, *, centred: bool
) -> Smoothed:
    x, spread = layout.split(operands.mean()), spread_within(operands, 0, layout)
    if centred:
        x, spread = x - x.mean(-1, keepdim=True), spread.centred()
    size = layout.size
    pulled = spread.times(x)
    statistic = (x.square() + spread.variance).mean(-1, keepdim=True) + eps
    bent = 2 * spread.square_trace() / size**2  # variance of the part of q that is quadratic in the noise
    straight = 4 * (x * pulled).sum(-1, keepdim=True) / size**2  # and of the linear part
    ratio = ((bent + straight) / statistic.square()).clamp(min=0)

    def power(exponent: float) -> Tensor:
        """E (q + eps)^exponent."""
        return statistic**exponent * (1 + ratio) ** (exponent * (exponent - 1) / 2)

    once, thrice = power(-0.5), power(-1.5)
    typical = once / thrice
    value = once * spread.shrunk(x, 1 / (size * typical))
    # E[c c^T s^-3/2] also holds a multiple of C. It stays out of the map: what it takes from a direction that moves
    # the whole group comes back as innovations of all units together, which count as independent further on.
    centre = spread.shrunk(x, 3 / (size * typical))
    if centred:
        centre = centre - centre.mean(-1, keepdim=True)
    weights = None if weight is None else layout.split(weight.expand(layout.event))
    linear = NormMap(layout, centre, once, thrice / size, weights, centred)
    innovation = _second_order(x, spread, pulled, bent, straight, (-thrice / 2, 0.75 * thrice / typical))
    # the squares of a group add up to n q / (q + eps): map and innovation share what the mean leaves of that
    fluctuation = linear.energy(spread)
    left = size * (1 - eps * power(-1.0)) - value.square().sum(-1, keepdim=True) - fluctuation
    excess = (-left - _SLACK * (left + fluctuation).clamp(min=0) - 16 * torch.finfo(x.dtype).eps * size).clamp(min=0)
    kept = (1 - excess / torch.where(fluctuation > 0, fluctuation, torch.ones_like(excess))).clamp(min=0.01).sqrt()
    linear = replace(linear, scale=kept * linear.scale, bend=kept * linear.bend)
    total = innovation.sum(-1, keepdim=True)
    share = left / torch.where(total > 0, total, torch.ones_like(total))
    innovation = innovation * share.clamp(0, 1)
    if weights is not None:
        value, innovation = value * weights, innovation * weights.square()
    value = layout.join(value)
    return Smoothed(value if bias is None else value + bias, linear, layout.join(innovation))


def _second_order(
    x: Tensor, spread: Spread, pulled: Tensor, bent: Tensor, straight: Tensor, derivatives: tuple[Tensor, Tensor]
) -> Tensor:
    """Variance of f1 d_i l + x_i (f1 k + f2 l^2 / 2): d the noise, l and k the linear and quadratic part of q."""
    first, second = derivatives
    size = x.shape[-1]
    shared = 2 * pulled / size  # covariance of each unit with l
    own = first.square() * (spread.variance * straight + shared.square())
    common = (
        first.square() * bent
        + second.square() * straight.square() / 2
        + 2 * first * second * shared.square().sum(-1, keepdim=True) / size
    )
    mixed = 2 * first * (2 * first * spread.times(shared) / size + second * shared * straight)
    return (own + x.square() * common + x * mixed).clamp(min=0)


@dataclass(frozen=True)
class NormMap:
    """w (scale P v - bend c c^T P v) within each group: the Jacobian with smoothed statistics.

    Attributes:
        layout: of the groups.
        centre: c, (B, G, n).
        scale: (B, G, 1).
        bend: (B, G, 1).
        weights: (G, n), or None for ones.
        centred: whether P subtracts the group's mean.
    """

    layout: Layout
    centre: Tensor
    scale: Tensor
    bend: Tensor
    weights: Tensor | None
    centred: bool

    def _symmetric(self, value: Tensor) -> Tensor:
        onto = (self.centre * value).sum(-1, keepdim=True)
        return self.scale * self._project(value) - self.bend * self.centre * onto

    def _project(self, value: Tensor) -> Tensor:
        return value - value.mean(-1, keepdim=True) if self.centred else value

    def _weighted(self, value: Tensor) -> Tensor:
        return value if self.weights is None else value * self.weights

    def energy(self, spread: Spread) -> Tensor:
        """tr(A C A^T) within each group (B, G, 1), weights left out; C that of the centred group."""
        along = (self.centre * spread.times(self.centre)).sum(-1, keepdim=True)
        length = self.centre.square().sum(-1, keepdim=True)
        whole = self.scale.square() * spread.variance.sum(-1, keepdim=True)
        return whole + self.bend * along * (self.bend * length - 2 * self.scale)

    def apply(self, *columns: Tensor) -> Tensor:
        """(r, B, ...) -> (r, B, ...)."""
        return self.layout.join(self._weighted(self._symmetric(self.layout.split(columns[0]))))

    def transpose(self, cotangents: Tensor) -> tuple[Tensor, ...]:
        """(k, B, ...) -> (k, B, ...)."""
        return (self.layout.join(self._symmetric(self._weighted(self.layout.split(cotangents)))),)

    def squared(self, *variances: Tensor) -> Tensor:
        """Variances of independent units: the coefficients are scale delta_ij - u_ij, u of rank two."""
        rows = self.layout.split(variances[0])
        terms = [(self.centre, self.bend * self.centre)]  # u is the sum of left_i right_j
        if self.centred:
            terms.append((torch.ones_like(self.centre), (self.scale / self.layout.size).expand(self.centre.shape)))
        total = self.scale.square() * rows
        for left1, right1 in terms:
            total = total - 2 * self.scale * left1 * right1 * rows
            for left2, right2 in terms:
                total = total + left1 * left2 * (right1 * right2 * rows).sum(-1, keepdim=True)
        return self.layout.join(self._weighted(self._weighted(total.clamp(min=0))))
