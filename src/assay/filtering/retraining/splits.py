"""The three sets of samples, checked against the model: to train on, to choose on, to judge on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from assay import checks
from assay.errors import SubjectError, UsageError
from assay.subject import Data, Subject

Samples = Data | tuple[Tensor, Tensor]
Bounds = tuple[float, float] | None


class Pair(NamedTuple):
    """Inputs (N, ...) and labels (N,)."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True, eq=False)
class Splits:
    """The model and its samples.

    Attributes:
        subject: the model; untouched.
        bounds: legal range of inputs, or None.
        train: to train on.
        validation: to choose on: labels, epsilon, criticality.
        test: to judge on.
        held_back: `test` is a half of the validation samples, because none were given.
    """

    subject: Subject
    bounds: Bounds
    train: Pair
    validation: Pair
    test: Pair
    held_back: bool


def splits_of(
    model: nn.Module | Subject,
    train: Samples,
    validation: Samples,
    test: Samples | None,
    bounds: Bounds | Literal["auto"] = "auto",
) -> Splits:
    """Check samples and model against each other.

    Args:
        model: a classifier.
        train: inputs and labels.
        validation: likewise.
        test: likewise; None holds a random half of the validation samples back.
        bounds: legal range of inputs; ``auto`` takes that of the Subject or of the training data.

    Returns:
        All of it, inputs in the model's type.

    Raises:
        SubjectError: for samples that the model cannot use.
        UsageError: for anything but inputs with integer labels, or too few validation samples to halve.
    """
    subject = model if isinstance(model, Subject) else Subject.from_model(model, _data(train, "train"))
    if subject.task != "classification":
        raise UsageError("Selective retraining is defined for classifiers.", where="model", advice="Give one.")
    pairs = {"train": _checked(subject, train, "train"), "validation": _checked(subject, validation, "validation")}
    held_back = test is None
    if test is None:
        pairs["validation"], pairs["test"] = _halves(pairs["validation"])
    else:
        pairs["test"] = _checked(subject, test, "test")
    limits = subject.preprocessing.bounds if isinstance(bounds, str) else bounds
    return Splits(subject, limits, pairs["train"], pairs["validation"], pairs["test"], held_back)


def _data(samples: Any, name: str) -> Data:
    inputs, targets = (
        (samples.inputs, samples.targets)
        if isinstance(samples, Data)
        else samples
        if isinstance(samples, tuple | list) and len(samples) == 2
        else (None, None)
    )
    if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor) or targets.dtype.is_floating_point:
        raise UsageError(
            "Samples must be inputs with one integer label each.",
            where=name,
            advice="Give (x, y) with x (N, ...) and y (N,) integer, or Data with such targets.",
        )
    bounds = samples.bounds if isinstance(samples, Data) else None
    return Data(inputs, targets, name, bounds=bounds)


def _checked(subject: Subject, samples: Samples, name: str) -> Pair:
    floating = (p.dtype for p in subject.model.parameters() if p.dtype.is_floating_point)
    data = checks.checked_data(_data(samples, name), subject.preprocessing, next(floating, torch.float32))
    assert data.targets is not None
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            outputs = subject.model(data.inputs[:2].clone()).shape[1]
        except SubjectError:
            raise
        except Exception as error:
            raise SubjectError(
                f"The model does not accept inputs of shape {tuple(data.inputs.shape[1:])}.",
                where=name,
                advice="Give samples like those the model was trained on.",
            ) from error
    y = data.targets.detach().long()
    if y.dim() != 1 or int(y.min()) < 0 or int(y.max()) >= outputs:
        raise SubjectError(
            f"Labels of shape {tuple(y.shape)} from {int(y.min())} to {int(y.max())} do not fit {outputs} outputs.",
            where=name,
            advice="Give labels 0..K-1 in the order of the model's outputs, one per sample.",
        )
    return Pair(data.inputs, y)


def _halves(pair: Pair) -> tuple[Pair, Pair]:
    if len(pair.y) < 2:
        raise UsageError("One validation sample cannot be halved.", where="validation", advice="Give test=.")
    order = torch.randperm(len(pair.y), generator=torch.Generator().manual_seed(0))
    first, second = order[: (len(order) + 1) // 2], order[(len(order) + 1) // 2 :]
    return Pair(pair.x[first], pair.y[first]), Pair(pair.x[second], pair.y[second])
