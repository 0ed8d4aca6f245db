"""The model as a function of its input: values, Jacobian-vector and vector-Jacobian products, batched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp


@dataclass(frozen=True)
class Probe:
    """Function view of a model whose samples do not interact: row i of the output depends on row i of the input.

    Attributes:
        model: the module.
        parameters: values that replace the model's own, by name; they may require gradients.
    """

    model: nn.Module
    parameters: Mapping[str, Tensor] = field(default_factory=dict, hash=False)

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs (B, K) of a batch (B, ...), without gradients."""
        with torch.no_grad():
            return self.function(x) if self.parameters else self.model(x)

    @property
    def function(self) -> Callable[[Tensor], Tensor]:
        """Pure function of the input, differentiable by it and by the parameters given; the model's own are fixed."""
        state = {name: t.detach() for name, t in (*self.model.named_parameters(), *self.model.named_buffers())}
        state |= dict(self.parameters)
        return lambda x: functional_call(self.model, state, (x,))

    def jvp(self, x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (B, K) and J(x) v (B, K) for directions v of x's shape; exact derivative at x.

        Operators without forward-mode derivatives are handled by differentiating the reverse pass twice.

        Returns:
            Both, detached.

        Raises:
            RuntimeError: The model itself fails on x.
        """
        return forward_product(self.function, (x,), (direction,))

    def vjp(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Outputs (B, K) and a function from cotangents (B, K) to J(x)^T u of x's shape; may be called repeatedly."""
        outputs, pullback = vjp(self.function, x)[:2]
        return outputs.detach(), lambda u: pullback(u)[0].detach()


def forward_product(
    function: Callable[..., Tensor], primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Value and Jacobian-vector product of a function of several tensors.

    Operators without forward-mode derivatives are handled by differentiating the reverse pass twice.

    Returns:
        Both, detached.

    Raises:
        RuntimeError: The function itself fails.
    """
    with torch.no_grad():
        try:
            outputs, product = jvp(function, tuple(primals), tuple(tangents))[:2]
            return outputs, product
        except (NotImplementedError, RuntimeError) as error:
            if "forward AD" not in str(error) and "forward-mode" not in str(error):
                raise
    with torch.enable_grad():
        point = [primal.detach().requires_grad_(True) for primal in primals]
        outputs = function(*point)
        dummy = torch.zeros_like(outputs, requires_grad=True)
        transposed = torch.autograd.grad(outputs, point, dummy, create_graph=True, allow_unused=True)
        paired = [(row, tangent) for row, tangent in zip(transposed, tangents, strict=True) if row is not None]
        rows, directions = [row for row, _ in paired], [direction for _, direction in paired]
        (product,) = torch.autograd.grad(rows, dummy, directions)
    return outputs.detach(), product.detach()
