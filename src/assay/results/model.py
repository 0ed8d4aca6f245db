"""Result and its parts: frozen, renderer-neutral, serialisable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from assay.errors import UsageError
from assay.grade import Grade
from assay.results.displayed import Displayed, in_notebook, in_words
from assay.results.finding import Finding, Status, worst
from assay.results.table import Table

if TYPE_CHECKING:
    from pathlib import Path

    import numpy
    import pandas

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Quantity:
    """One scalar with its unit, grade and, where it has one, its interval.

    Attributes:
        value: the number.
        grade: how far to trust it.
        unit: such as ``output sd``; empty for a pure number.
        label: what it is, in the field's words.
        low: lower end of the interval, or None.
        high: upper end of the interval, or None.
        interval: what the interval is, such as ``95 % bootstrap`` or ``5th to 95th percentile over inputs``.
        better: which way a model is better; None where neither is, or where the number tells of the measurement.
        basis: path, within the result, of the values that the number sums up, such as ``inputs.distance.median``
            (`assay.results.paths`). The first column of that table, or the place in that array, names the sample.
        confidence: level at which `low` to `high` covers the value over samples like these, such as 0.95; None for a
            band over inputs, and for an interval that covers less, such as draws at fixed inputs.

    Example:
        >>> Quantity(0.31, Grade.SAMPLED, "share", "flip rate", low=0.27, high=0.35, interval="95 % Wilson").high
        0.35
    """

    value: float
    grade: Grade
    unit: str = ""
    label: str = ""
    low: float | None = None
    high: float | None = None
    interval: str = ""
    better: Better | None = None
    basis: str = ""
    confidence: float | None = None


@dataclass(frozen=True)
class Figure:
    """Data of one figure; the renderer draws it.

    Attributes:
        kind: name of a drawing in `render.figures`, such as ``lines``, ``heatmaps``, ``scatter``, ``bars``.
        title: short title.
        caption: how to read it.
        data: what the drawing of this kind needs, JSON-serialisable (large arrays stay in `Result.arrays`, by key).

    Example:
        >>> Figure("bars", "Accuracy", "By class.", {"labels": ["cat"], "series": [{"label": "", "values": [0.9]}]})
        Figure(bars: 'Accuracy')
    """

    kind: str
    title: str
    caption: str
    data: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Figure({self.kind}: {self.title!r})"


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from: enough to repeat it.

    `wall_seconds` and `peak_bytes` vary from run to run and are left out of any digest.

    Example:
        >>> Provenance("moments", "demo", "3f...", "digits", "8a...", {}, seed=0, versions={"torch": "2.10"}).seed
        0
    """

    analysis: str
    model: str
    model_digest: str
    data: str
    data_digest: str
    config: Mapping[str, Any]
    seed: int
    versions: Mapping[str, str]
    trusted: tuple[str, ...] = ()
    wall_seconds: float = 0.0
    peak_bytes: int = 0


@dataclass(frozen=True)
class Result:
    """What one analysis found about one subject.

    Attributes:
        name: the analysis, such as ``moments``.
        title: heading for people.
        question: the plain question it answers.
        summary: scalars by key.
        tables: tidy tables by name. A table with a `node` column can colour the graph.
        arrays: numpy arrays by name.
        figures: what to draw, in order.
        findings: every rule's outcome, passes too.
        warnings: what the reader must know to read the numbers.
        provenance: how to repeat it; None for a result computed outside an audit.

    Example:
        >>> Result("size", "Size", "How large is it?", {"bytes": Quantity(12.0, Grade.EXACT, "kB", "weights")})
        Result('size': weights: 12 kB exact)
    """

    name: str
    title: str
    question: str
    summary: Mapping[str, Quantity] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    arrays: Mapping[str, numpy.ndarray] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    findings: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        for attribute in ("summary", "tables", "arrays"):
            object.__setattr__(self, attribute, MappingProxyType(dict(getattr(self, attribute))))

    @property
    def status(self) -> Status:
        """Most severe finding."""
        return worst(self.findings)

    def to_frame(self, table: str | None = None) -> pandas.DataFrame:
        """One table as a pandas DataFrame; the first table when none is named.

        Returns:
            One row per row, one column per column.

        Raises:
            KeyError: if the result has no such table.
        """
        name = table if table is not None else next(iter(self.tables), None)
        if name is None or name not in self.tables:
            raise KeyError(f"result {self.name!r} has no table {name!r}; it has {list(self.tables)}")
        return self.tables[name].to_frame()

    def plot(self, index: int = 0) -> Any:
        """Draw one of the result's figures.

        Args:
            index: which of `figures`.

        Returns:
            A `matplotlib.figure.Figure`, not registered with pyplot.

        Raises:
            UsageError: if the result has no such figure.
        """
        from assay.render.figures import draw

        if not -len(self.figures) <= index < len(self.figures):
            titles = "; ".join(f"{place}: {figure.title}" for place, figure in enumerate(self.figures))
            raise UsageError(f"There is no figure {index}.", where="plot", advice=f"There are {titles or 'none'}.")
        return draw(self.figures[index], self.arrays)

    def save(self, directory: str | Path) -> Path:
        """Write the result into a run directory and return that directory."""
        from assay.store import save_result

        return save_result(self, directory)

    def _repr_html_(self) -> str:
        return in_notebook(self)

    def __repr__(self) -> str:
        return f"Result({self.name!r}: {in_words(self)})"


@dataclass(frozen=True)
class Audit(Displayed):
    """All results of one run over one subject.

    Attributes:
        subject: what was audited: name, digests, shapes, class names, preprocessing (JSON-serialisable).
        results: by analysis name, in the order they ran.
        left_out: analyses that did not run, with the reason.
        graph_svg: drawing of the captured graph; empty when the model could not be captured.
        nodes: one record per graph node (name, op, module path, shape), for the layer table.
    """

    subject: Mapping[str, Any]
    results: Mapping[str, Result]
    left_out: Mapping[str, str] = field(default_factory=dict)
    graph_svg: str = ""
    nodes: Table | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Findings of all results, most severe first, otherwise in order."""
        every = [finding for result in self.results.values() for finding in result.findings]
        return tuple(sorted(every, key=lambda finding: -finding.status.severity))

    @property
    def status(self) -> Status:
        """Most severe finding of all."""
        return worst(self.findings)

    def result(self, rows: int | None = None) -> Result:
        """Key figures, findings and times of all analyses as one small result."""
        from assay.results.overview import overview

        return overview(self, rows)

    def save(self, directory: str | Path) -> Path:
        """Write everything into a run directory and return it."""
        from assay.store import save_audit

        return save_audit(self, directory)

    def report(self, path: str | Path) -> Path:
        """Write the HTML report and return its path."""
        from assay.render.html import write_report

        return write_report(self, path)

    def export(self, path: str | Path, format: str | None = None) -> list[Path]:
        """Write it for other programs; nothing that assay did not export is overwritten.

        Args:
            path: a file for ``html``, ``json`` and ``safetensors``, a folder for ``csv`` and ``parquet``.
            format: one of these, or of a plug-in; by the ending of the path when None.

        Returns:
            The files that were written.
        """
        from assay.render.export import export

        return export(self, path, format)
