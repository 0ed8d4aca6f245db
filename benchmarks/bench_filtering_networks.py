"""Synaptic filtering, end to end, of the four architectures of Pravin, Martino, Nicosia, Ojha (2024) on real pictures.

Networks trained by `tools/train_filtering_networks.py` on Fashion-MNIST (and, with --cifar FILE, on CIFAR-10), the
published CIFAR ResNet of the same file, and SqueezeNet v1.1 with its ImageNet weights on --photos FOLDER. Every weight
tensor, three filters, 25 thresholds, on clean pictures and on pictures attacked once (FGSM, epsilon chosen so that half
of the accuracy is left); cells that look antifragile are attacked anew through every filtered network. Then the scores
are compared over epochs, seeds, data sets and architectures.

Every sweep is written to --out as soon as it is done, and not run again when it is there;
`tools/make_filtering_page.py` makes the tables of docs/filtering_results.md from these files.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from _common import Table, arguments_of
from _filtering_networks import (
    EXAMPLES,
    FASHION,
    FOLDER,
    TITLES,
    Pictures,
    cifar,
    facts_of,
    fashion,
    trained,
    weights_file,
)
from torch import Tensor

from assay.filtering.analysis import assembled, configured, job_of
from assay.filtering.comparison import Match, compare, labelled
from assay.filtering.result import FilteringResult
from assay.filtering.scores import SPLITS as ATTACKED_OR_NOT
from assay.load import load_subject
from assay.results.atomic import write_atomic
from assay.subject import Data, Subject
from assay.sweep import run

PHOTO_SIDE = 128  # of 227: a third of the operations; accuracy suffers, and is stated
TAU = 0.02


@dataclass(frozen=True)
class Case:
    """One sweep.

    Attributes:
        architecture: name in `TITLES`.
        data: ``fashion``, ``cifar`` or ``photos``.
        images: number of test pictures.
        epoch: checkpoint; 0 for published weights.
        seed: of the training.
        main: shown in full; others only serve comparisons, and are attacked once only.
        screen: a filter of a unit is attacked anew where its static difference is above this; large for large networks.
    """

    architecture: str
    data: str
    images: int
    epoch: int = 0
    seed: int = 0
    main: bool = True
    screen: float = 0.02

    @property
    def key(self) -> str:
        """Name of the file."""
        return f"{self.architecture}-{self.data}" + (f"-seed{self.seed}-epoch{self.epoch}" if self.epoch else "")

    @property
    def data_title(self) -> str:
        titles = {"fashion": "Fashion-MNIST", "cifar": "CIFAR-10", "photos": "ImageNet photos"}
        return titles[self.data] + (f", epoch {self.epoch}, seed {self.seed}" if not self.main else "")


CASES = (
    Case("squeezenet1_1", "fashion", 300, 9),
    Case("resnet18", "fashion", 150, 6, screen=0.05),
    Case("shufflenet_v2_x1_0", "fashion", 150, 8, screen=0.05),
    Case("resnet50", "fashion", 80, 4, screen=0.1),
    Case("cifar_resnet", "cifar", 300),
    Case("squeezenet1_1", "photos", 80, screen=0.1),
    Case("resnet18", "cifar", 100, 6, screen=0.1),
    Case("shufflenet_v2_x1_0", "cifar", 100, 10, screen=0.1),
    Case("squeezenet1_1", "fashion", 100, 3, main=False),
    *(Case("resnet18", "fashion", 100, epoch, main=False) for epoch in (1, 3)),
    *(Case("shufflenet_v2_x1_0", "fashion", 100, epoch, main=False) for epoch in (2, 4)),
    *(Case("resnet18", "fashion", 100, 3, seed, main=False) for seed in (1, 2)),
    *(Case("shufflenet_v2_x1_0", "fashion", 100, 4, seed, main=False) for seed in (1, 2)),
)


@dataclass(frozen=True)
class Sources:
    """Where pictures and weights are."""

    fashion_folder: Path
    cifar_file: Path | None
    photos: Path | None
    weights: Path

    @cached_property
    def fashion(self) -> Pictures:
        return fashion(self.fashion_folder)

    @cached_property
    def cifar(self) -> Pictures:
        assert self.cifar_file is not None
        return cifar(self.cifar_file)

    def missing(self, case: Case) -> str:
        """What is not there, empty when everything is."""
        if case.epoch and not weights_file(case.architecture, case.data, case.seed, case.epoch, self.weights).exists():
            return "not trained: python tools/train_filtering_networks.py"
        if case.data == "fashion":
            return "" if self.fashion_folder.is_dir() else f"no folder {self.fashion_folder}"
        place = self.cifar_file if case.data == "cifar" else self.photos
        return "" if place is not None and place.exists() else "pictures not given"

    def subject(self, case: Case, images: int) -> Subject:
        """Model and test pictures in [0, 1]."""
        title = TITLES[case.architecture]
        if case.data == "photos":
            assert self.photos is not None
            subject = load_subject(
                f"{EXAMPLES / 'squeezenet.py'}:load", trust=True, preprocessing="imagenet-bgr-255", data=self.photos
            )
            data = photos(subject, self.photos, images)
            return replace(subject, data=data, example=data.inputs[:2], name=title)
        pictures = self.fashion if case.data == "fashion" else self.cifar
        x, y = pictures.testing(images)
        data = Data(x, y, name=case.data, bounds=(0.0, 1.0))
        if case.epoch:
            model = trained(case.architecture, case.data, case.seed, case.epoch, self.weights)
            return Subject.from_model(model, data, name=title)
        subject = load_subject(f"{EXAMPLES / 'cifar_resnet.py'}:load", trust=True)
        twice = torch.nn.Sequential(Scaled(), subject.model)
        return Subject.from_model(twice, data, name=title)


class Scaled(torch.nn.Module):
    """From [0, 1] to [-1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 1


def photos(subject: Subject, folder: Path, count: int) -> Data:
    """Photos named by the number of their class, made smaller."""
    assert subject.data is not None
    names = sorted(file.stem for file in folder.iterdir() if file.stem.isdigit())
    assert len(names) == len(subject.data)
    picked = torch.linspace(0, len(names) - 1, min(count, len(names))).round().long()
    x = subject.data.inputs[picked]
    x = torch.nn.functional.interpolate(x, size=(PHOTO_SIDE, PHOTO_SIDE), mode="bilinear", antialias=True).clamp(0, 1)
    return Data(x, torch.tensor([int(name) for name in names])[picked], name="photos", bounds=(0.0, 1.0))


# -------------------------------------------------------------------------------------------------------------- sweep


def sweep(case: Case, sources: Sources, images: int, n: int, kept: Path | None, workers: int) -> dict[str, Any]:
    """Run one sweep and say everything about it in plain values."""
    subject = sources.subject(case, images)
    assert subject.data is not None
    resumed = kept is not None and kept.exists()
    begin = processor_seconds()
    config = configured(n=n, inputs=images, mode="screen" if case.main else "static", tau=case.screen, seed=0)
    job = job_of(subject, config)
    work = sum(item.cost for item in job.items(1, {}))
    print(f"{case.key}: {work:.3g} operations before the screen", flush=True)
    done = run(job, directory=kept, workers=workers)
    result = assembled(job, done).rescored(tau=TAU)
    seconds = processor_seconds() - begin
    facts = facts_of(case.architecture, case.data, case.seed, case.epoch, sources.weights) if case.epoch else {}
    counts = {
        kind: sum(len(done[name]["rows"]) for name in done if name.startswith(kind)) for kind in ("static", "adaptive")
    }
    return asdict(case) | {
        "key": case.key,
        "title": TITLES[case.architecture],
        "data": case.data_title,
        "images": len(subject.data),
        "shape": list(subject.data.inputs.shape[1:]),
        "facts": dict(facts),
        "clean": float(result.baseline.clean.mean()),
        "adversarial": float(result.baseline.adversarial.mean()),
        "epsilon": result.epsilon,
        "tau": TAU,
        "filters": [*config.filters, "mean"],
        "n": n,
        "networks": counts["static"],
        "attacked_anew": counts["adaptive"],
        "operations": work,
        "seconds": None if resumed else seconds,  # what an earlier process spent is not known
        "torch": torch.__version__,
        "units": list(result.units),
        "cells": list(cells(result)),
        "gains": [{"unit": unit} | asdict(gain) for unit, gain in result.gains(attack="static").items()],
        "warnings": sorted({warning for scores in result.scores.values() for warning in scores.warnings}),
    }


def processor_seconds() -> float:
    """CPU time of this process and of the workers that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def cells(result: FilteringResult) -> Iterator[dict[str, Any]]:
    """All scores; the mean of the adaptive attack only where it is over all filters."""
    for record in result.records():
        whole = len(result.adaptive.get(record["unit"], ())) == len(result.config.filters)
        if record["attack"] != "adaptive" or record["filter"] != "mean" or whole:
            yield record | {"attack": "static" if record["attack"] == "none" else record["attack"]}


# --------------------------------------------------------------------------------------------------------- comparisons

FASHION_RUNS = ("resnet18-fashion", "shufflenet_v2_x1_0-fashion")
GROUPS: tuple[tuple[str, str, Match, tuple[str, ...]], ...] = (
    *(
        ("epochs", TITLES[name.split("-")[0]], "name", tuple(f"{name}-seed0-epoch{epoch}" for epoch in epochs))
        for name, epochs in zip((*FASHION_RUNS, "squeezenet1_1-fashion"), ((1, 3, 6), (2, 4, 8), (3, 9)), strict=True)
    ),
    *(
        ("seeds", TITLES[name.split("-")[0]], "name", tuple(f"{name}-seed{seed}-epoch{epoch}" for seed in range(3)))
        for name, epoch in zip(FASHION_RUNS, (3, 4), strict=True)
    ),
    ("data", "ResNet-18", "name", ("resnet18-fashion-seed0-epoch6", "resnet18-cifar-seed0-epoch6")),
    (
        "data",
        "ShuffleNet V2 x1.0",
        "name",
        ("shufflenet_v2_x1_0-fashion-seed0-epoch8", "shufflenet_v2_x1_0-cifar-seed0-epoch10"),
    ),
    ("data", "SqueezeNet v1.1", "name", ("squeezenet1_1-fashion-seed0-epoch9", "squeezenet1_1-photos")),
    (
        "architectures",
        "those on Fashion-MNIST, by relative depth",
        "depth",
        tuple(case.key for case in CASES if case.main and case.data == "fashion"),
    ),
)


def compared(sweeps: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every group of which at least two sweeps are there."""
    for kind, what, match, keys in GROUPS:
        there = [key for key in keys if key in sweeps]
        if len(there) < 2:
            continue
        splits: dict[str, Any] = {}
        for split in (*ATTACKED_OR_NOT, "difference"):
            given = {key: labelled(sweeps[key]["cells"], split=split, attack="static") for key in there}
            found = compare(given, match=match)
            splits[split] = {
                "pairs": found.pair_records(),
                "alpha": None if math.isnan(found.alpha) else found.alpha,
                "units": len(found.units),
                "in_all": len(found.in_all),
                "agreement": found.agreement,
            }
        yield {"kind": kind, "what": what, "match": match, "networks": there, "splits": splits}


# --------------------------------------------------------------------------------------------------------------- main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, default=FASHION, help="folder with the four files of Fashion-MNIST")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 pictures as .npz; without it those sweeps are left out")
    parser.add_argument("--photos", type=Path, help="folder of photos NNN.jpg of class NNN; without it left out")
    parser.add_argument("--weights", type=Path, default=FOLDER, help="folder of the trained weights")
    parser.add_argument("--only", nargs="+", default=[""], help="parts of names of sweeps")
    parser.add_argument("--workers", type=int, default=1, help="processes; networks from examples need 1")
    parser.set_defaults(out=FOLDER)
    arguments = arguments_of(parser)
    if arguments.quick and arguments.out == FOLDER:
        arguments.out = FOLDER / "quick"
    sources = Sources(arguments.fashion, arguments.cifar, arguments.photos, arguments.weights)
    columns = ("network", "data", "images", "clean", "attacked", "epsilon", "networks", "attacked anew", "CPU s")
    table = Table("Sweeps", columns)
    write_atomic(arguments.out / "plan.json", json.dumps([case.key for case in CASES]) + "\n")
    everything: dict[str, dict[str, Any]] = {}
    for case in CASES:
        file = arguments.out / f"{case.key}.json"
        reason = sources.missing(case)
        if not any(part in case.key for part in arguments.only) or (reason and not file.exists()):
            if reason:
                print(f"{case.key} left out: {reason}", flush=True)
            continue
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
        else:
            images, n = (16, 3) if arguments.quick else (case.images, 25)
            kept = None if arguments.quick else arguments.out / "runs" / case.key
            found = sweep(case, sources, images, n, kept, arguments.workers)
            write_atomic(file, json.dumps(found, indent=1) + "\n")
        everything[case.key] = found
        numbers = [f"{found[name]:.3f}" for name in ("clean", "adversarial")] + [f"{found['epsilon']:.4f}"]
        counts = [f"{found[name] or 0:.0f}" for name in ("networks", "attacked_anew", "seconds")]
        table.add(found["title"], found["data"], str(found["images"]), *numbers, *counts)
    groups = list(compared(everything))
    write_atomic(arguments.out / "comparisons.json", json.dumps(groups, indent=1) + "\n")
    for group in groups:
        print(f"\n{group['kind']}, {group['what']}: {group['splits']['adversarial']['agreement']}", flush=True)


if __name__ == "__main__":
    main()
