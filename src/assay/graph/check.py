"""Proof that a graph is the model: node by node against the export, as a whole against the model on another batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from assay.errors import CaptureError
from assay.graph.evaluate import evaluate, evaluate_node
from assay.graph.ir import Graph, Node

_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def check_against_export(graph: Graph, origin: dict[str, str], exported: Any, x: Tensor) -> None:
    """Run the exported program and evaluate each of our nodes on the program's own intermediate values.

    Args:
        graph: the translated graph.
        origin: our node name by name in the exported program.
        exported: the exported program.
        x: example batch.

    Raises:
        CaptureError: naming the first node whose value differs.
    """
    walker = _Lockstep(graph, origin, exported.graph_module, x.shape[0])
    with torch.no_grad():
        walker.run(*_placeholders(graph, exported, x))
    computed = {node.name for node in graph if node.op not in ("input", "parameter")}
    if computed != walker.compared:
        missed = sorted(computed - walker.compared)
        raise CaptureError(
            f"{len(missed)} of {len(computed)} graph nodes could not be compared with the model.",
            where=", ".join(missed[:5]),
            advice="Please report this model; analyses that need no graph still run.",
        )


def _placeholders(graph: Graph, exported: Any, x: Tensor) -> list[Tensor]:
    """Values of the exported program's placeholders, in order: parameters, constants, then the batch."""
    nodes = [node for node in exported.graph.nodes if node.op == "placeholder"]
    values = {**exported.state_dict, **exported.constants}
    targets = {spec.arg.name: spec.target for spec in exported.graph_signature.input_specs}
    return [x if node.name == graph.input else values[targets[node.name]] for node in nodes]


class _Lockstep(torch.fx.Interpreter):
    """Interprets the exported module; after each call compares our node, fed with the module's own values."""

    def __init__(self, graph: Graph, origin: dict[str, str], module: Any, batch: int) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.graph_ours = graph
        self.batch = batch
        self.reference: dict[str, Tensor] = dict(graph.parameters)
        self.origin = origin
        self.compared: set[str] = set()
        self.dead: dict[str, list[str]] = {}  # values read for the last time by a node
        for source, last in graph.last_use.items():
            if source not in graph.parameters:
                self.dead.setdefault(last, []).append(source)

    def run_node(self, n: Any) -> Any:
        value = super().run_node(n)
        name = self.origin.get(n.name, n.name if n.op == "placeholder" else None)
        if name is None or not isinstance(value, Tensor):
            return value
        if name == n.name and name in self.graph_ours._by_name:
            node = self.graph_ours[name]
            if node.op == "parameter":  # computed at capture
                _compare(node, self.graph_ours.parameters[name], value)
            elif node.op != "input":
                inputs = [None if source is None else self.reference[source] for source in node.inputs]
                _compare(node, evaluate_node(node, inputs, self.batch), value)
                self.compared.add(name)
            self.reference[name] = value
            for source in self.dead.get(name, ()):
                self.reference.pop(source, None)
        return value


def check_other_batch(graph: Graph, model: nn.Module, x: Tensor) -> None:
    """Compare graph and model on a batch of three, which shows sizes that capture froze by mistake.

    Raises:
        CaptureError: when the outputs differ.
    """
    batch = torch.cat([x[:1], x[1:2], x[:1]])
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        expected = torch.func.functional_call(
            model, buffers, (batch.clone(),)
        )  # a model may write to its buffers and input
        if not isinstance(expected, Tensor):
            raise CaptureError(
                f"The model returns a {type(expected).__name__}, not one tensor.",
                where="output",
                advice="Wrap the model so that it returns one tensor.",
            )
        _compare(graph[graph.output], evaluate(graph, batch), expected)


def _compare(node: Node, ours: Tensor, reference: Tensor) -> None:
    if ours.shape != reference.shape:
        raise CaptureError(
            f"The graph differs from the model: shape {tuple(ours.shape)} instead of {tuple(reference.shape)}.",
            where=node.place,
            advice="Please report this operator; analyses that need no graph still run.",
        )
    if not reference.dtype.is_floating_point:
        equal, gap = bool((ours == reference).all()), 1.0
    else:
        scale = float(reference.abs().max()) if reference.numel() else 0.0
        difference = (ours - reference).abs()
        gap = float(difference.max()) / max(scale, 1e-30) if reference.numel() else 0.0
        equal = gap <= _TOLERANCE.get(reference.dtype, 1e-4) or bool(torch.equal(ours, reference))
    if not equal:
        raise CaptureError(
            f"The graph differs from the model by {gap:.2g} of the largest value.",
            where=node.place,
            advice="Please report this operator; analyses that need no graph still run.",
        )
