"""Take the in-place calls out of an exported program, where that is a matter of renaming.

`run_decompositions` always does it, by tracing the program a second time, which takes four times as long as the export
itself. In nearly every model an in-place call overwrites a tensor that nothing else shares memory with (a ReLU after a
convolution); there, calling the functional twin and letting later readers read its result is the same.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

_FRESH = frozenset(
    "aten::" + name
    for name in (
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "batch_norm",
        "instance_norm",
        "group_norm",
        "layer_norm",
        "linear",
        "addmm",
        "mm",
        "bmm",
        "matmul",
        "cat",
        "stack",
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "clone",
        "lift_fresh_copy",
        "hardtanh",
        "relu",
        "relu6",
        "leaky_relu",
        "prelu",
        "elu",
        "selu",
        "celu",
        "silu",
        "gelu",
        "mish",
        "hardswish",
        "hardsigmoid",
        "softplus",
        "softmax",
        "constant_pad_nd",
        "embedding",
    )
)
"""Operators whose result shares memory with none of their inputs."""

_INERT = {
    torch.ops.aten.detach_.default: torch.ops.aten.detach.default,
    torch.ops.aten.dropout_.default: torch.ops.aten.dropout.default,
    torch.ops.aten.feature_dropout_.default: torch.ops.aten.feature_dropout.default,
    torch.ops.aten.alpha_dropout_.default: torch.ops.aten.alpha_dropout.default,
}
"""Calls that write nothing, and what they stand for; dropout only where the third argument, `train`, is off."""


def without_mutation(exported: Any) -> bool:
    """Replace every in-place call of an exported program by its functional twin.

    Args:
        exported: a program from `torch.export.export`; its graph is changed when True is returned.

    Returns:
        False, with the program untouched, when a call is not an operator, or writes to memory that another name may
        share.
    """
    graph = exported.graph_module.graph
    order = {fx: place for place, fx in enumerate(graph.nodes)}
    names: dict[Any, list[Any]] = {}  # all nodes that stand for one piece of memory, by each of them
    plan: list[tuple[Any, Any]] = []
    for fx in graph.nodes:
        if fx.op in ("placeholder", "output"):
            continue
        if fx.op != "call_function":
            return False
        if not isinstance(fx.target, torch._ops.OpOverload):
            if fx.target is operator.getitem or not isinstance(fx.meta.get("val"), (Tensor, tuple, list)):
                continue  # parts of a tuple, and arithmetic on sizes
            return False
        if fx.target in _INERT and not (len(fx.args) == 3 and fx.args[2]):
            plan.append((fx, _INERT[fx.target]))
        elif fx.target._schema.is_mutable:
            twin = _functional_twin(fx)
            if twin is None:
                return False
            shared = names.setdefault(fx.args[0], [fx.args[0]])
            if not _owned(shared, order, order[fx]):
                return False
            shared.append(fx)
            names[fx] = shared
            plan.append((fx, twin))
    for fx, twin in plan:
        fx.target = twin
        place = order[fx]
        fx.args[0].replace_all_uses_with(fx, delete_user_cb=lambda user, place=place: order[user] > place)
    exported.graph_module.recompile()
    return True


def _functional_twin(fx: Any) -> Any:
    """``aten.relu.default`` for a call of ``aten.relu_.default``; None where there is none with the same meaning."""
    schema = fx.target._schema
    written = [a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    name = schema.name.removeprefix("aten::")
    if written != [schema.arguments[0].name] or not name.endswith("_") or not fx.args:
        return None
    twin = getattr(getattr(torch.ops.aten, name[:-1], None), fx.target._overloadname, None)
    if twin is None or [a.name for a in twin._schema.arguments] != [a.name for a in schema.arguments]:
        return None
    read = [a.meta.get("val") for a in fx.all_input_nodes]
    alike = all(not isinstance(v, Tensor) or v.dtype in (fx.meta["val"].dtype, torch.bool) for v in read)
    return twin if alike else None  # an in-place call keeps its type, its twin would promote


def _owned(shared: list[Any], order: dict[Any, int], place: int) -> bool:
    """Whether nothing but these names refers to their memory when the node at `place` runs."""
    users = (user for name in shared for user in name.users if order[user] < place)
    return _is_fresh(shared[0]) and all(user in shared or _is_fresh(user) for user in users)


def _is_fresh(fx: Any) -> bool:
    target = fx.target
    if fx.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    schema = target._schema
    aliased = any(a.alias_info is not None and not a.alias_info.is_write for a in (*schema.arguments, *schema.returns))
    twin = schema.name.removesuffix("_")
    return not aliased and (torch.Tag.pointwise in target.tags or twin in _FRESH)
