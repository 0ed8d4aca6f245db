"""What `doctor` finds out about a subject: facts, capture, operators and their rules, versions. Plain values only."""

from __future__ import annotations

import contextlib
import platform
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

from assay import plugins
from assay._version import __version__
from assay.analyses import ANALYSES, offered
from assay.errors import PluginError, SubjectError
from assay.graph import Graph, lower_composites, lower_max_pools, pool_before_activation
from assay.graph.operators.registry import load_others
from assay.interpret import RuleTable, coverage, unsupported
from assay.render.text import clean, short
from assay.subject import Subject

if TYPE_CHECKING:
    from rich.console import Console

LIBRARIES = (
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "safetensors",
    "matplotlib",
    "torchvision",
    "timm",
    "pandas",
    "pyarrow",
)
FORMAT = "assay-doctor"
SHOWN = 12


class InDomain(NamedTuple):
    """How one domain sees a graph: its rules, and the rewriting it does before it walks the graph."""

    table: RuleTable[Any]
    prepare: Callable[[Graph], Graph]


def domains() -> Mapping[str, InDomain]:
    """Every domain in which the graph is interpreted. To add one, add a line."""
    from assay.moments.rules import TABLE

    return {"moments": InDomain(TABLE, lambda graph: lower_composites(lower_max_pools(pool_before_activation(graph))))}


def examine(subject: Subject) -> dict[str, Any]:
    """Everything `doctor` shows, as plain values.

    Args:
        subject: a loaded model, with or without data.

    Returns:
        `model` (facts), `capture` (whether, size, or the reason with its line), `operators` (of this model, with their
        grade per domain), `approximated` (places without a rule, per domain), `plugins` and `versions`.
    """
    found: dict[str, Any] = {"format": FORMAT, "version": 1, "model": subject.describe()}
    try:
        graph = subject.graph
    except SubjectError as error:
        found["capture"] = {"captured": False, "reason": error.what, "where": error.where, "next": error.advice}
        found["operators"], found["approximated"] = [], {}
    else:
        layers = graph.layers
        widest = max((node.spec.size_per_sample for node in layers), default=0)
        found["capture"] = {"captured": True, "nodes": len(graph), "layers": len(layers), "widest": widest}
        found["operators"] = _operators(graph)
        found["approximated"] = {
            name: [node.place for node in unsupported(domain.prepare(graph), domain.table)]
            for name, domain in domains().items()
        }
    found["plugins"] = installed_plugins()
    found["versions"] = versions()
    return found


def installed_plugins() -> list[dict[str, str]]:
    """What other packages add, one record per entry point; `problem` is empty for what can be used."""
    load_others()  # operators; rules are loaded with their tables
    for name in offered():
        with contextlib.suppress(PluginError):
            ANALYSES[name]
    for plugin in plugins.installed(plugins.RENDERERS):
        with contextlib.suppress(PluginError):
            plugin.load()
    wrong = plugins.problems()
    return [
        {
            "name": each.name,
            "group": each.group,
            "package": each.origin,
            "problem": wrong[each].what if each in wrong else "",
        }
        for group in plugins.groups()
        for each in plugins.installed(group)
    ]


def _operators(graph: Graph) -> list[dict[str, Any]]:
    """One record per operator of this graph: how often, and its grade per domain, empty where there is no rule."""
    tables = [domain.table for domain in domains().values()]
    known = {record["operator"]: record for record in coverage(tables)}
    counts = Counter(node.op if node.op in known and node.op != "opaque" else node.label for node in graph.layers)
    return [
        {"operator": name, "count": count}
        | {table.domain: known[name][table.domain] if name in known else "" for table in tables}
        for name, count in counts.most_common()
    ]


def versions() -> dict[str, str]:
    """Versions of assay, Python and the libraries it may use; "not installed" for those that are absent."""
    import torch

    found = {"assay": __version__, "python": platform.python_version(), "system": platform.platform()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found | {"threads": str(torch.get_num_threads())}


def print_examination(found: Mapping[str, Any], console: Console) -> None:
    """Print what `examine` found."""
    from rich.text import Text

    model, capture = found["model"], found["capture"]
    console.print(Text(short(model["name"], 80), style="bold"))
    facts = [
        ("parameters", f"{model['parameters']:,}"),
        ("task", model["task"]),
        ("input", " × ".join(map(str, model["input_shape"])) if model["input_shape"] else "not known without --data"),
        ("outputs", model["outputs"]),
        ("data", model["data"]),
        ("samples", model["samples"]),
        ("trusted", ", ".join(model["trusted"]) or "nothing was executed"),
    ]
    _pairs(console, [(key, value) for key, value in facts if value is not None])
    for warning in model["warnings"]:
        console.print(Text(f"Note: {clean(warning)}", style="yellow"))
    console.print()
    if capture["captured"]:
        console.print(Text("Captured", style="bold green"), end=" ")
        console.print(f"as a graph of {capture['layers']} layers, the widest with {capture['widest']:,} units")
        _print_operators(console, found)
    else:
        console.print(Text("Not captured", style="bold yellow"))
        _pairs(console, [("reason", capture["reason"]), ("where", capture["where"]), ("next", capture["next"])])
    if found["plugins"]:
        console.print()
        console.print(Text("Plug-ins", style="bold"))
        _pairs(console, [(f"{p['name']} ({p['group']})", p["problem"] or p["package"]) for p in found["plugins"]])
    console.print()
    console.print(Text("Versions", style="bold"))
    _pairs(console, list(found["versions"].items()))


def _print_operators(console: Console, found: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    console.print()
    names = list(found["approximated"])
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    grid.add_column("Operator", overflow="fold")
    grid.add_column("count", justify="right")
    for name in names:
        grid.add_column(f"in {name}", overflow="fold")
    for row in found["operators"]:
        cells = [clean(row[name]) if row[name] else "no rule: approximated" for name in names]
        grid.add_row(Text(clean(row["operator"])), str(row["count"]), *(Text(cell) for cell in cells))
    console.print(grid)
    for name, places in found["approximated"].items():
        console.print()
        if not places:
            console.print(f"In {name}, every layer has a rule; --strict would pass.")
            continue
        console.print(Text(f"In {name}, approximated (--strict would refuse):", style="yellow"))
        for place in places[:SHOWN]:
            console.print(Text(f"  {clean(place)}"))
        if len(places) > SHOWN:
            console.print(f"  and {len(places) - SHOWN} more; --json lists all")


def _pairs(console: Console, pairs: list[tuple[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for key, value in pairs:
        if value not in ("", None):
            grid.add_row(key, Text(clean(str(value))))
    console.print(grid)
