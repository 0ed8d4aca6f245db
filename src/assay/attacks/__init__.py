"""Attacks on torch alone: searches for the small input change that does the most harm.

Each returns what it found, never what might exist: the result of a search is a lower estimate of the worst case.
`fgsm`, `pgd` and `deepfool` change decisions, `largest_response` outputs; `attacked` runs any function
(model, x, y) -> x_adv, and `auto_epsilon` finds the size of attack that halves the accuracy.
"""

from assay.attacks.attack import Attack, attack_of, attacked
from assay.attacks.deepfool import Fooled, deepfool, fooled
from assay.attacks.epsilon import AutoEpsilon, auto_epsilon
from assay.attacks.projected import fgsm, pgd
from assay.attacks.response import Response, largest_response
from assay.attacks.target import Target, target_of

__all__ = [
    "Attack",
    "AutoEpsilon",
    "Fooled",
    "Response",
    "Target",
    "attack_of",
    "attacked",
    "auto_epsilon",
    "deepfool",
    "fgsm",
    "fooled",
    "largest_response",
    "pgd",
    "target_of",
]
