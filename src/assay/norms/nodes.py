"""Norm of a node of a captured graph in the inputs that depend on the graph's input, the others held fixed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from assay.errors import SubjectError, UnsupportedOperator, UsageError
from assay.graph import OPERATORS, BatchSize, Graph, Node, evaluate_node
from assay.norms import gains
from assay.norms.build import (
    Shape,
    adaptive_average_pool,
    adaptive_max_pool,
    average_pool,
    checked,
    max_pool,
    numbers,
    padded,
    resized,
    scaled_channels,
)
from assay.norms.compute import Method, measure
from assay.norms.convolution import Convolution, convolution_axes, transposed_axes
from assay.norms.maps import Diagonal, Effort, Fixed, Generic, Map, Matrix
from assay.norms.modules import normalised
from assay.norms.result import OperatorNorm

Norm = Literal["2", "inf", "frobenius"]
_MOVES = frozenset({"reshape", "permute", "slice", "select", "part", "roll", "flip", "identity", "window"})


def node_norm(
    graph: Graph, name: str, *, norm: Norm = "2", method: Method = "auto", effort: Effort | None = None
) -> OperatorNorm:
    """Norm of one node as a map of one sample of its varying inputs; for non-linear nodes a Lipschitz constant.

    Several varying inputs (a sum, a concatenation) count as one stacked input: a sum of two has norm sqrt(2), a
    concatenation 1. Inputs made of parameters only are constants.

    Args:
        graph: a captured graph.
        name: of a node whose value depends on the graph's input.
        norm: ``2``, ``inf`` (largest change of an element) or ``frobenius`` (linear nodes).
        method: for norm ``2``; see `operator_norm`.
        effort: limits on matrices, work, Lanczos steps; and the seed.

    Returns:
        Value, lower and guaranteed upper bound, with grades.

    Raises:
        UsageError: for an unknown node or norm, a node that does not vary, or a method that does not apply.
        SubjectError: for nodes without a finite gain, such as products of two varying tensors and attention;
            `UnsupportedOperator` for opaque operators.

    Example:
        >>> from assay.graph.from_export import capture
        >>> layer = torch.nn.Linear(2, 2, bias=False)
        >>> layer.weight.data = torch.diag(torch.tensor([1.0, 2.0]))
        >>> graph = capture(layer, torch.zeros(2, 2))
        >>> round(node_norm(graph, graph.layers[0].name).value, 6)
        2.0
    """
    if norm not in ("2", "inf", "frobenius"):
        raise UsageError(f"Unknown norm {norm!r}.", where="norm", advice="One of 2, inf, frobenius.")
    chosen = method if norm == "2" else {"inf": "infinity", "frobenius": "frobenius"}[norm]
    with torch.no_grad():
        made = describe_node(graph, name)
        found = measure(made, chosen, effort)
    windows = _windows(graph, name)
    if norm == "frobenius" and windows > 1 and not isinstance(made, (Fixed, Generic)):  # one block per window
        root = math.sqrt(windows)
        sizes = {key: getattr(found, key) * root for key in ("value", "lower", "upper", "probable")}
        found = replace(found, **sizes, bounds={key: value * root for key, value in found.bounds.items()})
    return found


def describe_node(graph: Graph, name: str) -> Map:
    """The map of a node.

    Args:
        graph: a captured graph.
        name: of a node that varies with the input.

    Returns:
        The map; shapes are those of one sample.

    Raises:
        UsageError: for an unknown node, or one that does not vary.
        SubjectError: see `node_norm`.
        UnsupportedOperator: for opaque operators.
    """
    node = next((node for node in graph if node.name == name), None)
    if node is None or name not in graph.dependent or node.op == "input":
        raise UsageError(
            f"{name!r} is not a layer of the graph.", where="name", advice="Names are those of graph.layers."
        )
    varying = tuple(i for i, given in enumerate(node.inputs) if given is not None and given in graph.dependent)
    shapes = tuple(sample_shape(graph[node.inputs[i] or ""]) for i in varying)
    makers = _JOINT if len(varying) > 1 else _MAKERS
    if node.op in makers:
        made = makers[node.op](_Site(graph, node, varying, shapes))
        if made is not None:
            return made
    row = OPERATORS[node.op]
    if node.op == "opaque":
        raise UnsupportedOperator(
            f"No norm is known for {node.label}.",
            where=node.place,
            advice="Use local_norm or the local condition number.",
        )
    if row.elementwise and len(varying) == 1:
        gain, error = gains.activation_gain(node.op, **node.resolved(1))
        method = "maximisation" if error else "formula"
        shape = shapes[0]
        return Fixed(gain, gain, relative_error=error, input_shape=shape, output_shape=shape, method=method)
    if len(varying) == 1 and row.affine_in(frozenset(varying)):
        return _generic(_Site(graph, node, varying, shapes))
    raise SubjectError(
        f"{node.label} has no finite gain that holds for all inputs.",
        where=node.place,
        advice="Use local_norm at a point, or the local condition number of the network.",
    )


def sample_shape(node: Node) -> Shape:
    """Shape of a node's value for a batch of one; a first axis that is the batch, or windows of it, is left out."""
    sizes = full_shape(node)
    return sizes[1:] if _first(node) > 1 else sizes


def full_shape(node: Node) -> Shape:
    """The same with windows of the batch as a first axis."""
    sizes = tuple(size.multiple if isinstance(size, BatchSize) else size for size in node.spec.shape)
    return sizes[1:] if _first(node) == 1 else sizes


def _first(node: Node) -> int:
    """Rows per sample along the first axis where that is the batch, else 0."""
    first = node.spec.shape[0] if node.spec.shape else 0
    return first.multiple if isinstance(first, BatchSize) else 0


def _windows(graph: Graph, name: str) -> int:
    return max((_first(graph[given]) for given in graph[name].inputs if given in graph.dependent), default=1)


class _Site:
    """A node with its constants at hand."""

    def __init__(self, graph: Graph, node: Node, varying: tuple[int, ...], shapes: tuple[Shape, ...]) -> None:
        self.graph, self.node, self.varying, self.shapes = graph, node, varying, shapes
        self.shape = shapes[0] if shapes else ()
        self.attributes: dict[str, Any] = dict(node.resolved(1))
        self.output = sample_shape(node)
        self.full_output = full_shape(node)
        self.full = full_shape(graph[node.inputs[varying[0]] or ""])

    @property
    def batched_first(self) -> bool:
        """The varying input has the batch, or windows of it, as its first axis."""
        return _first(self.graph[self.node.inputs[self.varying[0]] or ""]) > 0

    def constant(self, place: int) -> Tensor | None:
        """Value of an input that does not vary; checked."""
        name = self.node.inputs[place] if place < len(self.node.inputs) else None
        return None if name is None else _constant(self.graph, name)

    def weight(self, place: int) -> Tensor:
        """The same, which must be there, floating point and finite."""
        return checked(self.constant(place), self.node.place)

    def axis(self, axis: int) -> int:
        """An axis of the value with the batch in front, as an axis of one sample."""
        rank = len(self.shape) + 1
        return axis % rank - 1 if self.batched_first else axis % (rank - 1)


def _constant(graph: Graph, name: str) -> Tensor:
    if name in graph.parameters:
        return graph.parameters[name]
    node = graph[name]
    return evaluate_node(node, [None if given is None else _constant(graph, given) for given in node.inputs], 1)


def _linear(site: _Site) -> Map | None:
    return Matrix(site.weight(1), site.shape) if site.varying == (0,) else None


def _conv(site: _Site) -> Map | None:
    if site.varying != (0,):
        return None
    weight, given = site.weight(1), site.attributes
    dims = weight.dim() - 2
    padding = given.get("padding", 0)
    padding = padding if isinstance(padding, str) else numbers(padding, dims)
    stride, dilation = (numbers(given.get(key, 1), dims) for key in ("stride", "dilation"))
    axes = convolution_axes(site.shape[-dims:], weight.shape[2:], stride, padding, dilation)
    return Convolution(weight, axes, given.get("groups", 1))


def _conv_transpose(site: _Site) -> Map | None:
    if site.varying != (0,):
        return None
    weight, given = site.weight(1), site.attributes
    dims = weight.dim() - 2
    parts = [
        numbers(given.get(key, default), dims)
        for key, default in (("stride", 1), ("padding", 0), ("output_padding", 0), ("dilation", 1))
    ]
    return Convolution(
        weight, transposed_axes(site.shape[-dims:], weight.shape[2:], *parts), given.get("groups", 1), adjoint=True
    )


def _batch_norm(site: _Site) -> Map | None:
    if site.varying != (0,):
        return None
    scale = torch.rsqrt(site.weight(4).double() + site.attributes["eps"])
    gamma = site.constant(1)
    return scaled_channels(scale if gamma is None else scale * gamma.double(), site.shape)


def _avg_pool(site: _Site) -> Map:
    given = site.attributes
    dims = len(site.output) - 1
    kernel = numbers(given["kernel_size"], dims)
    stride = numbers(given.get("stride") or kernel, dims)
    padding = numbers(given.get("padding", 0), dims)
    include, divisor = given.get("count_include_pad", True), given.get("divisor_override")
    return average_pool(site.shape, kernel, stride, padding, bool(given.get("ceil_mode")), bool(include), divisor)


def _max_pool(site: _Site) -> Map:
    given = site.attributes
    dims = len(site.output) - 1
    kernel = numbers(given["kernel_size"], dims)
    stride = numbers(given.get("stride") or kernel, dims)
    padding, dilation = numbers(given.get("padding", 0), dims), numbers(given.get("dilation", 1), dims)
    return max_pool(site.shape, kernel, stride, padding, dilation, bool(given.get("ceil_mode")))


def _reduced(mean: bool) -> Callable[[_Site], Map]:
    def make(site: _Site) -> Map:
        inputs, outputs = math.prod(site.full), max(1, math.prod(site.full_output))
        count = inputs // outputs
        gain, scale = (count**-0.5, 1.0) if mean else (count**0.5, float(count))
        return Fixed(
            gain,
            scale,
            gain * math.sqrt(outputs),
            input_shape=site.full,
            output_shape=site.full_output,
            method="reduction",
        )

    return make


def _unit(site: _Site) -> Map:
    return Fixed(1.0, 1.0, input_shape=site.shape, output_shape=site.output)


def _moved(site: _Site) -> Map:
    kept = math.prod(site.full_output)
    if site.node.op == "window":
        kept = min(kept, math.prod(site.full))
    gain = 1.0 if kept else 0.0
    made = _generic(site)
    return Fixed(gain, gain, math.sqrt(kept), True, made.apply, 0.0, made.input_shape, made.output_shape, "move")


def _expand(site: _Site) -> Map:
    out, given = math.prod(site.full_output), math.prod(site.full)
    made = _generic(site)
    gain = math.sqrt(out / given) if given else 0.0
    return Fixed(gain, 1.0, math.sqrt(out), True, made.apply, 0.0, made.input_shape, made.output_shape, "move")


def _pad(site: _Site) -> Map:
    given = site.attributes
    mode = given.get("mode", "constant")
    return padded(site.shape, given["pads"], "zeros" if mode == "constant" else mode)


def _resize(site: _Site) -> Map:
    given = site.attributes
    return resized(site.shape, given["size"], given.get("scale"), given["mode"], given.get("align_corners"))


def _factor(site: _Site) -> Map | None:
    """Product or quotient of the varying input and a constant."""
    place = site.varying[0]
    constant = site.constant(1 - place)
    if constant is None or (site.node.op == "div" and place == 1):
        return None
    scale = constant.double() if site.node.op == "mul" else 1 / constant.double()
    scale = checked(scale, site.node.place)
    if scale.dim() > len(site.output):  # a leading axis of one beside the batch
        scale = scale.squeeze(0) if scale.shape[0] == 1 else scale
    if scale.dim() > len(site.output):
        return None
    return Diagonal(scale, site.shape, site.output)


def _added(site: _Site) -> Map | None:
    """Sum with a constant: the constant is an offset, and alpha may scale the varying input."""
    if tuple(site.shape) != tuple(site.output):
        return None
    gain = abs(float(site.attributes.get("alpha", 1))) if site.varying == (1,) else 1.0
    size = math.sqrt(math.prod(site.full))
    return Fixed(gain, gain, gain * size, input_shape=site.shape, output_shape=site.output)


def _matmul(site: _Site) -> Map | None:
    first = 1 if site.node.op == "addmm" else 0
    place = site.varying[0]
    if place not in (first, first + 1):
        return _added(site)
    other = site.weight(first + 1 if place == first else first)
    if other.dim() != 2 or len(site.shape) < (1 if place == first else 2):
        return None
    return Matrix(other.mT, site.shape) if place == first else Matrix(other, site.shape, axis=-2)


def _prelu(site: _Site) -> Map | None:
    if site.varying != (0,):
        return None
    gain = max(1.0, float(site.weight(1).double().abs().max()))
    return Fixed(gain, gain, input_shape=site.shape, output_shape=site.output)


def _softmax(site: _Site) -> Map:
    classes = site.shape[site.axis(site.attributes["dim"])]
    log = site.node.op == "log_softmax"
    gain = gains.log_softmax_gain(classes) if log else gains.softmax_gain(classes)
    gain_inf = (2.0 if log else 0.5) if classes > 1 else 0.0
    return Fixed(gain, gain_inf, input_shape=site.shape, output_shape=site.output)


def _normalisation(site: _Site) -> Map | None:
    if site.varying != (0,):
        return None
    weight = None if site.constant(1) is None else site.weight(1)
    return normalised(gains.normalisation_gain(weight, site.attributes.get("eps"), site.node.spec.dtype), site.shape)


def _vector_norm(site: _Site) -> Map | None:
    order = float(site.attributes.get("ord", 2))
    count = math.prod(site.shape) // max(1, math.prod(site.output))
    if order < 1:
        return None
    gain = count ** max(0.0, 1 / order - 0.5) if math.isfinite(order) else 1.0
    gain_inf = count ** (1 / order) if math.isfinite(order) else 1.0
    return Fixed(gain, gain_inf, input_shape=site.shape, output_shape=site.output)


def _generic(site: _Site) -> Generic:
    """Linear part of the operator in its varying input, applied to samples in double precision, one by one or many."""
    row, node, place = OPERATORS[site.node.op], site.node, site.varying[0]
    constants = [None if i == place else site.constant(i) for i in range(len(node.inputs))]
    spec = site.graph[node.inputs[place] or ""].spec.shape
    sizes = [size.multiple if isinstance(size, BatchSize) else size for size in spec]

    def one(sample: Tensor) -> Tensor:
        cast = [v if v is None or not v.is_floating_point() else v.to(sample.dtype) for v in constants]
        inputs = [sample.reshape(sizes) if i == place else v for i, v in enumerate(cast)]
        return row.linear_part(inputs, frozenset({place}), dict(site.attributes))

    def many(x: Tensor) -> Tensor:
        return torch.stack([one(sample).reshape(site.full_output) for sample in x])

    given = [v for v in constants if v is not None and v.is_floating_point()]
    dtype = min((v.dtype for v in given), key=lambda d: -torch.finfo(d).eps, default=torch.float64)
    return Generic(many, site.full, site.full_output, dtype)


def _repeats(site: _Site) -> list[float]:
    """How often each varying input's elements are repeated by broadcasting."""
    out = math.prod(site.full_output)
    return [out / math.prod(full_shape(site.graph[site.node.inputs[i] or ""])) for i in site.varying]


def _joint_sum(site: _Site) -> Map:
    """[E, alpha E'] on the stacked inputs, E repeating elements: attained by constants."""
    alpha = float(site.attributes.get("alpha", 1)) * (-1 if site.node.op == "sub" else 1)
    same = len({site.node.inputs[i] for i in site.varying}) == 1
    first, second = _repeats(site)
    gain = abs(1 + alpha) if same else math.sqrt(first + alpha * alpha * second)
    wide = abs(1 + alpha) if same else 1 + abs(alpha)
    size = (abs(1 + alpha) if same else math.sqrt(1 + alpha * alpha)) * math.sqrt(math.prod(site.full_output))
    return Fixed(gain, wide, size, input_shape=site.full, output_shape=site.full_output, method="sum")


def _joint_cat(site: _Site) -> Map:
    """A permutation of the stacked inputs; sqrt(times) where one tensor is repeated."""
    names = [site.node.inputs[i] for i in site.varying]
    repeats = max(names.count(name) for name in names)
    size = math.sqrt(sum(math.prod(full_shape(site.graph[name or ""])) for name in names))
    return Fixed(math.sqrt(repeats), 1.0, size, input_shape=site.shape, output_shape=site.output, method="move")


def _joint_selection(site: _Site) -> Map | None:
    """Every output is one of its inputs, or the larger: |change| is at most the larger of the changes."""
    chosen = {1, 2} if site.node.op == "where" else {0, 1}  # not a condition that varies
    if not set(site.varying) <= chosen:
        return None
    gain = math.sqrt(max(_repeats(site)))
    return Fixed(gain, 1.0, input_shape=site.full, output_shape=site.full_output, method="selection")


_MAKERS: dict[str, Callable[[_Site], Map | None]] = {
    "linear": _linear,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "batch_norm": _batch_norm,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": lambda site: adaptive_average_pool(site.shape, site.attributes["output_size"]),
    "max_pool": _max_pool,
    "adaptive_max_pool": lambda site: adaptive_max_pool(site.shape, site.attributes["output_size"]),
    "amax": _unit,
    "mean": _reduced(mean=True),
    "sum": _reduced(mean=False),
    **dict.fromkeys(_MOVES, _moved),
    "expand": _expand,
    "pad": _pad,
    "resize": _resize,
    "cat": _joint_cat,
    **dict.fromkeys(("mul", "div"), _factor),
    **dict.fromkeys(("add", "sub"), _added),
    "neg": lambda site: Diagonal(-torch.ones((), dtype=torch.float64), site.full, site.full_output),
    **dict.fromkeys(("maximum", "minimum", "where"), _joint_selection),
    **dict.fromkeys(("matmul", "addmm"), _matmul),
    "prelu": _prelu,
    **dict.fromkeys(("softmax", "log_softmax"), _softmax),
    **dict.fromkeys(("layer_norm", "group_norm", "rms_norm"), _normalisation),
    "vector_norm": _vector_norm,
}

_JOINT: dict[str, Callable[[_Site], Map | None]] = {
    **dict.fromkeys(("add", "sub"), _joint_sum),
    "cat": _joint_cat,
    **dict.fromkeys(("maximum", "minimum", "where"), _joint_selection),
}
