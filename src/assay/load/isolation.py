"""Run constructors and factories without a trace: random streams and global switches are put back afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch


@contextmanager
def isolated(seed: int | None = None) -> Iterator[None]:
    """Restore the random streams of torch, numpy and Python, the default dtype and the gradient switch on leaving.

    Args:
        seed: start torch's CPU stream from here inside; None leaves it where it is.

    Example:
        >>> before = torch.get_rng_state()
        >>> with isolated(seed=0):
        ...     _ = torch.rand(3)
        >>> bool((torch.get_rng_state() == before).all())
        True
    """
    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    dtype, gradients = torch.get_default_dtype(), torch.is_grad_enabled()
    # Seeding an accelerator that nobody has started yet cannot be undone, so only those in use are saved.
    devices = (
        list(range(torch.cuda.device_count())) if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    )
    try:
        with torch.random.fork_rng(devices=devices):
            if seed is not None:
                torch.default_generator.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        numpy.random.set_state(numpy_state)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
