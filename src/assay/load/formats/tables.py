"""Tables: `.parquet` and `.csv`, one row per sample, numeric columns as features and one column as target."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy

from assay.errors import MissingExtra, SubjectError, UsageError
from assay.load.convert import data_from_arrays
from assay.load.limits import existing_file, require_memory
from assay.load.registry import DataRequest, data_format, has_suffix
from assay.subject import Data

if TYPE_CHECKING:
    from pandas import DataFrame

_TARGETS = ("target", "targets", "label", "labels", "class", "y")


@data_format("FILE.parquet|.csv", has_suffix(".parquet", ".csv"))
def read_table(request: DataRequest) -> Data:
    """Features (N, F) in the order of the columns, and the target column where there is one.

    Returns:
        Features as 32-bit floats.

    Raises:
        MissingExtra: when pandas, or pyarrow for Parquet, is not installed.
        UsageError: when the target column named does not exist.
        SubjectError: when the file is damaged, or a feature is not numeric or has gaps.
    """
    path = existing_file(request.path, "table")
    notes: list[str] = []
    frame = _parquet(request) if path.suffix.lower() == ".parquet" else _csv(request, notes)
    if frame.empty:
        raise SubjectError("The table is empty.", where=str(path), advice="Give at least one row and one column.")
    names = [str(name) for name in frame.columns]
    frame.columns = names
    if len(set(names)) < len(names):
        raise SubjectError("Two columns have the same name.", where=str(path), advice="Rename one of them.")
    for name in [name for name in names if name.startswith(("Unnamed: ", "__index_level_"))]:
        notes.append(f"The column {name!r} was left out: it is the row number of an earlier table.")
        frame = frame.drop(columns=name)
    column = request.target_column
    if column is None:
        column = next((name for name in reversed(frame.columns) if name.strip().lower() in _TARGETS), None)
        notes += [] if column is None else [f"The column {column!r} was taken as target."]
    elif column not in frame.columns:
        raise UsageError(
            f"There is no column {column!r}.", where=str(path), advice=f"Columns: {', '.join(names[:20])}."
        )
    features = frame if column is None else frame.drop(columns=column)
    targets = None if column is None else _target(frame[column], str(path))
    data = data_from_arrays(_numbers(features, str(path)), targets, path.name, limit=request.limit)
    return Data(data.inputs, data.targets, data.name, data.class_names, None, (*notes, *data.notes))


def _csv(request: DataRequest, notes: list[str]) -> DataFrame:
    pandas = _library("pandas", "Reading a CSV file")
    path = request.path
    try:
        frame = pandas.read_csv(path, compression=None, encoding="utf-8-sig", low_memory=False)
        if len(frame.columns) and all(_is_number(name) for name in frame.columns):
            notes.append("The table has no header line; its columns are numbered from 0.")
            frame = pandas.read_csv(path, compression=None, header=None, encoding="utf-8-sig", low_memory=False)
    except Exception as error:
        raise _damaged(str(path), error) from error
    return frame


def _parquet(request: DataRequest) -> DataFrame:
    _library("pandas", "Reading a Parquet file")
    parquet = _library("pyarrow.parquet", "Reading a Parquet file")
    try:
        with request.path.open("rb") as stream:
            file = parquet.ParquetFile(stream)
            facts = file.metadata
            require_memory(
                sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups)), str(request.path)
            )
            require_memory(4.0 * facts.num_rows * facts.num_columns, str(request.path))
            return file.read().to_pandas(ignore_metadata=True)
    except SubjectError:
        raise
    except Exception as error:
        raise _damaged(str(request.path), error) from error


def _numbers(features: DataFrame, where: str) -> numpy.ndarray:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    words = [
        name for name in features.columns if not is_numeric_dtype(features[name]) and not is_bool_dtype(features[name])
    ]
    if words or not len(features.columns):
        raise SubjectError(
            f"Features must be numbers; these columns are not: {', '.join(words[:8])}."
            if words
            else "There are no features.",
            where=where,
            advice="Encode or drop them, or name the target with target_column.",
        )
    gaps = features.isna().to_numpy()
    if gaps.any():
        row, column = (int(place[0]) for place in gaps.nonzero())
        raise SubjectError(
            f"The column {features.columns[column]!r} has a gap.",
            where=f"{where}, row {row}",
            advice="Fill or drop it.",
        )
    return features.to_numpy(dtype=numpy.float64).astype(numpy.float32)


def _target(column: Any, where: str) -> numpy.ndarray:
    from pandas.api.types import is_bool_dtype, is_float_dtype, is_integer_dtype

    if column.isna().any():
        row = int(column.isna().to_numpy().argmax())
        raise SubjectError("The target has a gap.", where=f"{where}, row {row}", advice="Fill or drop the row.")
    if is_bool_dtype(column) or is_integer_dtype(column):
        return column.to_numpy(dtype=numpy.int64)
    return column.to_numpy(dtype=numpy.float64) if is_float_dtype(column) else column.astype(str).to_numpy(dtype=str)


def _library(name: str, purpose: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtra(name.partition(".")[0], "tables", purpose) from error


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _damaged(where: str, error: Exception) -> SubjectError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return SubjectError(f"The table cannot be read: {reason}", where=where, advice="Write or download the file again.")
