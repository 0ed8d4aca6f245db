"""The ground floor of mathematics: exact moments of scalar functions of one or two Gaussian variables.

One file per idea: the normal law, one rectified variable, two variables, piecewise linear functions, the larger of
two, steps, GELU, exponentials and waves; quadrature and Hermite series for everything else. All functions broadcast,
differentiate without NaN also at zero variance and at correlation one, and are accurate to round-off for means and
standard deviations of any size.
"""

from assay.gaussian.bivariate import (
    bivariate_normal_cdf,
    rectified_covariance,
    rectified_covariance_matrix,
    relu_covariance,
)
from assay.gaussian.blocks import followed, in_blocks
from assay.gaussian.exponential import exponential_left, exponential_moments, sine_left, sine_moments
from assay.gaussian.gelu import gelu_covariance, gelu_gain, gelu_left, gelu_moments
from assay.gaussian.hermite import (
    TERMS,
    hermite_coefficients,
    hermite_covariance,
    hinge_coefficients,
    smooth_moments,
)
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

__all__ = [
    "ABSOLUTE",
    "ERF_STEEPNESS",
    "HARDSIGMOID",
    "HARDTANH",
    "RELU",
    "RELU6",
    "TERMS",
    "PiecewiseLinear",
    "RectifiedStatistics",
    "bivariate_normal_cdf",
    "clip",
    "comonotone_covariance",
    "density",
    "distribution",
    "elementwise_moments",
    "exponential_left",
    "exponential_moments",
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
    "leaky_relu",
    "legendre",
    "log_distribution",
    "maximum_moments",
    "mills_ratio",
    "piecewise_linear_covariance",
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
]
