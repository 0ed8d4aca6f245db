"""Number formats by name: floating point, integers and fixed point, all under one interface, `Format`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

import torch

from assay.errors import UsageError
from assay.sensitivity.roundoff.floating import FloatFormat, precision
from assay.sensitivity.roundoff.integers import FixedPoint, Granularity, IntegerFormat, calibrated
from assay.sensitivity.roundoff.rounding import Format

__all__ = ["FORMATS", "FixedPoint", "FloatFormat", "Format", "IntegerFormat", "as_format", "calibrated", "precision"]

FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        row.name: row
        for row in (
            FloatFormat("fp64", 53, 11),
            FloatFormat("fp32", 24, 8),
            FloatFormat("tf32", 11, 8, storage=32),
            FloatFormat("fp16", 11, 5),
            FloatFormat("bf16", 8, 8),
            FloatFormat("e4m3", 4, 4, maximum=448.0, overflow="saturate"),
            FloatFormat("e5m2", 3, 5),
            FloatFormat("e2m1", 2, 2, maximum=6.0, overflow="saturate"),
            *(IntegerFormat(width) for width in range(2, 17)),
        )
    }
)
"""Formats by name. ``e4m3`` is the OCP variant without infinity; it and ``e2m1`` saturate, ``e5m2`` overflows."""

_ALIASES = {
    "float64": "fp64",
    "double": "fp64",
    "float32": "fp32",
    "float": "fp32",
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "fp8": "e4m3",
    "fp8_e4m3": "e4m3",
    "fp8_e4m3fn": "e4m3",
    "float8_e4m3fn": "e4m3",
    "fp8_e5m2": "e5m2",
    "float8_e5m2": "e5m2",
    "fp4": "e2m1",
    "fp4_e2m1": "e2m1",
}
_INTEGER = re.compile(r"int(\d+)(?:_(channel|sample|group(\d+)))?(_affine)?")
_FIXED = re.compile(r"q(\d+)\.(\d+)")
_PRECISION = re.compile(r"t(\d+)")


def as_format(value: str | int | torch.dtype | Format) -> Format:
    """A number format from what people write.

    Args:
        value: a name of `FORMATS` or an alias (``float16``, ``half``, ``fp8``); ``int4_channel``, ``int4_group64``,
            ``int8_affine``, ``int8_sample``; ``q3.5`` for fixed point; ``t8``, or the number 8, for 8 significand bits
            and unlimited range (not 8-bit integers); a torch dtype; or a format, which is returned as it is.

    Returns:
        The format.

    Raises:
        UsageError: when it is none of these.

    Example:
        >>> as_format("int4_channel").bits, as_format("half").name, as_format(8).unit_roundoff
        (4, 'fp16', 0.00390625)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return precision(value)
    if isinstance(value, torch.dtype):
        value = str(value).removeprefix("torch.")
    if not isinstance(value, str) and isinstance(value, Format):
        return value
    name = value.strip().lower() if isinstance(value, str) else ""
    name = _ALIASES.get(name, name)
    if name in FORMATS:
        return FORMATS[name]
    if match := _INTEGER.fullmatch(name):
        width, place, group, affine = match.groups()
        granularity: Granularity = (
            "group" if group else "channel" if place == "channel" else "sample" if place else "tensor"
        )
        return IntegerFormat(int(width), granularity, int(group) if group else None, symmetric=affine is None)
    if match := _FIXED.fullmatch(name):
        return FixedPoint(int(match[1]), int(match[2]))
    if match := _PRECISION.fullmatch(name):
        return precision(int(match[1]))
    raise UsageError(
        f"Unknown number format {value!r}.",
        where="format",
        advice=f"Use one of {', '.join(FORMATS)}, int4_channel, int4_group64, int8_affine, q3.5 or t8.",
    )
