"""What a forensic examination hands back."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from assay.grade import Grade
from assay.results import Displayed
from assay.smoothness.evidence.confounders import Caveat
from assay.smoothness.evidence.statistic import KinkEnergy

Verdict = Literal["kinks", "no evidence of kinks", "refused"]
SCOPE = (
    "This detects kinks, not neural networks: cuts, contacts, key frames and clipped sensors have kinks too, networks "
    "with smooth activations (SiLU, GELU, tanh) and average pooling have none, and smoothing a track removes them."
)


@dataclass(frozen=True, eq=False)
class TrackEvidence:
    """One track.

    Attributes:
        name: of the track.
        verdict: for this track by its own p-value, not corrected for the number of tracks.
        energy: what was measured; None for a track that could not be.
        p_value: NaN for a track that was not tested.
        adjusted: Holm's adjusted p-value among the tracks tested.
        power: probability of finding kinks that make a quarter of the track's curvature, where it was needed.
        reason: why the verdict was refused, else empty.
        caveats: rival explanations found.
    """

    name: str
    verdict: Verdict
    energy: KinkEnergy | None
    p_value: float
    adjusted: float
    power: float
    reason: str
    caveats: tuple[Caveat, ...]


@dataclass(frozen=True, eq=False)
class Forensics(Displayed):
    """Whether tracks that were recorded together have kinks.

    Attributes:
        statistic: kink share between 0 and 1, of the single track or of all tracks jointly; NaN when none was usable.
        interval: 95 % interval of the share for a single track, the range over tracks for several.
        p_value: for "no kinks"; NaN when refused before a test.
        verdict: ``kinks``, ``no evidence of kinks`` or ``refused``.
        reason: why it was refused, else empty.
        method: ``conformal``, ``spline bootstrap`` or empty.
        rule: how several tracks were combined, in words; empty for one.
        power: probability of finding kinks that make a quarter of the curvature; NaN where it was not needed.
        level: of the test.
        tracks: one item per track.
        caveats: sentences on everything that limits the verdict, what the test detects first.
        step: time between samples.
        grade: statistical.
    """

    statistic: float
    interval: tuple[float, float]
    p_value: float
    verdict: Verdict
    reason: str
    method: str
    rule: str
    power: float
    level: float
    tracks: tuple[TrackEvidence, ...]
    caveats: tuple[str, ...]
    step: float
    grade: Grade = Grade.STATISTICAL

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON; what is not known is None."""
        return _plain(asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
