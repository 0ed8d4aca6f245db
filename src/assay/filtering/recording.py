"""What a sweep records: the metric of every sample at every threshold, from which all scores can be recomputed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from assay.brief import Brief
from assay.errors import NumericalError, UsageError

Split = Literal["clean", "adversarial"]


@dataclass(frozen=True, eq=False)
class Baseline(Brief):
    """The unfiltered network on the same samples.

    Attributes:
        clean: (N,) metric of every sample, bool or number; a tensor or array, kept as an array.
        adversarial: (N,) likewise on attacked samples, or None when there was no attack.
        higher_is_better: as in `Metric`.

    Example:
        >>> Baseline([True, False, True]).split("clean")
        array([ True, False,  True])
    """

    clean: np.ndarray
    adversarial: np.ndarray | None = None
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        _set(self, "clean", _values(self.clean, 1, "baseline clean"))
        if self.adversarial is not None:
            _set(self, "adversarial", _values(self.adversarial, 1, "baseline adversarial"))
            if self.adversarial.shape != self.clean.shape:
                raise _misfit(f"{len(self.adversarial)} attacked samples", f"{len(self.clean)} clean ones", "baseline")

    def split(self, split: Split) -> np.ndarray | None:
        """The values of one split, None where it was not recorded."""
        return self.clean if split == "clean" else self.adversarial


@dataclass(frozen=True, eq=False)
class Recording(Brief):
    """One filter of one unit at its n thresholds, in order of rising stress.

    Attributes:
        clean: (n, N) metric of every sample, bool or number; a tensor or array, kept as an array.
        adversarial: (n, N) likewise on attacked samples, or None when there was no attack.
        density: (n,) remaining over all weights of the unit, in [0, 1].
        changed: (n,) number of weights whose value the filter changes; None counts every removed weight as changed.

    Example:
        >>> Recording([[True, True], [True, False]], None, [0.5, 0.0]).removed
        0.75
    """

    clean: np.ndarray
    adversarial: np.ndarray | None
    density: np.ndarray
    changed: np.ndarray | None = None

    def __post_init__(self) -> None:
        _set(self, "clean", _values(self.clean, 2, "recording clean"))
        if self.adversarial is not None:
            _set(self, "adversarial", _values(self.adversarial, 2, "recording adversarial"))
            if self.adversarial.shape != self.clean.shape:
                raise _misfit(f"attacked {self.adversarial.shape}", f"clean {self.clean.shape}", "recording")
        _set(self, "density", _values(self.density, 1, "recording density").astype(np.float64))
        changed = 1 - self.density if self.changed is None else _values(self.changed, 1, "recording changed")
        _set(self, "changed", changed)
        if len(self.density) != len(self.clean) or len(changed) != len(self.clean):
            raise _misfit(f"{len(self.density)} densities", f"{len(self.clean)} thresholds", "recording")
        if self.density.min() < 0 or self.density.max() > 1:
            raise UsageError(
                f"Densities run from {self.density.min():.4g} to {self.density.max():.4g}.",
                where="recording density",
                advice="Give remaining weights over all weights, between 0 and 1.",
            )

    @property
    def no_op(self) -> bool:
        """Whether the filter changes no weight at any threshold, so that it says nothing about the unit."""
        assert self.changed is not None
        return not np.any(self.changed)

    @property
    def removed(self) -> float:
        """Share of the weights removed, averaged over thresholds."""
        return float(1 - self.density.mean())

    def split(self, split: Split) -> np.ndarray | None:
        """The values of one split, None where it was not recorded."""
        return self.clean if split == "clean" else self.adversarial

    def check(self, baseline: Baseline, name: str) -> None:
        """Refuse a baseline of other samples.

        Raises:
            UsageError: when the number of samples, or the splits, do not agree.
        """
        found = ""
        if self.clean.shape[1] != len(baseline.clean):
            found = f"{self.clean.shape[1]} samples, and {len(baseline.clean)} in the baseline"
        if (self.adversarial is None) != (baseline.adversarial is None):
            found = "attacked samples on one side, and none on the other"
        if found:
            raise UsageError(f"There are {found}.", where=name, advice="Record both on the same samples.")


def _values(values: Any, axes: int, where: str) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.double() if values.dtype.is_floating_point else values).numpy()
    array = np.asarray(values)
    if array.ndim != axes or not array.size or array.dtype.kind not in "biuf":
        raise UsageError(
            f"Expected numbers in {axes} axes, got {array.dtype} of shape {array.shape}.",
            where=where,
            advice="Baselines are (samples,), recordings (thresholds, samples), densities (thresholds,).",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        place = ", ".join(map(str, np.argwhere(~np.isfinite(array))[0]))
        raise NumericalError("A recorded value is NaN or infinite.", where=f"{where} [{place}]", advice="Check it.")
    return array


def _misfit(first: str, second: str, where: str) -> UsageError:
    return UsageError(f"{first} against {second}.", where=where, advice="Record both on the same samples.")


def _set(owner: object, name: str, value: np.ndarray) -> None:
    object.__setattr__(owner, name, value)  # frozen for everyone else
