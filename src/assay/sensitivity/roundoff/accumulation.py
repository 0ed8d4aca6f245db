"""Error of a rounded inner product: |computed - exact| <= c(n) |w|.|x|, by the order in which it is summed.

Higham 2002, Accuracy and Stability of Numerical Algorithms, chapters 3 and 4; Higham and Mary 2019, A New Approach to
Probabilistic Rounding Error Analysis; Blanchard, Higham, Lopez, Mary and Pranesh 2020 for mixed precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from assay.errors import UsageError
from assay.sensitivity.roundoff.formats import Format, as_format

Kind = Literal["exact", "sequential", "pairwise", "blocked", "mixed"]


def gamma(n: int, u: float) -> float:
    """N u / (1 - n u): bound on the relative effect of n roundings; infinite where n u >= 1.

    Args:
        n: number of roundings an operand goes through.
        u: unit round-off.

    Returns:
        gamma_n (Higham 2002, lemma 3.1). Grade: bound, without underflow and overflow.

    Raises:
        UsageError: for a negative or NaN argument.

    Example:
        >>> round(gamma(1000, 2.0**-11), 10), gamma(2048, 2.0**-11)
        (0.9541984733, inf)
    """
    product = n * u
    if not (n >= 0 and u >= 0):
        raise UsageError(
            f"gamma needs a number of roundings and a unit round-off of at least 0, got {n} and {u}.", where="gamma"
        )
    return product / (1 - product) if product < 1 else math.inf


def gamma_sqrt(n: int, unit_roundoff: float) -> float:
    """sqrt(n) u: the size that the constant of an inner product typically has, errors being independent.

    Args:
        n: length of the inner product.
        unit_roundoff: u of the format that sums are kept in.

    Returns:
        sqrt(n) u. Grade: statistical; no probability belongs to it (`gamma_probabilistic` has one).

    Raises:
        UsageError: for a negative length.

    Example:
        >>> round(gamma_sqrt(1000, 2.0**-11), 10)
        0.0154408089
    """
    if n < 0:
        raise UsageError(f"A length of {n} makes no sense.", where="gamma_sqrt", advice="Give 0 or more.")
    return math.sqrt(n) * unit_roundoff


def gamma_probabilistic(n: int, u: float, failure: float = 1e-6) -> float:
    """exp(lambda sqrt(n) u + n u^2 / (1 - u)) - 1: holds unless something of the given probability happens.

    Rounding errors are taken as independent with mean zero (Higham and Mary 2019, theorem 2.4); lambda is chosen so
    that 2 n exp(-lambda^2 (1 - u)^2 / 2), the chance that one of the n terms of one inner product breaks it, is
    `failure`.

    Args:
        n: number of roundings an operand goes through.
        u: unit round-off.
        failure: probability per inner product, in (0, 1).

    Returns:
        The constant, never above gamma(n, u). Grade: statistical.

    Raises:
        UsageError: for a probability outside (0, 1).

    Example:
        >>> round(gamma_probabilistic(1_000_000, 2.0**-24, 1e-6) / gamma(1_000_000, 2.0**-24), 4)
        0.0072
    """
    if not 0 < failure < 1:
        raise UsageError(
            f"failure must be a probability in (0, 1), got {failure}.", where="failure", advice="Such as 1e-6."
        )
    if n <= 0 or u == 0:
        return 0.0
    if u >= 1:
        return math.inf
    exponent = _lambda(n, u, failure) * math.sqrt(n) * u + n * u * u / (1 - u)
    return min(math.expm1(exponent) if exponent < 700 else math.inf, gamma(n, u))


def _lambda(n: int, u: float, failure: float) -> float:
    return math.sqrt(2 * math.log(2 * n / failure)) / (1 - u)


@dataclass(frozen=True)
class Accumulation:
    """How inner products are computed.

    Every kind but "exact" rounds each product and each sum to `format`. An inner product of n terms is summed

    - "sequential": first to last, every product rounded, then added;
    - "pairwise": in a balanced tree, neighbours first;
    - "blocked": first to last within blocks of `block`, then first to last over the blocks;
    - "mixed": sequentially in `format`, from operands first rounded to `low`; their products are rounded in `format`.

    A bias is one term more, added last.

    Attributes:
        kind: see above; "exact" makes no error of its own.
        format: floating-point format (or its name) of products and partial sums; None with "exact".
        block: terms per block, with "blocked".
        low: format of the operands, with "mixed".

    Example:
        >>> Accumulation("sequential", "fp16").constant(1000) > Accumulation("pairwise", "fp16").constant(1000)
        True
    """

    kind: Kind = "exact"
    format: Format | None = None
    block: int | None = None
    low: Format | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("exact", "sequential", "pairwise", "blocked", "mixed"):
            raise _misfit(f"kind={self.kind!r} is unknown", "Use exact, sequential, pairwise, blocked or mixed.")
        for field in ("format", "low"):
            if getattr(self, field) is not None:
                object.__setattr__(self, field, as_format(getattr(self, field)))
        if (self.format is None) != (self.kind == "exact"):
            raise _misfit(f"kind={self.kind!r} and format={self.format} do not fit", 'Only "exact" has no format.')
        if (self.block is None) != (self.kind != "blocked") or (self.block is not None and self.block < 1):
            raise _misfit(f"kind={self.kind!r} and block={self.block} do not fit", 'Only "blocked" has a block.')
        if (self.low is None) != (self.kind != "mixed"):
            raise _misfit(f"kind={self.kind!r} and low={self.low} do not fit", 'Only "mixed" has a low format.')
        for value in (self.format, self.low):
            if value is not None and value.unit_roundoff is None:
                raise _misfit(f"{value.name} has no unit round-off", "Sum in a floating-point format.")

    def roundings(self, n: int) -> int:
        """The most roundings that one product of n goes through, its own included."""
        if n <= 0 or self.kind == "exact":
            return 0
        if self.kind == "pairwise":
            return 1 + math.ceil(math.log2(n))
        if self.kind == "blocked":
            assert self.block is not None
            block = min(self.block, n)
            return block + math.ceil(n / block) - 1
        return n

    def constant(self, n: int, after: int = 0) -> float:
        """c(n) with certainty: gamma of the roundings; infinite, never negative, where they are too many.

        Args:
            n: length of the inner product.
            after: further roundings of its sum, such as one where a bias is added, or a mean divides.

        Returns:
            c(n) in |computed - exact| <= c(n) |w|.|x|. Grade: bound, without underflow and overflow. For "mixed" the
            rounding of the operands to `low` is part of it: 2 u + u^2 + (1 + u)^2 gamma.
        """
        if self.format is None:
            return 0.0
        return self._with_operands(gamma(self.roundings(n) + after, _unit(self.format)))

    def probable(self, n: int, failure: float = 1e-6) -> float:
        """c(n) that fails with at most the given probability per inner product if errors are independent, mean zero.

        Args:
            n: length of the inner product, one more where a bias is added.
            failure: probability, in (0, 1).

        Returns:
            c(n), never above `constant(n)`. Grade: statistical.

        Raises:
            UsageError: for a probability outside (0, 1).
        """
        if self.format is None:
            return 0.0
        depth = self.roundings(n)
        if depth == 0:
            return self._with_operands(0.0)
        # every one of the n terms must hold; lambda is for as many, the square root for the depth of each
        return self._with_operands(gamma_probabilistic(depth, _unit(self.format), failure * depth / n))

    def _with_operands(self, summed: float) -> float:
        if self.low is None:
            return summed
        u = _unit(self.low)
        return 2 * u + u * u + (1 + u) ** 2 * summed


def _unit(target: Format) -> float:
    assert target.unit_roundoff is not None
    return target.unit_roundoff


def _misfit(what: str, advice: str) -> UsageError:
    return UsageError(f"{what}.", where="Accumulation", advice=advice)
