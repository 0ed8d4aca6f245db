"""Does an analysis keep the promises: settings, plan, result, repeatability, an untouched model, store and report."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import numpy
import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from assay.analyses import ANALYSES, Analysis, unknown
from assay.results import Audit, Result, Status
from assay.results.arrays import array_keys
from assay.store import encode
from assay.subject import Subject


def check_analysis(
    name: str, subject: Subject | None = None, *, config: Any = None, analysis: Analysis | None = None
) -> None:
    """Conformance test of one analysis.

    Its settings have defaults, descriptions, refuse what they do not know, and come back from JSON and TOML as they
    were; it says what it will cost; run twice, it gives the same result, byte for byte, named as it is; model and
    process are as before; the result can be stored, read back and shown, and its findings say what to do.

    Args:
        name: of the analysis.
        subject: what to run it on; a few pictures and the demo network when None.
        config: settings to run it with; its defaults when None.
        analysis: its record; that of the installed one of this name when None.

    Raises:
        AssertionError: listing everything that is wrong.
        unknown: when there is no such analysis.
    """
    if analysis is None:
        if name not in ANALYSES:
            raise unknown(name, where="check_analysis")
        analysis = ANALYSES[name]
    kind: Any = analysis.config
    wrong = _settings_faults(kind)
    assert not wrong, f"analysis {name}:\n" + "\n".join(wrong)
    if subject is None:
        from assay.load import load_subject

        subject = load_subject("demo", limit=8)
    settings = kind() if config is None else config
    wrong = _plan_faults(analysis, subject, settings) + _run_faults(name, analysis, subject, settings)
    assert not wrong, f"analysis {name}:\n" + "\n".join(wrong)


def _settings_faults(kind: Any) -> list[str]:
    import tomlkit

    if not isinstance(kind, type) or not issubclass(kind, BaseModel):
        return ["its `config` is no pydantic model"]
    try:
        settings = kind()
    except ValidationError as error:
        return [f"a setting has no default: {error.errors()[0]['loc']}"]
    wrong = [f"setting {key} has no description" for key, field in kind.model_fields.items() if not field.description]
    if not kind.model_config.get("frozen"):
        wrong.append("its settings are not frozen")
    if kind.model_config.get("extra") != "forbid":
        wrong.append('its settings accept keys they do not know: use extra="forbid"')
    if kind.model_validate(settings.model_dump(mode="json")) != settings:
        wrong.append("its settings do not come back from JSON")
    text = tomlkit.dumps(settings.model_dump(mode="json", exclude_none=True))
    if kind.model_validate(tomlkit.parse(text).unwrap()) != settings:
        wrong.append("its settings do not come back from TOML")
    return wrong


def _plan_faults(analysis: Analysis, subject: Subject, settings: Any) -> list[str]:
    plan: Any = analysis.plan
    return [] if str(plan(subject, settings)).strip() else ["its plan says nothing"]


def _run_faults(name: str, analysis: Analysis, subject: Subject, settings: Any) -> list[str]:
    told: list[tuple[int, int, str]] = []
    run: Any = analysis.run
    before = _state(subject.model)
    result = run(subject, settings, progress=lambda *each: told.append(each))
    wrong = [f"it changed {part}" for part in _changed(before, _state(subject.model))]
    if not isinstance(result, Result):
        return [*wrong, f"it returned a {type(result).__name__}, not an assay.results.Result"]
    if result.name != name:
        wrong.append(f"its result is called {result.name!r}")
    if any(not 0 <= done <= total or not isinstance(text, str) for done, total, text in told):
        wrong.append("it told progress beyond its total")
    torch.manual_seed(12345)  # what it draws must come from its own seed
    if _bytes(run(subject, settings, progress=None)) != _bytes(result):
        wrong.append("a second run gives another result")
    return wrong + _content_faults(name, result) + _downstream_faults(name, result, subject)


def _content_faults(name: str, result: Result) -> list[str]:
    wrong = [] if result.title and result.question else ["its result has no title or no question"]
    for finding in result.findings:
        if not finding.rule.startswith(f"{name}."):
            wrong.append(f"the finding {finding.rule!r} does not begin with {name}.")
        if not finding.sentence or (finding.status is not Status.PASS and not finding.next_step):
            wrong.append(f"the finding {finding.rule!r} does not say what was found, or what to do next")
    return wrong


def _downstream_faults(name: str, result: Result, subject: Subject) -> list[str]:
    from assay.render.json import to_json
    from assay.store import open_run

    wrong = []
    for index, figure in enumerate(result.figures):
        try:
            result.plot(index)
        except Exception as error:
            wrong.append(f"its figure {figure.title!r} cannot be drawn: {error}")
    with tempfile.TemporaryDirectory() as folder:
        run = Audit(subject.describe(), {name: result})
        run.save(folder)
        if _bytes(open_run(folder).results[name]) != _bytes(result):
            wrong.append("its result does not come back from the store as it was")
        if result.title not in run.report(Path(folder) / "report.html").read_text(encoding="utf-8"):
            wrong.append("the report does not show it")
        if name not in to_json(run):
            wrong.append("the JSON does not have it")
    return wrong


def _bytes(result: Result) -> bytes:
    """A result as the store writes it, without times."""
    keys = array_keys(result)
    document = encode.to_bytes(encode.result_document(result, keys), result.name)
    return document + (encode.array_bytes(result, keys) if keys else b"")


def _state(model: nn.Module) -> dict[str, Any]:
    """Everything about a model and the process that an analysis must leave as it is."""
    tensors = dict((*model.named_parameters(), *model.named_buffers()))
    return {
        "parameters or buffers": {name: each.detach().clone() for name, each in tensors.items()},
        "which tensors the model has": {name: id(each) for name, each in tensors.items()},
        "gradients": {
            name: (each.requires_grad, None if each.grad is None else each.grad.clone())
            for name, each in tensors.items()
        },
        "training flags": [module.training for module in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "the random state": (torch.get_rng_state(), random.getstate(), str(numpy.random.get_state())),
        "torch's switches": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
    }


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [part for part in before if not _same(before[part], after[part])]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and one == other
