"""What is guaranteed about a network: how far outputs can move, and how far inputs may move in vain.

`lipschitz_bound` holds for all inputs and changes of any size, `certified_ball` for all changes up to a radius around
an input, and within `certified_radius` of an input the class provably stays. Analyses build on these.
"""

from typing import TYPE_CHECKING

from assay._lazy import lazily

if TYPE_CHECKING:
    from assay.certified.ball import CertifiedBall as CertifiedBall
    from assay.certified.ball import certified_ball as certified_ball
    from assay.certified.global_bound import LipschitzBound as LipschitzBound
    from assay.certified.global_bound import lipschitz_bound as lipschitz_bound
    from assay.certified.prepared import bound_graph as bound_graph
    from assay.certified.radius import CertifiedRadius as CertifiedRadius
    from assay.certified.radius import certifiable as certifiable
    from assay.certified.radius import certified_radius as certified_radius
    from assay.certified.radius import obstacles as obstacles

__getattr__, __all__ = lazily(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "ball": ("CertifiedBall", "certified_ball"),
        "global_bound": ("LipschitzBound", "lipschitz_bound"),
        "prepared": ("bound_graph",),
        "radius": ("CertifiedRadius", "certifiable", "certified_radius", "obstacles"),
    },
)
