"""Base of functions with hand-written derivatives that act element by element on broadcast tensors.

Written by hand, a derivative needs no stored quadrature nodes, has its exact limit where autograd would meet 0/0,
and works for reverse mode, forward mode, second derivatives and `torch.func`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Elementwise(torch.autograd.Function):
    """An element-by-element function; subclasses give `forward` and `partials`, both plain tensor code."""

    @staticmethod
    def partials(*arguments: Tensor) -> tuple[Tensor, ...]:
        """Derivatives with respect to each argument, in differentiable tensor operations."""
        raise NotImplementedError

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep the arguments only: derivatives are recomputed, so memory does not grow with the quadrature."""
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @classmethod
    def backward(cls, ctx: Any, *grad_outputs: Any) -> Any:
        """Multiply by the partial derivatives and sum over the axes that were broadcast."""
        arguments = ctx.saved_tensors
        slopes = cls.partials(*arguments)
        (upstream,) = grad_outputs
        return tuple(
            (upstream * slope).sum_to_size(argument.shape) if needed else None
            for slope, argument, needed in zip(slopes, arguments, ctx.needs_input_grad, strict=True)
        )

    @classmethod
    def jvp(cls, ctx: Any, *grad_inputs: Any) -> Any:
        """Forward mode: the sum of partial derivative times tangent."""
        slopes = cls.partials(*ctx.saved_tensors)
        terms = [slope * tangent for slope, tangent in zip(slopes, grad_inputs, strict=True) if tangent is not None]
        return torch.stack(torch.broadcast_tensors(*terms)).sum(0)

    @classmethod
    def vmap(cls, info: Any, in_dims: Any, *args: Any) -> Any:
        """Put the mapped axis first in every argument and evaluate once."""
        depth = max(value.ndim - (axis is not None) for value, axis in zip(args, in_dims, strict=True))
        aligned = []
        for value, axis in zip(args, in_dims, strict=True):
            if axis is not None:
                value = value.movedim(axis, 0)
                padding = (1,) * (depth - value.ndim + 1)
                value = value.reshape(value.shape[:1] + padding + value.shape[1:])
            aligned.append(value)
        return cls.apply(*aligned), 0
