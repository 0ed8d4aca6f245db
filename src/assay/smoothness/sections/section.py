"""What a section is given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from assay.smoothness.config import SmoothnessConfig
from assay.smoothness.kinks import Smp
from assay.smoothness.network import Network
from assay.smoothness.paths import Path
from assay.subject import Subject


@dataclass(frozen=True, eq=False)
class Journey:
    """One path and the kinks along it.

    Attributes:
        name: such as ``input 3 to input 40``.
        movement: kind of path.
        path: the path.
        smp: its measured kinks, of the outputs that are followed.
    """

    name: str
    movement: str
    path: Path
    smp: Smp


@dataclass(frozen=True, eq=False)
class Context:
    """The subject under question.

    Attributes:
        subject: with data.
        config: the settings.
        network: its graph in double precision, with the outputs that are followed; None where only outputs were seen.
        outputs: places of these outputs.
        journeys: paths with their kinks.
    """

    subject: Subject
    config: SmoothnessConfig
    network: Network | None
    outputs: tuple[int, ...]
    journeys: tuple[Journey, ...]

    @cached_property
    def layers(self) -> dict[str, Tensor]:
        """Place of a layer -> (journeys, K) SMP per unit of path that its units cause, layers in graph order."""
        places = [] if self.network is None else list(dict.fromkeys(self.network.places.values()))
        rows = [[each.smp.by_layer.get(place) for each in self.journeys] for place in places]
        zero = torch.zeros(len(self.outputs), dtype=torch.float64)
        found = {}
        for place, row in zip(places, rows, strict=True):
            parts = [zero if part is None else part for part in row]
            lengths = [each.smp.length for each in self.journeys]
            found[place] = torch.stack([part / length for part, length in zip(parts, lengths, strict=True)])
        return found

    def output_name(self, index: int) -> str:
        """Name of one of the outputs that are followed."""
        return self.subject.output_name(self.outputs[index])
