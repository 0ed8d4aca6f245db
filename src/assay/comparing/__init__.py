"""Comparing two audits: which quantities differ, which way, and whether the evidence carries it.

`compare` gives an ordinary `Result`; `joined` makes a run of it, so that it can be saved, shown and checked like any.
Nothing here runs a model: stored values are enough.
"""

from assay.comparing.compare import compare, joined

__all__ = ["compare", "joined"]
