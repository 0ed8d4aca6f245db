"""Smoothness of outputs along paths: kinks that activations and pools make, where they come from, what they prove.

SMP, the sum of the magnitudes of slope jumps |y'(t+) - y'(t-)|, is the quantity that every estimator aims at.
"""

from typing import TYPE_CHECKING

from assay._lazy import lazily

if TYPE_CHECKING:
    from assay.smoothness.analysis import analyse as analyse
    from assay.smoothness.config import SmoothnessConfig as SmoothnessConfig
    from assay.smoothness.estimators.sampled import sampled as sampled
    from assay.smoothness.estimators.sampled import smp_sampled as smp_sampled
    from assay.smoothness.evidence.verdict import forensics as forensics
    from assay.smoothness.indices import layer_indices as layer_indices
    from assay.smoothness.indices import separation_index as separation_index
    from assay.smoothness.indices import smoothness_index as smoothness_index
    from assay.smoothness.kinks import Kinks as Kinks
    from assay.smoothness.kinks import Smp as Smp
    from assay.smoothness.measure import smp as smp
    from assay.smoothness.network import Network as Network
    from assay.smoothness.paths import Frames as Frames
    from assay.smoothness.paths import Joined as Joined
    from assay.smoothness.paths import Latent as Latent
    from assay.smoothness.paths import Line as Line
    from assay.smoothness.paths import Path as Path
    from assay.smoothness.paths import Retimed as Retimed
    from assay.smoothness.paths import Reversed as Reversed
    from assay.smoothness.paths import Section as Section
    from assay.smoothness.paths import Spline as Spline
    from assay.smoothness.paths import Transform as Transform
    from assay.smoothness.planning import plan as plan
    from assay.smoothness.prediction import Process as Process
    from assay.smoothness.prediction import agreement as agreement
    from assay.smoothness.prediction import plug_in as plug_in
    from assay.smoothness.prediction import predict as predict
    from assay.smoothness.remedies import remedy as remedy

__getattr__, __all__ = lazily(
    __name__,
    {
        "analysis": ("analyse",),
        "config": ("SmoothnessConfig",),
        "estimators.sampled": ("sampled", "smp_sampled"),
        "evidence.verdict": ("forensics",),
        "indices": ("layer_indices", "separation_index", "smoothness_index"),
        "kinks": ("Kinks", "Smp"),
        "measure": ("smp",),
        "network": ("Network",),
        "paths": (
            "Frames",
            "Joined",
            "Latent",
            "Line",
            "Path",
            "Retimed",
            "Reversed",
            "Section",
            "Spline",
            "Transform",
        ),
        "planning": ("plan",),
        "prediction": ("Process", "agreement", "plug_in", "predict"),
        "remedies": ("remedy",),
    },
)
