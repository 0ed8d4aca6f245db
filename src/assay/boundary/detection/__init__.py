"""Telling tampered samples from clean ones by how the boundary bends next to them, and naming their class before.

`Detector` is the door; `STATISTICS` and `RULES` hold what it can measure and how it recovers labels, `evaluate` says
how well it does beside the baselines, and `evade` attacks it the way someone would who knows of it.
"""

from assay.boundary.detection.calibration import Area, auc, auc_difference, conformal_p_value, threshold_at
from assay.boundary.detection.combination import Combination
from assay.boundary.detection.detector import Detector
from assay.boundary.detection.estimator import OutlierDetector
from assay.boundary.detection.evaluation import Evaluation, Share, Tampered, evaluate, recovery_rates
from assay.boundary.detection.evasion import Evasion, evade
from assay.boundary.detection.recovery import RULES
from assay.boundary.detection.result import CAVEAT, Detection
from assay.boundary.detection.statistics import STATISTICS, Statistic

__all__ = [
    "CAVEAT",
    "RULES",
    "STATISTICS",
    "Area",
    "Combination",
    "Detection",
    "Detector",
    "Evaluation",
    "Evasion",
    "OutlierDetector",
    "Share",
    "Statistic",
    "Tampered",
    "auc",
    "auc_difference",
    "conformal_p_value",
    "evade",
    "evaluate",
    "recovery_rates",
    "threshold_at",
]
