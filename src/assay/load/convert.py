"""Arrays of strangers as the tensors of `Data`: byte pictures scaled, labels numbered, all else refused."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor

from assay.errors import SubjectError
from assay.load.choose import chosen_rows
from assay.subject import Data


def data_from_arrays(
    inputs: Any,
    targets: Any,
    name: str,
    *,
    limit: int | None = None,
    bounds: tuple[float, float] | None = None,
) -> Data:
    """`Data` from two arrays or tensors of any usual type.

    Args:
        inputs: (N, ...) floats; or bytes, taken as pictures: 0..255 mapped to the bounds, channels moved to the front.
        targets: (N,) labels as integers or strings, (N, K) one-hot labels, (N,) or (N, K) values, or None.
        name: where they came from.
        limit: number of samples wanted, chosen by `chosen_rows`.
        bounds: what 0 and 255 of bytes are mapped to; (0, 1) when None.

    Returns:
        The chosen samples, with what was decided in `Data.notes`.

    Raises:
        SubjectError: for object arrays, complex numbers, unequal lengths and whatever else is no batch of numbers.

    Example:
        >>> data = data_from_arrays(numpy.full((4, 8, 8, 3), 255, numpy.uint8), ["cat", "dog", "cat", "dog"], "pets")
        >>> data.inputs.shape, data.bounds, data.targets.tolist(), data.class_names
        (torch.Size([4, 3, 8, 8]), (0.0, 1.0), [0, 1, 0, 1], ('cat', 'dog'))
    """
    notes: list[str] = []
    x = _as_array(inputs, name, "inputs")
    if x.ndim == 0 or len(x) == 0:
        raise SubjectError("The data are empty.", where=name, advice="Give at least one sample.")
    y, class_names = (None, ()) if targets is None else as_targets(_as_array(targets, name, "targets"), name, notes)
    if y is not None and len(y) != len(x):
        raise SubjectError(
            f"There are {len(x)} inputs and {len(y)} targets.", where=name, advice="Give one target per input."
        )
    rows = chosen_rows(len(x), limit, y)
    chosen, known_bounds = _as_inputs(numpy.asarray(x[rows.numpy()]), bounds, name, notes)
    return Data(chosen, None if y is None else y[rows], name, class_names, known_bounds, tuple(notes))


def as_targets(array: numpy.ndarray, name: str, notes: list[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Targets as a tensor, and class names where the labels were words.

    Returns:
        (N,) labels or (N, K) values, and the sorted class names, empty for numbers.

    Raises:
        SubjectError: when they are neither numbers nor words.
    """
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind in "US":
        words, numbers = numpy.unique(array.astype(str), return_inverse=True)
        return torch.from_numpy(numbers.reshape(array.shape)).long(), tuple(map(str, words))
    if array.dtype.kind not in "biuf":
        raise SubjectError(
            f"Targets must be numbers or words, got {array.dtype}.", where=name, advice="Store labels as integers."
        )
    if array.ndim == 2 and array.size and numpy.isin(array, (0, 1)).all() and (array.sum(1) == 1).all():
        notes.append(f"The targets were one-hot over {array.shape[1]} classes; they are read as labels.")
        return torch.from_numpy(array.argmax(1)).long(), ()
    kind = numpy.float64 if array.dtype.kind == "f" else numpy.int64
    return torch.from_numpy(array.astype(kind)).to(torch.float32 if kind is numpy.float64 else torch.int64), ()


def _as_inputs(
    array: numpy.ndarray, bounds: tuple[float, float] | None, name: str, notes: list[str]
) -> tuple[Tensor, tuple[float, float] | None]:
    if array.dtype == numpy.uint8:
        low, high = bounds or (0.0, 1.0)
        notes.append(f"Bytes were mapped from 0..255 to {low:g}..{high:g}.")
        if array.ndim == 4 and array.shape[3] in (1, 3) and array.shape[1] not in (1, 3):
            notes.append("Channels were moved from the last axis to the first: (N, H, W, C) to (N, C, H, W).")
            array = array.transpose(0, 3, 1, 2)
        elif array.ndim == 3:
            notes.append("A channel axis was added: (N, H, W) to (N, 1, H, W).")
            array = array[:, None]
        return bytes_to_range(torch.from_numpy(numpy.ascontiguousarray(array)), low, high), (low, high)
    if array.dtype.kind in "biu":
        notes.append(f"Inputs of type {array.dtype} are taken as numbers.")
        array = array.astype(numpy.float32)
    if array.dtype.kind != "f":
        raise SubjectError(f"Inputs must be numbers, got {array.dtype}.", where=name, advice="Store them as floats.")
    if array.dtype.itemsize > 8:  # long double, which torch does not have
        array = array.astype(numpy.float64)
    return torch.from_numpy(numpy.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))), None


def bytes_to_range(pixels: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Bytes 0..255 as floats in [low, high]."""
    return pixels.to(torch.float32) * ((high - low) / 255.0) + low if (low, high) != (0.0, 1.0) else pixels / 255.0


def _as_array(values: Any, name: str, what: str) -> numpy.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        array = numpy.asarray(values)
    except ValueError as error:  # numpy's word for ragged lists
        raise SubjectError(
            f"The {what} have unequal shapes.",
            where=name,
            advice="Bring all samples to one shape, for example by resize and crop.",
        ) from error
    if array.dtype.kind in "OVcmM":
        kind = {"O": "objects", "V": "records", "c": "complex numbers"}.get(array.dtype.kind, "dates")
        raise SubjectError(
            f"The {what} are {kind}, not plain numbers.", where=name, advice="Store a plain numeric array."
        )
    return array
