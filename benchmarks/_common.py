"""What the benchmarks of the moments share: networks, training, references, CPU time and tables.

Every number compares two things measured in one process. CPU time is the process's own, over all its threads, so other
work on the machine disturbs it little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.load import load_subject
from assay.load.demo import digits_split
from assay.moments import Moments, propagate
from assay.moments.guided import sobol_normal
from assay.subject import Subject

Value = TypeVar("Value")
OUT = Path(__file__).parent / "out"


def arguments_of(parser: argparse.ArgumentParser, given: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse, with the options that every benchmark has, and set the number of threads."""
    parser.add_argument("--quick", action="store_true", help="a few minutes' work cut to seconds, to see that it runs")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--out", type=Path, help="file for the rows, as JSON")
    arguments = parser.parse_args(given)
    torch.set_num_threads(arguments.threads)
    return arguments


class Table:
    """A Markdown table printed row by row, whose rows can be saved with their numbers in full."""

    def __init__(self, title: str, columns: Sequence[str]) -> None:
        self.title, self.columns = title, tuple(columns)
        self.rows: list[dict[str, Any]] = []
        print(f"\n**{title}**\n", flush=True)
        _line(self.columns)
        _line(["---"] * len(self.columns))

    def add(self, *cells: str, **numbers: Any) -> None:
        """One row as printed, and the numbers behind it."""
        _line(cells)
        self.rows.append(dict(zip(self.columns, cells, strict=True)) | numbers)


def _line(cells: Sequence[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def save(file: Path | None, tables: Sequence[Table], **facts: Any) -> None:
    """All rows as JSON, with the versions and threads that made them."""
    if file is None:
        return
    facts |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"facts": facts, "tables": [{"title": table.title, "rows": table.rows} for table in tables]}
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def cpu_time(function: Callable[[], Value], *, repeats: int = 3, enough: float = 2.0) -> tuple[Value, float]:
    """Result and median CPU seconds; slow functions, from `enough` seconds on, run once and not warm."""
    times: list[float] = []
    while True:
        sobol_normal.cache_clear()  # drawing points is part of the work
        begin = time.process_time()
        result = function()
        times.append(time.process_time() - begin)
        if len(times) > repeats or sum(times) > enough:
            return result, statistics.median(times[1:] or times)  # the first run warms caches up


def quartiles(values: Sequence[float] | Tensor) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    flat = torch.as_tensor(values, dtype=torch.float64).flatten()
    low, middle, high = torch.quantile(flat, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    return low, middle, high


def spread(values: Sequence[float] | Tensor, digits: int = 3) -> str:
    """``median [lower - upper quartile]``."""
    low, middle, high = quartiles(values)
    return f"{middle:.{digits}g} [{low:.{digits}g} - {high:.{digits}g}]"


@dataclass(frozen=True)
class Reference:
    """What many draws say: (B, m) each, float64.

    Attributes:
        mean: of the outputs.
        variance: of the outputs.
        noise: square of the mean's standard error over the variance; its average over outputs is the noise floor.
    """

    mean: Tensor
    variance: Tensor
    noise: Tensor

    def deviations(self, mean: Tensor) -> Tensor:
        """(B, m) errors of a mean in output deviations, with the reference's own noise still in them."""
        return (mean.double() - self.mean) / self.variance.sqrt()

    def squared_error(self, mean: Tensor) -> Tensor:
        """(B,) mean squared error in output variances, the reference's noise taken off; may fall below 0 by chance."""
        return (self.deviations(mean).square() - self.noise).mean(1)

    @property
    def floor(self) -> float:
        """Root mean square of the noise, in output deviations: smaller errors cannot be seen."""
        return float(self.noise.mean().sqrt())


def reference_of(
    subject: Subject, x: Tensor, sigma: float, samples: int, *, outputs: Tensor | None = None, seed: int = 1000
) -> Reference:
    """Sampling with a control variate, with a seed that no measured method uses."""
    found = propagate(subject, x, sigma**2, method="mc_cv", samples=samples, seed=seed, outputs=outputs)
    assert found.standard_error is not None
    variance = found.variance.double()
    return Reference(found.mean.double(), variance, found.standard_error.double().square() / variance)


@dataclass(frozen=True)
class Case:
    """A network and inputs to measure it on."""

    name: str
    subject: Subject
    inputs: Tensor

    def propagate(self, sigma: float, method: str, **options: Any) -> Moments:
        """Moments under independent noise of one deviation."""
        return propagate(self.subject, self.inputs, sigma**2, method=method, **options)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def digits_cnn() -> nn.Sequential:
    """Two convolutions, two dense layers: conv 12, max pool, relu, conv 24, max pool, relu, 64, 10."""
    first = [nn.Conv2d(1, 12, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
    second = [nn.Conv2d(12, 24, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 10))


def digits_case(
    name: str, build: Callable[[], nn.Module], inputs: int, *, epochs: int = 40, flat: bool = True, seed: int = 0
) -> Case:
    """A network trained on the digits (Adam, 1e-3, batches of 64), and test digits evenly spread; seeds are fixed."""
    split = digits_split()
    torch.manual_seed(seed)
    network = build()
    train_x, test_x = (x.flatten(1) if flat else x for x in (split.train_inputs, split.test_inputs))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(train_x)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(network(train_x[rows]), split.train_targets[rows]).backward()
            optimizer.step()
    network.eval()
    with torch.no_grad():
        right = float((network(test_x).argmax(1) == split.test_targets).float().mean())
    print(f"{name}: {f'trained, {right:.1%} of test digits right' if epochs else 'random weights'}", flush=True)
    return case_of(name, Subject.from_model(network, test_x), inputs)


def demo_case(inputs: int) -> Case:
    """The built-in convolutional network on digits."""
    return case_of("demo CNN", load_subject("demo"), inputs)


def case_of(name: str, subject: Subject, inputs: int) -> Case:
    """Some of the subject's inputs, evenly spread; its graph is captured here, once."""
    assert subject.data is not None
    assert subject.graph is not None
    picked = torch.linspace(0, len(subject.data) - 1, inputs).round().long()
    return Case(name, subject, subject.data.inputs[picked])
