"""What a sweep costs besides the work itself: milliseconds and bytes per item, in memory, in a directory, in processes.

Items give an outcome of one kind of real use (correctness of N samples, clean and attacked, and two numbers) and take
no time, so that all of it is overhead, most of it waiting for the disk: one synchronised write is measured beside it.
The start of processes is measured apart. A second table has items that take 50 ms, and the plan beside the real time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from _common import Table, arguments_of, save, spread

from assay.sweep import Item, Outcome, plan, run, verify


@dataclass(frozen=True)
class Recorded:
    """Outcomes as filtering has them: two rows of bits, two numbers."""

    count: int
    samples: int
    seconds: float = 0.0
    seed: int = 0
    name: str = "recorded"
    threads: int = 1
    stages: int = 1

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"count": self.count, "samples": self.samples, "seconds": self.seconds, "seed": self.seed}

    def items(self, stage: int, done: Mapping[str, Outcome]) -> list[Item]:
        return [Item(f"item {n}", {"n": n}, 1.0 + n % 4) for n in range(self.count)]

    def open(self, stage: int, done: Mapping[str, Outcome]) -> Callable[[Item], Outcome]:
        def compute(item: Item) -> Outcome:
            until = time.perf_counter() + self.seconds * item.cost / 2.5
            bits = numpy.random.default_rng(item.arguments["n"]).integers(0, 2, (2, self.samples), dtype=bool)
            while time.perf_counter() < until:
                pass
            return {"clean": bits[0], "attacked": bits[1], "loss": numpy.float64(0.5), "accuracy": numpy.float64(0.5)}

        return compute


def timed(function: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


class Clock:
    """Times of the first and the last item that were done."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def __call__(self, done: int, total: int, text: str) -> None:
        self.times.append(time.perf_counter())

    @property
    def start(self) -> float:
        """Seconds before the first item was done; the first call says that the stage begins."""
        return self.times[2] - self.times[0]

    @property
    def each(self) -> float:
        """Milliseconds per item from then on."""
        return (self.times[-1] - self.times[2]) / (len(self.times) - 3) * 1e3


def synchronised_write(folder: str) -> float:
    """Milliseconds of writing 1 kB to the disk itself."""

    def write() -> None:
        with open(Path(folder) / "probe", "wb") as file:
            file.write(b"x" * 1000)
            file.flush()
            os.fsync(file.fileno())

    return statistics.median(timed(write) for _ in range(20)) * 1e3


def overhead(count: int, samples: int, repeats: int) -> Table:
    table = Table(f"overhead per item, {count} items, {samples} samples", ["where", "ms per item", "start, s", "bytes"])
    each: dict[str, list[float]] = defaultdict(list)
    start: dict[str, list[float]] = defaultdict(list)
    sizes: dict[str, float] = {}

    def measure(name: str, job: Recorded, **options: Any) -> None:
        clock = Clock()
        run(job, progress=clock, **options)
        each[name].append(clock.each)
        start[name].append(clock.start)

    for repeat in range(repeats):
        job = Recorded(count, samples, seed=repeat)
        measure("memory", job)
        with tempfile.TemporaryDirectory() as folder:
            each["one synchronised write of 1 kB"].append(synchronised_write(folder))
            measure("directory", job, directory=folder)
            sizes["directory"] = size_of(Path(folder)) / count
            reading = timed(lambda job=job, folder=folder: dict(run(job, directory=folder).items()))
            each["reading a sealed sweep"].append(reading / count * 1e3)
            each["verify"].append(timed(lambda: verify(Path(folder))) / count * 1e3)
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(3) as executor:
            measure("3 threads", job, directory=folder, executor=executor)
        with tempfile.TemporaryDirectory() as folder:
            measure("2 processes", job, directory=folder, workers=2)
    for name, values in each.items():
        began = spread(start[name]) if start[name] else ""
        size = f"{sizes[name]:,.0f}" if name in sizes else ""
        table.add(name, spread(values), began, size, values=values, start=start[name], bytes=sizes.get(name))
    return table


def estimates(count: int, repeats: int) -> Table:
    table = Table(f"the plan, {count} items of 50 ms on average", ["where", "planned s", "real s", "real / planned"])
    for name, workers, kept in (("memory", 1, False), ("directory", 1, True), ("2 processes", 2, True)):
        planned, real = [], []
        for repeat in range(repeats):
            job = Recorded(count, 500, 0.05, seed=repeat)
            with tempfile.TemporaryDirectory() as folder:
                directory = folder if kept else None
                planned.append(plan(job, workers=workers, directory=directory).seconds)
                real.append(timed(lambda job=job, d=directory, w=workers: run(job, directory=d, workers=w)))
        ratios = [took / said for took, said in zip(real, planned, strict=True)]
        table.add(name, spread(planned), spread(real), spread(ratios), planned=planned, real=real)
    return table


def size_of(folder: Path) -> int:
    return sum(os.path.getsize(path) for path in folder.rglob("*") if path.is_file())


def main() -> None:
    arguments = arguments_of(argparse.ArgumentParser(description=__doc__))
    repeats, count = (2, 20) if arguments.quick else (5, 100)
    tables = [overhead(count, 1000, repeats), estimates(20 if arguments.quick else 100, 2 if arguments.quick else 3)]
    save(arguments.out, tables)


if __name__ == "__main__":
    main()
