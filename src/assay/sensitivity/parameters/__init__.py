"""Changes of parameters: how much relative changes of the weights can change the output, predicted and measured."""

from typing import TYPE_CHECKING

from assay._lazy import lazily

if TYPE_CHECKING:
    from assay.sensitivity.parameters.perturbation import ParameterCondition as ParameterCondition
    from assay.sensitivity.parameters.perturbation import parameter_condition as parameter_condition
    from assay.sensitivity.parameters.response import ParameterResponse as ParameterResponse
    from assay.sensitivity.parameters.response import adversarial_parameter_response as adversarial_parameter_response
    from assay.sensitivity.parameters.response import random_parameter_response as random_parameter_response
    from assay.sensitivity.parameters.taps import Taps as Taps

__getattr__, __all__ = lazily(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "perturbation": ("ParameterCondition", "parameter_condition"),
        "response": ("ParameterResponse", "adversarial_parameter_response", "random_parameter_response"),
        "taps": ("Taps",),
    },
)
