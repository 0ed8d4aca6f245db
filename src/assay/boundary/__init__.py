"""Decision boundaries: where decisions flip, how the boundary bends there, what connects a class, what tampering shows.

One sign convention throughout: F = f_rival - f_own, and a positive curvature bends towards the input.
"""

from typing import TYPE_CHECKING

from assay._lazy import lazily

if TYPE_CHECKING:
    from assay.boundary.analysis import analyse as analyse
    from assay.boundary.config import BoundaryConfig as BoundaryConfig
    from assay.boundary.detection import Combination as Combination
    from assay.boundary.detection import Detection as Detection
    from assay.boundary.detection import Detector as Detector
    from assay.boundary.detection import OutlierDetector as OutlierDetector
    from assay.boundary.detection import Tampered as Tampered
    from assay.boundary.detection import evade as evade
    from assay.boundary.detection import evaluate as evaluate
    from assay.boundary.field import Field as Field
    from assay.boundary.pairs import regimes as regimes
    from assay.boundary.paths import Connection as Connection
    from assay.boundary.paths import SegmentCertificate as SegmentCertificate
    from assay.boundary.paths import certify_segment as certify_segment
    from assay.boundary.paths import class_slice as class_slice
    from assay.boundary.paths import connect as connect
    from assay.boundary.planning import plan as plan
    from assay.boundary.points import BoundaryPoint as BoundaryPoint
    from assay.boundary.points import boundary_point as boundary_point
    from assay.boundary.shape import Curvature as Curvature
    from assay.boundary.shape import curvature as curvature
    from assay.boundary.shape import mean_curvature as mean_curvature
    from assay.boundary.shape import scale_sweep as scale_sweep
    from assay.boundary.shape import second_order_check as second_order_check
    from assay.boundary.subspaces import asymmetry as asymmetry
    from assay.boundary.subspaces import distance_within as distance_within
    from assay.boundary.subspaces import first_crossing as first_crossing
    from assay.boundary.subspaces import flip_probability as flip_probability
    from assay.boundary.subspaces import flip_probability_of as flip_probability_of
    from assay.boundary.subspaces import gradient_subspace as gradient_subspace
    from assay.boundary.subspaces import profile as profile
    from assay.boundary.subspaces import relative_curvature as relative_curvature
    from assay.boundary.subspaces import sampled_flips as sampled_flips
    from assay.boundary.subspaces import semi_random as semi_random
    from assay.boundary.subspaces import shared_directions as shared_directions
    from assay.boundary.subspaces import subspace_noise as subspace_noise

__getattr__, __all__ = lazily(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "analysis": ("analyse",),
        "config": ("BoundaryConfig",),
        "detection": ("Combination", "Detection", "Detector", "OutlierDetector", "Tampered", "evade", "evaluate"),
        "field": ("Field",),
        "paths": ("Connection", "SegmentCertificate", "certify_segment", "class_slice", "connect"),
        "planning": ("plan",),
        "points": ("BoundaryPoint", "boundary_point"),
        "pairs": ("regimes",),
        "shape": ("Curvature", "curvature", "mean_curvature", "scale_sweep", "second_order_check"),
        "subspaces": (
            "asymmetry",
            "distance_within",
            "first_crossing",
            "flip_probability",
            "flip_probability_of",
            "gradient_subspace",
            "profile",
            "relative_curvature",
            "sampled_flips",
            "semi_random",
            "shared_directions",
            "subspace_noise",
        ),
    },
)
