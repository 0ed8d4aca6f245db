"""Arrays of results as safetensors can hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy

from assay.errors import StoreError
from assay.results.model import Result


def array_keys(result: Result) -> dict[str, str]:
    """Key in a safetensors file for every array: its own name when that is short and printable.

    Returns:
        Keys by array name.
    """
    found: dict[str, str] = {}
    for index, name in enumerate(result.arrays):
        usable = name.isascii() and name.isprintable() and 0 < len(name) <= 200 and name != "__metadata__"
        found[name] = name if usable and not name.startswith("array:") else f"array:{index}"
    return found


def keyed(result: Result, names: Mapping[str, str]) -> dict[str, numpy.ndarray]:
    """The arrays of a result by key, contiguous and little-endian, as safetensors writes raw buffers.

    Args:
        result: whose arrays.
        names: key by array name.

    Returns:
        The arrays.

    Raises:
        StoreError: for an array of a type that safetensors does not know.
    """
    arrays: dict[str, numpy.ndarray] = {}
    for name, value in result.arrays.items():
        array = _numpy(value)
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise StoreError(
                f"Arrays of type {array.dtype} cannot be stored.",
                where=f"result {result.name!r}, array {name!r}",
                advice="Store real numbers or booleans.",
            )
        arrays[names[name]] = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return arrays


def _numpy(value: Any) -> numpy.ndarray:
    return numpy.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value, order="C")
