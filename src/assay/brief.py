"""Short words for objects that hold tensors: what is inside, never the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

_LONGEST = 60


class Brief:
    """Mixin of dataclasses: a `repr` on one line, with the shapes of tensors and the sizes of collections.

    Example:
        >>> import numpy as np
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Cloud(Brief):
        ...     points: np.ndarray
        ...     names: tuple[str, ...]
        ...     scale: float = 0.1
        >>> Cloud(np.zeros((3, 2)), ("a", "b", "c"))
        Cloud(points: 3 x 2, names: 3 items, scale: 0.1)
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__repr__" not in vars(cls):
            cls.__repr__ = Brief.__repr__  # in the class itself, or `dataclass` writes one that prints all tensors

    def __repr__(self) -> str:
        shown = [each.name for each in fields(self) if each.repr] if is_dataclass(self) else []
        said = ", ".join(f"{name}: {in_short(getattr(self, name))}" for name in shown if hasattr(self, name))
        return f"{type(self).__name__}({said})"


def in_short(value: Any) -> str:
    """One value in few words.

    Returns:
        A shape, a size, or the value itself where it is short.

    >>> in_short("cat"), in_short([1, 2]), in_short({"a": 1}), in_short(0.123456)
    ("'cat'", '2 items', '1 item', '0.1235')
    """
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return " x ".join(str(side) for side in shape) or f"{float(value):.4g}"
    if isinstance(value, (tuple, list, set, frozenset, Mapping)):
        return f"{len(value)} item{'' if len(value) == 1 else 's'}"
    text = f"{value:.4g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
