"""What a sweep works on: jobs, made of stages, made of independent items, each with a key that its content decides."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from assay.errors import UsageError

Outcome = Mapping[str, np.ndarray]
"""What one item gives: small arrays by name. Numbers and booleans of any shape; no objects, no text."""


@dataclass(frozen=True)
class Item:
    """One piece of work.

    Attributes:
        name: for people, in progress and errors; unique within the job.
        arguments: plain JSON values: everything besides the job's identity and the stage that decides the outcome.
        cost: in the job's own measure, such as multiply-adds; only ratios matter.

    Example:
        >>> Item("square 3", {"x": 3}).arguments
        {'x': 3}
    """

    name: str
    arguments: Mapping[str, Any]
    cost: float = 1.0


class Job(Protocol):
    """A sweep: what to compute, and what makes it this computation and no other.

    A job can be pickled when it is to run in other processes. Nothing may depend on the order in which items run:
    randomness comes from seeds in the items' arguments.
    """

    @property
    def name(self) -> str:
        """A short plain name, such as "filtering"."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """Plain JSON values that decide every outcome: digests of model and data, settings, seed, versions, rules.

        The engine adds the number of threads.
        """
        ...

    @property
    def threads(self) -> int:
        """Threads of torch while items are computed; the engine sets and restores them."""
        ...

    @property
    def stages(self) -> int:
        """Number of stages, one after the other."""
        ...

    def items(self, stage: int, done: Mapping[str, Outcome]) -> Sequence[Item]:
        """The items of a stage: a function of the outcomes of earlier stages, by item name, and of nothing else."""
        ...

    def open(self, stage: int, done: Mapping[str, Outcome]) -> Callable[[Item], Outcome]:
        """Prepare for a stage, once in every process that works on it, and return what computes one item."""
        ...


def canonical(value: Any) -> bytes:
    """The one way of writing plain JSON values: sorted keys, no spaces, shortest form of every number.

    Args:
        value: None, booleans, integers, finite numbers, texts, and lists, tuples and mappings (with text keys) of them.

    Returns:
        ASCII bytes.

    Raises:
        UsageError: for any other value, naming its place.

    >>> canonical({"b": (1, 0.1), "a": None})
    b'{"a":null,"b":[1,0.1]}'
    """
    return json.dumps(_plain(value, ""), sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def identity_of(job: Job) -> dict[str, Any]:
    """The job's identity with its name and threads: plain JSON values.

    Returns:
        What the directory of a sweep is named after.

    Raises:
        UsageError: when the identity holds something else.
    """
    identity = _plain({"job": job.name, "threads": job.threads, "identity": dict(job.identity)}, "")
    assert isinstance(identity, dict)
    return identity


def digest_of(job: Job) -> str:
    """SHA-256 of the job's identity.

    Returns:
        64 hexadecimal digits.

    Raises:
        UsageError: when the identity is not plain JSON.

    Example:
        >>> import numpy as np
        >>> class Squares:
        ...     name, identity, threads, stages = "squares", {"version": 1}, 1, 1
        ...
        ...     def items(self, stage, done):
        ...         return [Item(f"square of {n}", {"n": n}) for n in range(3)]
        ...
        ...     def open(self, stage, done):
        ...         return lambda item: {"value": np.array(item.arguments["n"] ** 2)}
        >>> len(digest_of(Squares()))
        64
    """
    return hashlib.sha256(canonical(identity_of(job))).hexdigest()


def key_of(job: Job, stage: int, item: Item) -> str:
    """The key of an item: SHA-256 of the job's identity, the stage and the item's arguments. Names do not enter.

    Args:
        job: whose item it is.
        stage: number of the stage, from 0.
        item: the item.

    Returns:
        64 hexadecimal digits.

    Raises:
        UsageError: when identity or arguments are not plain JSON.

    Example:
        >>> import numpy as np
        >>> class Squares:
        ...     name, identity, threads, stages = "squares", {"version": 1}, 1, 1
        ...
        ...     def items(self, stage, done):
        ...         return [Item(f"square of {n}", {"n": n}) for n in range(3)]
        ...
        ...     def open(self, stage, done):
        ...         return lambda item: {"value": np.array(item.arguments["n"] ** 2)}
        >>> job = Squares()
        >>> key_of(job, 0, Item("one", {"n": 1})) == key_of(job, 0, Item("another name", {"n": 1}))
        True
    """
    return item_key(digest_of(job), stage, item)


def item_key(identity_digest: str, stage: int, item: Item) -> str:
    """`key_of` for a digest that is already known.

    Returns:
        64 hexadecimal digits.

    Raises:
        UsageError: when the arguments are not plain JSON.
    """
    content = {"identity": identity_digest, "stage": stage, "arguments": dict(item.arguments)}
    return hashlib.sha256(canonical(content)).hexdigest()


def _plain(value: Any, place: str) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(each, f"{place}[{index}]") for index, each in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(each, f"{place}.{key}" if place else key) for key, each in value.items()}
    raise UsageError(
        f"A key of sweep work cannot hold {value!r:.80} ({type(value).__name__}).",
        where=place or "arguments",
        advice="Use None, booleans, integers, finite numbers, texts, and lists and mappings of them.",
    )
