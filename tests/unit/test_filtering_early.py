"""Early stopping: bets that are fair to the last digit, intervals that cover, classes that are wrong at most 5 % of the
time in any case, and fewer samples than all."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from tests.support.networks import digits, trained_mlp

from assay.attacks import fgsm
from assay.errors import NumericalError, UsageError
from assay.filtering import FILTERS, Baseline, Recording, early, label_of, masks, score
from assay.filtering.early import Sequential, decide, looks, sample_order
from assay.filtering.terms import known_of, terms_of
from assay.filtering.without_replacement import Bets, bernstein_serfling, block_of, hoeffding_serfling, left_over

TAU, DELTA, ORDERS = 0.02, 0.05, 500


@lru_cache(maxsize=1)
def swept() -> tuple[Baseline, dict[str, dict[str, Recording]]]:
    """Correctness of all 1,797 digits, clean and under a static FGSM, for the filters of every weight of a network."""
    trained = trained_mlp(2, 32)
    model = torch.nn.Sequential(*[torch.nn.Linear(*layer.weight.shape[::-1]) if hasattr(layer, "weight") else layer
                                  for layer in trained])  # fmt: skip
    model.load_state_dict(trained.state_dict())
    x, y = digits()
    batches = x, fgsm(model, x, y, epsilon=0.06, bounds=(0, 1))

    @torch.no_grad()
    def right() -> list[np.ndarray]:
        return [(model(batch).argmax(1) == y).numpy() for batch in batches]

    baseline, units = Baseline(*right()), {}
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue
        weight, units[name] = parameter.detach().clone(), {}
        for kind in FILTERS:
            kept = masks(weight, kind, 9)
            rows = []
            for mask in kept:
                parameter.data = weight * mask
                rows.append(right())
            parameter.data = weight
            clean, attacked = (np.stack(column) for column in zip(*rows, strict=True))
            units[name][kind] = Recording(clean, attacked, kept.flatten(1).double().mean(1).numpy())
    return baseline, units


def cases(split: str) -> list[tuple[np.ndarray, tuple[float, float], np.ndarray]]:
    """Terms, bounds and what is known, of every unit and filter."""
    baseline, units = swept()
    found = []
    for recordings in units.values():
        for kind, recording in recordings.items():
            terms = terms_of(baseline, {kind: recording.density}, split=split)
            found.append((terms.values({kind: recording}), terms.bounds, known_of(baseline)))
    return found


def watched(values, bounds, known, order, **settings) -> Sequential:
    watch = Sequential(len(values), bounds, known=None if known is None else known[order], **settings)
    for count in watch.looks:
        if watch.update(values[order[:count]]):
            break
    return watch


# The bounds


@pytest.mark.parametrize("upwards", [True, False])
@pytest.mark.parametrize("predict", [True, False])
def test_bets_are_fair_over_all_orders(upwards, predict):
    """Against the true mean the capital is one on average, to the last digit, whatever the stakes and predictions."""
    values, known = np.array([0.0, 1.0, 0.3, 0.9, 0.1, 0.4]), np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    true = values.mean()
    capital = {shift: np.zeros(2) for shift in (-0.05, 0.0, 0.05)}
    for order in permutations(range(6)):
        z, k = values[list(order)], known[list(order)]
        first = block_of(z[:3], 0, 0.0, 6, (0.0, 1.0), None)
        predicted = (k[3:] * 0.5 + z[:3].std()) if predict else None  # any function of what has been seen
        second = block_of(z[3:5], 3, z[:3].sum(), 6, (0.0, 1.0), predicted)
        for shift, sums in capital.items():
            bets = Bets(true + shift, upwards, 6, (0.0, 1.0))
            sums += [math.exp(bets.play(first)), math.exp(min(bets.play(second), 700))]
    for shift, sums in capital.items():
        mean = sums / math.factorial(6)
        if shift == 0:
            assert mean == pytest.approx([1, 1], rel=1e-12)
        elif (shift > 0) == upwards:  # a null on the safe side earns less than one
            assert (mean < 1).all()
        else:
            assert (mean > 1).all()


def test_capital_falls_with_the_mean_supposed():
    """So that what is refuted is an interval without gaps."""
    draws = np.random.default_rng(0)
    values, known = draws.random(60) ** 3, draws.random(60)
    block = block_of(values[:40], 0, 0.0, 60, (0.0, 1.0), known)
    nulls = np.linspace(0.01, 0.99, 99)
    for upwards in (True, False):
        capital = np.array([Bets(null, upwards, 60, (0.0, 1.0)).play(block) for null in nulls])
        steps = np.diff(capital[np.isfinite(capital)])
        assert (steps <= 1e-12).all() if upwards else (steps >= -1e-12).all()


def test_means_that_have_become_impossible_are_refuted_and_others_are_not():
    ones = np.ones(9)
    block = block_of(ones, 0, 0.0, 10, (0.0, 1.0), None)
    assert Bets(0.89, True, 10, (0.0, 1.0)).play(block) == math.inf  # nine of ten are right: at least 0.9
    assert Bets(0.9, True, 10, (0.0, 1.0)).play(block) < math.inf
    assert Bets(1.0, False, 10, (0.0, 1.0)).play(block) <= 0
    zeros = block_of(0 * ones, 0, 0.0, 10, (0.0, 1.0), None)
    assert Bets(0.11, False, 10, (0.0, 1.0)).play(zeros) == math.inf
    assert Bets(0.1, False, 10, (0.0, 1.0)).play(zeros) < math.inf


def test_serfling_by_hand():
    assert left_over(1, 10) == 1
    assert left_over(5, 10) == pytest.approx(0.6)
    assert left_over(8, 10) == pytest.approx(0.2 * 1.125)
    assert left_over(10, 10) == 0
    # rho = 0.225, ln(2 / 0.05) = 3.688879: 2 sqrt(0.225 * 3.688879 / 16) = 0.455521
    assert hoeffding_serfling(8, 10, 2.0, 0.05) == pytest.approx(0.4555211, abs=1e-6)
    # deviation 0.5, ln(10 / 0.05) = 5.298317: 0.5 sqrt(0.45 * 5.298317 / 8) + 4.4546537 * 5.298317 / 8 = 3.223232
    values = np.array([0, 1] * 4)
    assert bernstein_serfling(values, 10, 1.0, 0.05) == pytest.approx(3.2232319, abs=1e-6)
    assert bernstein_serfling(np.ones(10), 10, 1.0, 0.05) == 0


@pytest.mark.parametrize("bound", ["hoeffding", "bernstein"])
def test_serfling_covers_in_every_subset(bound):
    """All subsets of small populations, counted: never missed more often than allowed."""
    for ones in range(1, 14, 3):
        population = np.array([1.0] * ones + [0.0] * (14 - ones))
        for count in (3, 7, 11):
            missed = []
            for rows in combinations(range(14), count):
                drawn = population[list(rows)]
                half = (
                    hoeffding_serfling(count, 14, 1.0, 0.3)
                    if bound == "hoeffding"
                    else bernstein_serfling(drawn, 14, 1.0, 0.3)
                )
                missed.append(abs(drawn.mean() - ones / 14) > half)
            assert np.mean(missed) <= 0.3


@pytest.mark.parametrize("bound", ["betting", "serfling"])
@pytest.mark.parametrize("ones", [0.03, 0.5])
def test_intervals_cover_at_all_looks_together(bound, ones):
    size, draws = 400, np.random.default_rng(1)
    population = np.arange(size) < ones * size
    known = np.stack([population ^ (draws.random(size) < 0.1), draws.random(size)], 1).astype(float)
    missed, width = 0, []
    for _ in range(200):
        order = draws.permutation(size)
        # A score on a cut is never decided, so that the watch goes on.
        watch = Sequential(size, (0.0, 1.0), tau=float(population.mean()), known=known[order], bound=bound)
        for count in watch.looks[:6]:  # up to 40 % of the samples
            watch.update(population[order[:count]].astype(float))
        low, high = watch.interval()  # what no look has refuted
        missed += not low <= population.mean() <= high
        width.append(high - low)
    assert missed <= 0.05 * 200 + 3 * math.sqrt(0.05 * 0.95 * 200)
    assert np.mean(width) < (0.2 if bound == "betting" else 0.35)


# Classes


@pytest.mark.parametrize("bound", ["betting", "serfling"])
@pytest.mark.parametrize("split", ["clean", "adversarial", "difference"])
def test_the_class_is_that_of_all_samples(split, bound):
    """Every unit and filter of a trained network, 1,797 samples, 500 orders in turn."""
    draws = np.random.default_rng(2)
    found = cases(split)
    wrong, shares = 0, []
    for turn in range(ORDERS):
        values, bounds, known = found[turn % len(found)]
        watch = watched(values, bounds, known, draws.permutation(len(values)), bound=bound)
        wrong += watch.label != label_of(values.mean(), values.mean(), TAU)
        shares.append(watch.used / len(values))
    assert wrong <= DELTA * ORDERS
    assert np.mean(shares) < {"betting": 0.6, "serfling": 0.97}[bound]


@pytest.mark.parametrize("mean", [-1.02 * TAU, -0.98 * TAU, 0.98 * TAU, 1.02 * TAU])
@pytest.mark.parametrize("helped", [True, False])
def test_classes_next_to_a_cut(mean, helped):
    """The worst case for a decision: scores just beside a cut, visited in 500 orders."""
    size, draws = 300, np.random.default_rng(3)
    values = np.where(draws.random(size) < 0.5, draws.random(size), -draws.random(size)) * 0.5
    values += mean - values.mean()
    known = values[:, None] + 0.1 * draws.standard_normal((size, 1)) if helped else None
    wrong = sum(
        watched(values, (-1.0, 1.0), known, draws.permutation(size), delta=0.2).label != label_of(mean, mean, TAU)
        for _ in range(ORDERS)
    )
    assert wrong <= 0.2 * ORDERS


@pytest.mark.parametrize("split", ["adversarial", "difference"])
def test_many_samples_are_decided_after_few(split):
    """35,940 samples: the digits twenty times over."""
    draws = np.random.default_rng(4)
    found = cases(split)
    wrong, shares = 0, {"betting": [], "serfling": []}
    for turn in range(ORDERS // 5):
        values, bounds, known = found[turn % len(found)]
        values, known = np.tile(values, 20), np.tile(known, (20, 1))
        for bound, share in shares.items():
            watch = watched(values, bounds, known, draws.permutation(len(values)), bound=bound)
            wrong += watch.label != label_of(values.mean(), values.mean(), TAU)
            share.append(watch.used / len(values))
    assert wrong <= DELTA * ORDERS / 5
    assert np.mean(shares["betting"]) < 0.3
    assert np.mean(shares["betting"]) < 0.6 * np.mean(shares["serfling"])


def test_what_is_known_shortens_the_visit_and_nonsense_does_no_harm():
    values, bounds, known = max(cases("adversarial"), key=lambda case: -abs(abs(case[0].mean()) - 2 * TAU))
    draws = np.random.default_rng(5)
    used = {"nothing": [], "baseline": [], "nonsense": [], "everything": []}
    sources = {"nothing": None, "baseline": known, "everything": values[:, None]}
    sources["nonsense"] = 1e3 * draws.standard_normal((len(values), 3))
    for _ in range(40):
        order = draws.permutation(len(values))
        for name, source in sources.items():
            watch = watched(values, bounds, source, order)
            assert watch.label == label_of(values.mean(), values.mean(), TAU)
            used[name].append(watch.used / len(values))
    mean = {name: np.mean(share) for name, share in used.items()}
    assert mean["everything"] < mean["baseline"] < mean["nothing"]
    assert mean["nonsense"] < mean["nothing"] + 0.2


def test_an_interval_lies_in_the_class_that_was_decided(monkeypatch):
    draws = np.random.default_rng(6)
    for values, bounds, known in cases("adversarial"):
        for bound in ("betting", "serfling"):
            decision = watched(values, bounds, known, draws.permutation(len(values)), bound=bound).decision()
            assert label_of(decision.low, decision.high, TAU) == decision.label
            assert decision.low <= decision.score <= decision.high
    watch = watched(values, bounds, known, draws.permutation(len(values)))
    monkeypatch.setattr(early, "HALVINGS", 0)  # however coarsely its ends are looked for
    assert label_of(*watch.interval(), TAU) == watch.label


# Scores as means


@pytest.mark.parametrize("rule", ["simpson", "mean"])
@pytest.mark.parametrize("reference", ["compressed", "unfiltered"])
def test_the_mean_of_the_terms_is_the_score(reference, rule):
    baseline, units = swept()
    for recordings in units.values():
        expected = score(recordings, baseline, rule=rule, draws=1)
        for split in ("clean", "adversarial", "difference"):
            for name in (*FILTERS, "mean"):
                chosen = recordings if name == "mean" else {name: recordings[name]}
                densities = {kind: recording.density for kind, recording in chosen.items()}
                terms = terms_of(baseline, densities, split=split, reference=reference, rule=rule)
                values = terms.values(chosen)
                assert values.mean() == pytest.approx(expected.get(name, split, reference).score, abs=1e-12)
                assert terms.bounds[0] - 1e-12 <= values.min() <= values.max() <= terms.bounds[1] + 1e-12
                part = {
                    kind: Recording(item.clean[:, 7:30], item.adversarial[:, 7:30], item.density)
                    for kind, item in chosen.items()
                }
                assert terms.values(part) == pytest.approx(values[7:30], abs=1e-14)


def test_bounds_are_reached():
    baseline = Baseline(np.arange(10) < 5, np.arange(10) < 2)
    dead, alive = np.zeros((3, 10), bool), np.ones((3, 10), bool)
    density = np.array([1.0, 0.5, 0.0])
    for split, worst, best in (
        ("clean", (dead, dead), (alive, alive)),
        ("adversarial", (dead, dead), (alive, alive)),
        ("difference", (alive, dead), (dead, alive)),
    ):
        terms = terms_of(baseline, {"high": density}, split=split)
        ends = [terms.values({"high": Recording(*pair, density)}) for pair in (worst, best)]
        assert [end.mean() for end in ends] == pytest.approx(terms.bounds)
    assert terms.bounds == (-2.0, 5.0)


def test_deciding_on_stored_recordings():
    baseline, units = swept()
    for recordings in units.values():
        exact = score(recordings, baseline, draws=1).get("mean", "adversarial")
        decision = decide(recordings, baseline)
        assert decision.label == label_of(exact.score, exact.score, TAU)
        assert decision == decide(recordings, baseline)
        assert decision.low <= exact.score <= decision.high
        assert decision.samples == 1797
    assert decide(recordings, baseline, seed=1).score != decision.score
    order = np.arange(1797)[::-1]
    assert decide(recordings, baseline, order=order) == decide(recordings, baseline, order=order, seed=5)
    # What is known of the terms from elsewhere.
    name = next(iter(recordings))
    terms = terms_of(baseline, {name: recordings[name].density})
    helped = decide({name: recordings[name]}, baseline, known=terms.values({name: recordings[name]})[:, None])
    assert helped.used <= decide({name: recordings[name]}, baseline).used


def test_no_op():
    baseline = Baseline(np.arange(100) < 90)
    same = Recording(np.tile(baseline.clean, (3, 1)), None, np.ones(3))
    decision = decide({"high": same}, baseline, split="clean", reference="unfiltered")
    assert (decision.label, decision.used, decision.share) == ("no-op", 0, 0.0)
    assert decision.score == pytest.approx(0, abs=1e-12)


def test_visiting_everything_gives_the_score_itself():
    """Undecidable to the end: the mean lies on a cut."""
    values = np.tile([0.52, -0.48], 100)
    for bound in ("betting", "serfling"):
        order = np.random.default_rng(0).permutation(200)
        decision = watched(values, (-1.0, 1.0), None, order, bound=bound).decision()
        assert decision.used == 200
        assert decision.score == decision.low == decision.high == pytest.approx(0.02)
    watch = Sequential(1, (0.0, 1.0))
    assert watch.update(np.array([1.0])) == "antifragile"


def test_order_and_looks():
    order = sample_order(1000, "data")
    assert np.array_equal(np.sort(order), np.arange(1000))
    assert np.array_equal(order, sample_order(1000, "data"))
    assert not np.array_equal(order, sample_order(1000, "other"))
    assert not np.array_equal(order, sample_order(1000, "data", seed=1))
    for size in (1, 63, 64, 65, 1797, 35940):
        schedule = looks(size)
        assert schedule[-1] == size
        assert list(schedule) == sorted(set(schedule))
    assert looks(30) == (30,)
    assert len(looks(35940)) == 36


def test_a_class_once_said_stays():
    watch = Sequential(1000, (0.0, 1.0))
    assert watch.update(np.full(200, 0.9)) == "antifragile"
    assert watch.update(np.concatenate([np.full(200, 0.9), np.zeros(700)])) == "antifragile"
    assert watch.used == 200


@pytest.mark.parametrize(
    "bad",
    [
        {"size": 0},
        {"bounds": (1.0, 1.0)},
        {"tau": -0.1},
        {"delta": 0.0},
        {"delta": 1.0},
        {"bound": "normal"},
        {"known": np.ones((3, 1))},
        {"known": np.full((10, 1), np.nan)},
    ],
)
def test_settings_are_checked(bad):
    with pytest.raises(UsageError):
        Sequential(**({"size": 10, "bounds": (0.0, 1.0)} | bad))


def test_what_is_not_bounded_is_refused():
    for values, higher in (([0.3, 0.2], True), ([0.3, 0.2], False), ([True, False], False)):
        baseline = Baseline(np.array(values), higher_is_better=higher)
        with pytest.raises(UsageError, match="right or wrong"):
            terms_of(baseline, {"high": np.ones(3)}, split="clean")
    right = Baseline(np.array([True, False]), np.array([False, False]))
    with pytest.raises(UsageError, match="right or wrong"):
        terms_of(right, {"high": np.ones(3)}, split="clean").values(
            {"high": Recording(np.full((3, 2), 0.5), None, np.ones(3))}
        )
    with pytest.raises(NumericalError, match="epsilon"):
        terms_of(right, {"high": np.ones(3)})
    for bad in ({"split": "other"}, {"reference": "other"}, {"densities": {}}):
        with pytest.raises(UsageError):
            terms_of(**({"baseline": right, "densities": {"high": np.ones(3)}, "split": "clean"} | bad))
    with pytest.raises(UsageError, match="attack"):
        terms_of(Baseline(np.array([True])), {"high": np.ones(3)})
    watch = Sequential(100, (0.0, 1.0), bound="serfling")
    for values in (np.array([1.5]), np.ones(101), np.ones((2, 2)), np.array([np.nan]), np.ones(70)):
        with pytest.raises(UsageError):
            watch.update(values)
    recording = Recording(np.ones((3, 2), bool), None, np.array([1, 0.5, 0]))
    with pytest.raises(UsageError, match="permutation"):
        decide({"high": recording}, Baseline(np.ones(2, bool)), split="clean", order=np.array([0, 0]))
