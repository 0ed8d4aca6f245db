"""Sensitivity: how much a small relative change of the input can change the output, predicted and measured.

`condition_number` is the local prediction (first order); `random_response` and `adversarial_response` measure beside
it; `analyse` puts both together with findings. Everything here needs `Subject.probe` only, so no captured graph.
"""

from assay.sensitivity.analysis import analyse
from assay.sensitivity.condition import ConditionNumbers, condition_number, condition_numbers
from assay.sensitivity.config import SensitivityConfig
from assay.sensitivity.golub_kahan import LargestSingular, largest_singular
from assay.sensitivity.planning import plan
from assay.sensitivity.measured import AdversarialResponse, RandomResponse, adversarial_response, random_response

__all__ = [
    "AdversarialResponse",
    "ConditionNumbers",
    "LargestSingular",
    "RandomResponse",
    "SensitivityConfig",
    "adversarial_response",
    "analyse",
    "condition_number",
    "condition_numbers",
    "largest_singular",
    "plan",
    "random_response",
]
