"""A made-up audit of a residual network: two results with every kind of figure, findings, a graph and provenance."""

from __future__ import annotations

import math
from html import escape

import numpy

from assay.grade import Grade
from assay.results import Audit, Column, Figure, Finding, Provenance, Quantity, Result, Status, Table

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def layer_names(layers: int) -> list[tuple[str, str, str]]:
    """Name, operator and module path of each node of a residual network with about `layers` nodes."""
    nodes = [("x", "input", ""), ("conv1", "conv2d", "stem.conv"), ("relu", "relu", "stem.act")]
    block = 1
    while len(nodes) < layers - 2:
        stem = f"stage{(block - 1) // 2 + 1}.{(block - 1) % 2}"
        nodes += [
            (f"b{block}_conv_a", "conv2d", f"{stem}.conv1"),
            (f"b{block}_relu", "relu", f"{stem}.relu"),
            (f"b{block}_conv_b", "conv2d", f"{stem}.conv2"),
            (f"b{block}_add", "add", stem),
        ]
        block += 1
    return [*nodes[: layers - 2], ("mean", "mean", "pool"), ("linear", "linear", "head")]


def graph_svg(nodes: list[tuple[str, str, str]]) -> str:
    """A column of nodes with arrows, and a bow around each residual block."""
    parts, last_add = [], 2
    for index, (name, operator, path) in enumerate(nodes):
        y = 12 + 46 * index
        if index:
            parts.append(f'<g class="edge"><path d="M130 {y - 16}V{y}" stroke="#888" marker-end="url(#tip)"/></g>')
        if operator == "add":
            top = 12 + 46 * last_add + 15
            parts.append(f'<g class="edge"><path d="M220 {top}C268 {top} 268 {y + 15} 222 {y + 15}" fill="none"/></g>')
            last_add = index
        parts.append(
            f'<g class="node" data-node="{escape(name)}"><title>{escape(path or name)}</title>'
            f'<rect x="40" y="{y}" width="180" height="30" rx="6" fill="#fff" stroke="#999"/>'
            f'<text x="52" y="{y + 19}" font-size="12" style="font-weight: bold">{escape(operator)}</text>'
            f'<text x="208" y="{y + 19}" font-size="11" text-anchor="end">{escape(name[:22])}</text></g>'
        )
    height = 46 * len(nodes) + 20
    size = 'viewBox="0 0 6 6" refX="6" refY="3" markerWidth="6" markerHeight="6"'
    tip = f'<marker id="tip" {size} orient="auto"><path d="M0 0L6 3L0 6z"/></marker>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="270" height="{height}" viewBox="0 0 270 {height}">'
        f"<defs>{tip}</defs>{''.join(parts)}</svg>"
    )


def node_table(nodes: list[tuple[str, str, str]]) -> Table:
    """What capture says about each node."""
    columns = (
        Column("name", "Node", node=True),
        Column("op", "Operator"),
        Column("path", "Module"),
        Column("shape", "Output shape"),
    )
    rows = tuple((name, op, path, "16 × 14 × 14" if op != "linear" else "10") for name, op, path in nodes)
    return Table("nodes", "Nodes of the graph", columns, rows)


def provenance(name: str) -> Provenance:
    """How to repeat a made-up result."""
    return Provenance(
        analysis=name,
        model="residual digits network",
        model_digest="9f2c" * 16,
        data="digits, test half",
        data_digest="51ab" * 16,
        config={"method": "auto", "noise": 0.05, "levels": (0.01, 0.1), "samples": 2000, "rank": None},
        seed=7,
        versions={"assay": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6", "python": "3.11.7"},
        wall_seconds=12.34,
        peak_bytes=345_000_000,
    )


def moments(nodes: list[tuple[str, str, str]], seed: int = 0) -> Result:
    """A result with lines, scatter, bars, histogram and two kinds of heat maps."""
    generator = numpy.random.default_rng(seed)
    levels = numpy.geomspace(0.003, 0.3, 9)
    flips = 0.5 * (1 + numpy.tanh(2.2 * (numpy.log10(levels) + 0.9)))
    depth = numpy.arange(len(nodes))
    gain = 1.4 ** (0.35 * depth / max(len(nodes) / 12, 1)) * numpy.exp(0.2 * generator.standard_normal(len(nodes)))
    spread = 0.02 * gain
    row, column = numpy.mgrid[-1:1:28j, -1:1:28j]
    digits = numpy.stack([numpy.exp(-8 * (numpy.hypot(row, column / s) - 0.5) ** 2) for s in (0.7, 1.0, 1.3)])
    maps = digits * generator.standard_normal(digits.shape) * 0.2
    predicted = generator.gamma(2.0, 0.05, 300)
    measured = predicted * numpy.exp(0.12 * generator.standard_normal(300))
    exact = [Grade.CLOSED_FORM if op != "add" else Grade.LINEARISED for _, op, _ in nodes]
    table = Table.from_records(
        "layers",
        "Noise through the layers",
        (
            Column("node", "Node", node=True),
            Column("op", "Operator"),
            Column(
                "noise_gain",
                "Noise gain",
                "",
                Grade.CLOSED_FORM,
                "Output standard deviation over input standard deviation.",
                lens="Noise growth",
            ),
            Column(
                "std",
                "Standard deviation",
                "output sd",
                Grade.CLOSED_FORM,
                "Root mean square over the layer's elements.",
            ),
            Column("rule", "Rule"),
        ),
        [
            {
                "node": n,
                "op": op,
                "noise_gain": float(gain[i]),
                "std": float(spread[i]),
                "rule": exact[i].value.replace("_", " "),
            }
            for i, (n, op, _) in enumerate(nodes)
        ],
        "How input noise of standard deviation 0.05 grows from layer to layer, averaged over 200 inputs.",
    )
    per_class = Table.from_records(
        "classes",
        "Flip probability by class",
        (
            Column("class", "Class"),
            Column("inputs", "Inputs", "", Grade.EXACT),
            Column("flip", "Flip probability", "%", Grade.CLOSED_FORM, "Probability that noise changes the label."),
            Column("low", "5th percentile", "%", Grade.SAMPLED),
            Column("worst_rival", "Most likely rival"),
        ),
        [
            {
                "class": c,
                "inputs": 18 + i % 4,
                "flip": 1.5 + 2.1 * i,
                "low": 0.4 + i,
                "worst_rival": CLASSES[(i + 3) % 10],
            }
            for i, c in enumerate(CLASSES)
        ],
    )
    return Result(
        name="moments",
        title="Noise moments",
        question="If every input value carries a little Gaussian noise, how uncertain does the answer become?",
        summary={
            "flip": Quantity(
                7.3184,
                Grade.CLOSED_FORM,
                "%",
                "Probability that noise of 0.05 changes the label",
                1.02,
                24.7,
                "5th to 95th percentile over inputs",
            ),
            "check": Quantity(
                7.41, Grade.SAMPLED, "%", "The same, measured with 2,000 draws", 7.02, 7.8, "95 % interval"
            ),
            "gain": Quantity(0.000123456, Grade.LINEARISED, "output sd", "Largest growth of noise in one layer"),
            "inputs": Quantity(200, Grade.EXACT, "", "Inputs used"),
        },
        tables={"layers": table, "classes": per_class},
        arrays={
            "digits": digits,
            "maps": maps,
            "photo": generator.random((24, 24, 3)),
            "regions": numpy.add.outer(numpy.arange(20) // 7, numpy.arange(20) // 5) % len(CLASSES),
            "confusion": _confusion(generator),
        },
        figures=(
            Figure(
                "lines",
                "Flip probability against noise",
                "Closed form (line), 5th to 95th percentile over inputs (band), and sampling (points).",
                {
                    "x": levels.tolist(),
                    "series": [
                        {
                            "label": "closed form",
                            "y": flips.tolist(),
                            "low": (flips * 0.6).tolist(),
                            "high": numpy.minimum(flips * 1.4, 1).tolist(),
                            "style": "line",
                        },
                        {
                            "label": "sampled",
                            "y": (flips * 1.03).tolist(),
                            "low": (flips * 0.93).tolist(),
                            "high": (flips * 1.13).tolist(),
                            "style": "points",
                        },
                        {"label": "linearised", "y": (flips * 0.8).tolist(), "style": "dashed"},
                    ],
                    "x_label": "noise standard deviation (data units)",
                    "y_label": "flip probability",
                    "x_log": True,
                    "y_log": False,
                },
            ),
            Figure(
                "scatter",
                "Predicted and measured spread",
                "Each point is one output of one input; on the diagonal the prediction is right.",
                {
                    "series": [{"label": "inputs", "x": predicted.tolist(), "y": measured.tolist()}],
                    "x_label": "predicted sd",
                    "y_label": "measured sd",
                    "log": True,
                    "diagonal": True,
                },
            ),
            Figure(
                "histogram",
                "Margins before and after noise",
                "Difference between the best and the second best output.",
                {
                    "series": [
                        {"label": "clean", "values": generator.normal(4, 1.2, 800).tolist()},
                        {"label": "with noise", "values": generator.normal(3, 1.6, 800).tolist()},
                    ],
                    "x_label": "margin (logits)",
                    "bins": 32,
                },
            ),
            Figure(
                "matrix",
                "Where noisy inputs go",
                "Rows are the clean label, columns the label under noise; in percent.",
                {
                    "array": "confusion",
                    "row_labels": list(CLASSES),
                    "column_labels": list(CLASSES),
                    "x_label": "label under noise",
                    "y_label": "clean label",
                    "percent": True,
                },
            ),
            Figure(
                "regions",
                "Class regions in a plane",
                "Areas say which class is given there; lines are decision boundaries.",
                {
                    "panels": [
                        {
                            "array": "regions",
                            "extent": [-1.0, 1.0, -1.0, 1.0],
                            "points": [{"x": 0.0, "y": 0.5, "label": "input 0"}],
                            "title": "",
                            "x_label": "distance",
                            "y_label": "distance",
                        }
                    ],
                    "names": list(CLASSES),
                },
            ),
            Figure(
                "heatmaps",
                "Which pixels matter",
                "Inputs, and the sensitivity of the margin to each pixel.",
                {
                    "panels": [
                        {"array": "digits", "index": [0], "title": "input: zero", "diverging": False},
                        {"array": "maps", "index": [0], "title": "sensitivity", "diverging": True},
                        {"array": "maps", "index": [1], "title": "sensitivity", "diverging": True},
                        {"array": "photo", "title": "a picture", "diverging": False},
                    ],
                    "columns": 4,
                },
            ),
        ),
        findings=(
            Finding(
                "moments.flip_probability",
                Status.FAIL,
                "With noise of sd 0.05 the label changes for 7.3 % of draws (closed form), above the limit of 5 %.",
                "class nine",
                "Train with noise of this size; the flip curve shows the level that still passes.",
            ),
            Finding(
                "moments.agreement",
                Status.PASS,
                "Closed form and sampling agree within 0.09 percentage points (95 % interval 0.39).",
            ),
            Finding(
                "moments.fallback",
                Status.WARN,
                "3 of 12 layers have no closed-form rule and were linearised.",
                nodes[min(6, len(nodes) - 1)][0],
                "Numbers behind these layers are first order: trust them for noise below 0.02.",
            ),
        ),
        warnings=("The noise model is independent Gaussian noise of equal size on every pixel.",),
        provenance=provenance("moments"),
    )


def sensitivity(nodes: list[tuple[str, str, str]], seed: int = 1) -> Result:
    """A result with bars both ways and two panels side by side."""
    generator = numpy.random.default_rng(seed)
    norms = 1 + generator.gamma(2.0, 0.8, len(nodes))
    bits = generator.integers(4, 13, len(nodes))
    weighted = [(i, n, op) for i, (n, op, _) in enumerate(nodes) if op in ("conv2d", "linear")]
    table = Table.from_records(
        "layers",
        "Operator norms and bits",
        (
            Column("node", "Node", node=True),
            Column("norm", "Operator norm", "", Grade.EXACT, "Largest singular value of the layer's linear map."),
            Column("upper", "Upper bound", "", Grade.BOUND),
            Column(
                "condition",
                "Condition",
                "",
                Grade.LINEARISED,
                "Relative change of the output over relative change of the input.",
                lens="Condition number κ",
            ),
            Column("bits", "Bits", "bit", Grade.SAMPLED, "Bits of the weights that keep the label of all inputs."),
        ),
        [
            {
                "node": n,
                "norm": float(norms[i]),
                "upper": float(norms[i] * 1.02),
                "condition": float(10 ** generator.normal(1, 1)),
                "bits": int(bits[i]),
            }
            for i, n, _ in weighted
        ],
    )
    shown = weighted[:14]
    return Result(
        name="sensitivity",
        title="Layer sensitivity",
        question="Which layers amplify errors, and how few bits does each one need?",
        summary={
            "product": Quantity(
                math.exp(min(float(numpy.log(norms[[i for i, _, _ in weighted]]).sum()), 69.0)),
                Grade.BOUND,
                "",
                "Global Lipschitz bound, product over layers",
            ),
            "local": Quantity(math.nan, Grade.LINEARISED, "", "Median local condition number"),
            "saved": Quantity(71.25, Grade.SAMPLED, "%", "Memory saved with the bit plan", 70.1, 72.4, "95 % interval"),
        },
        tables={"layers": table},
        arrays={"gram": numpy.outer(norms, norms)[:40, :40], "wide": generator.standard_normal((6, 60))},
        figures=(
            Figure(
                "bars",
                "Operator norm by layer",
                "Best estimate with the guaranteed upper bound.",
                {
                    "labels": [n for _, n, _ in shown],
                    "series": [
                        {
                            "label": "norm",
                            "values": [float(norms[i]) for i, _, _ in shown],
                            "low": [float(norms[i]) * 0.9 for i, _, _ in shown],
                            "high": [float(norms[i]) * 1.1 for i, _, _ in shown],
                        }
                    ],
                    "x_label": "",
                    "y_label": "largest singular value",
                    "horizontal": False,
                },
            ),
            Figure(
                "bars",
                "Bits each layer needs",
                "Fewest bits that keep every label.",
                {
                    "labels": [n for _, n, _ in shown],
                    "series": [
                        {"label": "weights", "values": [int(bits[i]) for i, _, _ in shown]},
                        {"label": "activations", "values": [int(bits[i]) + 2 for i, _, _ in shown]},
                    ],
                    "x_label": "bits",
                    "y_label": "",
                    "horizontal": True,
                },
            ),
            Figure(
                "heatmaps",
                "Two layers side by side",
                "Products of norms, and one filter bank.",
                {
                    "panels": [
                        {"array": "gram", "title": "products of norms", "diverging": False},
                        {"array": "wide", "title": "filters", "diverging": True},
                    ],
                    "columns": 2,
                },
            ),
        ),
        findings=(
            Finding("sensitivity.norm", Status.PASS, "No layer has an operator norm above 10 (exact)."),
            Finding("sensitivity.dead", Status.PASS, "No layer has an operator norm below 0.01 (exact)."),
        ),
        provenance=provenance("sensitivity"),
    )


def audit(layers: int = 12) -> Audit:
    """The whole made-up audit."""
    nodes = layer_names(layers)
    return Audit(
        subject={
            "name": "residual digits network",
            "model_digest": "9f2c" * 16,
            "parameters": 74_186,
            "task": "classification",
            "class_names": list(CLASSES),
            "outputs": 10,
            "preprocessing": {
                "resize": None,
                "crop": None,
                "bounds": [0.0, 1.0],
                "scale": None,
                "channel_order": "RGB",
                "mean": [0.1307],
                "std": [0.3081],
            },
            "data": "digits, test half",
            "data_digest": "51ab" * 16,
            "samples": 200,
            "input_shape": [1, 28, 28],
            "trusted": [],
            "warnings": [
                "The weights are random: no weights file was given, so the numbers say nothing about a trained network."
            ],
        },
        results={"moments": moments(nodes), "sensitivity": sensitivity(nodes)},
        left_out={"smoothness": "the model branches on its data at stage2.0.relu, and such paths are not supported"},
        graph_svg=graph_svg(nodes),
        nodes=node_table(nodes),
    )


def _confusion(generator: numpy.random.Generator) -> numpy.ndarray:
    counts = generator.dirichlet(numpy.full(10, 0.15), 10) * 0.12
    return counts + numpy.diag(1 - counts.sum(1))
