"""Gaussian in, mean and covariance out: one call, several methods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from assay.errors import CaptureError, NumericalError, UsageError
from assay.moments.domain import Fallback, refuse_unsupported
from assay.moments.methods import GRAPH_METHODS, METHODS, Request, option_names
from assay.moments.noise import Noise, as_covariance
from assay.moments.result import Moments
from assay.subject import Subject, as_subject

_EXACT_WIDTH = 4096
_EXACT_BYTES = 1_500_000_000


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
    **options: Any,
) -> Moments:
    """Mean and covariance of a network's outputs when its input is Gaussian.

    Args:
        model: a module taking (B, ...) and returning (B, K), or a Subject.
        mean: (B, ...) input means.
        cov: a float (variance of every element), variances of the input's shape, an (n, n) matrix, or a covariance
            object.
        method: ``exact`` (full covariance, closed-form pairs), ``gain`` (full, first-order pairs), ``factor`` (low
            rank + diagonal, any size), ``linearize`` (f(mu), J S J^T), ``diagonal`` (independent units), ``mc``
            (sampling), or ``auto``.
        outputs: (m,) or (B, m) indices of the outputs wanted; all when None.
        rank: columns of ``factor``.
        samples: draws of ``mc``.
        seed: of random directions and draws.
        fallback: for operators without a rule: ``linearise``, ``sample``, or ``error`` (strict).
        options: of the method alone, such as ``relu=-1`` of ``two_stage``; the method's docstring lists them.

    Returns:
        Moments: mean (B, K), covariance (B, K, K), variance, grade, and a row per layer.

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
    request = Request(subject, mean, covariance, wanted, rank, samples, seed, fallback)
    name, reason = _choose(request) if method == "auto" else (method, "asked for")
    if name not in METHODS:
        raise UsageError(
            f"There is no propagation method {method!r}.",
            where="method",
            advice=f"Choose one of: auto, {', '.join(METHODS)}.",
        )
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
    symmetric = 0.5 * (result.covariance + result.covariance.mT)
    return replace(result, covariance=symmetric)


def _choose(request: Request) -> tuple[str, str]:
    """Method by size, and why."""
    try:
        graph = request.graph
    except CaptureError as error:
        return "linearize", error.what[:1].lower() + error.what[1:].rstrip(".")
    width = max(node.spec.size_per_sample for node in graph.nodes if node.name in graph.dependent)
    item = torch.finfo(request.mean.dtype).bits // 8
    needed = 4 * request.mean.shape[0] * width * width * item
    if width <= _EXACT_WIDTH and needed <= _EXACT_BYTES:
        return "exact", f"the widest layer has {width} units, so full covariances fit ({needed / 1e6:.0f} MB)"
    return "factor", f"the widest layer has {width} units: full covariances would take {needed / 1e9:.1f} GB"


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
