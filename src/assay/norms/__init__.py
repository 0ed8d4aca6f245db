"""Operator norms of layers and graph nodes: exact where affordable, else a lower estimate with a guaranteed bound.

`operator_norm` takes a module, `node_norm` a node of a captured graph, `layer_norms` tabulates a graph; `local_norm` is
the gain at one point for layers that have no useful global one. `gram_norm` and `convolution_bound` are differentiable.
`largest_singular` finds the norm of any linear map that can be multiplied with, one per sample of a batch.
"""

from typing import TYPE_CHECKING

from assay._lazy import lazily

if TYPE_CHECKING:
    from assay.norms.compute import operator_norm as operator_norm
    from assay.norms.fourier import convolution_bound as convolution_bound
    from assay.norms.gains import activation_gain as activation_gain
    from assay.norms.golub_kahan import LargestSingular as LargestSingular
    from assay.norms.golub_kahan import largest_singular as largest_singular
    from assay.norms.gram import gram_norm as gram_norm
    from assay.norms.local import local_norm as local_norm
    from assay.norms.nodes import node_norm as node_norm
    from assay.norms.result import OperatorNorm as OperatorNorm
    from assay.norms.table import LayerNorm as LayerNorm
    from assay.norms.table import NormCost as NormCost
    from assay.norms.table import layer_norms as layer_norms
    from assay.norms.table import norm_cost as norm_cost

__getattr__, __all__ = lazily(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "compute": ("operator_norm",),
        "fourier": ("convolution_bound",),
        "gains": ("activation_gain",),
        "golub_kahan": ("LargestSingular", "largest_singular"),
        "gram": ("gram_norm",),
        "local": ("local_norm",),
        "nodes": ("node_norm",),
        "result": ("OperatorNorm",),
        "table": ("LayerNorm", "NormCost", "layer_norms", "norm_cost"),
    },
)
