"""A network as measurements of kinks need it: its graph in float64, one walk for values, slopes and adjoints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import index

import numpy as np
import torch
from torch import Tensor, nn

from assay.brief import Brief
from assay.certified.prepared import bound_graph
from assay.errors import SubjectError, UnsupportedOperator, UsageError
from assay.graph import OPERATORS, Graph, Node
from assay.smoothness.simplify import simplified
from assay.smoothness.switches import THRESHOLDS, WINNERS
from assay.smoothness.walk import Sweep, walk
from assay.subject import Subject

Outputs = int | Sequence[int] | Tensor | None


@dataclass(frozen=True, eq=False)
class Network(Brief):
    """A model's graph in float64, with activations behind max pools where they never decrease.

    Build it with `Network.of`. Samples do not influence each other: row i of every result belongs to row i of x.

    Attributes:
        graph: batch norms folded, identities dropped, pools before activations; equal in value to the model.
        shape: of one input.
        projection: (outputs of the model, K) that makes the selected outputs of the model's, or None for all as they
            are.

    Example:
        >>> network = Network.of(nn.Sequential(nn.Linear(2, 4), nn.ReLU()), torch.zeros(2, 2))
        >>> network.outputs, network.piecewise_linear
        (4, True)
    """

    graph: Graph
    shape: tuple[int, ...]
    projection: Tensor | None = None

    @classmethod
    def of(cls, model: nn.Module | Subject, example: Tensor | None = None, outputs: Outputs = None) -> Network:
        """Capture a model for measurements of kinks.

        Args:
            model: module or Subject; in training mode it is seen as in evaluation mode.
            example: (B, ...) inputs, needed for a module only.
            outputs: which outputs: all (None), one, several, or (outputs of the model, K) projections.

        Returns:
            The network.

        Raises:
            CaptureError: when the model cannot be captured.
            UnsupportedOperator: for operators whose kinks are not known, all of them listed.
            UsageError: for outputs that the model does not have.

        Example:
            >>> network = Network.of(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3))
            >>> [node.op for node in network.switching], network.outputs
            (['relu'], 2)
        """
        graph = bound_graph(model, example)
        inputs = model.example if isinstance(model, Subject) else example
        assert inputs is not None
        return cls.from_graph(graph, tuple(inputs.shape[1:]), outputs)

    @classmethod
    def from_graph(cls, graph: Graph, shape: tuple[int, ...], outputs: Outputs = None) -> Network:
        """The same for a graph in float64, such as a changed one.

        Args:
            graph: batch norms folded.
            shape: of one input.
            outputs: as in `of`.

        Returns:
            The network.

        Raises:
            UnsupportedOperator: for operators whose kinks are not known, all of them listed.
            UsageError: for outputs that the graph does not have.
        """
        graph = simplified(graph)
        unknown = [node.place for node in graph.layers if not _known(graph, node)]
        if unknown:
            raise UnsupportedOperator(
                f"It is not known where {len(unknown)} operators have kinks or jumps.",
                where=", ".join(unknown[:8]) + (", ..." if len(unknown) > 8 else ""),
                advice='Use estimator="sampled", which needs outputs only, or write them with known operators.',
            )
        width = graph[graph.output].spec.size_per_sample
        return cls(graph, shape, selection(outputs, width))

    def following(self, outputs: Outputs) -> Network:
        """The same network with other outputs selected; see `Network.of`."""
        return replace(self, projection=selection(outputs, self.graph[self.graph.output].spec.size_per_sample))

    @property
    def outputs(self) -> int:
        """Number K of selected outputs."""
        if self.projection is not None:
            return self.projection.shape[1]
        return self.graph[self.graph.output].spec.size_per_sample

    @cached_property
    def switching(self) -> tuple[Node, ...]:
        """Nodes with kinks: thresholds of elementwise operators and maxima, in the order of the graph."""
        return tuple(node for node in self.graph.layers if _switches(node))

    @cached_property
    def piecewise_linear(self) -> bool:
        """Whether the outputs are piecewise linear functions of the input."""
        return all(node in self.switching or _affine(self.graph, node) for node in self.graph.layers) and all(
            node.op in WINNERS or OPERATORS[node.op].piecewise_linear for node in self.switching
        )

    @cached_property
    def places(self) -> Mapping[str, str]:
        """Place of every switching node by its name, told apart where a module is used several times."""
        found: dict[str, str] = {}
        for node in self.switching:
            taken, place, uses = set(found.values()), node.place, 2
            while place in taken:
                place, uses = f"{node.place} #{uses}", uses + 1
            found[node.name] = place
        return found

    @property
    def elements(self) -> int:
        """Numbers that one sample makes inside the network."""
        return sum(node.spec.size_per_sample for node in self.graph.layers)

    def rows(self, memory: int) -> int:
        """Samples per sweep that keep within `memory` bytes: values, slopes, and what a backward pass keeps."""
        return max(2, min(1024, int(memory / (8 * 6 * max(1, self.elements + math.prod(self.shape))))))

    def sweep(
        self,
        x: Tensor,
        xdot: Tensor | None = None,
        *,
        adjoints: bool = True,
        linked: Tensor | None = None,
        last: Tensor | None = None,
    ) -> Sweep:
        """Values, slopes and, where wanted, gradients of all switching nodes at a batch of points.

        Args:
            x: (n, ...) points.
            xdot: (n, ...) tangents; zero where None.
            adjoints: whether gradients of the outputs will be asked for (`Sweep.adjoint`).
            linked: (n,) bool, whether a row and the next are neighbours on one path; what ties exactly in a row (units
                that a ReLU has silenced) is then settled by its neighbours.
            last: (n,) bool, whether a row looks back along its tangent: it ends a smooth piece of a path.

        Returns:
            See `Sweep`.

        Raises:
            SubjectError: for points that do not fit the network.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise SubjectError(
                f"The points have shape {tuple(x.shape[1:])}, the network takes {self.shape}.",
                where="path",
                advice="Let the path run through inputs of the network.",
            )
        tangent = torch.zeros_like(x) if xdot is None else xdot
        return walk(
            self.graph,
            x.detach().double(),
            tangent.detach().double(),
            frozenset(node.name for node in self.switching),
            self.projection,
            adjoints=adjoints,
            linked=linked,
            last=last,
        )

    def values(self, x: Tensor) -> Tensor:
        """Selected outputs (n, K) at points (n, ...)."""
        return self.value_and_slope(x, None)[0]

    def value_and_slope(self, x: Tensor, xdot: Tensor | None, *, memory: int = 2**28) -> tuple[Tensor, Tensor]:
        """Outputs (n, K) and their derivatives along the tangents (n, K), a bounded number of rows at a time."""
        rows = self.rows(memory)
        tangents: Iterator[Tensor | None] = iter(xdot.split(rows)) if xdot is not None else iter(())
        values, slopes = [], []
        for piece in x.split(rows):  # of a sweep, which holds every layer, two small tensors are kept
            sweep = self.sweep(piece, next(tangents, None), adjoints=False)
            values.append(sweep.values)
            slopes.append(sweep.slopes)
        return torch.cat(values), torch.cat(slopes)


def selection(outputs: Outputs, width: int) -> Tensor | None:
    """Projection (width, K) of the selected outputs; None for all of them.

    Returns:
        The projection in float64, or None.

    Raises:
        UsageError: for outputs that do not exist.
    """
    if outputs is None:
        return None
    if isinstance(outputs, np.ndarray):
        outputs = torch.as_tensor(outputs)
    if isinstance(outputs, Tensor) and outputs.dtype.is_floating_point:
        if outputs.dim() != 2 or outputs.shape[0] != width or not bool(torch.isfinite(outputs).all()):
            raise UsageError(
                f"Projections must be finite and of shape ({width}, m), got {tuple(outputs.shape)}.",
                where="outputs",
                advice="One row per output of the model, one column per projection.",
            )
        return outputs.detach().double()
    try:
        listed = [index(one) for one in (outputs if isinstance(outputs, Iterable) else (outputs,))]
    except TypeError as error:
        raise UsageError(
            f"Outputs are chosen by whole numbers or projections, got {outputs!r}.", where="outputs",
            advice="Give one number, several, or a tensor (outputs of the model, m).",
        ) from error  # fmt: skip
    if not listed or any(not -width <= one < width for one in listed):
        raise UsageError(
            f"The model has {width} outputs, asked for {listed}.", where="outputs", advice="They count from 0."
        )
    return torch.eye(width, dtype=torch.float64)[:, [one % width for one in listed]]


_SMOOTH = frozenset(
    {"gelu", "silu", "sigmoid", "tanh", "softplus", "mish", "erf", "exp", "log", "sin", "cos", "power", "div", "mul"}
    | {"layer_norm", "group_norm", "rms_norm", "softmax", "log_softmax", "attention", "matmul", "addmm", "addcmul"}
    | {"elu", "clip", "identity"}  # where these have no kink
)
_SMOOTH_ATEN = frozenset(
    f"aten.{name}.default"
    for name in (
        "einsum", "cumsum", "bilinear", "log_sigmoid", "logsumexp", "pixel_shuffle", "pixel_unshuffle", "stack",
        "channel_shuffle", "im2col", "repeat", "sinh", "cosh", "atan", "log1p", "expm1", "baddbmm", "outer", "dot",
        "mv", "native_group_norm", "unfold",
    )
)  # fmt: skip


def _switches(node: Node) -> bool:
    """Whether a node has kinks: ELU with matching slopes and a clip without bounds have none."""
    if node.op in WINNERS:
        return True
    return node.op == "prelu" or (node.op in THRESHOLDS and bool(THRESHOLDS[node.op]([None], node.attributes)))


def _affine(graph: Graph, node: Node) -> bool:
    varying = frozenset(i for i, name in enumerate(node.inputs) if name in graph.dependent)
    return OPERATORS[node.op].affine_in(varying)


def _known(graph: Graph, node: Node) -> bool:
    """Whether it is known where a node has kinks, and that it has no jumps."""
    if not node.spec.dtype.is_floating_point or not any(n in graph.dependent for n in node.inputs):
        return False
    if _switches(node):
        simple = all(name not in graph.dependent for name in node.inputs[1:]) or node.op in ("maximum", "minimum")
        return simple and node.spec.batched
    if node.op == "vector_norm":
        return node.attributes.get("ord", 2) == 2
    if node.op == "opaque":
        target = str(node.attributes["target"])
        return target in _SMOOTH_ATEN
    row = OPERATORS[node.op]
    smooth = row.elementwise and not row.kinks_of(node.attributes)
    return smooth or node.op in _SMOOTH or _affine(graph, node)
