"""Kinks of the largest of several jointly Gaussian paths: where two of them tie at the top, and where all pass a level.

Two laws that are equal. Kac-Rice, pair by pair: density of a tie times the variance of the difference of slopes times
the probability that all others are below; every term is positive, and up to four paths need no draws. Conservation
of curvature: for a stationary vector with covariance R and slope covariance L the new kinks of the largest are
E[(L R^-1 (z - m))_i*], i* the largest, because E[z''|z] = -L R^-1 (z - m) and the mean slope is constant.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from assay.errors import UsageError
from assay.gaussian.arguments import as_tensors
from assay.gaussian.bivariate import bivariate_normal_cdf
from assay.gaussian.crossings import KinkLaw, level_density
from assay.gaussian.normal import density, distribution
from assay.gaussian.quadrature import legendre
from assay.gaussian.rectified import standardise

MOST_PAIRED = 12
"""Largest window that is treated pair by pair; larger ones by conservation of curvature."""
REPLICATES = 8
_FAR_OUT, _PANEL = 6.5, 28
_CELLS = 1 << 21
"""Numbers of one temporary tensor."""


class MaximumLaw(NamedTuple):
    """Kinks of the largest of k paths, per unit of t.

    Attributes:
        ties: kinks at ties, one law for each stretch of values: below the first level, between levels, above the last.
        crossings: kinks that a jump of slope of 1 at each level would make of the largest.
        error: standard error of the sum of all `smp`, from independent replicates; zero where no draws were needed.
    """

    ties: tuple[KinkLaw, ...]
    crossings: tuple[KinkLaw, ...]
    error: Tensor


def maximum_kinks(
    mean: Tensor,
    covariance: Tensor,
    slope_covariance: Tensor,
    *,
    floor: float | None = None,
    points: int = 256,
    seed: int = 0,
) -> tuple[KinkLaw, Tensor]:
    """New kinks of max(z_1, ..., z_k) along a stationary Gaussian vector path, or of max(floor, z_1, ..., z_k).

    Args:
        mean: (..., k) means of z.
        covariance: (..., k, k) of z at one t. May be singular.
        slope_covariance: (..., k, k) of dz/dt at one t.
        floor: a constant among the candidates: 0 for ReLU and max pool.
        points: quasi-random points where probabilities of more than three variables are needed (k > 4).
        seed: of the points.

    Returns:
        The law per unit of t (...) and the standard error of its `smp`. Grade: exact for stationary Gaussian paths up
        to that error. Beyond 12 candidates `rate` and `energy` take all ties for alike.

    Raises:
        UsageError: shapes do not fit.

    Example:
        >>> eye = torch.eye(4, dtype=torch.float64)
        >>> law, error = maximum_kinks(torch.zeros(4, dtype=torch.float64), eye, eye)
        >>> round(float(law.smp), 6)
        1.029375
    """
    found = maximum_law(mean, covariance, slope_covariance, () if floor is None else (floor,), points=points, seed=seed)
    parts = found.ties if floor is None else (found.ties[1], found.crossings[0])
    return KinkLaw(*(torch.stack(values).sum(0) for values in zip(*parts, strict=True))), found.error


def maximum_law(
    mean: Tensor,
    covariance: Tensor,
    slope_covariance: Tensor,
    levels: Sequence[float] = (),
    *,
    points: int = 256,
    seed: int = 0,
) -> MaximumLaw:
    """Ties at the top of a stationary Gaussian vector, split at levels, and its largest's crossings of them.

    Args:
        mean: (..., k).
        covariance: (..., k, k).
        slope_covariance: (..., k, k).
        levels: ascending.
        points: quasi-random points in each of the replicates.
        seed: of the points.

    Returns:
        Laws (...). Grade: as `maximum_kinks`.

    Raises:
        UsageError: shapes do not fit.

    Example:
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> law = maximum_law(torch.zeros(2, dtype=torch.float64), eye, eye, (0.0,))
        >>> [round(float(part.smp), 6) for part in (*law.ties, *law.crossings)]
        [0.282095, 0.282095, 0.398942]
    """
    mean, covariance, slope_covariance = as_tensors(mean, covariance, slope_covariance)
    count, shape = mean.shape[-1], mean.shape[:-1]
    if covariance.shape != (*shape, count, count) or slope_covariance.shape != covariance.shape or count < 1:
        raise UsageError(
            f"Means {tuple(mean.shape)} do not fit covariances {tuple(covariance.shape)} and "
            f"{tuple(slope_covariance.shape)}.",
            where="maximum_kinks(mean, covariance, slope_covariance)",
            advice="Pass (..., k), (..., k, k) and (..., k, k).",
        )
    flat = mean.reshape(-1, count), covariance.reshape(-1, count, count), slope_covariance.reshape(-1, count, count)
    law = (_paired if count <= MOST_PAIRED else _conserved)(*flat, tuple(levels), points, seed)
    ties, crossings = ([KinkLaw(*(v.reshape(shape) for v in part)) for part in parts] for parts in law[:2])
    return MaximumLaw(tuple(ties), tuple(crossings), law.error.reshape(shape))


def every_tie(mean: Tensor, covariance: Tensor, slope_covariance: Tensor) -> KinkLaw:
    """Ties of any two of k stationary Gaussian paths, at the top or below it: never less than `maximum_law` has.

    Args:
        mean: (..., k).
        covariance: (..., k, k).
        slope_covariance: (..., k, k).

    Returns:
        Law (...), in closed form. Grade: exact.

    Example:
        >>> eye = torch.eye(3, dtype=torch.float64)
        >>> law, top = (
        ...     function(torch.zeros(3, dtype=torch.float64), eye, eye) for function in (every_tie, maximum_law)
        ... )
        >>> round(float(top.ties[0].smp / law.smp), 6)  # at a tie of two, the third is above with probability 1/2
        0.5
    """
    total = [torch.zeros_like(mean[..., 0]) for _ in range(3)]
    for i, j in itertools.combinations(range(mean.shape[-1]), 2):
        gap, square, speed = _difference(mean, covariance, slope_covariance, i, j)
        _add(total, level_density(gap, square.sqrt()), speed, torch.ones_like(gap))
    return KinkLaw(*total)


def _difference(mean: Tensor, covariance: Tensor, slopes: Tensor, i: int, j: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and deviation of the slope of z_i - z_j, (...) each."""
    variance = covariance[..., i, i] + covariance[..., j, j]
    square = (variance - 2 * covariance[..., i, j]).clamp(min=0)
    square = torch.where(square > 1e-14 * variance, square, torch.zeros_like(square))
    speed = (slopes[..., i, i] + slopes[..., j, j] - 2 * slopes[..., i, j]).clamp(min=0).sqrt()
    return mean[..., i] - mean[..., j], square, speed


def maximum_smp_by_curvature(
    mean: Tensor,
    covariance: Tensor,
    slope_covariance: Tensor,
    *,
    floor: float | None = None,
    points: int = 2048,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """New SMP of the largest by conservation of curvature, E[(L R^-1 (z - m))_i* 1{active}], by quasi-random draws.

    Args:
        mean: (n, k) means m.
        covariance: (n, k, k) R; directions without variance are left out.
        slope_covariance: (n, k, k) L.
        floor: active where the largest exceeds this.
        points: in each of eight replicates.
        seed: of the points.

    Returns:
        SMP per unit of t (n,) and its standard error (n,). Grade: sampled.

    Example:
        >>> eye = torch.eye(9, dtype=torch.float64)[None]
        >>> smp, error = maximum_smp_by_curvature(torch.zeros(1, 9, dtype=torch.float64), eye, eye)
        >>> bool((smp - 1.485013).abs() < 4 * error + 1e-3)
        True
    """
    levels = () if floor is None else (floor,)
    replicates = _curvatures(mean, covariance, slope_covariance, levels, points, seed)[:, -1]
    return replicates.mean(0), replicates.std(0) / math.sqrt(REPLICATES)


def normal_points(count: int, dimension: int, seed: int) -> Tensor:
    """(count, dimension) scrambled Sobol points in the open unit cube, float64.

    Args:
        count: number of points, best a power of two.
        dimension: at least 1.
        seed: of the scrambling: other seeds are independent replicates.

    Returns:
        Points.

    Example:
        >>> normal_points(4, 2, 0).shape
        torch.Size([4, 2])
    """
    engine = SobolEngine(dimension, scramble=True, seed=seed)
    return engine.draw(count, dtype=torch.float64).mul_(1 - 2**-30).add_(2**-31)


def _paired(
    mean: Tensor, covariance: Tensor, slopes: Tensor, levels: tuple[float, ...], points: int, seed: int
) -> MaximumLaw:
    count = mean.shape[1]
    variance, slope_variance = (matrix.diagonal(dim1=1, dim2=2) for matrix in (covariance, slopes))
    none = mean.new_zeros((REPLICATES, len(mean)))
    above = [[none, none, none] for _ in range(len(levels) + 1)]  # ties above no level, the first, ...
    passed = [[none, none, none] for _ in levels]
    for i, j in itertools.combinations(range(count), 2):
        gap, square, speed = _difference(mean, covariance, slopes, i, j)
        height = level_density(gap, square.sqrt())
        direction = mean.new_zeros(count)
        direction[i], direction[j] = 1, -1
        others = [other for other in range(count) if other not in (i, j)]
        for place, level in enumerate((None, *levels)):
            chance = _below(mean, covariance, direction, gap, square, others, i, level, points, seed)
            _add(above[place], height, speed, chance)
    for place, level in enumerate(levels):
        for i in range(count):
            direction = mean.new_zeros(count)
            direction[i] = 1
            others = [other for other in range(count) if other != i]
            gap = mean[:, i] - level
            chance = _below(mean, covariance, direction, gap, variance[:, i], others, i, None, points, seed)
            _add(passed[place], level_density(gap, variance[:, i].sqrt()), slope_variance[:, i].sqrt(), chance)
    stretches = [[upper - lower for upper, lower in zip(first, second, strict=True)]
                 for first, second in itertools.pairwise(above)] + [above[-1]]  # fmt: skip
    error = torch.stack([sum((law[1] for law in passed), law[1]).std(0) for law in above]).amax(0)
    laws = [[KinkLaw(*(part.mean(0).clamp(min=0) for part in law)) for law in group] for group in (stretches, passed)]
    return MaximumLaw(tuple(laws[0]), tuple(laws[1]), error / math.sqrt(REPLICATES))


def _add(law: list[Tensor], height: Tensor, speed: Tensor, chance: Tensor) -> None:
    weight, root = height * chance, math.sqrt(2 / math.pi)
    for place, moment in enumerate((root * speed, speed.square(), 2 * root * speed**3)):
        law[place] = law[place] + weight * moment


def _below(
    mean: Tensor,
    covariance: Tensor,
    direction: Tensor,
    gap: Tensor,
    square: Tensor,
    others: list[int],
    top: int,
    level: float | None,
    points: int,
    seed: int,
) -> Tensor:
    """P(z_l < z_top for all others, z_top > level | direction z at the value where gap is 0): (replicates, n)."""
    rows = torch.zeros((len(others) + (level is not None), mean.shape[1]), dtype=mean.dtype)
    for place, other in enumerate(others):
        rows[place, other], rows[place, top] = 1, -1
    if level is not None:
        rows[-1, top] = -1
    centre = mean @ rows.T
    if level is not None:
        centre[:, -1] += level
    shared = covariance @ direction @ rows.T
    spread = square > 0
    ratio = shared / torch.where(spread, square, torch.ones_like(square)).unsqueeze(1)
    ratio = torch.where(spread.unsqueeze(1), ratio, torch.zeros_like(ratio))
    centre = centre - ratio * gap.unsqueeze(1)
    free = rows @ covariance @ rows.T
    matrix = free - ratio.unsqueeze(2) * shared.unsqueeze(1)
    # what the condition leaves no freedom is known, and is a tie when it is zero up to rounding: a path given twice
    size = free.diagonal(dim1=1, dim2=2)
    loose = matrix.diagonal(dim1=1, dim2=2) > 1e-12 * size
    matrix = matrix * (loose.unsqueeze(1) & loose.unsqueeze(2))
    centre = torch.where(~loose & (centre.square() <= 1e-14 * size), torch.zeros_like(centre), centre)
    return all_negative(centre, matrix, points=points, seed=seed)


def all_negative(mean: Tensor, covariance: Tensor, *, points: int = 256, seed: int = 0) -> Tensor:
    """Probability that all of d jointly Gaussian variables are negative.

    Up to two in closed form, three by quadrature; more one after the other with quasi-random points (Genz 1992).

    Args:
        mean: (n, d).
        covariance: (n, d, d); may be singular.
        points: quasi-random points in each replicate.
        seed: of the points.

    Returns:
        (8, n): one estimate for each replicate, all alike up to three variables. Grade: sampled beyond three.

    Example:
        >>> mean, third = torch.zeros(1, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[None]
        >>> round(float(all_negative(mean, third).mean()), 6)
        0.125
    """
    number, dimension = mean.shape
    variance = covariance.diagonal(dim1=1, dim2=2).clamp(min=0)
    if dimension == 0:
        return mean.new_ones((REPLICATES, number))
    std = torch.where(variance > 1e-14 * variance.amax(1, keepdim=True), variance, torch.zeros_like(variance)).sqrt()
    limit = standardise(-mean, std)
    if dimension == 1:
        return distribution(limit[:, 0]).expand(REPLICATES, number)
    if dimension == 2:
        product = std[:, 0] * std[:, 1]
        moving = product > 0
        rho = covariance[:, 0, 1] / torch.where(moving, product, torch.ones_like(product))
        rho = torch.where(moving, rho, torch.zeros_like(rho)).clamp(-1, 1)
        return bivariate_normal_cdf(limit[:, 0], limit[:, 1], rho).expand(REPLICATES, number)
    if dimension == 3:
        return _three(mean, covariance, std).expand(REPLICATES, number)
    step = max(1, _CELLS // (points * dimension))
    return torch.stack(
        [
            torch.cat(
                [
                    _sequential(mean[start : start + step], covariance[start : start + step], cube)
                    for start in range(0, number, step)
                ]
            )
            if number
            else mean.new_zeros(0)
            for cube in (normal_points(points, dimension - 1, seed * REPLICATES + r) for r in range(REPLICATES))
        ]
    )


def _three(mean: Tensor, covariance: Tensor, std: Tensor) -> Tensor:
    """Three variables: Gauss-Legendre over the one least tied to the others, which given it have a closed form."""
    scale = torch.where(std > 0, 1 / torch.where(std > 0, std, torch.ones_like(std)), torch.zeros_like(std))
    link = (covariance * scale.unsqueeze(2) * scale.unsqueeze(1)).abs()
    link = link - torch.diag_embed(link.diagonal(dim1=1, dim2=2))
    order = torch.where(std > 0, link.amax(2), torch.full_like(std, 2.0)).argsort(1)
    mean, std = mean.gather(1, order), std.gather(1, order)
    rows = torch.arange(len(mean))[:, None, None]
    matrix = covariance[rows, order.unsqueeze(2), order.unsqueeze(1)]
    limit = standardise(-mean[:, 0], std[:, 0])
    low = -_FAR_OUT + 0 * limit
    width = (limit.clamp(max=_FAR_OUT) - low).clamp(min=0)
    spread = std[:, 0] > 0
    safe = torch.where(spread, std[:, 0], torch.ones_like(limit))
    lean = torch.where(spread.unsqueeze(1), matrix[:, 1:, 0] / safe.unsqueeze(1), torch.zeros_like(mean[:, 1:]))
    rest = matrix[:, 1:, 1:] - lean.unsqueeze(2) * lean.unsqueeze(1)
    variance = rest.diagonal(dim1=1, dim2=2)
    own = torch.where(variance > 1e-12 * std[:, 1:].square(), variance, torch.zeros_like(variance)).sqrt()
    product = own[:, 0] * own[:, 1]
    moving = product > 0
    rho = torch.where(moving, rest[:, 0, 1] / torch.where(moving, product, torch.ones_like(product)), 0 * product)
    nodes, weights = torch.tensor(legendre(_PANEL), dtype=mean.dtype).unbind(1)
    u = low + width * nodes.unsqueeze(1)  # (nodes, n)
    ends = standardise(-(mean[:, 1:] + lean * u.unsqueeze(2)), own)
    both = bivariate_normal_cdf(ends[..., 0], ends[..., 1], rho.clamp(-1, 1))
    total = (weights.unsqueeze(1) * width * density(u) * both).sum(0)
    # without any freedom the first is a fact
    ends = standardise(-mean[:, 1:], own)
    return torch.where(spread, total, distribution(limit) * bivariate_normal_cdf(ends[:, 0], ends[:, 1], 0.0))


def _sequential(mean: Tensor, covariance: Tensor, cube: Tensor) -> Tensor:
    dimension = mean.shape[1]
    root = torch.zeros_like(covariance)
    drawn = mean.new_zeros((len(mean), len(cube), dimension))
    total = mean.new_ones((len(mean), len(cube)))
    least = 1e-14 * covariance.diagonal(dim1=1, dim2=2).amax(1).clamp(min=0)
    for r in range(dimension):
        square = covariance[:, r, r] - root[:, r, :r].square().sum(1)
        own = torch.where(square > least, square, torch.zeros_like(square)).sqrt()
        root[:, r, r] = own
        safe = torch.where(own > 0, own, torch.ones_like(own)).unsqueeze(1)
        later = covariance[:, r + 1 :, r] - (root[:, r + 1 :, :r] @ root[:, r, :r].unsqueeze(2)).squeeze(2)
        root[:, r + 1 :, r] = torch.where(own.unsqueeze(1) > 0, later / safe, torch.zeros_like(later))
        centre = mean[:, r, None] + (drawn[:, :, :r] @ root[:, r, :r].unsqueeze(2)).squeeze(2)
        chance = distribution(standardise(-centre, own.unsqueeze(1)))
        total.mul_(chance)
        if r + 1 < dimension:
            drawn[:, :, r] = torch.special.ndtri((cube[:, r] * chance).clamp(min=1e-300))
    return total.mean(1)


def _conserved(
    mean: Tensor, covariance: Tensor, slopes: Tensor, levels: tuple[float, ...], points: int, seed: int
) -> MaximumLaw:
    count = mean.shape[1]
    above = _curvatures(mean, covariance, slopes, levels, 4 * points, seed)
    speed = slopes.diagonal(dim1=1, dim2=2).mean(1)
    passed = []
    for level in levels:
        passed.append(_alike(_crossings(mean, covariance, slopes, level, points, seed), speed))
    # what crosses a level is counted by conservation of curvature above it, and is no tie
    over = [above[:, 0], *(above[:, k + 1] - law.smp for k, law in enumerate(passed))]
    replicates = over[0] + sum((law.smp for law in passed), torch.zeros_like(over[0]))
    pairs = 2 * (speed * count - slopes.sum((1, 2)) / count) / max(count - 1, 1)  # mean variance of slope differences
    smp = [upper - lower for upper, lower in itertools.pairwise(over)] + [over[-1]]
    ties = [_alike(part.mean(0).clamp(min=0), pairs) for part in smp]
    return MaximumLaw(tuple(ties), tuple(passed), replicates.std(0) / math.sqrt(REPLICATES))


def _alike(smp: Tensor, square: Tensor) -> KinkLaw:
    """Rate and energy of kinks of this SMP whose slopes all have one variance."""
    root, speed = math.sqrt(2 / math.pi), square.clamp(min=0).sqrt()
    moving = speed > 0
    rate = torch.where(moving, root * smp / torch.where(moving, speed, torch.ones_like(speed)), torch.zeros_like(smp))
    return KinkLaw(rate, smp, 2 * root * speed * smp)


def _crossings(mean: Tensor, covariance: Tensor, slopes: Tensor, level: float, points: int, seed: int) -> Tensor:
    """SMP of a unit jump of slope at a level of the largest of many."""
    total = mean.new_zeros(len(mean))
    for i in range(mean.shape[1]):
        direction = mean.new_zeros(mean.shape[1])
        direction[i] = 1
        others = [other for other in range(mean.shape[1]) if other != i]
        gap, square = mean[:, i] - level, covariance[:, i, i]
        chance = _below(mean, covariance, direction, gap, square, others, i, None, points // 4, seed).mean(0)
        total = total + level_density(gap, square.clamp(min=0).sqrt()) * slopes[:, i, i] * chance
    return total


def _curvatures(
    mean: Tensor, covariance: Tensor, slopes: Tensor, levels: tuple[float, ...], points: int, seed: int
) -> Tensor:
    """E[(L R^-1 (z - m))_i* 1{z_i* > level}] for no level and each: (replicates, 1 + levels, n)."""
    number, count = mean.shape
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > 1e-12 * values.amax(-1, keepdim=True)
    root = torch.where(kept, values, torch.zeros_like(values)).sqrt()
    inverse = torch.where(kept, 1 / torch.where(kept, root, torch.ones_like(root)), torch.zeros_like(root))
    spread, pull = vectors * root.unsqueeze(-2), slopes @ vectors * inverse.unsqueeze(-2)
    step = max(1, _CELLS // (points * count))
    found = mean.new_zeros((REPLICATES, 1 + len(levels), number))
    for r in range(REPLICATES):
        normal = torch.special.ndtri(normal_points(points, count, seed * REPLICATES + r))
        for start in range(0, number, step):
            part = slice(start, start + step)
            z = mean[part, None] + normal @ spread[part].mT
            top, winner = z.max(-1)
            bend = (normal @ pull[part].mT).gather(-1, winner.unsqueeze(-1)).squeeze(-1)
            found[r, 0, part] = bend.mean(-1)
            for place, level in enumerate(levels):
                found[r, place + 1, part] = (bend * (top > level)).mean(-1)
    return found
