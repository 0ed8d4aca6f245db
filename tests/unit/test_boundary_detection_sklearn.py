"""The detector among scikit-learn's tools: parameters, clones, pipelines, cross-validation, its own checks."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted

from assay.boundary import Combination, Detector, OutlierDetector
from assay.errors import UsageError


def bent(x: torch.Tensor) -> torch.Tensor:
    """Class 1 begins at x0 = 1 + 0.05 |rest|^2: samples pushed into it see a boundary that comes towards them."""
    return torch.stack([x[:, 0] * 0, x[:, 0] - 1 - 0.05 * x[:, 1:].square().sum(1)], 1)


def of_any_width(x: torch.Tensor) -> torch.Tensor:
    total = x.flatten(1).sum(1)
    return torch.stack([total, 0.1 * x.flatten(1).square().sum(1) - total], 1)


def samples(clean: int = 60, pushed: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """(N, 5) samples, and 1 for clean, -1 for those just across the boundary."""
    draws = np.random.default_rng(0)
    x = 0.3 * draws.standard_normal((clean, 5))
    across = 0.3 * draws.standard_normal((pushed, 5))
    across[:, 0] = 1.02 + 0.05 * (across[:, 1:] ** 2).sum(1)
    return np.concatenate([x, across]), np.repeat([1, -1], [clean, pushed])


def quick(**settings: object) -> Detector:
    return Detector(**{"probes": 8, "refine": False, "false_positive_rate": 0.1} | settings)  # pyright: ignore[reportArgumentType]


def test_parameters_are_read_and_set():
    detector = Detector("drift", probes=8)
    assert detector.get_params()["probes"] == 8
    assert detector.set_params(probes=12, statistic="logit_gap") is detector
    assert (detector.probes, detector.statistic) == (12, "logit_gap")
    with pytest.raises(UsageError, match="no parameter 'probs'"):
        detector.set_params(probs=3)
    with pytest.raises(UsageError, match="probes=1"):
        detector.set_params(probes=1)


def test_parameters_of_a_combination_are_reached_through_the_detector():
    detector = Detector(Combination(("drift", "logit_gap")))
    assert detector.get_params()["statistic__components"] == ("drift", "logit_gap")
    detector.set_params(statistic__seed=3)
    assert isinstance(detector.combination, Combination)
    assert detector.combination.seed == 3
    assert "statistic__seed" not in detector.get_params(deep=False)


def test_shown_as_the_code_that_makes_it():
    assert repr(Detector()) == "Detector()"
    assert repr(Detector("drift", probes=8)) == "Detector(statistic='drift', probes=8)"
    assert repr(Combination(("drift",), seed=1)) == "Combination(components=('drift',), seed=1)"


def test_clones_have_the_settings_and_nothing_learned():
    x, _ = samples()
    fitted = quick(statistic=Combination(("drift", "logit_gap"))).fit(bent, torch.from_numpy(x[:60]))
    copy = clone(fitted)
    assert copy.get_params(deep=False).keys() == fitted.get_params(deep=False).keys()
    assert copy.probes == 8
    assert copy.combination is not fitted.combination
    with pytest.raises(NotFittedError):
        check_is_fitted(copy)
    check_is_fitted(fitted)


def test_setting_a_parameter_forgets_what_was_learned():
    x, _ = samples()
    detector = quick().fit(bent, torch.from_numpy(x[:60]))
    assert detector.n_features_in_ == 5
    detector.set_params(seed=1)
    assert not hasattr(detector, "n_features_in_")


@pytest.mark.parametrize("ask", ["score", "predict", "examine", "decision_function", "score_samples", "recover_labels"])
def test_not_fitted_is_told_in_both_languages(ask: str):
    with pytest.raises(NotFittedError) as told:
        getattr(Detector(), ask)(torch.zeros(1, 5))
    assert isinstance(told.value, UsageError)
    assert told.value.advice == "Call fit(model, x_clean)."
    with pytest.raises(NotFittedError):
        OutlierDetector(bent).predict(np.zeros((1, 5)))


def test_signs_are_scikit_learns():
    x, y = samples()
    detector = quick().fit(bent, torch.from_numpy(x[y == 1]))
    every = torch.from_numpy(x)
    assert torch.equal(detector.score_samples(every), -detector.score(every))
    decided = detector.decision_function(every)
    assert torch.equal(decided < 0, detector.predict(every))
    outliers = OutlierDetector(bent, quick()).fit(x, y)
    np.testing.assert_allclose(outliers.decision_function(x), decided.numpy())
    np.testing.assert_allclose(outliers.decision_function(x), outliers.score_samples(x) - outliers.offset_)
    assert set(outliers.predict(x)) == {1, -1}
    assert np.array_equal(outliers.predict(x) == -1, decided.numpy() < 0)


def test_tampered_samples_do_not_calibrate():
    x, y = samples()
    alone = OutlierDetector(bent, quick()).fit(x[y == 1])
    together = OutlierDetector(bent, quick()).fit(x, y)
    assert alone.offset_ == together.offset_


def test_a_combination_learns_from_tampered_samples():
    x, y = samples()
    together = OutlierDetector(bent, quick(statistic=Combination(("drift", "logit_gap")))).fit(x, y)
    assert isinstance(together.detector_.combination, Combination)
    assert together.detector_.combination.learned


def test_works_in_a_pipeline_and_under_cross_validation():
    x, y = samples()
    line = make_pipeline(FunctionTransformer(), OutlierDetector(bent, quick()))
    assert line.fit(x[y == 1]).predict(x).shape == (80,)
    areas = cross_val_score(line, x, y, scoring="roc_auc", cv=StratifiedKFold(2, shuffle=True, random_state=0))
    assert areas.min() > 0.95
    worse = cross_val_score(
        OutlierDetector(lambda z: bent(-z), quick()), x, y, scoring="roc_auc", cv=StratifiedKFold(2)
    )
    assert worse.max() < areas.min()


def test_a_search_finds_the_better_statistic():
    x, y = samples()
    search = GridSearchCV(
        OutlierDetector(bent, quick()),
        {"detector__statistic": ["kappa_at_boundary", "kappa_at_sample"]},
        scoring="roc_auc",
        cv=StratifiedKFold(2, shuffle=True, random_state=0),
    ).fit(x, y)
    assert search.best_score_ == max(search.cv_results_["mean_test_score"])
    assert search.best_estimator_.detector_.statistic == search.best_params_["detector__statistic"]


def test_rows_become_pictures_where_a_shape_is_given():
    def pictures(z: torch.Tensor) -> torch.Tensor:
        assert z.shape[1:] == (1, 5)
        return bent(z.flatten(1))

    x, y = samples()
    outliers = OutlierDetector(pictures, quick(), shape=(1, 5)).fit(x[y == 1])
    assert outliers.n_features_in_ == 5
    np.testing.assert_allclose(
        outliers.score_samples(x), OutlierDetector(bent, quick()).fit(x[y == 1]).score_samples(x)
    )


def test_the_model_is_shared_by_clones():
    outliers = OutlierDetector(bent, quick())
    copy = clone(outliers)
    assert copy.model is bent
    assert copy.detector is not outliers.detector


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks():
    refused = {
        "check_fit2d_1sample": "one sample holds no false-positive rate",
        "check_dtype_object": "told by a ValueError, where a TypeError is expected",
    }
    estimator = OutlierDetector(of_any_width, quick(statistic="logit_gap", probes=4))
    outcomes = check_estimator(estimator, expected_failed_checks=refused, on_skip=None)
    assert {each["check_name"] for each in outcomes if each["status"] == "xfail"} == set(refused)
    assert sum(each["status"] == "passed" for each in outcomes) >= 40
