"""This library's moments against peers', on two small trained networks, in one run.

The peers are their published formulas, written anew: two-stage linearisation with the zero-mean covariance (Bibi,
Alfadly, Ghanem, CVPR 2018), stable distribution propagation (Petersen et al., ICLR 2024: f(mean) and J S J^T), and
independent units (assumed density filtering; Gast and Roth, CVPR 2018). Where the PyPI package `distprop` is installed,
its own code runs too (`pip install --no-deps distprop==0.1.0`).

Errors are medians [quartiles] over inputs: of the mean in output deviations, and of the covariance as a Frobenius norm
relative to the true one. The last two columns divide a method's errors by those of `exact` on the same inputs.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from _common import Case, Table, arguments_of, cpu_time, digits_case, digits_cnn, mlp, save, spread
from torch import Tensor, nn

from assay.moments import propagate

Found = tuple[Tensor, Tensor]
Rival = Callable[[Case, float], Found]


def ours(method: str, **options: object) -> Rival:
    def run(case: Case, sigma: float) -> Found:
        found = case.propagate(sigma, method, **options)
        return found.mean, found.covariance

    return run


def distprop(case: Case, sigma: float) -> Found:
    """The package's own propagation; it asks its inputs for gradients, so it gets a copy."""
    from distprop import SDP  # pyright: ignore[reportMissingImports]

    module: nn.Module = SDP(case.subject.model, std=sigma, num_outputs=10, create_graph=False)
    with torch.enable_grad():
        mean, covariance = module(case.inputs.clone())
    return mean.detach(), covariance.detach()


RIVALS: dict[str, Rival] = {
    "exact": ours("exact"),
    "cumulant": ours("cumulant"),
    "gain": ours("gain"),
    "factor, 32 columns": ours("factor"),
    "factor, 64 columns": ours("factor", rank=64),
    "peer: two-stage, last ReLU (CVPR 2018)": ours("two_stage", covariance="paper"),
    "peer: two-stage, first ReLU (CVPR 2018)": ours("two_stage", covariance="paper", relu=0),
    "peer: stable distribution propagation (formula)": ours("linearize"),
    "peer: independent units (ADF formula)": ours("diagonal"),
    "peer: plain sampling, 1,000 draws": ours("mc", samples=1000),
}


def measure(case: Case, sigma: float, draws: int, rivals: dict[str, Rival], repeats: int) -> Table:
    truth = propagate(case.subject, case.inputs, sigma**2, method="mc_cv", samples=draws, seed=1000)
    assert truth.standard_error is not None
    floor = float((truth.standard_error / truth.std).square().mean().sqrt())
    table = Table(
        f"{case.name}, sigma {sigma:g}: {len(case.inputs)} inputs, noise floor {floor:.1g} deviations",
        (
            "method",
            "mean error",
            "variance ratio",
            "covariance error",
            "CPU ms per input",
            "mean / exact",
            "cov / exact",
        ),
    )
    base: Found | None = None
    for label, rival in rivals.items():
        (mean, covariance), seconds = cpu_time(lambda r=rival: r(case, sigma), repeats=repeats)
        error = ((mean - truth.mean).double() / truth.std).abs().mean(1)
        apart = torch.linalg.matrix_norm((covariance - truth.covariance).double())
        relative = apart / torch.linalg.matrix_norm(truth.covariance.double())
        ratio = covariance.diagonal(dim1=1, dim2=2) / truth.variance
        base = base or (error, relative)
        table.add(
            label,
            spread(error, 2),
            spread(ratio),
            spread(relative, 2),
            f"{1e3 * seconds / len(case.inputs):.3g}",
            spread(error / base[0]),
            spread(relative / base[1]),
            network=case.name,
            sigma=sigma,
            mean_error=float(error.mean()),
            covariance_error=float(relative.mean()),
            variance_ratio=statistics.mean(ratio.flatten().tolist()),
            seconds=seconds / len(case.inputs),
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=16, help="test digits")
    parser.add_argument("--levels", type=float, nargs="+", default=[0.05, 0.1, 0.25], help="sigma of the noise")
    parser.add_argument("--reference-draws", type=int, default=1 << 17, help="per digit")
    arguments = arguments_of(parser)
    if arguments.quick:
        arguments.inputs, arguments.levels, arguments.reference_draws = 2, [0.1], 1 << 12
    rivals = dict(RIVALS)
    try:
        import distprop as package  # noqa: F401 # pyright: ignore[reportMissingImports]

        rivals["peer: distprop 0.1.0 (package)"] = distprop
    except ImportError:
        print("distprop is not installed: its formula alone is measured")
    epochs = 6 if arguments.quick else 40
    cases = [
        digits_case("MLP 3x256", lambda: mlp(64, 256, 256, 256, 10), arguments.inputs, epochs=epochs),
        digits_case("CNN, two max pools", digits_cnn, arguments.inputs, epochs=epochs, flat=False),
    ]
    repeats = 1 if arguments.quick else 3
    tables = [
        measure(case, sigma, arguments.reference_draws, rivals, repeats) for case in cases for sigma in arguments.levels
    ]
    save(arguments.out, tables, inputs=arguments.inputs)


if __name__ == "__main__":
    main()
