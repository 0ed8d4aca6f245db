"""Sensitivity: how much small changes of input, weights and number formats change the output, predicted and measured.

`condition_number` is the local prediction for the input (first order, no captured graph needed); `bounds` is the ladder
from guaranteed to tight, made of `assay.norms` and `assay.certified`; `parameters` perturbs weights; `roundoff` has
number formats, a simulator that really rounds and four estimators; `bits` turns errors into bit widths. `analyse` puts
all together.
"""

from typing import TYPE_CHECKING

from assay._lazy import lazily

if TYPE_CHECKING:
    from assay.certified import certified_ball as certified_ball
    from assay.certified import certified_radius as certified_radius
    from assay.certified import lipschitz_bound as lipschitz_bound
    from assay.norms import LargestSingular as LargestSingular
    from assay.norms import OperatorNorm as OperatorNorm
    from assay.norms import largest_singular as largest_singular
    from assay.norms import layer_norms as layer_norms
    from assay.norms import operator_norm as operator_norm
    from assay.sensitivity.analysis import analyse as analyse
    from assay.sensitivity.bits import Plan as Plan
    from assay.sensitivity.bits import bit_widths as bit_widths
    from assay.sensitivity.bits import minimal_bits as minimal_bits
    from assay.sensitivity.bounds import componentwise_condition as componentwise_condition
    from assay.sensitivity.bounds import infinity_condition as infinity_condition
    from assay.sensitivity.bounds import ladder as ladder
    from assay.sensitivity.condition import ConditionNumbers as ConditionNumbers
    from assay.sensitivity.condition import condition_number as condition_number
    from assay.sensitivity.condition import condition_numbers as condition_numbers
    from assay.sensitivity.config import SensitivityConfig as SensitivityConfig
    from assay.sensitivity.measured import AdversarialResponse as AdversarialResponse
    from assay.sensitivity.measured import RandomResponse as RandomResponse
    from assay.sensitivity.measured import adversarial_response as adversarial_response
    from assay.sensitivity.measured import random_response as random_response
    from assay.sensitivity.parameters import parameter_condition as parameter_condition
    from assay.sensitivity.planning import plan as plan
    from assay.sensitivity.roundoff import Accumulation as Accumulation
    from assay.sensitivity.roundoff import Precision as Precision
    from assay.sensitivity.roundoff import roundoff_error as roundoff_error
    from assay.sensitivity.roundoff import simulate as simulate

__getattr__, __all__ = lazily(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "bits": ("Plan", "bit_widths", "minimal_bits"),
        "assay.certified": ("certified_ball", "certified_radius", "lipschitz_bound"),
        "assay.norms": ("LargestSingular", "OperatorNorm", "largest_singular", "layer_norms", "operator_norm"),
        "bounds": ("componentwise_condition", "infinity_condition", "ladder"),
        "parameters": ("parameter_condition",),
        "roundoff": ("Accumulation", "Precision", "roundoff_error", "simulate"),
        "analysis": ("analyse",),
        "condition": ("ConditionNumbers", "condition_number", "condition_numbers"),
        "config": ("SensitivityConfig",),
        "measured": ("AdversarialResponse", "RandomResponse", "adversarial_response", "random_response"),
        "planning": ("plan",),
    },
)
