"""What a section is given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from assay.graph import Graph
from assay.sensitivity.config import SensitivityConfig
from assay.sensitivity.effort import FEW
from assay.sensitivity.roundoff.sites import prepared_graph
from assay.subject import Subject

_LARGE = 2_000_000
"""Activations and weights per input from which a section measures on fewer inputs."""


@dataclass(frozen=True, eq=False)
class Context:
    """The subject under question.

    Attributes:
        subject: with a captured graph.
        config: the settings.
        inputs: (B, ...) inputs with a relative condition number.
        attacked: (B,) largest relative response that an attack of the smallest size found.
    """

    subject: Subject
    config: SensitivityConfig
    inputs: Tensor
    attacked: Tensor

    @cached_property
    def graph(self) -> Graph:
        """Batch norms and constants folded."""
        return prepared_graph(self.subject)

    @cached_property
    def size(self) -> int:
        """Activations of one input, and weights."""
        weights = sum(value.numel() for value in self.graph.parameters.values())
        return weights + sum(node.spec.size_per_sample for node in self.graph.layers)

    @property
    def large(self) -> bool:
        """Whether work per input must be counted."""
        return self.size > _LARGE

    @property
    def few(self) -> int:
        """Inputs that a section takes of a large model."""
        return FEW[self.config.effort]

    def picked(self, share: float = 1.0) -> Tensor:
        """Rows of `inputs` that a section takes: evenly spread, few of them (or a share of those) for a large model."""
        count = min(len(self.inputs), max(1, round(self.few * share)) if self.large else self.config.section_inputs)
        return torch.linspace(0, len(self.inputs) - 1, count, dtype=torch.float64).round().long()


def correlation(predicted: np.ndarray, measured: np.ndarray) -> float | None:
    """Correlation of the logarithms of two positive quantities over inputs; None where there is none to tell."""
    seen = (predicted > 0) & (measured > 0) & np.isfinite(predicted) & np.isfinite(measured)
    one, other = np.log(predicted[seen]), np.log(measured[seen])
    if seen.sum() < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])
