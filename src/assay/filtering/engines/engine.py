"""What an engine is: it evaluates one network under many versions of one unit's weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from assay.attacks import Attack
from assay.attacks.target import Bounds
from assay.filtering.units import Unit

Precision = Literal["bf16", "channels_last"]
HELD_ELEMENTS = 2**24  # of changed weights that are kept for all masks at once


class Engine(Protocol):
    """Evaluates filtered networks, in evaluation mode, without gradients of parameters; the subject stays as it is.

    Attributes:
        name: ``naive``, ``incremental`` or ``batched``.
        why: why the engine is not a faster one, in one sentence; empty where there is nothing to say.
        batch_size: samples per pass.
    """

    name: str
    why: str
    batch_size: int

    def outputs(self, unit: Unit, weights: Sequence[Tensor], x: Tensor) -> Iterator[Tensor]:
        """Logits of each filtered network on all inputs.

        Args:
            unit: whose weights are exchanged.
            weights: one tensor of the unit's shape per network. Read by index, perhaps more than once: a sequence that
                computes them when asked saves their memory.
            x: (N, ...) inputs.

        Yields:
            (N, K) logits, one per entry of `weights`, in order.
        """
        ...

    def attacked(
        self,
        unit: Unit,
        weights: Sequence[Tensor],
        x: Tensor,
        y: Tensor,
        attack: Attack,
        bounds: Bounds | Literal["auto"] = "auto",
    ) -> Iterator[Tensor]:
        """Logits of each filtered network on inputs that were attacked anew through this very network.

        The attacked inputs are those of `assay.attacks.attacked` with the same batches, bit for bit.

        Args:
            unit: whose weights are exchanged.
            weights: as in `outputs`.
            x: (N, ...) inputs.
            y: (N,) labels.
            attack: as `assay.attacks.attack_of` returns it, or any function (model, x, y) -> x_adv.
            bounds: legal range of inputs; ``auto`` takes the subject's.

        Yields:
            (N, K) logits, one per entry of `weights`, in order.
        """
        ...

    def agrees(self, x: Tensor) -> bool:
        """Whether the engine's outputs of the unfiltered network equal the module's bit for bit on these inputs."""
        ...

    def cost(self, unit: Unit, masks: int, samples: int, *, adaptive: bool = False) -> float:
        """Work in multiply-accumulates, up to a factor that depends on the machine: only ratios matter.

        Args:
            unit: whose weights are exchanged.
            masks: number of filtered networks.
            samples: number of inputs.
            adaptive: for FGSM made anew through each network; another attack costs more in proportion to its steps.
        """
        ...


class Held(Sequence[Tensor]):
    """Weights that are read several times, kept where all of them fit into `HELD_ELEMENTS`."""

    def __init__(self, weights: Sequence[Tensor], unit: Unit) -> None:
        small = len(weights) * torch.Size(unit.shape).numel() <= HELD_ELEMENTS
        self._weights = [weights[index] for index in range(len(weights))] if small else weights

    def __getitem__(self, index: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._weights[index]

    def __len__(self) -> int:
        return len(self._weights)
