"""Any other ATen call, kept whole: it can be evaluated and differentiated, and analyses fall back for it, visibly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from assay.graph.ir import Slot
from assay.graph.operators.operator import Operator, Sample, randn


def overload(target: str) -> Any:
    """The torch operator behind a name such as ``aten.einsum.default``."""
    value: Any = torch.ops
    for part in target.split("."):
        value = getattr(value, part)
    return value


def fill(template: Any, inputs: tuple[Tensor | None, ...]) -> Any:
    """An argument template with its slots replaced by tensors."""
    if isinstance(template, Slot):
        return inputs[template.index]
    if isinstance(template, tuple):
        return [fill(item, inputs) for item in template]
    return template


def _evaluate(
    *inputs: Tensor | None, target: str, arguments: tuple[Any, ...], keywords: tuple[Any, ...], index: int | None = None
) -> Tensor:
    named = {name: fill(value, inputs) for name, value in keywords}
    result = overload(target)(*(fill(value, inputs) for value in arguments), **named)
    return result if index is None else result[index]


OPERATORS = (
    Operator(
        "opaque",
        "other",
        _evaluate,
        lambda g: [
            Sample(
                (randn(g, 2, 3),),
                {"target": "aten.cumsum.default", "arguments": (Slot(0), 1), "keywords": ()},
            )
        ],
    ),
)
