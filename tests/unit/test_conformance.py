"""assay's own operators, analyses and export formats pass the tests that it offers to others; broken ones do not."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field
from tests.support.calls import CALLS

from assay.analyses import Analysis
from assay.conformance import check_analysis, check_operator, check_renderer
from assay.errors import AssayError, UsageError
from assay.grade import Grade
from assay.graph import OPERATORS, Aten, Operator, Sample
from assay.render.registry import renderers
from assay.render.text import clean
from assay.results import Audit, Finding, Quantity, Result, Status
from assay.results.atomic import write_atomic

GIVEN = {f"aten.{name}": call for name, call in CALLS.items()}


@pytest.mark.parametrize("name", list(OPERATORS))
def test_operators_conform(name: str):
    check_operator(name, calls=GIVEN)


def samples(generator: torch.Generator) -> Sequence[Sample]:
    return [Sample((2 * torch.randn(3, 4, generator=generator, dtype=torch.float64),))]


def row(evaluate: Callable[..., Any], **traits: Any) -> Operator:
    return Operator("trial", "activation", evaluate, traits.pop("samples", samples), **traits)


def drawn(x: torch.Tensor) -> torch.Tensor:
    return x + torch.rand(())


ONE = (frozenset({0}),)
LINEAR = OPERATORS["linear"]
BROKEN = {
    "there is no sample": row(torch.tanh, samples=lambda generator: []),
    "not finite": row(torch.log),
    "another value": row(drawn),
    "changes its inputs": row(lambda x: x.clamp_(min=0)),
    "must be float64": row(torch.tanh, samples=lambda g: [Sample((torch.randn(2, 3, generator=g),))]),
    "not affine": row(lambda x: x + 1, linear_in=ONE),
    "not linear": row(torch.relu, linear_in=ONE),
    "`squared` does not carry": row(lambda x: 3 * x, linear_in=ONE, squared=lambda x: 3 * x),
    "`transposed` is not": replace(LINEAR, name="trial", transposed=lambda u, shape, w, *_: 2 * u @ w, aten=()),
    "neighbours matter": row(lambda x: x.cumsum(1), elementwise=True),
    "another shape": row(lambda x: x[:1], elementwise=True),
    "kinks belong": row(torch.tanh, kinks=(0.0,)),
    "no kink at 1": row(torch.relu, elementwise=True, kinks=(0.0, 1.0)),
    "a kink near": row(torch.relu, elementwise=True),
    "kink near 0.123": row(lambda x: (x - 0.1234).abs(), elementwise=True, kinks=(0.0,)),
    "kink near 0.00": row(lambda x: torch.relu(x).square(), elementwise=True),
    "ascending": row(lambda x: x.clamp(0, 1), elementwise=True, kinks=(1.0, 0.0)),
    "not linear between": row(lambda x: torch.relu(x).square(), elementwise=True, kinks=(0.0,), piecewise_linear=True),
    "torch has no such call": row(torch.relu, aten=(Aten("no_such.default"),)),
    "is not the call's": row(lambda x: x.clamp(min=0) * 1.001, aten=(Aten("relu.default"),)),
    "give `calls`": row(torch.relu, aten=(Aten("add.Tensor", ("self", "other")),)),
}


@pytest.mark.parametrize("why", BROKEN)
def test_operators_that_do_not_conform(why: str):
    with pytest.raises(AssertionError, match="operator trial:") as caught:
        check_operator(BROKEN[why])
    assert why in str(caught.value)


def test_an_operator_that_capture_does_not_meet(monkeypatch: pytest.MonkeyPatch):
    table: Any = OPERATORS
    trial = row(torch.arctan, elementwise=True, aten=(Aten("atan.default"),))
    monkeypatch.setitem(table.others, "trial", trial)  # in the table of operators, but not in that of calls
    with pytest.raises(AssertionError, match="capture makes"):
        check_operator("trial")
    with pytest.raises(AssayError, match="nobody"):
        check_operator("nobody")


@pytest.mark.parametrize("name", list(renderers()))
def test_export_formats_conform(name: str):
    check_renderer(renderers()[name])


def text_of(audit: Audit) -> str:
    return "".join(f"{clean(finding.sentence)}\n" for finding in audit.findings)


def good(audit: Audit, path: Path) -> list[Path]:
    return [write_atomic(path, text_of(audit))]


def in_place(audit: Audit, path: Path) -> list[Path]:
    path.write_text(text_of(audit), encoding="utf-8")
    return [path]


def raw(audit: Audit, path: Path) -> list[Path]:
    return [write_atomic(path, audit.findings[0].sentence.encode("utf-8", "replace"))]


def markup(audit: Audit, path: Path) -> list[Path]:
    return [write_atomic(path, f"<p>{clean(audit.findings[0].sentence)}</p>")]


def dated(audit: Audit, path: Path) -> list[Path]:
    return [write_atomic(path, f"{random.random()}")]


def littering(audit: Audit, path: Path) -> list[Path]:
    write_atomic(path.with_name("log"), "x")
    return good(audit, path)


def pickled(audit: Audit, path: Path) -> list[Path]:
    return [write_atomic(path, pickle.dumps([1]))]


def executable(audit: Audit, path: Path) -> list[Path]:
    (written,) = good(audit, path)
    written.chmod(0o755)
    return [written]


def absent(audit: Audit, path: Path) -> list[Path]:
    return [*good(audit, path), path.with_name("nothing")]


@pytest.mark.parametrize(
    ("renderer", "why"),
    [
        (in_place, "written over in place"),
        (raw, "begin a line of its own"),
        (raw, "direction-changing"),
        (markup, "markup in a name"),
        (dated, "other bytes"),
        (littering, "leaves log"),
        (pickled, "pickle"),
        (executable, "executable"),
        (absent, "did not write"),
        (lambda audit, path: None, "does not return the list"),
    ],
)
def test_export_formats_that_do_not_conform(renderer: Any, why: str):
    check_renderer(good)
    with pytest.raises(AssertionError) as caught:
        check_renderer(renderer)
    assert why in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moments", "sensitivity", "filtering", "boundary", "smoothness"])
def test_analyses_conform(name: str):
    few = {"effort": "quick"} | ({"n": 5} if name == "filtering" else {})
    from assay.analyses import BUILT_IN

    kind: Any = BUILT_IN[name].config
    check_analysis(name, config=kind(**{key: value for key, value in few.items() if key in kind.model_fields}))


class Settings(BaseModel):
    """Trial: nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: Annotated[int, Field(description="Anything.")] = 1


class Loose(BaseModel):
    size: int = 1


class Needy(BaseModel):
    size: int


def result(**parts: Any) -> Result:
    given: dict[str, Any] = {"summary": {"one": Quantity(1.0, Grade.EXACT)}} | parts
    return Result(given.pop("name", "trial"), "A trial", "How?", **given)


def plainly(subject: Any, config: Any, *, progress: Any = None) -> Result:
    return result()


def trial(run: Any = plainly, config: Any = Settings, plan: Any = lambda subject, config: "nothing") -> Analysis:
    return Analysis(run, plan, config)


def changing(subject: Any, config: Any, *, progress: Any = None) -> Result:
    with torch.no_grad():
        next(subject.model.parameters()).add_(1e-3)
    subject.model.train()
    torch.rand(1)
    return result()


def drawing(subject: Any, config: Any, *, progress: Any = None) -> Result:
    return result(summary={"one": Quantity(float(torch.rand(1)), Grade.EXACT)})


def too_far(subject: Any, config: Any, *, progress: Any = None) -> Result:
    if progress is not None:
        progress(3, 2, "far")
    return result()


def saying(*findings: Finding) -> Any:
    return lambda subject, config, *, progress=None: result(findings=findings)


def test_an_analysis_that_conforms():
    check_analysis("trial", analysis=trial())
    with pytest.raises(UsageError, match="no analysis 'nobody'"):
        check_analysis("nobody")


@pytest.mark.parametrize(
    ("analysis", "why"),
    [
        (trial(config=Loose), "no description"),
        (trial(config=Loose), "not frozen"),
        (trial(config=Loose), "do not know"),
        (trial(config=Needy), "no default"),
        (trial(config=None), "no pydantic model"),
        (trial(plan=lambda subject, config: " "), "plan says nothing"),
        (trial(changing), "it changed parameters"),
        (trial(changing), "it changed training flags"),
        (trial(changing), "it changed the random state"),
        (trial(drawing), "another result"),
        (trial(too_far), "beyond its total"),
        (trial(lambda subject, config, *, progress=None: 3), "returned a int"),
        (trial(lambda subject, config, *, progress=None: result(name="other")), "called 'other'"),
        (trial(saying(Finding("rule", Status.PASS, "Fine."))), "does not begin with trial."),
        (trial(saying(Finding("trial.rule", Status.WARN, "Bad."))), "what to do next"),
    ],
)
def test_analyses_that_do_not_conform(analysis: Analysis, why: str):
    with pytest.raises(AssertionError, match="analysis trial:") as caught:
        check_analysis("trial", analysis=analysis)
    assert why in str(caught.value)
