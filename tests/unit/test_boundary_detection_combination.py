"""Combinations, evaluation and the adaptive attacker, on networks small enough to check what they say."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from tests.support.boundary_detection import draw, linear, one_sided, paraboloid
from tests.support.fashion import fashion_cnn, fashion_pictures

from assay.attacks import deepfool
from assay.boundary.detection import STATISTICS, Combination, Detector, Tampered, evade, evaluate, recovery_rates
from assay.boundary.detection.combination import CLASS_PRIOR, _by_class
from assay.boundary.detection.objectives import SURROGATES, Objective
from assay.boundary.detection.view import Look, View
from assay.boundary.field import Field
from assay.errors import UsageError

FORWARD = ("drift", "smoothed_margin", "logit_gap")  # no boundary to search
LOOK = Look(2.8, 5.6, probes=10)


@lru_cache(maxsize=1)
def right() -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures that the network gets right, and their classes."""
    x, y = fashion_pictures()
    good = fashion_cnn()(x).argmax(1) == y
    return x[good], y[good]


def seen(x: torch.Tensor) -> View:
    return View(Field(fashion_cnn()), x, LOOK)


def moved(x: torch.Tensor, size: float) -> torch.Tensor:
    return x + size * (deepfool(fashion_cnn(), x, bounds=None) - x)


def test_classes_with_few_samples_borrow_from_all():
    measured, own = draw(1, 40, 2).numpy() + 3, np.repeat([0, 2], [35, 5])
    measured[0, 1] = np.nan
    means, deviations = _by_class(measured, own, 3)
    for column in range(2):
        values, labels = measured[:, column], own
        known = np.isfinite(values)
        values, labels = values[known], labels[known]
        for label in range(3):
            some = values[labels == label]
            mean = (some.sum() + CLASS_PRIOR * values.mean()) / (len(some) + CLASS_PRIOR)
            variance = (((some - mean) ** 2).sum() + CLASS_PRIOR * values.var()) / (len(some) + CLASS_PRIOR)
            assert means[label, column] == pytest.approx(mean)
            assert deviations[label, column] == pytest.approx(variance**0.5)
    assert means[1] == pytest.approx(np.nanmean(measured, axis=0))


def test_one_component_keeps_its_order_among_suspicious_samples():
    x, _ = right()
    combination = Combination(["logit_gap"]).fit(seen(x[:60]))
    view = seen(x[60:100])
    single, score = STATISTICS["logit_gap"].measure(view)[0], combination.score(view)
    clean = STATISTICS["logit_gap"].measure(seen(x[:60]))[0]
    assert ((score > 0) == (single > clean.quantile(0.5))).float().mean() > 0.9
    order = single[score > 0].argsort()
    assert (score[score > 0][order].diff() >= 0).all()
    assert (score >= 0).all()


def test_saying_it_twice_counts_once():
    x, _ = right()
    once, twice = Combination(["logit_gap", "drift"]), Combination(["logit_gap", "logit_gap", "drift"])
    one, two = (each.fit(seen(x[:80])).score(seen(moved(x[80:120], 2.0))) for each in (once, twice))
    # Doubled, a component would count sqrt(2) times; with the correlation known it counts sqrt(2 / 1.9) times.
    assert float(torch.corrcoef(torch.stack([one, two]))[0, 1]) > 0.99
    assert 0.9 < float((two / one.clamp(min=1e-9))[one > 0.1].median()) < 1.15


def test_a_learned_witness_helps_against_its_attack():
    x, _ = right()
    clean, tampered = seen(x[:90]), seen(moved(x[:90], 2.0))
    plain, learned = Combination(FORWARD).fit(clean), Combination(FORWARD).fit(clean, tampered)
    assert (plain.learned, learned.learned) == (False, True)
    fresh, attacked = seen(x[90:170]), seen(moved(x[90:170], 2.0))
    wins = [
        float((each.score(attacked)[:, None] > each.score(fresh)[None]).double().mean()) for each in (plain, learned)
    ]
    assert wins[1] > max(wins[0], 0.65)
    assert torch.equal(learned.score(fresh), Combination(FORWARD).fit(clean, tampered).score(fresh))


def test_a_combination_keeps_its_rate_on_samples_it_was_not_fitted_on():
    x, _ = right()
    detector = Detector(Combination(FORWARD), false_positive_rate=0.1, probes=10, refine=False)
    detector.fit(fashion_cnn(), x[:140])
    assert len(detector.clean_scores()) == 70
    assert len(detector.clean_scores("drift")) == 70
    flagged = int(detector.predict(x[140:]).sum())
    assert flagged <= 0.1 * 120 + 4.5 * (120 * 0.1 * 0.9 * (1 + 120 / 70)) ** 0.5
    assert Detector("combination").statistic == Detector(Combination()).statistic == "combination"
    found = detector.examine(x[140:144])
    assert set(found.every) == {"combination", *STATISTICS}
    assert torch.isnan(found.error).all()
    assert not found.close.any()


def test_what_cannot_be_measured_is_not_suspicious():
    field, x = Field(one_sided), draw(2, 40, 3)
    look = Look(0.3, 0.6, probes=6)
    score = Combination().fit(View(field, x[:20], look)).score(View(field, x[20:], look))
    assert torch.isfinite(score).all()
    blind = Combination(["kappa_at_boundary", "distance"]).fit(View(field, x[:20], look))
    assert torch.isnan(blind.score(View(field, x[20:], look))).all()
    flat = (
        Combination().fit(View(Field(linear()), draw(3, 40, 6), look)).score(View(Field(linear()), draw(4, 9, 6), look))
    )
    assert torch.isfinite(flat).all()


def test_misuse_of_combinations_is_explained():
    x, _ = right()
    with pytest.raises(UsageError, match="magic"):
        Combination(["magic"])
    with pytest.raises(UsageError, match="none given"):
        Combination([])
    with pytest.raises(UsageError, match="9 clean samples are too few"):
        Combination(FORWARD).fit(seen(x[:9]))
    with pytest.raises(UsageError, match="3 tampered samples are too few"):
        Combination(FORWARD).fit(seen(x[:20]), seen(x[:3]))
    with pytest.raises(UsageError, match="Fit it"):
        Combination(FORWARD).score(seen(x[:3]))


def bowl_sets() -> tuple[Detector, torch.Tensor, dict[str, Tampered]]:
    model, x = paraboloid(), draw(5, 120, 6) / 10
    step = torch.eye(6, dtype=torch.float64)[0]
    far = torch.full((30,), 0)
    sets = {
        "pushed": Tampered(x[90:] + 1.5 * step, far, "push", 1.5),
        "some": Tampered(x[90:] + torch.where(torch.arange(30)[:, None] < 10, 1.5, 0.0) * step, far, "push", 0.5),
        "noise": Tampered(x[90:] + draw(6, 30, 6) / 100, None, "noise", 0.01),
    }
    return Detector().fit(model, x[:60]), x[60:90], sets


def test_rows_of_an_evaluation():
    detector, clean, sets = bowl_sets()
    rows = evaluate(detector, clean, sets)
    assert [row.statistic for row in rows] == list(detector.names) * 4
    table = {(row.set, row.statistic): row for row in rows}
    ours = table["pushed", "kappa_at_boundary"]
    assert (ours.attack, ours.size, ours.benign, ours.samples, ours.unmeasured) == ("push", 1.5, False, 30, 0)
    assert ours.area is not None
    assert ours.recovered is not None
    assert (ours.area.value, ours.flagged.value, ours.recovered.value) == (1, 1, 1)
    assert 0.8 < ours.area.low < 1
    assert 0.85 < ours.flagged.low < 0.95
    assert table["some", "kappa_at_boundary"].samples == 10  # the others were not pushed across
    noise = table["noise", "kappa_at_boundary"]
    assert noise.benign
    assert noise.recovered is None
    assert noise.flagged.value < 0.3
    held_out = table["clean", "logit_gap"]
    assert (held_out.area, held_out.benign, held_out.samples) == (None, True, 30)
    assert all(row.lead is None for row in rows)
    rates = recovery_rates(detector, sets)
    assert set(rates) == {"pushed", "some"}
    assert {share.value for share in rates["pushed"].values()} == {1.0}


def test_areas_are_those_of_the_scores():
    detector, clean, sets = bowl_sets()
    row = next(row for row in evaluate(detector, clean, sets) if row.set == "noise" and row.statistic == "distance")
    ours, theirs = (detector.measure(detector.view(x), "distance") for x in (clean, sets["noise"].x))
    assert row.area is not None
    assert row.area.value == pytest.approx((theirs[None] > ours[:, None]).mean(), abs=1e-12)
    above = theirs > np.sort(detector.clean_scores("distance"))[57]  # ceil(61 * 0.95) = 58th of 60
    assert row.flagged.value == pytest.approx(above.mean())


def test_a_combination_is_compared_with_the_best_single_statistic():
    x, y = right()
    detector = Detector(Combination(FORWARD), false_positive_rate=0.1, probes=6, refine=False)
    detector.fit(fashion_cnn(), x[:60])
    rows = evaluate(detector, x[60:76], {"moved": (moved(x[76:92], 2.0), y[76:92])})
    singles = {row.statistic: row.area.value for row in rows if row.area is not None and row.statistic in STATISTICS}
    ours = next(row for row in rows if row.statistic == "combination" and row.set == "moved")
    assert ours.area is not None
    assert ours.lead is not None
    assert ours.best_single == max(singles, key=lambda name: singles[name])
    assert ours.lead.value == pytest.approx(ours.area.value - max(singles.values()))
    assert ours.lead.low < ours.lead.value < ours.lead.high
    assert (ours.attack, ours.samples) == ("moved", 16)


def test_sets_in_which_nothing_changed_are_refused():
    detector, clean, sets = bowl_sets()
    with pytest.raises(UsageError, match="No sample of 'same'"):
        evaluate(detector, clean, {"same": replace(sets["pushed"], x=clean)})


@pytest.mark.parametrize(("norm", "epsilon"), [("l2", 1.0), ("linf", 8 / 255)])
@pytest.mark.parametrize("name", ["drift", "combination"])
def test_the_adaptive_attacker_keeps_its_budget_and_beats_the_oblivious_one(name: str, norm, epsilon: float):
    x, y = right()
    statistic = Combination(FORWARD) if name == "combination" else name
    detector = Detector(statistic, false_positive_rate=0.2, probes=10).fit(fashion_cnn(), x[:60])
    found = evade(
        detector, x[100:116], y[100:116], epsilon=epsilon, norm=norm, steps=30, looks=5, queries=2, bounds=(0.0, 1.0)
    )
    change = (found.x - x[100:116]).flatten(1)
    size = change.norm(dim=1) if norm == "l2" else change.abs().amax(1)
    assert float(size.max()) <= epsilon * (1 + 1e-5)
    assert float(found.x.min()) >= 0
    assert float(found.x.max()) <= 1
    wrong = fashion_cnn()(found.x).argmax(1) != y[100:116]
    assert torch.equal(found.misclassified, wrong)
    assert torch.equal(found.flagged[wrong], detector.predict(found.x)[wrong])
    torch.testing.assert_close(found.score[wrong], detector.score(found.x)[wrong], rtol=1e-4, atol=1e-4)
    assert torch.equal(found.evaded, wrong & ~found.flagged)
    assert found.success.value == pytest.approx(float(found.evaded.double().mean()))
    assert found.success.value >= found.oblivious.value
    assert found.success.low < found.success.value <= found.success.high


def test_knowing_the_detector_pays():
    x, y = right()
    detector = Detector("drift", false_positive_rate=0.2, probes=10).fit(fashion_cnn(), x[:60])
    found = evade(detector, x[100:124], y[100:124], epsilon=1.0, steps=40, looks=5, queries=0, bounds=(0.0, 1.0))
    assert found.success.value > found.oblivious.value + 0.2


def test_what_the_attacker_descends_orders_samples_as_the_statistics_do():
    from scipy.stats import spearmanr

    x, _ = right()
    x = torch.cat([x[100:114], moved(x[100:114], 1.3)])
    detector = Detector(threshold=0.0, probes=40, refine=False).fit(fashion_cnn(), x[:2])
    view, objective = detector.view(x), Objective(detector, probes=40, seed=0)
    assert set(SURROGATES) == set(STATISTICS)
    for name, surrogate in SURROGATES.items():
        point = x.clone().requires_grad_(True)
        values = surrogate(objective.situation(point, step=0))
        assert spearmanr(values.detach().numpy(), detector.measure(view, name)).statistic > 0.75, name
        (gradient,) = torch.autograd.grad(values.sum(), point)
        assert float(gradient.flatten(1).norm(dim=1).min()) > 0, name


def test_settings_of_the_attack_are_checked():
    x, y = right()
    detector = Detector("drift", threshold=0.0, probes=4).fit(fashion_cnn(), x[:2])
    for settings in ({"epsilon": 0.0}, {"epsilon": 1.0, "norm": "l7"}, {"epsilon": 1.0, "steps": 0}):
        with pytest.raises(UsageError, match="cannot be used"):
            evade(detector, x[:2], y[:2], **settings)


@pytest.mark.slow
def test_fashion_pictures_are_told_from_moved_ones():
    network, (x, y) = fashion_cnn(), right()
    step = deepfool(network, x[130:230], bounds=None) - x[130:230]
    sets = {f"x{size}": Tampered(x[130:230] + size * step, y[130:230], "deepfool", size) for size in (1, 1.5, 2, 3)}
    sets["noise"] = Tampered(x[130:230] + 0.1 * draw(7, 100, 1, 28, 28).float(), None, "noise", 0.1)
    detector = Detector("combination").fit(network, x[:130])
    rows = {(row.set, row.statistic): row for row in evaluate(detector, x[130:230], sets)}

    def area(name: str, statistic: str) -> float:
        found = rows[name, statistic].area
        assert found is not None
        return found.value

    for name, least in (
        ("x1", 0.86),
        ("x1.5", 0.83),
        ("x2", 0.70),
    ):  # .90, .88, .76 less twice the error of 100 samples
        assert area(name, "kappa_at_boundary") > least
    assert area("x1", "logit_gap") > 0.95
    assert area("x2", "logit_gap") < area("x2", "kappa_at_boundary")
    for name in ("x2", "x3"):
        assert area(name, "combination") > area(name, "kappa_at_boundary")
    for statistic in ("kappa_at_boundary", "combination"):
        assert area("noise", statistic) < 0.62  # noise that does no harm is not tampering
    recovered = [rows[name, "combination"].recovered for name in ("x1", "x2")]
    assert recovered[0] is not None
    assert recovered[1] is not None
    assert recovered[0].value > 0.94
    assert recovered[1].value > 0.68
    clean = detector.score(x[130:230])
    assert bool(torch.isfinite(clean).all())
