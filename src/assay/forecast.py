"""What an audit will cost, before it runs: operations by formula, seconds by a short pass measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from assay.analyses import ANALYSES
from assay.audit import estimates, peak_bytes
from assay.config import AuditConfig
from assay.effort import Estimate, per_pass
from assay.errors import SubjectError
from assay.subject import Subject

FORMAT, VERSION = "assay-plan", 1
MEASURED_SECONDS = 0.5
"""How long the pass is repeated."""
_BATCH_OPERATIONS = 2e10
_LARGEST_BATCH = 64
_FIXED = (1.0, 4.0, 20.0)
_FACTORS = (0.6, 1.1, 2.0)
"""Low, expected and high seconds of an analysis: so much whatever it does, and so many times its operations over speed.

On a small and a large network every analysis alone took between the low and the high one."""
_SCREENED = 0.2
"""Of a short sweep's operations at least, where most filtered networks need no attack of their own."""
_REPORT_BYTES = 1e6


@dataclass(frozen=True)
class Step:
    """One analysis of a forecast.

    Attributes:
        name: of the analysis.
        text: its plan, or why it will not run.
        runs: whether it will.
        operations: multiplications and additions; None where it does not say.
        seconds: (low, expected, high) on this machine as it is now; None where operations are not known.
        memory: bytes at once, besides the process and the data; None likewise.
        disk: bytes in the run directory; None likewise.
    """

    name: str
    text: str
    runs: bool
    operations: float | None = None
    seconds: tuple[float, float, float] | None = None
    memory: float | None = None
    disk: float | None = None


@dataclass(frozen=True)
class Forecast:
    """What an audit will cost.

    Attributes:
        subject: name of the model.
        steps: analyses in the order they would run.
        speed: operations per second of a forward pass, measured.
        threads: of torch, with which it was measured.
        base: bytes that the process takes with model and data.
    """

    subject: str
    steps: tuple[Step, ...]
    speed: float
    threads: int
    base: float

    @property
    def seconds(self) -> tuple[float, float, float]:
        """Low, expected and high wall time of everything that will run and says what it takes."""
        known = [step.seconds for step in self.steps if step.runs and step.seconds is not None]
        low, middle, high = (sum(each) for each in zip(*known, strict=True)) if known else (0.0, 0.0, 0.0)
        return low, middle, high

    @property
    def memory(self) -> float:
        """Bytes at most, of all processes together."""
        return self.base + max((step.memory or 0.0 for step in self.steps if step.runs), default=0.0)

    @property
    def disk(self) -> float:
        """Bytes of the run directory, with its report."""
        return _REPORT_BYTES + sum(step.disk or 0.0 for step in self.steps if step.runs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        low, expected, high = self.seconds
        return {
            "format": FORMAT,
            "version": VERSION,
            "subject": self.subject,
            "analyses": [asdict(step) | {"seconds": _named(step.seconds)} for step in self.steps],
            "total": {"seconds": _named((low, expected, high)), "memory": self.memory, "disk": self.disk},
            "measured": {"operations_per_second": self.speed, "threads": self.threads, "base_memory": self.base},
            "grade": "estimate",
        }


def forecast(subject: Subject, config: AuditConfig | None = None, only: Sequence[str] | None = None) -> Forecast:
    """What an audit with these settings will cost; nothing is written, and little is run.

    Operations and memory are formulas of the captured graph and the settings; seconds follow from the speed of a
    forward pass measured here and now, the fastest of several, so other work on the machine makes them longer.

    Args:
        subject: model and data.
        config: settings.
        only: names of analyses; all when None.

    Returns:
        The forecast. Grade: an estimate, right within about a factor two for large networks.

    Raises:
        UsageError: for an unknown analysis.
        SubjectError: without data.

    Example:
        >>> from assay.load import load_subject
        >>> found = forecast(load_subject("demo", limit=8), only=["smoothness"])
        >>> [step.name for step in found.steps], found.seconds[0] < found.seconds[2]
        (['smoothness'], True)
    """
    if subject.data is None:
        raise SubjectError("A plan needs data.", where=subject.name, advice="Give inputs with --data or data=.")
    speed = measured_speed(subject)
    steps = tuple(
        _step(name, found, speed, ANALYSES[name].sweeps if found.runs else False)
        for name, found in estimates(subject, config, only)
    )
    return Forecast(subject.name, steps, speed, torch.get_num_threads(), float(peak_bytes()))


def measured_speed(subject: Subject) -> float:
    """Operations per second of forward passes through the model, with the threads that torch uses; the fastest of some.

    Args:
        subject: with data.

    Returns:
        Additions and multiplications per second. Grade: sampled, once.
    """
    assert subject.data is not None
    each = per_pass(subject)
    rows = min(_LARGEST_BATCH, len(subject.data), max(1, int(_BATCH_OPERATIONS / each)))
    x = subject.data.inputs[:rows]
    subject.probe(x)  # the first pass of anything is slow
    begun, spent = time.perf_counter(), []
    while not spent or time.perf_counter() - begun < MEASURED_SECONDS:
        start = time.perf_counter()
        subject.probe(x)
        spent.append(time.perf_counter() - start)
    return each * rows / min(spent)


def _step(name: str, found: Estimate, speed: float, sweeps: bool) -> Step:
    if not found.runs or found.operations is None:
        return Step(name, found.text, found.runs)
    seconds = _seconds(found, found.operations / speed, sweeps)
    return Step(name, found.text, True, found.operations, seconds, found.memory, found.disk)


def _seconds(found: Estimate, pure: float, sweeps: bool) -> tuple[float, float, float]:
    if found.seconds is not None:
        low, middle, high = found.seconds
        return 0.7 * low, middle, 1.5 * high
    low, middle, high = (fixed + factor * pure for fixed, factor in zip(_FIXED, _FACTORS, strict=True))
    return (_FIXED[0] + _SCREENED * pure if sweeps else low), middle, high


def _named(seconds: tuple[float, float, float] | None) -> dict[str, float] | None:
    return None if seconds is None else dict(zip(("low", "expected", "high"), seconds, strict=True))
