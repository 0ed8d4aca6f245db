"""Made-up audits in which every analysis has numbers per layer: some forty columns, as a real audit has."""

from __future__ import annotations

from dataclasses import replace

import numpy
from tests.support import synthetic

from assay.grade import Grade
from assay.results import Audit, Column, Result, Table

Nodes = list[tuple[str, str, str]]


def audit(layers: int, figures: bool = True) -> Audit:
    """The made-up audit with results of filtering, boundary and smoothness besides.

    Args:
        layers: how many.
        figures: keep the figures, which take most of the time of a report.
    """
    made, nodes = synthetic.audit(layers), synthetic.layer_names(layers)
    results = {**made.results, "filtering": filtering(nodes), "smoothness": smoothness(nodes)}
    results["sensitivity"] = replace(
        results["sensitivity"], tables={**results["sensitivity"].tables, **_more(nodes, "sensitivity", 3)}
    )
    if not figures:
        results = {name: replace(result, figures=()) for name, result in results.items()}
    return replace(made, results=results)


def filtering(nodes: Nodes) -> Result:
    """Scores on both sides of zero, for layers with weights."""
    generator = numpy.random.default_rng(2)
    columns = (
        Column("node", node=True),
        Column("unit", "unit"),
        Column("score", "S", "", Grade.SAMPLED, "Below 0 the layer is fragile.", lens="Fragility (below 0: fragile)"),
        Column("verdict", "class"),
    )
    rows = tuple(
        (name, f"{path}.weight", score, "fragile" if score < 0 else "antifragile")
        for (name, op, path), score in zip(nodes, generator.normal(0, 0.1, len(nodes)).tolist(), strict=True)
        if op in ("conv2d", "linear")
    )
    tables = {"units": Table("units", "Units", columns, rows)}
    return Result("filtering", "Fragile weights", "Which weights matter?", tables=tables | _more(nodes, "filtering", 2))


def smoothness(nodes: Nodes) -> Result:
    """Shares of kinks, for activations; their table begins with the input, which the graph does not list as a layer."""
    generator = numpy.random.default_rng(3)
    columns = (
        Column("node", node=True),
        Column("layer", "layer"),
        Column("share", "share", "share", Grade.STATISTICAL, "Part in the kinks.", lens="Kinks (share of the SMP)"),
    )
    shares = generator.dirichlet(numpy.ones(len(nodes))).tolist()
    rows = [(name, path, share) for (name, op, path), share in zip(nodes, shares, strict=True) if op == "relu"]
    tables = {"layers": Table("layers", "Kinks by layer", columns, (("before", "input", 0.0), *rows))}
    return Result("smoothness", "Kinks", "Where does it bend?", tables=tables | _more(nodes, "smoothness", 1))


def _more(nodes: Nodes, kind: str, tables: int) -> dict[str, Table]:
    """Tables of five numbers per layer."""
    generator = numpy.random.default_rng(len(kind))
    names = [f"{kind}_{index}" for index in range(tables)]
    return {
        name: Table(
            name,
            name,
            (
                Column("node", node=True),
                *(Column(f"{name}_{i}", f"{name} {i}", "", Grade.SAMPLED, "What it says.") for i in range(5)),
            ),
            tuple((node, *generator.lognormal(0, 2, 5).tolist()) for node, _, _ in nodes),
        )
        for name in names
    }
