"""Time and memory of `factor` on networks of ResNet-50's and VGG-19's size, by number of columns r.

Random weights (torchvision constructors), one picture 3x224x224, noise on every pixel, one output. Every point runs in
a process of its own: time relative to forward passes of one picture in the same process, in turn, and memory as the
process's high-water mark during the call over what it held before, relative to the largest activation and to the most
activations that a plain forward walk must hold at once. r + 10 is what the method promises for both, and a
plain forward pass of a batch of so many pictures in the same process, in turn, is what it is held against.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import Table, arguments_of, quartiles, save, spread

from assay.graph import Graph
from assay.moments import propagate
from assay.subject import Subject


def activations(graph: Graph) -> tuple[int, int]:
    """Elements of the largest activation, and of the most that are alive at once."""
    last: dict[str, int] = {}
    for place, node in enumerate(graph.nodes):
        last |= {name: place for name in node.inputs if name is not None}
    last[graph.output] = len(graph.nodes)
    sizes = {node.name: node.spec.size_per_sample for node in graph.nodes if node.name in graph.dependent}
    alive: set[str] = set()
    most = 0
    for place, node in enumerate(graph.nodes):
        if node.name in sizes:
            alive.add(node.name)
        most = max(most, sum(sizes[name] for name in alive))
        alive = {name for name in alive if last.get(name, -1) > place}
    return max(sizes.values()), most


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def peak_bytes(function: Callable[[], object]) -> int:
    """High-water mark of resident memory during a call, over what the process held before it."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed blocks would hide what the call needs
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # starts the mark anew
        before = _status("VmRSS")
        function()
        return _status("VmHWM") - before
    except OSError:  # another system than Linux: the mark of the whole life
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        function()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def seconds(function: Callable[[], object]) -> float:
    begin = time.process_time()
    function()
    return time.process_time() - begin


def point(network: str, rank: int, side: int, repeats: int) -> dict[str, Any]:
    """One network and one number of columns, measured in this process."""
    from torchvision import models

    torch.manual_seed(0)
    x = torch.rand(1, 3, side, side)
    subject = Subject.from_model(getattr(models, network)(weights=None).eval(), example=x)
    largest, alive = activations(subject.graph)
    wanted = torch.tensor([0])

    def forward() -> None:
        subject.probe(x)

    def batch() -> None:
        subject.probe(x + 0.01 * torch.randn(rank + 10, *x.shape[1:]))

    def factor() -> None:
        propagate(subject, x, 0.01**2, method="factor", rank=rank, outputs=wanted)

    forward()  # once outside: convolutions prepare themselves
    batch_peak = peak_bytes(batch)
    peak = peak_bytes(factor)
    ratios, against_batch, absolute = [], [], []
    for _ in range(repeats):
        once = statistics.median(seconds(forward) for _ in range(5))
        absolute.append(seconds(factor))
        ratios.append(absolute[-1] / once)
        against_batch.append(absolute[-1] / seconds(batch))
    return {
        "network": network,
        "rank": rank,
        "ratios": ratios,
        "seconds": absolute,
        "peak": peak,
        "batch_ratios": against_batch,
        "batch_peak": batch_peak,
        "largest": 4 * largest,
        "alive": 4 * alive,
    }


def measured(network: str, rank: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The same in a process of its own."""
    options = {"--side": arguments.side, "--repeats": arguments.repeats, "--threads": arguments.threads}
    command = [sys.executable, __file__, "--point", network, str(rank)]
    command += [str(part) for pair in options.items() for part in pair]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def row(table: Table, found: dict[str, Any], before: dict[str, Any] | None) -> None:
    limit = found["rank"] + 10
    growth = ["-", "-"]
    if before is not None:
        times = [quartiles(part["ratios"])[1] for part in (before, found)]
        growth = [f"{times[1] / times[0]:.2f}", f"{found['peak'] / before['peak']:.2f}"]
    table.add(
        found["network"],
        str(found["rank"]),
        str(limit),
        spread(found["ratios"]),
        spread(found["batch_ratios"]),
        f"{found['peak'] / found['largest']:.1f}",
        f"{found['peak'] / found['alive']:.1f}",
        f"{found['peak'] / found['batch_peak']:.2f}",
        f"{found['peak'] / 1e6:.0f}",
        *growth,
        **{key: value for key, value in found.items() if key not in table.columns},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["resnet50", "vgg19"], help="constructors of torchvision")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--side", type=int, default=224, help="pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--point", nargs=2, metavar=("NETWORK", "RANK"), help="measure one point in this process")
    arguments = arguments_of(parser)
    if arguments.point:
        print(json.dumps(point(arguments.point[0], int(arguments.point[1]), arguments.side, arguments.repeats)))
        return
    if arguments.quick:
        arguments.networks, arguments.ranks, arguments.side, arguments.repeats = ["resnet50"], [8, 16], 128, 1
    table = Table(
        f"`factor`, one picture 3x{arguments.side}x{arguments.side}, random weights, {arguments.threads} thread(s)",
        (
            "network",
            "r",
            "r + 10",
            "time / forward pass",
            "time / batch of r + 10",
            "peak / largest activation",
            "peak / live activations",
            "peak / batch of r + 10",
            "peak MB",
            "time grows by",
            "memory grows by",
        ),
    )
    for network in arguments.networks:
        before: dict[str, Any] | None = None
        for rank in arguments.ranks:
            found = measured(network, rank, arguments)
            row(table, found, before)
            before = found
    save(arguments.out, [table], side=arguments.side)


if __name__ == "__main__":
    main()
