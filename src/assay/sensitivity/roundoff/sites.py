"""Where a network rounds: the nodes whose result is computed, and so stored in a number format.

Nodes that only select or move values (ReLU, max pool, reshape, cat) are no sites: what they return was stored before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

from assay.errors import UsageError
from assay.graph import Graph, Node, evaluate_node, fold_batch_norms
from assay.graph.fold import without_unread_parameters
from assay.sensitivity.roundoff.accumulation import Accumulation
from assay.sensitivity.roundoff.fan_in import RULES, Kind
from assay.sensitivity.roundoff.formats import Format, as_format
from assay.subject import Subject

_WITH_BIAS = frozenset({"linear", "conv", "conv_transpose", "addmm"})


@dataclass(frozen=True)
class Precision:
    """Number formats of a network, or of one layer. None leaves a thing exact. Formats may be given by name.

    Attributes:
        weights: what multiplies: weights of layers, factors.
        biases: what is added: biases, position embeddings.
        activations: every computed value that is stored (the sites of the graph).
        input: the network's input; for one layer, what that layer reads.
        accumulation: how inner products are summed; None for exactly.

    Example:
        >>> Precision(weights="int8_channel", activations="bf16").weights.bits
        8
    """

    weights: Format | None = None
    biases: Format | None = None
    activations: Format | None = None
    input: Format | None = None
    accumulation: Accumulation | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "accumulation":
                if value is not None and not isinstance(value, Accumulation):
                    raise UsageError(
                        f"accumulation must be an Accumulation, got {value!r}.",
                        where="Precision",
                        advice='Such as Accumulation("sequential", "fp16").',
                    )
            elif value is not None:
                object.__setattr__(self, field.name, as_format(value))

    @classmethod
    def uniform(cls, target: Format | str | int, accumulation: Accumulation | None = None) -> Precision:
        """Weights, biases, activations and input in one format."""
        chosen = as_format(target)
        return cls(chosen, chosen, chosen, chosen, accumulation)


def as_precision(value: Precision | Format | str | int) -> Precision:
    """Formats of a network from what people write: a `Precision`, or one format for everything.

    Args:
        value: a precision, a format, or its name (see `as_format`).

    Returns:
        The precision.

    Raises:
        UsageError: for anything else.
    """
    return value if isinstance(value, Precision) else Precision.uniform(value)


@dataclass(frozen=True)
class Site:
    """One node whose result is computed and stored rounded.

    Attributes:
        node: its name in the prepared graph.
        op: its operator.
        kind: "inner_product": |computed - exact| <= c(terms) (|W||x| + |b|) holds for its summation (affine nodes,
            products of tensors); "function": one function of each element, no sum inside; "composite": sums inside a
            function (norms of the data, softmax, attention, operators that stay opaque), for which no such bound holds.
        fan_in: terms of its inner product, bias not counted; the most over its elements.
        stored: the node whose value is what gets stored: itself, or the ReLU or clip that alone reads it. Rounding to a
            floating-point format gives the same on either side; the range of an integer format is that of this node.
        weight: parameter node that multiplies, or None.
        bias: parameter node that is added, or None.
        weight_axis: axis of the weight's output channels.
        varying: positions of the operands that depend on the network's input.
        module_path: of the node.
    """

    node: str
    op: str
    kind: Kind
    fan_in: int
    stored: str
    weight: str | None = None
    bias: str | None = None
    weight_axis: int = 0
    varying: tuple[int, ...] = (0,)
    module_path: str = ""

    @property
    def terms(self) -> int:
        """Terms that are summed: fan-in, and one for a bias (of nodes that do not count it as an operand)."""
        return self.fan_in + (self.bias is not None and self.op in _WITH_BIAS)


OPERANDS: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = MappingProxyType(
    {
        "linear": ((1,), (2,)),
        "conv": ((1,), (2,)),
        "conv_transpose": ((1,), (2,)),
        "batch_norm": ((1,), (2,)),
        "layer_norm": ((1,), (2,)),
        "group_norm": ((1,), (2,)),
        "rms_norm": ((1,), ()),
        "prelu": ((1,), ()),
        "add": ((), (0, 1)),
        "sub": ((), (0, 1)),
        "mul": ((0, 1), ()),
        "div": ((0, 1), ()),
        "matmul": ((0, 1), ()),
        "addmm": ((1, 2), (0,)),
        "addcmul": ((1, 2), (0,)),
    }
)
"""Positions of operands that multiply and that are added, where they are parameters."""


def sites(graph: Graph) -> tuple[Site, ...]:
    """Every node whose result is computed from the input and stored, in topological order.

    The network's input is not among them; `Precision.input` is its format. Parameters of one element without a name in
    the model are literals of the program, such as the 0.125 in front of attention scores: they stay exact and are no
    site's weight. The running statistics of a batch norm that could not be folded stay exact too.

    Args:
        graph: a prepared graph, see `prepared_graph`.

    Returns:
        The sites.

    Raises:
        SubjectError: when a node sums over the batch.
    """
    readers: dict[str, list[Node]] = {}
    for node in graph:
        for name in node.inputs:
            if name is not None:
                readers.setdefault(name, []).append(node)
    found = []
    for node in graph:
        if node.op in ("input", "parameter") or node.name not in graph.dependent:
            continue
        answer = RULES[node.op](graph, node) if node.spec.dtype.is_floating_point else None
        if answer is not None:
            found.append(_site(graph, node, answer, readers))
    return tuple(found)


def _site(graph: Graph, node: Node, answer: tuple[Kind, int], readers: Mapping[str, list[Node]]) -> Site:
    multiplied, added = OPERANDS.get(node.op, ((), ()))
    if node.op == "conv_transpose" or (node.op == "addmm" and node.inputs[1] in graph.dependent):
        axis = 1
    elif node.op == "matmul" and node.inputs[0] in graph.dependent:
        axis = -1
    else:
        axis = 0
    stored = node
    while stored.name != graph.output:
        following = readers.get(stored.name, [])
        if len(following) != 1 or following[0].op not in ("relu", "clip"):
            break
        stored = following[0]
    return Site(
        node=node.name,
        op=node.op,
        kind=answer[0],
        fan_in=answer[1],
        stored=stored.name,
        weight=_parameter(graph, node, multiplied),
        bias=_parameter(graph, node, added),
        weight_axis=axis,
        varying=tuple(place for place, name in enumerate(node.inputs) if name in graph.dependent),
        module_path=node.module_path,
    )


def _parameter(graph: Graph, node: Node, positions: tuple[int, ...]) -> str | None:
    names = (node.inputs[place] for place in positions if place < len(node.inputs))
    return next((name for name in names if name is not None and is_parameter(graph, name, node.op)), None)


def is_parameter(graph: Graph, name: str, op: str) -> bool:
    """Whether an operand of an operator is a stored floating-point parameter, and no literal of the program."""
    value = graph.parameters.get(name)
    if value is None or not value.is_floating_point():
        return False
    return value.numel() > 1 or name in graph.parameter_names or op in _WITH_BIAS


def prepared_graph(subject: Subject) -> Graph:
    """The graph that is rounded and perturbed: constants computed once, batch norms folded into the layers before them.

    Args:
        subject: a model that can be captured.

    Returns:
        The graph, equal in value to the model.

    Raises:
        CaptureError: when the model cannot be captured.
    """
    return fold_batch_norms(fold_constants(subject.graph))


def fold_constants(graph: Graph) -> Graph:
    """Nodes that depend on neither input nor batch become parameters, such as weights computed by a weight norm.

    Returns:
        The rewritten graph; the same object where there are none.
    """
    parameters = dict(graph.parameters)
    nodes: list[Node] = []
    for node in graph:
        fixed = node.inputs and all(name is None or name in parameters for name in node.inputs)
        if node.op in ("input", "parameter") or not fixed or node.spec.batched or node.name == graph.output:
            nodes.append(node)
            continue
        values = [None if name is None else parameters[name] for name in node.inputs]
        parameters[node.name] = evaluate_node(node, values, 1).detach()
        nodes.append(replace(node, op="parameter", inputs=(), attributes={}))
    if len(parameters) == len(graph.parameters):
        return graph
    return without_unread_parameters(replace(graph, nodes=tuple(nodes), parameters=parameters))
