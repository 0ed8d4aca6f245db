"""Scores by hand, intervals against brute force and Monte Carlo, classes, and a whole sweep of the digits network."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import scipy.integrate
import torch
from tests.support.networks import digits, trained_mlp
from torch import Tensor, nn

from assay.attacks import attack_of, attacked, auto_epsilon, fgsm
from assay.errors import NumericalError, UsageError
from assay.filtering import (
    FILTERS,
    Baseline,
    Metric,
    Recording,
    UnitScores,
    distinct_masks,
    held_out_gain,
    is_degenerate,
    label_of,
    masks,
    metric_of,
    quadrature,
    score,
    select_units,
)
from assay.filtering.bootstrap import content_key, resampled_means
from assay.filtering.scores import performance
from assay.preprocess import Preprocessing
from assay.subject import Subject

LINE = np.linspace(1, 0, 5)


def counted(*correct: int, of: int) -> np.ndarray:
    """Rows with the first few samples right."""
    return np.arange(of) < np.array(correct)[:, None]


def random_recording(n: int = 5, samples: int = 200, seed: int = 0) -> tuple[Baseline, dict[str, Recording]]:
    draws = np.random.default_rng(seed)
    baseline = Baseline(draws.random(samples) < 0.9, draws.random(samples) < 0.5)
    recordings = {
        name: Recording(draws.random((n, samples)) < 0.6, draws.random((n, samples)) < 0.4, draws.random(n))
        for name in FILTERS
    }
    return baseline, recordings


def test_score_by_hand():
    p = counted(10, 10, 10, 5, 5, of=10)
    result = score({"high": Recording(p, None, np.array([0.8, 0.6, 0.4, 0.2, 0]))}, Baseline(np.ones(10, bool)))
    assert result.get("high", "clean", "unfiltered").score == pytest.approx(-0.2083333, abs=1e-7)
    assert result.get("high", "clean").score == pytest.approx(0.3916667, abs=1e-7)
    assert quadrature(5) @ p.mean(1) == pytest.approx(0.7916667, abs=1e-7)
    assert result.get("mean", "clean").score == result.get("high", "clean").score


@pytest.mark.parametrize("n", [3, 5, 25, 101])
@pytest.mark.parametrize("rule", ["simpson", "trapezoid", "mean"])
def test_quadrature(n, rule):
    y = np.random.default_rng(n).random(n)
    truth = {
        "simpson": scipy.integrate.simpson(y, dx=1 / (n - 1)),
        "trapezoid": scipy.integrate.trapezoid(y, dx=1 / (n - 1)),
        "mean": y.mean(),
    }
    assert quadrature(n, rule) @ y == pytest.approx(truth[rule], abs=1e-14)
    assert quadrature(n, rule).sum() == pytest.approx(1, abs=1e-14)  # a curve of 1 gives +1, whatever the filter


@pytest.mark.parametrize(
    ("n", "rule"), [(24, "simpson"), (2, "simpson"), (1, "trapezoid"), (0, "mean"), (25, "romberg")]
)
def test_quadrature_refuses(n, rule):
    with pytest.raises(UsageError):
        quadrature(n, rule)


@pytest.mark.parametrize("rule", ["simpson", "trapezoid", "mean"])
@pytest.mark.parametrize("normalise", ["unfiltered", "first"])
def test_scores_are_the_integrals(rule, normalise):
    baseline, recordings = random_recording()
    result = score(recordings, baseline, rule=rule, normalise=normalise)
    weights = quadrature(5, rule)
    total = dict.fromkeys(("clean", "adversarial", "difference"), 0.0)
    for name, recording in recordings.items():
        p = {}
        for split in ("clean", "adversarial"):
            base = baseline.split(split) if normalise == "unfiltered" else recording.split(split)[0]
            p[split] = recording.split(split).mean(1) / base.mean()
            for reference, left in (("compressed", recording.density), ("unfiltered", 1)):
                found = result.get(name, split, reference)
                assert found.score == pytest.approx(weights @ (p[split] - left), abs=1e-12)
                assert found.low <= found.score <= found.high
                assert found.label == label_of(found.low, found.high, 0.02)
            total[split] += result.get(name, split).score / 3
            assert performance(recording, baseline, split, normalise) == pytest.approx(p[split], abs=1e-15)
        for reference in ("compressed", "unfiltered"):
            difference = result.get(name, "difference", reference)
            parts = [result.get(name, split, reference).score for split in ("adversarial", "clean")]
            assert abs(difference.score - (parts[0] - parts[1])) < 1e-12
        total["difference"] += result.get(name, "difference").score / 3
    for split, value in total.items():
        assert result.get("mean", split).score == pytest.approx(value, abs=1e-12)
    assert len(result.rows) == 4 * 3 * 2


def test_a_dead_unit_scores_zero_exactly():
    baseline, recordings = random_recording(n=25)
    same = {
        name: Recording(np.tile(baseline.clean, (25, 1)), np.tile(baseline.adversarial, (25, 1)), r.density)
        for name, r in recordings.items()
    }
    result = score(same, baseline)
    for name in (*FILTERS, "mean"):
        for split in ("clean", "adversarial", "difference"):
            found = result.get(name, split, "unfiltered")
            assert (found.score, found.low, found.high, found.label) == (0.0, 0.0, 0.0, "robust")
        assert result.get(name, "difference").score == 0.0
    for name in FILTERS:
        left = quadrature(25) @ recordings[name].density
        assert result.get(name, "clean").score == pytest.approx(1 - left, rel=1e-9)


def test_intervals_are_those_of_the_resampled_scores():
    """The same resamples, scored one by one from the definition."""
    baseline, recordings = random_recording(samples=60)
    found = score(recordings, baseline, draws=200, seed=3)
    key = content_key(baseline.clean, baseline.adversarial, seed=3)
    counts = 60 * resampled_means(np.eye(60), 200, key)  # how often each sample was drawn
    drawn: dict[tuple[str, str], np.ndarray] = {}
    for name, recording in recordings.items():
        for split in ("clean", "adversarial"):
            p = (counts @ recording.split(split).T) / (counts @ baseline.split(split))[:, None]
            drawn[name, split] = (p - recording.density) @ quadrature(5)
        drawn[name, "difference"] = drawn[name, "adversarial"] - drawn[name, "clean"]
    for split in ("clean", "adversarial", "difference"):
        drawn["mean", split] = np.mean([drawn[name, split] for name in FILTERS], 0)
    for (name, split), values in drawn.items():
        row = found.get(name, split)
        assert (row.low, row.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-12)


def test_fixed_denominators_are_means_of_the_per_sample_form():
    baseline, recordings = random_recording(samples=60)
    found = score(recordings, baseline, draws=300, denominator="fixed")
    key = content_key(baseline.clean, baseline.adversarial, seed=0)
    recording = recordings["low"]
    z = {
        split: quadrature(5) @ (recording.split(split) / baseline.split(split).mean() - recording.density[:, None])
        for split in ("clean", "adversarial")
    }
    z["difference"] = z["adversarial"] - z["clean"]
    for split, values in z.items():
        row = found.get("low", split)
        assert row.score == pytest.approx(values.mean(), abs=1e-12)
        ends = np.quantile(resampled_means(values[:, None], 300, key)[:, 0], [0.025, 0.975])
        assert (row.low, row.high) == pytest.approx(tuple(ends), abs=1e-12)


@pytest.mark.parametrize("samples", [100, 400])
def test_intervals_cover(samples):
    """Truth known: samples from a population of pairs. 400 repetitions at 90 %: four standard errors are 6 points."""
    draws = np.random.default_rng(samples)
    weights, covered = quadrature(3), 0
    truth = float(weights @ np.array([0.85, 0.68, 0.51]) / 0.85 - weights @ np.array([1, 0.5, 0]))
    for _ in range(400):
        base = draws.random(samples) < 0.85
        filtered = np.stack([base, base & (draws.random(samples) < 0.8), base & (draws.random(samples) < 0.6)])
        row = score(
            {"high": Recording(filtered, None, np.array([1, 0.5, 0]))}, Baseline(base), level=0.9, draws=200
        ).get("high", "clean")
        covered += row.low <= truth <= row.high
    assert 0.84 <= covered / 400 <= 0.96


def test_resamples_follow_the_data_alone():
    baseline, recordings = random_recording()
    whole = score(recordings, baseline)
    state = np.random.get_state()[1].copy()
    alone = score({"low": recordings["low"]}, baseline)
    assert np.array_equal(np.random.get_state()[1], state)
    for split in ("clean", "adversarial", "difference"):
        one, other = whole.get("low", split), alone.get("low", split)
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-12)
        assert one.removed == other.removed
    assert score(recordings, baseline) == whole
    assert score(recordings, baseline, seed=1) != whole


def test_chunks_of_resamples_change_nothing(monkeypatch):
    columns = np.random.default_rng(0).random((50, 3))
    whole = resampled_means(columns, 40, b"k")
    monkeypatch.setattr("assay.filtering.bootstrap.CHUNK", 170)
    assert resampled_means(columns, 40, b"k") == pytest.approx(whole, abs=1e-15)
    assert abs(whole.mean(0) - columns.mean(0)).max() < 0.06


def test_labels():
    cases = {
        (-0.5, -0.021): "fragile",
        (-0.5, -0.02): "undecided",
        (-0.02, 0.02): "robust",
        (0.0, 0.0201): "undecided",
        (0.02, 0.5): "undecided",
        (0.021, 0.5): "antifragile",
        (-0.5, 0.5): "undecided",
        (-math.inf, math.inf): "undecided",
    }
    for ends, label in cases.items():
        assert label_of(*ends, 0.02) == label
    assert label_of(0.0, 0.0, 0.0) == "robust"


def test_filters_that_change_nothing_are_no_op_and_constant_units_degenerate():
    baseline = Baseline(np.ones(40, bool), counted(20, of=40)[0])
    same = np.ones((3, 40), bool), np.tile(baseline.adversarial, (3, 1))
    nothing, zeros = Recording(*same, np.ones(3)), Recording(*same, np.array([0.9, 0.5, 0.2]), np.zeros(3))
    step = Recording(*same, np.array([0.9, 0.5, 0.0]))
    result = score({"pulse": nothing, "low": zeros, "high": step}, baseline)
    assert {row.label for row in result.rows if row.filter in ("pulse", "low")} == {"no-op"}
    assert result.get("high", "clean", "unfiltered").label == "robust"
    assert result.get("mean", "clean", "unfiltered").label == "robust"
    assert result.get("pulse", "clean").removed == 0
    assert result.get("high", "clean").removed == pytest.approx(1 - 1.4 / 3)
    only = score({"pulse": nothing}, baseline)
    assert only.get("mean", "clean").label == "no-op"
    with np.errstate(all="raise"):
        rows = score({"high": step}, baseline, degenerate=True).rows
    assert all(math.isnan(row.score) and math.isnan(row.low) and row.label == "degenerate" for row in rows)


def test_an_attack_that_wins_everywhere_is_refused_with_advice():
    with pytest.raises(NumericalError) as caught:
        score(
            {"high": Recording(np.ones((3, 9)), np.zeros((3, 9)), np.ones(3))},
            Baseline(np.ones(9, bool), np.zeros(9, bool)),
        )
    assert "epsilon" in caught.value.advice
    with pytest.raises(NumericalError, match="clean performance"):
        score({"high": Recording(np.ones((3, 9)), None, np.ones(3))}, Baseline(np.zeros(9, bool)))


def test_few_correct_samples_are_told():
    p = Recording(counted(40, 20, 10, of=100), counted(29, 10, 0, of=100), np.array([0.9, 0.5, 0]))
    few = score({"high": p}, Baseline(counted(90, of=100)[0], counted(29, of=100)[0]))
    assert len(few.warnings) == 1
    assert "29 adversarial" in few.warnings[0]
    assert not score({"high": p}, Baseline(counted(90, of=100)[0], counted(30, of=100)[0])).warnings
    one = score({"high": p}, Baseline(counted(90, of=100)[0], counted(1, of=100)[0]))
    assert len(one.warnings) == 2
    assert one.get("high", "adversarial").label == "undecided"
    assert one.get("high", "adversarial").high == math.inf


def test_lower_is_better():
    """Twice the loss is half the performance."""
    loss = Recording(np.array([[1.0, 3.0], [2.0, 2.0], [4.0, 12.0]]), None, np.array([1, 0.5, 0]))
    baseline = Baseline(np.array([1.0, 3.0]), higher_is_better=False)
    assert performance(loss, baseline, "clean").tolist() == [1, 1, 0.25]
    result = score({"high": loss}, baseline, draws=500)
    row = result.get("high", "clean", "unfiltered")
    assert row.score == pytest.approx(-0.75 / 6)
    # resamples of two: both first (1, 2, 4), both second (3, 2, 12), or one of each
    ends = [(0 + 4 * (1 / 2 - 1) - 0.75) / 6, (0 + 4 * (3 / 2 - 1) - 0.75) / 6]
    assert (row.low, row.high) == pytest.approx(tuple(ends))
    fixed = score({"high": loss}, baseline, draws=500, denominator="fixed").get("high", "clean", "unfiltered")
    means = np.array([[1, 2, 4], [2, 2, 8], [3, 2, 12]])
    drawn = (2 / means - 1) @ quadrature(3)
    assert (fixed.low, fixed.high) == pytest.approx((drawn.min(), drawn.max()))
    with pytest.raises(NumericalError, match="error is not positive"):
        score({"high": Recording(np.array([[1.0], [0.0], [1.0]]), None, np.ones(3))}, Baseline(np.ones(1), None, False))


@pytest.mark.parametrize(
    "settings",
    [{"tau": -1}, {"level": 1.0}, {"draws": 0}, {"normalise": "last"}, {"denominator": "none"}, {"rule": "romberg"}],
)
def test_settings_out_of_range(settings):
    baseline, recordings = random_recording()
    with pytest.raises(UsageError):
        score(recordings, baseline, **settings)


def test_recordings_that_do_not_fit():
    baseline, recordings = random_recording()
    other = random_recording(samples=100)[1]
    for bad in (other, {}, {"mean": recordings["high"]}):
        with pytest.raises(UsageError):
            score(bad, baseline)
    with pytest.raises(UsageError, match="attacked"):
        score(recordings, Baseline(baseline.clean))
    for arguments in (
        (np.ones(3), None, np.ones(3)),
        (np.ones((3, 2)), np.ones((3, 4)), np.ones(3)),
        (np.ones((3, 2)), None, np.ones(4)),
        (np.ones((3, 2)), None, 2 * np.ones(3)),
        (np.array([["a"]]), None, np.ones(1)),
        (np.ones((3, 2)), None, np.ones(3), np.ones(2)),
    ):
        with pytest.raises(UsageError):
            Recording(*arguments)
    with pytest.raises(NumericalError):
        Recording(np.full((3, 2), np.nan), None, np.ones(3))
    with pytest.raises(UsageError):
        Baseline(np.ones(3), np.ones(2))
    with pytest.raises(UsageError, match="no score"):
        score(recordings, baseline).get("band", "clean")


def test_metrics():
    outputs, labels = torch.tensor([[2.0, 2.0, 0.0], [0.0, 1.0, 3.0]]), torch.tensor([0, 1])
    assert metric_of("accuracy")(outputs, labels).tolist() == [True, False]
    expected = -outputs.double().log_softmax(1)[[0, 1], labels]
    assert torch.equal(metric_of("cross_entropy")(outputs, labels), expected)
    assert metric_of("squared_error")(outputs[:, :1], torch.tensor([1.0, 2.0])).tolist() == [1.0, 4.0]
    assert not metric_of("squared_error").higher_is_better

    def margin(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.amax(1)

    own = metric_of(margin)
    assert (own.name, own.higher_is_better) == ("margin", True)
    assert own(outputs, labels).tolist() == [2.0, 3.0]
    assert metric_of(own) is own
    for bad, error in (
        (Metric("mean", lambda o, t: o.mean()), UsageError),
        (Metric("list", lambda o, t: o.tolist()), UsageError),
        (Metric("log", lambda o, t: (o * 0).log().sum(1)), NumericalError),
    ):
        with pytest.raises(error, match=r"metric"):
            bad(outputs, labels)
    with pytest.raises(UsageError, match="There is no metric"):
        metric_of("f1")


# Held-out gains


def test_luck_does_not_survive_new_samples():
    """No filter helps: 75 performances around 1. Choosing finds a gain nearly always, testing at 95 % nearly never."""
    draws = np.random.default_rng(5)
    found = []
    for _ in range(100):
        base = draws.random(300) < 0.5
        swapped = np.stack([np.where(draws.random(300) < 0.3, draws.random(300) < 0.5, base) for _ in range(75)])
        found.append(held_out_gain({"high": Recording(swapped, None, np.full(75, 0.9))}, Baseline(base), split="clean"))
    assert np.mean([gain.chosen > 1 for gain in found]) > 0.95
    assert sum(gain.antifragile for gain in found) <= 10  # expected 2.5; more than 10 has probability 1e-4
    assert abs(np.mean([gain.held_out for gain in found]) - 1) < 0.03


def test_a_real_gain_survives():
    base = np.tile([True, False], 200)
    better = np.stack([base, base | (np.arange(400) % 4 == 1), np.zeros(400, bool)])
    recordings = {"high": Recording(np.tile(base, (3, 1)), better, np.array([0.9, 0.5, 0]))}
    baseline = Baseline(base, base)
    gain = held_out_gain(recordings, baseline)
    assert (gain.filter, gain.threshold, gain.stress, gain.antifragile) == ("high", 1, 0.5, True)
    assert 1 < gain.low <= gain.held_out <= gain.high
    half = np.arange(400) < 200
    fixed = held_out_gain(recordings, baseline, chosen_on=half)
    assert fixed.chosen == fixed.held_out == pytest.approx(1.5)
    assert not held_out_gain(recordings, baseline, split="clean").antifragile
    unchanged = {"high": Recording(*(recordings["high"].split(s) for s in ("clean", "adversarial")), np.ones(3))}
    for bad in (
        {"chosen_on": np.ones(400, bool)},
        {"chosen_on": half[:10]},
        {"level": 0.0},
        {"recordings": unchanged},
        {"recordings": {}},
    ):
        with pytest.raises(UsageError):
            held_out_gain(**({"recordings": recordings, "baseline": baseline} | bad))


# Whole sweeps, filtered networks run one by one


def sweep(
    subject: Subject, x: Tensor, y: Tensor, epsilon: float, *, n: int = 25, adaptive: bool = False, include="weight"
) -> tuple[Baseline, Mapping[str, Mapping[str, Recording]], Mapping[str, bool]]:
    attack, right = attack_of("fgsm", epsilon=epsilon), metric_of("accuracy")
    static = attacked(attack, subject, x, y)

    def recorded(parameters: dict[str, Tensor], points: Tensor) -> Tensor:
        with torch.no_grad():
            return right(subject.call(parameters, points), y)

    baseline = Baseline(recorded({}, x), recorded({}, static))
    parameters = dict(subject.model.named_parameters())
    found: dict[str, dict[str, Recording]] = {}
    degenerate: dict[str, bool] = {}
    for unit in select_units(subject, include):
        weight = parameters[unit.parameter]
        merged, cache = distinct_masks(weight, n=n), {-1: (baseline.clean, baseline.adversarial)}
        for row in range(len(merged)):
            given = unit.parameters(merged.filtered(row))
            points = attacked(attack, subject, x, y, parameters=given) if adaptive else static
            cache[row] = recorded(given, x).numpy(), recorded(given, points).numpy()
        found[unit.name] = {}
        for name in FILTERS:
            clean, adversarial = zip(*[cache[row] for row in merged.rows[name].tolist()], strict=True)
            found[unit.name][name] = Recording(
                np.stack(clean), np.stack(adversarial), merged.density(name), merged.changed[name]
            )
        degenerate[unit.name] = is_degenerate(weight)
    return baseline, found, degenerate


def test_two_by_two_example_by_brute_force():
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.tensor([[2.0, -1.0], [-1.0, 1.0]])
    x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 1, 1])
    subject = Subject.from_model(model, (x, y), preprocessing=Preprocessing(bounds=(0.0, 1.0)))
    baseline, found, _ = sweep(subject, x, y, 0.5, n=3)
    assert baseline.clean.mean() == pytest.approx(2 / 3)
    assert baseline.adversarial.mean() == pytest.approx(1 / 3)
    attacked_x = fgsm(subject, x, y, epsilon=0.5)
    for name in FILTERS:
        for k, mask in enumerate(masks(model[0].weight, name, 3)):
            weight = model[0].weight.detach() * mask
            for points, split in ((x, "clean"), (attacked_x, "adversarial")):
                right = (points @ weight.T).argmax(1) == y
                assert found["0.weight"][name].split(split)[k].tolist() == right.tolist()
    # Kept by the high-pass filter: 2 and 1, twice; then nothing, where ties go to class 0.
    assert found["0.weight"]["high"].clean.sum(1).tolist() == [2, 2, 1]
    assert score(found["0.weight"], baseline).get("high", "clean", "unfiltered").score == pytest.approx(-1 / 12)


def test_scale_of_two_layers_changes_nothing():
    model, x, y = trained_mlp(2, 32), *(part[1300:1400] for part in digits())
    scaled = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    scaled.load_state_dict(model.state_dict())
    with torch.no_grad():
        scaled[0].weight *= 4
        scaled[0].bias *= 4
        scaled[2].weight /= 4
    results = [
        sweep(Subject.from_model(each, (x, y), preprocessing=Preprocessing(bounds=(0.0, 1.0))), x, y, 0.1, n=5)
        for each in (model, scaled)
    ]
    for unit in ("0.weight", "2.weight"):
        for name in FILTERS:
            for split in ("clean", "adversarial"):
                one, other = (result[1][unit][name].split(split) for result in results)
                assert np.array_equal(one, other)


def test_high_pass_of_a_linear_network_is_low_pass_of_its_mirror():
    weight, x = torch.randn(4, 6), torch.randn(50, 6)
    y = torch.randint(4, (50,))
    for name, other in (("high", "low"), ("low", "high")):
        counts = [((x @ (weight * m).T).argmax(1) == y).sum() for m in masks(weight, name)]
        mirrored = [((-x @ (-weight * m).T).argmax(1) == y).sum() for m in masks(-weight, other)]
        assert counts == mirrored


@pytest.mark.parametrize("seed", [1, 2])
def test_the_digits_network(seed):
    """What is known of such networks: the end of a step filter is a dead layer; a static attack flatters."""
    model, (x, y) = trained_mlp(seed + 1, 32), digits()
    validation, test = slice(1300, 1500), slice(1500, 1797)
    subject = Subject.from_model(model, (x, y), preprocessing=Preprocessing(bounds=(0.0, 1.0)))
    epsilon = auto_epsilon(subject, x[validation], y[validation]).epsilon
    assert 0.02 < epsilon < 0.3
    x, y = x[test], y[test]
    above = {}
    for adaptive in (False, True):
        baseline, found, degenerate = sweep(subject, x, y, epsilon, adaptive=adaptive)
        assert not any(degenerate.values())
        results: dict[str, UnitScores] = {unit: score(cells, baseline) for unit, cells in found.items()}
        for unit, cells in found.items():
            assert np.array_equal(cells["high"].clean[-1], cells["low"].clean[-1])
            for name in ("high", "low"):
                row = results[unit].get(name, "clean", "unfiltered")
                assert row.score < 0
                assert row.label == "fragile"
                assert row.removed > 0.3
            pulse = results[unit].get("pulse", "clean", "unfiltered")
            assert abs(pulse.score) < 0.2
            assert 0.02 < pulse.removed < 0.06
        above[adaptive] = sum(
            result.get(name, "difference").score > 0.02 for result in results.values() for name in FILTERS
        )
    assert above[False] > above[True]
