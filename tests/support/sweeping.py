"""Jobs for the tests of sweeps: matrix products on numbers that each item seeds itself, and items that misbehave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from assay.errors import MissingExtra, NumericalError
from assay.sweep import Item, Outcome

PROJECT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """Variables of a process that is to find the package and the tests."""
    import assay

    paths = [str(PROJECT), str(Path(str(assay.__file__)).parent.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start `tests.support.sweep_child`."""
    command = [sys.executable, "-m", "tests.support.sweep_child", *arguments]
    return subprocess.Popen(command, env=environment(), text=True, **options)


def digest_of_files(root: Path) -> dict[str, bytes]:
    """The files of a sealed sweep whose bytes have to repeat: everything but the times and what lists them."""
    varying = ("times.json", "manifest.json")
    return {path.name: path.read_bytes() for path in sorted(root.iterdir()) if path.name not in varying}


def sealed_folder(directory: Path) -> Path:
    """The only sweep of a run directory."""
    (root,) = (directory / "sweeps").iterdir()
    return root


def flat(outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, tuple]]:
    """Outcomes as plain values that can be compared: type, shape and bytes."""
    return {
        item: {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in outcome.items()}
        for item, outcome in outcomes.items()
    }


@dataclass(frozen=True)
class Products:
    """Two stages: products of seeded matrices, then sums over the first stage's items that ended in an even number.

    Attributes:
        count: items of the first stage.
        size: rows of the matrices.
        pause: seconds that an item takes at least.
        torch: compute with torch.
        stages: 1 or 2.
    """

    count: int = 12
    size: int = 16
    pause: float = 0.0
    torch: bool = False
    stages: int = 2
    threads: int = 1
    name: str = "products"

    @property
    def identity(self) -> dict[str, Any]:
        return {"count": self.count, "size": self.size, "torch": self.torch, "version": 1}

    def items(self, stage: int, done: Mapping[str, Outcome]) -> list[Item]:
        if stage == 0:
            return [Item(f"product {n}", {"seed": n}, 1.0 + n % 3) for n in range(self.count)]
        even = [name for name, outcome in done.items() if int(outcome["mean"] * 1e6) % 2 == 0]
        return [Item(f"sum of {name}", {"of": name}, 1.0) for name in even]

    def open(self, stage: int, done: Mapping[str, Outcome]) -> Callable[[Item], Outcome]:
        def product(item: Item) -> Outcome:
            time.sleep(self.pause)
            draw = numpy.random.default_rng(item.arguments["seed"])
            left, right = draw.normal(size=(2, self.size, self.size))
            if self.torch:
                import torch

                found = (torch.from_numpy(left) @ torch.from_numpy(right)).numpy()
            else:
                found = left @ right
            return {"clean": found > 0.0, "adversarial": (found > 1.0)[:, 0], "mean": found.mean()}

        def total(item: Item) -> Outcome:
            time.sleep(self.pause)
            return {"total": numpy.array([done[item.arguments["of"]]["clean"].sum()])}

        return total if stage else product


@dataclass(frozen=True)
class Deadly(Products):
    """One item kills its process: every time, or only until a file exists."""

    victim: int = 3
    once: str = ""
    name: str = "deadly"

    def open(self, stage: int, done: Mapping[str, Outcome]) -> Callable[[Item], Outcome]:
        compute = super().open(stage, done)

        def deadly(item: Item) -> Outcome:
            if stage == 0 and item.arguments["seed"] == self.victim and not (self.once and Path(self.once).exists()):
                if self.once:
                    Path(self.once).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return compute(item)

        return deadly


@dataclass(frozen=True)
class Failing(Products):
    """One item raises."""

    kind: str = "assay"
    name: str = "failing"

    def open(self, stage: int, done: Mapping[str, Outcome]) -> Callable[[Item], Outcome]:
        compute = super().open(stage, done)

        def failing(item: Item) -> Outcome:
            if item.name == "product 5":
                if self.kind == "assay":
                    raise NumericalError("The logits are NaN.", where="layer 3", advice="Look at layer 3.")
                if self.kind == "extra":
                    raise MissingExtra("nothing", "none", "This item")
                raise ZeroDivisionError("five")
            return compute(item)

        return failing


@dataclass(frozen=True)
class Drifting(Products):
    """Not deterministic: what an item gives depends on a file."""

    state: str = ""
    name: str = "drifting"

    def open(self, stage: int, done: Mapping[str, Outcome]) -> Callable[[Item], Outcome]:
        compute = super().open(stage, done)
        shift = float(Path(self.state).read_text())
        return lambda item: {**compute(item), "mean": numpy.array(shift)}


@dataclass(frozen=True)
class Given(Products):
    """Items and their outcomes from a list."""

    given: tuple[tuple[Item, Any], ...] = ()
    stages: int = 1
    name: str = "given"
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        return self.extra

    def items(self, stage: int, done: Mapping[str, Outcome]) -> list[Item]:
        return [item for item, _ in self.given]

    def open(self, stage: int, done: Mapping[str, Outcome]) -> Callable[[Item], Outcome]:
        outcomes = {item.name: outcome for item, outcome in self.given}
        return lambda item: outcomes[item.name]
