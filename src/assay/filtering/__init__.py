"""Filtering: what a network does when some of its weights are removed or replaced, on clean and on attacked data.

`analyse` filters every unit at every threshold and says which are fragile, robust or antifragile; `retrain` trains only
some of them. `masks` are the ideal filters, `distinct_masks` merges equal ones, `reinitialised` and `rerandomised`
put other weights in place, `select_units` says which weights are filtered together; `score` turns what was recorded per
sample into scores, intervals and classes, and `held_out_gain` tests a gain on other samples.
"""

from typing import TYPE_CHECKING

from assay._lazy import lazily

if TYPE_CHECKING:
    from assay.filtering.analysis import analyse as analyse
    from assay.filtering.analysis import job_of as job_of
    from assay.filtering.comparison import Comparison as Comparison
    from assay.filtering.comparison import Labelled as Labelled
    from assay.filtering.comparison import compare as compare
    from assay.filtering.comparison import labelled as labelled
    from assay.filtering.config import FilteringConfig as FilteringConfig
    from assay.filtering.criticality import least_critical as least_critical
    from assay.filtering.criticality import robust_criticality as robust_criticality
    from assay.filtering.early import Decision as Decision
    from assay.filtering.early import decide as decide
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
    from assay.filtering.planning import plan as plan
    from assay.filtering.planning import too_long as too_long
    from assay.filtering.recording import Baseline as Baseline
    from assay.filtering.recording import Recording as Recording
    from assay.filtering.replacements import reinitialised as reinitialised
    from assay.filtering.replacements import rerandomised as rerandomised
    from assay.filtering.report import examine as examine
    from assay.filtering.result import FilteringResult as FilteringResult
    from assay.filtering.retraining import Retraining as Retraining
    from assay.filtering.retraining import retrain as retrain
    from assay.filtering.scores import Score as Score
    from assay.filtering.scores import UnitScores as UnitScores
    from assay.filtering.scores import label_of as label_of
    from assay.filtering.scores import quadrature as quadrature
    from assay.filtering.scores import score as score
    from assay.filtering.units import Unit as Unit
    from assay.filtering.units import select_units as select_units
    from assay.filtering.variants import Variants as Variants
    from assay.filtering.variants import variants_of as variants_of

__getattr__, __all__ = lazily(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "analysis": ("analyse", "job_of"),
        "comparison": ("Comparison", "Labelled", "compare", "labelled"),
        "config": ("FilteringConfig",),
        "criticality": ("least_critical", "robust_criticality"),
        "early": ("Decision", "decide"),
        "held_out": ("Gain", "held_out_gain"),
        "ideal": ("FILTERS", "is_degenerate", "masks", "stress", "thresholds"),
        "merging": ("DistinctMasks", "distinct_masks"),
        "metrics": ("Metric", "metric_of"),
        "planning": ("plan", "too_long"),
        "recording": ("Baseline", "Recording"),
        "report": ("examine",),
        "replacements": ("reinitialised", "rerandomised"),
        "result": ("FilteringResult",),
        "retraining": ("Retraining", "retrain"),
        "scores": ("Score", "UnitScores", "label_of", "quadrature", "score"),
        "units": ("Unit", "select_units"),
        "variants": ("Variants", "variants_of"),
    },
)
