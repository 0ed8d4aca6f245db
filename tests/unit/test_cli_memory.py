"""What the command line asks of the C library's allocator."""

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
from assay.cli.memory import keep_freed_memory
import torch
torch.set_num_threads(1)
done = keep_freed_memory()
for _ in range(3):
    torch.ones(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(16_000_000)
print(int(done), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _run(**extra: str) -> tuple[int, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done, faults = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=clean | extra, capture_output=True, text=True, check=True
    ).stdout.split()
    return int(done), int(faults)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_large_blocks_are_reused_without_clearing_their_pages_again() -> None:
    done, faults = _run()
    assert done == 1
    assert faults < 0.5 * _run(MALLOC_ARENA_MAX="2")[1]  # otherwise every block of 64 MB costs 15,625 page faults


def test_settings_of_the_user_stand() -> None:
    assert _run(MALLOC_ARENA_MAX="2")[0] == 0
