"""What propagation returns: moments of the outputs, with grade, method and a row per layer."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from assay.covariance.functions import safe_sqrt
from assay.grade import Grade
from assay.moments.checking import Check
from assay.results import Displayed


@dataclass(frozen=True)
class LayerNoise:
    """Noise after one layer, averaged over samples and units.

    Attributes:
        node: graph node.
        place: module path and operator.
        variance: mean variance of the units.
        relative: root of mean variance over root mean square of the means: noise per signal.
        innovation_share: share of the variance that this node's non-linearity made independent of its input; 0 for
            affine nodes.
        grade: reliability of this node's moments.
        skewness: largest standardised third cumulant of what this non-linearity bends, by ``cumulant``; else None.
        excess: largest standardised fourth cumulant, likewise.
    """

    node: str
    place: str
    variance: float
    relative: float
    innovation_share: float
    grade: Grade
    skewness: float | None = None
    excess: float | None = None


@dataclass(frozen=True, eq=False)
class Moments(Displayed):
    """Mean and covariance of the outputs under Gaussian input noise.

    Attributes:
        mean: (B, K), units of the output.
        covariance: (B, K, K), units of the output squared.
        grade: reliability of both.
        method: the method that ran.
        reason: why this method was chosen.
        outputs: indices (B, K) of the outputs described, or None when all are.
        standard_error: (B, K) of the mean for sampled methods, else None.
        layers: noise per layer where the method walks the graph.
        warnings: what the reader must know.
        check: what sampling says, where it was asked for.
    """

    mean: Tensor
    covariance: Tensor
    grade: Grade
    method: str
    reason: str = ""
    outputs: Tensor | None = None
    standard_error: Tensor | None = None
    layers: tuple[LayerNoise, ...] = ()
    warnings: tuple[str, ...] = field(default=())
    check: Check | None = None

    @property
    def variance(self) -> Tensor:
        """(B, K)."""
        return self.covariance.diagonal(dim1=1, dim2=2)

    @property
    def std(self) -> Tensor:
        """(B, K)."""
        return safe_sqrt(self.variance)
