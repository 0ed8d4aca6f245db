"""How much of a filtering sweep a model's size affords, when the user did not say."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from typing import Any

from assay.effort import SHARE, Level, begun, changed, lowered
from assay.errors import AssayError
from assay.filtering.analysis import job_of
from assay.filtering.config import FilteringConfig
from assay.subject import Subject

BUDGET = 1.2e13
"""Multiplications and additions of an audit's share: less than ten minutes on two cores."""
ENOUGH = 256
"""Inputs that are given up only after everything else."""
_FEWEST: Mapping[Level, int] = {"quick": 8, "standard": 20, "thorough": 20}
_COARSER = (17, 13, 9)
_COARSEST = 5
ALONE = 5e11
"""Operations up to which starting processes takes longer than it saves."""
_IMPORTABLE = {"torch", "torchvision", "timm", "assay"}


def fitted(config: FilteringConfig, subject: Subject) -> tuple[FilteringConfig, tuple[str, ...]]:
    """The configuration with unset fields at the level of effort and lowered to fit its budget, and what to know of it.

    Inputs beyond the first hundreds go first, then the attack on every filtered network anew, then thresholds, then
    inputs down to a few. The budget counts operations, not seconds, so the same model and data always get the same
    configuration. A regression network without an epsilon is examined on clean data alone.

    Returns:
        Configuration and warnings.
    """
    given, notes = config.model_fields_set, []
    config = begun(config)
    if subject.task == "regression" and config.epsilon == "auto" and config.attack != "none":
        config = changed(config, {"attack": "none"})
        notes.append("Examined on clean data alone: for regression an attack needs its size (--filtering.epsilon).")
    fewer: dict[str, Any] = {}
    try:
        needed = operations(config, subject)
        for name, value in _steps(config, subject):
            if needed <= budget(config):
                break
            if name in given or value == getattr(config, name):
                continue
            if name == "inputs":
                value = _affordable(config, subject, value)
            fewer[name] = value
            config = changed(config, {name: value})
            needed = operations(config, subject)
    except AssayError:
        return config, tuple(notes)  # running it says why
    return config, (*notes, *([lowered(fewer)] if fewer else []))


def _steps(config: FilteringConfig, subject: Subject) -> Iterator[tuple[str, Any]]:
    """What is given up, in this order."""
    count = min(config.inputs, len(subject.data) if subject.data is not None else 0)
    few = _FEWEST[config.effort]
    if count > ENOUGH:
        yield "inputs", ENOUGH
    if config.attack != "none" and config.mode != "adaptive":
        yield "mode", "static"
    for n in _COARSER:
        if n < config.n:
            yield "n", n
    if count > few:
        yield "inputs", few
    if config.n > _COARSEST:
        yield "n", _COARSEST
    if config.effort == "quick":
        yield "filters", ("high",)


def _affordable(config: FilteringConfig, subject: Subject, least: int) -> int:
    """As many inputs as the budget allows, at least some; operations are in proportion to inputs."""
    share = budget(config) / operations(changed(config, {"inputs": least}), subject)
    return max(least, min(config.inputs, int(least * share)))


def budget(config: FilteringConfig) -> float:
    """Operations that the sweep may take."""
    return BUDGET * SHARE[config.effort] if config.budget is None else config.budget * 1e9


def operations(config: FilteringConfig, subject: Subject) -> float:
    """Operations of the sweep, as if every filtered network were attacked anew where some are.

    Returns:
        Additions and multiplications.

    Raises:
        AssayError: when there can be no sweep.
    """
    return job_of(subject, config).extent()[1]


def processes(config: FilteringConfig, subject: Subject) -> int:
    """Processes for a sweep when nobody said how many: by its length and the cores, never a matter of results.

    One process for a short sweep, and for networks whose code other processes may not find.

    Returns:
        At least 1.
    """
    classes = {type(module).__module__.partition(".")[0] for module in subject.model.modules()}
    if not classes <= _IMPORTABLE or any(importlib.util.find_spec(name) is None for name in classes):
        return 1
    config, _ = fitted(config, subject)
    try:
        if operations(config, subject) <= ALONE:
            return 1
    except AssayError:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // config.threads, 8))
