"""Comparing runs: differences that are there are found, chance is not taken for one, and doubts are said."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, norm
from tests.support.comparing import finding, measured

from assay.comparing import compare, joined
from assay.comparing.evidence import evidence
from assay.comparing.quantities import Difference, Verdict, judged
from assay.comparing.resampling import Evidence, paired, unpaired
from assay.errors import UsageError
from assay.grade import Grade
from assay.results import Audit, Quantity, Result, Status

QUICK = {"resamples": 999}


def verdicts(before: Audit, after: Audit, **settings) -> dict[str, str]:
    table = compare(before, after, **QUICK | settings).tables["quantities"]
    return dict(zip(table.column("quantity"), table.column("verdict"), strict=True))


def row(result: Result, quantity: str) -> dict[str, object]:
    table = result.tables["quantities"]
    return dict(zip([c.name for c in table.columns], table.rows[table.column("quantity").index(quantity)], strict=True))


def noisy(rng: np.random.Generator, spread: float = 1.0, count: int = 30) -> list[float]:
    return rng.lognormal(0.0, spread, count).tolist()


def test_a_run_does_not_differ_from_itself():
    run = measured({"kappa": noisy(np.random.default_rng(0))}, shares={"accuracy": (0.9, 100)}, layers={"a": 1.0})
    result = compare(run, run, **QUICK)
    assert set(result.tables["quantities"].column("verdict")) == {"no difference shown"}
    assert result.status is Status.PASS
    assert result.summary["worse"].value == result.summary["better"].value == 0
    assert any("same model and weights" in warning for warning in result.warnings)


def test_what_got_worse_and_what_got_better():
    rng = np.random.default_rng(1)
    x = np.array(noisy(rng))
    after = measured(
        {"up": (x * 1.1).tolist(), "down": (x * 0.9).tolist(), "same": (x * rng.normal(1, 0.05, 30)).tolist()},
        shares={"accuracy": (0.7, 500), "recall": (0.9, 500)},
    )
    before = measured(
        {"up": x.tolist(), "down": x.tolist(), "same": x.tolist()},
        shares={"accuracy": (0.9, 500), "recall": (0.9, 500)},
    )
    assert verdicts(before, after) == {
        "up": "worse",
        "down": "better",
        "same": "no difference shown",
        "accuracy": "worse",
        "recall": "no difference shown",
    }
    result = compare(before, after, **QUICK)
    assert [(f.status, f.rule) for f in result.findings] == [
        (Status.WARN, "compare.probe.up"),
        (Status.WARN, "compare.probe.accuracy"),
        (Status.PASS, "compare.probe.down"),
        (Status.PASS, "compare.checks"),
    ]
    assert result.summary["worse"].value == 2
    assert row(result, "up")["method"] == "paired bootstrap over 30 samples"
    assert row(result, "up")["grade"] == "linearised"
    assert row(result, "up")["change"] == pytest.approx(0.1)
    assert row(result, "accuracy")["method"] == "intervals of both runs"


@pytest.mark.parametrize("kind", ["paired", "unpaired"])
def test_false_alarms_are_as_rare_as_stated(kind: str):
    """40 comparisons of six quantities where nothing but chance differs: at most 5 % may find anything.

    At exactly 5 % the limit is exceeded with a probability below 0.001.
    """
    rng, comparisons = np.random.default_rng(2), 40
    alarms = 0
    for _ in range(comparisons):
        truth = {name: np.array(noisy(rng, count=24)) for name in ("a", "b", "c", "d")}
        sides = []
        for side in range(2):
            values = {
                name: (x * rng.lognormal(0, 0.3, 24) if kind == "paired" else noisy(rng, count=24))
                for name, x in truth.items()
            }
            columns = {name: list(map(float, x)) for name, x in values.items()}
            shares = {name: (rng.binomial(200, 0.8) / 200, 200) for name in ("e", "f")}
            digest = "d" if kind == "paired" else f"d{side}"
            sides.append(measured(columns, shares=shares, digest=digest))
        result = compare(*sides, **QUICK)
        alarms += any(result.summary[name].value for name in ("worse", "better", "changed"))
    limit = int(binom.ppf(0.999, comparisons, 0.05))
    assert limit <= 8
    assert alarms <= limit, f"{alarms} of {comparisons}"


def test_real_differences_are_found():
    """A quarter more with a noise of 30 % on 40 of the same inputs: found in at least 27 of 30 comparisons."""
    rng = np.random.default_rng(3)
    found = 0
    for _ in range(30):
        x = np.array(noisy(rng, 0.5, 40))
        before, after = (
            measured({"kappa": (x * factor * rng.lognormal(0, 0.1, 40)).tolist()}) for factor in (1.0, 1.25)
        )
        found += verdicts(before, after)["kappa"] == "worse"
    assert found >= 27


def test_pairing_sees_what_unpaired_data_hide():
    rng = np.random.default_rng(4)
    x = np.array(noisy(rng, 1.5))
    before = measured({"kappa": x.tolist()})
    assert verdicts(before, measured({"kappa": (1.1 * x).tolist()}))["kappa"] == "worse"
    others = measured({"kappa": (1.1 * x).tolist()}, digest="e" * 64)
    result = compare(before, others, **QUICK)
    assert row(result, "kappa")["verdict"] == "no difference shown"
    assert row(result, "kappa")["method"] == "bootstrap over 30 and 30 samples"
    assert any("data differ" in warning for warning in result.warnings)


def test_the_permutation_test_agrees_with_enumeration():
    """With six pairs there are 64 ways to swap; the sampled p-value must be near the exact share of them."""
    rng = np.random.default_rng(5)
    before, after = rng.normal(size=(6, 1)), rng.normal(0.8, 1, size=(6, 1))
    d = (after - before).ravel()
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T
    exact = (np.abs(signs @ d) >= abs(d.sum()) * (1 - 1e-12)).mean()
    found = paired(before, after, "mean", level=0.95, resamples=9999).p_value
    assert found == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 9999) + 1e-4)


def test_permutation_p_values_are_uniform_where_nothing_differs():
    """200 p-values of equal distributions: the share below 0.2 lies within four deviations of 0.2."""
    rng = np.random.default_rng(6)
    for test in (paired, unpaired):
        p = [
            test(rng.normal(size=(20, 1)), rng.normal(size=(20, 1)), "mean", level=0.95, resamples=199).p_value
            for _ in range(200)
        ]
        assert abs(np.mean(np.array(p) <= 0.2) - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 200)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_bootstrap_intervals_cover(statistic: str):
    """95 % intervals of a change of 1 on 20 inputs: 400 of them cover it as often as stated, to four deviations."""
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        x = rng.normal(size=(20, 1))
        found = paired(x, x + rng.normal(1, 0.5, size=(20, 1)), statistic, level=0.95, resamples=199)
        covered += found.low <= 1 <= found.high
    assert abs(covered / 400 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 400)


def test_several_values_of_one_input_count_once():
    """The same six paths seen through ten outputs that move together are six samples, not sixty."""
    rng = np.random.default_rng(8)
    paths = np.repeat(np.arange(6), 10)
    x, moved = rng.lognormal(size=6), rng.lognormal(0, 0.4, size=6)
    before = measured({"smp": np.repeat(x, 10).tolist()}, inputs=paths.tolist())
    after = measured({"smp": np.repeat(x * moved, 10).tolist()}, inputs=paths.tolist())
    result = compare(before, after, **QUICK)
    assert row(result, "smp")["method"] == "paired bootstrap over 6 samples"
    assert float(row(result, "smp")["p"]) >= 1 / 64  # type: ignore[arg-type]


def test_many_tests_are_paid_for():
    """A p-value near 0.01 is a difference when it is the only one tested, and none beside thirty others."""
    x = np.linspace(1, 2, 30)
    moved = np.where(np.arange(30) < 26, 1.1, 0.9) * x
    alone = compare(measured({"kappa": x.tolist()}), measured({"kappa": moved.tolist()}), resamples=9999)
    assert 0.005 < float(row(alone, "kappa")["p"]) < 0.03  # type: ignore[arg-type]
    assert row(alone, "kappa")["verdict"] == "worse"
    others = {f"q{i}": x.tolist() for i in range(30)}
    crowd = compare(
        measured({"kappa": x.tolist()} | others), measured({"kappa": moved.tolist()} | others), resamples=999
    )
    assert row(crowd, "kappa")["verdict"] == "no difference shown"


@pytest.mark.parametrize(
    ("low", "high", "p", "verdict"),
    [
        (0.1, 0.9, 0.01, Verdict.WORSE),
        (-0.9, -0.1, 0.01, Verdict.BETTER),
        (-0.1, 0.9, 0.01, Verdict.NOT_SHOWN),
        (0.0, 0.9, 0.01, Verdict.NOT_SHOWN),
        (0.1, 0.9, 0.06, Verdict.NOT_SHOWN),
    ],
)
def test_both_the_p_value_and_the_interval_must_agree(low: float, high: float, p: float, verdict: Verdict):
    quantity = Quantity(1.0, Grade.SAMPLED, better="lower")
    middle = (low + high) / 2
    after = replace(quantity, value=1.0 + middle)
    seen = Evidence(middle, low, high, p, "", 30)
    found = Difference("a", "b", quantity, after, seen)
    assert judged([found], level=0.95, smallest=1e-3)[0].verdict is verdict


def test_no_p_value_is_zero():
    x = np.arange(40.0).reshape(-1, 1)
    assert paired(x, x + 1, "mean", level=0.95, resamples=999).p_value == 1 / 1000
    assert unpaired(x, x + 1000, "mean", level=0.95, resamples=999).p_value == 1 / 1000


def test_rounding_is_no_news():
    x = np.array(noisy(np.random.default_rng(10)))
    assert verdicts(measured({"a": x.tolist()}), measured({"a": (x * 1.0005).tolist()}))["a"] == "no difference shown"
    assert verdicts(measured({"a": x.tolist()}), measured({"a": (x * 1.0005).tolist()}), smallest=0.0)["a"] == "worse"


def one(quantity: Quantity, **config) -> Audit:
    run = measured({"other": [1.0, 2.0, 3.0]}, **config)
    result = run.results["probe"]
    return Audit(
        run.subject, {"probe": Result("probe", "", "", {"q": quantity}, result.tables, provenance=result.provenance)}
    )


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (Quantity(1.0, Grade.EXACT), Quantity(9.0, Grade.EXACT), "no interval"),
        (Quantity(1.0, Grade.SAMPLED, low=0.9, high=1.1), Quantity(9.0, Grade.SAMPLED, low=8, high=10), "no interval"),
        (Quantity(1.0, Grade.EXACT, "bit"), Quantity(9.0, Grade.EXACT, "share"), "units differ"),
        (Quantity(math.nan, Grade.EXACT), Quantity(9.0, Grade.EXACT), "not finite"),
        (
            Quantity(3.0, Grade.EXACT, basis="inputs.other.max"),
            Quantity(9.0, Grade.EXACT, basis="inputs.other.max"),
            "an extreme",
        ),
        (
            Quantity(2.0, Grade.EXACT, basis="inputs.other.median"),
            Quantity(9.0, Grade.EXACT, basis="inputs.other.median"),
            "fewer than 5",
        ),
        (
            Quantity(2.0, Grade.EXACT, low=2.0, high=2.0, confidence=0.95),
            Quantity(9.0, Grade.EXACT, low=9.0, high=9.0, confidence=0.95),
            "no interval",
        ),
    ],
)
def test_without_evidence_nothing_is_judged(before: Quantity, after: Quantity, why: str):
    result = compare(one(before), one(after), **QUICK)
    assert row(result, "q")["verdict"] == "not judged"
    assert why in str(row(result, "q")["method"])
    assert result.summary["not_judged"].value == 1
    assert next(f for f in result.findings if f.rule == "compare.worse").status is Status.WARN


def test_another_setting_behind_the_same_name_is_not_compared():
    x = noisy(np.random.default_rng(11))
    before = measured({"flip": x}, sigmas=[0.1])
    after = measured({"flip": [3 * each for each in x]}, sigmas=[0.2])
    result = after.results["probe"]
    renamed = replace(result.summary["flip"], label="P(flip) at 0.2")
    moved = Audit(
        after.subject,
        {"probe": Result("probe", "", "", {"flip": renamed}, result.tables, provenance=result.provenance)},
    )
    found = compare(before, moved, **QUICK)
    assert row(found, "flip")["verdict"] == "not judged"
    assert any("sigmas [0.1] and [0.2]" in warning for warning in found.warnings)
    assert verdicts(before, after)["flip"] == "worse"  # the label says that it is the same


def test_a_direction_that_only_one_run_declares_is_none():
    x = noisy(np.random.default_rng(12))
    before = measured({"kappa": x})
    after = measured({"kappa": [2 * each for each in x]})
    old = before.results["probe"]
    plain = replace(old.summary["kappa"], better=None)
    before = Audit({}, {"probe": Result("probe", "", "", {"kappa": plain}, old.tables, provenance=old.provenance)})
    assert verdicts(before, after)["kappa"] == "changed"


def test_missing_values_are_left_out_in_pairs_and_told():
    x = noisy(np.random.default_rng(13))
    gaps: list[float | None] = [None, None, *[2 * each for each in x[2:]]]
    found = compare(measured({"kappa": x}), measured({"kappa": gaps}), **QUICK)
    assert row(found, "kappa")["method"] == (
        "paired bootstrap over 28 samples; 2 samples without a value in one of the runs left out"
    )
    found = compare(measured({"kappa": x}), measured({"kappa": gaps}, digest="e"), **QUICK)
    assert "values are missing" in str(row(found, "kappa")["method"])


def test_intervals_combine_as_newcombe_does():
    """Newcombe's hybrid score interval of 56/70 - 48/80 is 0.0524 to 0.3339 (Stat. Med. 17, 1998, table II)."""
    from assay.intervals import wilson

    sides = []
    for successes, trials in ((48, 80), (56, 70)):
        share = successes / trials
        sides.append(Quantity(share, Grade.SAMPLED, "", "", *wilson(share, trials), "95 % Wilson", None, "", 0.95))
    empty = Result("a", "", "")
    found, _ = evidence((sides[0], empty), (sides[1], empty), same_data=False, level=0.95, resamples=999)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=6e-5)
    z = 1.959964 * 0.2 / (0.2 - 0.0524)  # the level at which the lower end reaches 0
    assert found.p_value == pytest.approx(2 * norm.sf(z), rel=0.01)


def test_checks_that_appear_and_disappear():
    before = measured(
        {"a": [1.0] * 6},
        findings=[finding("one", Status.PASS), finding("two", Status.FAIL), finding("three", Status.WARN)],
    )
    after = measured(
        {"a": [1.0] * 6},
        findings=[finding("one", Status.WARN), finding("two", Status.PASS), finding("four", Status.PASS)],
    )
    result = compare(before, after, **QUICK)
    table = result.tables["findings"]
    changes = dict(zip(table.column("rule"), table.column("change"), strict=True))
    assert changes == {"one": "appeared", "two": "disappeared", "three": "disappeared", "four": "new check"}
    said = next(f for f in result.findings if f.rule == "compare.checks")
    assert said.status is Status.WARN
    assert "one (warn)" in said.sentence


def test_layers_match_by_name():
    values = {"a": [1.0] * 6}
    result = compare(
        measured(values, layers={"x": 1.0, "y": 2.0, "z": 4.0}), measured(values, layers={"x": 1.0, "y": 6.0, "w": 1.0})
    )
    changes = result.tables["layer_changes"]
    assert changes.column("layer") == ["y"]
    assert changes.column("ratio") == [3.0]
    ratios = result.tables["layers"]
    assert ratios.column("node") == ["nx", "ny"]
    assert ratios.columns[0].node
    assert any("2 layers go by the same name" in warning for warning in result.warnings)
    other = compare(measured(values, layers={"x": 1.0}), measured(values, layers={"q": 1.0}))
    assert "layers" not in other.tables
    assert any("layers are not compared" in warning for warning in other.warnings)


def test_runs_without_a_common_analysis_are_refused():
    run = measured({"a": [1.0] * 6})
    other = Audit({}, {"boundary": Result("boundary", "", "")})
    with pytest.raises(UsageError, match="no analysis in common") as error:
        compare(run, other)
    assert "probe" in error.value.where
    with pytest.raises(UsageError):
        compare(run, Audit({}, {}))


@pytest.mark.parametrize("settings", [{"level": 1.0}, {"smallest": -1.0}, {"resamples": 10}])
def test_settings_out_of_range(settings):
    run = measured({"a": [1.0] * 6})
    with pytest.raises(UsageError):
        compare(run, run, **settings)


def test_the_same_runs_give_the_same_bytes(tmp_path):
    x = noisy(np.random.default_rng(14))
    before, after = measured({"a": x}), measured({"a": [1.2 * each for each in x]})
    for name in ("one", "two"):
        joined(before, after, compare(before, after, **QUICK)).save(tmp_path / name)
    files = [
        sorted(p.relative_to(tmp_path / name) for p in (tmp_path / name).rglob("*") if p.is_file())
        for name in ("one", "two")
    ]
    assert files[0] == files[1]
    for file in files[0]:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_comparison_is_a_run_like_any(tmp_path):
    from assay.render.json import to_json
    from assay.store import open_run

    x = noisy(np.random.default_rng(15))
    before = measured({"a": x}, layers={"x": 1.0, "y": 2.0})
    after = measured({"a": [1.5 * each for each in x]}, layers={"x": 2.0, "y": 2.0})
    run = joined(before, after, compare(before, after, **QUICK))
    again = open_run(run.save(tmp_path / "run"))
    assert again.results["compare"].tables == run.results["compare"].tables
    assert json.loads(to_json(again))["results"]["compare"]["summary"]["worse"]["value"] == 1
    page = again.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Before and after" in page
    assert page.count("<svg") >= 2
    assert "could not be drawn" not in page
