"""How well a detector does: areas under ROC curves, flagged shares and recovered labels, per attack and size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from assay.boundary.detection.calibration import Area, auc, auc_difference, threshold_at
from assay.boundary.detection.detector import Detector
from assay.boundary.detection.recovery import RULES, recovered
from assay.boundary.detection.statistics import STATISTICS
from assay.boundary.detection.view import View
from assay.brief import Brief
from assay.errors import UsageError
from assay.intervals import wilson
from assay.results import Displayed


@dataclass(frozen=True, eq=False)
class Tampered(Brief):
    """A set to test a detector on.

    Attributes:
        x: (N, ...) samples.
        original: (N,) class before; only samples that are decided otherwise now count as tampered. None for benign
            changes such as noise, which a detector should not flag: then all samples count.
        attack: what was done.
        size: how much of it, in the attack's own unit.

    Example:
        >>> import torch
        >>> Tampered(torch.zeros(3, 2), attack="noise", size=0.1).benign
        True
    """

    x: Tensor
    original: Tensor | None = None
    attack: str = ""
    size: float = math.nan

    @property
    def benign(self) -> bool:
        """Whether this is a control that should not be flagged."""
        return self.original is None


@dataclass(frozen=True)
class Share:
    """A share of samples with its Wilson interval of 95 %; NaN where there were none."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, hits: Tensor | np.ndarray) -> Share:
        """The share of true entries."""
        count = len(hits)
        if not count:
            return cls(math.nan, math.nan, math.nan)
        value = float(hits.sum()) / count
        return cls(value, *wilson(value, count))


@dataclass(frozen=True)
class Evaluation(Displayed):
    """One statistic on one set.

    Attributes:
        statistic: whose scores.
        set: name of the set; ``clean`` for held-out clean samples.
        attack: what was done to it.
        size: how much.
        benign: whether flagging it is an error.
        samples: that count: decided otherwise than before (all, where benign).
        unmeasured: of them without a score; they count as not flagged and are left out of the area.
        area: under the ROC curve against the held-out clean samples; None for those themselves, or where nothing could
            be measured.
        flagged: share above the threshold: true positives, or false ones where benign.
        recovered: share whose class before was named; None where benign.
        best_single: for a combination, the single statistic with the largest area on this very set.
        lead: area of the combination less that of `best_single`, with its interval.
    """

    statistic: str
    set: str
    attack: str
    size: float
    benign: bool
    samples: int
    unmeasured: int
    area: Area | None
    flagged: Share
    recovered: Share | None
    best_single: str = ""
    lead: Area | None = None


class Evaluations(Displayed, list[Evaluation]):
    """The rows of `evaluate`, shown as one table."""


def evaluate(
    detector: Detector, x_clean: Tensor, sets: Mapping[str, Tampered | tuple[Tensor, Tensor]], *, level: float = 0.95
) -> Evaluations:
    """Compare a detector with every single statistic, on clean samples it has not seen and on tampered sets.

    Every statistic has its own threshold, calibrated to the detector's false-positive rate on the same clean samples.
    `lead` compares a combination with whichever single statistic is best on that set, chosen with hindsight: a
    standard that no single statistic meets on all sets.

    Args:
        detector: fitted.
        x_clean: (N, ...) clean samples it was not fitted on.
        sets: tampered samples by name, or pairs (samples, classes before).
        level: of the intervals of areas.

    Returns:
        Rows, set by set, the detector's own statistic first; the clean samples make the first set.

    Raises:
        UsageError: for a set of samples none of which changed class.

    Example:
        >>> import torch
        >>> def model(x):
        ...     return torch.stack([x[:, 0] * 0, x[:, 0] - 1 - 0.05 * x[:, 1:].square().sum(1)], 1)
        >>> x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 10
        >>> pushed = x[20:] + torch.eye(5, dtype=torch.float64)[0] * 1.4
        >>> rows = evaluate(Detector().fit(model, x[:20]), x[20:], {"pushed": (pushed, torch.zeros(20).long())})
        >>> [(row.statistic, row.area.value, row.recovered.value) for row in rows if row.set == "pushed"][0]
        ('kappa_at_boundary', 1.0, 1.0)
    """
    clean = detector.view(x_clean)
    ours = {name: detector.measure(clean, name) for name in detector.names}
    thresholds = {name: _threshold(detector, name) for name in detector.names}
    rows = Evaluations(
        Evaluation(name, "clean", "", 0.0, True, len(each), _missing(each), None, _above(each, thresholds[name]), None)
        for name, each in ours.items()
    )
    for title, given in sets.items():
        tampered = given if isinstance(given, Tampered) else Tampered(*given, attack=title)
        view, original = _counted(detector, title, tampered)
        theirs = {name: detector.measure(view, name) for name in detector.names}
        areas = {name: _area(ours[name], theirs[name], level) for name in detector.names}
        right = None
        if original is not None:
            right = Share.of((detector.recover_labels(view).cpu() == original).numpy())
        for name, each in theirs.items():
            best, lead = "", None
            if name not in STATISTICS:
                best, lead = _lead(name, ours, theirs, areas, level)
            rows.append(
                Evaluation(
                    statistic=name,
                    set=title,
                    attack=tampered.attack or title,
                    size=tampered.size,
                    benign=tampered.benign,
                    samples=len(each),
                    unmeasured=_missing(each),
                    area=areas[name],
                    flagged=_above(each, thresholds[name]),
                    recovered=right,
                    best_single=best,
                    lead=lead,
                )
            )
    return rows


def recovery_rates(
    detector: Detector, sets: Mapping[str, Tampered | tuple[Tensor, Tensor]]
) -> dict[str, dict[str, Share]]:
    """Share of tampered samples whose class before is named, by every rule.

    Args:
        detector: fitted.
        sets: as in `evaluate`; benign sets are left out.

    Returns:
        Per set, per rule.
    """
    found = {}
    for title, given in sets.items():
        tampered = given if isinstance(given, Tampered) else Tampered(*given, attack=title)
        view, original = _counted(detector, title, tampered)
        if original is not None:
            found[title] = {rule: Share.of((recovered(view, rule).cpu() == original).numpy()) for rule in RULES}
    return found


def _counted(detector: Detector, title: str, tampered: Tampered) -> tuple[View, Tensor | None]:
    """The samples of a set that count, and what they were."""
    view = detector.view(tampered.x)
    if tampered.original is None:
        return view, None
    changed = view.own.cpu() != tampered.original.cpu()
    if not bool(changed.any()):
        raise UsageError(
            f"No sample of {title!r} changed class.", where="sets", advice="Give larger changes, or leave the set out."
        )
    return detector.view(tampered.x[changed]), tampered.original.cpu()[changed]


def _threshold(detector: Detector, name: str) -> float:
    if name == detector.statistic:
        return detector.calibrated_threshold
    clean = detector.clean_scores(name)
    rate = detector.false_positive_rate
    return threshold_at(clean, rate) if len(clean) >= 1 / rate - 1 else math.nan  # a threshold by hand needs no sample


def _area(clean: np.ndarray, tampered: np.ndarray, level: float) -> Area | None:
    clean, tampered = (each[np.isfinite(each)] for each in (clean, tampered))
    return auc(clean, tampered, level=level) if len(clean) and len(tampered) else None


def _lead(
    name: str,
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
    areas: Mapping[str, Area | None],
    level: float,
) -> tuple[str, Area | None]:
    singles = {single: area.value for single, area in areas.items() if single in STATISTICS and area is not None}
    if not singles or areas[name] is None:
        return "", None
    best = max(singles, key=lambda single: singles[single])
    pairs = []
    for scores in (ours, theirs):
        both = np.isfinite(scores[name]) & np.isfinite(scores[best])
        pairs.append((scores[name][both], scores[best][both]))
    return best, auc_difference((pairs[0][0], pairs[1][0]), (pairs[0][1], pairs[1][1]), level=level)


def _above(scores: np.ndarray, threshold: float) -> Share:
    return Share(*[math.nan] * 3) if math.isnan(threshold) else Share.of(scores > threshold)


def _missing(scores: np.ndarray) -> int:
    return int((~np.isfinite(scores)).sum())
