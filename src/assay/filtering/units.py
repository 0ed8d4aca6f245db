"""Units: the groups of weights that are filtered together, one at a time. Tied weights are one unit, wherever used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized

from assay.errors import SubjectError, UsageError
from assay.subject import Subject

Granularity = Literal["tensor", "channel"]
Choice = str | type[nn.Module] | Callable[[str, nn.Module, nn.Parameter], bool]

# Layers that apply a linear map; of these, parameters with two axes or more are what is filtered unless told otherwise.
LINEAR_LAYERS = (_ConvNd, nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)


@dataclass(frozen=True)
class Unit:
    """A parameter, or one output channel of it.

    Attributes:
        name: for people: the parameter's name, with ``[channel]`` for a channel.
        parameter: the parameter's first name in the model, as in `model.named_parameters()`.
        aliases: all names of the same weights, the first included: every place that a change must reach.
        kind: class name of the layer that owns it first.
        shape: of the unit.
        channel: index of the output channel; None for the whole tensor.
        groups: of a transposed convolution, whose output channels lie in axis 1, group by group; 0 elsewhere.
    """

    name: str
    parameter: str
    aliases: tuple[str, ...]
    kind: str
    shape: tuple[int, ...]
    channel: int | None = None
    groups: int = 0

    def take(self, parameter: Tensor) -> Tensor:
        """The unit's own weights: a view of the parameter."""
        return parameter if self.channel is None else parameter[self._place(parameter)]

    def put(self, parameter: Tensor, weights: Tensor) -> Tensor:
        """A copy of the whole parameter with the unit's weights exchanged.

        Args:
            parameter: the tensor that the unit is part of.
            weights: what to put there, of the unit's shape. Zeros drop a channel.

        Returns:
            The changed copy, detached.

        Raises:
            UsageError: for another shape.
        """
        if weights.shape != torch.Size(self.shape):
            raise UsageError(
                f"The weights have shape {tuple(weights.shape)}, the unit {self.shape}.",
                where=self.name,
                advice="Give one value per weight of the unit, as Unit.take returns them.",
            )
        if self.channel is None:
            return weights.detach().to(parameter.device, parameter.dtype, copy=True)
        result = parameter.detach().clone()
        result[self._place(parameter)] = weights.detach().to(parameter.device, parameter.dtype)
        return result

    def parameters(self, changed: Tensor) -> dict[str, Tensor]:
        """The changed parameter under all of its names, as `Subject.call` takes it."""
        return dict.fromkeys(self.aliases, changed)

    def _place(self, parameter: Tensor) -> tuple[slice, int] | int:
        assert self.channel is not None
        if not self.groups:
            return self.channel
        inputs, outputs = parameter.shape[0] // self.groups, parameter.shape[1]
        group, column = divmod(self.channel, outputs)
        return slice(group * inputs, (group + 1) * inputs), column


def select_units(
    model: nn.Module | Subject,
    include: Choice | Sequence[Choice] = "weight",
    *,
    exclude: Choice | Sequence[Choice] = (),
    granularity: Granularity = "tensor",
) -> tuple[Unit, ...]:
    """The units of a model in the order of its parameters.

    Args:
        model: a module or Subject; only read.
        include: ``weight`` for the weights of all convolutions, linear and recurrent layers and attention; ``all`` for
            every floating-point parameter; a name or pattern of parameters (``layer1.*`` is all of them below layer1)
            or of modules (``layer?.conv1``), which stand for their weights; a class of modules, for the weights of
            each; a function (parameter name, module, parameter) -> bool; or several of these.
        exclude: likewise, left out again.
        granularity: ``tensor`` for whole parameters, ``channel`` for their output channels one by one.

    Returns:
        At least one unit. Parameters that share their memory are one unit, found under any of their names.

    Raises:
        SubjectError: with ``weight`` for layers whose weight is computed from other parameters, which would be left out
            otherwise.
        UsageError: for a choice that matches nothing, or when nothing is left.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
        >>> [unit.name for unit in select_units(network)]
        ['0.weight', '3.weight']
        >>> [unit.name for unit in select_units(network, nn.Conv2d, granularity="channel")]
        ['0.weight[0]', '0.weight[1]']
    """
    if granularity not in ("tensor", "channel"):
        raise UsageError(
            f"There is no granularity {granularity!r}.", where="granularity", advice="Use 'tensor' or 'channel'."
        )
    prefix = ""
    if isinstance(model, Subject):
        prefix = "" if model.preprocessing.is_identity else "model."
        model = model.model
    owned = list(_owned(model, prefix))
    chosen = _matching(owned, include, "include", model)
    chosen -= _matching(owned, exclude, "exclude", model)
    units: list[Unit] = []
    for group in _tied(owned):
        if not chosen & {entry.raw for entry in group}:
            continue
        first = group[0]
        whole = Unit(
            name=first.name,
            parameter=first.raw,
            aliases=tuple(entry.raw for entry in group),
            kind=type(first.module).__name__,
            shape=tuple(first.parameter.shape),
        )
        units += [whole] if granularity == "tensor" else _channels(whole, first)
    if not units:
        raise UsageError(
            "No parameter is left to filter.",
            where="include",
            advice="Choose include='all', or name parameters as in model.named_parameters().",
        )
    return tuple(units)


@dataclass(frozen=True, eq=False)
class _Owned:
    """One parameter in one place: its names with and without preprocessing, and the module that holds it."""

    raw: str
    name: str
    attribute: str
    place: str
    module: nn.Module
    parameter: nn.Parameter


def _owned(model: nn.Module, prefix: str) -> Iterator[_Owned]:
    for place, module in model.named_modules(remove_duplicate=False):
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.dtype.is_floating_point:
                raw = f"{place}.{attribute}" if place else attribute
                yield _Owned(raw, raw.removeprefix(prefix), attribute, place.removeprefix(prefix), module, parameter)


def _tied(owned: list[_Owned]) -> list[list[_Owned]]:
    """Parameters grouped by the memory they live in."""
    groups: dict[tuple, list[_Owned]] = {}
    for entry in owned:
        tensor = entry.parameter
        # Empty tensors, and those of the meta device, have no memory: their addresses are equal all the same.
        own = id(tensor) if not tensor.numel() or not tensor.data_ptr() else 0
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), str(tensor.device), tensor.dtype, own)
        groups.setdefault(key, []).append(entry)
    return list(groups.values())


def _matching(owned: list[_Owned], choices: Choice | Sequence[Choice], where: str, model: nn.Module) -> set[str]:
    """Raw names that any of the choices matches; each choice must match something."""
    several = [choices] if isinstance(choices, str | type) or callable(choices) else choices
    found: set[str] = set()
    for choice in several:
        if choice == "weight":
            matched = {entry.raw for entry in owned if _is_linear_weight(entry)}
            _refuse_computed(model)
        else:
            matched = {entry.raw for entry in owned if _matches(entry, choice)}
        if not matched:
            shown = repr(choice) if isinstance(choice, str) else getattr(choice, "__name__", repr(choice))
            known = ", ".join(entry.name for entry in owned[:8])
            raise UsageError(f"No parameter matches {shown}.", where=where, advice=f"There are {known}, and so on.")
        found |= matched
    return found


def _matches(entry: _Owned, choice: Choice) -> bool:
    if choice == "all":
        return True
    weight = entry.attribute == "weight" or _is_linear_weight(entry)
    if isinstance(choice, str):
        named = any(fnmatchcase(name, choice) for name in (entry.raw, entry.name))
        return named or (weight and fnmatchcase(entry.place, choice))
    if isinstance(choice, type):
        return weight and isinstance(entry.module, choice)
    return bool(choice(entry.name, entry.module, entry.parameter))


def _is_linear_weight(entry: _Owned) -> bool:
    return isinstance(entry.module, LINEAR_LAYERS) and entry.parameter.dim() >= 2 and "bias" not in entry.attribute


def _refuse_computed(model: nn.Module) -> None:
    for place, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        computed = is_parametrized(module) or (isinstance(module, _ConvNd | nn.Linear) and "weight" not in own)
        if isinstance(module, LINEAR_LAYERS) and computed:
            raise SubjectError(
                "The weight of a layer is computed from other parameters, so that there is no weight to filter.",
                where=place or type(module).__name__,
                advice="Remove the parametrization (torch.nn.utils.parametrize.remove_parametrizations or "
                "remove_weight_norm), or name the parameters to filter with include=.",
            )


def _channels(whole: Unit, entry: _Owned) -> list[Unit]:
    if not whole.shape:
        raise UsageError(
            "A parameter that is a single number has no channels.", where=whole.name, advice="Use granularity='tensor'."
        )
    sizes, groups = list(whole.shape), 0
    if isinstance(entry.module, _ConvTransposeNd) and len(sizes) > 1:
        groups = entry.module.groups
        count, shape = sizes[1] * groups, (sizes[0] // groups, *sizes[2:])
    else:
        count, shape = sizes[0], tuple(sizes[1:])
    return [
        Unit(f"{whole.name}[{index}]", whole.parameter, whole.aliases, whole.kind, shape, index, groups)
        for index in range(count)
    ]
