"""A copy of the model with the plan's dense layers quantised by torchao; what torchao cannot hold is said.

`quantize_` of torchao replaces weights of nn.Linear modules by integers of 1 to 8 bits with a scale per output channel
or per group. It has its own rule for scales, so the copy is measured rather than assumed equal to the plan.
Convolutions, and layers with a batch norm folded in, keep their float weights.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from assay.errors import MissingExtra
from assay.sensitivity.bits.verify import Verified, compare

if TYPE_CHECKING:
    from assay.sensitivity.bits.plan import Plan
    from assay.sensitivity.roundoff.formats import Format


@dataclass(frozen=True, eq=False)
class QuantisedCopy:
    """A model quantised by torchao.

    Attributes:
        model: the copy.
        quantised: format by layer.
        kept: layers that keep float weights, with the reason.
        verified: the copy beside the exact network on the plan's calibration inputs.
    """

    model: nn.Module
    quantised: dict[str, str]
    kept: dict[str, str]
    verified: Verified


def quantised_copy(plan: Plan) -> QuantisedCopy:
    """Quantise a copy of the plan's model by torchao, run it and measure it.

    Args:
        plan: from `bit_widths`.

    Returns:
        The copy, and what it did.

    Raises:
        MissingExtra: without torchao.
    """
    try:
        from torchao.quantization import quantize_
    except ImportError as error:
        raise MissingExtra("torchao", "torchao", "Quantising a copy of the model") from error
    model = copy.deepcopy(plan.subject.model)
    graph = plan.problem.graph
    modules = {id(parameter): module for module in model.modules() for parameter in module.parameters(recurse=False)}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    quantised: dict[str, str] = {}
    kept: dict[str, str] = {}
    for layer in plan.problem.layers:
        target = plan.formats[layer.name]
        parameter = parameters.get(graph.parameter_names.get(layer.parameter, ""))
        module = None if parameter is None else modules.get(id(parameter))
        config = _config(target)
        if type(module) is not nn.Linear or parameter is None:
            kept[layer.name] = "torchao quantises nn.Linear modules only"
        elif not torch.equal(parameter.detach(), layer.weight):
            kept[layer.name] = "a batch norm is folded into this layer"
        elif config is None:
            kept[layer.name] = f"torchao has no weight format like {target.name}"
        else:
            quantize_(model, config, filter_fn=lambda found, _, wanted=module: found is wanted)
            quantised[layer.name] = target.name
    with torch.no_grad():
        outputs = model(plan.problem.x)
    return QuantisedCopy(model, quantised, kept, compare(outputs, plan.problem.outputs()))


def _config(target: Format) -> Any:
    """What torchao calls a format of weights; None where it has none."""
    from torchao.quantization import IntxWeightOnlyConfig, PerAxis, PerGroup

    from assay.sensitivity.roundoff.integers import IntegerFormat

    if not isinstance(target, IntegerFormat) or not target.symmetric or target.width > 8:
        return None
    if target.granularity == "channel":
        granularity: Any = PerAxis(0)
    elif target.granularity == "group" and target.group is not None:
        granularity = PerGroup(target.group)
    else:
        return None
    return IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{target.width}"), granularity=granularity)
