"""Parts of the sensitivity analysis beyond the input's condition number, a file each: what they compute, tell and draw.

A section is a function of a `Context`; adding one is a file here and a line in `SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable

from assay.results import Section
from assay.sensitivity.sections.bits import bits
from assay.sensitivity.sections.bounds import bounds
from assay.sensitivity.sections.norms import norms
from assay.sensitivity.sections.parameters import parameters
from assay.sensitivity.sections.roundoff import roundoff
from assay.sensitivity.sections.section import Context

SECTIONS: dict[str, Callable[[Context], Section]] = {
    "norms": norms,
    "bounds": bounds,
    "parameters": parameters,
    "roundoff": roundoff,
    "bits": bits,
}

__all__ = ["SECTIONS", "Context", "Section"]
