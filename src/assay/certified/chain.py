"""Bounds of a chain W_k D_k ... D_1 W_0, where the D are diagonal with entries in known intervals.

Three ways, each guaranteed: the product of norms; the averaged-operator bound (Combettes and Pesquet 2019,
arXiv 1903.01014), here for any interval of slopes and any norm: D = m I + h S with ||S|| <= 1, and the product of all
factors multiplied out; and ECLipsE-Fast (Xu and Sivaranjani 2024), here from its S-procedure: see `eclipse`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.certified.slopes import Slopes
from assay.certified.stretch import SIDE, Stretch, matrix_norm

_LARGE = 300  # from this side on, products of matrices are formed only for neighbours
_NEIGHBOURS = 3


def product(linears: Sequence[Stretch], slopes: Sequence[Slopes], kind: str) -> float:
    """Product of the nodes' guaranteed norms and the activations' Lipschitz constants."""
    return math.prod(one.gains[kind] for one in linears) * math.prod(one.gain for one in slopes)


@dataclass(frozen=True, eq=False)
class Averaged:
    """The averaged-operator bound of one chain, with its straight part apart.

    Attributes:
        value: guaranteed norm of the whole chain.
        straight: norm of the part in which every D_t is m_t I: ||whole||.
        whole: m_1 ... m_k W_k ... W_0, or None where it is too large to be formed.
    """

    value: float
    straight: float
    whole: Tensor | None


def averaged(linears: Sequence[Stretch], slopes: Sequence[Slopes], kind: str) -> Averaged:
    """Averaged-operator bound, with D_t = m_t I + h_t S_t.

    The chain is a sum over all ways to cut it at some of its activations: a cut at t weighs h_t, no cut |m_t|, and each
    piece between cuts is one product of matrices. The sum of norms is found by recursion over the last cut. Where
    matrices are too large, a piece's norm is the least product of its parts' norms.

    Args:
        linears: W_0 ... W_k.
        slopes: of D_1 ... D_k.
        kind: norm, ``2`` or ``inf``.

    Returns:
        The bound.
    """
    count = len(linears)
    pieces, whole = _pieces(linears, kind)
    for length in range(1, count):
        for first in range(count - length):
            last = first + length
            splits = [pieces[first][cut] * pieces[cut + 1][last] for cut in range(first, last)]
            pieces[first][last] = min(pieces[first][last], *splits)
    sums: list[float] = []
    for last in range(count):
        total = 0.0
        for first in range(last + 1):
            before = 1.0 if first == 0 else sums[first - 1] * slopes[first - 1].half
            kept = math.prod(abs(slopes[t].middle) for t in range(first, last))
            total += before * kept * pieces[first][last]
        sums.append(total)
    middle = math.prod(one.middle for one in slopes)
    return Averaged(sums[-1], abs(middle) * pieces[0][-1], None if whole is None else middle * whole)


def _pieces(linears: Sequence[Stretch], kind: str) -> tuple[list[list[float]], Tensor | None]:
    """Norms of W_j ... W_i as far as they are formed, infinite elsewhere; and the product of all matrices."""
    count = len(linears)
    pieces = [[math.inf] * count for _ in range(count)]
    whole: Tensor | None = None
    formed = all(one.small for one in linears)
    for first, one in enumerate(linears):
        pieces[first][first] = one.norm(kind)
        running = one.matrix if formed and count > 1 else None
        for last in range(first + 1, count):
            if running is None or (first > 0 and last - first >= _NEIGHBOURS and min(running.shape) > _LARGE):
                break
            running = linears[last].matrix @ running
            if last - first < _NEIGHBOURS or min(running.shape) <= _LARGE:
                pieces[first][last] = matrix_norm(running, kind)
        if first == 0:
            whole = running if count > 1 else (one.matrix if formed else None)
    return pieces, whole


def eclipse(linears: Sequence[Stretch], slopes: Sequence[Slopes]) -> float | str:
    """ECLipsE-Fast in the 2-norm, for slopes in [0, b].

    With v_0 the input's change and v_l = D_l W_l v_(l-1), keep v_l^T M_l v_l <= ||v_0||^2, starting from M_0 = I. For
    u = W_l v_(l-1) and slopes in [0, 1], 2 c' v_l^T (u - v_l) >= 0, so M_l holds if [[M_(l-1), -c' W_l^T], [-c' W_l,
    2 c' I - M_l]] is positive semidefinite; by its Schur complement M_l = c I - (c / 2)^2 S_l with c = 2 c' and S_l =
    W_l M_(l-1)^-1 W_l^T. c = 2 / ||S_l|| keeps the smallest eigenvalue of M_l at its largest, 1 / ||S_l||. In the end
    L^2 = ||W_m M_(m-1)^-1 W_m^T||. A slope bound b other than 1 is a factor of W_l.

    Args:
        linears: W_0 ... W_k.
        slopes: of D_1 ... D_k.

    Returns:
        Guaranteed Lipschitz constant, or a sentence that says why there is none.
    """
    if not slopes:
        return linears[0].norm("2")
    if not linears[-1].nodes:  # an activation at an end is a factor
        rest = eclipse(linears[:-1], slopes[:-1])
        return rest if isinstance(rest, str) else rest * slopes[-1].gain
    if not linears[0].nodes:
        rest = eclipse(linears[1:], slopes[1:])
        return rest if isinstance(rest, str) else rest * slopes[0].gain
    if any(one.low < 0 for one in slopes):
        return "an activation has negative slopes"
    if not all(one.small for one in linears):
        return f"a layer's matrix has more than {SIDE} rows and columns"
    scale = product(linears, slopes, "2")
    if scale == 0 or not math.isfinite(scale):
        return scale
    factor: Tensor | None = None  # Cholesky factor of M, for matrices scaled to norm 1: L is linear in each of them
    for linear in linears[:-1]:
        image = _whitened(linear.matrix / linear.gains["2"], factor)
        state = image @ image.T
        top = matrix_norm(state)
        if top == 0:  # layers cancelled
            return 0.0
        identity = torch.eye(len(state), dtype=state.dtype)
        factor = torch.linalg.cholesky(2 / top * identity - state / top**2)
    return scale * matrix_norm(_whitened(linears[-1].matrix / linears[-1].gains["2"], factor))


def _whitened(matrix: Tensor, factor: Tensor | None) -> Tensor:
    """W M^(-1/2), up to a rotation, from the Cholesky factor of M."""
    return matrix if factor is None else torch.linalg.solve_triangular(factor, matrix.T, upper=False).T
