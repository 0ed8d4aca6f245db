"""From an allowed error to significand bits: the pairwise margin rule, its statistical form, and flip rates.

A decision for class `top` survives an error when for every rival j the error of f_top - f_j stays below the margin
m_j = f_top - f_j. With an error C_j 2^-t at t significand bits (implicit bit included, round to nearest, u = 2^-t) the
smallest safe t follows in closed form; where the error is not of that form (gamma_n has a pole), it is bisected.

Sources: Sakr, Kim and Shanbhag (2017) for margins, the noise-to-margin ratio and the Chebyshev form; Higham (2002),
section 3.1, for gamma_n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.errors import UsageError
from assay.gaussian import normal

LEVELS = (0.5, 0.9, 0.95, 0.99, 1.0)
"""Quantiles that summaries report; 1 is the largest value."""


@dataclass(frozen=True, eq=False)
class Rivals:
    """Top class, rivals and margins of a batch of logits.

    Attributes:
        top: (B,) index of the largest logit.
        rivals: (B, P) indices of the rivals, closest first.
        margins: (B, P) f_top - f_j, float64, not negative.
    """

    top: Tensor
    rivals: Tensor
    margins: Tensor


def rivals_of(logits: Tensor, count: int | None = None) -> Rivals:
    """Margins to the closest rivals.

    Args:
        logits: (B, K), at least two outputs.
        count: how many rivals, closest first; all K - 1 when None.

    Returns:
        The rivals and margins. Grade: exact.

    Raises:
        UsageError: when there is only one output, so that nothing is decided.

    Example:
        >>> rivals_of(torch.tensor([[5.0, 2.0, 4.0]])).margins.tolist()
        [[1.0, 3.0]]
    """
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise UsageError(
            f"A margin needs logits (B, K) with K of at least 2, got shape {tuple(logits.shape)}.",
            where="logits",
            advice="For a regression model bound the error itself: budget={'error': ...}.",
        )
    wanted = logits.shape[1] if count is None else min(count + 1, logits.shape[1])
    values, order = logits.double().topk(wanted, dim=1)
    return Rivals(order[:, 0], order[:, 1:], values[:, :1] - values[:, 1:])


def margin_bits(coefficients: Tensor, margins: Tensor, *, smallest: int = 1) -> Tensor:
    """Smallest t with C_j 2^-t < m_j for every rival: t_min = max_j floor(log2(C_j / m_j)) + 1, strictly.

    Where C_j / m_j is exactly 2^k the answer is k + 1. The comparison is made without rounding.

    Args:
        coefficients: (..., P) C_j, the error of the pair at t bits divided by 2^-t; not negative.
        margins: (..., P) m_j.
        smallest: least number of bits returned; a significand has at least its implicit bit.

    Returns:
        (...) float64 bits; inf where a margin is zero (no precision keeps a tie) or a coefficient infinite. The grade
        is that of the coefficients.

    Raises:
        UsageError: for NaN or negative coefficients, or NaN margins.

    Example:
        >>> margin_bits(torch.tensor([9.0]), torch.tensor([3.0])).item()  # floor(log2 3) + 1
        2.0
        >>> margin_bits(torch.tensor([8.0]), torch.tensor([1.0])).item()  # exactly 2^3: one more
        4.0
    """
    c, m = torch.broadcast_tensors(
        torch.as_tensor(coefficients, dtype=torch.float64), torch.as_tensor(margins, dtype=torch.float64)
    )
    if bool((c < 0).any() or c.isnan().any() or m.isnan().any()):
        raise UsageError("Error coefficients must be numbers of at least 0, and margins numbers.", where="coefficients")
    possible = (m > 0) & c.isfinite()
    safe_c, safe_m = torch.where(possible, c, 1.0), torch.where(possible, m, 1.0)
    # exponents of both give log2 of the ratio within one; scaling by powers of two is exact, so comparing decides
    (fraction_c, exponent_c), (fraction_m, exponent_m) = torch.frexp(safe_c), torch.frexp(safe_m)
    bits = (exponent_c - exponent_m).double()
    bits = bits + (fraction_c >= fraction_m).double()  # now C < m 2^bits, and no smaller integer does
    bits = torch.where(safe_c == 0, float(smallest), bits).clamp(min=smallest)
    return torch.where(possible | (c == 0) & (m > 0), bits, math.inf).amax(-1)


def sigma_bits(sigma: Tensor, margins: Tensor, *, reference: int, multiple: float = 3.0) -> Tensor:
    """Smallest t with multiple * sigma_j(t) < m_j for every rival, sigma halving with every bit.

    Args:
        sigma: (..., P) standard deviation of the error of f_top - f_j at `reference` bits.
        margins: (..., P) m_j.
        reference: the significand bits that `sigma` belongs to.
        multiple: how many deviations must fit into the margin.

    Returns:
        (...) float64 bits, inf for ties. Grade: statistical.
    """
    return margin_bits(sigma.double() * (multiple * 2.0**reference), margins)


def bits_by_bisection(
    error: Callable[[int], Tensor], margins: Tensor, *, smallest: int = 1, largest: int = 64
) -> Tensor:
    """Smallest t with error_j(t) < m_j for every rival, for errors that are not proportional to 2^-t.

    Args:
        error: gives (B, P) errors at t bits (inf where the bound does not hold), never growing with t; called once for
            each t needed, about log2(largest) times and more where samples differ.
        margins: (B, P) m_j.
        smallest: least number of bits tried.
        largest: most bits tried.

    Returns:
        (B,) float64 bits, inf where even `largest` bits do not do. Grade: that of the error.

    Example:
        >>> bits_by_bisection(lambda t: torch.tensor([[9.0 * 2.0**-t]]), torch.tensor([[3.0]])).tolist()
        [2.0]
    """
    margins = margins.double()
    fits: dict[int, Tensor] = {}

    def enough(t: int) -> Tensor:
        if t not in fits:
            fits[t] = (error(t).double() < margins).all(-1)
        return fits[t]

    low = torch.full(margins.shape[:1], smallest - 1, dtype=torch.int64)  # known not to do
    high = torch.full(margins.shape[:1], largest + 1, dtype=torch.int64)  # known to do, or out of range
    while bool((high - low > 1).any()):
        middle = (low + high) // 2
        for t in sorted({int(value) for value in middle[high - low > 1]}):
            here = (middle == t) & (high - low > 1)
            high = torch.where(here & enough(t), t, high)
            low = torch.where(here & ~enough(t), t, low)
    return torch.where(high > largest, math.inf, high.double())


def flip_probability(sigma: Tensor, margins: Tensor) -> Tensor:
    """Probability that some rival overtakes, by the union bound over Gaussian errors: sum_j Q(m_j / sigma_j).

    Args:
        sigma: (..., P) standard deviation of the error of f_top - f_j.
        margins: (..., P) m_j.

    Returns:
        (...) float64, at most 1. Grade: statistical.

    Example:
        >>> round(flip_probability(torch.tensor([1.0]), torch.tensor([3.0])).item(), 6)
        0.00135
    """
    sigma, margins = sigma.double(), margins.double()
    none = sigma == 0  # no error: only a tie can flip
    tail = normal.distribution(-margins / torch.where(none, 1.0, sigma))
    return torch.where(none, (margins <= 0).double(), tail).sum(-1).clamp(max=1.0)


def flip_probability_chebyshev(sigma: Tensor, margins: Tensor) -> Tensor:
    """The same without assuming a distribution beyond symmetry: sum_j sigma_j^2 / (2 m_j^2) (Sakr et al. 2017, eq. 5).

    Args:
        sigma: (..., P) standard deviation of the error of f_top - f_j.
        margins: (..., P) m_j.

    Returns:
        (...) float64, at most 1. Grade: statistical (an upper bound if sigma is exact and the error symmetric).
    """
    sigma, margins = sigma.double(), margins.double()
    ratio = (sigma / torch.where(margins > 0, margins, 1.0)).square() / 2
    return torch.where(margins > 0, ratio, torch.where(sigma > 0, math.inf, 1.0)).sum(-1).clamp(max=1.0)


def quantiles(bits: Tensor, levels: Sequence[float] = LEVELS) -> dict[float, float]:
    """Bits that a share of the samples needs at most: the smallest t that is enough for that share.

    Args:
        bits: (B,) bits per sample; may hold inf.
        levels: shares between 0 and 1.

    Returns:
        Bits by share; 1.0 gives the largest.

    Example:
        >>> quantiles(torch.tensor([1.0, 1.0, 2.0, 7.0]), (0.5, 0.75, 1.0))
        {0.5: 1.0, 0.75: 2.0, 1.0: 7.0}
    """
    ordered = bits.double().sort().values
    last = len(ordered) - 1
    return {level: float(ordered[min(last, max(0, math.ceil(level * len(ordered) - 1e-9) - 1))]) for level in levels}
