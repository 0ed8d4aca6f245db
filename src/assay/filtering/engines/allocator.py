"""Memory that is neither given back between passes nor searched for garbage in vain.

A pass makes and frees the same few megabytes as the pass before. glibc returns freed blocks of that size to the system,
and every new one costs a page fault per 4 KiB: for a small network that took half of the time (8.9 instead of 1.7 ms
for one convolution whose result has 2 MB). When glibc sees one large block come back, it raises the size up to which it
keeps blocks, for the rest of the process; up to 64 MiB of freed memory may then stay with the process. Results do not
depend on it, and where the C library is another one, nothing happens.

Capturing a first graph imports some 1,200 modules of torch and sympy; looking for garbage among them takes a quarter of
that time and finds none.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

LARGE = 31 * 2**20  # glibc learns from blocks of up to 32 MiB; see M_MMAP_THRESHOLD in mallopt(3)


@cache
def keep_freed_memory() -> None:
    """Give one large block back, once per process."""
    torch.empty(LARGE, dtype=torch.uint8)


@contextmanager
def without_collection() -> Iterator[None]:
    """No search for garbage meanwhile; afterwards as before."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
