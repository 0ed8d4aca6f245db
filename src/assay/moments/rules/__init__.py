"""Rules of the moments domain, one file per kind of operator: `(operands) -> Smoothed`.

Affine operators and elementwise functions need no rule of their own: theirs is derived from the operator's row.
"""

from assay.moments.rules import activations, attention, maximum, norms, piecewise, product  # noqa: F401  (registers the rules)
from assay.moments.rules.table import TABLE

TABLE.freeze()

__all__ = ["TABLE"]
