"""Measure the nonsmoothness of a network's outputs along a path: `smp` chooses and runs an estimator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from assay.errors import CaptureError, NumericalError, SubjectError, UnsupportedOperator, UsageError
from assay.smoothness.estimators.crossings import crossings
from assay.smoothness.estimators.event import Limits, event
from assay.smoothness.estimators.kac_rice import kac_rice
from assay.smoothness.estimators.rows import planned
from assay.smoothness.kinks import Smp
from assay.smoothness.network import Network
from assay.smoothness.paths.path import Path
from assay.smoothness.paths.straightness import straight_between_knots
from assay.smoothness.paths.unbatched import Unbatched
from assay.subject import Subject, as_subject

Estimator = Literal["auto", "exact_line", "event", "kac_rice", "sampled"]
MODERATE = 1e8
"""Kinks times elements of the network up to which ``auto`` measures exactly: some seconds."""
_SAMPLES = {"event": 257, "kac_rice": 1025, "sampled": 1025}
_LOOK = 17
_DENSITIES = 33
"""Fewest samples for kernel densities; hundreds are better."""


def smp(
    model: nn.Module | Subject | Network,
    path: Path,
    *,
    estimator: Estimator = "auto",
    outputs: int | Sequence[int] | Tensor | None = None,
    samples: int | None = None,
    by_unit: bool = False,
    refine: bool | None = None,
    batch_size: int | None = None,
    memory: int = 2**29,
    listed: int = 20_000,
) -> Smp:
    """Sum of the magnitudes of slope jumps: how far from smooth the outputs are along a path, and which layers do it.

    SMP(y) = sum over kinks of |y'(t+) - y'(t-)|, in output units per unit of the path's parameter. Kinks of the network
    count; kinks of the path itself (its knots) are told apart, in `Smp.path`. Everything is computed in float64.

    Args:
        model: module, Subject, or a `Network` made before; in training mode it is seen as in evaluation mode.
        path: a curve through input space, such as `Line`, `Spline`, `Transform` or `Frames`; its points may have a
            batch axis of one.
        estimator: ``exact_line``: exact, for piecewise linear networks on straight lines. ``event``: any network whose
            operators are known, any path; crossings between samples times gradients. ``kac_rice``: the same from
            densities of units. ``sampled``: outputs only, for models that cannot be captured; biased where kinks are
            dense. ``auto``: the first of these that can be had at moderate cost.
        outputs: which outputs: all (None), one, several, or (outputs of the model, K) projections.
        samples: points of the path; by default 257 for ``event``, 1,025 for ``kac_rice`` and ``sampled``.
            ``exact_line`` takes as many as it needs.
        by_unit: whether to attribute to units of every layer too.
        refine: for ``event``: whether to put samples where they matter; see `estimators.event`.
        batch_size: points per pass; by default as many as keep within `memory`.
        memory: bytes for one pass.
        listed: most kinks to list; the others are in the sums and in `Kinks.dropped`.

    Returns:
        The measurement with its grade, count, energy, attribution and kinks.

    Raises:
        CaptureError: when the model cannot be captured and the estimator needs that.
        UnsupportedOperator: for operators whose kinks are not known, or that are not piecewise linear where they must.
        UsageError: for an estimator, outputs or samples that do not exist or do not fit.
        SubjectError: for paths that do not fit the model.

    Example:
        >>> from assay.smoothness.paths import Line
        >>> line = Line(torch.tensor([-1.0]), torch.tensor([1.0]))
        >>> found = smp(nn.Sequential(nn.ReLU(), nn.Hardtanh(-0.5, 0.5)), line)
        >>> found.value, found.grade.value, found.kinks.t
        (tensor([4.], dtype=torch.float64), 'exact', tensor([0.5000, 0.7500], dtype=torch.float64))
    """
    if estimator not in ("auto", "exact_line", "event", "kac_rice", "sampled"):
        raise UsageError(
            f"There is no estimator {estimator!r}.",
            where="estimator",
            advice="Choose auto, exact_line, event, kac_rice or sampled.",
        )
    if not isinstance(path, Path):
        raise UsageError(
            f"A path needs start, end, knots and at(t), got {type(path).__name__}.",
            where="path",
            advice="Use Line, Spline, Transform or Frames, or a class with these.",
        )
    least = ((samples, 2), (batch_size, 1), (listed, 0), (memory, 1))
    if any(value is not None and value < bound for value, bound in least):
        raise UsageError(
            "samples must be at least 2, batch_size and memory at least 1, listed not negative.",
            where=f"samples={samples}, batch_size={batch_size}, memory={memory}, listed={listed}",
            advice="Leave them out for defaults.",
        )
    path = _as_the_model_takes_it(model, path)
    if estimator == "sampled":
        return _sampled(model, path, outputs, samples, batch_size, _said(path))
    try:
        network = _network(model, path, outputs)
    except (CaptureError, UnsupportedOperator) as error:
        if estimator != "auto":
            raise
        said = (*_said(path), f"Only samples were looked at: {error.what}")
        return _sampled(model, path, outputs, samples, batch_size, said)
    limits = Limits(memory, batch_size, listed)
    notes = _said(path)
    if estimator == "auto":
        if _exact_is_moderate(network, path, limits):
            from assay.smoothness.estimators.exact_line import exact_line

            try:
                return _capped(exact_line(network, path, memory=memory, by_unit=by_unit), listed)
            except NumericalError as error:
                notes = (*notes, f"Not measured exactly: {error.what}")
        estimator = "event"
    if estimator == "exact_line":
        from assay.smoothness.estimators.exact_line import exact_line

        return _capped(exact_line(network, path, memory=memory, by_unit=by_unit), listed)
    count = _SAMPLES[estimator] if samples is None else samples
    if estimator == "kac_rice":
        if count < _DENSITIES:
            raise UsageError(
                f"Densities cannot be read off {count} samples.",
                where="samples",
                advice=f"Give kac_rice at least {_DENSITIES}, or use event.",
            )
        found = kac_rice(network, path, samples=count, by_unit=by_unit, limits=limits)
        return replace(found, notes=(*found.notes, *notes))
    found = event(network, path, samples=count, refine=refine, by_unit=by_unit, limits=limits)
    return replace(found, notes=(*found.notes, *notes))


def _said(path: Path) -> tuple[str, ...]:
    """What a path says its reader must know, such as that a decoder bends it."""
    return tuple(getattr(path, "notes", ()))


def _network(model: nn.Module | Subject | Network, path: Path, outputs: int | Sequence[int] | Tensor | None) -> Network:
    if isinstance(model, Network):
        if outputs is not None:
            raise UsageError(
                "The outputs of a Network are chosen when it is made.",
                where="outputs",
                advice="Network.of(..., outputs).",
            )
        return model
    return Network.of(model, _ends(path), outputs)


def _as_the_model_takes_it(model: nn.Module | Subject | Network, path: Path) -> Path:
    """The path, without a first axis of length 1 of its points where the model takes them without it only."""
    x = _ends(path)
    if x.dim() < 3 or x.shape[1] != 1:
        return path
    if isinstance(model, (Network, Subject)):
        shape = model.shape if isinstance(model, Network) else tuple(model.example.shape[1:])
        return Unbatched(path) if shape == tuple(x.shape[2:]) else path
    weights = getattr(model, "parameters", tuple)()
    x = x.to(next((one.dtype for one in weights if one.dtype.is_floating_point), x.dtype))
    try:
        as_subject(model, x)
    except SubjectError:
        try:
            as_subject(model, x.squeeze(1))
        except SubjectError:
            return path  # neither fits: the message is about the path as it was given
        return Unbatched(path)
    return path


def _ends(path: Path) -> Tensor:
    """Two different points of a path."""
    middle = path.start + 0.37 * (path.end - path.start)
    return path.at(torch.tensor([path.start, middle], dtype=torch.float64))[0]


def _exact_is_moderate(network: Network, path: Path, limits: Limits) -> bool:
    """Whether an exact measurement is possible, and kinks times elements are few: kinks guessed from a few samples."""
    if not network.piecewise_linear or not straight_between_knots(path):
        return False
    rows, found = planned(path, _LOOK), 0
    for part in rows.chunks(limits.chunk(network)):
        x, tangent = part.points(path)
        sweep = network.sweep(x, tangent, adjoints=False, linked=part.linked, last=part.last)
        found += sum(len(one.step) for one in crossings(sweep, part))
    return found * network.elements <= MODERATE


def _capped(found: Smp, listed: int) -> Smp:
    """The same with only the largest kinks listed."""
    kinks = found.kinks
    if kinks is None or len(kinks) <= listed:
        return found
    kept = kinks.jump.norm(dim=1).argsort(descending=True, stable=True)[:listed].sort()[0]
    parts = {name: getattr(kinks, name)[kept] for name in ("t", "layer", "unit", "local", "jump")}
    return replace(found, kinks=replace(kinks, **parts, dropped=kinks.dropped + len(kinks) - listed))


def _sampled(
    model: nn.Module | Subject | Network,
    path: Path,
    outputs: int | Sequence[int] | Tensor | None,
    samples: int | None,
    batch_size: int | None,
    notes: tuple[str, ...],
) -> Smp:
    from assay.smoothness.estimators.black_box import black_box

    return black_box(model, path, outputs, samples or _SAMPLES["sampled"], batch_size, notes)
