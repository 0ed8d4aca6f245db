"""What a measurement of kinks hands back: every kink with its place, and the sums that characterise an output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from assay.grade import Grade
from assay.results import Displayed


@dataclass(frozen=True, eq=False)
class Kinks(Displayed):
    """Kinks of the outputs along a path, in the order of the path.

    Attributes:
        t: (m,) parameters.
        layer: (m,) index into `layers`.
        unit: (m,) place in the flattened value of that layer's node; -1 where several units bend at once.
        local: (m,) jump of the slope of the unit itself.
        jump: (m, K) jumps J of the outputs' slopes y'(t+) - y'(t-), in output units per parameter unit.
        layers: places of the layers that occur.
        dropped: kinks that are counted in all sums but not listed, the smallest ones.
    """

    t: Tensor
    layer: Tensor
    unit: Tensor
    local: Tensor
    jump: Tensor
    layers: tuple[str, ...]
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.t)


@dataclass(frozen=True, eq=False)
class Smp(Displayed):
    """Sum of the magnitudes of slope jumps of K outputs along one path, with its companions.

    Attributes:
        value: (K,) SMP: sum over network kinks of |J|, in output units per parameter unit, float64.
        grade: exact, or statistical for estimates.
        estimator: ``exact_line``, ``event``, ``kac_rice`` or ``sampled``.
        group: sum over kinks of the Euclidean length of (J of all outputs).
        count: number of network kinks that were found (an estimate may be no whole number).
        energy: (K,) sum of J^2 over the length of the path.
        signed: (K,) sum of J.
        path: (K,) SMP of the path's own kinks, which are not in `value`.
        by_layer: place of a layer -> (K,) its part of `value`; parts add up to `value`.
        by_unit: place of a layer -> (units, K) parts, where they were asked for.
        kinks: every kink, where the estimator has them.
        length: end - start of the path's parameter.
        samples: points of the path at which the network was evaluated.
        t: (n,) parameters of `outputs`.
        outputs: (n, K) along the path.
        slopes: (n, K) dy/dt there, from the right.
        error: (K,) standard error where the estimator has one.
        notes: what the reader must know.
    """

    value: Tensor
    grade: Grade
    estimator: str
    group: float
    count: float
    energy: Tensor
    signed: Tensor
    path: Tensor
    by_layer: Mapping[str, Tensor]
    length: float
    samples: int
    t: Tensor
    outputs: Tensor
    slopes: Tensor
    by_unit: Mapping[str, Tensor] = field(default_factory=dict)
    kinks: Kinks | None = None
    error: Tensor | None = None
    notes: tuple[str, ...] = ()

    @property
    def density(self) -> float:
        """Kinks per unit of the path's parameter."""
        return self.count / self.length

    @property
    def rate(self) -> Tensor:
        """(K,) SMP per unit of the path's parameter."""
        return self.value / self.length

    @property
    def over_range(self) -> Tensor:
        """(K,) SMP times the path's length over the range of the output: without unit."""
        spread = self.outputs.amax(0) - self.outputs.amin(0)
        return self.value * self.length / torch.where(spread > 0, spread, torch.nan)

    @property
    def share(self) -> Tensor:
        """(K,) SMP over the total variation of the slope: 1 for a piecewise linear output, 0 for a smooth one.

        The variation between samples is a lower bound, so the share is cut at 1.
        """
        sampled = (self.slopes[1:] - self.slopes[:-1]).abs().sum(0)
        variation = torch.maximum(sampled, self.value + self.path)
        return torch.where(variation > 0, self.value / variation, 0.0)

    @property
    def mean_size(self) -> Tensor:
        """(K,) SMP per kink."""
        return self.value / max(self.count, 1.0)
