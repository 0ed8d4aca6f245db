"""One layer graph for every analysis: captured with torch.export, made of our own frozen nodes and canonical operators.

`capture` makes a `Graph` and proves it equal to the model; `evaluate` runs it on numbers; `draw` makes an SVG of it.
"""

from assay.graph.cost import operations
from assay.graph.draw import draw_svg
from assay.graph.evaluate import evaluate, evaluate_node
from assay.graph.fold import fold_batch_norms
from assay.graph.from_export import capture
from assay.graph.ir import BatchSize, Graph, Node, TensorSpec
from assay.graph.lower import (
    lower_attention,
    lower_composites,
    lower_max_pools,
    lower_squares,
    pool_before_activation,
    select_before_permute,
)
from assay.graph.operators import OPERATORS, Aten, Converted, Inexpressible, Operator, Sample

__all__ = [
    "OPERATORS",
    "Aten",
    "BatchSize",
    "Converted",
    "Graph",
    "Inexpressible",
    "Node",
    "Operator",
    "Sample",
    "TensorSpec",
    "capture",
    "draw_svg",
    "evaluate",
    "evaluate_node",
    "fold_batch_norms",
    "lower_attention",
    "lower_composites",
    "lower_max_pools",
    "lower_squares",
    "operations",
    "pool_before_activation",
    "select_before_permute",
]
