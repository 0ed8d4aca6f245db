"""The main job: run the chosen analyses over one subject, keep each result as soon as it is there, collect findings."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from assay import boundary, filtering, moments, sensitivity, smoothness
from assay._version import __version__
from assay.config import AuditConfig
from assay.errors import AssayError, SubjectError, UsageError
from assay.graph import draw_svg
from assay.results import Audit, Column, Provenance, Result, Table
from assay.store import save_audit, save_result
from assay.subject import Subject

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Analysis:
    """One analysis as the audit runs it.

    Attributes:
        run: `(subject, config, progress) -> Result`.
        plan: `(subject, config) -> str`, a plain estimate of what it will cost.
        sweeps: `run` also takes `directory`, the run directory, to keep what is finished and go on after any stop.
        too_long: `(subject, config) -> str`, why an audit of everything leaves it out; empty when it does not.
    """

    run: Callable[..., Result]
    plan: Callable[[Subject, Any], str]
    sweeps: bool = False
    too_long: Callable[[Subject, Any], str] | None = None


ANALYSES: Mapping[str, Analysis] = MappingProxyType(
    {
        "moments": Analysis(moments.analyse, moments.plan),
        "sensitivity": Analysis(sensitivity.analyse, sensitivity.plan),
        "filtering": Analysis(filtering.examine, filtering.plan, sweeps=True, too_long=filtering.too_long),
        "boundary": Analysis(boundary.analyse, boundary.plan),
        "smoothness": Analysis(smoothness.analyse, smoothness.plan),
    }
)
"""Every analysis, in the order they run. To add one, add a line."""


_DECIDING = ("assay", "torch", "threads")
"""Versions and settings of a process that its numbers depend on."""


def audit(
    subject: Subject,
    *,
    only: Sequence[str] | None = None,
    config: AuditConfig | None = None,
    out: str | Path | None = None,
    finished: Mapping[str, Result] | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Run analyses over a subject.

    An analysis that cannot run on this subject is left out with its reason; the others go on. Results are saved as
    they finish.

    Args:
        subject: model and data.
        only: names of analyses; all when None.
        config: settings of every analysis.
        out: run directory; nothing is written when None.
        finished: results of an earlier run on the same subject and settings, which are taken as they are.
        progress: called as progress(done, total, text).

    Returns:
        Audit with `.results`, `.findings`, `.left_out`, `.save(directory)` and `.report(path)`.

    Raises:
        UsageError: for an unknown analysis.
        SubjectError: when not a single analysis could run.

    Example:
        >>> from assay.load import load_subject
        >>> run = audit(load_subject("demo", limit=4), only=["sensitivity"])
        >>> run.status.value in ("pass", "warn")
        True
    """
    config = config or AuditConfig()
    names = _chosen(only)
    if subject.data is None:
        raise SubjectError("An audit needs data.", where=subject.name, advice="Give inputs with --data or data=.")
    if any(_forbids_fallback(config, name) for name in names):
        subject.graph  # noqa: B018  (with --strict a model that cannot be captured is an error)
    results: dict[str, Result] = {}
    left_out: dict[str, str] = {}
    errors: list[AssayError] = []
    for name in names:
        if finished is not None and name in finished:
            results[name] = finished[name]
            continue
        started = time.perf_counter()
        analysis, settings = ANALYSES[name], getattr(config, name)
        if reason := _left_out(subject, name, settings, only):
            left_out[name] = reason
            continue
        kept = {"directory": Path(out)} if analysis.sweeps and out is not None else {}
        try:
            result = analysis.run(subject, settings, progress=progress, **kept)
        except SubjectError as error:
            if _forbids_fallback(config, name):
                raise
            left_out[name] = str(error)
            errors.append(error)
            continue
        result = replace(result, provenance=_provenance(subject, name, config, time.perf_counter() - started))
        results[name] = result
        if out is not None:
            save_result(result, out)
    if not results and errors:
        raise errors[0]
    svg, nodes = _drawing(subject, left_out)
    run = Audit(subject.describe(), results, left_out, svg, nodes)
    if out is not None:
        save_audit(run, out)
    return run


def plan(
    subject: Subject, config: AuditConfig | None = None, only: Sequence[str] | None = None
) -> list[tuple[str, str]]:
    """What each analysis will do and cost, in plain words, before anything runs."""
    config = config or AuditConfig()
    steps: list[tuple[str, str]] = []
    for name in _chosen(only):
        settings = getattr(config, name)
        reason = _left_out(subject, name, settings, only)
        steps.append((name, f"left out. {reason}" if reason else ANALYSES[name].plan(subject, settings)))
    return steps


def _left_out(subject: Subject, name: str, settings: Any, only: Sequence[str] | None) -> str:
    """Why an audit of everything leaves an analysis out; empty when it does not."""
    too_long = ANALYSES[name].too_long
    return too_long(subject, settings) if only is None and too_long is not None else ""


def _chosen(only: Sequence[str] | None) -> list[str]:
    unknown = [name for name in only or () if name not in ANALYSES]
    if unknown:
        raise UsageError(
            f"There is no analysis {unknown[0]!r}.", where="--only", advice=f"Choose from: {', '.join(ANALYSES)}."
        )
    return [name for name in ANALYSES if only is None or name in only]


def _forbids_fallback(config: AuditConfig, name: str) -> bool:
    return getattr(getattr(config, name), "fallback", None) == "error"


def _provenance(subject: Subject, name: str, config: AuditConfig, seconds: float) -> Provenance:
    settings = getattr(config, name)
    data = subject.data
    return Provenance(
        analysis=name,
        model=subject.name,
        model_digest=subject.digest,
        data=data.name if data is not None else "",
        data_digest=data.digest if data is not None else "",
        config=settings.model_dump(mode="json"),
        seed=settings.seed,
        versions={
            "assay": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": str(torch.get_num_threads()),
        },
        trusted=subject.trusted,
        wall_seconds=seconds,
        peak_bytes=_peak_bytes(),
    )


def computed_by(result: Result, settings: Any) -> bool:
    """Whether these settings and the libraries of this process would give this result again."""
    made = result.provenance
    return (
        made is not None
        and dict(made.config) == settings.model_dump(mode="json")
        and {name: made.versions.get(name) for name in _DECIDING}
        == {"assay": __version__, "torch": torch.__version__, "threads": str(torch.get_num_threads())}
    )


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _drawing(subject: Subject, left_out: dict[str, str]) -> tuple[str, Table | None]:
    """SVG and table of the layers; a reason among those left out when the model cannot be captured."""
    try:
        graph = subject.graph
    except SubjectError as error:
        left_out["graph"] = str(error)
        return "", None
    columns = [
        Column("node", "node", node=True),
        Column("place", "layer"),
        Column("operator", "operator"),
        Column("shape", "output shape", "", None, "B is the batch"),
    ]
    records = [
        {"node": node.name, "place": node.module_path or node.name, "operator": node.label, "shape": str(node.spec)}
        for node in graph.layers
    ]
    return draw_svg(graph), Table.from_records("graph", "Layers", columns, records)
