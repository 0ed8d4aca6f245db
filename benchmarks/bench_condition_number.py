"""Condition numbers of a batch: this library's two methods against a dense Jacobian (torch.func.jacrev) and its SVD.

Every case runs all methods in one process, in turn, and prints time relative to the dense way: median [min - max] over
repeats, so that a busy machine slows all of them alike. Above 1 means faster than dense.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from assay.load.demo import DigitsNet, digits_split
from assay.sensitivity import condition_numbers


def wide_net(outputs: int) -> nn.Module:
    """A conv net on (3, 32, 32), random weights, with as many outputs as asked."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 64, outputs),
    ).eval()


def dense(model: nn.Module, x: Tensor) -> Tensor:
    """||J||_2 of every sample from the full Jacobian."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda sample: model(sample[None])[0]))(x)
    return torch.linalg.svdvals(jacobian.flatten(2))[:, 0]


def compare(name: str, model: nn.Module, x: Tensor, repeats: int) -> None:
    methods: dict[str, Callable[[], Tensor]] = {
        "jacrev + SVD": lambda: dense(model, x),
        "rows": lambda: condition_numbers(model, x, kinds=("worst",), method="rows").jacobian_norm,
        "lanczos": lambda: condition_numbers(model, x, kinds=("worst",), method="lanczos").jacobian_norm,
    }
    values = {label: method().double() for label, method in methods.items()}  # also warms everything up
    times: dict[str, list[float]] = {label: [] for label in methods}
    for _ in range(repeats):
        for label, method in methods.items():
            begin = time.perf_counter()
            method()
            times[label].append(time.perf_counter() - begin)
    truth = values["jacrev + SVD"]
    print(f"{name}: {len(x)} inputs, {statistics.median(times['jacrev + SVD']):.3f} s dense")
    for label in ("rows", "lanczos"):
        ratios = [slow / fast for slow, fast in zip(times["jacrev + SVD"], times[label], strict=True)]
        error = float((values[label] / truth - 1).abs().max())
        print(
            f"  {label:8s} speed {statistics.median(ratios):6.2f} x dense [{min(ratios):.2f} - {max(ratios):.2f}], "
            f"largest relative difference {error:.1e}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    compare("digits net, 10 outputs", DigitsNet().eval(), digits_split().test_inputs[:64], arguments.repeats)
    for outputs, inputs in ((10, 4), (64, 4), (200, 4), (1000, 1)):
        x = torch.rand(inputs, 3, 32, 32)
        compare(f"conv net 3x32x32, {outputs} outputs", wide_net(outputs), x, arguments.repeats)


if __name__ == "__main__":
    main()
