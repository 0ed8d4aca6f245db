"""Selective retraining with its controls: continue training with some weights frozen, and compare at equal steps.

`retrain` runs the arms all, selective, complement and random (and criticality when asked) from one checkpoint on the
same batches, attacks every network anew, and returns a `Retraining` with paired differences and their intervals.
"""

from assay.filtering.retraining.arms import LABELS
from assay.filtering.retraining.comparison import Difference, paired_difference
from assay.filtering.retraining.result import Retraining, Run
from assay.filtering.retraining.run import retrain

__all__ = ["LABELS", "Difference", "Retraining", "Run", "paired_difference", "retrain"]
