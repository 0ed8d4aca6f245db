"""The shape of the decision boundary: mean and principal curvatures, at a point or at a scale.

Everything works on the tangent space of the boundary: `tangent` its coordinates, `products` the Hessian on it, `traces`
and `spectrum` what is read off an operator, `difference` and `frames` what stands in for it on piecewise linear
networks, `softplus` a smooth stand-in, `plateau` the dependence on scale. Positive curvature bends towards the input.
"""

from assay.boundary.shape.measure import curvature, mean_curvature
from assay.boundary.shape.plateau import Plateau, scale_sweep
from assay.boundary.shape.result import Curvature, SecondOrderCheck, second_order_check

__all__ = [
    "Curvature",
    "Plateau",
    "SecondOrderCheck",
    "curvature",
    "mean_curvature",
    "scale_sweep",
    "second_order_check",
]
