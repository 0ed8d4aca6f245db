"""The layer graph: frozen, small, free of torch.fx types.

A node's value is a tensor; inputs are names of earlier nodes. Sizes that grow with the batch are `BatchSize` multiples,
so one graph serves any batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from assay.brief import Brief


@dataclass(frozen=True)
class BatchSize:
    """A size of `multiple` times the batch, such as 64 windows per picture.

    Example:
        >>> str(BatchSize(64))
        '64B'
    """

    multiple: int = 1

    def __str__(self) -> str:
        return "B" if self.multiple == 1 else f"{self.multiple}B"


@dataclass(frozen=True)
class Slot:
    """Place of the `index`-th tensor input inside the argument template of an opaque operator."""

    index: int


@dataclass(frozen=True)
class TensorSpec:
    """Shape and type of a node's value.

    Example:
        >>> spec = TensorSpec((BatchSize(), 3, 8, 8), torch.float32)
        >>> str(spec), spec.size_per_sample
        ('B×3×8×8', 192)
    """

    shape: tuple[int | BatchSize, ...]
    dtype: torch.dtype

    @property
    def batched(self) -> bool:
        """True when any axis grows with the batch."""
        return any(isinstance(size, BatchSize) for size in self.shape)

    @property
    def size_per_sample(self) -> int:
        """Elements per sample of the batch."""
        count = 1
        for size in self.shape:
            count *= size.multiple if isinstance(size, BatchSize) else size
        return count

    def __str__(self) -> str:
        return "×".join(str(size) for size in self.shape) or "scalar"


@dataclass(frozen=True)
class Node:
    """One application of a canonical operator.

    Attributes:
        name: unique in the graph.
        op: canonical operator, a key of `graph.OPERATORS`; ``input`` and ``parameter`` are leaves.
        inputs: names of the tensors it takes, None where an optional one is absent.
        attributes: everything else it takes; `BatchSize` where a number grows with the batch.
        spec: shape and type of its value.
        module_path: dotted path of the module that made it, such as ``layer1.0.conv1``.
        source: the source line that made it, where known.

    Example:
        >>> Node("y", "relu", ("x",), {}, TensorSpec((BatchSize(), 3), torch.float32), "layers.0").place
        'layers.0 (relu)'
    """

    name: str
    op: str
    inputs: tuple[str | None, ...]
    attributes: Mapping[str, Any]
    spec: TensorSpec
    module_path: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))

    def __reduce__(self) -> tuple[type[Node], tuple[Any, ...]]:  # a read-only mapping cannot be pickled
        attributes = dict(self.attributes)
        return Node, (self.name, self.op, self.inputs, attributes, self.spec, self.module_path, self.source)

    @property
    def label(self) -> str:
        """Operator name for people: the ATen name where the operator is opaque."""
        return str(self.attributes["target"]) if self.op == "opaque" else self.op

    @property
    def place(self) -> str:
        """Where a reader finds it: module path and operator."""
        return f"{self.module_path} ({self.label})" if self.module_path else f"{self.name} ({self.label})"

    def resolved(self, batch: int) -> Mapping[str, Any]:
        """Attributes with every `BatchSize` replaced by its number for this batch."""
        return {key: _resolve(value, batch) for key, value in self.attributes.items()}


@dataclass(frozen=True, eq=False)
class Graph(Brief):
    """Nodes in topological order. One input, one output.

    Attributes:
        nodes: all nodes; leaves first where possible.
        input: name of the input node.
        output: name of the output node.
        parameters: value of every ``parameter`` node, by node name.
        parameter_names: name in `model.named_parameters()` or `named_buffers()` of a parameter node, by node name.

    Example:
        >>> spec = TensorSpec((BatchSize(), 3), torch.float32)
        >>> nodes = (Node("x", "input", (), {}, spec), Node("y", "relu", ("x",), {}, spec))
        >>> [node.op for node in Graph(nodes, "x", "y").layers]
        ['relu']
    """

    nodes: tuple[Node, ...]
    input: str
    output: str
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    parameter_names: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def last_use(self) -> Mapping[str, str]:
        """Name of the last node that reads each node: after it, the value can be dropped."""
        last: dict[str, str] = {}
        for node in self.nodes:
            for name in node.inputs:
                if name is not None:
                    last[name] = node.name
        last.pop(self.output, None)
        return last

    @cached_property
    def dependent(self) -> frozenset[str]:
        """Names of nodes whose value depends on the graph's input."""
        reached = {self.input}
        for node in self.nodes:
            if any(name in reached for name in node.inputs):
                reached.add(node.name)
        return frozenset(reached)

    @cached_property
    def layers(self) -> tuple[Node, ...]:
        """Nodes that compute something from the input: what a table of layers lists."""
        return tuple(
            node for node in self.nodes if node.name in self.dependent and node.op not in ("input", "identity")
        )

    def replace_nodes(self, nodes: tuple[Node, ...], output: str | None = None) -> Graph:
        """The same graph with other nodes (parameters kept)."""
        return replace(self, nodes=nodes, output=output or self.output)


def _resolve(value: Any, batch: int) -> Any:
    if isinstance(value, BatchSize):
        return value.multiple * batch
    if isinstance(value, tuple):
        return tuple(_resolve(item, batch) for item in value)
    return value
