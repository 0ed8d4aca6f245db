"""Paths inside class regions: search, sampled checks, certificates of segments, and plane slices for figures."""

from assay.boundary.paths import zonotope_bends, zonotope_maxima, zonotope_rules  # noqa: F401  (register the rules)
from assay.boundary.paths.certificate import SegmentCertificate, certify_segment
from assay.boundary.paths.connection import Connection, PathChecks, connect
from assay.boundary.paths.slices import ClassSlice, class_slice
from assay.boundary.paths.zonotope import TABLE

TABLE.freeze()

__all__ = [
    "TABLE",
    "ClassSlice",
    "Connection",
    "PathChecks",
    "SegmentCertificate",
    "certify_segment",
    "class_slice",
    "connect",
]
