"""Gaussian attacks on the demo digits network: where the fooling power lies; the tables of docs/gaussian_attacks.md.

All rates are sampled: 400 draws for each input, with 95 % Wilson intervals over the draws, for these inputs. Time
depends on the machine; everything else repeats.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from assay.load import load_subject
from assay.moments import GaussianAttack, attack
from assay.subject import Subject


def row(*cells: object) -> None:
    """One line of a Markdown table."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def head(*cells: str) -> None:
    """The first two lines of a Markdown table."""
    print()
    row(*cells)
    row(*["---"] * len(cells))


def rate(found: GaussianAttack, noise: str) -> str:
    """A fooling rate with its interval."""
    share = found.rate(noise)
    return f"{share.rate:.3f} [{share.low:.3f}, {share.high:.3f}]"


def boxes(subject: Subject, x: Tensor, target: Tensor, sizes: Sequence[float]) -> None:
    """Boxes of equal half width for mean and deviation, non-targeted and targeted."""
    head(
        "box", "goal", "attack", "mean alone", "spread alone", "isotropic, equal energy", "isotropic, sigma = box", "s"
    )
    for size in sizes:
        for goal, wanted in (("another class", None), ("a given class", target)):
            begin = time.perf_counter()
            found = attack(subject, x, target=wanted, mean_bound=size, std_bound=size, clip=False)
            spent = time.perf_counter() - begin
            plain = isotropic(subject, x, size, wanted)
            names = ("attack", "mean alone", "spread alone", "isotropic, equal energy")
            row(size, goal, *(rate(found, name) for name in names), f"{plain:.3f}", f"{spent:.0f}")


def isotropic(subject: Subject, x: Tensor, sigma: float, target: Tensor | None, draws: int = 400) -> float:
    """Share of decisions that isotropic noise changes, or brings to the target."""
    generator = torch.Generator().manual_seed(0)
    label = subject.probe(x).argmax(1)
    open_ = torch.ones_like(label, dtype=torch.bool) if target is None else label != target
    hits = 0.0
    for _ in range(draws):
        decided = subject.probe(x + sigma * torch.randn(x.shape, generator=generator)).argmax(1)
        hit = decided != label if target is None else decided == target
        hits += float(hit[open_].float().mean()) / draws
    return hits


def zero_mean(subject: Subject, x: Tensor, sizes: Sequence[float]) -> None:
    """Noise without a mean, its deviations chosen, against isotropic noise of the same energy."""
    head("deviation at most", "objective", "chosen deviations", "isotropic, equal energy", "isotropic, sigma = box")
    for size in sizes:
        plain = isotropic(subject, x, size, None)
        for objective in ("logits", "pairwise"):
            found = attack(subject, x, mean_bound=0.0, std_bound=size, objective=objective, clip=False)
            row(size, objective, rate(found, "attack"), rate(found, "isotropic, equal energy"), f"{plain:.3f}")


def variants(subject: Subject, x: Tensor, size: float) -> None:
    """What objective, method, sparsity, smoothness and the legal range change."""
    head("variant", "attack", "mean alone", "elements with a mean", "total variation of the mean", "energy")
    settings = {
        "plain": {},
        "pairwise objective": {"objective": "pairwise"},
        "16 columns": {"rank": 16},
        "sampled objective": {"method": "sample"},
        "sparsity 1": {"sparsity": 1.0},
        "sparsity 3": {"sparsity": 3.0},
        "smoothness 0.5": {"smoothness": 0.5},
        "smoothness 2": {"smoothness": 2.0},
        "noisy inputs clipped to 0 and 1": {"clip": True},
    }
    for name, changes in settings.items():
        found = attack(subject, x, mean_bound=size, std_bound=size, **({"clip": False} | changes))
        mean = found.mean
        touched = float((mean.abs() > 0.001).float().mean())
        variation = float((mean.diff(dim=-1).abs().sum() + mean.diff(dim=-2).abs().sum()) / len(x))
        energy = float(found.energy.mean())
        row(
            name,
            rate(found, "attack"),
            rate(found, "mean alone"),
            f"{touched:.0%}",
            f"{variation:.1f}",
            f"{energy:.2f}",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=30, help="how many test digits, evenly spread")
    count = parser.parse_args().inputs
    subject = load_subject("demo")
    assert subject.data is not None
    x = subject.data.inputs[torch.linspace(0, len(subject.data) - 1, count).round().long()]
    label = subject.probe(x).argmax(1)
    target = (label + 1 + torch.arange(count) % 9) % 10
    print(f"demo digits, {count} inputs, 80 steps, lr 0.05, 64 columns, 400 draws; data in 0 to 1")
    boxes(subject, x, target, (0.1, 0.2, 0.3))
    zero_mean(subject, x, (0.3, 0.5))
    variants(subject, x, 0.1)


if __name__ == "__main__":
    main()
