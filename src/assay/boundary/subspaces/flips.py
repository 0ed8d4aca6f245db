"""How often noise crosses a boundary whose distance and curvatures are known: makes curvature a checkable quantity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay.boundary.subspaces.paraboloid import beyond_paraboloid
from assay.errors import UsageError
from assay.grade import Grade

Array = NDArray[np.float64]
FlipMethod = Literal["auto", "exact", "sorm", "high_dimensional", "flat"]

FLIP_GRADES = {
    "exact": Grade.CLOSED_FORM,
    "sorm": Grade.LINEARISED,
    "high_dimensional": Grade.STATISTICAL,
    "flat": Grade.LINEARISED,
}
"""Grade of the probability by method, for curvatures that are themselves exact."""


def flip_probability(
    distance: Tensor | Array | float,
    curvatures: Tensor | Array | list[float],
    noise: Tensor | Array | float,
    *,
    method: FlipMethod = "auto",
    rest: tuple[Tensor | Array | float, Tensor | Array | float] | None = None,
) -> Tensor:
    """Probability that Gaussian noise N(0, noise^2) in every coordinate crosses a curved boundary.

    The boundary is the paraboloid t = R - 1/2 sum_i kappa_i v_i^2 with the input at the origin, t along the normal and
    v_i along the principal directions. ``exact`` integrates over it at any dimension and size of noise. The others
    approximate it: ``sorm`` is Phi(-R/s) prod_i (1 - R kappa_i)^(-1/2), for small noise (Breitung 1984, equation 27);
    ``high_dimensional`` takes the sum over many directions as Gaussian,
    Phi(-(R - s^2 S_1 / 2) / sqrt(s^2 + s^4 S_2 / 2)) with S_k = sum_i kappa_i^k; ``flat`` is Phi(-R/s), as
    if there were no curvature.

    Args:
        distance: R, from the input to its nearest boundary point, a number or (B,); 0 or more. Infinity means that
            there is no boundary, NaN that it was not found.
        curvatures: (m,) or (B, m) principal curvatures at that point, positive where the boundary bends towards the
            input; m may be 0.
        noise: s, the standard deviation (not the variance) of every coordinate, a number or (B,).
        method: ``auto`` is exact.
        rest: (count, sum) of principal curvatures that `curvatures` leaves out, numbers or (B,): they are taken as
            equal to each other.

    Returns:
        () or (B,) float64. 0 without noise; NaN where distance or curvatures are NaN, and where ``sorm`` breaks down:
        at R kappa >= 1, where the point is not the nearest one or lies at the focus, or at a value above 1. Grade:
        closed form (exact for a paraboloid) for ``exact``; ``high_dimensional`` statistical; the others linearised.
        Other boundaries than this one are left out.

    Raises:
        UsageError: for a negative distance or noise, shapes that do not fit, or an unknown method.

    Source: SORM, Breitung (1984); the high-dimensional form takes the sum of squares for Gaussian; exact:
        `beyond_paraboloid`.

    Example:
        >>> [round(float(flip_probability(2.0, [0.05] * 20, 0.7, method=m)), 5) for m in ("exact", "sorm", "flat")]
        [0.00637, 0.00613, 0.00214]
    """
    if method not in get_args(FlipMethod):
        raise UsageError(f"There is no method {method!r}.", where="method", advice=f"Use {get_args(FlipMethod)}.")
    spectrum = _array(curvatures)
    if spectrum.ndim not in (1, 2):
        raise UsageError(
            f"Curvatures must be (m,) or (B, m), got {spectrum.shape}.", where="curvatures", advice="One row per input."
        )
    rows = (_array(distance), _array(noise), *((_array(rest[0]), _array(rest[1])) if rest else (np.zeros(()),) * 2))
    if any(row.ndim > 1 for row in rows):
        raise UsageError("Give one number, or one per input, shape (B,).", where="distance, noise or rest")
    try:
        shape = np.broadcast_shapes(*(row.shape for row in rows), spectrum.shape[:-1])
    except ValueError as error:
        shapes = [row.shape for row in (*rows[:2], spectrum)]
        raise UsageError(
            "Distance, noise and curvatures have different numbers of inputs.",
            where=f"shapes {shapes}",
            advice="Give each for all inputs, or once.",
        ) from error
    reach, spread, count, total = (np.broadcast_to(row, shape).ravel() for row in rows)
    if (reach < 0).any() or (spread < 0).any() or (count < 0).any() or not np.isfinite(spread).all():
        raise UsageError(
            "Distance, noise and the count of further curvatures must not be negative, and noise must be finite.",
            where="distance, noise or rest",
            advice="Curvature carries the sign; noise is a standard deviation.",
        )
    table = np.broadcast_to(spectrum, (*shape, spectrum.shape[-1])).reshape(len(reach), -1)
    formula = _FORMULAS["exact" if method == "auto" else method]
    found = np.zeros(len(reach))
    for row in range(len(reach)):
        weights, counts = np.append(table[row], total[row] / max(count[row], 1.0)), np.ones(table.shape[1] + 1)
        counts[-1] = count[row]
        if np.isnan(reach[row]) or not np.isfinite(weights).all():
            found[row] = np.nan
        elif spread[row] > 0 and np.isfinite(reach[row]):
            found[row] = formula(float(reach[row]), float(spread[row]), weights, counts)
    return torch.from_numpy(found.reshape(shape))


def _exact(distance: float, noise: float, curvatures: Array, counts: Array) -> float:
    return beyond_paraboloid(distance / noise, 0.5 * noise * curvatures, counts)


def _sorm(distance: float, noise: float, curvatures: Array, counts: Array) -> float:
    from scipy.special import log_ndtr

    bends = distance * curvatures[counts > 0]
    if (bends >= 1).any():
        return np.nan
    found = float(np.exp(log_ndtr(-distance / noise) - 0.5 * np.sum(counts[counts > 0] * np.log1p(-bends))))
    return found if found <= 1 else np.nan


def _high_dimensional(distance: float, noise: float, curvatures: Array, counts: Array) -> float:
    from scipy.special import ndtr

    first, second = float(np.sum(counts * curvatures)), float(np.sum(counts * curvatures**2))
    return float(ndtr(-(distance / noise - 0.5 * noise * first) / np.sqrt(1 + 0.5 * noise**2 * second)))


def _flat(distance: float, noise: float, curvatures: Array, counts: Array) -> float:
    from scipy.special import ndtr

    return float(ndtr(-distance / noise))


_FORMULAS: dict[str, Callable[[float, float, Array, Array], float]] = {
    "exact": _exact,
    "sorm": _sorm,
    "high_dimensional": _high_dimensional,
    "flat": _flat,
}


def _array(values: object) -> Array:
    if isinstance(values, Tensor):
        return values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)
