"""Was this sample tampered with, and what was it before?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from inspect import signature
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from assay.attacks.target import Model
from assay.boundary.detection.calibration import conformal_p_value, threshold_at
from assay.boundary.detection.combination import Combination
from assay.boundary.detection.parameters import Parameters, not_fitted
from assay.boundary.detection.recovery import RULES, recovered
from assay.boundary.detection.result import Detection
from assay.boundary.detection.statistics import STATISTICS
from assay.boundary.detection.view import Look, View
from assay.boundary.field import Field, field_of
from assay.errors import UsageError

COMBINATION = "combination"


class Detector(Parameters):
    """Tell samples that a small search pushed across the decision boundary from clean ones, and name their class.

    Boundaries of trained networks bend away from clean samples; one that was pushed across sees the same bend from the
    other side (Fawzi, Moosavi-Dezfooli, Frossard, Soatto 2018). The threshold is calibrated on clean samples, to a
    false-positive rate. It helps against small perturbations by attackers who do not know of it; `evade` is one who
    does. Fewer dimensions than some hundreds, and smooth activations, leave little to see: compare with the baselines.

    Args:
        statistic: a name in `STATISTICS`, ``combination``, or a `Combination`.
        false_positive_rate: share of clean samples that may be flagged.
        threshold: of the score, instead of a calibrated one; then any number of clean samples will do.
        scale: over which curvature is measured, in the units of the inputs. None: a tenth of the legal range (of that
            of the clean samples where none is known) in every element, sqrt(d) * 0.1 * range.
        smoothing: radius that logits are averaged over; None for twice the scale.
        probes: random directions per sample, each used in both senses.
        seed: of the directions, with the values of a sample: a sample's score does not depend on its batch.
        rule: by which classes are recovered, a name in `RULES`.
        refine: search the nearest boundary point rather than take the first one found.
        bounds: legal range that boundary points keep to; None for the boundary of the function itself.
        calibration_share: of the clean samples; a combination is fitted on the rest.
        batch_size: samples per pass; None chooses by memory.

    Raises:
        UsageError: for settings that are none.

    Settings are read and changed as in scikit-learn (`get_params`, `set_params`, `sklearn.base.clone`); `fit` takes the
    model first, so pipelines and cross-validation want `OutlierDetector`.

    Example:
        >>> def model(x):  # the region of class 1 is bent: samples of it see a boundary that comes towards them
        ...     return torch.stack([x[:, 0] * 0, x[:, 0] - 1 - 0.05 * x[:, 1:].square().sum(1)], 1)
        >>> x = torch.zeros(1, 5, dtype=torch.float64)
        >>> detector = Detector(threshold=0.0).fit(model, x)
        >>> pushed = torch.tensor([[1.02, 0, 0, 0, 0]], dtype=torch.float64)
        >>> detector.score(torch.cat([x, pushed])), detector.recover_labels(pushed)
        (tensor([-0.1000,  0.1000], dtype=torch.float64), tensor([0]))
        >>> detector
        Detector(threshold=0.0)
    """

    def __init__(
        self,
        statistic: str | Combination = "kappa_at_boundary",
        *,
        false_positive_rate: float = 0.05,
        threshold: float | None = None,
        scale: float | None = None,
        smoothing: float | None = None,
        probes: int = 60,
        seed: int = 0,
        rule: str = "smoothed_runner_up",
        refine: bool = True,
        bounds: tuple[float, float] | None = None,
        calibration_share: float = 0.5,
        batch_size: int | None = None,
    ) -> None:
        if isinstance(statistic, str) and statistic not in {*STATISTICS, COMBINATION}:
            raise UsageError(
                f"There is no statistic {statistic!r}.",
                where="statistic",
                advice=f"Use one of {', '.join(STATISTICS)}, {COMBINATION}, or a Combination.",
            )
        lengths = [length for length in (scale, smoothing) if length is not None]
        if any(not 0 < length < math.inf for length in lengths) or probes < 2 or rule not in RULES:
            raise UsageError(
                f"scale={scale}, smoothing={smoothing}, probes={probes}, rule={rule!r} cannot be used.",
                where="Detector",
                advice=f"Lengths are positive, probes at least 2, the rule one of {', '.join(RULES)}.",
            )
        if not 0 < false_positive_rate < 1 or not 0 < calibration_share < 1:
            raise UsageError(
                f"false_positive_rate={false_positive_rate}, calibration_share={calibration_share} are no shares.",
                where="Detector",
                advice="Both lie between 0 and 1.",
            )
        self._statistic = statistic
        self.combination = Combination(seed=seed) if statistic == COMBINATION else statistic
        self.statistic = statistic if isinstance(statistic, str) else COMBINATION
        self.false_positive_rate, self.threshold = false_positive_rate, threshold
        self.scale, self.smoothing, self.probes, self.seed = scale, smoothing, probes, seed
        self.rule, self.refine, self.bounds = rule, refine, bounds
        self.calibration_share, self.batch_size = calibration_share, batch_size
        self._seen_at_fit: tuple[Field, Look, View] | None = None
        self._clean: dict[str, np.ndarray] = {}
        self._threshold = math.nan

    def _given(self) -> Mapping[str, Any]:
        return {name: getattr(self, name) for name in signature(type(self)).parameters} | {"statistic": self._statistic}

    @property
    def names(self) -> tuple[str, ...]:
        """All that is scored: the chosen statistic first, then the others."""
        return (self.statistic, *(name for name in STATISTICS if name != self.statistic))

    def fit(self, model: Model | Field, x_clean: Tensor, x_tampered: Tensor | None = None) -> Self:
        """Calibrate on clean samples.

        Args:
            model: a module, a Subject, a function (B, ...) -> (B, K), or a Field.
            x_clean: (N, ...) samples like those to come, none of them tampered with.
            x_tampered: (M, ...) samples of a known attack, for a combination to learn from; see `Combination`.

        Returns:
            Itself.

        Raises:
            SubjectError: for inputs that the model does not take.
            UsageError: for too few clean samples, or tampered ones for a statistic that learns nothing.
        """
        field = field_of(model, batch_size=self.batch_size)
        x_clean = field.prepared(x_clean)
        look = self._looking(field, x_clean)
        combination, calibrating = self.combination, x_clean
        if isinstance(combination, Combination):
            order = torch.randperm(len(x_clean), generator=torch.Generator().manual_seed(self.seed))
            held = max(1, round(self.calibration_share * len(x_clean)))
            tampered = None if x_tampered is None else View(field, x_tampered, look)
            combination.fit(View(field, x_clean[order[held:]], look), tampered)
            calibrating = x_clean[order[:held]]  # a score must not be calibrated on what it was fitted on
        elif x_tampered is not None:
            raise UsageError(
                f"{self.statistic} learns nothing from tampered samples.",
                where="x_tampered",
                advice="Leave them out, or use statistic='combination'.",
            )
        self._seen_at_fit, self._clean = (field, look, View(field, calibrating, look)), {}
        if self.threshold is not None:
            self._threshold = self.threshold
        elif len(self.clean_scores()):
            self._threshold = threshold_at(self.clean_scores(), self.false_positive_rate)
        else:
            raise UsageError(
                f"{self.statistic} could be measured on no clean sample: no boundary point was found.",
                where="x_clean",
                advice="Check that the model decides more than one way near them, or use smoothed_margin.",
            )
        return self

    @property
    def n_features_in_(self) -> int:
        """Numbers per sample, after `fit`."""
        return self._known()[2].x[0].numel()

    @property
    def calibrated_threshold(self) -> float:
        """Scores above it are flagged."""
        _ = self.view_settings
        return self._threshold

    def clean_scores(self, name: str | None = None) -> np.ndarray:
        """Finite scores of the calibration samples by a statistic, the chosen one by default; measured when asked."""
        name = name or self.statistic
        if name not in self._clean:
            scores = self.measure(self._known()[2], name)
            self._clean[name] = scores[np.isfinite(scores)]
        return self._clean[name]

    @property
    def view_settings(self) -> tuple[Field, Look]:
        """The classifier and how it is looked at."""
        return self._known()[:2]

    def view(self, x: Tensor) -> View:
        """Samples (B, ...) as the statistics see them; whatever is measured once is kept there."""
        field, look = self.view_settings
        return View(field, x, look)

    def measure(self, view: View, name: str) -> np.ndarray:
        """(N,) scores by one of `names`, of samples seen by `view`."""
        return self._measure(view, name)[0].numpy()

    def score(self, x: Tensor | View) -> Tensor:
        """How suspicious samples are.

        Args:
            x: (N, ...) samples.

        Returns:
            (N,) float64, higher for those more likely tampered with; NaN where it cannot be measured. Grade: sampled.
        """
        return self._measure(self._seen(x), self.statistic)[0]

    def score_samples(self, x: Tensor | View) -> Tensor:
        """(N,) `score` with its sign turned: scikit-learn's outlier detectors are lowest where samples stand out."""
        return -self.score(x)

    def decision_function(self, x: Tensor | View) -> Tensor:
        """(N,) threshold less `score`: positive for samples that are not flagged, as in scikit-learn."""
        return self.calibrated_threshold - self.score(x)

    def predict(self, x: Tensor | View) -> Tensor:
        """(N,) bool: status is ``flagged``. False does not prove a sample clean."""
        view = self._seen(x)
        return (self.score(view) > self._threshold) & ~self._degenerate(view)

    def p_value(self, x: Tensor | View) -> Tensor:
        """(N,) conformal p-values against the clean samples: at most a with probability a for a clean sample."""
        return torch.from_numpy(conformal_p_value(self.score(x).cpu().numpy(), self.clean_scores()))

    def recover_labels(self, x: Tensor | View, *, rule: str | None = None) -> Tensor:
        """What samples were before, if they were tampered with.

        Args:
            x: (N, ...) samples.
            rule: a name in `RULES`; None for the detector's.

        Returns:
            (N,) int64 classes, never the predicted one; -1 where the statistic is degenerate or inconclusive.
        """
        view = self._seen(x)
        score, _ = self._measure(view, self.statistic)
        silent = self._degenerate(view) | ~torch.isfinite(score)
        return recovered(view, rule or self.rule).masked_fill(silent.to(view.own.device), -1)

    def examine(self, x: Tensor | View) -> Detection:
        """The verdict on every sample, with all baselines beside it.

        Args:
            x: (N, ...) samples.

        Returns:
            Scores, errors, statuses, p-values and recovered labels.
        """
        view = self._seen(x)
        _, look = self.view_settings
        measured = {name: self._measure(view, name) for name in self.names}
        score, error = measured[self.statistic]
        flat, known = self._degenerate(view).cpu(), torch.isfinite(score)
        status = [
            "degenerate" if bend else "inconclusive" if not number else "flagged" if above else "clean"
            for bend, number, above in zip(flat, known, score > self._threshold, strict=True)
        ]
        p_values = {
            name: torch.from_numpy(conformal_p_value(each.numpy(), self.clean_scores(name)))
            if len(self.clean_scores(name))
            else torch.full_like(each, torch.nan)
            for name, (each, _) in measured.items()
        }
        return Detection(
            statistic=self.statistic,
            score=score,
            error=error,
            threshold=self._threshold,
            status=tuple(status),
            p_value=p_values[self.statistic].masked_fill(flat | ~known, torch.nan),
            label=view.own,
            recovered=self.recover_labels(view),
            close=(score - self._threshold).abs() <= 2 * error,
            every={name: each for name, (each, _) in measured.items()},
            every_p_value=p_values,
            rule=self.rule,
            scale=look.scale,
            smoothing=look.smoothing,
            probes=look.probes,
            false_positive_rate=None if self.threshold is not None else self.false_positive_rate,
        )

    def _measure(self, view: View, name: str) -> tuple[Tensor, Tensor]:
        if name == COMBINATION and isinstance(self.combination, Combination):
            score = self.combination.score(view)
            return score, torch.full_like(score, torch.nan)
        score, error = STATISTICS[name].measure(view)
        return score.cpu(), error.cpu()

    def _degenerate(self, view: View) -> Tensor:
        flat = None if self.statistic == COMBINATION else STATISTICS[self.statistic].flat
        return torch.zeros(len(view.x), dtype=torch.bool) if flat is None else flat(view).cpu()

    def _seen(self, x: Tensor | View) -> View:
        return x if isinstance(x, View) else self.view(x)

    def __sklearn_is_fitted__(self) -> bool:
        return self._seen_at_fit is not None

    def _known(self) -> tuple[Field, Look, View]:
        if self._seen_at_fit is None:
            raise not_fitted("Detector", "Call fit(model, x_clean).")
        return self._seen_at_fit

    def _looking(self, field: Field, x_clean: Tensor) -> Look:
        low, high = field.bounds or (float(x_clean.min()), float(x_clean.max()))
        span = high - low if high > low else 1.0
        scale = self.scale or 0.1 * span * math.sqrt(x_clean[0].numel())
        return Look(
            scale=scale,
            smoothing=self.smoothing or 2 * scale,
            probes=self.probes,
            seed=self.seed,
            refine=self.refine,
            bounds=self.bounds,
        )
