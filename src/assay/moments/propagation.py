"""Gaussian in, mean and covariance out: one call, several methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from assay.errors import NumericalError, UsageError
from assay.moments.checking import checked
from assay.moments.domain import Fallback, refuse_unsupported
from assay.moments.methods import GRAPH_METHODS, METHODS, Request, option_names
from assay.moments.noise import Noise, as_covariance
from assay.moments.result import Moments
from assay.moments.sources import parameter_name, resolve
from assay.subject import Subject, as_subject

_WITH_SOURCES = ("exact", "gain", "factor", "diagonal", "linearize", "mc")
"""Methods that take noise on weights and activations."""

_WITH_PARAMETERS = (*_WITH_SOURCES, "split", "two_stage", "cumulant", "mc_cv")
"""Methods that take parameters."""


def propagate(
    model: nn.Module | Subject,
    mean: Tensor,
    cov: Noise,
    *,
    method: str = "auto",
    outputs: Tensor | None = None,
    rank: int = 32,
    samples: int = 1000,
    seed: int = 0,
    fallback: Fallback = "linearise",
    noise_on: Mapping[str, float | Tensor] | None = None,
    parameters: Mapping[str, Tensor] | None = None,
    check: int = 0,
    **options: Any,
) -> Moments:
    """Mean and covariance of a network's outputs when its input is Gaussian.

    Args:
        model: a module taking (B, ...) and returning (B, K), or a Subject.
        mean: (B, ...) input means.
        cov: a float (variance of every element), variances of the input's shape, an (n, n) matrix, or a covariance
            object.
        method: ``exact`` (full covariance, closed-form pairs), ``gain`` (full, first-order pairs), ``factor`` (low
            rank + diagonal, any size), ``linearize`` (f(mu), J S J^T), ``two_stage`` (linear before and after one
            ReLU), ``diagonal`` (independent units), ``mc`` (sampling), ``mc_cv`` (sampling with the smoothed network
            as control variate), past Gaussian closure ``split`` (a mixture of narrower Gaussians) and ``cumulant``
            (as ``exact``, with third and fourth cumulants), or ``auto``.
        outputs: (m,) or (B, m) indices of the outputs wanted; all when None.
        rank: columns of ``factor``.
        samples: draws of ``mc``.
        seed: of random directions and draws.
        fallback: for operators without a rule: ``linearise``, ``sample``, or ``error`` (strict).
        noise_on: variances of independent noise besides the input's: by parameter name (as in
            `model.named_parameters()`; one draw for all positions of a convolution), by module path (its output) or by
            name of a graph node. A number, or a tensor of the shape of what it disturbs. `cov` may be 0.
        parameters: tensors that replace parameters, by name, and may require gradients; the model's own are constants.
        check: draws of a sampled check; the result's `check` then holds an unbiased mean with its standard error, and
            the two means combined. 0 for none.
        options: of the method alone, such as ``relu=-1`` of ``two_stage``; the method's docstring lists them.

    Returns:
        Moments: mean (B, K), covariance (B, K, K), variance, grade, and a row per layer. Differentiable with respect
        to `mean`, `cov`, the variances of `noise_on` and `parameters`.

    Raises:
        UsageError: for a bad method, option, noise or shape.
        CaptureError: when the method needs a graph and the model cannot be captured.
        UnsupportedOperator: with ``fallback="error"``, listing all operators without a rule.
        NumericalError: when a result would hold NaN or infinity.

    Source: Bibi, Alfadly, Ghanem, CVPR 2018, for one block; layer-wise Gaussian closure with exact pair covariances
    beyond.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.constant_(layer.weight, 2.0)
        >>> propagate(layer, torch.zeros(1, 2), 0.25).variance.tolist()
        [[2.0]]
    """
    subject, mean = checked_input(model, mean)
    covariance = as_covariance(cov, mean)
    wanted = None if outputs is None else _wanted(outputs, mean.shape[0], subject)
    if samples < 2 or rank < 1:
        raise UsageError(
            "rank must be at least 1 and samples at least 2.", where="propagate", advice="Leave the defaults."
        )
    request = Request(
        subject,
        mean,
        covariance,
        wanted,
        rank,
        samples,
        seed,
        fallback,
        noise_on=resolve(subject, noise_on or {}, mean),
        parameters=_substituted(subject, parameters or {}, mean),
    )
    name, reason = request.choose() if method == "auto" else (method, "asked for")
    if name not in METHODS:
        raise UsageError(
            f"There is no propagation method {method!r}.",
            where="method",
            advice=f"Choose one of: auto, {', '.join(METHODS)}.",
        )
    _refuse_unfit(name, request)
    method_of_choice = METHODS[name]
    unknown = sorted(set(options) - set(option_names(name)))
    if unknown:
        known = ", ".join(option_names(name)) or "none"
        raise UsageError(
            f"The method {name!r} has no option {unknown[0]!r}.", where="propagate", advice=f"Its options: {known}."
        )
    if name in GRAPH_METHODS and fallback == "error":
        refuse_unsupported(request.graph)
    result = method_of_choice(replace(request, reason=reason), **options)
    if not bool(torch.isfinite(result.mean).all() and torch.isfinite(result.covariance).all()):
        raise NumericalError(
            f"Propagation by {name!r} gave NaN or infinity.",
            where=subject.name,
            advice="Check the scale of the noise; try method='mc' or a float64 model.",
        )
    result = replace(result, covariance=0.5 * (result.covariance + result.covariance.mT))
    if not check:
        return result
    if result.standard_error is not None or check < 16:
        raise UsageError(
            f"check={check} for the method {name!r}.",
            where="check",
            advice="Give 16 draws or more, and an analytic method: sampling has standard errors of its own.",
        )
    referee = METHODS["mc" if request.noise_on else "mc_cv"]
    with torch.no_grad():
        return checked(result, referee(replace(request, samples=check)), check)


def _refuse_unfit(method: str, request: Request) -> None:
    for argument, given, able in (
        ("noise_on", request.noise_on, _WITH_SOURCES),
        ("parameters", request.parameters, _WITH_PARAMETERS),
    ):
        if given and method not in able:
            raise UsageError(
                f"The method {method!r} does not take {argument}.",
                where=argument,
                advice=f"Use one of: {', '.join(able)}.",
            )


def _substituted(subject: Subject, parameters: Mapping[str, Tensor], mean: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in parameters.items():
        known = parameter_name(subject, name)
        if known is None or value.shape != subject.model.get_parameter(known).shape:
            raise UsageError(
                f"The model has no parameter {name!r} of shape {tuple(value.shape)}.",
                where="parameters",
                advice="Pass dict(model.named_parameters()), or part of it.",
            )
        found[known] = value.to(mean)
    return found


def checked_input(model: nn.Module | Subject, mean: Tensor) -> tuple[Subject, Tensor]:
    """Subject, and the batch in the type of its parameters.

    Args:
        model: a module or Subject.
        mean: (B, ...) inputs.

    Returns:
        Both.

    Raises:
        UsageError: when it is no finite floating point batch.
    """
    if not mean.dtype.is_floating_point or mean.dim() < 2 or mean.shape[0] == 0:
        raise UsageError(
            f"Input means must be a floating point batch (B, ...), got {mean.dtype} of shape {tuple(mean.shape)}.",
            where="mean",
            advice="Add a batch axis and convert to float.",
        )
    if not bool(torch.isfinite(mean).all()):
        raise UsageError("Input means hold NaN or infinity.", where="mean", advice="Clean the data.")
    module = model.model if isinstance(model, Subject) else model
    kinds = (tensor.dtype for tensor in module.parameters() if tensor.dtype.is_floating_point)
    mean = mean.to(next(kinds, mean.dtype))
    return as_subject(model, mean), mean


def _wanted(outputs: Tensor, batch: int, subject: Subject) -> Tensor:
    given = torch.as_tensor(outputs)
    wanted = given.to(torch.int64)
    wanted = wanted.expand(batch, -1) if wanted.dim() == 1 else wanted
    fits = wanted.dim() == 2 and wanted.shape[0] == batch and wanted.numel() > 0 and not given.is_floating_point()
    if not fits or int(wanted.min()) < 0 or int(wanted.max()) >= subject.output_count:
        raise UsageError(
            f"outputs must be indices below {subject.output_count}, shape (m,) or ({batch}, m).",
            where="outputs",
            advice="Pass class indices.",
        )
    return wanted
