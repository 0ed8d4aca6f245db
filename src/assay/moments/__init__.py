"""Gaussian moments: noise at the input, analytic mean and covariance at the output, and what follows for decisions."""

from assay.moments.propagate import propagate
from assay.moments.result import LayerNoise, Moments

__all__ = ["LayerNoise", "Moments", "propagate"]
