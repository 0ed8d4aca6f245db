"""Processes that run a sweep and are killed.

`python -m tests.support.sweep_child run DIRECTORY JOB`: one sweep; JOB is JSON, members of `Products` and `workers`.
`python -m tests.support.sweep_child serve`: one sweep per line on stdin, each in a forked process, without the seconds
that importing torch takes; it prints the process's number, then its exit status.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.support.sweeping import Products

from assay.sweep import run

CRASHING = ("fsync", "replace", "unlink", "mkdir", "rmdir")


def sweep(directory: str, job: dict[str, Any]) -> None:
    workers = job.pop("workers", 1)
    crash_at = job.pop("crash_at", None)
    if crash_at is not None:
        crash(crash_at)
    run(Products(**job), directory=Path(directory), workers=workers)


def crash(at: int) -> None:
    """End the process, as kill -9 would, just before its n-th change of the directory."""
    count = 0

    def counted(real: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:
                os._exit(9)
            return real(*arguments, **keywords)

        return call

    for name in CRASHING:
        setattr(os, name, counted(getattr(os, name)))


def serve() -> None:
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            code = 1
            try:
                sweep(request["directory"], request["job"])
                code = 0
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        sweep(sys.argv[2], json.loads(sys.argv[3]))
