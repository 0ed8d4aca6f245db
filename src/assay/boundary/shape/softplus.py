"""A smooth stand-in for a piecewise linear network: every kink of an activation rounded to a given width.

relu(x) becomes softplus(b x) / b, and what is made of relus follows: leaky relu, prelu, clipping, absolute values. The
swap happens while the network runs, in functions and modules alike; the network itself is not touched. Max pools keep
their kinks. The decision boundary moves with the swap (|F| at the old point is 2.3, 0.15, 0.013 for b = 5, 30, 100 on
one convolutional network), so it must be found again on the swapped network before its shape is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from assay.boundary.field import Field
from assay.boundary.shape.places import Places
from assay.errors import UsageError

_STEPS = 60
_HALVINGS = 12
_GUARD = 1e-3  # clamp(min=1e-6) keeps a division from zero and is no activation


class _Rounded(TorchFunctionMode):
    """While active, piecewise linear activations are smooth."""

    def __init__(self, sharpness: float) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.swapped = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the smooth form where there is one, else the function itself."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        rule = _RULES.get(name.rstrip("_") if not name.startswith("_") else name)
        if rule is None or not args or not isinstance(args[0], Tensor) or not args[0].dtype.is_floating_point:
            return func(*args, **kwargs)
        in_place = bool(kwargs.pop("inplace", False)) or name.endswith("_")
        source = args[0].clone() if in_place else args[0]
        found = rule(self._relu, source, *args[1:], **kwargs)
        if found is None:
            return func(*args, **kwargs)
        self.swapped = True
        return args[0].copy_(found) if in_place else found

    def _relu(self, x: Tensor) -> Tensor:
        return functional.softplus(x, beta=self.sharpness, threshold=40.0)


Smooth = Callable[[Tensor], Tensor]


def _relu(relu: Smooth, x: Tensor, inplace: bool = False) -> Tensor:
    return relu(x)


def _leaky(relu: Smooth, x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    return negative_slope * x + (1 - negative_slope) * relu(x)


def _prelu(relu: Smooth, x: Tensor, weight: Tensor) -> Tensor:
    if weight.numel() > 1:
        weight = weight.reshape(-1, *[1] * (x.dim() - 2))
    return weight * x + (1 - weight) * relu(x)


def _hardtanh(relu: Smooth, x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    return min_val + relu(x - min_val) - relu(x - max_val)


def _clamp(relu: Smooth, x: Tensor, min: float | None = None, max: float | None = None) -> Tensor | None:
    if isinstance(min, Tensor) or isinstance(max, Tensor) or (min is None and max is None):
        return None
    if max is None and min is not None and 0 < min < _GUARD:
        return None
    if min is None:
        return x - relu(x - float(max or 0.0))
    risen = min + relu(x - min)
    return risen if max is None else risen - relu(x - max)


_RULES: dict[str, Callable[..., Tensor | None]] = {
    "relu": _relu,
    "leaky_relu": _leaky,
    "prelu": _prelu,
    "relu6": lambda relu, x, inplace=False: _hardtanh(relu, x, 0.0, 6.0),
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": lambda relu, x, min: _clamp(relu, x, min),
    "clamp_max": lambda relu, x, max: _clamp(relu, x, None, max),
    "hardsigmoid": lambda relu, x, inplace=False: _hardtanh(relu, x + 3, 0.0, 6.0) / 6,
    "hardswish": lambda relu, x, inplace=False: x * _hardtanh(relu, x + 3, 0.0, 6.0) / 6,
    "abs": lambda relu, x: relu(x) + relu(-x),
    "maximum": lambda relu, x, other: other + relu(x - other),
    "minimum": lambda relu, x, other: x - relu(x - other),
}


def swapped(field: Field, example: Tensor, sharpness: float) -> Field:
    """The same network with rounded kinks.

    Args:
        field: the network.
        example: (B, ...) inputs to try it on.
        sharpness: b of softplus(b x) / b: kinks are about 1 / b wide in units of the pre-activations.

    Returns:
        A field of its own; the given one is not changed.

    Raises:
        UsageError: for a sharpness that is not positive, or a network without an activation that can be rounded.
    """
    if not (math.isfinite(sharpness) and sharpness > 0):
        raise UsageError(f"sharpness={sharpness} must be positive.", where="sharpness")
    mode = _Rounded(sharpness)

    def network(x: Tensor) -> Tensor:
        with _Rounded(sharpness):
            return field.target(x)

    with torch.no_grad(), mode:
        field.target(example[:1])
    if not mode.swapped:
        raise UsageError(
            "The softplus swap found no ReLU or other piecewise linear activation in this network.",
            where="estimator",
            advice="Use exact for smooth networks, frames for the rest.",
        )
    smooth = Field(network, batch_size=field.batch_size)
    smooth.bounds = field.bounds
    return smooth


@dataclass(frozen=True, eq=False)
class Moved:
    """Boundary points of the swapped network.

    Attributes:
        places: at the new points, on the swapped network.
        found: (B,) where the boundary of the same two classes was reached.
        shift: (B,) float64 Euclidean distance from the old points.
    """

    places: Places
    found: Tensor
    shift: Tensor


def boundary_again(places: Places, field: Field) -> Moved:
    """The boundary of the swapped network nearest to the old points, to first order: damped Newton steps to F = 0.

    Args:
        places: points on the boundary of the original network.
        field: the swapped network.

    Returns:
        The new places, whose rows that failed keep their old point.
    """
    point = places.point.clone()
    tolerance = 64 * torch.finfo(point.dtype).eps
    own, rival = places.label, places.rival
    value, gradient = field.value_and_gradient(point, own, rival)
    # F cannot be made smaller than what rounding of the logits or of the point does to it.
    length = gradient.flatten(1).double().norm(dim=1) * point.flatten(1).double().norm(dim=1)
    size = torch.maximum(field.logits(point).abs().amax(1).double(), length).clamp(min=1e-300)
    for _ in range(_STEPS):
        active = ((value.double().abs() > tolerance * size) & (gradient.flatten(1).norm(dim=1) > 0)).nonzero()[:, 0]
        if not len(active):
            break
        start, before = point[active], value[active].double().abs()
        slope = gradient[active].double()
        square = slope.flatten(1).square().sum(1)
        step = slope * (value[active].double() / square).reshape(-1, *[1] * (slope.dim() - 1))
        waiting, factor = torch.arange(len(active)), 1.0
        for _ in range(_HALVINGS):
            trial = (start[waiting].double() - factor * step[waiting]).to(point.dtype)
            better = field.value(trial, own[active[waiting]], rival[active[waiting]]).double().abs() < before[waiting]
            point[active[waiting[better]]] = trial[better]
            waiting, factor = waiting[~better], factor / 2
            if not len(waiting):
                break
        if len(waiting) == len(active):
            break  # rounding: nothing improves
        value, gradient = field.value_and_gradient(point, own, rival)
    found = value.double().abs() <= 1e3 * tolerance * size
    shift = (point.double() - places.point.double()).flatten(1).norm(dim=1)
    gradient = gradient.flatten(1).double()
    new = replace(places, field=field, point=point, gradient=gradient, gradient_norm=gradient.norm(dim=1))
    return Moved(new, found, shift)
