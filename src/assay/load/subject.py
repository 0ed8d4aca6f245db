"""`load_subject`: model and data from specifications, brought together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from assay.errors import SubjectError, UsageError
from assay.load.data import load_data
from assay.load.isolation import isolated
from assay.load.labels import matched_labels, read_class_names
from assay.load.models import LoadedModel, load_model
from assay.load.registry import Mode
from assay.load.trust import Trust
from assay.preprocess import PRESETS, Preprocessing
from assay.subject import Data, Subject, Task


def load_subject(
    spec: str | Path,
    *,
    data: str | Path | Data | None = None,
    trust: bool = False,
    weights: str | Path | None = None,
    arch: str | None = None,
    preprocessing: Preprocessing | str | None = None,
    class_names: Sequence[str] | str | Path | None = None,
    task: Task | None = None,
    name: str | None = None,
    limit: int | None = None,
    inputs_key: str | None = None,
    targets_key: str | None = None,
    target_column: str | None = None,
) -> Subject:
    """Load a model and its data from specifications.

    Nothing is executed and nothing is downloaded unless `trust` is given; then what ran is in `Subject.trusted`.

    Args:
        spec: `demo`, `demo:regression`, `torchvision:NAME`, `timm:NAME`, a file of weights with `arch`, a factory
            (`package.module:name`, `FILE.py:name`; trusted) or `FILE.pt2` (trusted).
        data: see `load_data`, or `Data`; a demo model has its own test split when None.
        trust: allow factories, `.pt2` programs and full pickles, all of which execute code.
        weights: file of weights for a named network or a factory's.
        arch: network that a file of weights belongs to.
        preprocessing: a `Preprocessing` or the name of a preset; when None, what the model's collection says.
        class_names: one per output, or a file of them.
        task: what the outputs are; recognised from the targets when None.
        name: for people.
        limit: number of samples to take.
        inputs_key: name of the inputs in an `.npz`.
        targets_key: name of the targets in an `.npz`.
        target_column: name of the target in a table.

    Returns:
        The subject, checked: the model accepts the data and treats samples one by one.

    Raises:
        TrustRequired: when something would execute code and trust was not given.
        MissingExtra: when an optional library is needed and absent.
        UsageError: when the request does not make sense.
        SubjectError: when model or data cannot be used, or do not fit each other.

    Example:
        >>> subject = load_subject("demo", limit=100)
        >>> len(subject.data), subject.output_count, subject.task
        (100, 10, 'classification')
    """
    record = Trust(trust)
    spec = str(spec)
    with isolated():
        loaded = load_model(spec, trust=record, weights=weights, arch=arch)
        notes = list(loaded.warnings)
        chosen = _preprocessing(preprocessing, loaded, notes)
        if spec in ("demo", "demo:classification", "demo:regression") and (
            data is None or (isinstance(data, str) and data == "demo")
        ):
            data = spec
        if isinstance(data, Data):
            data = data.take(limit)
        elif data is not None:
            data = load_data(
                data,
                chosen,
                trust=record,
                limit=limit,
                inputs_key=inputs_key,
                targets_key=targets_key,
                target_column=target_column,
                mode=_colour(loaded.module),
            )
        task = task or loaded.task or _task_of(data, notes)
        if data is not None:
            data = _targets_for(task, data)
        subject = Subject.from_model(
            loaded.module,
            data,
            preprocessing=chosen,
            task=task,
            name=name or loaded.name,
            trusted=tuple(record.executed),
            warnings=tuple(notes),
            example=loaded.example,
        )
        return _named(subject, read_class_names(class_names), loaded.class_names)


def _preprocessing(given: Preprocessing | str | None, loaded: LoadedModel, notes: list[str]) -> Preprocessing | None:
    if isinstance(given, str):
        if given not in PRESETS:
            raise UsageError(
                f"There is no preprocessing {given!r}.", where="preprocessing", advice=f"Presets: {', '.join(PRESETS)}."
            )
        return PRESETS[given]
    if given is None and loaded.preprocessing is not None:
        usual = loaded.preprocessing
        notes.append(
            "No preprocessing was given; the one of the network's published weights is assumed: "
            f"resize {usual.resize}, crop {usual.crop}, mean {_short(usual.mean)}, std {_short(usual.std)}."
        )
        return usual
    return given


def _colour(model: nn.Module) -> Mode:
    """Grey pictures for a model whose first convolution takes one channel."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return "L" if first is not None and first.in_channels == 1 else "RGB"


def _task_of(data: Data | None, notes: list[str]) -> Task:
    if data is None or data.targets is None or not data.targets.dtype.is_floating_point:
        return "classification"
    notes.append("The targets are not integers, so the outputs are taken as regression values.")
    return "regression"


def _targets_for(task: Task, data: Data) -> Data:
    """Regression targets as (N, K) floats; labels stored as 0.0, 1.0, ... as integers."""
    targets = data.targets
    if targets is None:
        return data
    if task == "regression":
        columns = targets.reshape(len(targets), -1)
        return replace(data, targets=columns.to(torch.get_default_dtype()), class_names=())
    if targets.dtype.is_floating_point and targets.dim() == 1 and bool((targets == targets.round()).all()):
        return replace(data, targets=targets.long())
    return data


def _named(subject: Subject, given: tuple[str, ...], usual: tuple[str, ...]) -> Subject:
    """The subject with names for its outputs, and labels in their order."""
    if not subject.example.numel():
        return replace(subject, class_names=given)
    outputs = subject.output_count
    if given and len(given) != outputs:
        raise SubjectError(
            f"There are {len(given)} class names and {outputs} outputs.",
            where=subject.name,
            advice="Give one name per output, in the order of the outputs.",
        )
    names = given or (usual if len(usual) == outputs else ())
    if subject.data is None:
        return replace(subject, class_names=names)
    if subject.task == "regression":
        return replace(subject, class_names=names)
    data, names = matched_labels(subject.data, outputs, names)
    return replace(subject, data=data, class_names=names)


def _short(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in values) + ")"
