"""Batched DeepFool against those of foolbox and torchattacks in the same process: CPU time, median distance, failures.

Each ratio is CPU time of ours over theirs right after it: median [quartiles] over repetitions. All get the samples that
the network has right, and their labels. The last table goes on to the nearest points of the boundary.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _common import Table, arguments_of, save, spread
from torch import Tensor, nn

from assay.attacks import deepfool, target_of
from assay.boundary.points import boundary_point
from assay.load import load_subject

Case = tuple[str, nn.Module, Tensor, Tensor]
Attack = Callable[[], Tensor]
FREE = (-100.0, 100.0)  # legal range that never binds, for peers that ask for one


def cases(count: int) -> list[Case]:
    """The digits demo and, where its weights are there, the Fashion-MNIST networks of the tests."""
    subject = load_subject("demo")
    assert subject.data is not None
    assert subject.data.targets is not None
    found = [("demo CNN, digits", target_of(subject), subject.data.inputs, subject.data.targets)]
    sys.path.insert(0, str(Path(__file__).parents[1]))
    try:
        fashion = importlib.import_module("tests.support.fashion")
    except ModuleNotFoundError:
        print("no tests/support/fashion.py: digits only")
    else:
        x, y = fashion.fashion_pictures()
        found += [
            (f"CNN, {act}, Fashion-MNIST", target_of(fashion.fashion_cnn(act)), x, y.long()) for act in ("relu", "silu")
        ]
    kept: list[Case] = []
    for name, network, x, y in found:
        with torch.no_grad():
            right = network(x).argmax(1) == y
        kept.append((name, network, x[right][:count], y[right][:count]))
    return kept


def distance(change: Tensor, norm: str) -> Tensor:
    flat = change.flatten(1)
    return flat.norm(dim=1) if norm == "l2" else flat.abs().amax(1)


def seconds(function: Attack) -> tuple[Tensor, float]:
    begin = time.process_time()
    result = function()
    return result, time.process_time() - begin


def of_foolbox(network: nn.Module, x: Tensor, y: Tensor, norm: str, bounds: tuple[float, float]) -> Attack | None:
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    try:
        foolbox = importlib.import_module("foolbox")
    except ModuleNotFoundError:
        return None
    attack = foolbox.attacks.L2DeepFoolAttack() if norm == "l2" else foolbox.attacks.LinfDeepFoolAttack()
    model = foolbox.PyTorchModel(network, bounds=bounds, device="cpu")
    return lambda: attack(model, x, y, epsilons=None)[0]


def of_torchattacks(network: nn.Module, x: Tensor, y: Tensor) -> Attack | None:
    try:
        torchattacks = importlib.import_module("torchattacks")
    except ModuleNotFoundError:
        return None
    attack = torchattacks.DeepFool(network)
    attack.set_device(x.device)
    return lambda: attack(x, y)


def compare(case: Case, table: Table, repeats: int) -> None:
    name, network, x, y = case
    for norm in ("l2", "linf"):
        for bounds in (FREE, (0.0, 1.0)):
            ours: Attack = lambda norm=norm, bounds=bounds: deepfool(network, x, y, norm=norm, bounds=bounds)  # noqa: E731
            peers = {"foolbox": of_foolbox(network, x, y, norm, bounds)}
            if norm == "l2" and bounds != FREE:  # it clamps to [0, 1], always
                peers["torchattacks"] = of_torchattacks(network, x, y)
            for peer, theirs in peers.items():
                if theirs is None:
                    continue
                many = repeats if peer == "foolbox" else 1
                ratios: list[float] = []
                for repeat in range(many + 1):
                    a, first = seconds(ours)
                    b, second = seconds(theirs)
                    if repeat or many == 1:  # the first round warms up
                        ratios.append(first / second)
                with torch.no_grad():
                    failed = [float((network(each).argmax(1) == y).float().mean()) for each in (a, b)]
                medians = [float(distance(each - x, norm).median()) for each in (a, b)]
                box = "none" if bounds == FREE else "[0, 1]"
                table.add(
                    name, norm, box, peer, spread(ratios), f"{medians[0]:.4f}", f"{medians[1]:.4f}",
                    f"{failed[0]:.1%}", f"{failed[1]:.1%}", ratios=ratios, medians=medians, failed=failed,
                )  # fmt: skip


def nearest(case: Case, table: Table) -> None:
    name, network, x, _ = case
    for norm in ("l2", "linf"):
        for bounds in (None, (0.0, 1.0)):
            for starts in (1, 2):
                begin = time.process_time()
                found = boundary_point(network, x, norm=norm, bounds=bounds, starts=starts)
                spent = (time.process_time() - begin) / len(x)
                share = found.distance / found.first_distance
                table.add(
                    name, norm, "none" if bounds is None else "[0, 1]", str(starts), f"{1e3 * spent:.1f}",
                    f"{float(found.first_distance.median()):.4f}", f"{float(found.distance.median()):.4f}",
                    spread(share), f"{float(found.cosine.median()):.4f}", f"{float(found.residual.max()):.1e}",
                    share=share.tolist(),
                )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = arguments_of(parser)
    count, repeats = (20, 1) if arguments.quick else (arguments.samples, arguments.repeats)
    networks = cases(count)
    columns = ("network", "norm", "box", "peer", "time, ours / theirs", "median, ours", "median, theirs")
    attacks = Table("DeepFool", (*columns, "not fooled, ours", "not fooled, theirs"))
    for case in networks:
        compare(case, attacks, repeats)
    points = Table(
        "Boundary points",
        ("network", "norm", "box", "starts", "ms per sample", "DeepFool", "refined", "ratio", "cosine", "residual"),
    )
    for case in networks:
        nearest(case, points)
    save(arguments.out, (attacks, points), samples=count)


if __name__ == "__main__":
    main()
