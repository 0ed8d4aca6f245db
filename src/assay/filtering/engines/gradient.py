"""The fast gradient sign method through many versions of one unit, with the prefix and its derivative kept per batch.

At the clean point every filtered network computes the same prefix. Its automatic differentiation graph is built once
per batch and kept; for each mask only the suffix runs forward again, and the backward pass runs through both. What
comes out is bit for bit what `assay.attacks.attacked` finds, batch by batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from assay.attacks import Attack, fgsm
from assay.attacks.target import Bounds, Loss, check_outputs, checked_gradient, chunk_size, inside, loss_of
from assay.filtering.engines.program import Program, Region, Values, run


@dataclass(frozen=True)
class FastGradient:
    """Settings of one `fgsm`."""

    epsilon: float
    targeted: bool = False
    loss: Loss | None = None


def fast_gradient(attack: Attack) -> FastGradient | None:
    """The settings of an attack that is our `fgsm` and takes bounds and batches from its caller; else None."""
    if not isinstance(attack, partial) or attack.func is not fgsm or attack.args:
        return None
    given = dict(attack.keywords)
    epsilon = given.pop("epsilon", None)
    usable = isinstance(epsilon, int | float) and not isinstance(epsilon, bool) and 0 <= epsilon < float("inf")
    if not usable or not given.keys() <= {"targeted", "loss"}:
        return None
    return FastGradient(epsilon, **given)


class CleanPoint:
    """One batch at its clean point, with the prefix's derivative kept."""

    def __init__(self, program: Program, region: Region, x: Tensor, y: Tensor) -> None:
        """Run the prefix.

        Args:
            program: of the network.
            region: of the unit, from `Program.region_in_order`.
            x: (B, ...) inputs.
            y: (B,) labels.
        """
        self.program, self.region = program, region
        self._pieces: list[tuple[Tensor, Tensor, Values]] = []
        size = chunk_size(x, None)  # as `fgsm` splits what it is given
        for part, labels in zip(x.detach().split(size), y.split(size), strict=True):
            with torch.enable_grad():
                point = part.detach().requires_grad_(True)
                values = program.load(point)
                run(region.prefix, values, len(part))
            self._pieces.append((point, labels, {name: values[name] for name in region.frontier}))

    def attacked(self, changed: Values, settings: FastGradient, bounds: Bounds) -> Tensor:
        """Attack through the network with changed parameters.

        Args:
            changed: values of parameter nodes, from `Program.changed`.
            settings: of the attack.
            bounds: legal range of inputs, or None.

        Returns:
            (B, ...) attacked inputs.

        Raises:
            NumericalError: for gradients that are NaN or infinite.
            UsageError: for labels that do not fit.
        """
        sign = -1.0 if settings.targeted else 1.0
        found: list[Tensor] = []
        for point, labels, kept in self._pieces:
            gradient = self._gradient(changed, point, labels, kept, loss_of(settings.loss, labels))
            part = point.detach()
            found.append(inside(part + sign * settings.epsilon * gradient.sign(), part, bounds))
        return torch.cat(found)

    def gradient(self, changed: Values, loss: Loss) -> Tensor:
        """Gradient of the loss by the inputs, through the network with changed parameters."""
        return torch.cat([self._gradient(changed, *piece, loss) for piece in self._pieces])

    def _gradient(self, changed: Values, point: Tensor, labels: Tensor, kept: Values, loss: Loss) -> Tensor:
        with torch.enable_grad():
            values = {**self.program.constants, **changed, **kept}
            run(self.region.suffix, values, len(point))
            outputs = values[self.region.output]
            check_outputs(outputs, labels)
            total = loss(outputs, labels).sum()
            if not total.requires_grad:
                return torch.zeros_like(point)
            (gradient,) = torch.autograd.grad(total, point, retain_graph=True, allow_unused=True)
        return checked_gradient(gradient, point)
