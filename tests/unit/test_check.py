"""Rules: what they can say, what passes, and what a mistake in one is answered with."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from assay.errors import UsageError
from assay.grade import Grade
from assay.requiring import check, listing, parse_rule, read_rules
from assay.requiring.rules import Rule
from assay.results import Audit, Column, Quantity, Result, Status, Table
from assay.results.paths import statistic

TABLE = Table(
    "inputs",
    "Inputs",
    (
        Column("input"),
        Column("label"),
        Column("flip_0.1", "", "", Grade.CLOSED_FORM),
        Column("noise", "", "of range", Grade.LINEARISED),
        Column("correct"),
    ),
    (
        (1, "zero", 0.01, 0.5, True),
        (2, "one, two", 0.02, 0.4, True),
        (3, 'a "b" [c] <= 3', 0.3, None, False),
        (4, "zero", 0.0, 0.1, True),
    ),
)
WIDTHS = Table(
    "widths",
    "Widths",
    (Column("node", "", node=True), Column("bits", "", "bit", Grade.EXACT), Column("noise", "", "", Grade.EXACT)),
    (("conv1", 4, 1.0), ("conv2", 6, 2.0), ("head", 8, math.nan)),
)
RUN = Audit(
    {"name": "net"},
    {
        "moments": Result(
            "moments",
            "",
            "",
            {
                "flip_probability": Quantity(0.0825, Grade.CLOSED_FORM, basis="inputs.flip_0.1.mean"),
                "rate": Quantity(0.5, Grade.SAMPLED, "share", "", 0.4, 0.6, "95 %"),
                "nothing": Quantity(math.nan, Grade.SAMPLED),
                "endless": Quantity(math.inf, Grade.BOUND),
            },
            {"inputs": TABLE, "widths": WIDTHS},
            {"confusion": np.array([[1, 2], [3, 4]])},
        )
    },
    {"sensitivity": "The model could not be captured."},
)


def status(text: str, **about) -> str:
    return check(RUN, [replace(parse_rule(text), **about)])[0].status.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("moments.flip_probability <= 1", 0.0825),
        ("moments.flip_probability.max <= 1", 0.3),
        ("moments.flip_probability.q50 <= 1", 0.015),
        ("moments.flip_probability[label=zero].max <= 1", 0.01),
        ("moments.bits.max<=8", 8),
        ("moments.bits.min >= 4", 4),
        ("moments.bits.sum < 100", 18),
        ("moments.widths.bits.mean == 6", 6),
        ("moments.bits[node=conv2] == 6", 6),
        ("moments.inputs.flip_0.1.q99.5 <= 1", np.percentile([0.01, 0.02, 0.3, 0.0], 99.5)),
        ("moments.flip_0.1.median < 1", 0.015),
        ("moments.inputs.noise[input=4] > 0", 0.1),
        ("moments.inputs.noise[input=4.0] > 0", 0.1),
        ('moments.flip_0.1[label="one, two"] < 1', 0.02),
        ("moments.flip_0.1[label='a \"b\" [c] <= 3'] < 1", 0.3),
        ("moments.flip_0.1[label=zero, input=4] == 0", 0.0),
        ("moments.flip_0.1[correct=no] < 1", 0.3),
        ("moments.correct.mean >= 0.7", 0.75),
        ("moments.label.count == 4", 4),
        ("moments.label[label=zero].count == 2", 2),
        ("moments.label[label=nobody].count == 0", 0),
        ("moments.confusion.max <= 4", 4),
        ("moments.confusion.count == 4", 4),
        ("moments.rate != 0.4", 0.5),
        ("moments.endless >= 1e300", math.inf),
        ("moments.rate > -1e-3", 0.5),
    ],
)
def test_what_a_path_names(text: str, value: float):
    outcome = check(RUN, [parse_rule(text)])[0]
    assert outcome.value == pytest.approx(value)
    assert outcome.status is Status.PASS


@pytest.mark.parametrize(
    "text",
    [
        "moments.flip_probability < 0.0825",
        "moments.bits.max < 8",
        "moments.bits.max <= 7.999",
        "moments.rate >= 0.5001",
        "moments.endless < 1e308",
        "moments.rate == 0.51",
        "moments.bits.max != 8",
    ],
)
def test_what_is_not_met_fails(text: str):
    assert status(text) == "fail"
    assert status(text, severity="warn") == "warn"


@pytest.mark.parametrize("operator", ["<=", ">=", "==", "!=", "<", ">"])
@pytest.mark.parametrize(
    "path",
    ["moments.nothing", "moments.inputs.noise.max", "moments.inputs.noise[input=3]", "moments.widths.noise.min",
     "moments.inputs.noise.count", "moments.widths.noise.sum"],
)  # fmt: skip
def test_what_is_missing_or_not_a_number_never_passes(path: str, operator: str):
    assert status(f"{path} {operator} 0") == "fail"


def test_what_is_missing_is_counted():
    outcome = check(RUN, [parse_rule("moments.inputs.noise.max <= 1")])[0]
    assert outcome.sentence == "Does not pass: 1 of 4 values are missing or not a number."
    assert all(math.isnan(statistic([1.0, gap], name)) for gap in (None, math.nan) for name in ("count", "max", "q50"))


def test_an_analysis_that_was_left_out_is_an_error():
    outcome = check(RUN, [parse_rule("sensitivity.bits.max <= 8")])[0]
    assert outcome.status is Status.ERROR
    assert "could not be captured" in outcome.sentence
    assert outcome.value is None


def test_grades_that_a_rule_asks_for():
    assert status("moments.endless > 1", grades=(Grade.EXACT, Grade.BOUND)) == "pass"
    assert status("moments.rate > 0", grades=(Grade.EXACT, Grade.BOUND)) == "fail"
    assert status("moments.label.count == 4", grades=(Grade.EXACT,)) == "fail"
    assert (
        "sampled; the rule asks for exact"
        in check(RUN, [Rule("moments.rate", ">", 0, grades=(Grade.EXACT,))])[0].sentence
    )


def test_the_end_of_an_interval():
    assert status("moments.rate <= 0.55") == "pass"
    assert status("moments.rate <= 0.55", use="high") == "fail"
    assert status("moments.rate >= 0.45", use="low") == "fail"
    assert status("moments.rate <= 0.6", use="high") == "pass"
    assert status("moments.flip_probability <= 1", use="high") == "fail"  # it has no interval
    assert status("moments.bits.max <= 9", use="high") == "fail"


def test_outcomes_say_value_unit_grade_and_interval():
    outcome = check(RUN, [Rule("moments.rate", "<", 0.6, "robustness", because="agreed", use="high")])[0]
    assert outcome.name == "robustness"
    assert outcome.rule == "moments.rate (high end) < 0.6"
    assert outcome.sentence == ("0.6 share (high end of the interval) does not meet < 0.6; sampled, 0.4 to 0.6 (95 %).")
    assert (outcome.unit, outcome.grade, outcome.because) == ("share", Grade.SAMPLED, "agreed")


@pytest.mark.parametrize(
    ("text", "what", "advice"),
    [
        ("moment.rate < 1", "no analysis 'moment'", "moments"),
        ("moments.flip_probabilty < 1", "no quantity", "flip_probability"),
        ("moments.bits < 1", "3 values", "statistic"),
        ("moments.noise.max < 1", "Several tables", "inputs.noise, widths.noise"),
        ("moments.label.max < 1", "texts", "count"),
        ("moments.label[input=1] < 1", "texts", "count"),
        ("moments.rate.max < 1", "single number", "Leave out"),
        ("moments.bits[layer=conv1] < 1", "no column 'layer'", "node"),
        ("moments.bits[node=conv] < 1", "No row has node = 'conv'", "conv1"),
        ("moments.confusion[row=1] < 1", "array", "selector"),
        ("moments.bits[node=conv1].most < 1", "no statistic", "max"),
        ("moments.bits[node] < 1", "selector", "column=value"),
        ("moments.bits[node=conv1 < 1", "selector", "column=value"),
    ],
)
def test_a_path_that_names_nothing_is_explained(text: str, what: str, advice: str):
    with pytest.raises(UsageError) as error:
        check(RUN, [parse_rule(text)])
    assert what in error.value.what
    assert advice in error.value.advice


@pytest.mark.parametrize(
    "text",
    [
        "",
        "moments.rate",
        "moments.rate < ",
        "rate < 1",
        "moments.rate = 1",
        "moments.rate < nan",
        "moments.rate < x",
        "< 3",
        "a.b < 1 2",
    ],
)
def test_what_is_no_rule(text: str):
    with pytest.raises(UsageError):
        parse_rule(text)


def test_rules_from_a_file(tmp_path: Path):
    file = tmp_path / "rules.toml"
    file.write_text(
        """
require = ["moments.bits.max <= 8", "moments.rate > 0"]

[[rule]]
path = "moments.rate"
op = "<="
value = 0.55
use = "high"
name = "robustness"
severity = "warn"
because = "agreed in June"
grade = "closed_form"

[[rule]]
text = "moments.bits[node='conv1'] < 5"
grade = ["sampled", "exact"]
""",
        encoding="utf-8",
    )
    rules = read_rules(file)
    assert [rule.text for rule in rules] == [
        "moments.bits.max <= 8",
        "moments.rate > 0",
        "moments.rate (high end) <= 0.55",
        "moments.bits[node='conv1'] < 5",
    ]
    assert rules[2].grades == (Grade.EXACT, Grade.BOUND, Grade.CLOSED_FORM)
    assert rules[3].grades == (Grade.SAMPLED, Grade.EXACT)
    assert [outcome.status.value for outcome in check(RUN, rules)] == ["pass", "pass", "warn", "pass"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "require = []",
        "require = 'moments.rate < 1'",
        "require = [3]",
        "rules = ['moments.rate < 1']",
        "rule = 3",
        "[[rule]]\nname = 'empty'",
        "[[rule]]\ntext = 'moments.rate < 1'\nvalue = 3",
        "[[rule]]\npath = 'moments.rate'\nop = '<'",
        "[[rule]]\npath = 'moments.rate'\nop = '=<'\nvalue = 1",
        "[[rule]]\npath = 'moments.rate'\nop = '<'\nvalue = '1'",
        "[[rule]]\npath = 'moments.rate'\nop = '<'\nvalue = nan",
        "[[rule]]\npath = 'moments.rate'\nop = '<'\nvalue = true",
        "[[rule]]\ntext = 'moments.rate < 1'\nseverity = 'error'",
        "[[rule]]\ntext = 'moments.rate < 1'\nuse = 'upper'",
        "[[rule]]\ntext = 'moments.rate < 1'\ngrade = 'good'",
        "[[rule]]\ntext = 'moments.rate < 1'\ngrade = 3",
        "[[rule]]\ntext = 'moments.rate < 1'\nname = 3",
        "[[rule]]\ntext = 'moments.rate < 1'\nseverty = 'warn'",
        "require = [",
    ],
)
def test_files_that_are_no_rules(tmp_path: Path, content: str):
    file = tmp_path / "rules.toml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError):
        read_rules(file)
    with pytest.raises(UsageError):
        read_rules(tmp_path / "absent.toml")


def test_every_path_that_is_listed_can_be_checked():
    entries = listing(RUN)
    assert {entry.path for entry in entries} >= {"moments.rate", "moments.inputs.flip_0.1", "moments.confusion"}
    for entry in entries:
        path = entry.path if entry.value is not None else f"{entry.path}.max"
        outcome = check(RUN, [Rule(path, "<=", math.inf)])[0]
        assert outcome.status is (Status.FAIL if entry.missing else Status.PASS), entry
        if entry.value is None and not entry.missing:
            assert outcome.value == entry.high


def test_old_runs_without_the_new_fields_still_open(tmp_path: Path):
    """A run written before quantities said which way is better, and what they sum up."""
    from assay.store import open_run
    from assay.store.write import save_audit

    save_audit(RUN, tmp_path)
    assert open_run(tmp_path).results["moments"].summary["flip_probability"].basis == "inputs.flip_0.1.mean"
    file = tmp_path / "results" / "moments.json"
    document = json.loads(file.read_text())
    from assay.store import decode

    for quantity in document["summary"]:
        for field in ("better", "basis", "confidence"):
            del quantity[field]
    reader = decode.Reader(decode.value(document, "here"), "here")
    old = decode.result(reader, {"confusion": RUN.results["moments"].arrays["confusion"]}, {})
    assert old.summary["rate"] == RUN.results["moments"].summary["rate"]
    assert old.summary["flip_probability"].basis == ""
    document["summary"][0]["better"] = "sideways"
    with pytest.raises(Exception, match="better"):
        decode.result(decode.Reader(decode.value(document, "here"), "here"), {"confusion": np.zeros(1)}, {})
