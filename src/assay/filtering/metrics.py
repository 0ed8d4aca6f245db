"""Metrics: one number per sample, whose mean is the performance of a network on a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from assay.errors import NumericalError, UsageError


@dataclass(frozen=True)
class Metric:
    """How well each sample was done.

    Attributes:
        name: for people.
        function: (outputs (B, K), targets (B, ...)) -> (B,) one value per sample.
        higher_is_better: True where performance is the mean over the unfiltered mean (accuracy, return), False where it
            is the unfiltered mean over the mean (loss, error). Values may not be negative on average.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    higher_is_better: bool = True

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Values of a batch, checked: one finite number per sample.

        Args:
            outputs: (B, K) logits or regression outputs.
            targets: (B,) labels, or (B,) or (B, K) regression targets.

        Returns:
            (B,) bool or floating point, detached.

        Raises:
            NumericalError: for NaN or infinity.
            UsageError: for anything but one value per sample.
        """
        values = self.function(outputs, targets)
        if not isinstance(values, Tensor) or values.shape != (len(outputs),):
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise UsageError(
                f"The metric returned {shape} for a batch of {len(outputs)}.",
                where=self.name,
                advice="Return one value per sample, before taking the mean.",
            )
        values = values.detach()
        if values.dtype.is_floating_point and not bool(torch.isfinite(values).all()):
            row = int((~torch.isfinite(values)).nonzero()[0])
            raise NumericalError(
                "The metric is NaN or infinite.", where=f"{self.name}, sample {row}", advice="Use a bounded metric."
            )
        return values


def metric_of(metric: str | Metric | Callable[[Tensor, Tensor], Tensor]) -> Metric:
    """A metric by name, or around a function (outputs, targets) -> (B,), for which higher is better.

    Args:
        metric: ``accuracy`` (ties go to the lowest class), ``cross_entropy``, ``squared_error`` (the mean over
            outputs), a `Metric`, or a function.

    Returns:
        The metric.

    Raises:
        UsageError: for an unknown name.

    Example:
        >>> metric_of("accuracy")(torch.tensor([[1.0, 1.0], [0.0, 2.0]]), torch.tensor([0, 0])).tolist()
        [True, False]
    """
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        return Metric(getattr(metric, "__name__", type(metric).__name__), metric)
    if metric not in _METRICS:
        raise UsageError(
            f"There is no metric {metric!r}.",
            where="metric",
            advice=f"Use a function, or one of {', '.join(_METRICS)}.",
        )
    return _METRICS[metric]


def _accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.argmax(1) == targets


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.double(), targets, reduction="none")


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.double() - targets.reshape(outputs.shape)).square().mean(1)


_METRICS = {
    "accuracy": Metric("accuracy", _accuracy),
    "cross_entropy": Metric("cross_entropy", _cross_entropy, higher_is_better=False),
    "squared_error": Metric("squared_error", _squared_error, higher_is_better=False),
}
