"""Parts of the boundary analysis beyond distances, a file each: what they compute, tell and draw.

A section is a function of a `Context`; adding one is a file here and a line in `PARTS`.
"""

from __future__ import annotations

from collections.abc import Callable

from assay.boundary.sections.curvature import curvature
from assay.boundary.sections.detection import detection
from assay.boundary.sections.noise import noise
from assay.boundary.sections.paths import paths
from assay.boundary.sections.section import Context
from assay.results import Section

PARTS: dict[str, Callable[[Context], Section]] = {
    "curvature": curvature,
    "noise": noise,
    "paths": paths,
    "detection": detection,
}

__all__ = ["PARTS", "Context", "Section"]
