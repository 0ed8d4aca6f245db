"""Who is retrained, what is compared with what, and what the summary may say."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from tests.unit.test_filtering_retraining import NETWORK, TEST, TRAIN, VALIDATION, run
from torch import nn

from assay.attacks import auto_epsilon
from assay.errors import UsageError
from assay.filtering.analysis import analyse
from assay.filtering.retraining import paired_difference, retrain
from assay.filtering.retraining.arms import chosen_units, random_units, weights_in
from assay.filtering.units import select_units

UNITS = select_units(NETWORK)
LABELS = {"0.weight": "robust", "4.weight": "fragile", "8.weight": "antifragile", "11.weight": "undecided"}


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("robust+antifragile", ("0.weight", "8.weight")),
        ("robust + antifragile + undecided", ("0.weight", "8.weight", "11.weight")),
        ("fragile", ("4.weight",)),
        ("no-op", ()),
        (["8.weight", "0.weight"], ("0.weight", "8.weight")),
        ({"8.weight": True, "0.weight": False}, ("8.weight",)),
        (lambda unit: unit.kind == "Linear", ("8.weight", "11.weight")),
        ([], ()),
    ],
)
def test_choices(select, expected):
    assert chosen_units(UNITS, select, LABELS) == expected


def test_choices_that_do_not_exist():
    with pytest.raises(UsageError, match="no unit 'conv'"):
        chosen_units(UNITS, ["conv"], None)
    with pytest.raises(UsageError, match=r"4\.weight"):
        chosen_units(UNITS, "robust", {**LABELS, "4.weight": "splendid"})
    with pytest.raises(UsageError, match="2 of 4 units have no label"):
        chosen_units(UNITS, "robust", {"0.weight": "robust", "4.weight": "fragile"})
    with pytest.raises(UsageError, match="no class 'robusst'"):
        run(select="robusst+antifragile")
    with pytest.raises(UsageError, match="mapping from unit names"):
        run(select="robust", labels=["robust"])


def test_random_control_is_of_equal_size():
    sizes = [7, 100, 40, 60, 33, 101, 8, 59]
    units = select_units(nn.Sequential(*(nn.Linear(size, 1, bias=False) for size in sizes)))
    names = [unit.name for unit in units]
    chosen = [names[1], names[6]]  # 108 weights
    drawn = [random_units(units, chosen, seed) for seed in range(60)]
    assert {len(names) for names in drawn} == {2}
    assert tuple(chosen) not in drawn
    assert len(set(drawn)) > 3, "a random control varies"
    pairs = sorted(abs(a + b - 108) for i, a in enumerate(sizes) for b in sizes[i + 1 :] if (a, b) != (100, 8))
    closest = pairs[: math.ceil(len(pairs) / 4)]
    assert {abs(weights_in(units, names) - 108) for names in drawn} <= set(closest)
    assert random_units(units, chosen, 5) == random_units(units, chosen, 5)
    assert random_units(units, (), 0) == ()
    assert random_units(units, names, 0) == tuple(names)


def test_random_control_among_very_many_subsets():
    units = select_units(nn.Sequential(*(nn.Linear(3 * index + 1, 1, bias=False) for index in range(40))))
    chosen = [unit.name for unit in units][::2]
    target = weights_in(units, chosen)
    drawn = {random_units(units, chosen, seed) for seed in range(10)}
    assert len(drawn) > 3
    assert all(len(names) == 20 and abs(weights_in(units, names) - target) <= 0.02 * target for names in drawn)


def test_arms_that_coincide_are_run_once():
    calls: list[str] = []
    for select in ([], [unit.name for unit in UNITS]):
        calls.clear()
        found = run(select=select, seeds=1, progress=lambda done, total, text: calls.append(f"{done}/{total}"))
        assert calls == ["1/2", "2/2"]
        twin, other = ("selective", "complement") if select else ("complement", "selective")
        assert {entry.arm: entry.same_as for entry in found.runs} == {
            "all": "", "selective": "all" if select else "", "complement": "" if select else "all", "random":
            "all" if select else "selective",
        }  # fmt: skip
        assert found.difference("all", twin, "clean").same
        assert not found.difference("all", other, "clean").same
        assert ("Every unit was chosen" if select else "No unit was chosen") in found.summary
        assert "train the same weights here" in found.summary


def test_kept_weights_of_arms_that_coincide():
    found = run(select=[unit.name for unit in UNITS], seeds=1, keep=("selective", "random"))
    assert set(found.weights) == {("selective", 0), ("random", 0)}


def test_nothing_at_all_to_train():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    found = retrain(model, TRAIN, VALIDATION, test=TEST, select=[], seeds=1, epochs=1, epsilon=0.1, keep=("selective",))
    assert torch.equal(found.weights["selective", 0]["1.weight"], model[1].weight)
    assert found.of("selective")[0].steps == found.of("all")[0].steps == 6
    assert found.difference("selective", "before", "clean").values == (0.0,)


def test_interval_of_a_paired_difference_by_hand():
    draws = np.random.RandomState(1)
    first, second = (draws.rand(5, 300) < share for share in (0.9, 0.6))
    found = paired_difference(list(first), list(second), names=("a", "b"))
    values = first.mean(1) - second.mean(1)
    low, high = stats.ttest_rel(first.mean(1), second.mean(1)).confidence_interval(0.95)
    assert found.values == pytest.approx(values)
    assert (found.low, found.high) == pytest.approx((low, high))
    per_sample = (first.astype(float) - second).mean(0)
    assert found.sample_error == pytest.approx(stats.sem(per_sample))
    assert found.shown
    assert not paired_difference(list(first[:1]), list(second[:1])).shown, "one seed shows nothing"
    noisy = paired_difference(list(first), list(draws.rand(5, 300) < 0.9))
    assert noisy.low < 0 < noisy.high
    assert not noisy.shown


def test_a_constant_difference_of_one_sample_is_not_shown():
    right = np.arange(100) < 50
    better = np.arange(100) < 51
    found = paired_difference([better] * 5, [right] * 5)
    assert found.low == found.high == pytest.approx(0.01)
    assert not found.shown


def test_differences_that_cannot_be_paired():
    right = np.ones(4, bool)
    for first, second in (([right], [right, right]), ([], []), ([right], [right[:2]])):
        with pytest.raises(UsageError, match="cannot be paired"):
            paired_difference(first, second)


def test_tables_and_summary_agree():
    found = run(select="robust+antifragile", labels=LABELS, seeds=3, epochs=2, criticality=True, adversarial=0.5)
    frame = found.to_frame()
    assert set(frame.arm) == {"before", *found.arms}
    one = frame[(frame.arm == "random") & (frame.seed == 2) & (frame.measure == "fgsm")].iloc[0]
    assert one.accuracy == found.accuracy("random", "fgsm")[2]
    assert frame[frame.arm != "before"].steps.nunique() == 1
    differences = found.to_frame("differences")
    pairs = set(zip(differences["first"], differences["second"], strict=True))
    assert {("selective", "all"), ("selective", "random"), ("selective", "complement")} < pairs
    assert {(arm, "before") for arm in found.arms} < pairs
    summary = found.summary
    assert "2 of 4 units, 566 of 1158 weights" in summary
    assert "complement (2 units, 592 weights" in summary
    assert re.search(r"random \(2 units, \d+( to \d+)? weights", summary)
    assert "11.weight (undecided)" in summary
    for row in found.differences:
        if row.first == "selective" and row.second == "all":
            (line,) = [text for text in summary.splitlines() if text.startswith(f"Selective - all, {row.measure}:")]
            assert f"[{100 * row.low:+.1f}, {100 * row.high:+.1f}]" in line
            claimed = "higher than" in line or "lower than" in line
            assert claimed == row.shown
            assert row.low > 0 or row.high < 0 or "no difference shown" in line
    assert "by chance" in summary
    with pytest.raises(UsageError, match="no table"):
        found.to_frame("arms")
    with pytest.raises(UsageError, match="no arm"):
        found.accuracy("best", "clean")
    with pytest.raises(UsageError, match="no measure"):
        found.accuracy("all", "autoattack")


def test_a_single_seed_claims_nothing():
    found = run(seeds=[3])
    assert all(math.isinf(row.low) and not row.shown for row in found.differences)
    assert "nothing is claimed" in found.summary
    assert "no interval" in found.summary


def test_a_real_difference_is_told():
    """A checkpoint whose head is ruined can only recover where the head is trained: the controls show it."""
    model = nn.Sequential(*NETWORK[:-1], nn.Linear(16, 10))
    with torch.no_grad():
        model[-1].weight.zero_()
        model[-1].bias.zero_()
    settings = {"test": TEST, "seeds": 2, "epochs": 3, "learning_rate": 1e-2, "epsilon": 0.05}
    found = retrain(model, TRAIN, VALIDATION, select=["0.weight"], **settings)
    row = found.difference("selective", "all", "clean")
    assert row.shown
    assert row.high < -0.3
    assert "lower than plain continuation of all weights" in found.summary
    other = retrain(model, TRAIN, VALIDATION, select=["11.weight"], **settings).difference(
        "selective", "complement", "clean"
    )
    assert other.shown
    assert other.low > 0.3


def test_test_samples_held_back_from_validation():
    found = run(test=None)
    assert len(found.before["clean"]) == 100
    assert "random half of the validation samples (100) was held back" in found.summary
    with pytest.raises(UsageError, match="cannot be halved"):
        retrain(NETWORK, TRAIN, (VALIDATION[0][:1], VALIDATION[1][:1]), select=[], epsilon=0.1)


def test_epsilon_halves_the_accuracy_on_validation_samples():
    found = run(epsilon="auto", seeds=1, controls=False)
    assert found.epsilon == auto_epsilon(NETWORK, *VALIDATION).epsilon != auto_epsilon(NETWORK, *TEST).epsilon


def test_attacks_of_other_kinds():
    found = run(attack="pgd-l2", epsilon=0.5, seeds=1, controls=False)
    assert found.measures == ("clean", "pgd-l2-10", "pgd-l2-20")

    def shifted(model, x, y):
        return x + 0.2

    found = run(attack=shifted, epsilon=None, seeds=1, adversarial=0.5, criticality=True)
    assert found.measures == ("clean", "shifted")
    assert found.epsilon is None
    with torch.no_grad():
        right = (NETWORK(TEST[0] + 0.2).argmax(1) == TEST[1]).double().mean()
    assert found.accuracy("before", "shifted")[0] == float(right)


def test_channels_are_units_too():
    found = run(select="robust", granularity="channel", include=nn.Conv2d, seeds=1, keep=("selective",),
                labels={unit.name: "robust" if "[0]" in unit.name else "fragile"
                        for unit in select_units(NETWORK, nn.Conv2d, granularity="channel")})  # fmt: skip
    assert found.chosen == ("0.weight[0]", "4.weight[0]")
    after = found.weights["selective", 0]["4.weight"]
    assert torch.equal(after[1:], NETWORK[4].weight[1:])
    assert not torch.equal(after[0], NETWORK[4].weight[0])
    sizes = [entry.weights for entry in found.runs if entry.arm in ("selective", "random")]
    assert all(one == other for one, other in pairwise(sizes))


def test_labels_come_from_filtering_the_validation_samples():
    settings = {"select": "robust+antifragile", "seeds": 1, "controls": False, "attack": "pgd", "epsilon": 0.05}
    found = run(bounds=(0.0, 1.0), **settings)
    result = analyse(NETWORK, VALIDATION, attack="pgd", epsilon=0.05, mode="static", bounds=(0.0, 1.0))
    expected = result.labels(split="adversarial", reference="compressed", filter="mean")
    assert found.labels == expected
    assert "undecided" in expected.values()
    scores = {name: result.score(name).score for name, word in expected.items() if word == "undecided"}
    assert found.counted == {
        name: "fragile" if value < -0.02 else "robust" if value <= 0.02 else "antifragile"
        for name, value in scores.items()
    }
    words = expected | found.counted
    assert found.chosen == tuple(name for name, word in words.items() if word in ("robust", "antifragile"))
    for name, word in found.counted.items():
        assert f"{name} as {word}" in found.summary
    given = run(bounds=(0.0, 1.0), labels=result, **settings)
    assert given.chosen == found.chosen
    assert np.array_equal(given.of("selective")[0].correct["fgsm"], found.of("selective")[0].correct["fgsm"])
    settings |= {"select": "undecided", "labels": result}
    strict = run(bounds=(0.0, 1.0), **settings)
    assert strict.chosen == tuple(scores)
    assert not strict.counted


def test_labels_under_an_attack_of_the_users():
    sizes: list[float] = []

    def shifted(model, x, y, epsilon=0.7):
        sizes.append(epsilon)
        return x + epsilon

    found = run(select="fragile", attack=shifted, epsilon=0.05, seeds=1, controls=False)
    assert set(sizes) == {0.05}
    expected = analyse(NETWORK, VALIDATION, attack=lambda model, x, y: x + 0.05, mode="static").labels()
    assert found.labels == expected
