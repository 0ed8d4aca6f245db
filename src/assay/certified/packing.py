"""Many units carried back in one pass: those that read different parts of the input do not get into each other's way.

In a convolution a unit reads a small patch, and the passes back of units with disjoint patches can share one row: every
element on the way belongs to one unit, its owner. Which elements a unit reads is found once per network, by carrying it
back with random positive slopes, so that what is zero there is zero for all slopes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

Back = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Packing:
    """Rows that carry all units of a node.

    Attributes:
        row: (n,) of every unit.
        owners: per node on the way and the input, (rows, elements) the unit that an element belongs to; n for none.
    """

    row: Tensor
    owners: dict[str, Tensor]

    def totals(self, name: str, rows: Tensor, values: Tensor) -> Tensor:
        """Sum over the elements of each unit.

        Args:
            name: of the node on the way.
            rows: (k,) those that `values` are of.
            values: (k, elements).

        Returns:
            (n,) sums.
        """
        total = values.new_zeros(len(self.row) + 1)
        return total.index_add_(0, self.owners[name][rows].reshape(-1), values.reshape(-1))[:-1]


def pack(count: int, back: Back, ends: Collection[str], chunk: int) -> Packing | None:
    """First-fit packing of a node's units into rows.

    Args:
        count: of units.
        back: from one-hot weights (k, n) of units to what reaches the nodes on the way, (k, elements), zero where a
            unit reads nothing.
        ends: names of the input, and of nodes from which no way leads on to it, among them.
        chunk: units at a time.

    Returns:
        The packing, or None where it would not save half of the passes.
    """
    row = torch.zeros(count, dtype=torch.long)
    taken = torch.zeros(0)
    owners: dict[str, Tensor] = {}
    for units in torch.arange(count).split(chunk):
        weights = torch.zeros(len(units), count, dtype=torch.float64)
        weights[torch.arange(len(units)), units] = 1
        reached = {name: found != 0 for name, found in back(weights).items()}
        read = torch.cat([there for name, there in reached.items() if name in ends], 1).float()
        if not len(taken):
            taken = torch.zeros(0, read.shape[1])
        for unit, patch in zip(units.tolist(), read, strict=True):
            free = (taken @ patch == 0).nonzero()
            if len(free):
                row[unit] = free[0, 0]
            else:
                row[unit] = len(taken)
                taken = torch.cat([taken, patch.new_zeros(1, len(patch))])
            taken[row[unit]] += patch
        if len(taken) * 2 > count:
            return None
        for name, there in reached.items():
            known = owners.get(name, torch.zeros(0, there.shape[1], dtype=torch.long))
            owner = torch.full((len(taken), there.shape[1]), count)
            owner[: len(known)] = known
            which, element = there.nonzero(as_tuple=True)
            owner[row[units[which]], element] = units[which]
            owners[name] = owner
    return Packing(row, owners)
