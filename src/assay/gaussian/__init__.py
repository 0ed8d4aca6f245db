"""The ground floor of mathematics: exact moments of scalar functions of one or two Gaussian variables.

One file per idea: the normal law, one rectified variable, two variables, piecewise linear functions, the larger of
two, steps, GELU, exponentials and waves; quadrature and Hermite series for everything else. These broadcast,
differentiate without NaN also at zero variance and at correlation one, and are accurate to round-off for means and
standard deviations of any size. Kinks of units along Gaussian paths: thresholds, ties of maxima, variances.
"""

from assay.gaussian.bivariate import (
    bivariate_normal_cdf,
    rectified_covariance,
    rectified_covariance_matrix,
    relu_covariance,
)
from assay.gaussian.blocks import followed, in_blocks
from assay.gaussian.crossings import (
    KinkLaw,
    added_smp,
    equal_maximum_smp,
    folded_mean,
    inherited_maximum_smp,
    inherited_smp,
    jump_distribution,
    largest_of_normals,
    moving_threshold_kinks,
    piecewise_linear_kinks,
    threshold_kinks,
)
from assay.gaussian.exponential import exponential_left, exponential_moments, sine_left, sine_moments
from assay.gaussian.gelu import gelu_covariance, gelu_gain, gelu_left, gelu_moments
from assay.gaussian.hermite import (
    TERMS,
    hermite_coefficients,
    hermite_covariance,
    hinge_coefficients,
    smooth_moments,
)
from assay.gaussian.kink_variance import MaximumVariance, maximum_smp_variance, threshold_smp_variance
from assay.gaussian.maximum import maximum_moments, smoothed_maximum
from assay.gaussian.normal import density, distribution, log_distribution, mills_ratio
from assay.gaussian.piecewise import (
    ABSOLUTE,
    HARDSIGMOID,
    HARDTANH,
    RELU,
    RELU6,
    PiecewiseLinear,
    clip,
    leaky_relu,
    piecewise_linear_covariance,
    piecewise_linear_moments,
)
from assay.gaussian.quadrature import elementwise_moments, hermite, legendre
from assay.gaussian.rectified import (
    RectifiedStatistics,
    comonotone_covariance,
    rectified,
    relu_gain,
    relu_moments,
    smoothed_relu,
    standardise,
)
from assay.gaussian.step import (
    ERF_STEEPNESS,
    heaviside_covariance,
    heaviside_moments,
    probit_covariance,
    probit_left,
    probit_moments,
)
from assay.gaussian.ties import MaximumLaw, every_tie, maximum_kinks, maximum_law, maximum_smp_by_curvature

__all__ = [
    "ABSOLUTE",
    "ERF_STEEPNESS",
    "HARDSIGMOID",
    "HARDTANH",
    "RELU",
    "RELU6",
    "TERMS",
    "KinkLaw",
    "MaximumLaw",
    "MaximumVariance",
    "PiecewiseLinear",
    "RectifiedStatistics",
    "added_smp",
    "bivariate_normal_cdf",
    "clip",
    "comonotone_covariance",
    "density",
    "distribution",
    "elementwise_moments",
    "equal_maximum_smp",
    "every_tie",
    "exponential_left",
    "exponential_moments",
    "folded_mean",
    "followed",
    "gelu_covariance",
    "gelu_gain",
    "gelu_left",
    "gelu_moments",
    "heaviside_covariance",
    "heaviside_moments",
    "hermite",
    "hermite_coefficients",
    "hermite_covariance",
    "hinge_coefficients",
    "in_blocks",
    "inherited_maximum_smp",
    "inherited_smp",
    "jump_distribution",
    "largest_of_normals",
    "leaky_relu",
    "legendre",
    "log_distribution",
    "maximum_kinks",
    "maximum_law",
    "maximum_moments",
    "maximum_smp_by_curvature",
    "maximum_smp_variance",
    "mills_ratio",
    "moving_threshold_kinks",
    "piecewise_linear_covariance",
    "piecewise_linear_kinks",
    "piecewise_linear_moments",
    "probit_covariance",
    "probit_left",
    "probit_moments",
    "rectified",
    "rectified_covariance",
    "rectified_covariance_matrix",
    "relu_covariance",
    "relu_gain",
    "relu_moments",
    "sine_left",
    "sine_moments",
    "smooth_moments",
    "smoothed_maximum",
    "smoothed_relu",
    "standardise",
    "threshold_kinks",
    "threshold_smp_variance",
]
