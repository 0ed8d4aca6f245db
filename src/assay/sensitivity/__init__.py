"""Sensitivity: how much a small relative change of the input can change the output, predicted and measured.

`condition_number` is the local prediction (first order); `random_response` and `adversarial_response` measure beside
it; `analyse` puts both together with findings. Everything here needs `Subject.probe` only, so no captured graph.
"""

from typing import TYPE_CHECKING

from assay._lazy import lazily

if TYPE_CHECKING:
    from assay.sensitivity.analysis import analyse as analyse
    from assay.sensitivity.condition import ConditionNumbers as ConditionNumbers
    from assay.sensitivity.condition import condition_number as condition_number
    from assay.sensitivity.condition import condition_numbers as condition_numbers
    from assay.sensitivity.config import SensitivityConfig as SensitivityConfig
    from assay.sensitivity.golub_kahan import LargestSingular as LargestSingular
    from assay.sensitivity.golub_kahan import largest_singular as largest_singular
    from assay.sensitivity.measured import AdversarialResponse as AdversarialResponse
    from assay.sensitivity.measured import RandomResponse as RandomResponse
    from assay.sensitivity.measured import adversarial_response as adversarial_response
    from assay.sensitivity.measured import random_response as random_response
    from assay.sensitivity.planning import plan as plan

__getattr__, __all__ = lazily(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "analysis": ("analyse",),
        "condition": ("ConditionNumbers", "condition_number", "condition_numbers"),
        "config": ("SensitivityConfig",),
        "golub_kahan": ("LargestSingular", "largest_singular"),
        "measured": ("AdversarialResponse", "RandomResponse", "adversarial_response", "random_response"),
        "planning": ("plan",),
    },
)
