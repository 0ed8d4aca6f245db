"""Curves through input space: what changes while a network is watched, with its tangent and its own kinks."""

from assay.smoothness.paths.curve import Curve
from assay.smoothness.paths.frames import Frames
from assay.smoothness.paths.joined import Joined, Retimed, Reversed, Section
from assay.smoothness.paths.latent import Latent
from assay.smoothness.paths.line import Line
from assay.smoothness.paths.path import Path, Side
from assay.smoothness.paths.spline import Spline
from assay.smoothness.paths.straightness import straight_between_knots
from assay.smoothness.paths.transform import Transform

__all__ = [
    "Curve",
    "Frames",
    "Joined",
    "Latent",
    "Line",
    "Path",
    "Retimed",
    "Reversed",
    "Section",
    "Side",
    "Spline",
    "Transform",
    "straight_between_knots",
]
