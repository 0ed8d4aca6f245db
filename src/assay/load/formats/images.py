"""A folder of pictures: in class sub-folders, or flat with a file of labels, or flat without labels."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from assay.errors import SubjectError
from assay.load.choose import chosen_rows
from assay.load.labels import LABEL_FILES, read_labels, targets_from_text
from assay.load.limits import require_memory
from assay.load.pictures import SUFFIXES, read_picture
from assay.load.registry import DataRequest, data_format
from assay.subject import Data


@data_format("FOLDER of pictures", lambda request: request.path.is_dir())
def read_folder(request: DataRequest) -> Data:
    """Pictures (N, C, H, W), in the order of their paths, and labels where the folder has them.

    Sub-folders that are all named by integers give those integers as labels; others are numbered in the order of
    their names, which become class names. A flat folder takes its labels from `labels.csv`, `.txt` or `.json`.

    Returns:
        Pictures in the preprocessing's bounds.

    Raises:
        SubjectError: when there is no picture, one cannot be read, sizes differ, or labels and pictures do not match.
    """
    root, notes = request.path, []
    try:
        files, targets, names = _listed(root, notes)
    except OSError as error:
        raise SubjectError(f"The folder cannot be read: {error.strerror}.", where=str(root)) from error
    if not files:
        raise SubjectError(
            "There are no pictures in this folder.",
            where=str(root),
            advice=f"Put files ({', '.join(SUFFIXES[:3])}, ...) in it, or in one sub-folder per class.",
        )
    rows = chosen_rows(len(files), request.limit, targets)
    chosen = [files[row] for row in rows.tolist()]
    bounds = request.preprocessing.bounds or (0.0, 1.0)
    return Data(
        _read_all(chosen, request),
        None if targets is None else targets[rows],
        root.name or str(root),
        names,
        bounds,
        tuple(notes),
    )


def _read_all(files: list[Path], request: DataRequest) -> Tensor:
    first = read_picture(files[0], request.preprocessing, request.mode)
    require_memory(
        4.0 * first.numel() * len(files), request.spec, f"{len(files)} pictures of shape {tuple(first.shape)}"
    )
    pictures = torch.empty((len(files), *first.shape))
    for row, file in enumerate(files):
        picture = first if row == 0 else read_picture(file, request.preprocessing, request.mode)
        if picture.shape != first.shape:
            raise SubjectError(
                f"The pictures have different sizes: {_size(first)} and {_size(picture)}.",
                where=f"{files[0]} and {file}",
                advice="Bring them to one size with resize and crop.",
            )
        pictures[row] = picture
    return pictures


def _listed(root: Path, notes: list[str]) -> tuple[list[Path], Tensor | None, tuple[str, ...]]:
    """Files, targets and class names; nothing is decoded yet."""
    label_file = next((root / name for name in LABEL_FILES if (root / name).is_file()), None)
    if label_file is not None:
        return _with_label_file(root, label_file, notes)
    flat = _pictures(root)
    folders = [each for each in sorted(root.iterdir()) if each.is_dir() and not each.name.startswith((".", "__"))]
    members = {folder: _pictures(folder) for folder in folders}
    if not any(members.values()):
        _refuse_splits(root, folders)
        return flat, None, ()
    if flat:
        notes.append(f"{len(flat)} pictures beside the class folders were left out.")
    empty = [folder.name for folder in folders if not members[folder]]
    if empty:
        notes.append(f"Sub-folders without pictures: {', '.join(empty[:5])}.")
    numeric = all(name.isascii() and name.isdigit() for name in (folder.name for folder in folders))
    if numeric:
        folders.sort(key=lambda folder: int(folder.name))
    files = [file for folder in folders for file in members[folder]]
    values = [int(folder.name) if numeric else place for place, folder in enumerate(folders) for _ in members[folder]]
    return files, torch.tensor(values), () if numeric else tuple(folder.name for folder in folders)


def _with_label_file(root: Path, label_file: Path, notes: list[str]) -> tuple[list[Path], Tensor, tuple[str, ...]]:
    labels = read_labels(label_file)
    for name in labels:
        file = root / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise SubjectError("A label names a file outside the folder.", where=f"{label_file}: {name}")
        if not file.is_file():
            raise SubjectError(
                "A label names a picture that is not there.",
                where=f"{label_file}: {name}",
                advice="Paths are relative to the folder.",
            )
    ordered = sorted(labels)
    targets, names = targets_from_text([labels[name] for name in ordered], str(label_file))
    without = len({file.name for file in _pictures(root)} - labels.keys())
    if without:
        notes.append(f"{without} pictures without an entry in {label_file.name} were left out.")
    return [root / name for name in ordered], targets, names


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def _refuse_splits(root: Path, folders: list[Path]) -> None:
    """A folder of train/ and val/ must not become two classes."""
    for folder in folders:
        deeper = next((each for each in sorted(folder.iterdir()) if each.is_dir() and _pictures(each)), None)
        if deeper is not None:
            raise SubjectError(
                f"The pictures are two levels down, as in {deeper.relative_to(root)}.",
                where=str(root),
                advice=f"Give the folder that holds the class folders, such as {folder}.",
            )


def _size(picture: Tensor) -> str:
    return f"{picture.shape[2]} x {picture.shape[1]}"
