"""NumPy files: `.npz` with inputs and targets under usual names, `.npy` with inputs only. Never pickled objects."""

from __future__ import annotations

import zipfile
from typing import NoReturn

import numpy

from assay.errors import SubjectError, UsageError
from assay.load.convert import data_from_arrays
from assay.load.limits import existing_file, open_zip
from assay.load.registry import DataRequest, data_format, has_suffix
from assay.subject import Data

_INPUTS = ("x", "inputs", "input", "images", "image", "data", "features", "samples", "arr_0")
_TARGETS = ("y", "targets", "target", "labels", "label", "classes", "arr_1")
_SPLITS = ("", "test", "val", "valid", "validation", "train", "training")


@data_format("FILE.npz", has_suffix(".npz"))
def read_npz(request: DataRequest) -> Data:
    """Two arrays of an archive, by the names given or the usual ones; a test split goes before a training split.

    Returns:
        Inputs, and targets where there are any.

    Raises:
        UsageError: when a name given is not in the archive.
        SubjectError: when the archive is damaged, holds pickled objects, or no array has a usual name.
    """
    path = existing_file(request.path, "file")
    with open_zip(path, "archive of arrays") as archive:
        keys = [name.removesuffix(".npy") for name in archive.namelist()]
        for key in (request.inputs_key, request.targets_key):
            if key is not None and key not in keys:
                raise UsageError(
                    f"There is no array {key!r}.", where=str(path), advice=f"Arrays there: {', '.join(keys)}."
                )
        inputs_key = request.inputs_key or _usual(keys, _INPUTS) or (keys[0] if len(keys) == 1 else None)
        if inputs_key is None:
            raise SubjectError(
                f"None of the arrays has a usual name for inputs: {', '.join(keys) or 'the archive is empty'}.",
                where=str(path),
                advice="Say which it is: inputs_key, and targets_key for the targets.",
            )
        split = _split_of(inputs_key)[1]
        targets_key = request.targets_key or _usual([key for key in keys if _split_of(key)[1] == split], _TARGETS)
        inputs = _member(archive, inputs_key, str(path))
        targets = None if targets_key is None else _member(archive, targets_key, str(path))
    name = f"{path.name} ({inputs_key}{'' if targets_key is None else ', ' + targets_key})"
    return data_from_arrays(inputs, targets, name, limit=request.limit, bounds=request.preprocessing.bounds)


@data_format("FILE.npy", has_suffix(".npy"))
def read_npy(request: DataRequest) -> Data:
    """One array of inputs; read through a memory map, so a limit takes only what it needs.

    Returns:
        Inputs without targets.

    Raises:
        SubjectError: when the file is damaged or holds pickled objects.
    """
    path = existing_file(request.path, "file")
    try:
        array = numpy.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # hostile headers fail in many ways
        _refuse(str(path), error)
    return data_from_arrays(array, None, path.name, limit=request.limit, bounds=request.preprocessing.bounds)


def _member(archive: zipfile.ZipFile, key: str, path: str) -> numpy.ndarray:
    """One array of the archive, after checking that its header promises no more than the archive holds."""
    entry = archive.NameToInfo.get(f"{key}.npy") or archive.NameToInfo[key]
    where = f"{path}: {key}"
    try:
        with archive.open(entry) as stream:
            version = numpy.lib.format.read_magic(stream)
            read_header = (
                numpy.lib.format.read_array_header_1_0 if version == (1, 0) else numpy.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(stream)
            size = int(numpy.prod(numpy.array(shape, dtype=object))) * dtype.itemsize
            if not dtype.hasobject and size != entry.file_size - stream.tell():
                raise ValueError(f"its header says {size} bytes, the archive holds {entry.file_size - stream.tell()}")
        with archive.open(entry) as stream:
            return numpy.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:
        _refuse(where, error)


def _refuse(where: str, error: Exception) -> NoReturn:
    if "allow_pickle" in str(error) or "Python objects" in str(error):
        raise SubjectError(
            "This is an array of pickled objects, which is never opened because that would execute code.",
            where=where,
            advice="Store a plain numeric array of one shape.",
        ) from error
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    raise SubjectError(
        f"The array cannot be read: {reason}", where=where, advice="Write or download the file again."
    ) from error


def _usual(keys: list[str], names: tuple[str, ...]) -> str | None:
    found = {_split_of(key): key for key in reversed(keys)}
    return next((found[name, split] for split in _SPLITS for name in names if (name, split) in found), None)


def _split_of(key: str) -> tuple[str, str]:
    """`X_test` -> ("x", "test"), `train_images` -> ("images", "train"), `data` -> ("data", "")."""
    parts = key.lower().split("_")
    split = next((part for part in parts if part in _SPLITS and part), "")
    return "_".join(part for part in parts if part != split or not split), split
