"""Finite differences of F along tangent directions: curvature at a stated scale, for any network.

Central differences of the gradient average the second derivative along the chord (box kernel); second differences of F
itself weight it by a triangle and need forward passes only. For ||x|| - r both are known in closed form: the first
gives 1 / sqrt(r^2 + h^2). On a piecewise linear network the quotient is a fair Rayleigh quotient, but quotients along
different directions do not belong to one symmetric matrix: use frames for eigenvalues.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from assay.boundary.shape.places import Places
from assay.boundary.shape.products import Products, checked
from assay.errors import UsageError


def default_scale(places: Places, *, kinked: bool) -> Tensor:
    """Step lengths (B,) that suit the network.

    Piecewise linear networks need a step that crosses many kinks: a tenth of the value range in every element,
    sqrt(d) * 0.1 * range, which is 2.8 for 784 pixels in [0, 1]. Smooth ones need a small step that is still far above
    rounding: 1e-3 of the length of the point in float32, 1e-5 in float64.

    Args:
        places: the points.
        kinked: whether the network is piecewise linear.

    Returns:
        (B,) float64. The range is that of the legal inputs where it is known, else that of the row's own values.
    """
    flat = places.point.double().flatten(1)
    if not kinked:
        relative = 1e-5 if places.point.dtype == torch.float64 else 1e-3
        length = flat.norm(dim=1)
        return relative * torch.where(length > 0, length, torch.ones_like(length))
    if places.field.bounds is not None:
        span = torch.full_like(flat[:, 0], places.field.bounds[1] - places.field.bounds[0])
    else:
        both = torch.cat([flat, places.x.double().flatten(1)], 1)
        span = both.amax(1) - both.amin(1)
    return math.sqrt(flat.shape[1]) * 0.1 * torch.where(span > 0, span, torch.ones_like(span))


def scale_rows(scale: float | Tensor | None, default: Tensor) -> Tensor:
    """Scales (B,) as given: one number, one per row, or the default.

    Returns:
        (B,) float64.

    Raises:
        UsageError: for scales that are not positive and finite, or do not fit the rows.
    """
    if scale is None:
        return default
    given = torch.as_tensor(scale, dtype=torch.float64, device=default.device)
    if given.dim() > 1 or (given.dim() == 1 and len(given) != len(default)):
        raise UsageError(f"scale has shape {tuple(given.shape)} for {len(default)} inputs.", where="scale")
    if not bool((torch.isfinite(given) & (given > 0)).all()):
        raise UsageError(
            f"scale={scale} is no length.",
            where="scale",
            advice="Give a positive distance in the units of the inputs.",
        )
    return given.expand(len(default)).clone()


def gradient_differences(places: Places, row: int, steps: Tensor) -> Tensor:
    """(grad F(z + s) - grad F(z - s)) / 2 for steps (m, d): (m, d) float64."""
    point, count = places.point[row], len(steps)
    own, rival = (each[row].expand(2 * count) for each in (places.label, places.rival))
    centre = point.double().flatten()
    ends = torch.cat([centre + steps, centre - steps]).to(point.dtype).reshape(-1, *point.shape)
    found = checked(places.field.gradient(ends, own, rival).flatten(1).double())
    return (found[:count] - found[count:]) / 2


def difference_products(places: Places, row: int, scale: float) -> Products:
    """Projected products P H P v by central differences over the length `scale`, one pair of gradients each.

    The step has the same length for every vector. Linear and symmetric up to O(scale^2) on smooth networks only.

    Returns:
        A function from vectors (m, d) to (m, d).
    """
    tangent = places.tangent(row)

    def products(vectors: Tensor) -> Tensor:
        steps = tangent.project(vectors)
        length = steps.norm(dim=1, keepdim=True)
        unit = steps / torch.where(length > 0, length, torch.ones_like(length))
        return tangent.project(gradient_differences(places, row, scale * unit) * (length / scale))

    return products


def directional(places: Places, row: int, directions: Tensor, scale: float) -> Tensor:
    """Curvatures at a scale along unit tangent directions, by central differences of the gradient.

    Args:
        places: the points.
        row: which.
        directions: (m, d) unit tangent vectors.
        scale: half the length of the chord.

    Returns:
        (m,) v.(grad F(z + hv) - grad F(z - hv)) / (2 h ||grad F(z)||).
    """
    differences = gradient_differences(places, row, scale * directions)
    return (directions * differences).sum(1) / (scale * places.gradient_norm[row])


def directional_forward(places: Places, row: int, directions: Tensor, scale: float) -> Tensor:
    """The same from forward passes alone: (m,) (F(z + hv) + F(z - hv) - 2 F(z)) / (h^2 ||grad F(z)||).

    Twice the logit difference is subtracted, so the step must be large against sqrt(rounding / curvature).

    Returns:
        (m,) curvatures at a scale, under a triangular kernel.
    """
    point, count = places.point[row], len(directions)
    centre, steps = point.double().flatten(), scale * directions
    ends = torch.cat([centre + steps, centre - steps, centre[None]]).to(point.dtype).reshape(-1, *point.shape)
    own, rival = (each[row].expand(len(ends)) for each in (places.label, places.rival))
    values = checked(places.field.value(ends, own, rival).double())
    bend = values[:count] + values[count : 2 * count] - 2 * values[-1]
    return bend / (scale**2 * places.gradient_norm[row])
