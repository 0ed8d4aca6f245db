"""Tracks from files: columns of a CSV, arrays of an .npz or .npy; times recognised and checked."""

from __future__ import annotations

import csv
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from assay.errors import SubjectError, UsageError
from assay.load.limits import existing_file, open_zip, require_memory

LARGEST_FILE = 256 * 2**20
LARGEST_TRACKS = 4096
TIMES = ("time", "times", "t", "timestamp", "timestamps", "seconds", "sec", "time_s", "frame", "frames", "frame_id")
SUFFIXES = (".csv", ".tsv", ".npz", ".npy")
JITTER = 0.01  # of the median step


@dataclass(frozen=True, eq=False)
class Tracks:
    """Tracks that share their times.

    Attributes:
        values: (n, m) float64; NaN where a cell was empty.
        names: of the m tracks.
        step: time between samples; 1 where no times are known, then every time is in samples.
        source: the file.
        timed: whether `step` comes from times or a rate.
        irregular: why the times are no constant step; empty when they are.
        notes: what was decided in reading.
    """

    values: np.ndarray
    names: tuple[str, ...]
    step: float = 1.0
    source: str = ""
    timed: bool = False
    irregular: str = ""
    notes: tuple[str, ...] = ()


def read_tracks(path: Path, *, rate: float | None = None, time: str | None = None) -> Tracks:
    """Tracks from a file; nothing in it is executed.

    Args:
        path: `.csv` or `.tsv` with one track per column, `.npz` with arrays (n,) or (n, m), `.npy` with one of them.
        rate: samples per unit of time, in place of times.
        time: name of the column or array of times; recognised by usual names when None.

    Returns:
        The tracks.

    Raises:
        UsageError: for a rate that is not positive, or a time column that does not exist.
        SubjectError: for files that are missing, damaged, too large, ragged, not numeric, empty, or hold pickles.
    """
    path = Path(path)
    if rate is not None and not (np.isfinite(rate) and rate > 0):
        raise UsageError(f"A rate must be positive, got {rate}.", where="--rate", advice="Give samples per second.")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise SubjectError(
            f"Tracks are read from {', '.join(SUFFIXES)} files.", where=str(path), advice="Export them as CSV."
        )
    size = existing_file(path, "file of tracks").stat().st_size
    if size > LARGEST_FILE:
        raise SubjectError(
            f"The file has {size / 2**20:.0f} MiB, more than the {LARGEST_FILE // 2**20} that tracks may have.",
            where=str(path), advice="Cut it into pieces.",
        )  # fmt: skip
    columns, notes = (_csv if suffix in (".csv", ".tsv") else _arrays)(path)
    chosen = time if time is not None else next((n for n in columns if n.strip().lower() in TIMES), None)
    if time is not None and time not in columns:
        raise UsageError(f"There is no {time!r}.", where=str(path), advice=f"There are: {', '.join(columns)[:300]}.")
    clock = columns.pop(chosen) if chosen is not None and (len(columns) > 1 or time is not None) else None
    if not columns:
        raise SubjectError("There are no tracks beside the times.", where=str(path), advice="Add a column.")
    if len(columns) > LARGEST_TRACKS:
        raise SubjectError(
            f"There are {len(columns)} tracks; the limit is {LARGEST_TRACKS}.", where=str(path),
            advice="One row per sample and one column per track: transpose the table if it is the other way round.",
        )  # fmt: skip
    tracks = Tracks(np.stack(list(columns.values()), 1), tuple(columns), 1.0, str(path), notes=tuple(notes))
    if rate is not None:
        return replace(tracks, step=1 / rate, timed=True)
    return tracks if clock is None else with_times(tracks, clock, str(chosen))


def with_times(tracks: Tracks, times: np.ndarray, name: str = "times") -> Tracks:
    """The tracks with the constant step of their times, or with the reason why there is none.

    Returns:
        The same values.

    Raises:
        UsageError: when there are not as many times as samples.

    Example:
        >>> with_times(Tracks(np.zeros((4, 1)), ("x",)), np.array([0.0, 0.1, 0.2, 0.35])).irregular
        'times has steps from 0.1 to 0.15'
    """
    times = np.asarray(times, np.float64)
    if len(times) != len(tracks.values):
        raise UsageError(
            f"There are {len(times)} times and {len(tracks.values)} samples.", where=name, advice="Give one per sample."
        )
    if not np.isfinite(times).all():
        return replace(tracks, irregular=f"{name} has gaps")
    steps = np.diff(times)
    middle = float(np.median(steps)) if len(steps) else 1.0
    if len(steps) and (steps <= 0).any():
        return replace(tracks, irregular=f"{name} does not grow from sample to sample")
    missing = np.round(steps / middle) > 1
    if missing.any() and np.abs(steps / middle - np.round(steps / middle)).max() <= JITTER * 2:
        return replace(
            tracks, step=middle, timed=True, irregular=f"{int(missing.sum())} gaps of missing samples in {name}"
        )
    if len(steps) and np.abs(steps - middle).max() > JITTER * middle:
        low, high = float(steps.min()), float(steps.max())
        return replace(tracks, step=middle, timed=True, irregular=f"{name} has steps from {low:.3g} to {high:.3g}")
    return replace(tracks, step=float((times[-1] - times[0]) / max(1, len(times) - 1)), timed=True)


def read_folder(folder: Path, *, rate: float | None = None, time: str | None = None) -> list[Tracks]:
    """Tracks of every CSV, TSV, NPZ and NPY file of a folder, in the order of their names.

    Returns:
        One item per file.

    Raises:
        SubjectError: when there is no such folder, no such file in it, or one cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SubjectError("There is no such folder.", where=str(folder), advice="Check the path of --reference.")
    files = sorted(each for each in folder.iterdir() if each.suffix.lower() in SUFFIXES and each.is_file())
    if not files:
        raise SubjectError(
            "The folder holds no tracks.", where=str(folder), advice=f"Put {', '.join(SUFFIXES)} files there."
        )
    return [read_tracks(each, rate=rate, time=time) for each in files]


def _csv(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    notes: list[str] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            head = stream.read(8192)
            stream.seek(0)
            tabs, semicolons, commas = head.count("\t"), head.count(";"), head.count(",")
            delimiter = "\t" if tabs > max(semicolons, commas) else ";" if semicolons else ","
            if delimiter == ";" and commas:  # the usual table of languages with decimal commas
                notes.append("Semicolons separate the columns; commas are read as decimal points.")
            rows = [row for row in csv.reader(stream, delimiter=delimiter) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _damaged(str(path), error) from error
    if not rows:
        raise SubjectError("The table is empty.", where=str(path), advice="Give one row per sample.")
    decimal = delimiter == ";"
    titled = any(_number(cell, decimal) is None for cell in rows[0])
    names = [cell.strip() or f"column {i}" for i, cell in enumerate(rows[0])] if titled else []
    names = names or [f"column {i}" for i in range(len(rows[0]))]
    rows = rows[1:] if titled else rows
    if len(set(names)) < len(names):
        raise SubjectError("Two columns have the same name.", where=str(path), advice="Rename one of them.")
    ragged = next((i for i, row in enumerate(rows) if len(row) != len(names)), None)
    if ragged is not None:
        raise SubjectError(
            f"This row has {len(rows[ragged])} cells, the first one {len(names)}.",
            where=f"{path}, row {ragged + 1 + titled}", advice="Write the table again.",
        )  # fmt: skip
    if not rows:
        raise SubjectError("The table has a header and no samples.", where=str(path), advice="Add rows.")
    columns = {}
    for i, name in enumerate(names):
        cells = [_number(row[i], decimal) for row in rows]
        words = [n for n, cell in enumerate(cells) if cell is None]
        if len(words) == len(rows):
            notes.append(f"The column {name!r} holds words and was left out.")
            continue
        if words:
            raise SubjectError(
                f"The column {name!r} holds {rows[words[0]][i][:40]!r} among its numbers.",
                where=f"{path}, row {words[0] + 1 + titled}", advice="Leave the cell empty, or remove the column.",
            )  # fmt: skip
        columns[name] = np.array(cells, np.float64)
    if not columns:
        raise SubjectError("No column holds numbers.", where=str(path), advice="Give one track per column.")
    return columns, notes


def _number(cell: str, decimal_comma: bool) -> float | None:
    text = cell.strip()
    if text == "" or text.lower() in ("nan", "na", "null", "none"):
        return float("nan")
    try:
        return float(text.replace(",", ".") if decimal_comma else text)
    except ValueError:
        return None


def _arrays(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    if path.suffix.lower() == ".npy":
        try:
            found = {path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}
        except Exception as error:  # hostile headers fail in many ways
            raise _refused(str(path), error) from error
    else:
        with open_zip(path, "archive of arrays") as archive:
            found = {name.removesuffix(".npy"): _member(archive, name, str(path)) for name in archive.namelist()}
    columns: dict[str, np.ndarray] = {}
    for name, array in found.items():
        if array.dtype.kind not in "biuf" or array.ndim not in (1, 2) or not array.size:
            raise SubjectError(
                f"Tracks are numbers of shape (n,) or (n, m); this is {array.dtype} of shape {array.shape}.",
                where=f"{path}: {name}", advice="Store one row per sample and one column per track.",
            )  # fmt: skip
        values = np.asarray(array, np.float64)
        if values.ndim == 1:
            columns[name] = values
        else:
            columns |= {f"{name}[{i}]": values[:, i] for i in range(min(values.shape[1], LARGEST_TRACKS + 1))}
    if not columns:
        raise SubjectError("The archive is empty.", where=str(path), advice="Store at least one track.")
    lengths = {len(each) for each in columns.values()}
    if len(lengths) > 1:
        raise SubjectError(
            f"The tracks have different lengths: {', '.join(map(str, sorted(lengths)))}.", where=str(path),
            advice="Store tracks of different sampling in files of their own.",
        )  # fmt: skip
    return columns, []


def _member(archive: zipfile.ZipFile, name: str, path: str) -> np.ndarray:
    """One array, after its header promised no more than the archive holds."""
    where = f"{path}: {name}"
    try:
        with archive.open(name) as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            size = int(np.prod(np.array(shape, dtype=object))) * dtype.itemsize
            held = archive.getinfo(name).file_size - stream.tell()
            if not dtype.hasobject and size != held:
                raise ValueError(f"its header says {size} bytes, the archive holds {held}")
            require_memory(size, where, "The array")
        with archive.open(name) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except SubjectError:
        raise
    except Exception as error:
        raise _refused(where, error) from error


def _refused(where: str, error: Exception) -> SubjectError:
    if "allow_pickle" in str(error) or "Python objects" in str(error):
        return SubjectError(
            "This is an array of pickled objects, which is never opened because that would execute code.",
            where=where, advice="Store a plain numeric array.",
        )  # fmt: skip
    return _damaged(where, error)


def _damaged(where: str, error: Any) -> SubjectError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return SubjectError(f"The tracks cannot be read: {reason}", where=where, advice="Write or download the file again.")
