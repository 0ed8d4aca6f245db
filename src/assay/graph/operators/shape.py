"""Operators that move elements and change none."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.graph.operators.operator import Aten, Converted, Operator, Sample, randn

_FIRST = (frozenset({0}),)


def _to_shape(arguments: dict[str, Any], shape: tuple[Any, ...]) -> Converted:
    return Converted((arguments["self"],), {"shape": shape})


def _swapped(source: Any, first: int, second: int, rank: int) -> Converted:
    order = list(range(rank))
    order[first], order[second] = order[second], order[first]
    return Converted((source,), {"order": tuple(order)})


def _slice_arguments(arguments: dict[str, Any], shape: tuple[Any, ...]) -> Converted:
    names = {
        "axis": arguments["dim"] % len(shape),
        "start": arguments["start"],
        "end": arguments["end"],
        "step": arguments["step"],
    }
    return Converted((arguments["self"],), names)


def _slice(x: Tensor, *, axis: int, start: int | None, end: int | None, step: int = 1) -> Tensor:
    return x[(slice(None),) * axis + (slice(start, end, step),)]


def _select(x: Tensor, *, axis: int, index: int) -> Tensor:
    return x.select(axis, index)


def _part(x: Tensor, *, axis: int, start: int, length: int) -> Tensor:
    return x.narrow(axis, start, length)


def _pad_constant(arguments: dict[str, Any], shape: tuple[Any, ...]) -> Converted:
    value = arguments.get("value") or 0.0
    return Converted(
        (arguments["self"],),
        {"pads": tuple(arguments["pad"]), "mode": arguments.get("mode", "constant"), "value": value},
    )


def _pad(x: Tensor, *, pads: tuple[int, ...], mode: str = "constant", value: float = 0.0) -> Tensor:
    return F.pad(x, pads, mode, value if mode == "constant" else None)


def _cat(*tensors: Tensor, axis: int) -> Tensor:
    return torch.cat(tensors, axis)


def _move(name: str, function, samples, *aten: Aten, **extra: Any) -> Operator:
    """Moving elements has coefficients 0 and 1, so variances move the same way."""
    return Operator(name, "shape", function, samples, linear_in=_FIRST, squared=function, aten=aten, **extra)


_SHAPES = (
    "view.default",
    "_unsafe_view.default",
    "reshape.default",
    "flatten.using_ints",
    "unflatten.int",
    "view_as.default",
    "reshape_as.default",
    "squeeze.default",
    "squeeze.dim",
    "squeeze.dims",
    "unsqueeze.default",
)

OPERATORS = (
    _move(
        "reshape",
        lambda x, *, shape: x.reshape(shape),
        lambda g: [Sample((randn(g, 2, 3, 4),), {"shape": (2, 12)})],
        *(Aten(target, convert=_to_shape) for target in _SHAPES),
    ),
    _move(
        "permute",
        lambda x, *, order: x.permute(order),
        lambda g: [Sample((randn(g, 2, 3, 4),), {"order": (0, 2, 1)})],
        Aten(
            "permute.default",
            convert=lambda a, s: Converted((a["self"],), {"order": tuple(d % len(s) for d in a["dims"])}),
        ),
        Aten("transpose.int", convert=lambda a, s: _swapped(a["self"], a["dim0"], a["dim1"], len(s))),
        Aten("swapaxes.default", convert=lambda a, s: _swapped(a["self"], a["axis0"], a["axis1"], len(s))),
        Aten("swapdims.default", convert=lambda a, s: _swapped(a["self"], a["dim0"], a["dim1"], len(s))),
        Aten("mT.default", convert=lambda a, s: _swapped(a["self"], -2, -1, len(s))),
        Aten("numpy_T.default", convert=lambda a, s: Converted((a["self"],), {"order": tuple(range(len(s)))[::-1]})),
        Aten("t.default", convert=lambda a, s: Converted((a["self"],), {"order": (1, 0) if len(s) == 2 else (0,)})),
    ),
    _move(
        "slice",
        _slice,
        lambda g: [Sample((randn(g, 2, 6, 4),), {"axis": 1, "start": 1, "end": 6, "step": 2})],
        Aten("slice.Tensor", convert=_slice_arguments),
    ),
    _move(
        "select",
        _select,
        lambda g: [Sample((randn(g, 2, 6, 4),), {"axis": 1, "index": 2})],
        Aten(
            "select.int",
            convert=lambda a, s: Converted((a["self"],), {"axis": a["dim"] % (len(s) + 1), "index": a["index"]}),
        ),
    ),
    _move(
        "part",
        _part,
        lambda g: [Sample((randn(g, 2, 6, 4),), {"axis": 1, "start": 2, "length": 3})],
        Aten(
            "narrow.default",
            convert=lambda a, s: Converted(
                (a["self"],), {"axis": a["dim"] % len(s), "start": a["start"], "length": a["length"]}
            ),
        ),
    ),
    _move(
        "expand",
        lambda x, *, shape: x.expand(shape),
        lambda g: [Sample((randn(g, 2, 1, 4),), {"shape": (2, 3, 4)})],
        Aten("expand.default", convert=_to_shape),
        Aten("expand_as.default", convert=_to_shape),
    ),
    _move(
        "pad",
        _pad,
        lambda g: [
            Sample((randn(g, 2, 3, 4, 4),), {"pads": (1, 2, 0, 1), "value": 0.5}),
            Sample((randn(g, 2, 3, 4, 4),), {"pads": (1, 1, 2, 0), "mode": "reflect"}),
        ],
        Aten("constant_pad_nd.default", convert=_pad_constant),
        Aten("pad.default", convert=_pad_constant),
        linear_attributes={"value": 0.0},
    ),
    _move(
        "roll",
        lambda x, *, shifts, dims: torch.roll(x, shifts, dims),
        lambda g: [Sample((randn(g, 2, 4, 4),), {"shifts": (1, 2), "dims": (1, 2)})],
        Aten("roll.default", attributes=("shifts", "dims")),
    ),
    _move(
        "flip",
        lambda x, *, dims: torch.flip(x, dims),
        lambda g: [Sample((randn(g, 2, 4, 4),), {"dims": (1, 2)})],
        Aten("flip.default", attributes=("dims",)),
    ),
    _move(
        "identity",
        lambda x: x,
        lambda g: [Sample((randn(g, 2, 3),))],
        *(
            Aten(f"{name}.default", ("input",))
            for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
        ),
        *(Aten(f"{name}.default") for name in ("clone", "alias", "detach", "contiguous", "lift_fresh_copy")),
    ),
    Operator(
        "cat",
        "shape",
        _cat,
        lambda g: [Sample((randn(g, 2, 3, 4), randn(g, 2, 5, 4)), {"axis": 1})],
        linear_in="all",
        squared=_cat,
        aten=(Aten("cat.default", convert=lambda a, s: Converted(tuple(a["tensors"]), {"axis": a["dim"] % len(s)})),),
    ),
)
