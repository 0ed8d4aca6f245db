"""Number formats laid over a graph: what is rounded to what, at every operand, sum and stored value.

The estimators and the simulation share the meaning; this is the structure alone, without values. A rounding that
changes nothing, because its values are numbers of the format already, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from assay.graph import Graph, Node
from assay.sensitivity.roundoff.floating import FloatFormat
from assay.sensitivity.roundoff.formats import Format
from assay.sensitivity.roundoff.integers import IntegerFormat
from assay.sensitivity.roundoff.simulation import assigned
from assay.sensitivity.roundoff.sites import OPERANDS, Precision, Site, as_precision, is_parameter, sites
from assay.sensitivity.roundoff.summation import MULTIPLIED

SUMMED = frozenset(
    {"linear", "conv", "conv_transpose", "matmul", "addmm", "sum", "mean", "avg_pool", "adaptive_avg_pool"}
)
"""Operators whose products and partial sums an accumulation rounds; of others it rounds the result once."""


@dataclass(frozen=True)
class Operand:
    """A parameter as one node reads it.

    Attributes:
        name: the parameter node.
        node: the reader, or "" for every reader that is no site.
        format: what it is rounded to.
        role: "weights" or "biases".
    """

    name: str
    node: str
    format: Format
    role: str


@dataclass(frozen=True, eq=False)
class Assignment:
    """Formats laid over a prepared graph, see `Precision`.

    Attributes:
        graph: the prepared graph, parameters in double precision.
        precision: formats of the network.
        layers: formats of single layers.
    """

    graph: Graph
    precision: Precision
    layers: Mapping[str, Precision]

    @classmethod
    def of(
        cls,
        graph: Graph,
        precision: Precision | Format | str | int,
        layers: Mapping[str, Precision | Format | str | int] | None = None,
    ) -> Assignment:
        """Lay formats over a prepared graph, taken to double precision.

        Returns:
            The assignment, checked.

        Raises:
            UsageError: for a layer that does not exist.
        """
        parameters = {n: v.detach().double() if v.is_floating_point() else v for n, v in graph.parameters.items()}
        chosen = {name: as_precision(formats) for name, formats in (layers or {}).items()}
        made = cls(replace(graph, parameters=parameters), as_precision(precision), chosen)
        _ = made.at
        return made

    @cached_property
    def sites(self) -> Mapping[str, Site]:
        """Sites by node name."""
        return {site.node: site for site in sites(self.graph)}

    @cached_property
    def at(self) -> Mapping[str, Precision]:
        """Formats of every site, by node name."""
        return assigned(tuple(self.sites.values()), self.precision, self.layers)

    @cached_property
    def storing(self) -> Mapping[str, Site]:
        """Site by the name of the node whose value is stored."""
        return {site.stored: site for site in self.sites.values()}

    @cached_property
    def operands(self) -> Mapping[tuple[str, int], Operand]:
        """Rounded parameters of the sites, by node and position."""
        found: dict[tuple[str, int], Operand] = {}
        for site in self.sites.values():
            multiplied, added = OPERANDS.get(site.op, ((), ()))
            chosen = self.at[site.node]
            for place, name in enumerate(self.graph[site.node].inputs):
                role = "weights" if place in multiplied else "biases" if place in added else ""
                target = getattr(chosen, role) if role else None
                if target is not None and name is not None and is_parameter(self.graph, name, site.op):
                    axis = site.weight_axis if place in multiplied else None
                    shaped = _for_parameter(target, self.graph.parameters[name].dim(), axis)
                    found[site.node, place] = Operand(name, site.node, shaped, role)
        return found

    @cached_property
    def loose(self) -> Mapping[str, Operand]:
        """Parameters that some node reads which is no site, such as a class token: rounded like biases."""
        target, found = self.precision.biases, {}
        if target is None:
            return found
        for node in self.graph:
            if node.name not in self.sites and node.spec.dtype.is_floating_point:
                for name in node.inputs:
                    if name is not None and is_parameter(self.graph, name, node.op):
                        shaped = _for_parameter(target, self.graph.parameters[name].dim(), None)
                        found[name] = Operand(name, "", shaped, "biases")
        return found

    @cached_property
    def grids(self) -> Mapping[str, Format]:
        """Format whose numbers the values of a node are known to be, after it was stored; by node name."""
        found: dict[str, Format] = {name: operand.format for name, operand in self.loose.items()}
        if self.precision.input is not None:
            found[self.graph.input] = self.precision.input
        for node in self.graph:
            if node.op in ("input", "parameter"):
                continue
            site = self.storing.get(node.name)
            how = self._rounded_sum(node.name)
            passed = how if node.name in self.sites else self._passed(node, found)
            storage = None if site is None else self.at[site.node].activations
            if storage is None or (passed is not None and subset(passed, storage)):
                if passed is not None:
                    found[node.name] = passed
            else:
                found[node.name] = storage
        return found

    def _passed(self, node: Node, grids: Mapping[str, Format]) -> Format | None:
        """The grid that a node which only selects or moves leaves its values on."""
        known = {grids.get(name) for name in node.inputs if name is not None and name in self.graph.dependent}
        fixed = [name for name in node.inputs if name is not None and name not in self.graph.dependent]
        if any(self.graph[name].spec.dtype.is_floating_point and name not in grids for name in fixed):
            return None
        grid = known.pop() if len(known) == 1 else None
        # a part of a tensor has another range, and so other numbers, where the range comes from the tensor
        return None if isinstance(grid, IntegerFormat) and grid.dynamic else grid

    def _rounded_sum(self, node: str) -> Format | None:
        chosen = self.at.get(node)
        return None if chosen is None or chosen.accumulation is None else chosen.accumulation.format

    def reading(self, site: Site, place: int) -> Format | None:
        """What a site rounds the operand to that it reads at this place; None where that changes nothing."""
        target, name = self.at[site.node].input, self.graph[site.node].inputs[place]
        floating = name is not None and self.graph[name].spec.dtype.is_floating_point
        if target is None or not floating or place not in site.varying:
            return None
        grid = self.grids.get(name or "")
        return None if grid is not None and subset(grid, target) else channels_first(target)

    def known(self, site: Site, place: int) -> Format | None:
        """Format whose numbers an operand is known to be when a site reads it."""
        operand = self.operands.get((site.node, place))
        if operand is not None:
            return operand.format
        return self.reading(site, place) or self.grids.get(self.graph[site.node].inputs[place] or "")

    def low(self, site: Site, place: int) -> Format | None:
        """What mixed accumulation rounds an operand of a product or sum to; None where that changes nothing."""
        how, inputs = self.at[site.node].accumulation, self.graph[site.node].inputs
        if how is None or how.low is None or site.op not in SUMMED or place >= len(inputs) or inputs[place] is None:
            return None
        if place not in MULTIPLIED.get(site.op, (0,)):
            return None
        grid = self.known(site, place)
        return None if grid is not None and subset(grid, how.low) else how.low

    def storage(self, site: Site) -> Format | None:
        """What a site's value is rounded to when it is stored; None where that changes nothing."""
        target, grid = self.at[site.node].activations, self._rounded_sum(site.node)
        if target is None or (grid is not None and subset(grid, target)):
            return None
        return channels_first(target)

    @property
    def input(self) -> Format | None:
        """What the network's input is rounded to."""
        return None if self.precision.input is None else channels_first(self.precision.input)


def subset(first: Format, second: Format) -> bool:
    """Whether every number of the first format surely is one of the second."""
    if first == second:
        return True
    if not (isinstance(first, FloatFormat) and isinstance(second, FloatFormat)):
        return False
    if first.significand > second.significand:
        return False
    if second.exponent is None:
        return True
    return first.exponent is not None and first.largest <= second.largest and first.smallest >= second.smallest


def channels_first(target: Format) -> Format:
    """An activation's format: channels are axis 1 unless another axis is given."""
    if isinstance(target, IntegerFormat) and target.granularity == "channel" and target.axis == 0:
        return target.along(1)
    return target


def _for_parameter(target: Format, dims: int, axis: int | None) -> Format:
    """A parameter's format: channels along the layer's axis; vectors have one scale."""
    if not isinstance(target, IntegerFormat):
        return target
    if dims < 2 and target.granularity != "tensor":
        return replace(target, granularity="tensor", group=None, axis=0)
    return target.along(axis) if axis is not None and dims > 1 else target
