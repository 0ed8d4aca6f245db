"""Which units keep their class: agreement against published examples and scipy, matching by hand, honest words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from assay.errors import UsageError
from assay.filtering import Score
from assay.filtering.agreement import cohen, kendall, krippendorff, spearman
from assay.filtering.comparison import CLASSES, Labelled, compare, labelled

SHORT = {"f": "fragile", "r": "robust", "a": "antifragile", "u": "undecided", "n": "no-op", "d": "degenerate"}


def network(labels: str, scores: list[float] | None = None, names: list[str] | None = None) -> Labelled:
    """One letter per unit."""
    centres = {"f": -0.1, "r": 0.0, "a": 0.1, "u": 0.02, "n": 0.0, "d": math.nan}
    values = np.array(scores if scores is not None else [centres[letter] for letter in labels])
    units = names or [f"layer{index}" for index in range(len(labels))]
    return Labelled(tuple(units), values, values - 0.01, values + 0.01, tuple(SHORT[letter] for letter in labels))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=20))
def test_rank_correlations_are_those_of_scipy(pairs):
    """With ties, and undefined where scipy's are."""
    x, y = np.array(pairs, np.float64).T
    with np.errstate(all="ignore"):
        expected = [float("nan")] * 2
        if np.ptp(x) and np.ptp(y):
            expected = [stats.spearmanr(x, y).statistic, stats.kendalltau(x, y).statistic]
    found = [spearman(x, y, draws=5), kendall(x, y, draws=5)]
    assert [each.value for each in found] == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize(("ours", "theirs"), [(spearman, stats.spearmanr), (kendall, stats.kendalltau)])
def test_intervals_are_those_of_scipy_s_bootstrap(ours, theirs):
    """Percentile intervals over resampled pairs: equal but for the random numbers."""
    draws = np.random.default_rng(0)
    x = draws.standard_normal(25)
    y = x + draws.standard_normal(25)
    found = ours(x, y, level=0.9, draws=4000)
    peer = stats.bootstrap((x, y), lambda a, b: theirs(a, b).statistic, paired=True, vectorized=False, n_resamples=2000,
                           confidence_level=0.9, method="percentile", rng=draws).confidence_interval  # fmt: skip
    assert (found.low, found.high) == pytest.approx((peer.low, peer.high), abs=0.04)
    assert ours(x, y, level=0.9, draws=4000) == found
    assert ours(x, y, level=0.5, draws=4000).low > found.low


def test_too_little_to_rank():
    for x in (np.array([1.0, 2.0]), np.ones(5)):
        for correlation in (spearman, kendall):
            found = correlation(x, np.arange(float(len(x))))
            assert math.isnan(found.value)
            assert math.isnan(found.low)


def test_kappa_by_hand():
    # Two readers of 50 proposals: both yes 20, both no 15, yes-no 5, no-yes 10: (0.7 - 0.5) / 0.5.
    pairs = [("y", "y")] * 20 + [("n", "n")] * 15 + [("y", "n")] * 5 + [("n", "y")] * 10
    assert cohen(pairs) == pytest.approx(0.4)
    assert cohen([("a", "b"), ("b", "a")]) == pytest.approx(-1)
    assert math.isnan(cohen([("a", "a")] * 3))
    assert math.isnan(cohen([]))


def test_alpha_of_a_published_example():
    """Three observers, fifteen units, gaps (Krippendorff, Content Analysis): 0.691 for classes without order."""
    rows = ("*****34121133*3", "1*213343*******", "**21344*21133*4")
    units = [[None if mark == "*" else mark for mark in column] for column in zip(*rows, strict=True)]
    assert krippendorff(units) == pytest.approx(0.691, abs=5e-4)
    assert math.isnan(krippendorff([["a", "a"], ["a", None]]))
    assert krippendorff([["a", "b"], ["b", "a"]]) < 0


def test_units_that_keep_their_class():
    found = compare({"one": network("frau"), "two": network("frff"), "three": network("farr")})
    assert [unit.in_all for unit in found.units] == [True, False, False, False]
    assert [unit.in_most for unit in found.units] == [True, True, False, False]
    assert [unit.label for unit in found.units] == ["fragile", "robust", None, None]
    assert [unit.count for unit in found.units] == [3, 2, 0, 0]
    assert found.in_all == ("layer0",)
    assert found.in_most == ("layer0", "layer1")
    pair = found.pairs[0]
    assert (pair.first, pair.second, pair.units, pair.scored, pair.classed) == ("one", "two", 4, 4, 3)
    assert pair.equal == pytest.approx(2 / 3)


def test_what_is_no_class():
    """Two networks undecided alike do not agree; a degenerate unit has no rank."""
    found = compare({"one": network("unda"), "two": network("unda")})
    assert found.in_all == ("layer3",)
    pair = found.pairs[0]
    assert (pair.units, pair.scored, pair.classed, pair.equal) == (4, 3, 1, 1.0)
    assert math.isnan(pair.kappa)
    assert math.isnan(found.alpha)
    assert pair.spearman.value == pytest.approx(1)
    assert "3 have no class" in found.agreement
    assert "cannot be told from chance" in found.agreement
    nothing = compare({"one": network("uu"), "two": network("uf")})
    assert nothing.in_all == ()
    assert math.isnan(nothing.pairs[0].equal)
    assert math.isnan(compare({"one": network("uu"), "two": network("uu")}).alpha)
    assert "no unit has a class" in compare({"one": network("uu"), "two": network("uu")}).agreement.lower()


def test_matching_by_name():
    one = network("fra", names=["stem", "old", "head"])
    two = network("afr", names=["head", "stem", "new"])
    found = compare({"one": one, "two": two})
    assert [unit.unit for unit in found.units] == ["stem", "head"]
    assert found.in_all == ("stem", "head")
    assert found.unmatched == {"one": ("old",), "two": ("new",)}
    assert "2 units have no partner" in found.agreement
    with pytest.raises(UsageError, match="depth"):
        compare({"one": network("f", names=["a"]), "two": network("f", names=["b"])})


def test_matching_by_depth():
    large, small = network("f" * 9, names=list("abcdefghi")), network("fff", names=["x", "y", "z"])
    found = compare({"large": large, "small": small}, match="depth")
    assert [unit.names["large"] for unit in found.units] == ["a", "e", "i"]
    assert [unit.unit for unit in found.units] == ["x", "y", "z"]
    assert found.unmatched["large"] == tuple("bcdfgh")
    assert found.unmatched["small"] == ()
    # Depth 1/2 lies between b (1/3) and c (2/3) of four: the earlier one.
    even = compare({"small": small, "even": network("ffff", names=list("abcd"))}, match="depth")
    assert [unit.names["even"] for unit in even.units] == ["a", "b", "d"]
    single = compare({"one": network("f"), "three": network("fra")}, match="depth")
    assert [unit.names["three"] for unit in single.units] == ["layer0"]
    assert "convention" in found.agreement


@given(st.integers(2, 60), st.integers(0, 60))
def test_depth_matches_nearest_and_uses_no_unit_twice(small, more):
    large = small + more
    found = compare({"one": network("f" * small), "two": network("f" * large)}, match="depth", draws=1)
    rows = [int(unit.names["two"].removeprefix("layer")) for unit in found.units]
    assert rows[0] == 0
    assert rows[-1] == large - 1
    assert len(set(rows)) == small
    places = np.arange(large) / (large - 1)
    for index, row in enumerate(rows):
        distance = np.abs(places - index / (small - 1))
        assert distance[row] <= distance.min() + 1e-12


def test_words_are_honest():
    fair = np.random.default_rng(0).choice(list("fra"), (2, 300))
    found = compare({"one": network("".join(fair[0])), "two": network("".join(fair[1]))})
    assert abs(found.alpha) < 0.15
    assert abs(found.pairs[0].kappa) < 0.15
    opposite = compare({"one": network("ffaa"), "two": network("aaff")})
    assert "no better than chance" in opposite.agreement
    assert opposite.in_all == ()
    # Nine of ten agree because nearly all are fragile: the share is high and says nothing.
    usual = compare({"one": network("fffffffffa"), "two": network("affffffffff"[:10])})
    assert usual.pairs[0].equal == 0.8
    assert usual.alpha < 0
    assert "90 % of all classes are 'fragile'" in usual.agreement
    assert "no better than chance" in usual.agreement
    same = compare({"one": network("frafra"), "two": network("frafra"), "three": network("frafra")})
    assert same.alpha == 1
    assert same.agreement.startswith("6 of 6 units have one class in all 3 networks, 6 in more than half of them.")


def test_tables_are_plain():
    found = compare({"one": network("fra"), "two": network("ffa")})
    (pair,) = found.pair_records()
    assert pair["spearman"] == found.pairs[0].spearman.value
    assert {"kendall_low", "kendall_high", "kappa", "equal"} <= pair.keys()
    rows = found.unit_records()
    assert rows[1] == {
        "unit": "layer1", "label in one": "robust", "label in two": "fragile", "class": None, "networks": 0,
        "in all": False, "in most": False,
    }  # fmt: skip
    assert all(isinstance(value, str | int | float | bool | None) for row in (*rows, pair) for value in row.values())


def test_rows_of_a_result():
    scores = {
        "stem": Score("mean", "adversarial", "compressed", -0.3, -0.4, -0.2, "fragile", 0.5),
        "head": Score("mean", "adversarial", "compressed", math.nan, math.nan, math.nan, "degenerate", 0.5),
    }
    records = [
        {"unit": unit, "filter": name, "split": split, "reference": "compressed", "attack": attack,
         "score": row.score, "low": row.low, "high": row.high, "label": row.label}
        for unit, row in scores.items() for name in ("high", "mean") for split in ("clean", "adversarial")
        for attack in ("static", "adaptive")
    ]  # fmt: skip
    one, two = labelled(scores), labelled(records, attack="adaptive")
    assert one.names == two.names == ("stem", "head")
    assert one.labels == two.labels == ("fragile", "degenerate")
    assert np.array_equal(one.scores, two.scores, equal_nan=True)
    assert one.classes == ("fragile", None)
    assert compare({"one": scores, "two": two}).in_all == ("stem",)
    for bad in ({}, {"filter": "pulse"}):  # two attacks for a unit; none
        with pytest.raises(UsageError):
            labelled(records, **bad)


@pytest.mark.parametrize("bad", [{"match": "size"}, {"level": 1.0}, {"draws": 0}, {"networks": {"one": network("f")}}])
def test_what_cannot_be_compared(bad):
    with pytest.raises(UsageError):
        compare(**({"networks": {"one": network("f"), "two": network("r")}} | bad))


def test_labels_are_known():
    assert set(CLASSES) == {"fragile", "robust", "antifragile"}
    values = np.zeros(1)
    for names, labels in ((("a",), ("brittle",)), (("a", "a"), ("robust", "robust")), ((), ()), (("a",), ())):
        with pytest.raises(UsageError):
            Labelled(names, values, values, values, labels)
