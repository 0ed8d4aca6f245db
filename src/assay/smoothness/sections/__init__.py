"""Parts of the smoothness analysis beyond kinks, a file each: what they compute, tell and draw.

A section is a function of a `Context`; adding one is a file here and a line in `PARTS`.
"""

from __future__ import annotations

from collections.abc import Callable

from assay.results import Section
from assay.smoothness.sections.indices import indices
from assay.smoothness.sections.prediction import prediction
from assay.smoothness.sections.remedies import remedies
from assay.smoothness.sections.section import Context

PARTS: dict[str, Callable[[Context], Section]] = {
    "prediction": prediction,
    "remedies": remedies,
    "indices": indices,
}

__all__ = ["PARTS", "Context", "Section"]
