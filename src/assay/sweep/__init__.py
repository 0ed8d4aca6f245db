"""Long work in small pieces: jobs of independent items, a store that survives anything, engines that are exchangeable.

A `Job` says what is to be computed; `run` computes it, in memory or in a directory that can be resumed after any stop;
`plan` says beforehand what it will cost; `verify` finds damage.
"""

from assay.sweep.engine import run
from assay.sweep.planning import Plan, plan
from assay.sweep.stopping import Terminated, terminable
from assay.sweep.verify import Damage, Verification, verify
from assay.sweep.work import Item, Job, Outcome, canonical, digest_of, key_of

__all__ = [
    "Damage",
    "Item",
    "Job",
    "Outcome",
    "Plan",
    "Terminated",
    "Verification",
    "canonical",
    "digest_of",
    "key_of",
    "plan",
    "run",
    "terminable",
    "verify",
]
