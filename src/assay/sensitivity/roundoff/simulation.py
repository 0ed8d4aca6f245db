"""Run a network as a number format would: weights, biases, stored activations and, where asked, every sum rounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from assay.errors import AssayError, NumericalError, SubjectError, UsageError
from assay.graph import Graph, Node, evaluate_node
from assay.inputs import prepared, rows_per_pass
from assay.sensitivity.roundoff.formats import FixedPoint, FloatFormat, Format, IntegerFormat
from assay.sensitivity.roundoff.rounding import where_finite
from assay.sensitivity.roundoff.sites import (
    OPERANDS,
    Precision,
    Site,
    as_precision,
    is_parameter,
    prepared_graph,
    sites,
)
from assay.sensitivity.roundoff.summation import evaluate_rounded

if TYPE_CHECKING:
    from assay.subject import Subject


def simulate(
    model: nn.Module | Subject,
    x: Tensor,
    precision: Precision | Format | str | int,
    *,
    layers: Mapping[str, Precision | Format | str | int] | None = None,
    batch_size: int | None = None,
    allow_overflow: bool = False,
) -> Tensor:
    """Outputs of the network with number formats laid over it, really rounded.

    Runs the prepared graph (batch norms folded) in double precision and rounds, to nearest, ties to even:

    - weights, biases and other parameters once;
    - the input;
    - the value of every site (see `sites`) when it is stored: after the ReLU or clip that alone reads it;
    - with an accumulation, every product and partial sum of dense layers, convolutions, matrix products, sums and
      averages, and the result of every other operation.

    What stays None in a `Precision` stays exact up to double precision. Parameters that reach no site as weight or bias
    (a class token) are rounded like biases. Integer activations without fixed scales take them from the batch, which is
    then run in one pass; fix them with `calibrate`.

    Args:
        model: an nn.Module or a Subject that can be captured.
        x: (B, ...) inputs.
        precision: formats of the network; a single format (or its name) is for weights, biases, activations and input.
        layers: formats of single layers, by node name or module path (a path covers everything below it); one given
            here replaces `precision` for that layer altogether. `input` of a layer rounds what it reads.
        batch_size: samples per pass; by memory when None. Only with scales from the batch does it change a result.
        allow_overflow: return infinity and NaN where a format overflows, instead of an error.

    Returns:
        (B, K) float64.

    Raises:
        UsageError: for a layer that does not exist, or a format that does not fit a tensor.
        SubjectError: for inputs that do not fit.
        CaptureError: when the model cannot be captured.
        NumericalError: when a value overflows its format, with the layer.

    Example:
        >>> network = nn.Linear(2, 1, bias=False)
        >>> network.weight.data = torch.tensor([[0.3, 0.7]])
        >>> simulate(network, torch.tensor([[1.0, 2.0]]), Precision(weights="t2")).tolist()
        [[1.75]]
    """
    subject, x = prepared(model, x)
    return Simulator(prepared_graph(subject), precision, layers=layers)(
        x, batch_size=batch_size, allow_overflow=allow_overflow
    )


class Simulator:
    """A prepared graph with number formats laid over it; call it on batches. See `simulate`.

    Attributes:
        graph: the prepared graph.
        precision: formats of the network.
        sites: where it rounds.
        at: formats of every site, by node name.
    """

    def __init__(
        self,
        graph: Graph,
        precision: Precision | Format | str | int,
        *,
        layers: Mapping[str, Precision | Format | str | int] | None = None,
    ) -> None:
        self.graph = graph
        self.precision = as_precision(precision)
        self.sites = sites(graph)
        chosen = {name: as_precision(formats) for name, formats in (layers or {}).items()}
        self.at = assigned(self.sites, self.precision, chosen)
        self._sites = {site.node: site for site in self.sites}
        self._stored = {site.stored: site for site in self.sites}
        self._values = {
            name: value.double() if value.is_floating_point() else value for name, value in graph.parameters.items()
        }
        self._operands = self._rounded_operands()
        self._round_loose()

    def __call__(self, x: Tensor, *, batch_size: int | None = None, allow_overflow: bool = False) -> Tensor:
        """Outputs (B, K) in double precision."""
        x = x.detach().double()
        if batch_size is None:
            batch_size = x.shape[0] if self._per_batch() else rows_per_pass(x, None, gradients=False)
        outputs = torch.cat([self.run(rows) for rows in x.split(max(1, batch_size))])
        if not allow_overflow and not bool(torch.isfinite(outputs).all()):
            self._explain(x, batch_size)
        return outputs

    @torch.no_grad()
    def run(self, x: Tensor, observe: Callable[[Node, Tensor], None] | None = None) -> Tensor:
        """One pass over (B, ...) in double precision; `observe` sees every node and its rounded value."""
        graph = self.graph
        values = {**self._values, graph.input: stored(x, self.precision.input)}
        for node in graph:
            if node.op not in ("input", "parameter"):
                values[node.name] = self._value(node, values, x.shape[0])
                if observe is not None:
                    observe(node, values[node.name])
                for name in node.inputs:
                    if name is not None and graph.last_use.get(name) == node.name and name not in self._values:
                        values.pop(name, None)
        return values[graph.output]

    def _value(self, node: Node, values: Mapping[str, Tensor], batch: int) -> Tensor:
        inputs = [
            self._operands.get((node.name, place), None if name is None else values[name])
            for place, name in enumerate(node.inputs)
        ]
        site = self._sites.get(node.name)
        if site is None:
            value = _evaluated(_bounds_rounded(node, self.precision.activations), inputs, batch)
        else:
            chosen = self.at[node.name]
            for place in site.varying:
                operand = inputs[place]
                if operand is not None and operand.is_floating_point():
                    inputs[place] = stored(operand, chosen.input)
            how = chosen.accumulation
            if how is None or how.kind == "exact":
                value = _evaluated(node, inputs, batch)
            else:
                here = replace(node, attributes=node.resolved(batch))
                value = evaluate_rounded(here, inputs, lambda: _evaluated(node, inputs, batch), how)
        storing = self._stored.get(node.name)
        return value if storing is None else stored(value, self.at[storing.node].activations)

    def _rounded_operands(self) -> dict[tuple[str, int], Tensor]:
        """Rounded weights and biases by node and position."""
        rounded: dict[tuple[str, int], Tensor] = {}
        for site in self._sites.values():
            multiplied, added = OPERANDS.get(site.op, ((), ()))
            chosen = self.at[site.node]
            for place, name in enumerate(self.graph[site.node].inputs):
                target = chosen.weights if place in multiplied else chosen.biases if place in added else None
                if target is None or name is None or not is_parameter(self.graph, name, site.op):
                    continue
                value = self._values[name]
                if place in multiplied and isinstance(target, IntegerFormat) and value.dim() > 1:
                    target = target.along(site.weight_axis)
                rounded[site.node, place] = _constant(value, target)
        return rounded

    def _round_loose(self) -> None:
        """Round parameters that some node reads which is no site, such as a class token."""
        if self.precision.biases is None:
            return
        for node in self.graph:
            if node.name not in self._sites and node.spec.dtype.is_floating_point:
                for name in node.inputs:
                    if name is not None and is_parameter(self.graph, name, node.op):
                        self._values[name] = _constant(self.graph.parameters[name].double(), self.precision.biases)

    def _per_batch(self) -> bool:
        """Whether some scale comes from the batch."""
        formats = [self.precision.input, *(f for p in self.at.values() for f in (p.activations, p.input))]
        return any(
            isinstance(f, IntegerFormat) and f.dynamic and f.granularity in ("tensor", "channel") for f in formats
        )

    def _explain(self, x: Tensor, batch_size: int) -> None:
        """Raise for the first node whose value is not finite though all it reads is."""

        def check(node: Node, value: Tensor) -> None:
            if node.name in self._stored and not bool(torch.isfinite(value).all()):
                site = self._stored[node.name]
                chosen = self.at[site.node]
                names = {f.name for f in (chosen.activations, chosen.accumulation and chosen.accumulation.format) if f}
                raise NumericalError(
                    f"A value overflows {' or '.join(sorted(names)) or 'double precision'}.",
                    where=self.graph[site.node].place,
                    advice="Use a format with more exponent bits there, or pass allow_overflow=True.",
                )

        for rows in x.split(batch_size):
            self.run(rows, check)
        raise NumericalError(
            "The outputs hold NaN or infinity.", where=self.graph.output, advice="Check the weights and the inputs."
        )


def assigned(found: tuple[Site, ...], precision: Precision, layers: Mapping[str, Precision]) -> dict[str, Precision]:
    """Formats of every site: those of the longest name or path in `layers` that holds it, else of the network."""
    unused = set(layers)
    precision = replace(precision, input=None)  # that of the network; what its layers read was stored before
    at: dict[str, Precision] = {}
    for site in found:
        path = site.module_path
        paths = [path[:end] for end, mark in enumerate(path + ".") if mark == "."][::-1] if path else []
        keys = [key for key in (site.node, *paths) if key in layers]
        unused -= set(keys)
        at[site.node] = layers[keys[0]] if keys else precision
    if unused:
        names = sorted({site.module_path or site.node for site in found})
        shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise UsageError(
            f"No layer that computes something is called {', '.join(sorted(unused))}.",
            where="layers",
            advice=f"Layers (batch norms are folded into the layer before them): {shown}.",
        )
    return at


def stored(value: Tensor, target: Format | None) -> Tensor:
    """An activation as it is stored; channels of integer formats are axis 1 unless another axis is given."""
    if target is None:
        return value
    if isinstance(target, IntegerFormat) and target.granularity == "channel" and target.axis == 0:
        target = target.along(1)
    return target.round(value)


def _constant(value: Tensor, target: Format) -> Tensor:
    """A parameter as it is stored: infinite entries, as in masks, stay; vectors have one scale."""
    if isinstance(target, IntegerFormat) and target.granularity == "sample":
        raise UsageError(
            "Scales per sample do not exist for parameters.",
            where=target.name,
            advice='Use granularity="tensor", "channel" or "group" for weights.',
        )
    if isinstance(target, IntegerFormat) and value.dim() < 2 and target.granularity != "tensor":
        target = replace(target, granularity="tensor", group=None, axis=0)
    return where_finite(target.round, value, otherwise=None)


def _evaluated(node: Node, inputs: list[Tensor | None], batch: int) -> Tensor:
    try:
        value = evaluate_node(node, inputs, batch)
        return value.double() if value.is_floating_point() else value  # a model may convert to single precision
    except AssayError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        raise SubjectError(
            f"The operator cannot be evaluated in double precision: {str(error)[:200]}",
            where=node.place,
            advice="The number type may be written into the model; take the conversion out.",
        ) from error


def _bounds_rounded(node: Node, target: Format | None) -> Node:
    """A clip or pad whose constants are numbers of the format."""
    names = {"clip": ("low", "high"), "pad": ("value",)}.get(node.op, ())
    if not names or not isinstance(target, (FloatFormat, FixedPoint)):
        return node
    constants = {name: node.attributes[name] for name in names if node.attributes.get(name) is not None}
    exact = {name: float(target.round(torch.tensor(float(v), dtype=torch.float64))) for name, v in constants.items()}
    return replace(node, attributes=dict(node.attributes) | exact)
