"""Bit widths: minimal significand bits by margins, and formats per layer under a budget, verified by a real run.

`bit_widths` makes a plan; `minimal_bits` says how many significand bits a network needs; `margins` and `allocation`
hold the closed forms, `knapsack` and `joint` the choosing, `scores` the predictions.
"""

from typing import TYPE_CHECKING

from assay._lazy import lazily

if TYPE_CHECKING:
    from assay.sensitivity.bits.allocation import variance_allocation as variance_allocation
    from assay.sensitivity.bits.allocation import worst_case_allocation as worst_case_allocation
    from assay.sensitivity.bits.knapsack import Choice as Choice
    from assay.sensitivity.bits.knapsack import Knapsack as Knapsack
    from assay.sensitivity.bits.margins import Rivals as Rivals
    from assay.sensitivity.bits.margins import bits_by_bisection as bits_by_bisection
    from assay.sensitivity.bits.margins import flip_probability as flip_probability
    from assay.sensitivity.bits.margins import flip_probability_chebyshev as flip_probability_chebyshev
    from assay.sensitivity.bits.margins import margin_bits as margin_bits
    from assay.sensitivity.bits.margins import rivals_of as rivals_of
    from assay.sensitivity.bits.margins import sigma_bits as sigma_bits
    from assay.sensitivity.bits.minimal import MinimalBits as MinimalBits
    from assay.sensitivity.bits.minimal import minimal_bits as minimal_bits
    from assay.sensitivity.bits.plan import Plan as Plan
    from assay.sensitivity.bits.plan import bit_widths as bit_widths
    from assay.sensitivity.bits.scores import Scores as Scores
    from assay.sensitivity.bits.scores import score as score
    from assay.sensitivity.bits.verify import Verified as Verified

__getattr__, __all__ = lazily(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "allocation": ("variance_allocation", "worst_case_allocation"),
        "knapsack": ("Choice", "Knapsack"),
        "margins": (
            "Rivals",
            "bits_by_bisection",
            "flip_probability",
            "flip_probability_chebyshev",
            "margin_bits",
            "rivals_of",
            "sigma_bits",
        ),
        "minimal": ("MinimalBits", "minimal_bits"),
        "plan": ("Plan", "bit_widths"),
        "scores": ("Scores", "score"),
        "verify": ("Verified",),
    },
)
