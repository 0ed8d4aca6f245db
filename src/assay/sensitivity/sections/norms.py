"""Norms of the layers: what each could amplify at most, guaranteed, and what it does amplify."""

from __future__ import annotations

import math

from assay.grade import Grade
from assay.norms.maps import Effort
from assay.norms.table import LayerNorm, layer_norms
from assay.results import Column, Figure, Finding, Section, Status, Table
from assay.sensitivity.sections.section import Context

_SMALL = Effort(work=6.5e10, steps=60, tolerance=1e-6)
_SURVEY = Effort(work=1e10, steps=12, tolerance=1e-3)
_SHOWN = 24

_COLUMNS = (
    Column("node", "node", node=True),
    Column("place", "layer"),
    Column("norm", "‖W‖", "", Grade.STATISTICAL, "2-norm of the layer; a lower estimate unless it says exact."),
    Column(
        "upper",
        "at most",
        "",
        Grade.BOUND,
        "The tightest of the guaranteed bounds that were tried.",
        lens="Largest gain of the layer (guaranteed)",
    ),
    Column("slack", "bound / estimate", "", Grade.BOUND, "How much larger the guarantee is."),
    Column("method", "estimate by"),
    Column("upper_method", "bound by"),
)


def norms(context: Context) -> Section:
    """2-norms of all linear layers, batch norms folded: estimates from below and guaranteed bounds."""
    rows = layer_norms(context.graph, effort=_SURVEY if context.large else _SMALL)
    found = [row for row in rows if not row.error and math.isfinite(row.upper)]
    if not found:
        return Section(warnings=tuple(f"No norm of {row.place}: {row.error}" for row in rows))
    table = Table.from_records(
        "norms",
        "Norms of the layers",
        _COLUMNS,
        [_record(row) for row in found],
        "Largest factor by which each linear layer can lengthen a change of its input (2-norm), batch norms folded in.",
    )
    loudest = max(found, key=lambda row: row.upper)
    sentence = (
        f"The layer that can amplify most is {loudest.place}: between {loudest.lower:.3g} and {loudest.upper:.3g} "
        "times, guaranteed."
    )
    finding = Finding("sensitivity.largest_norm", Status.PASS, sentence, loudest.place)
    left = tuple(f"No guaranteed norm of {row.place}: {row.error or 'too large'}" for row in rows if row not in found)
    return Section({"norms": table}, (_figure(found),), (finding,), {}, left)


def _record(row: LayerNorm) -> dict[str, object]:
    slack = row.upper / row.value if row.value > 0 else None
    return {
        "node": row.node,
        "place": row.place,
        "norm": row.value,
        "upper": row.upper,
        "slack": slack,
        "method": row.method,
        "upper_method": row.upper_method,
    }


def _figure(rows: list[LayerNorm]) -> Figure:
    shown = sorted(rows, key=lambda row: -row.upper)[:_SHOWN]
    return Figure(
        "bars",
        "Norms of the layers" if len(shown) == len(rows) else f"The {_SHOWN} layers of largest norm",
        "Bars: estimates of the 2-norm; whiskers reach to the guaranteed bound. Their product bounds a plain chain.",
        {
            "labels": [row.place for row in shown],
            "series": [
                {
                    "label": "‖W‖",
                    "values": [row.value for row in shown],
                    "low": [row.lower for row in shown],
                    "high": [row.upper for row in shown],
                }
            ],
            "x_label": "2-norm",
            "y_label": "",
            "horizontal": True,
        },
    )
