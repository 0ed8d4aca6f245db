"""Indices of data: how well neighbours agree in class (separation) or target (smoothness), also layer by layer.

They describe data, not kinks, and stand beside SMP.
"""

from assay.smoothness.indices.layers import LayerIndex, layer_indices
from assay.smoothness.indices.separation import separation_index, separations
from assay.smoothness.indices.smoothness import smoothness_index, smoothnesses

__all__ = [
    "LayerIndex",
    "layer_indices",
    "separation_index",
    "separations",
    "smoothness_index",
    "smoothnesses",
]
