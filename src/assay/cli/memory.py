"""How this process keeps freed memory."""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # mallopt(3)
_KEPT = 1 << 28


def keep_freed_memory() -> bool:
    """Have the C library keep large freed blocks for the next allocation, where it can be told to.

    glibc hands every block above 32 MB back to the kernel, which clears it page by page when it is wanted again:
    activations are that large, and an audit of an ImageNet network spent more than half its time in that. Settings
    of the user's own (``MALLOC_...``, ``GLIBC_TUNABLES``) stand.

    Returns:
        Whether it was done.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    tune = ctypes.CDLL(None).mallopt
    return all(tune(name, value) for name, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, _KEPT)))
