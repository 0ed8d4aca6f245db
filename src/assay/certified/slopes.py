"""Between which slopes an activation lies: everywhere on the line, and on an interval.

A function whose slopes lie in [low, high] changes by d(y) = s d(x) with some s in that interval; max(|low|, |high|) is
its Lipschitz constant. Decimal constants are rounded outwards, so that they stay bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.graph import Node

INFINITE = math.inf


@dataclass(frozen=True)
class Slopes:
    """An interval that holds every difference quotient of a function."""

    low: float
    high: float

    @property
    def gain(self) -> float:
        """Lipschitz constant."""
        return max(abs(self.low), abs(self.high))

    @property
    def middle(self) -> float:
        """A slope is middle + half s with |s| <= 1."""
        return (self.low + self.high) / 2

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


_FIXED = {
    "relu": Slopes(0.0, 1.0),
    "clip": Slopes(0.0, 1.0),
    "sigmoid": Slopes(0.0, 0.25),
    "hardsigmoid": Slopes(0.0, 1 / 6),
    "hardswish": Slopes(-0.5, 1.5),
    "tanh": Slopes(0.0, 1.0),
    "softplus": Slopes(0.0, 1.0),
    "silu": Slopes(-0.0998393202, 1.0998393202),
    "mish": Slopes(-0.1125261224, 1.0884981613),
    "erf": Slopes(0.0, 2 / math.sqrt(math.pi)),
    "abs": Slopes(-1.0, 1.0),
    "sin": Slopes(-1.0, 1.0),
    "cos": Slopes(-1.0, 1.0),
}
_GELU = {"none": Slopes(-0.1289041452, 1.1289041452), "tanh": Slopes(-0.1289930687, 1.1289930687)}
_CURVATURE = {"gelu": 0.7978845609, "silu": 0.5, "sin": 1.0, "cos": 1.0}  # largest |second derivative|
_SOFTPLUS_JUMP = 10.0  # below this threshold torch's softplus jumps visibly where it turns into the identity


def slopes(node: Node, fixed: Sequence[Tensor | None] = ()) -> Slopes | str:
    """Slopes of an elementwise node over the whole line.

    Args:
        node: an application of an elementwise operator.
        fixed: its other inputs, such as the weights of a PReLU.

    Returns:
        The interval; or, where the slopes are unbounded or unknown, a sentence that says so.
    """
    get = node.attributes.get
    if node.op == "gelu":
        return _GELU[str(get("approximate", "none"))]
    if node.op == "leaky_relu":
        slope = float(get("negative_slope", 0.01))
        return Slopes(min(slope, 1.0), max(slope, 1.0))
    if node.op == "prelu":
        weight = next(value for value in fixed if value is not None)
        return Slopes(min(float(weight.min()), 1.0), max(float(weight.max()), 1.0))
    if node.op == "elu":
        outer, inner = _elu_slopes(node)
        if float(get("input_scale", 1.0)) < 0:
            return "an ELU with a negative input scale grows without bound"
        return Slopes(min(0.0, inner, outer), max(0.0, inner, outer))
    if node.op == "softplus" and float(get("threshold", 20.0)) < _SOFTPLUS_JUMP:
        return "a softplus jumps at a threshold this low"
    if node.op == "power" and float(get("exponent", math.nan)) in (0.0, 1.0):
        return Slopes(float(get("exponent", 1.0)), float(get("exponent", 1.0)))
    found = _FIXED.get(node.op)
    return f"the slopes of {node.label} are not bounded on the whole line" if found is None else found


def slopes_between(node: Node, fixed: Sequence[Tensor | None], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes of an elementwise node when each element stays in its own interval.

    Args:
        node: an application of an elementwise operator.
        fixed: its other inputs.
        low: (B, ...) lower ends.
        high: (B, ...) upper ends.

    Returns:
        Lower and upper slopes (B, ...); infinite where they are unbounded or unknown.
    """
    everywhere = slopes(node, fixed)
    pieces = _pieces(node, fixed, low)
    if pieces is not None:
        smallest, largest = torch.full_like(low, INFINITE), torch.full_like(low, -INFINITE)
        for begin, end, slope in pieces:
            touched = ((low < end) & (high > begin)) | ((low == high) & (low >= begin) & (low <= end))
            slope = torch.as_tensor(slope, dtype=low.dtype).expand_as(low)
            smallest = torch.where(touched, torch.minimum(smallest, slope), smallest)
            largest = torch.where(touched, torch.maximum(largest, slope), largest)
        return smallest, largest
    if node.op in _EVEN:
        nearest = torch.where((low <= 0) & (high >= 0), 0.0, torch.minimum(low.abs(), high.abs()))
        return _EVEN[node.op](torch.maximum(low.abs(), high.abs())), _EVEN[node.op](nearest)
    if node.op == "softplus" and not isinstance(everywhere, str):
        beta = float(node.attributes.get("beta", 1.0))
        return torch.sigmoid(beta * low), torch.sigmoid(beta * high)
    if node.op == "exp":
        return low.exp(), high.exp()
    if node.op == "elu" and not isinstance(everywhere, str):
        return _elu_between(node, low, high)
    if node.op == "log":
        legal = low > 0
        return torch.where(legal, 1 / high, -INFINITE), torch.where(legal, 1 / low, INFINITE)
    if node.op == "power":
        return _power_between(float(node.attributes["exponent"]), low, high)
    if isinstance(everywhere, str):
        return torch.full_like(low, -INFINITE), torch.full_like(low, INFINITE)
    smallest, largest = torch.full_like(low, everywhere.low), torch.full_like(low, everywhere.high)
    if node.op in _CURVATURE and node.attributes.get("approximate", "none") == "none":
        reach = _CURVATURE[node.op] * (high - low) / 2
        centre = _derivative(node.op, (low + high) / 2)
        return torch.maximum(smallest, centre - reach), torch.minimum(largest, centre + reach)
    return smallest, largest


def kinks(node: Node, fixed: Sequence[Tensor | None]) -> tuple[float, ...] | None:
    """Where the slope of a piecewise linear node changes, ascending; None for other functions."""
    pieces = _pieces(node, fixed, torch.zeros(1, 1))
    return None if pieces is None else tuple(begin for begin, _, _ in pieces if math.isfinite(begin))


_EVEN: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda z: 1 / torch.cosh(z.clamp(max=300)).square(),
    "sigmoid": lambda z: torch.sigmoid(z) * torch.sigmoid(-z),
    "erf": lambda z: 2 / math.sqrt(math.pi) * torch.exp(-z * z),
}
"""Derivatives that are even and fall with |z|."""


def _derivative(op: str, z: Tensor) -> Tensor:
    if op == "gelu":
        return 0.5 * torch.erfc(-z / math.sqrt(2)) + z * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    if op == "silu":
        gate = torch.sigmoid(z)
        return gate * (1 + z * (1 - gate))
    return torch.cos(z) if op == "sin" else -torch.sin(z)


def _pieces(
    node: Node, fixed: Sequence[Tensor | None], like: Tensor
) -> list[tuple[float, float, float | Tensor]] | None:
    """Begin, end and slope of the pieces of a piecewise linear function; None for other functions."""
    get = node.attributes.get
    if node.op == "clip":
        begin = -INFINITE if get("low") is None else float(get("low"))  # type: ignore[arg-type]
        end = INFINITE if get("high") is None else float(get("high"))  # type: ignore[arg-type]
        return [(-INFINITE, begin, 0.0), (begin, end, 1.0), (end, INFINITE, 0.0)]
    if node.op == "hardsigmoid":
        return [(-INFINITE, -3.0, 0.0), (-3.0, 3.0, 1 / 6), (3.0, INFINITE, 0.0)]
    negative: float | Tensor
    if node.op == "prelu":
        weight = next(value for value in fixed if value is not None)
        shape = weight.shape if weight.dim() > 1 else (1, -1, *[1] * (like.dim() - 2))
        negative = weight.to(like.dtype).reshape(shape)
    elif node.op in ("relu", "abs", "leaky_relu"):
        negative = {"relu": 0.0, "abs": -1.0}.get(node.op, float(get("negative_slope", 0.01)))
    else:
        return None
    return [(-INFINITE, 0.0, negative), (0.0, INFINITE, 1.0)]


def _elu_slopes(node: Node) -> tuple[float, float]:
    """Slope above zero and slope just below it."""
    alpha, scale, inner = (float(node.attributes.get(name, 1.0)) for name in ("alpha", "scale", "input_scale"))
    return scale, scale * alpha * inner


def _elu_between(node: Node, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    outer, inner = _elu_slopes(node)
    rate = float(node.attributes.get("input_scale", 1.0))
    first, last = inner * torch.exp(rate * low.clamp(max=0)), inner * torch.exp(rate * high.clamp(max=0))
    smallest, largest = torch.minimum(first, last), torch.maximum(first, last)
    above = torch.full_like(low, outer)
    smallest = torch.where(low > 0, above, torch.where(high > 0, torch.minimum(smallest, above), smallest))
    largest = torch.where(low > 0, above, torch.where(high > 0, torch.maximum(largest, above), largest))
    return smallest, largest


def _power_between(exponent: float, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Powers: the derivative e x ** (e - 1) is monotone on each side of zero, and on the line where e is 1 or 2."""
    if exponent in (0.0, 1.0):
        return torch.full_like(low, exponent), torch.full_like(low, exponent)
    if exponent == 2.0:
        return 2 * low, 2 * high
    first, last = exponent * low.pow(exponent - 1), exponent * high.pow(exponent - 1)
    legal = low > 0
    return (
        torch.where(legal, torch.minimum(first, last), -INFINITE),
        torch.where(legal, torch.maximum(first, last), INFINITE),
    )
