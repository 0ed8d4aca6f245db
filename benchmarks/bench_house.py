"""The house in numbers: how long the package takes to import and start, how large reports, files and test suite are.

Every start is a fresh Python process; CPU seconds (user and system) beside wall seconds, as other work on the machine
disturbs the first little and the second much. A bare Python and `import torch` run beside ours in the same turn, and
the turns go round, so that a busy minute meets all of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from _common import Table, arguments_of, save

PROJECT = Path(__file__).resolve().parents[1]
STARTS = {
    "python -c pass": ("-c", "pass"),
    "import assay": ("-c", "import assay"),
    "import torch": ("-c", "import torch"),
    "import assay; assay.gaussian": ("-c", "import assay; assay.gaussian"),
    "import assay; assay.moments": ("-c", "import assay; assay.moments"),
    "assay.moments.propagate": ("-c", "import assay; assay.moments.propagate"),
    "assay --version": ("-m", "assay", "--version"),
    "assay --help": ("-m", "assay", "--help"),
    "assay audit --help": ("-m", "assay", "audit", "--help"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7, help="starts of each kind, after one that warms the disk up")
    parser.add_argument(
        "--demo", type=Path, help="folder of a finished `assay demo`: its report is weighed, none is run"
    )
    given = arguments_of(parser)
    tables = [starts(1 if given.quick else given.runs), sizes()]
    if given.demo or not given.quick:
        tables.append(report(given.demo))
    if not given.quick:
        tables.append(tests())
    save(given.out, tables)


def environment() -> dict[str, str]:
    """The user's, with this checkout first and one thread."""
    paths = [str(PROJECT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def timed(arguments: Sequence[str]) -> tuple[float, float]:
    """CPU and wall seconds of one Python process, which must succeed."""
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        both = [(os.POSIX_SPAWN_DUP2, said.fileno(), stream) for stream in (1, 2)]
        process = os.posix_spawn(sys.executable, [sys.executable, *arguments], environment(), file_actions=both)
        _, status, used = os.wait4(process, 0)
        if status:
            said.seek(0)
            raise SystemExit(f"python {' '.join(arguments)} failed:\n{said.read()[-2000:].decode(errors='replace')}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - begin


def starts(runs: int) -> Table:
    """CPU and wall time of every kind of start."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in STARTS}
    for turn in range(runs + 1):
        for name, arguments in STARTS.items():
            pair = timed(arguments)
            if turn:
                found[name].append(pair)
    table = Table(
        f"Start-up, {runs} processes each",
        ["what", "CPU s: min / median / max", "wall s: min / median / max", "CPU over bare Python, s"],
    )
    bare = statistics.median(cpu for cpu, _ in found["python -c pass"])
    for name, pairs in found.items():
        cpu, wall = zip(*pairs, strict=True)
        over = statistics.median(cpu) - bare
        table.add(f"`{name}`", three(cpu), three(wall), f"{over:.2f}", cpu=cpu, wall=wall)
    return table


def three(values: Sequence[float]) -> str:
    return f"{min(values):.2f} / {statistics.median(values):.2f} / {max(values):.2f}"


def sizes() -> Table:
    """Lines per file of the package and of what stands beside it."""
    table = Table("Files", ["folder", "files", "lines", "median", "90 %", "largest"])
    for folder in ("src", "tests", "benchmarks", "tools", "examples"):
        lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in (PROJECT / folder).rglob("*.py")}
        counts = sorted(lines.values())
        largest = max(lines, key=lambda file: lines[file])
        table.add(
            f"`{folder}`",
            str(len(counts)),
            f"{sum(counts):,}",
            f"{statistics.median(counts):.0f}",
            f"{counts[int(0.9 * (len(counts) - 1))]}",
            f"{lines[largest]} (`{largest.relative_to(PROJECT / folder).as_posix()}`)",
            counts=counts,
        )
    return table


def report(folder: Path | None) -> Table:
    """Bytes of the demo's report, and of the whole folder of its run."""
    table = Table("`assay demo`", ["CPU s", "wall s", "report.html, kB", "whole folder, kB", "files"])
    with tempfile.TemporaryDirectory() as scratch:
        cpu = wall = None
        if folder is None:
            folder = Path(scratch) / "demo"
            cpu, wall = timed(["-m", "assay", "demo", "-o", str(folder)])
        files = [file for file in folder.rglob("*") if file.is_file()]
        page = next(file for file in files if file.name == "report.html")
        size, total = page.stat().st_size, sum(file.stat().st_size for file in files)
        times = ["-" if value is None else f"{value:.1f}" for value in (cpu, wall)]
        table.add(*times, f"{size / 1e3:.0f}", f"{total / 1e3:.0f}", str(len(files)), cpu=cpu, wall=wall, bytes=size)
    return table


def tests() -> Table:
    """How many tests are collected, without running them."""
    table = Table("Tests", ["suite", "tests"])
    for name, chosen in {"make test": ["-m", "not slow"], "make test-all": []}.items():
        command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", *chosen]
        done = subprocess.run(command, cwd=PROJECT, env=environment(), capture_output=True, text=True, check=False)
        count = sum("::" in line for line in done.stdout.splitlines())
        if done.returncode:
            raise SystemExit(done.stdout[-2000:])
        table.add(f"`{name}`", f"{count:,}", count=count)
    return table


if __name__ == "__main__":
    main()
