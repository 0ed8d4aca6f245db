"""The filtering analysis: run the sweep, read scores and classes from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from assay.attacks import Attack
from assay.effort import begun
from assay.errors import AssayError, SubjectError, UsageError
from assay.filtering.assembly import BASELINE, Outcomes, baseline_of, recordings_of
from assay.filtering.config import FilteringConfig
from assay.filtering.deciding import decisions_in
from assay.filtering.early import Decision
from assay.filtering.engines import engine_of
from assay.filtering.job import FilteringJob
from assay.filtering.metrics import Metric, metric_of
from assay.filtering.recording import Recording
from assay.filtering.result import FilteringResult
from assay.filtering.units import Choice, Unit, select_units
from assay.progress import Progress
from assay.subject import Data, Subject
from assay.sweep import run

Bounds = tuple[float, float] | None


def analyse(
    model: nn.Module | Subject,
    data: Data | tuple[Tensor, Tensor] | None = None,
    *,
    config: FilteringConfig | None = None,
    include: Choice | Sequence[Choice] | None = None,
    exclude: Choice | Sequence[Choice] | None = None,
    attack: str | Attack | None = "",
    metric: str | Metric | Callable[[Tensor, Tensor], Tensor] = "",
    bounds: Bounds | Literal["auto"] = "auto",
    initial: Mapping[str, Tensor] | None = None,
    directory: str | Path | None = None,
    executor: Executor | Literal["local", "ray"] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> FilteringResult:
    """Filter every unit of a model at every threshold and see what is left of its performance, clean and attacked.

    Scores, classes and their limits are those of `assay.filtering.scores`, after Pravin, Martino, Nicosia, Ojha
    (Artificial Intelligence 327, 2024, 104060). All are about this attack, this epsilon and these data.

    Cost: about (distinct thresholds) x (operations behind the unit) per unit and sample, once for clean and once for
    attacked data; an adaptive attack adds a forward and a backward pass of the whole network each. Memory is that of
    one batch (`assay.filtering.engines`).

    Args:
        model: a module or Subject; untouched.
        data: (inputs (N, ...), labels or regression targets), or `Data`; None takes those of the Subject.
        config: settings; defaults when None.
        include: what to filter, as in `select_units`; None takes `config.include`.
        exclude: what to leave out; None takes `config.exclude`.
        attack: ``fgsm``, ``pgd``, ``pgd-l2``, a function (model, x, y) -> x_adv, or None for clean data alone; the
            empty text takes `config.attack`.
        metric: ``accuracy``, ``cross_entropy``, ``squared_error``, a `Metric` or a function (outputs, targets) -> one
            value per sample; the empty text takes `config.metric`.
        bounds: legal range of inputs; ``auto`` takes those of the Subject.
        initial: for ``reinitialise``: parameters before training, by name.
        directory: where outcomes are kept as they come, so that the sweep can go on after a crash; None keeps them in
            memory.
        executor: ``local`` processes, ``ray``, or any `concurrent.futures.Executor`; None follows the settings.
        progress: called as progress(done, total, text).
        **settings: fields of `FilteringConfig`, such as n=25 or mode="both"; they override `config`.

    Returns:
        Recordings, scores and classes.

    Raises:
        NumericalError: for NaN in weights, inputs or outputs, or where no performance is left to compare with.
        SubjectError: for data that do not fit the model.
        UsageError: for settings that do not fit.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2, bias=False))
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
        >>> _ = network[0].weight.data.copy_(torch.eye(2))
        >>> found = analyse(network, (x, y), attack=None, n=3)
        >>> round(found.score("0.weight", "high", "clean").score, 9)
        0.5
    """
    config = configured(config, attack=attack, metric=metric, **settings)
    subject = _subject(model, data)
    job = job_of(
        subject, config, include=include, exclude=exclude, attack=attack, metric=metric, bounds=bounds, initial=initial
    )
    chosen = executor if executor is not None else ("ray" if config.executor == "ray" else None)
    done = run(
        job,
        directory=None if directory is None else Path(directory),
        workers=config.workers,
        executor=chosen,
        progress=progress,
    )
    return assembled(job, done)


def configured(
    config: FilteringConfig | None = None, *, attack: Any = "", metric: Any = "", **settings: Any
) -> FilteringConfig:
    """Settings with some replaced, checked; those that nobody set are at the level of effort.

    Args:
        config: where to begin.
        attack: a name is a setting too; None is ``none``.
        metric: a name is a setting too.
        **settings: fields to replace.

    Returns:
        The configuration.

    Raises:
        UsageError: naming the field that is wrong.
    """
    if attack is None:
        settings["attack"] = "none"
    for name, value in (("attack", attack), ("metric", metric)):
        if isinstance(value, str) and value:
            settings[name] = value
    base = {} if config is None else config.model_dump(exclude_unset=True)
    try:
        return begun(FilteringConfig.model_validate(base | settings))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"{'.'.join(map(str, first['loc'])) or 'settings'}: {first['msg'].removeprefix('Value error, ')}.",
            where="filtering",
            advice=f"Settings: {', '.join(FilteringConfig.model_fields)}.",
        ) from error


def job_of(
    subject: Subject,
    config: FilteringConfig,
    *,
    include: Choice | Sequence[Choice] | None = None,
    exclude: Choice | Sequence[Choice] | None = None,
    attack: str | Attack | None = "",
    metric: str | Metric | Callable[[Tensor, Tensor], Tensor] = "",
    bounds: Bounds | Literal["auto"] = "auto",
    initial: Mapping[str, Tensor] | None = None,
) -> FilteringJob:
    """The sweep that `analyse` runs, with everything checked and nothing run.

    Returns:
        The job.

    Raises:
        SubjectError: without data or targets.
        UsageError: for choices that do not fit.
    """
    x, y = _samples(subject, config.inputs)
    regression = y.dtype.is_floating_point
    units = select_units(
        subject,
        config.include if include is None else include,
        exclude=config.exclude if exclude is None else exclude,
        granularity=config.granularity,
    )
    own: str | Attack | None = config.attack if isinstance(attack, str) else attack
    if own == "none":
        own = None
    if own is not None and regression and config.epsilon == "auto" and isinstance(own, str):
        raise UsageError(
            "For regression there is no accuracy that an attack could halve.",
            where="epsilon",
            advice="Give epsilon in the units of the inputs, or attack=None for clean data alone.",
        )
    chosen = metric if not isinstance(metric, str) else config.metric
    if chosen == "auto":
        chosen = "squared_error" if regression else "accuracy"
    if bounds == "auto":
        bounds = None if config.ignore_bounds else subject.preprocessing.bounds
    return FilteringJob(
        subject=subject,
        x=x,
        y=y,
        config=config,
        units=units,
        metric=metric_of(chosen),
        attack=own,
        bounds=bounds,
        initial=initial,
    )


def assembled(job: FilteringJob, done: Mapping[str, Any]) -> FilteringResult:
    """The result from the outcomes of a finished sweep."""
    baseline, outcomes = baseline_of(job, done), Outcomes(done)
    variants = {each.name: each for each in job.variants()}
    recorded: dict[str, dict[str, dict[str, Recording]]] = {"static": {}, "adaptive": {}}
    visited: dict[tuple[str, str], np.ndarray] = {}
    decided: dict[tuple[str, str], dict[tuple[str, str], Decision]] = {}
    for attack in ("static", "adaptive")[: job.stages - 1]:
        for name, each in variants.items():
            samples = outcomes.visited(attack, name)
            if samples is not None:
                visited[attack, name] = samples
                certain = [decisions_in(outcome) for outcome in outcomes.of(attack, name)]
                decided[attack, name] = {key: one for part in certain for key, one in part.items()}
            found = recordings_of(each, baseline, outcomes, adaptive=attack == "adaptive")
            if found or attack == "static":
                recorded[attack][name] = found
    engine = engine_of(
        job.subject,
        job.config.engine,
        batch_size=job.config.batch_size,
        precision=None if job.config.precision == "full" else job.config.precision,
    )
    epsilon = float(done[BASELINE]["epsilon"]) if "epsilon" in done[BASELINE] else math.nan
    notes = [f"Filtered networks were run whole, which is slower. {engine.why}"] if engine.why else []
    if job.config.faithful:
        notes.append(
            "The published protocol with two deviations: evaluation mode is forced (the published code ran batch norm "
            "on batch statistics), and low-pass scores integrate over rising stress (its sign came out flipped)."
        )
    if job.attack is not None and job.config.epsilon == "auto":
        notes.append("Epsilon was chosen on the data that the scores are of: their adversarial level is by design.")
    return FilteringResult(
        model=job.subject.name,
        config=job.config,
        variants=variants,
        baseline=baseline,
        epsilon=None if math.isnan(epsilon) else epsilon,
        bounds=job.bounds,
        static=recorded["static"],
        adaptive=recorded["adaptive"],
        visited=visited,
        decisions=decided,
        nodes=_nodes(job, [unit for each in variants.values() for unit in each.units]),
        engine=engine.name,
        notes=tuple(notes),
    )


def _subject(model: nn.Module | Subject, data: Data | tuple[Tensor, Tensor] | None) -> Subject:
    if isinstance(data, tuple) and (len(data) != 2 or not all(isinstance(each, Tensor) for each in data)):
        raise UsageError("Data must be (inputs, targets), two tensors.", where="data")
    if isinstance(model, Subject):
        if data is None:
            return model
        from assay import checks

        given = data if isinstance(data, Data) else Data(data[0], data[1])
        dtype = next((p.dtype for p in model.model.parameters() if p.dtype.is_floating_point), torch.float32)
        checked = checks.checked_data(given, model.preprocessing, dtype)
        return replace(model, data=checked, example=checked.inputs[:2])
    if data is None:
        raise UsageError("There are no data.", where="data", advice="Pass (inputs, targets), or a Subject with data.")
    targets = data.targets if isinstance(data, Data) else data[1]
    regression = targets is not None and targets.dtype.is_floating_point
    return Subject.from_model(model, data, task="regression" if regression else "classification")


def _samples(subject: Subject, most: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, spread evenly over the data."""
    if subject.data is None or subject.data.targets is None:
        raise SubjectError(
            "Filtering needs inputs with their labels (or regression targets).",
            where=subject.name,
            advice="Load data that have targets.",
        )
    count = len(subject.data)
    rows = torch.arange(count)
    if count > most:
        rows = torch.linspace(0, count - 1, most, dtype=torch.float64).round().long()
    return subject.data.inputs[rows], subject.data.targets[rows]


def _nodes(job: FilteringJob, units: Sequence[Unit]) -> dict[str, str]:
    """By unit, the node of the graph that reads its weights."""
    try:
        graph = job.subject.graph
    except AssayError:
        return {}
    leaves = {name: leaf for leaf, name in graph.parameter_names.items()}
    reader: dict[str, str] = {}
    for node in graph:
        for name in node.inputs:
            if name is not None:
                reader.setdefault(name, node.name)
    found: dict[str, str] = {}
    for unit in units:
        leaf = next((leaves[name] for name in unit.aliases if name in leaves), None)
        if leaf is not None and leaf in reader:
            found[unit.name] = reader[leaf]
    return found
