"""The main job: run the chosen analyses over one subject, keep each result as soon as it is there, collect findings."""

from __future__ import annotations

import contextlib
import platform
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from assay import analyses, plugins
from assay._version import __version__
from assay.analyses import ANALYSES, Analysis
from assay.config import AuditConfig, section
from assay.effort import Estimate
from assay.errors import AssayError, PluginError, SubjectError
from assay.graph import draw_svg
from assay.progress import Progress
from assay.results import Audit, Column, Provenance, Result, Table
from assay.store import save_audit, save_result
from assay.subject import Subject

__all__ = ["ANALYSES", "Analysis", "audit", "computed_by", "estimates", "plan"]


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
        PluginError: for an analysis of another package, asked for by name, that is broken.
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
        if reason := _left_out(subject, name, config, only):
            left_out[name] = reason
            continue
        analysis, settings = ANALYSES[name], section(config, name)
        kept = {"directory": Path(out)} if analysis.sweeps and out is not None else {}
        try:
            result = _call(name, analysis.run, subject, settings, progress=progress, **kept)
        except (SubjectError, PluginError) as error:
            if _forbids_fallback(config, name) or (isinstance(error, PluginError) and only is not None):
                raise
            left_out[name] = str(error)
            errors.append(error)
            continue
        result = replace(result, provenance=_provenance(subject, name, settings, time.perf_counter() - started))
        results[name] = result
        if out is not None:
            save_result(result, out)
    if not results and errors:
        raise errors[0]
    svg, nodes = _drawing(subject, left_out)
    left_out |= {
        f"plug-in {plugin.name}": error.what
        for plugin, error in plugins.problems().items()
        if not (plugin.group == plugins.ANALYSES and plugin.name in left_out)
    }
    run = Audit(subject.describe(), results, left_out, svg, nodes)
    if out is not None:
        save_audit(run, out)
    return run


def plan(
    subject: Subject, config: AuditConfig | None = None, only: Sequence[str] | None = None
) -> list[tuple[str, str]]:
    """What each analysis will do and cost, in plain words, before anything runs."""
    return [(name, found.text) for name, found in estimates(subject, config, only)]


def estimates(
    subject: Subject, config: AuditConfig | None = None, only: Sequence[str] | None = None
) -> list[tuple[str, Estimate]]:
    """The same with numbers: operations, memory, disk; `runs` is false where an analysis is left out.

    Returns:
        Name and estimate of every analysis, in the order they run.

    Raises:
        UsageError: for an unknown analysis.
        PluginError: for a broken one of another package, asked for by name.
    """
    config = config or AuditConfig()
    steps: list[tuple[str, Estimate]] = []
    for name in _chosen(only):
        if reason := _left_out(subject, name, config, only):
            steps.append((name, Estimate(f"left out. {reason}", runs=False)))
            continue
        found = _call(name, ANALYSES[name].plan, subject, section(config, name))
        steps.append((name, found if isinstance(found, Estimate) else Estimate(str(found), None)))
    return steps


def _left_out(subject: Subject, name: str, config: AuditConfig, only: Sequence[str] | None) -> str:
    """Why an audit of everything leaves an analysis out; empty when it does not."""
    if only is not None:
        return ""
    try:
        too_long: Any = ANALYSES[name].too_long
    except PluginError as error:
        return error.what
    return _call(name, too_long, subject, section(config, name)) if too_long is not None else ""


def _call(name: str, function: Any, *arguments: Any, **keywords: Any) -> Any:
    """Call a function of an analysis; what goes wrong inside another package's is told as its fault."""
    plugin = analyses.offered().get(name)
    try:
        found = function(*arguments, **keywords)
    except AssayError:
        raise
    except Exception as error:
        if plugin is None:
            raise
        raise PluginError(
            f"The analysis {name!r} of {plugin.origin} failed: {type(error).__name__}: {error}",
            where=plugin.value,
            advice="Tell its authors, or leave it out with --only or --no-plugins.",
        ) from error
    if plugin is not None and isinstance(found, Result) and found.name != name:
        raise PluginError(
            f"The analysis {name!r} of {plugin.origin} returned a result called {found.name!r}.",
            where=plugin.value,
            advice="Its authors have to give the result the name of the entry point.",
        )
    return found


def _chosen(only: Sequence[str] | None) -> list[str]:
    unknown = [name for name in only or () if name not in ANALYSES]
    if unknown:
        raise analyses.unknown(unknown[0])
    return [name for name in ANALYSES if only is None or name in only]


def _forbids_fallback(config: AuditConfig, name: str) -> bool:
    return getattr(getattr(config, name, None), "fallback", None) == "error"


def _provenance(subject: Subject, name: str, settings: Any, seconds: float) -> Provenance:
    data = subject.data
    return Provenance(
        analysis=name,
        model=subject.name,
        model_digest=subject.digest,
        data=data.name if data is not None else "",
        data_digest=data.digest if data is not None else "",
        config=settings.model_dump(mode="json"),
        seed=getattr(settings, "seed", 0),
        versions={
            "assay": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": str(torch.get_num_threads()),
            **plugins.versions(_used(name, subject)),
        },
        trusted=subject.trusted,
        wall_seconds=seconds,
        peak_bytes=peak_bytes(),
    )


def _used(name: str, subject: Subject | None = None) -> set[plugins.Plugin]:
    """The plug-ins that have a part in a result: the analysis, and operators and rules for nodes of the graph."""
    plugin = analyses.offered().get(name)
    used = set() if plugin is None else {plugin}
    if subject is not None:
        with contextlib.suppress(SubjectError):
            used |= plugins.credited({node.op for node in subject.graph})
    return used


def computed_by(result: Result, settings: Any) -> bool:
    """Whether these settings, and the libraries and plug-ins of this process, would give this result again."""
    made = result.provenance
    if made is None or dict(made.config) != settings.model_dump(mode="json"):
        return False
    now = {"assay": __version__, "torch": torch.__version__, "threads": str(torch.get_num_threads())}
    now |= plugins.versions(_used(result.name))
    there = plugins.versions(each for group in plugins.groups() for each in plugins.installed(group))
    now |= {key: there.get(key, "") for key in made.versions if key.startswith(plugins.VERSION_KEY)}
    return {key: made.versions.get(key) for key in now} == now


def peak_bytes() -> int:
    """The most memory that this process has taken so far."""
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
