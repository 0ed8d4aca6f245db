"""Gaussian moments: noise at the input, analytic mean and covariance at the output, and what follows for decisions."""

from typing import TYPE_CHECKING

from assay._lazy import lazily

if TYPE_CHECKING:
    from assay.moments.analysis import analyse as analyse
    from assay.moments.answers import Decision as Decision
    from assay.moments.answers import SensitivityMap as SensitivityMap
    from assay.moments.answers import confusion as confusion
    from assay.moments.answers import flip_probability as flip_probability
    from assay.moments.answers import sensitivity_map as sensitivity_map
    from assay.moments.config import MomentsConfig as MomentsConfig
    from assay.moments.planning import plan as plan
    from assay.moments.propagation import propagate as propagate
    from assay.moments.result import LayerNoise as LayerNoise
    from assay.moments.result import Moments as Moments

__getattr__, __all__ = lazily(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "analysis": ("analyse",),
        "answers": ("Decision", "SensitivityMap", "confusion", "flip_probability", "sensitivity_map"),
        "config": ("MomentsConfig",),
        "planning": ("plan",),
        "propagation": ("propagate",),
        "result": ("LayerNoise", "Moments"),
    },
)
