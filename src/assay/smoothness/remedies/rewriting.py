"""Graphs with a source of kinks replaced: max pools by averages or blurs, thresholds by smooth functions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from assay.errors import UnsupportedOperator, UsageError
from assay.graph import BatchSize, Graph, Node, TensorSpec

Change = Literal["average", "blur", "silu", "softplus"]

POOLING = frozenset({"average", "blur"})
_POOLS = frozenset({"max_pool", "adaptive_max_pool", "amax"})
_THRESHOLDS = frozenset({"relu", "leaky_relu", "prelu", "clip"})
_LINEAR_FROM = 40.0
"""Sharpness times distance beyond which a softplus is its asymptote: the step it makes there is exp(-40)."""


def changeable(graph: Graph, change: Change) -> tuple[Node, ...]:
    """Nodes that a change is about: max pools, or ReLUs, leaky ReLUs, PReLUs and clips.

    Args:
        graph: a captured network.
        change: what would replace them.

    Returns:
        The nodes, in the order of the graph.
    """
    ops = _POOLS if change in POOLING else _THRESHOLDS
    return tuple(node for node in graph.layers if node.op in ops)


def rewritten(graph: Graph, change: Change, sharpness: float = 1.0, names: Collection[str] | None = None) -> Graph:
    """The network with some nodes replaced; everything else, and all weights, as they are.

    | change | of | into |
    |---|---|---|
    | average | max pools | the mean over the same windows, padding left out; over the same axes for a global maximum |
    | blur | max pools with windows | a binomial filter per channel, centred on the windows and with their stride: 1-2-1 for odd windows, 1-3-3-1 for even ones; at edges the weights inside the picture are scaled up to 1 |
    | silu | thresholds | z sigmoid(b z) with b the sharpness, in the place of every max(z, 0) |
    | softplus | thresholds | log(1 + exp(b z)) / b, likewise |

    A leaky slope a stays: a z + (1 - a) s(z), with s the smooth function; a clip is low + s(z - low) - s(z - high).

    Args:
        graph: a captured network in float64, activations before pools as the model has them.
        change: see above.
        sharpness: b; the smooth function leaves the sharp one within a few 1/b.
        names: of the nodes to replace; all that the change is about by default.

    Returns:
        The changed graph.

    Raises:
        UnsupportedOperator: for windows with holes (dilation), and blurs of maxima without windows.
        UsageError: when there is nothing to replace, or the sharpness is not positive.
    """  # noqa: E501 - a table row is one line
    chosen = {node.name for node in changeable(graph, change) if names is None or node.name in names}
    if not chosen:
        kind = "max pool" if change in POOLING else "ReLU"
        raise UsageError(
            f"There is no {kind} to replace.", where="layers", advice="Choose another change, or layers that have one."
        )
    if not sharpness > 0 or not math.isfinite(sharpness):
        raise UsageError(f"A sharpness of {sharpness:g} is none.", where="sharpness", advice="Choose a positive one.")
    maker = _Maker(graph, change, sharpness)
    nodes = [made for node in graph for made in (maker.instead(node) if node.name in chosen else (node,))]
    return replace(graph, nodes=tuple(nodes), parameters=maker.parameters)


class _Maker:
    """Makes the nodes that stand instead of one; the last one keeps its name."""

    def __init__(self, graph: Graph, change: Change, sharpness: float) -> None:
        self.graph, self.change, self.sharpness = graph, change, sharpness
        self.parameters: dict[str, Tensor] = dict(graph.parameters)
        self._made: Iterator[int] = itertools.count()

    def instead(self, node: Node) -> list[Node]:
        self.node, self.nodes = node, list[Node]()
        if self.change in POOLING:
            self._pooled()
        else:
            self._softened()
        return self.nodes

    def _emit(
        self,
        op: str,
        inputs: tuple[str, ...],
        *,
        last: bool = False,
        shape: tuple[Any, ...] | None = None,
        **attributes: Any,
    ) -> str:
        node = self.node
        name = node.name if last else f"{node.name}_part{next(self._made)}"
        spec = node.spec if shape is None else TensorSpec(shape, node.spec.dtype)
        self.nodes.append(Node(name, op, inputs, attributes, spec, node.module_path, node.source))
        return name

    def _constant(self, value: Tensor | float) -> str:
        tensor = torch.as_tensor(value, dtype=torch.float64)
        name = f"{self.node.name}_constant{next(self._made)}"
        self.parameters[name] = tensor
        self.nodes.append(Node(name, "parameter", (), {}, TensorSpec(tuple(tensor.shape), tensor.dtype)))
        return name

    @property
    def _source(self) -> str:
        source = self.node.inputs[0]
        assert source is not None
        return source

    # pools

    def _pooled(self) -> None:
        node, attributes = self.node, self.node.attributes
        if node.op == "max_pool":
            dims = len(self.graph[self._source].spec.shape) - 2
            kernel, stride, padding = _geometry(node, dims)
            if self.change == "blur":
                self._blurred(kernel, stride, padding)
            else:
                ceil = bool(attributes.get("ceil_mode", False))
                window = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil}
                self._emit("avg_pool", (self._source,), last=True, **window, count_include_pad=False)
        elif self.change == "blur":
            raise UnsupportedOperator(
                "A maximum without windows of fixed size cannot become a blur.",
                where=node.place,
                advice='Leave it out (layers), or change it to "average".',
            )
        elif node.op == "adaptive_max_pool":
            self._emit("adaptive_avg_pool", (self._source,), last=True, output_size=attributes["output_size"])
        else:
            rank = len(self.graph[self._source].spec.shape)
            dim = tuple(attributes.get("dim") or range(rank))
            self._emit("mean", (self._source,), last=True, dim=dim, keepdim=attributes.get("keepdim", False))

    def _blurred(self, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]) -> None:
        sizes = [int(size) for size in self.graph[self._source].spec.shape[2:] if not isinstance(size, BatchSize)]
        out = [int(size) for size in self.node.spec.shape[2:] if not isinstance(size, BatchSize)]
        channels = self.graph[self._source].spec.shape[1]
        assert isinstance(channels, int)
        filters, pads, shares = [], [], []
        for size, count, k, step, pad in zip(sizes, out, kernel, stride, padding, strict=True):
            filters.append(_binomial(k))
            taps = len(filters[-1])
            before = pad + (taps - k) // 2  # the filter and the window have one centre
            pads.append((before, (count - 1) * step + taps - size - before))
            inside = torch.nn.functional.pad(torch.ones(size, dtype=torch.float64), pads[-1])
            shares.append((inside.unfold(0, taps, step) * filters[-1]).sum(1))
        shape = (*self.graph[self._source].spec.shape[:2], *(s + sum(p) for s, p in zip(sizes, pads, strict=True)))
        flat = tuple(itertools.chain.from_iterable(reversed(pads)))
        padded = self._emit("pad", (self._source,), shape=shape, pads=flat, mode="constant", value=0.0)
        weight = self._constant(_outer(filters).expand(channels, 1, *(len(f) for f in filters)).contiguous())
        settings = {"stride": stride, "padding": (0,) * len(sizes), "dilation": (1,) * len(sizes), "groups": channels}
        blurred = self._emit("conv", (padded, weight), **settings)
        self._emit("mul", (blurred, self._constant(1 / _outer(shares))), last=True)

    # thresholds

    def _softened(self) -> None:
        node, attributes = self.node, self.node.attributes
        if node.op == "relu":
            self._smooth(self._source, last=True)
        elif node.op == "clip":
            self._clipped(attributes)
        else:
            slope = float(attributes.get("negative_slope", 0.01)) if node.op == "leaky_relu" else self._slopes()
            straight = self._emit("mul", (self._source, self._constant(slope)))
            bent = self._emit("mul", (self._smooth(self._source), self._constant(1.0 - slope)))
            self._emit("add", (straight, bent), last=True)

    def _clipped(self, attributes: Mapping[str, Any]) -> None:
        low, high = attributes.get("low"), attributes.get("high")
        value = self._source
        if low is not None:
            floor = self._constant(float(low))
            value = self._emit("add", (self._smooth(self._emit("sub", (self._source, floor))), floor))
        if high is not None:
            above = self._smooth(self._emit("sub", (self._source, self._constant(float(high)))))
            value = self._emit("sub", (value, above))
        self._emit("identity", (value,), last=True)

    def _slopes(self) -> Tensor:
        """Slopes of a PReLU, laid out along the channels."""
        name = self.node.inputs[1]
        if name is None or name not in self.graph.parameters:
            raise UnsupportedOperator(
                "The slope of this PReLU depends on the input.", where=self.node.place, advice="Leave it out (layers)."
            )
        weight = self.graph.parameters[name].double()
        rank = len(self.node.spec.shape)
        return weight.reshape(1, -1, *[1] * (rank - 2)) if weight.dim() <= 1 and weight.numel() > 1 else weight

    def _smooth(self, source: str, *, last: bool = False) -> str:
        """A smooth function in the place of max(z, 0)."""
        if self.change == "softplus":
            return self._emit("softplus", (source,), last=last, beta=self.sharpness, threshold=_LINEAR_FROM)
        scaled = self._emit("mul", (source, self._constant(self.sharpness)))
        return self._emit("mul", (source, self._emit("sigmoid", (scaled,))), last=last)


def _geometry(node: Node, dims: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Kernel, stride and padding, one number per axis."""
    attributes = node.attributes
    given = (
        attributes["kernel_size"],
        attributes.get("stride") or attributes["kernel_size"],
        attributes.get("padding", (0,)),
        attributes.get("dilation", (1,)),
    )
    kernel, stride, padding, dilation = (tuple(v) * dims if len(v) == 1 else tuple(v) for v in given)
    if set(dilation) != {1}:
        raise UnsupportedOperator(
            "A max pool over windows with holes has no counterpart here.",
            where=node.place,
            advice="Leave it out (layers).",
        )
    return kernel, stride, padding


def _binomial(window: int) -> Tensor:
    taps = (1.0, 2.0, 1.0) if window % 2 else (1.0, 3.0, 3.0, 1.0)
    return torch.tensor(taps, dtype=torch.float64) / sum(taps)


def _outer(axes: list[Tensor]) -> Tensor:
    """Product of one vector per axis, without further axes."""
    result = torch.ones((), dtype=torch.float64)
    for axis in axes:
        result = result[..., None] * axis
    return result
