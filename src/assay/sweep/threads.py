"""Settings of torch that decide results: threads, and what a worker takes over from the process that sends work."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Any

_DEFAULTS = {"dtype": "float32", "matmul": "highest", "deterministic": False, "mkldnn": True}


class Threads:
    """Sets the threads of torch, and puts back what was there. Costs nothing while torch is not imported.

    Args:
        count: threads to use.
        before: threads to go back to; what was set when `use` first saw torch, if None.
    """

    def __init__(self, count: int, before: int | None = None) -> None:
        self.count, self.before = count, before

    def use(self) -> None:
        """Use so many threads from here on."""
        torch = sys.modules.get("torch")
        if torch is None:
            return
        current = torch.get_num_threads()
        if self.before is None:
            self.before = current
        if current != self.count:
            torch.set_num_threads(self.count)

    def restore(self) -> None:
        """Go back to what was there."""
        torch = sys.modules.get("torch")
        if torch is not None and self.before is not None and torch.get_num_threads() != self.before:
            torch.set_num_threads(self.before)


def settings() -> dict[str, Any]:
    """Version of this process's torch, and what of its settings is not the default; empty while it is not imported."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    current = {
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "mkldnn": bool(torch.backends.mkldnn.enabled),  # pyright: ignore[reportAttributeAccessIssue]
    }
    changed = {name: value for name, value in current.items() if value != _DEFAULTS[name]}
    return {"version": str(torch.__version__)} | changed


def apply(wanted: dict[str, Any]) -> str:
    """Take settings over in a worker process. Where all are defaults, torch is left for the job to import.

    Returns:
        Why that cannot be, such as another version of torch; "" when it was done.
    """
    wanted = dict(wanted)
    version = wanted.pop("version", None)
    if wanted or "torch" in sys.modules:
        import torch

        found = str(torch.__version__)
        now = _DEFAULTS | wanted
        torch.set_default_dtype(getattr(torch, now["dtype"]))
        torch.set_float32_matmul_precision(now["matmul"])
        torch.use_deterministic_algorithms(now["deterministic"])
        torch.backends.mkldnn.enabled = now["mkldnn"]  # pyright: ignore[reportAttributeAccessIssue]
    elif version is not None:
        found = metadata.version("torch")
    else:
        return ""
    same = version is None or found.partition("+")[0] == version.partition("+")[0]
    return "" if same else f"torch {found} is installed there, and {version} here"
