"""Engines: how the outputs of many filtered networks are computed, exactly and without doing the same work twice.

`engine_of` chooses one; `naive` runs the module itself, `incremental` only what the filtered weights reach, `batched`
several thresholds in one pass. All of them attack anew through each filtered network, too.
"""

from typing import TYPE_CHECKING

from assay._lazy import lazily

if TYPE_CHECKING:
    from assay.filtering.engines.choose import RULE_VERSION as RULE_VERSION
    from assay.filtering.engines.choose import EngineName as EngineName
    from assay.filtering.engines.choose import engine_of as engine_of
    from assay.filtering.engines.engine import Engine as Engine
    from assay.filtering.engines.engine import Precision as Precision

__getattr__, __all__ = lazily(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {"choose": ("RULE_VERSION", "EngineName", "engine_of"), "engine": ("Engine", "Precision")},
)
