"""What the templates print: texts, numbers and drawings prepared from results, so that the templates hold no logic."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from assay.grade import Grade
from assay.render import figures, svg, text
from assay.render.layers import is_numeric, node_column
from assay.render.thin import Notes
from assay.results import Audit, Figure, Finding, Quantity, Result, Status, Table

TABLE_ROWS = 200
NODE_TABLE_ROWS = 25
FOLDED_ROWS = 10
LEADING_QUANTITIES = 8
LEADING_PASSES = 6


@dataclass(frozen=True)
class QuantityView:
    """A scalar ready to print."""

    label: str
    value: str
    unit: str
    interval: str
    kind: str
    grade: Grade


@dataclass(frozen=True)
class HeadView:
    """A column heading ready to print."""

    label: str
    unit: str
    grade: Grade | None
    description: str
    numeric: bool
    sortable: bool = True


@dataclass(frozen=True)
class TableView:
    """A table ready to print; `note` says what was cut."""

    title: str
    caption: str
    heads: Sequence[HeadView]
    rows: Sequence[Sequence[str]]
    note: str
    joined: bool = False

    @property
    def folded(self) -> bool:
        """Whether the reader unfolds it: long tables would hide what follows, and layers have a table of their own."""
        return self.joined or len(self.rows) > FOLDED_ROWS


@dataclass(frozen=True)
class FigureView:
    """A figure ready to print; `svg` is empty when it is not shown, and `note` says why. Ids in it begin with `id`."""

    id: str
    title: str
    caption: str
    svg: str
    note: str
    wide: bool


@dataclass(frozen=True)
class Section:
    """One result ready to print."""

    anchor: str
    name: str
    title: str
    question: str
    status: Status
    judged: bool
    warnings: Sequence[str]
    quantities: Sequence[QuantityView]
    findings: Sequence[Finding]
    passes: Sequence[Finding]
    figures: Sequence[FigureView]
    tables: Sequence[TableView]

    @property
    def leading_quantities(self) -> Sequence[QuantityView]:
        """The first numbers, which the reader sees at once."""
        return self.quantities[:LEADING_QUANTITIES]

    @property
    def further_quantities(self) -> Sequence[QuantityView]:
        """The numbers that the reader unfolds."""
        return self.quantities[LEADING_QUANTITIES:]

    @property
    def leading_passes(self) -> Sequence[Finding]:
        """The first checks that passed."""
        return self.passes[:LEADING_PASSES]

    @property
    def further_passes(self) -> Sequence[Finding]:
        """The passed checks that the reader unfolds."""
        return self.passes[LEADING_PASSES:]


@dataclass(frozen=True)
class Verdict:
    """The first sentences of a report."""

    status: Status | None
    headline: str
    detail: str = ""


@dataclass(frozen=True)
class Facts:
    """What is known of the subject: label and value, what the reader must be told first, and digests in full."""

    rows: Sequence[tuple[str, str]]
    notices: Sequence[str] = field(default_factory=tuple)
    digests: Sequence[tuple[str, str]] = field(default_factory=tuple)


def verdict(audit: Audit) -> Verdict:
    """The outcome in plain words."""
    findings = audit.findings
    counts = {status: sum(finding.status is status for finding in findings) for status in Status}
    measured = f"{text.plural(len(audit.results), 'analysis', 'analyses')} ran"
    if audit.left_out:
        measured += f", {len(audit.left_out)} left out"
    if not audit.results:
        return Verdict(
            None, "Nothing was measured.", "No analysis has finished." if not audit.left_out else measured + "."
        )
    if not findings:
        return Verdict(None, "Measured, not judged: no check was applied.", measured + ".")
    total = text.plural(len(findings), "check")
    if counts[Status.PASS] == len(findings):
        passed = f"All {total} passed." if len(findings) > 1 else "The one check passed."
        return Verdict(Status.PASS, passed, measured + ".")
    said = [f"{counts[Status.ERROR]} could not be completed"] if counts[Status.ERROR] else []
    said.append(f"{counts[Status.FAIL] or 'none'} failed")
    if counts[Status.WARN]:
        said.append(f"{counts[Status.WARN]} {'calls' if counts[Status.WARN] == 1 else 'call'} for attention")
    where = [
        text.short(result.title or name) for name, result in audit.results.items() if result.status is not Status.PASS
    ]
    return Verdict(audit.status, f"Of {total}, {_listed(said)}.", f"{measured}. To look at: {'; '.join(where)}.")


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)


def about(facts: Facts) -> str:
    """Model and data in one line."""
    known = dict(facts.rows)
    parts = [known.get("Task"), f"{known['Parameters']} parameters" if "Parameters" in known else None]
    data = [f"{known['Samples']} samples" if "Samples" in known else None, known.get("Data")]
    return " · ".join([part for part in parts if part] + [" of ".join(part for part in data if part)]).strip(" ·")


def facts(subject: Mapping[str, Any]) -> Facts:
    """Model, data, preprocessing and bounds in words; anything unforeseen as it is."""
    known = dict(subject)
    rows: list[tuple[str, str]] = []

    def add(label: str, value: Any, unit: str = "") -> None:
        if value not in (None, "", [], {}):
            rows.append((label, f"{_say(value)}{unit}"))

    add("Model", known.pop("name", None))
    add("Parameters", known.pop("parameters", None))
    add("Task", known.pop("task", None))
    add("Data", known.pop("data", None))
    add("Samples", known.pop("samples", None))
    shape = known.pop("input_shape", None)
    add("Input", " × ".join(_say(side) for side in shape) if isinstance(shape, (list, tuple)) else shape)
    names = known.pop("class_names", None)
    outputs = known.pop("outputs", None)
    add("Outputs", outputs)
    if isinstance(names, (list, tuple)) and names:
        more = (outputs if isinstance(outputs, int) else len(names)) - 10
        add(
            "Classes",
            ", ".join(text.short(str(n), 40) for n in names[:10]) + (f" and {more:,} more" if more > 0 else ""),
        )
    preprocessing = known.pop("preprocessing", None)
    bounds = known.pop("bounds", None)
    if isinstance(preprocessing, Mapping):
        bounds = bounds or preprocessing.get("bounds")
        preprocessing = _preprocessing(preprocessing)
    add("Preprocessing", preprocessing)
    if isinstance(bounds, (list, tuple)) and len(bounds) == 2:
        add("Bounds of the data", f"{_say(bounds[0])} to {_say(bounds[1])}")
    else:
        add("Bounds of the data", bounds or "none known")
    trusted = known.pop("trusted", None) or []
    trusted = [trusted] if isinstance(trusted, str) else list(trusted)
    add("Code run to open it", "; ".join(_say(item) for item in trusted) if trusted else "none beyond assay itself")
    notices = [_say(item) for item in known.pop("warnings", None) or []]
    if trusted:
        notices.append(
            f"Code from the files of this run was executed, because it was trusted: {'; '.join(map(_say, trusted))}."
        )
    named = (("Model digest", known.pop("model_digest", None)), ("Data digest", known.pop("data_digest", None)))
    digests = [(label, str(value)) for label, value in named if value]
    for label, value in digests:
        add(label, value[:16] + ("…" if len(value) > 16 else ""))
    for key in sorted(known):
        add(key.replace("_", " ").capitalize(), known[key])
    return Facts(rows, notices, digests)


def _preprocessing(settings: Mapping[str, Any]) -> str:
    parts = []
    if settings.get("resize"):
        parts.append(f"short side resized to {_say(settings['resize'])}")
    if settings.get("crop"):
        parts.append(f"centre crop {_say(settings['crop'])}")
    if settings.get("scale"):
        parts.append(f"scaled to {_say(settings['scale'])}")
    if settings.get("channel_order") not in (None, "RGB"):
        parts.append(f"channels as {_say(settings['channel_order'])}")
    if settings.get("mean"):
        parts.append(f"mean {_say(settings['mean'])} subtracted")
    if settings.get("std"):
        parts.append(f"divided by {_say(settings['std'])}")
    known = {"resize", "crop", "scale", "channel_order", "mean", "std", "bounds"}
    parts += [f"{key}: {_say(settings[key])}" for key in sorted(set(settings) - known)]
    return "; ".join(parts) or "none: data go in as they are"


def _say(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_say(item) for item in value[:20]) + (f" … ({len(value):,})" if len(value) > 20 else "")
    if isinstance(value, Mapping):
        return text.clean(as_json(value), 600)
    return text.clean(text.number(value), 600)


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON for the reader's eye; what JSON does not know is printed as text."""
    if isinstance(value, Mapping):
        value = dict(value)
    return json.dumps(value, sort_keys=True, ensure_ascii=False, indent=indent, default=str)


def section(
    result: Result, anchor: str, drawn: Sequence[FigureView], joined: Iterable[str] = (), rows: int = TABLE_ROWS
) -> Section:
    """One result ready to print.

    Args:
        result: what to print.
        anchor: id of the section.
        drawn: its figures.
        joined: names of the tables that also stand in the layer table, and are therefore cut early.
        rows: how many rows of other tables are printed.

    Returns:
        What the template prints.
    """
    ranked = sorted(result.findings, key=lambda finding: -finding.status.severity)
    return Section(
        anchor=anchor,
        name=result.name.replace("_", " ").capitalize(),
        title=result.title or result.name,
        question=result.question,
        status=result.status,
        judged=bool(result.findings),
        warnings=result.warnings,
        quantities=[_quantity(key, item) for key, item in result.summary.items()],
        findings=[finding for finding in ranked if finding.status is not Status.PASS],
        passes=[finding for finding in ranked if finding.status is Status.PASS],
        figures=drawn,
        tables=[table_view(table, name in set(joined), rows) for name, table in result.tables.items()],
    )


def table_view(table: Table, joined: bool = False, rows: int = TABLE_ROWS) -> TableView:
    """A table ready to print, cut after so many rows, or earlier when the layer table has it."""
    total = len(table.rows)
    shown = min(total, rows)
    note = f"First {shown} of {total:,} rows; all of them are in the saved run." if shown < total else ""
    if joined and total > NODE_TABLE_ROWS + 15:
        shown = NODE_TABLE_ROWS
        note = f"First {shown} of {total:,} rows; they are part of the layer table."
    columns = [[row[index] for row in table.rows[:shown]] for index in range(len(table.columns))]
    numeric = [is_numeric(values) for values in columns]
    at = node_column(table)
    texts = [
        text.column(values)
        if number
        else [text.short(text.number(value), 70 if index == at else 160) for value in values]
        for index, (values, number) in enumerate(zip(columns, numeric, strict=True))
    ]
    heads = [
        HeadView(text.short(c.label or c.name.replace("_", " "), 60), c.unit, c.grade, c.description, n)
        for c, n in zip(table.columns, numeric, strict=True)
    ]
    rows_shown = list(zip(*texts, strict=True)) if shown else []
    return TableView(table.title, table.caption, heads, rows_shown, note, joined)


def _quantity(key: str, item: Quantity) -> QuantityView:
    value, interval = text.quantity(item)
    return QuantityView(item.label or key.replace("_", " "), value, item.unit, interval, item.interval, item.grade)


def drawings(figures_of: Sequence[Figure], arrays: Mapping[str, Any], anchor: str) -> list[FigureView]:
    """Figures ready to print, small enough for a page.

    Args:
        figures_of: what to draw.
        arrays: what heat maps and matrices refer to.
        anchor: id of the section they stand in; their own ids begin with it.

    Returns:
        One view per figure; one that cannot be drawn has no picture but a note saying why.
    """
    return [_drawing(figure, arrays, f"{anchor}-f{index}-") for index, figure in enumerate(figures_of)]


def _drawing(figure: Figure, arrays: Mapping[str, Any], prefix: str) -> FigureView:
    notes = Notes(compact=True)
    try:
        drawing = figures.draw(figure, arrays, title=False, notes=notes)
        drawn = svg.figure(figures.to_svg(drawing), prefix, figure.title)
        wide = drawing.get_figwidth() > 8
    except Exception as error:  # one figure that cannot be drawn must not cost the reader the report
        return FigureView(prefix, figure.title, figure.caption, "", f"This figure could not be drawn: {error}", False)
    return FigureView(prefix, figure.title, figure.caption, drawn, " ".join(notes.sentences), wide)
