"""A custom torch operator: an activation that lets little of small values through. Nothing here knows of assay."""

import torch
from torch import Tensor, nn


@torch.library.custom_op("assay_example::dead_zone", mutates_args=())
def dead_zone(x: Tensor, width: float, leak: float) -> Tensor:
    """Slope `leak` within `width` of zero, slope 1 outside, continuous."""
    return x - (1 - leak) * x.clamp(-width, width)


@dead_zone.register_fake
def _(x: Tensor, width: float, leak: float) -> Tensor:
    return torch.empty_like(x)


def _remember(ctx, inputs, output) -> None:
    x, ctx.width, ctx.leak = inputs
    ctx.save_for_backward(x)


def _backward(ctx, gradient: Tensor):
    (x,) = ctx.saved_tensors
    return torch.where(x.abs() < ctx.width, ctx.leak, 1.0).to(gradient.dtype) * gradient, None, None


dead_zone.register_autograd(_backward, setup_context=_remember)


@dead_zone.register_vmap
def _(info, dims, x: Tensor, width: float, leak: float):
    return dead_zone(x, width, leak), dims[0]


class DeadZone(nn.Module):
    """The operator as a layer."""

    def __init__(self, width: float = 0.1, leak: float = 0.2) -> None:
        super().__init__()
        self.width, self.leak = width, leak

    def forward(self, x: Tensor) -> Tensor:
        """Every element by itself."""
        return dead_zone(x, self.width, self.leak)
