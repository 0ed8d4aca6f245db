"""Variants: all the changed networks that the filters of one unit lead to, equal ones counted once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from assay.errors import UsageError
from assay.filtering.config import FilteringConfig
from assay.filtering.ideal import values_of
from assay.filtering.merging import DistinctMasks, distinct_masks
from assay.filtering.replacements import reinitialised, rerandomised
from assay.filtering.units import Unit
from assay.results import Displayed

UNFILTERED = -1
GLOBAL = "all units"


@dataclass(frozen=True, eq=False)
class Variants(Displayed):
    """The changed networks of one unit, or in the global scope of all units together.

    Attributes:
        name: of the unit.
        units: the unit; in the global scope all of them.
        rows: by filter, (n,) which variant each threshold (or each draw) leads to; -1 is the unfiltered network.
        density: by filter, (n,) remaining over all weights.
        changed: by filter, (n,) number of weights with another value.
        degenerate: the unit has only one value.
    """

    name: str
    units: tuple[Unit, ...]
    rows: Mapping[str, np.ndarray]
    density: Mapping[str, np.ndarray]
    changed: Mapping[str, np.ndarray]
    degenerate: bool
    _parameters: Mapping[str, Tensor]
    _masks: tuple[DistinctMasks, ...]
    _masked: np.ndarray
    _replaced: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self._masked) + len(self._replaced)

    def weights(self, row: int, which: int = 0) -> Tensor:
        """The weights of the unit in one variant.

        Args:
            row: which variant; -1 the unfiltered network.
            which: of several units, in the global scope.

        Returns:
            A new tensor of the unit's shape.
        """
        if row >= len(self._masked):
            return self._replaced[row - len(self._masked)].clone()
        return self._masks[which].filtered(UNFILTERED if row == UNFILTERED else int(self._masked[row, which]))

    def stack(self, rows: Sequence[int]) -> WeightsOf:
        """The unit's weights in several variants, made one at a time."""
        return WeightsOf(self, rows)

    def parameters(self, row: int) -> dict[str, Tensor]:
        """Every parameter of a variant that is another, under all of its names."""
        found: dict[str, Tensor] = {}
        for which, unit in enumerate(self.units):
            changed = unit.put(self._parameters[unit.parameter], self.weights(row, which))
            found |= unit.parameters(changed)
        return found

    def needed(self, filters: Sequence[str]) -> list[int]:
        """The variants that some filters lead to, in rising order, without the unfiltered network."""
        rows = np.unique(np.concatenate([self.rows[name] for name in filters])) if filters else np.empty(0, int)
        return [int(row) for row in rows if row != UNFILTERED]


@dataclass(frozen=True)
class WeightsOf(Sequence[Tensor]):
    """The weights of a unit in several variants: a sequence that makes each tensor when it is asked for."""

    variants: Variants
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):  # pyright: ignore[reportIncompatibleMethodOverride]
        if isinstance(index, slice):
            return WeightsOf(self.variants, self.rows[index])
        return self.variants.weights(self.rows[index])

    def __iter__(self) -> Iterator[Tensor]:
        return (self.variants.weights(row) for row in self.rows)


def variants_of(
    model: nn.Module,
    units: Sequence[Unit],
    config: FilteringConfig,
    initial: Mapping[str, Tensor] | None = None,
) -> Iterator[Variants]:
    """The variants of every unit, one after the other; in the global scope a single set for all units.

    Args:
        model: whose parameters the units are.
        units: what is filtered.
        config: filters, thresholds, domain, cover, scope and replacements.
        initial: for ``reinitialise``: parameters of an earlier checkpoint by name.

    Yields:
        One per unit.

    Raises:
        NumericalError: for weights that are not finite.
        UsageError: for a checkpoint that does not fit.

    Example:
        >>> from assay.filtering.units import select_units
        >>> layer = nn.Linear(3, 1, bias=False)
        >>> layer.weight.data = torch.tensor([[-1.0, 0.5, 2.0]])
        >>> units = select_units(layer)
        >>> [len(each) for each in variants_of(layer, units, FilteringConfig(n=3, filters=("high",)))]
        [3]
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if config.scope == "global":
        yield _together(parameters, tuple(units), config)
        return
    for unit in units:
        weight = unit.take(parameters[unit.parameter].detach())
        masks = distinct_masks(weight, config.filters, config.n, domain=config.domain, cover=config.cover)
        count = len(masks)
        rows = {name: masks.rows[name].numpy() for name in config.filters}
        density = {name: masks.density(name).numpy() for name in config.filters}
        changed = {name: masks.changed[name].numpy() for name in config.filters}
        replaced: list[Tensor] = []
        for name in config.replacements:
            fresh = _replacements(name, model, unit, parameters[unit.parameter].detach(), config, initial)
            rows[name] = np.arange(len(fresh)) + count + len(replaced)
            density[name] = np.zeros(len(fresh))  # nothing of what was trained is left
            changed[name] = np.array([int((each != weight).sum()) for each in fresh])
            replaced += fresh
        masked = np.arange(count)[:, None]
        degenerate = masks.degenerate
        yield Variants(
            unit.name, (unit,), rows, density, changed, degenerate, parameters, (masks,), masked, tuple(replaced)
        )


def _together(parameters: Mapping[str, Tensor], units: tuple[Unit, ...], config: FilteringConfig) -> Variants:
    """All units at the same thresholds, over the range that they have together."""
    weights = [unit.take(parameters[unit.parameter].detach()) for unit in units]
    values = [values_of(weight, config.domain) for weight in weights]
    limits = min(float(each.min()) for each in values), max(float(each.max()) for each in values)
    degenerate = limits[0] == limits[1]
    common = None if degenerate else limits
    masks = tuple(
        distinct_masks(weight, config.filters, config.n, domain=config.domain, cover=config.cover, limits=common)
        for weight in weights
    )
    size = sum(weight.numel() for weight in weights)
    every = {name: np.stack([each.rows[name].numpy() for each in masks], 1) for name in config.filters}
    found = np.unique(np.concatenate(list(every.values())), axis=0)
    distinct = found[(found != UNFILTERED).any(1)]
    place = {tuple(row): index for index, row in enumerate(distinct.tolist())}
    return Variants(
        name=GLOBAL,
        units=units,
        rows={
            name: np.array([place.get(tuple(row), UNFILTERED) for row in rows.tolist()]) for name, rows in every.items()
        },
        density={name: 1 - np.sum([each.removed[name].numpy() for each in masks], 0) / size for name in config.filters},
        changed={name: np.sum([each.changed[name].numpy() for each in masks], 0) for name in config.filters},
        degenerate=degenerate,
        _parameters=parameters,
        _masks=masks,
        _masked=distinct,
        _replaced=(),
    )


def _replacements(
    name: str,
    model: nn.Module,
    unit: Unit,
    parameter: Tensor,
    config: FilteringConfig,
    initial: Mapping[str, Tensor] | None,
) -> list[Tensor]:
    """Other weights for the unit: of a checkpoint, or drawn as its layer draws them (else normal, like the old)."""
    if name == "reinitialise":
        found = next((initial[each] for each in _names(unit) if initial is not None and each in initial), None)
        if found is None:
            raise UsageError(
                f"The checkpoint to re-initialise from has no {unit.parameter!r}.",
                where="initial",
                advice="Give initial= as a mapping of parameter names to tensors, such as a state dict.",
            )
        return [unit.take(reinitialised(parameter, found, name=unit.parameter))]
    path, _, attribute = unit.parameter.rpartition(".")
    layer = model.get_submodule(path)
    resets = callable(getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None))
    fresh = rerandomised(
        parameter,
        distribution="layer" if resets else "normal",
        layer=layer if resets else None,
        parameter=attribute,
        draws=config.replacement_draws,
        seed=config.seed,
        name=unit.parameter,
    )
    return [unit.take(each) for each in torch.unbind(fresh)]


def _names(unit: Unit) -> list[str]:
    """Names that a checkpoint may use: with and without the layer that preprocessing adds."""
    return [name for alias in unit.aliases for name in (alias, alias.removeprefix("model."))]
