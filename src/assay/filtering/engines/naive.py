"""Naive engine: the module itself with exchanged parameters, one full forward pass after the other. The reference.

Attention layers of torch have a second implementation, taken only where no gradient is wanted, which rounds in another
way. It is switched off meanwhile, so that the network that is evaluated is the one that attacks differentiate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from assay.attacks import Attack, attacked
from assay.attacks.target import Bounds, chunk_size
from assay.errors import UsageError
from assay.filtering.engines.engine import Precision
from assay.filtering.units import Unit
from assay.subject import Subject


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Attention as it is differentiated; afterwards the setting is as before."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class NaiveEngine:
    """Works for every model. See `engine.Engine` for the methods.

    Attributes:
        name: ``naive``.
        why: why no faster engine is used, where that was not the user's choice.
        batch_size: samples per pass.
    """

    name = "naive"

    def __init__(
        self, subject: Subject, *, batch_size: int | None = None, why: str = "", precision: Precision | None = None
    ) -> None:
        """Prepare.

        Args:
            subject: the model.
            batch_size: samples per pass; None chooses by the size of the inputs.
            why: kept as it is.
            precision: ``bf16`` runs under autocast, ``channels_last`` lays pictures out that way; None changes nothing.
        """
        self.subject, self.why, self.precision = subject, why, precision
        example = subject.example if subject.example.numel() else torch.zeros(1, 1)
        self.batch_size = chunk_size(example, batch_size)
        self._parameters = dict(subject.model.named_parameters(remove_duplicate=False))

    def outputs(self, unit: Unit, weights: Sequence[Tensor], x: Tensor) -> Iterator[Tensor]:
        """Logits (N, K) of each filtered network, see `Engine.outputs`."""
        for index in range(len(weights)):
            yield self._logits(self._changed(unit, weights[index]), x)

    def attacked(
        self,
        unit: Unit,
        weights: Sequence[Tensor],
        x: Tensor,
        y: Tensor,
        attack: Attack,
        bounds: Bounds | Literal["auto"] = "auto",
    ) -> Iterator[Tensor]:
        """Logits (N, K) of each filtered network on inputs attacked through it, see `Engine.attacked`."""
        for index in range(len(weights)):
            changed = self._changed(unit, weights[index])
            points = attacked(attack, self.subject, x, y, parameters=changed, bounds=bounds, batch_size=self.batch_size)
            yield self._logits(changed, points)

    def agrees(self, x: Tensor) -> bool:
        """True without precision asked for: this is the module."""
        return self.precision is None

    def cost(self, unit: Unit, masks: int, samples: int, *, adaptive: bool = False) -> float:
        """Weights times masks times samples: the graph that would tell more is not there."""
        count = sum(parameter.numel() for parameter in self.subject.model.parameters())
        return float(count) * masks * samples * (4 if adaptive else 1)

    def _changed(self, unit: Unit, weights: Tensor) -> dict[str, Tensor]:
        if unit.parameter not in self._parameters:
            raise UsageError(
                f"The model has no parameter {unit.parameter!r}.",
                where=unit.name,
                advice="Select units on the subject that the engine was made for.",
            )
        return unit.parameters(unit.put(self._parameters[unit.parameter], weights))

    def _logits(self, changed: dict[str, Tensor], x: Tensor) -> Tensor:
        low = torch.autocast(x.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        found: list[Tensor] = []
        with torch.no_grad(), without_fast_path(), low:
            for part in x.split(self.batch_size):
                if self.precision == "channels_last" and part.dim() == 4:
                    part = part.contiguous(memory_format=torch.channels_last)
                found.append(self.subject.call(changed, part).to(x.dtype))
        return torch.cat(found)
