"""Input noise as the user states it -> a covariance object over a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

from assay.covariance import Conditioned, Convolved, Covariance, Dense, Diagonal, LowRankPlusDiagonal
from assay.errors import UsageError

Noise = float | Tensor | Covariance


def as_covariance(noise: Noise, mean: Tensor) -> Covariance:
    """Covariance of the input over the batch.

    Args:
        noise: a number (variance of every element), variances of the input's shape (B, ...) or of one sample's
            shape, a matrix (n, n) or (B, n, n), or a covariance object (its batch axis may be 1).
        mean: (B, ...) input means.

    Returns:
        A covariance whose batch is that of `mean`.

    Raises:
        UsageError: negative or non-finite variances, a shape that does not fit, an asymmetric or indefinite matrix,
        an ambiguous square.
    """
    if isinstance(noise, Diagonal):
        return Diagonal(_checked(_fit(noise.variance, mean)))
    if isinstance(noise, LowRankPlusDiagonal):
        if (
            noise.factor.dim() != mean.dim() + 1
            or noise.factor.shape[1] not in (1, mean.shape[0])
            or noise.factor.shape[2:] != mean.shape[1:]
        ):
            _refuse(noise.factor, mean, "Give columns of shape (r, B, ...) or (r, 1, ...).")
        factor = _finite(noise.factor.to(mean).expand(noise.factor.shape[0], *mean.shape))
        return LowRankPlusDiagonal(factor, _checked(_fit(noise.rest, mean)))
    if isinstance(noise, Dense):
        return _dense(noise.matrix, mean)
    if isinstance(noise, Convolved):
        return _convolved(noise, mean)
    if isinstance(noise, Conditioned):
        functionals, columns = (
            _finite(t.to(mean).expand(len(t), *mean.shape)) for t in (noise.functionals, noise.columns)
        )
        return Conditioned(as_covariance(noise.base, mean), functionals, columns)
    if isinstance(noise, (int, float)):
        return Diagonal(_checked(torch.full_like(mean, float(noise))))
    if not isinstance(noise, Tensor):
        raise UsageError(
            f"Noise must be a number, a tensor or a covariance object, got {type(noise).__name__}.",
            where="cov",
            advice="Give the variance of every element as a float to start with.",
        )
    return _from_tensor(noise, mean)


def _from_tensor(noise: Tensor, mean: Tensor) -> Covariance:
    size = math.prod(mean.shape[1:])
    if noise.dim() == 0:
        return Diagonal(_checked(torch.ones_like(mean) * noise.to(mean)))
    square = tuple(noise.shape[-2:]) == (size, size) and noise.dim() in (2, 3)
    same = tuple(noise.shape) in (tuple(mean.shape), tuple(mean.shape[1:]))
    if square and same:
        raise UsageError(
            f"Noise of shape {tuple(noise.shape)} could be variances or a covariance matrix.",
            where="cov",
            advice="Say which: assay.covariance.Diagonal(...) or assay.covariance.Dense(matrix, event).",
        )
    return _dense(noise, mean) if square else Diagonal(_checked(_fit(noise, mean)))


def _fit(variance: Tensor, mean: Tensor) -> Tensor:
    advice = "Give one number, one variance per element, or an (n, n) matrix with n elements per sample."
    if variance.dim() not in (
        mean.dim() - 1,
        mean.dim(),
    ):  # one row of variances must not pass for one per column of a picture
        _refuse(variance, mean, advice)
    try:
        return variance.to(mean).expand(mean.shape)
    except RuntimeError as error:
        _refuse(variance, mean, advice, error)


def _refuse(noise: Tensor, mean: Tensor, advice: str, cause: Exception | None = None) -> NoReturn:
    raise UsageError(
        f"Noise of shape {tuple(noise.shape)} does not fit inputs of shape {tuple(mean.shape)}.",
        where="cov",
        advice=advice,
    ) from cause


def _dense(matrix: Tensor, mean: Tensor) -> Dense:
    size = math.prod(mean.shape[1:])
    fits = tuple(matrix.shape[-2:]) == (size, size) and (
        matrix.dim() == 2 or (matrix.dim() == 3 and len(matrix) in (1, len(mean)))
    )
    if not fits:
        raise UsageError(
            f"A covariance matrix of shape {tuple(matrix.shape)} does not fit {len(mean)} samples of {size} elements.",
            where="cov",
            advice=f"Give a ({size}, {size}) matrix.",
        )
    matrix = _finite(matrix.to(mean))
    scale = float(matrix.abs().max())
    tolerance = 1e-5 if matrix.dtype == torch.float32 else 1e-9
    if not torch.allclose(matrix, matrix.mT, rtol=0.0, atol=tolerance * scale):
        raise UsageError("The covariance matrix is not symmetric.", where="cov", advice="Pass (C + C.T) / 2.")
    if size <= 2048:
        lowest = float(torch.linalg.eigvalsh(matrix.detach()).min())
        if lowest < -10 * tolerance * scale * size**0.5:
            raise UsageError(
                f"The covariance matrix has a negative eigenvalue ({lowest:.3g}).",
                where="cov",
                advice="A covariance must be positive semi-definite.",
            )
    batch = matrix if matrix.dim() == 3 else matrix.unsqueeze(0)
    return Dense(batch.expand(mean.shape[0], size, size), tuple(mean.shape[1:]))


def _convolved(noise: Convolved, mean: Tensor) -> Convolved:
    fits = noise.scale.shape[1:] == mean.shape[1:] and len(noise.scale) in (1, len(mean))
    if not fits or not 0 < len(noise.taps) < mean.dim():
        _refuse(noise.scale, mean, "Give a scale of shape (B, ...) or (1, ...) and at most one filter per axis.")
    taps = tuple(_finite(taps.to(mean)) for taps in noise.taps)
    return Convolved(taps, _finite(noise.scale.to(mean)).expand(mean.shape))


def blurred_noise(
    shape: Sequence[int], sigma: float | Tensor, blur: float | Sequence[float], *, truncate: float = 4.0
) -> Convolved:
    """Covariance of white noise on pictures that a Gaussian filter has blurred, without ever forming a matrix.

    Every pixel has the standard deviation sigma after the blur, at the border too; the correlation of two pixels is
    the autocorrelation of the filter, close to exp(-d^2 / (4 blur^2)) at distance d. Channels are independent.

    Args:
        shape: of one input, (C, H, W); the last axes are blurred, two of them unless `blur` says otherwise.
        sigma: standard deviation of every element: a number, or a tensor of the shape (of the input, units of data).
        blur: standard deviation of the filter in pixels, or one per blurred axis; 0 leaves an axis as it is.
        truncate: radius of the filter in standard deviations.

    Returns:
        A covariance for `propagate` (batch 1, any batch of inputs). Memory: one picture; `exact` forms its matrix.

    Raises:
        UsageError: for a negative or non-finite number, or more blurs than axes.

    Example:
        >>> covariance = blurred_noise((1, 8, 8), 0.5, 1.0)
        >>> float(covariance.scale[0, 0, 0, 0])
        0.5
    """
    blurs = [float(blur)] * min(2, len(shape)) if isinstance(blur, (int, float)) else [float(b) for b in blur]
    scale = torch.as_tensor(sigma, dtype=None if isinstance(sigma, Tensor) else torch.get_default_dtype())
    bad = not all(0 <= b < math.inf for b in blurs) or not truncate > 0 or not 0 < len(blurs) <= len(shape)
    if bad or not bool(torch.isfinite(scale).all()) or bool((scale < 0).any()):
        raise UsageError(
            "sigma and blur must be finite and not negative, and there are at most as many blurs as axes.",
            where="blurred_noise",
            advice="Give standard deviations: sigma in units of the data, blur in pixels.",
        )
    taps = []
    for width in blurs:
        radius = math.ceil(truncate * width)
        places = torch.arange(-radius, radius + 1, dtype=torch.float64)
        filter_ = torch.exp(-0.5 * (places / width).square()) if width > 0 else torch.ones_like(places)
        taps.append((filter_ / filter_.norm()).to(scale.dtype))
    return Convolved(tuple(taps), scale.expand(tuple(shape)).unsqueeze(0))


def _finite(tensor: Tensor) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        raise UsageError("The noise holds NaN or infinite values.", where="cov", advice="Give finite variances.")
    return tensor


def _checked(variance: Tensor) -> Tensor:
    _finite(variance)
    if bool((variance < 0).any()):
        raise UsageError(
            "A variance is negative.", where="cov", advice="Give variances (squared deviations), not less than 0."
        )
    return variance
