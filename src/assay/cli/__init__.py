"""The command line: `main` runs it; one file per verb in `verbs/`; what verbs share lies beside them."""

from assay.cli.program import main

__all__ = ["main"]
