"""The ground floor of mathematics: exact moments of scalar functions of one or two Gaussian variables.

One file per idea: the normal law, one rectified variable, two variables, piecewise linear functions, the larger of
two, and quadrature for everything else. All functions broadcast, differentiate without NaN also at zero variance and
at correlation one, and are accurate to round-off for means and standard deviations of any size.
"""

from assay.gaussian.bivariate import bivariate_normal_cdf, rectified_covariance, relu_covariance
from assay.gaussian.maximum import maximum_moments
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
    standardise,
)

__all__ = [
    "ABSOLUTE",
    "HARDSIGMOID",
    "HARDTANH",
    "RELU",
    "RELU6",
    "PiecewiseLinear",
    "RectifiedStatistics",
    "bivariate_normal_cdf",
    "clip",
    "comonotone_covariance",
    "density",
    "distribution",
    "elementwise_moments",
    "hermite",
    "leaky_relu",
    "legendre",
    "log_distribution",
    "maximum_moments",
    "mills_ratio",
    "piecewise_linear_covariance",
    "piecewise_linear_moments",
    "rectified",
    "rectified_covariance",
    "relu_covariance",
    "relu_gain",
    "relu_moments",
    "standardise",
]
