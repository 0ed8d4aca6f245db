"""What a detector says about samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.results import Displayed

CAVEAT = (
    "An attacker who knows this detector can evade it: detectors by curvature and by noise have been broken by "
    "adaptive attacks. It is evidence about careless tampering, not a defence."
)
"""To be shown with every result."""


@dataclass(frozen=True, eq=False)
class Detection(Displayed):
    """One row per sample. Grade of the scores: sampled.

    Attributes:
        statistic: what the verdict rests on.
        score: (B,) float64, higher is more suspicious; NaN where it could not be measured.
        error: (B,) standard error of the score, from its random directions.
        threshold: scores above it are flagged.
        status: per row ``clean`` (not flagged: no proof of being clean), ``flagged``, ``degenerate`` (nothing bends,
            as in a linear model, so that the statistic says nothing) or ``inconclusive`` (no boundary point was found,
            or the score is no number).
        p_value: (B,) conformal p-value against the clean samples; NaN where degenerate, inconclusive or without
            calibration.
        label: (B,) predicted class.
        recovered: (B,) the class before, if the sample was tampered with; -1 where degenerate or inconclusive.
        close: (B,) whether the threshold is within two standard errors, so that more probes could turn the verdict.
        every: scores (B,) of all statistics measured, the baselines among them, by name.
        every_p_value: the p-values (B,) of each.
        rule: by which the class was recovered.
        scale: over which curvature was measured, in the units of the inputs.
        smoothing: radius that logits were averaged over.
        probes: random directions per sample.
        false_positive_rate: that the threshold was calibrated to; None for a threshold given by hand.
        caveat: what to say with it.
    """

    statistic: str
    score: Tensor
    error: Tensor
    threshold: float
    status: tuple[str, ...]
    p_value: Tensor
    label: Tensor
    recovered: Tensor
    close: Tensor
    every: Mapping[str, Tensor]
    every_p_value: Mapping[str, Tensor]
    rule: str
    scale: float
    smoothing: float
    probes: int
    false_positive_rate: float | None
    caveat: str = CAVEAT

    def __len__(self) -> int:
        return len(self.status)

    @property
    def flagged(self) -> Tensor:
        """(B,) bool: status is ``flagged``."""
        return torch.tensor([each == "flagged" for each in self.status], dtype=torch.bool)

    @property
    def corrected(self) -> Tensor:
        """(B,) the predicted class, exchanged for the recovered one where the sample is flagged."""
        return self.recovered.where(self.flagged.to(self.label.device), self.label)
