"""What the operator means to assay: which call it is, its value in plain torch, its traits, inputs to try it on."""

import torch
from torch import Tensor

from assay.graph import Aten, Operator, Sample
from assay_plugin_example import dead_zone  # noqa: F401  (registers the call with torch)


def _evaluate(x: Tensor, *, width: float, leak: float) -> Tensor:
    # not the custom operator itself: assay also differentiates this forwards and maps it over columns
    return x - (1 - leak) * x.clamp(-width, width)


def _samples(generator: torch.Generator) -> list[Sample]:
    x = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    return [Sample((2 * x,), {"width": 0.5, "leak": 0.1}), Sample((x,), {"width": 1.25, "leak": 0.0})]


DEAD_ZONE = Operator(
    "dead_zone",
    "activation",
    _evaluate,
    _samples,
    elementwise=True,
    kinks=lambda attributes: (-attributes["width"], attributes["width"]),
    piecewise_linear=True,
    aten=(Aten("dead_zone.default", ("x",), ("width", "leak"), namespace="assay_example"),),
)
