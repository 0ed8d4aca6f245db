"""Gaussian moments: noise at the input, analytic mean and covariance at the output, and what follows for decisions."""

from assay.moments.analysis import analyse
from assay.moments.answers import Decision, SensitivityMap, confusion, flip_probability, sensitivity_map
from assay.moments.config import MomentsConfig
from assay.moments.planning import plan
from assay.moments.propagate import propagate
from assay.moments.result import LayerNoise, Moments

__all__ = [
    "Decision",
    "LayerNoise",
    "Moments",
    "MomentsConfig",
    "SensitivityMap",
    "analyse",
    "confusion",
    "flip_probability",
    "plan",
    "propagate",
    "sensitivity_map",
]
