"""A score as a mean over samples of terms with known bounds: what early stopping watches.

S = mean of z_i with z_i = sum_k c_k (correct_i(s_k) / a0 - r_k): c_k the weights of integration over stress, a0 the
accuracy of the unfiltered network on all samples, r_k the reference. The score of several filters is their mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from assay.errors import NumericalError, UsageError
from assay.filtering.recording import Baseline, Recording
from assay.filtering.scores import REFERENCES, SPLITS, Reference, Rule, quadrature

ScoreOf = Literal["clean", "adversarial", "difference"]


@dataclass(frozen=True, eq=False)
class Terms:
    """One score as a mean of bounded terms, one per sample.

    Attributes:
        split: ``clean``, ``adversarial`` or ``difference``.
        densities: by filter, (K,) shares of weights left; the score is the mean over these filters.
        levels: by split, accuracy of the unfiltered network over all samples.
        reference: ``compressed`` or ``unfiltered``.
        rule: of integration.
    """

    split: ScoreOf
    densities: Mapping[str, np.ndarray]
    levels: Mapping[str, float]
    reference: Reference = "compressed"
    rule: Rule = "simpson"

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest possible term."""
        if self.split == "difference":
            return -1 / self.levels["clean"], 1 / self.levels["adversarial"]
        return -self._subtracted(), 1 / self.levels[self.split] - self._subtracted()

    def values(self, recordings: Mapping[str, Recording]) -> np.ndarray:
        """Terms of the samples recorded, whichever and however many these are.

        Args:
            recordings: by filter, of bool correctness.

        Returns:
            (t,) float64.

        Raises:
            UsageError: for other filters, another number of thresholds, or a metric that is not right or wrong.
        """
        if set(recordings) != set(self.densities):
            raise UsageError(
                f"There are recordings of {', '.join(recordings)}, and scores of {', '.join(self.densities)}.",
                where="recordings",
                advice="Record the same filters.",
            )
        return np.mean([self._of(recordings[name], name) for name in self.densities], axis=0)

    def _of(self, recording: Recording, name: str) -> np.ndarray:
        weights = quadrature(len(self.densities[name]), self.rule)
        means: dict[str, np.ndarray] = {}
        for split in SPLITS if self.split == "difference" else (self.split,):
            values = recording.split("clean" if split == "clean" else "adversarial")
            if values is None or len(values) != len(weights):
                raise UsageError(
                    f"Expected {len(weights)} thresholds on {split} samples.", where=name, advice="Record them."
                )
            means[split] = weights @ _correctness(values, name) / self.levels[split]
        if self.split == "difference":
            return means["adversarial"] - means["clean"]
        return means[self.split] - self._subtracted()

    def _subtracted(self) -> float:
        """The integral of the reference, averaged over filters."""
        if self.reference == "unfiltered":
            return 1.0
        left = [float(quadrature(len(rho), self.rule) @ rho) for rho in self.densities.values()]
        return float(np.mean(left))


def terms_of(
    baseline: Baseline,
    densities: Mapping[str, np.ndarray],
    *,
    split: ScoreOf = "adversarial",
    reference: Reference = "compressed",
    rule: Rule = "simpson",
) -> Terms:
    """How a score is a mean over samples, relative to the unfiltered network run on all of them.

    Args:
        baseline: the unfiltered network on all samples, right or wrong.
        densities: by filter, (K,) shares of weights left at every threshold.
        split: ``clean``, ``adversarial`` or ``difference``.
        reference: ``compressed`` or ``unfiltered``; without effect on the difference.
        rule: of integration, as in `quadrature`.

    Returns:
        The terms.

    Raises:
        NumericalError: when the unfiltered network has nothing right.
        UsageError: for a metric that is not right or wrong: its terms have no bounds known beforehand.
    """
    if split not in get_args(ScoreOf) or reference not in REFERENCES or not densities:
        raise UsageError(
            f"There is no score with split={split!r}, reference={reference!r} over {len(densities)} filters.",
            where="split",
            advice="split is 'clean', 'adversarial' or 'difference', reference 'compressed' or 'unfiltered'.",
        )
    levels: dict[str, float] = {}
    for name in SPLITS if split == "difference" else (split,):
        values = baseline.split("clean" if name == "clean" else "adversarial")
        if values is None:
            raise UsageError(f"The baseline has no {name} samples.", where="baseline", advice="Run the attack.")
        levels[name] = float(_correctness(values, "baseline", higher_is_better=baseline.higher_is_better).mean())
        if levels[name] == 0:
            raise NumericalError(
                f"The unfiltered network has no {name} sample right: performance relative to it does not exist.",
                where=f"baseline, {name}",
                advice="Choose a smaller epsilon." if name == "adversarial" else "Check the model and its labels.",
            )
    return Terms(split, {name: np.asarray(rho, np.float64) for name, rho in densities.items()}, levels, reference, rule)


def known_of(baseline: Baseline) -> np.ndarray:
    """What the unfiltered network tells of every sample: (n, q) whether it is right, for every split."""
    columns = [baseline.split(split) for split in SPLITS]
    return np.stack([column.astype(np.float64) for column in columns if column is not None], 1)


def _correctness(values: np.ndarray, where: str, *, higher_is_better: bool = True) -> np.ndarray:
    if not higher_is_better or (values.dtype != bool and not np.isin(values, (0, 1)).all()):
        raise UsageError(
            "Early stopping needs a metric that is right or wrong for every sample: others have no known bounds.",
            where=where,
            advice="Use metric='accuracy', or visit all samples.",
        )
    return values.astype(np.float64)
