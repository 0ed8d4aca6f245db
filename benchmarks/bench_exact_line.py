"""Exact kinks of O-Net's landmarks while a face moves by a fraction of a pixel: time, memory, and where the time goes.

pip install --no-deps facenet-pytorch==2.6.0 scikit-image==0.26.0

The network is MTCNN's O-Net as published (examples/onet.py), the face scikit-image's astronaut in 48 x 48 pixels, moved
by a cubic spline; the path is the straight line between the two pictures. Beside it, in the same run: less memory; and
the plain algorithm on the same network, which looks for crossings of every pair of inputs of every window in every
interval. All must give the same sum. CPU seconds of this process; memory is the peak above what it had before.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy
import torch
from _common import Table, arguments_of, save
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from assay.graph import Node
from assay.smoothness.estimators.exact_line import MEMORY, exact_line
from assay.smoothness.estimators.polyline_rules import LineDomain
from assay.smoothness.network import Network
from assay.smoothness.paths.line import Line
from assay.smoothness.paths.transform import Transform

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
SIDE = 48


def face() -> Tensor:
    """(3, 48, 48) as O-Net takes it."""
    file = distribution("scikit-image").locate_file("skimage/data/astronaut.png")
    with Image.open(str(file)) as photo:
        small = photo.convert("RGB").crop((120, 0, 310, 230)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return (torch.from_numpy(numpy.asarray(small, dtype=numpy.float64)).permute(2, 0, 1) - 127.5) / 128


def shifted(pixels: float) -> Line:
    """The line from the face, moved to the right by 0.3 pixels, to the face moved that much further.

    Pixels of 8 bits that are equal tie exactly where nothing is moved: kinks at the very start of a path.
    """
    ends = Transform(face(), "translate", 1.0).at(torch.tensor([0.3, 0.3 + pixels]))[0]
    return Line(*ends)


class Peak:
    """Peak memory of the process since the start of a block, above what it held then; Linux only."""

    bytes = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
        if not status.exists():
            yield
            return

        def read(name: str) -> int:
            line = next(line for line in status.read_text().splitlines() if line.startswith(name))
            return 1024 * int(line.split()[1])

        reset.write_text("5")
        before = read("VmRSS")
        yield
        self.bytes = read("VmHWM") - before


def timed(function: Callable[[], Any]) -> tuple[Any, float, float, int]:
    """Result, CPU seconds, seconds, bytes."""
    peak = Peak()
    with peak.watched():
        cpu, wall = time.process_time(), time.perf_counter()
        result = function()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return result, cpu, wall, peak.bytes


@contextmanager
def by_node(times: dict[str, float], rows: dict[str, int]) -> Iterator[None]:
    """Adds up the CPU seconds of every node of the walk, and of the slopes."""
    apply, sweep = LineDomain.apply, Network.sweep

    def measured_apply(self: LineDomain, node: Node, *rest: Any) -> Any:
        begin = time.process_time()
        found = apply(self, node, *rest)
        times[node.place] = times.get(node.place, 0.0) + time.process_time() - begin
        rows[node.place] = max(rows.get(node.place, 0), len(found))
        return found

    def measured_sweep(self: Network, *rest: Any, **options: Any) -> Any:
        begin = time.process_time()
        found = sweep(self, *rest, **options)
        times["slopes at midpoints"] = times.get("slopes at midpoints", 0.0) + time.process_time() - begin
        return found

    LineDomain.apply, Network.sweep = measured_apply, measured_sweep  # type: ignore[method-assign]
    try:
        yield
    finally:
        LineDomain.apply, Network.sweep = apply, sweep  # type: ignore[method-assign]


def plain(model: nn.Module, a: Tensor, b: Tensor) -> tuple[Tensor, int]:
    """The textbook algorithm for a chain of modules: SMP (K,) and the number of breakpoints."""
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    values = torch.stack([a, b])
    for module in chain(model):
        if isinstance(module, nn.PReLU):
            t, values = refined(t, values, crossings(t, values.flatten(1)))
        elif isinstance(module, nn.MaxPool2d):
            t, values = refined(t, values, ties(t, values, module))
        values = module(values)
    low = torch.nonzero(t[1:] - t[:-1] > 1e-13)[:, 0]
    middle = ((t[low] + t[low + 1]) / 2).reshape(-1, 1, 1, 1)
    parts = []
    for x in torch.lerp(a, b, middle).split(16):
        parts.append(torch.func.jvp(model, (x,), ((b - a).expand(x.shape),))[1])
    slopes = torch.cat(parts)
    return (slopes[1:] - slopes[:-1]).abs().sum(0), len(low) - 1


class Columns(nn.Module):
    """What O-Net does before its dense layer."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 2, 1).flatten(1)


def chain(model: nn.Module) -> list[nn.Module]:
    found = [m for m in model.modules() if not list(m.children())]
    place = next(i for i, m in enumerate(found) if isinstance(m, nn.Linear))
    return [*found[:place], Columns(), *found[place:]]


def refined(t: Tensor, values: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    joined = torch.cat([t, new]).unique()
    high = torch.searchsorted(t, joined).clamp(1, len(t) - 1)
    weight = ((joined - t[high - 1]) / (t[high] - t[high - 1])).reshape(-1, *[1] * (values.dim() - 1))
    return joined, torch.lerp(values[high - 1], values[high], weight)


def crossings(t: Tensor, z: Tensor) -> Tensor:
    row, unit = ((z[1:] * z[:-1]) < 0).nonzero(as_tuple=True)
    return t[row] + (t[row + 1] - t[row]) * z[row, unit] / (z[row, unit] - z[row + 1, unit])


def ties(t: Tensor, x: Tensor, pool: nn.MaxPool2d) -> Tensor:
    """Crossings of every pair of inputs of every window that are the window's maximum, interval by interval."""
    size, step = int(pool.kernel_size), int(pool.stride)
    count = pool(x[:1]).shape[-1]
    extra = (count - 1) * step + size - x.shape[-1]
    found = []
    windows = None
    for row in range(len(t)):
        padded = functional.pad(x[row], (0, max(extra, 0)) * 2, value=-1e30)
        after = padded.unfold(1, size, step).unfold(2, size, step).flatten(3).movedim(3, 0).flatten(1)
        if windows is not None:
            for i, j in itertools.combinations(range(size * size), 2):
                before, now = windows[i] - windows[j], after[i] - after[j]
                place = (before * now < 0).nonzero()[:, 0]
                share = before[place] / (before[place] - now[place])
                there = torch.lerp(windows[:, place], after[:, place], share)
                top = there.amax(0)
                kept = (there[i] >= top - 1e-9 * top.abs()) & (top > -1e29)
                found.append(t[row - 1] + (t[row] - t[row - 1]) * share[kept])
        windows = after
    return torch.cat(found)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", type=float, default=0.04, help="how far the face moves (default 0.04)")
    arguments = arguments_of(parser)
    import onet

    pixels = 0.004 if arguments.quick else arguments.pixels
    model, line = onet.landmarks().double(), shifted(pixels)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    network = Network.of(model, line.a[None])
    times: dict[str, float] = {}
    rows: dict[str, int] = {}
    title = f"O-Net, 10 landmark coordinates, {pixels:g} px"
    table = Table(title, ("algorithm", "kinks", "SMP, mean", "CPU s", "s", "peak MB"))

    def add(name: str, kinks: float, value: Tensor, cpu: float, wall: float, peak: int) -> None:
        cells = (f"{kinks:.0f}", f"{float(value.mean()):.12f}", f"{cpu:.1f}", f"{wall:.1f}", f"{peak / 2**20:.0f}")
        table.add(name, *cells, smp=value.tolist(), seconds=cpu, bytes=peak)

    for memory in (MEMORY, MEMORY // 8):
        with by_node(times, rows):
            found, *cost = timed(lambda memory=memory: exact_line(network, line, memory=memory))
        add(f"exact_line, {memory / 2**20:.0f} MB", found.count, found.value, *cost)
        if memory == MEMORY:
            parts = Table("where the time goes", ("node", "rows", "CPU s"))
            for place, seconds in sorted(times.items(), key=lambda item: -item[1])[:10]:
                parts.add(place, str(rows.get(place, found.samples)), f"{seconds:.2f}", seconds=seconds)
            shares = Table("part of every layer", ("layer", "share of SMP"))
            for place, part in found.by_layer.items():
                shares.add(place, f"{100 * float(part.sum() / found.value.sum()):.1f} %")
            print()
    (value, kinks), *cost = timed(lambda: plain(model, line.a, line.b))
    add("all pairs, all windows", kinks, value, *cost)
    off = float((value / found.value - 1).abs().max())
    print(f"\nThe two algorithms differ by {off:.1g} of the sum.")
    save(arguments.out, [table, parts, shares], pixels=pixels)


if __name__ == "__main__":
    with torch.no_grad():
        main()
