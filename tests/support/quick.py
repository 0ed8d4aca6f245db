"""Flags that make an audit quick, for tests of the command line."""

BOUNDARY = (
    *("--boundary.inputs", "12", "--boundary.spectrum-inputs", "1", "--boundary.pairs", "1", "--boundary.probes", "4"),
    *("--boundary.noise-draws", "100", "--boundary.certified-inputs", "1", "--boundary.certified-segments", "1"),
)
SMOOTHNESS = (
    *("--smoothness.paths", "1", "--smoothness.samples", "17", "--smoothness.outputs", "1"),
    *("--smoothness.index-inputs", "40"),
)
QUICK = (*BOUNDARY, *SMOOTHNESS)
