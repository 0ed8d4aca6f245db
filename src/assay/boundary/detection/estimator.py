"""The detector of one model as a scikit-learn outlier detector: for pipelines, cross-validation and searches."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from assay.attacks.target import Model
from assay.boundary.detection.combination import Combination
from assay.boundary.detection.detector import Detector
from assay.boundary.detection.parameters import Parameters, Refused, not_fitted
from assay.boundary.field import Field

CLEAN, TAMPERED = 1, -1


class OutlierDetector(Parameters):
    """`Detector` in scikit-learn's form: the model is an argument of the constructor, and `fit` takes samples alone.

    `Detector.fit` takes the model, because calibration belongs to it; scikit-learn's tools call fit(X, y). Signs are
    scikit-learn's too: `predict` gives 1 for clean and -1 for tampered, `decision_function` is positive for clean.
    With a model that takes rows of any length, `sklearn.utils.estimator_checks.check_estimator` passes but for two
    checks: one sample holds no false-positive rate, and entries that are no numbers raise a ValueError, no TypeError.
    It does not apply to other models, which take inputs of one shape only, often with more than two axes.

    Args:
        model: a module, a Subject, a function (B, ...) -> (B, K), or a Field. Clones share it.
        detector: its settings; None for the defaults.
        shape: of one input, where samples come as rows of numbers, as from scikit-learn's transformers.

    Attributes:
        detector_: the fitted `Detector`, after `fit`.
        n_features_in_: numbers per sample, after `fit`.

    Example:
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import FunctionTransformer
        >>> def model(x):
        ...     return torch.stack([x[:, 0] * 0, x[:, 0] - 1 - 0.05 * x[:, 1:].square().sum(1)], 1)
        >>> x = np.array([[0.0, 0, 0, 0, 0], [1.02, 0, 0, 0, 0]])
        >>> outliers = OutlierDetector(model, Detector(threshold=0.0))
        >>> make_pipeline(FunctionTransformer(), outliers).fit(x[:1]).predict(x)
        array([ 1, -1])
    """

    _kind = "outlier_detector"

    def __init__(
        self, model: Model | Field, detector: Detector | None = None, *, shape: tuple[int, ...] | None = None
    ) -> None:
        self.model, self.detector, self.shape = model, detector, shape
        self._fitted: Detector | None = None

    def fit(self, X: np.ndarray | Tensor, y: Any = None) -> Self:
        """Calibrate on clean samples.

        Args:
            X: (N, ...) samples.
            y: (N,) 1 for clean and -1 for tampered ones, which only a combination learns from; None: all are clean.

        Returns:
            Itself.

        Raises:
            Refused: for samples or settings that cannot be used.
        """
        x = self._inputs(X, known=False)
        clean = np.ones(len(x), bool) if y is None else np.asarray(y) != TAMPERED
        if not clean.any():
            raise Refused("There is no clean sample.", where="y", advice="Clean samples have y = 1.")
        detector = (self.detector or Detector()).copied()
        rows = torch.from_numpy(clean)
        learns = isinstance(detector.combination, Combination) and bool((~rows).any())
        self._fitted = detector.fit(self.model, x[rows], x[~rows] if learns else None)
        self._features = x[0].numel()
        return self

    @property
    def detector_(self) -> Detector:
        """The fitted detector."""
        if self._fitted is None:
            raise not_fitted("OutlierDetector", "Call fit(X).")
        return self._fitted

    @property
    def n_features_in_(self) -> int:
        """Numbers per sample."""
        if self._fitted is None:
            raise not_fitted("OutlierDetector", "Call fit(X).")
        return self._features

    @property
    def offset_(self) -> float:
        """`decision_function` is `score_samples` less this."""
        return -self.detector_.calibrated_threshold

    def score_samples(self, X: np.ndarray | Tensor) -> np.ndarray:
        """(N,) how inconspicuous samples are: the detector's score with its sign turned, lowest for what stands out.

        Returns:
            Finite numbers; what cannot be measured counts as clean, and is as high as the highest.
        """
        score = -self.detector_.score(self._inputs(X)).numpy()
        known = score[np.isfinite(score)]
        return np.where(np.isnan(score), known.max() if known.size else 0.0, score)

    def decision_function(self, X: np.ndarray | Tensor) -> np.ndarray:
        """(N,) positive for clean samples, negative for those that are flagged."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: np.ndarray | Tensor) -> np.ndarray:
        """(N,) 1 for clean, which is no proof, and -1 for flagged samples."""
        return np.where(self.detector_.predict(self._inputs(X)).numpy(), TAMPERED, CLEAN)

    def fit_predict(self, X: np.ndarray | Tensor, y: Any = None) -> np.ndarray:
        """`fit`, then `predict` on the same samples, some of which calibration flags by intent."""
        return self.fit(X, y).predict(X)

    def _inputs(self, X: Any, known: bool = True) -> Tensor:
        """Samples as the model takes them, checked as scikit-learn does."""
        if not isinstance(X, Tensor):
            from sklearn.utils import check_array

            try:
                array = check_array(X, allow_nd=True, input_name="X", estimator=self)
            except (TypeError, ValueError) as error:
                raise Refused(str(error), where="X", advice="Give numbers (N, ...), one row per sample.") from error
            X = torch.from_numpy(np.ascontiguousarray(array))
        x = X if X.is_floating_point() else X.double()
        if known and x[0].numel() != self.n_features_in_:
            expected = f"OutlierDetector is expecting {self.n_features_in_} features as input"
            raise Refused(
                f"X has {x[0].numel()} features, but {expected}.",
                where="X",
                advice="Give samples like those of fit.",
            )
        return x if self.shape is None else x.reshape(-1, *self.shape)

    def __sklearn_is_fitted__(self) -> bool:
        return self._fitted is not None
