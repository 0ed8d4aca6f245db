"""An audit that holds what export formats trip over: names, texts, types and numbers of every awkward sort."""

from __future__ import annotations

import math

import numpy

from assay.grade import Grade
from assay.results import Audit, Column, Finding, Provenance, Quantity, Result, Status, Table

NAMES = ("../../etc/passwd", "CON", "a/b", "A/B", "x" * 300, "", "naïve ☃", "tab\tnew\nline\0nul", "‮evil", "layers")
TEXTS = (
    *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =2", "'quoted", "＝1", 'say "hi"', "a,b", "two\r\nlines"),
    *("", "NaN", "true", "1", "null", "</script>", "‮rtl", "☃", "\x1b[31mred"),
)
NUMBERS = (0.1, -0.0, 1e300, 5e-324, math.nan, math.inf, -math.inf, 1.0, None)

AWKWARD = Table(
    "awkward",
    "Awkward | table",
    (
        Column("text", "A label", description="any text"),
        Column("number", "", "output sd", Grade.SAMPLED, "a number"),
        Column("whole"),
        Column("both", "", "", Grade.EXACT),
        Column("flag"),
        Column("large"),
        Column("giant"),
        Column("mixed"),
        Column("none", grade=Grade.BOUND),
        Column("empty"),
        Column("=cmd|' /C calc'!A0", node=True),
    ),
    tuple(
        (
            text,
            NUMBERS[index % len(NUMBERS)],
            [index, -index, None][index % 3],
            [index, index + 0.5][index % 2],
            [True, False, None][index % 3],
            2**63 + index,
            10**25 + index,
            ["NaN", math.nan, 3, 0.5, True, None, -math.inf, "=1"][index % 8],
            None,
            None,
            f"node{index}",
        )
        for index, text in enumerate(TEXTS)
    ),
    caption="what formats trip over",
)


def audit() -> Audit:
    """Two results with hostile names, all kinds of cells, arrays, and quantities that are not finite."""
    summary = {
        "fine": Quantity(0.25, Grade.EXACT, "sd", "a fine number", 0.2, 0.3, "95 %"),
        "not a number": Quantity(math.nan, Grade.SAMPLED),
        "in\0finite": Quantity(math.inf, Grade.BOUND, "", "unbounded", -math.inf, None),
        "/../escape": Quantity(1, Grade.LINEARISED),
    }
    tables = {name: Table(name, name, AWKWARD.columns[:1], (("=1",), (None,))) for name in NAMES}
    provenance = Provenance(
        analysis="../../up",
        model="m",
        model_digest="sha256:1",
        data="d",
        data_digest="sha256:2",
        config={"seed": 0, "nested": {"list": [1, 2.5, math.inf], "none": None}, "long": "x" * 9000},
        seed=0,
        versions={"torch": "2.13"},
        trusted=("factory.py",),
    )
    findings = (
        Finding("rule.one", Status.FAIL, '=HYPERLINK("http://x") [a](b) <b>', "layer|1", "-next"),
        Finding("rule.two", Status.PASS, "fine"),
    )
    arrays = {
        "picture": numpy.array([[0.5, numpy.nan], [numpy.inf, -0.0]], "float32"),
        "wrong end": numpy.arange(3, dtype=">i8"),
        "flags": numpy.array([True, False]),
        "\0odd": numpy.zeros((0, 2), "float16"),
    }
    hostile = Result(
        "../../up", "Title", "Why?", summary, {"awkward": AWKWARD, **tables}, arrays, (), findings, ("w",), provenance
    )
    plain = Result("plain", "Plain", "", tables={"layers": Table("layers", "", (Column("a"),), ())})
    subject = {"name": "=model", "model_digest": "sha256:1", "data": "d", "data_digest": "sha256:2", "odd": math.nan}
    return Audit(subject, {"../../up": hostile, "plain": plain}, {"boundary": "no, really"}, "", AWKWARD)
