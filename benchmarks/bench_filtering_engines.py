"""Filtering engines against the naive loop, as whole processes: imports, capture and attack are in the time.

The naive loop is what one writes without a library: for every weight and each of its 75 thresholds copy the network,
load the filtered weight, run everything in batches of 100. The engine's process asks assay for the same counts of
right answers, which are compared. Pairs of processes run one after the other, with one thread each; ratios are of CPU
seconds (user and system) and of wall time.

    python benchmarks/bench_filtering_engines.py                      all cases, three pairs each
    python benchmarks/bench_filtering_engines.py --case digits --engine incremental --pairs 5
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

THRESHOLDS, EPSILON, BATCH = 25, 0.1, 100


class Block(nn.Module):
    """Two convolutions and a skip, as in ResNet-18."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or inputs != width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, width, H / stride, W / stride)."""
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def network(case: str) -> nn.Module:
    """The network of a case, untrained."""
    if case == "resnet18":
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
        inputs = 64
        for width in (64, 128, 256, 512):
            layers += [Block(inputs, width, 1 + (width > 64)), Block(width, width, 1)]
            inputs = width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    if case == "demo":
        from assay.load.demo import DigitsNet

        return DigitsNet()
    convolutions = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()]
    pooled = [nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*convolutions, *pooled, nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def prepare(case: str, samples: int, file: Path) -> None:
    """Write weights and data of a case: trained on the digits, random for ResNet-18."""
    torch.manual_seed(0)
    model = network(case)
    if case == "resnet18":
        x, y = torch.rand(samples, 3, 32, 32), torch.randint(10, (samples,))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        model.train()
        with torch.no_grad():
            model(x[:100])  # statistics of the data, so that activations have one scale
    else:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        x, y = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)
        optimiser = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(15):
            for rows in torch.randperm(1297).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimiser.step()
    torch.save({"state": model.state_dict(), "x": x[:samples], "y": y[:samples]}, file)


def naive(case: str, file: Path, adaptive: bool, every: int, masks: int) -> dict[str, list[int]]:
    """Counts of right answers by weight, from a loop without assay (but for the demo's class)."""
    import copy

    def fgsm(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = x.clone().requires_grad_(True)
        loss = nn.functional.cross_entropy(model(x), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        return (x + EPSILON * gradient.sign()).clamp(0, 1).detach()

    def right(model: nn.Module, x: Tensor, y: Tensor) -> int:
        with torch.no_grad():
            return sum(
                int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(BATCH), y.split(BATCH), strict=True)
            )

    saved = torch.load(file)
    x, y = saved["x"], saved["y"]
    model = network(case).eval()
    model.load_state_dict(saved["state"])
    static = torch.cat([fgsm(model, a, b) for a, b in zip(x.split(BATCH), y.split(BATCH), strict=True)])
    counts: dict[str, list[int]] = {}
    names = [name for name, p in model.named_parameters() if p.dim() > 1]
    for name in names[::every]:
        weight = saved["state"][name]
        low, high = float(weight.min()), float(weight.max())
        rising = torch.linspace(0, 1, THRESHOLDS, dtype=torch.float64) * (high - low) + low
        half = (high - low) / (2 * THRESHOLDS)
        keep = [weight.double() > t for t in rising] + [weight.double() < t for t in rising.flip(0)]
        keep += [(weight.double() < t - half) | (weight.double() >= t + half) for t in rising]
        found: list[int] = []
        for mask in keep[:: len(keep) // masks]:
            filtered = copy.deepcopy(model)
            state = dict(saved["state"])
            state[name] = weight * mask
            filtered.load_state_dict(state)
            if adaptive:
                pairs = zip(x.split(BATCH), y.split(BATCH), strict=True)
                found.append(right(filtered, torch.cat([fgsm(filtered, a, b) for a, b in pairs]), y))
            else:
                found += [right(filtered, x, y), right(filtered, static, y)]
        counts[name] = found
    return counts


def engine(case: str, file: Path, adaptive: bool, every: int, masks: int, name: Any) -> dict[str, list[int]]:
    """The same counts from an engine, every distinct filtered tensor evaluated once."""
    from assay.attacks import attack_of, attacked
    from assay.filtering import distinct_masks, select_units
    from assay.filtering.engines import engine_of
    from assay.subject import Data, Subject

    saved = torch.load(file)
    x, y = saved["x"], saved["y"]
    model = network(case)
    model.load_state_dict(saved["state"])
    subject = Subject.from_model(model, Data(x, y, bounds=(0.0, 1.0)))
    attack = attack_of("fgsm", epsilon=EPSILON)
    static = attacked(attack, subject, x, y, batch_size=BATCH)
    running = engine_of(subject, name)
    parameters = dict(subject.model.named_parameters())
    counts: dict[str, list[int]] = {}
    for unit in select_units(subject)[::every]:
        merged = distinct_masks(parameters[unit.parameter])
        cells = torch.cat([merged.rows[filter] for filter in ("high", "low", "pulse")]).tolist()
        cells = cells[:: len(cells) // masks]
        rows = sorted(set(cells))
        weights = [merged.filtered(row) for row in rows]
        if adaptive:
            outputs = running.attacked(unit, weights, x, y, attack)
            found = [[int((logits.argmax(1) == y).sum())] for logits in outputs]
        else:
            both = (running.outputs(unit, weights, inputs) for inputs in (x, static))
            found = [[int((logits.argmax(1) == y).sum()) for logits in pair] for pair in zip(*both, strict=True)]
        by_row = dict(zip(rows, found, strict=True))
        counts[unit.parameter] = [count for row in cells for count in by_row[row]]
    return counts


def child(arguments: list[str]) -> tuple[dict[str, list[int]], float, float]:
    """Run this file as one process of one thread: counts, CPU seconds, wall seconds."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout.splitlines()[-1]), cpu, wall


def compare(case: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Pairs of processes of one case, and their ratios."""
    name = case.partition(":")[0]
    samples, every, masks = (
        (arguments.images, arguments.every, arguments.masks) if name == "resnet18" else (1797, 1, 75)
    )
    if arguments.quick:
        samples, every, masks = min(samples, 100), max(every, 2), min(masks, 15)
    file = folder / f"{name}.pt"
    prepare(name, samples, file)
    common = ["--child", "--case", case, "--file", str(file), "--every", str(every), "--masks", str(masks)]
    ratios: list[tuple[float, float]] = []
    differing = 0
    for pair in range(1 if arguments.quick else arguments.pairs):
        slow, slow_cpu, slow_wall = child([*common, "--engine", "loop"])
        quick, quick_cpu, quick_wall = child([*common, "--engine", arguments.engine])
        assert slow.keys() == quick.keys()
        cells = [(a, b) for weight in slow for a, b in zip(slow[weight], quick[weight], strict=True)]
        differing = sum(a != b for a, b in cells)
        ratios.append((slow_cpu / quick_cpu, slow_wall / quick_wall))
        print(
            f"{case:18s} pair {pair + 1}: loop {slow_cpu:7.1f} s CPU, {slow_wall:7.1f} s wall; {arguments.engine} "
            f"{quick_cpu:6.1f} s CPU, {quick_wall:6.1f} s wall; ratio {ratios[-1][0]:.2f} CPU, "
            f"{ratios[-1][1]:.2f} wall; {differing} of {len(cells)} counts differ",
            flush=True,
        )
    cpu = [ratio for ratio, _ in ratios]
    print(
        f"{case:18s} CPU ratio {median(cpu):.2f} ({min(cpu):.2f} to {max(cpu):.2f}), wall ratio "
        f"{median(wall for _, wall in ratios):.2f}; {samples} images, every {every}. weight, {masks} thresholds",
        flush=True,
    )
    return {"case": case, "cpu": cpu, "wall": [wall for _, wall in ratios], "differing": differing, "samples": samples}


def main() -> None:
    """Compare, or be one of the compared processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", help="digits, demo or resnet18; with :adaptive, attacked anew (default: all)")
    parser.add_argument("--engine", default="auto", help="auto, incremental, batched or naive")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--images", type=int, default=100, help="of ResNet-18")
    parser.add_argument("--every", type=int, default=5, help="take every n-th of the 21 weights of ResNet-18")
    parser.add_argument(
        "--masks", type=int, default=25, help="thresholds of ResNet-18, of 75; the other cases take all"
    )
    parser.add_argument("--quick", action="store_true", help="one pair on little data, to see that it runs")
    parser.add_argument("--out", type=Path, help="file for the ratios, as JSON")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.child:
        name, _, mode = arguments.case.partition(":")
        settings = (name, arguments.file, mode == "adaptive", arguments.every, arguments.masks)
        print(json.dumps(naive(*settings) if arguments.engine == "loop" else engine(*settings, arguments.engine)))
        return
    cases = ["digits", "demo", "resnet18", "digits:adaptive", "demo:adaptive", "resnet18:adaptive"]
    with tempfile.TemporaryDirectory() as folder:
        found = [compare(case, arguments, Path(folder)) for case in ([arguments.case] if arguments.case else cases)]
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        facts = {"torch": torch.__version__, "engine": arguments.engine, "threads": 1}
        arguments.out.write_text(json.dumps({"facts": facts, "cases": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
