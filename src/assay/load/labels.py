"""Labels: files beside pictures that hold them, lists of class names, and their match with a model's outputs."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy
import torch
from torch import Tensor

from assay.errors import SubjectError
from assay.load.limits import existing_file
from assay.subject import Data

LABEL_FILES = ("labels.csv", "labels.txt", "labels.json")


def read_labels(file: Path) -> dict[str, list[str]]:
    """Relative picture path -> its label, or its target values, as text.

    `labels.csv`: path, label (or several numbers); a header line is recognised by a first cell that names no file.
    `labels.txt`: path and label, separated by the last white space. `labels.json`: an object path -> label.

    Returns:
        Label or values per picture, in the order of the file.

    Raises:
        SubjectError: when it cannot be understood, or names a picture twice.
    """
    text = _text(file)
    try:
        if file.suffix == ".json":
            pairs = [(name, label if isinstance(label, list) else [label]) for name, label in json.loads(text).items()]
        elif file.suffix == ".csv":
            rows = [row for row in csv.reader(text.splitlines()) if row]
            rows = rows[1:] if rows and not Path(rows[0][0]).suffix else rows
            pairs = [(row[0].strip(), row[1:]) for row in rows]
        else:
            pairs = [(line.rsplit(None, 1)[0], line.rsplit(None, 1)[1:]) for line in text.splitlines() if line.strip()]
    except (ValueError, AttributeError, csv.Error, RecursionError) as error:
        raise SubjectError(
            f"The labels cannot be read: {error}", where=str(file), advice="Write one picture and one label per line."
        ) from error
    labels: dict[str, list[str]] = {}
    for name, values in pairs:
        if not values or any(str(value).strip() == "" for value in values):
            raise SubjectError(
                "A picture has no label.", where=f"{file}: {name}", advice="Complete or remove the line."
            )
        if name in labels:
            raise SubjectError("A picture is listed twice.", where=f"{file}: {name}", advice="Keep one of the lines.")
        labels[name] = [str(value).strip() for value in values]
    if not labels:
        raise SubjectError("There are no labels in this file.", where=str(file), advice="Write one picture per line.")
    return labels


def targets_from_text(rows: Sequence[Sequence[str]], where: str) -> tuple[Tensor, tuple[str, ...]]:
    """Targets written as text: integers are labels, other numbers are regression values, words are class names.

    Returns:
        (N,) labels or (N, K) values, and the class names (sorted) when the labels were words.

    Raises:
        SubjectError: when rows differ in length, or several words stand in one row.

    Example:
        >>> targets_from_text([["dog"], ["cat"]], "labels.csv")
        (tensor([1, 0]), ('cat', 'dog'))
    """
    if len({len(row) for row in rows}) > 1:
        raise SubjectError(
            "Some pictures have more target values than others.", where=where, advice="Give each the same number."
        )
    flat = [value for row in rows for value in row]
    if len(rows[0]) == 1 and all(value.lstrip("-").isascii() and value.lstrip("-").isdigit() for value in flat):
        return torch.tensor([int(value) for value in flat]), ()
    try:
        return torch.tensor([[float(value) for value in row] for row in rows]), ()
    except ValueError as error:
        if len(rows[0]) > 1:
            raise SubjectError(
                "Several targets per picture must be numbers.", where=where, advice=str(error)
            ) from error
    words, numbers = numpy.unique(numpy.array(flat), return_inverse=True)
    return torch.from_numpy(numbers).long(), tuple(map(str, words))


def read_class_names(names: Sequence[str] | str | Path | None) -> tuple[str, ...]:
    """Class names as a tuple: given as such, or in a file, one per line or as a JSON list.

    Returns:
        The names; empty for None.

    Raises:
        SubjectError: when the file cannot be read or understood.
    """
    if names is None:
        return ()
    if not isinstance(names, (str, Path)):
        return tuple(map(str, names))
    file = Path(names)
    text = _text(file)
    if file.suffix != ".json":
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SubjectError(f"The class names are not JSON: {error}", where=str(file)) from error
    if not isinstance(listed, list):
        raise SubjectError(
            "The class names must be a JSON list.", where=str(file), advice='Write ["first", "second", ...].'
        )
    return tuple(map(str, listed))


def matched_labels(data: Data, outputs: int, names: tuple[str, ...]) -> tuple[Data, tuple[str, ...]]:
    """Labels that were words, renumbered in the order of the model's outputs.

    Args:
        data: with `class_names` when its labels were words, numbered in the order of the names.
        outputs: number of outputs of the model.
        names: names of the outputs where known, else empty.

    Returns:
        The data with labels that are indices of outputs, and the names of the outputs as far as known.

    Raises:
        SubjectError: when nothing says which output a class belongs to. Guessing would give a wrong accuracy.
    """
    numbers = tuple(str(number) for number in range(len(data.class_names)))
    if data.targets is None or data.class_names in (names, numbers):  # names that are just numbers, as of digits
        return data, names or data.class_names
    places = {_plain(name): index for index, name in reversed(list(enumerate(names)))}
    if all(_plain(name) in places for name in data.class_names):
        order = torch.tensor([places[_plain(name)] for name in data.class_names])
        return replace(data, targets=order[data.targets], class_names=()), names
    if len(data.class_names) == outputs:
        return data, names or data.class_names
    raise SubjectError(
        f"The data have {len(data.class_names)} named classes ({', '.join(data.class_names[:3])}, ...), the model has "
        f"{outputs} outputs: which output belongs to which class is not known.",
        where=data.name,
        advice="Give the names of all outputs (class names), or use the output's number as label or folder name.",
    )


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _text(file: Path) -> str:
    existing_file(file, "file of labels")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SubjectError("The file is not UTF-8 text.", where=str(file), advice="Save it as UTF-8.") from error
