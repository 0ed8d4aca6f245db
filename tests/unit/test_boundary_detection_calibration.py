"""Thresholds, p-values and areas: guarantees by counting, intervals against formulas and simulation."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from assay.boundary.detection import auc, auc_difference, conformal_p_value, threshold_at
from assay.errors import UsageError


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("count", [99, 100, 137, 199])
def test_scores_above_the_threshold_are_those_with_a_small_p_value(rate: float, count: int):
    clean = np.round(normal(0, count), 1)  # with ties
    scores = np.concatenate([clean, np.linspace(-4, 4, 81)])
    assert np.array_equal(scores > threshold_at(clean, rate), conformal_p_value(scores, clean) <= rate + 1e-12)


def test_p_values_are_ranks():
    clean = np.array([3.0, 1.0, 2.0, 2.0])
    assert conformal_p_value(np.array([0.0, 1.0, 2.0, 2.5, 3.0, 9.0]), clean).tolist() == [1, 1, 0.8, 0.4, 0.4, 0.2]
    assert np.isnan(conformal_p_value(np.array([np.nan]), clean)).all()


def test_the_p_value_of_a_clean_sample_is_uniform():
    # Exchangeable: the rank of the last among n + 1 is uniform, so P(p <= k / (n + 1)) is k / (n + 1) exactly.
    draws = normal(1, 20000, 20)
    p = np.array([conformal_p_value(row[:1], row[1:])[0] for row in draws])
    for k in range(1, 20):
        share = (p <= k / 20 + 1e-12).mean()
        assert abs(share - k / 20) < 4.5 * np.sqrt(0.25 / 20000)  # false alarm 1e-5


@pytest.mark.parametrize(("count", "rate"), [(18, 0.05), (8, 0.1), (98, 0.01)])
def test_too_few_clean_samples_are_refused(count: int, rate: float):
    with pytest.raises(UsageError, match=f"{count} clean samples"):
        threshold_at(np.arange(float(count)), rate)
    assert threshold_at(np.arange(count + 1.0), rate) == count


def test_scores_that_are_no_numbers_are_refused():
    for scores in (np.array([]), np.array([1.0, np.nan]), np.array([np.inf])):
        with pytest.raises(UsageError, match="no finite numbers"):
            threshold_at(scores, 0.5)
        with pytest.raises(UsageError, match="no finite numbers"):
            auc(np.arange(3.0), scores)
    with pytest.raises(UsageError, match="between 0 and 1"):
        threshold_at(np.arange(3.0), 1.0)


def brute(clean: np.ndarray, tampered: np.ndarray) -> tuple[float, float]:
    """Area and DeLong's variance, pair by pair."""
    wins = (tampered[None] > clean[:, None]) + 0.5 * (tampered[None] == clean[:, None])
    return wins.mean(), wins.mean(1).var(ddof=1) / len(clean) + wins.mean(0).var(ddof=1) / len(tampered)


def test_areas_agree_with_counting_and_with_sklearn():
    clean, tampered = np.round(normal(2, 60), 1), np.round(normal(3, 45) + 0.8, 1)
    found = auc(clean, tampered)
    area, variance = brute(clean, tampered)
    assert found.value == pytest.approx(area, abs=1e-12)
    labels, scores = np.repeat([0, 1], [60, 45]), np.concatenate([clean, tampered])
    assert found.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    reach = 1.959963985 * np.sqrt(variance) / (area * (1 - area))
    assert np.log(found.high / (1 - found.high)) == pytest.approx(np.log(area / (1 - area)) + reach, abs=1e-8)
    assert np.log(found.low / (1 - found.low)) == pytest.approx(np.log(area / (1 - area)) - reach, abs=1e-8)
    turned = auc(tampered, clean)
    assert turned.low == pytest.approx(1 - found.high)


def test_areas_do_not_change_with_the_scale_of_scores():
    clean, tampered = normal(4, 30), normal(5, 30) + 1
    assert auc(np.exp(clean), np.exp(tampered)) == auc(clean, tampered)


def test_perfect_separation_keeps_an_open_interval():
    found = auc(np.arange(20.0), np.arange(30.0, 50.0))
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.8 < found.low < 0.95
    assert auc(np.arange(200.0), np.arange(300.0, 500.0)).low > 0.97
    upside_down = auc(np.arange(30.0, 50.0), np.arange(20.0))
    assert (upside_down.value, upside_down.low) == (0.0, 0.0)
    assert upside_down.high == pytest.approx(1 - found.low)
    assert auc(np.zeros(5), np.zeros(7)).value == 0.5
    assert auc(np.zeros(1), np.ones(1)).low < 0.3


@pytest.mark.parametrize("shift", [0.5, 1.5, 2.5])
def test_intervals_cover_the_true_area(shift: float):
    from scipy.stats import norm

    truth, trials = norm.cdf(shift / np.sqrt(2)), 600
    covered = 0
    for seed in range(trials):
        found = auc(normal(10 + seed, 40), normal(5000 + seed, 40) + shift)
        covered += found.low <= truth <= found.high
    assert 0.915 < covered / trials < 0.985  # 0.95 with a standard deviation of 0.009


def test_the_difference_of_two_areas_agrees_with_a_bootstrap():
    common, extra = normal(6, 100), normal(7, 100)
    label = np.arange(100) >= 50
    first, second = common + extra + 1.5 * label, common + 0.5 * normal(8, 100) + 0.8 * label
    found = auc_difference((first[:50], first[50:]), (second[:50], second[50:]))
    assert found.value == pytest.approx(brute(first[:50], first[50:])[0] - brute(second[:50], second[50:])[0])
    generator, draws = np.random.default_rng(9), []
    for _ in range(2000):
        one, two = generator.integers(0, 50, 50), generator.integers(50, 100, 50)
        draws.append(brute(first[one], first[two])[0] - brute(second[one], second[two])[0])
    assert (found.high - found.low) / (2 * 1.96 * np.std(draws)) == pytest.approx(1, abs=0.1)
    same = auc_difference((first[:50], first[50:]), (first[:50], first[50:]))
    assert (same.value, same.low, same.high) == (0, 0, 0)
    with pytest.raises(UsageError, match="same samples"):
        auc_difference((first[:50], first[50:]), (second[:49], second[50:]))


def test_a_wider_level_gives_a_wider_interval():
    clean, tampered = normal(20, 30), normal(21, 30) + 1
    found = [auc(clean, tampered, level=level) for level in (0.5, 0.9, 0.99)]
    assert all(one.low > two.low and one.high < two.high for one, two in itertools.pairwise(found))
