"""How many bits each layer gets when bits may be any real number: closed forms under an error budget.

Both minimise the size sum_l n_l b_l under one constraint (Lagrange multipliers; reverse water-filling, Cover and Thomas
2006, section 10.3): a budget for the variance, to which layer l adds c_l 4^-b_l, or one for the worst case, to which it
adds a_l 2^-b_l. They are starting points and yardsticks; formats that exist are chosen by `knapsack`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from assay.errors import UsageError


def variance_allocation(coefficients: Tensor, sizes: Tensor, budget: float) -> Tensor:
    """Bits under sum_l c_l 4^-b_l = E^2 with the least sum_l n_l b_l: b_l = log2(c_l N / (n_l E^2)) / 2.

    Layers for which that would be negative get no bits, and the rest share what remains of the budget.

    Args:
        coefficients: (L,) c_l, the error variance of layer l at 0 bits; not negative.
        sizes: (L,) n_l, numbers stored in layer l.
        budget: E, the allowed standard deviation at the output.

    Returns:
        (L,) float64 bits, not rounded. Grade: closed form, under the model that variances add and fall by 4 per bit.

    Raises:
        UsageError: for a budget that is not positive, or shapes that differ.

    Example:
        >>> variance_allocation(torch.tensor([16.0, 1.0]), torch.tensor([1.0, 1.0]), 0.5).tolist()
        [3.5, 1.5]
    """
    return _allocate(coefficients, sizes, budget**2, 4.0)


def worst_case_allocation(coefficients: Tensor, sizes: Tensor, budget: float) -> Tensor:
    """Bits under sum_l a_l 2^-b_l = E with the least sum_l n_l b_l: b_l = log2(a_l N / (n_l E)).

    Args:
        coefficients: (L,) a_l, the worst error of layer l at 0 bits; not negative.
        sizes: (L,) n_l, numbers stored in layer l.
        budget: E, the allowed error at the output.

    Returns:
        (L,) float64 bits, not rounded. Grade: closed form, under the model that errors add and halve with every bit.

    Raises:
        UsageError: for a budget that is not positive, or shapes that differ.

    Example:
        >>> bits = worst_case_allocation(torch.tensor([1.0, 4.0, 2.0]), torch.ones(3), 0.05)
        >>> [round(bit, 8) for bit in bits.tolist()]
        [5.9068906, 7.9068906, 6.9068906]
    """
    return _allocate(coefficients, sizes, budget, 2.0)


def uniform_variance_bits(coefficients: Tensor, budget: float) -> float:
    """Bits that every layer needs when all get the same, under sum_l c_l 4^-b = E^2."""
    return 0.5 * float(torch.log2(coefficients.double().sum() / budget**2))


def uniform_worst_case_bits(coefficients: Tensor, budget: float) -> float:
    """Bits that every layer needs when all get the same, under sum_l a_l 2^-b = E."""
    return float(torch.log2(coefficients.double().sum() / budget))


def average(bits: Tensor, sizes: Tensor) -> float:
    """Bits per stored number: sum_l n_l b_l / sum_l n_l."""
    return float((bits.double() * sizes.double()).sum() / sizes.double().sum())


def _allocate(coefficients: Tensor, sizes: Tensor, budget: float, base: float) -> Tensor:
    c, n = torch.as_tensor(coefficients, dtype=torch.float64), torch.as_tensor(sizes, dtype=torch.float64)
    if c.shape != n.shape or c.dim() != 1:
        raise UsageError(
            f"One size per coefficient is needed, got shapes {tuple(c.shape)} and {tuple(n.shape)}.", where="sizes"
        )
    if not budget > 0:
        raise UsageError("An error budget must be positive.", where="budget", advice="No finite precision gives 0.")
    if not bool((c >= 0).all() and (n > 0).all() and c.isfinite().all() and n.isfinite().all()):
        raise UsageError(
            "Coefficients must be finite and not negative, and sizes must be positive.", where="coefficients"
        )
    bits = torch.zeros_like(c)
    active = c > 0
    while bool(active.any()):
        left = budget - float(c[~active].sum())  # what a layer without bits adds
        if left <= 0:  # cannot happen before a layer is dropped, and dropped layers add less than their share
            raise UsageError("The budget is used up by layers without bits.", where="budget")
        share = left * n / n[active].sum()
        wanted = torch.log2(torch.where(active, c, 1.0) / share) / torch.log2(torch.tensor(base, dtype=c.dtype))
        dropped = active & (wanted <= 0)
        if not bool(dropped.any()):
            return torch.where(active, wanted, bits)
        active &= ~dropped
    return bits
