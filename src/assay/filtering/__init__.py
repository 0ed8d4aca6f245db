"""Filtering: what a network does when some of its weights are removed or replaced, on clean and on attacked data.

`masks` are the ideal filters, `distinct_masks` merges equal ones, `reinitialised` and `rerandomised` put other weights
in place, `select_units` says which weights are filtered together; `score` turns what was recorded per sample into
scores, intervals and the classes fragile, robust and antifragile, and `held_out_gain` tests a gain on other samples.
"""

from typing import TYPE_CHECKING

from assay._lazy import lazily

if TYPE_CHECKING:
    from assay.filtering.held_out import Gain as Gain
    from assay.filtering.held_out import held_out_gain as held_out_gain
    from assay.filtering.ideal import FILTERS as FILTERS
    from assay.filtering.ideal import is_degenerate as is_degenerate
    from assay.filtering.ideal import masks as masks
    from assay.filtering.ideal import stress as stress
    from assay.filtering.ideal import thresholds as thresholds
    from assay.filtering.merging import DistinctMasks as DistinctMasks
    from assay.filtering.merging import distinct_masks as distinct_masks
    from assay.filtering.metrics import Metric as Metric
    from assay.filtering.metrics import metric_of as metric_of
    from assay.filtering.recording import Baseline as Baseline
    from assay.filtering.recording import Recording as Recording
    from assay.filtering.replacements import reinitialised as reinitialised
    from assay.filtering.replacements import rerandomised as rerandomised
    from assay.filtering.scores import Score as Score
    from assay.filtering.scores import UnitScores as UnitScores
    from assay.filtering.scores import label_of as label_of
    from assay.filtering.scores import quadrature as quadrature
    from assay.filtering.scores import score as score
    from assay.filtering.units import Unit as Unit
    from assay.filtering.units import select_units as select_units

__getattr__, __all__ = lazily(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "held_out": ("Gain", "held_out_gain"),
        "ideal": ("FILTERS", "is_degenerate", "masks", "stress", "thresholds"),
        "merging": ("DistinctMasks", "distinct_masks"),
        "metrics": ("Metric", "metric_of"),
        "recording": ("Baseline", "Recording"),
        "replacements": ("reinitialised", "rerandomised"),
        "scores": ("Score", "UnitScores", "label_of", "quadrature", "score"),
        "units": ("Unit", "select_units"),
    },
)
