"""Gaussian moments: noise at the input, analytic mean and covariance at the output, and what follows for decisions."""

from typing import TYPE_CHECKING

from assay._lazy import lazily

if TYPE_CHECKING:
    from assay.moments.analysis import analyse as analyse
    from assay.moments.answers import Confusion as Confusion
    from assay.moments.answers import Decision as Decision
    from assay.moments.answers import confusion as confusion
    from assay.moments.answers import flip_probability as flip_probability
    from assay.moments.config import MomentsConfig as MomentsConfig
    from assay.moments.gaussian_attack import FoolingRate as FoolingRate
    from assay.moments.gaussian_attack import GaussianAttack as GaussianAttack
    from assay.moments.gaussian_attack import attack as attack
    from assay.moments.levels import NoiseLevels as NoiseLevels
    from assay.moments.levels import noise_level as noise_level
    from assay.moments.maps import SensitivityMap as SensitivityMap
    from assay.moments.maps import sensitivity_map as sensitivity_map
    from assay.moments.noise import blurred_noise as blurred_noise
    from assay.moments.planning import plan as plan
    from assay.moments.probabilities import Probabilities as Probabilities
    from assay.moments.probabilities import expected_probabilities as expected_probabilities
    from assay.moments.propagation import propagate as propagate
    from assay.moments.result import LayerNoise as LayerNoise
    from assay.moments.result import Moments as Moments

__getattr__, __all__ = lazily(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "analysis": ("analyse",),
        "answers": ("Confusion", "Decision", "confusion", "flip_probability"),
        "gaussian_attack": ("FoolingRate", "GaussianAttack", "attack"),
        "config": ("MomentsConfig",),
        "levels": ("NoiseLevels", "noise_level"),
        "maps": ("SensitivityMap", "sensitivity_map"),
        "noise": ("blurred_noise",),
        "planning": ("plan",),
        "probabilities": ("Probabilities", "expected_probabilities"),
        "propagation": ("propagate",),
        "result": ("LayerNoise", "Moments"),
    },
)
