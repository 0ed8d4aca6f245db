"""One score from all statistics: fitted to clean samples alone, or with one known attack as a further witness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from assay.boundary.detection.parameters import Parameters, not_fitted
from assay.boundary.detection.statistics import STATISTICS
from assay.boundary.detection.view import View
from assay.errors import UsageError

SHRINKAGE = 0.1  # of the correlations towards none
CLASS_PRIOR = 10  # samples that the pooled mean and deviation count for in those of a class
FOLDS = 5
LEAST = 2 * FOLDS  # samples of either kind


class Combination(Parameters):
    """Several statistics as one score: how far into their suspicious tails the components are together.

    Statistics that measure bends differ from class to class, so they are first standardised among the clean samples of
    the predicted class (as Roth, Kilcher, Hofmann 2019 do for log-odds); margins are taken as they are. Each component
    then becomes a normal score by its rank among clean samples (van der Waerden 1952). Only suspicious (positive)
    parts q count, and the score is q' R^-1 q with R their correlation on clean samples, shrunk: components that say
    the same count once. No tampered sample is needed, so no attack is learned by heart.

    With tampered samples of one attack, a logistic regression on the standardised statistics becomes one more
    component; the others keep watch for attacks it has not seen.

    Args:
        components: names of statistics.
        seed: of the folds by which the learned component is scored on its own training samples.

    Attributes:
        components: names of statistics.

    Example:
        >>> Combination(("drift", "logit_gap")).learned
        False
    """

    def __init__(self, components: Sequence[str] = tuple(STATISTICS), *, seed: int = 0) -> None:
        unknown = [name for name in components if name not in STATISTICS]
        if unknown or not components:
            raise UsageError(
                f"There are no statistics {', '.join(unknown) or '(none given)'}.",
                where="components",
                advice=f"Use some of {', '.join(STATISTICS)}.",
            )
        self.components = tuple(components)
        self.seed = seed
        self._fitted: _Fitted | None = None

    @property
    def learned(self) -> bool:
        """Whether tampered samples were given to `fit`."""
        return self._fitted is not None and self._fitted.witness is not None

    def fit(self, clean: View, tampered: View | None = None) -> Self:
        """Learn what clean samples look like.

        Args:
            clean: samples that are not used to calibrate the score afterwards.
            tampered: samples of a known attack; None to learn from clean samples alone.

        Returns:
            Itself.

        Raises:
            UsageError: for fewer than 10 samples of either kind.
        """
        for view, kind in ((clean, "clean"), (tampered, "tampered")):
            if view is not None and len(view.x) < LEAST:
                raise UsageError(
                    f"{len(view.x)} {kind} samples are too few to combine statistics.",
                    where=kind,
                    advice=f"Give {LEAST} or more; a hundred are better.",
                )
        bends = np.array([STATISTICS[name].flat is not None for name in self.components])
        measured, own = self._measured(clean), clean.own.cpu().numpy()
        mean, deviation = _by_class(measured, own, clean.offset.shape[1])
        standard = np.nan_to_num((measured - mean[own]) / deviation[own])
        columns, witness = np.where(bends, (measured - mean[own]) / deviation[own], measured), None
        if tampered is not None:
            theirs = tampered.own.cpu().numpy()
            others = np.nan_to_num((self._measured(tampered) - mean[theirs]) / deviation[theirs])
            witness, scores = _regression(standard, others, self.seed)
            columns = np.column_stack([columns, scores])
        ordered = np.sort(columns, axis=0)  # NaN sorts to the end
        scores = _normal_scores(columns, ordered)
        spread = scores.std(axis=0)
        scaled = (scores - scores.mean(axis=0)) / np.where(spread > 0, spread, 1)
        correlation = (1 - SHRINKAGE) * scaled.T @ scaled / len(scaled)
        np.fill_diagonal(correlation, 1)  # of a component that never moves, too
        self._fitted = _Fitted(bends, mean, deviation, ordered, np.linalg.inv(correlation), witness)
        return self

    def score(self, view: View) -> Tensor:
        """How suspicious samples are.

        Args:
            view: samples.

        Returns:
            (B,) float64, at least 0; NaN where no component could be measured.

        Raises:
            not_fitted: before `fit`.
        """
        fitted = self._fitted
        if fitted is None:
            raise not_fitted("Combination", "Fit it.")
        measured, own = self._measured(view), view.own.cpu().numpy()
        standard = (measured - fitted.mean[own]) / fitted.deviation[own]
        columns = np.where(fitted.bends, standard, measured)
        if fitted.witness is not None:
            columns = np.column_stack([columns, fitted.witness.decision_function(np.nan_to_num(standard))])
        suspicious = np.clip(_normal_scores(columns, fitted.ordered), 0, None)
        score = np.einsum("ij,jk,ik->i", suspicious, fitted.weights, suspicious)
        return torch.from_numpy(np.where(np.isnan(measured).all(axis=1), np.nan, score))

    def _measured(self, view: View) -> np.ndarray:
        return np.stack([STATISTICS[name].measure(view)[0].cpu().double().numpy() for name in self.components], axis=1)


@dataclass(frozen=True, eq=False)
class _Fitted:
    """What clean samples look like: m components, n samples, K classes; the witness may be one more component.

    Attributes:
        bends: (m,) components that are standardised.
        mean: (K, m) by predicted class.
        deviation: (K, m).
        ordered: (n, m or m + 1) sorted components.
        weights: inverse correlation of their normal scores.
        witness: classifier of standardised components, or None.
    """

    bends: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    ordered: np.ndarray
    weights: np.ndarray
    witness: Any


def _by_class(measured: np.ndarray, own: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (K, m) by predicted class, drawn towards those of all samples where a class has few."""
    known = np.isfinite(measured)
    filled = np.where(known, measured, 0)
    total = np.maximum(known.sum(axis=0), 1)
    mean = filled.sum(axis=0) / total
    variance = (np.where(known, measured - mean, 0) ** 2).sum(axis=0) / total
    member = (own[:, None] == np.arange(classes)).astype(float)
    count = member.T @ known + CLASS_PRIOR
    means = (member.T @ filled + CLASS_PRIOR * mean) / count
    squares = member.T @ (np.where(known, measured - means[own], 0) ** 2)
    variances = (squares + CLASS_PRIOR * variance) / count
    return means, np.sqrt(np.where(variances > 0, variances, 1))


def _normal_scores(columns: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Ranks among clean samples as normal quantiles, ties in the middle; 0, which is not suspicious, for NaN."""
    from scipy.stats import norm

    scores = np.zeros(columns.shape)
    for index, column in enumerate(columns.T):
        known = ordered[~np.isnan(ordered[:, index]), index]
        lower = (np.searchsorted(known, column, "left") + np.searchsorted(known, column, "right")) / 2
        scores[:, index] = np.where(np.isnan(column), 0, norm.ppf((lower + 0.5) / (len(known) + 1)))
    return scores


def _regression(clean: np.ndarray, tampered: np.ndarray, seed: int) -> tuple[Any, np.ndarray]:
    """A logistic regression, and its scores of the clean samples by models that have not seen them."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    model = LogisticRegression(class_weight="balanced", max_iter=5000)
    inputs = np.concatenate([clean, tampered])
    labels = np.repeat([0, 1], [len(clean), len(tampered)])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    scores = np.asarray(cross_val_predict(model, inputs, labels, cv=folds, method="decision_function"))
    return model.fit(inputs, labels), scores[: len(clean)]
