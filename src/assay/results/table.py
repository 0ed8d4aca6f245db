"""Tidy tables: named, typed columns with units and grades; rows are plain Python values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from assay.errors import MissingExtra
from assay.grade import Grade

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: key of the column, such as ``noise_gain``.
        label: heading shown to people; the name when empty.
        unit: unit of the values, such as ``output sd``; empty for text and pure numbers.
        grade: reliability of the numbers; None for text and identifiers.
        description: one sentence saying how to read the column.
        node: True when the column holds graph node names, so that the graph can be coloured by other columns.
        lens: what the column is called where a reader chooses by what to colour the graph; for the few numbers per
            layer that matter most, empty for others.

    Example:
        >>> Column("distance", "distance", "pixels", Grade.SAMPLED, "To the nearest boundary point found.").unit
        'pixels'
    """

    name: str
    label: str = ""
    unit: str = ""
    grade: Grade | None = None
    description: str = ""
    node: bool = False
    lens: str = ""


@dataclass(frozen=True)
class Table:
    """A tidy table: every row is a tuple as long as `columns`; cells are str, int, float, bool or None.

    Example:
        >>> table = Table("sizes", "Sizes", (Column("layer"), Column("weights")), (("conv", 72), ("head", 640)))
        >>> table.column("weights"), table
        ([72, 640], Table('sizes', 2 rows x 2 columns))
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.name!r}: a row has {len(row)} cells, {len(self.columns)} columns expected"
                )

    def __repr__(self) -> str:
        return f"Table({self.name!r}, {len(self.rows)} rows x {len(self.columns)} columns)"

    def _repr_html_(self) -> str:
        from assay.results.displayed import in_notebook
        from assay.results.model import Result

        return in_notebook(Result(self.name, self.title, "", tables={self.name: self}))

    def first(self, rows: int) -> Table:
        """The table with its first rows alone; its caption says what is left out.

        Returns:
            The table itself where it has no more rows.

        >>> table = Table("inputs", "Inputs", (Column("n"),), ((1,), (2,), (3,)))
        >>> table.first(2).caption, table.first(3) is table
        ("First 2 of 3 rows; to_frame('inputs') has all.", True)
        """
        if len(self.rows) <= rows:
            return self
        caption = with_left_out(self.caption, self.name, rows, len(self.rows))
        return replace(self, rows=tuple(self.rows[:rows]), caption=caption)

    @classmethod
    def from_records(
        cls,
        name: str,
        title: str,
        columns: Sequence[Column],
        records: Sequence[Mapping[str, Any]],
        caption: str = "",
    ) -> Table:
        """Build from one mapping per row; a missing key becomes None."""
        rows = tuple(tuple(record.get(column.name) for column in columns) for record in records)
        return cls(name, title, tuple(columns), rows, caption)

    def column(self, name: str) -> list[Any]:
        """Values of one column, in row order.

        Returns:
            One value per row.

        Raises:
            KeyError: if there is no such column.
        """
        for index, column in enumerate(self.columns):
            if column.name == name:
                return [row[index] for row in self.rows]
        raise KeyError(f"table {self.name!r} has no column {name!r}; it has {[c.name for c in self.columns]}")

    def to_frame(self) -> pandas.DataFrame:
        """The table as a pandas DataFrame (extra ``tables``)."""
        try:
            import pandas
        except ImportError as error:
            raise MissingExtra("pandas", "tables", "A table as a data frame") from error
        return pandas.DataFrame(list(self.rows), columns=[column.name for column in self.columns])


def with_left_out(caption: str, name: str, shown: int, total: int) -> str:
    """The caption of a table that shows some of its rows."""
    return f"{caption} First {shown} of {total:,} rows; to_frame({name!r}) has all.".strip()
