"""Write the tables of the documentation that are made from the code: docs/operators.md and docs/capture.md.

python tools/make_tables.py operators     what each domain does with each operator; takes a second
python tools/make_tables.py capture       networks of torchvision and timm, captured and compared; takes minutes
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).resolve().parent.parent / "docs"


class Family(NamedTuple):
    """One network to capture.

    Attributes:
        library: torchvision or timm.
        name: name of the constructor.
        size: height and width of its pictures in the table.
        options: arguments of the constructor.
    """

    library: str
    name: str
    size: int = 224
    options: dict[str, Any] = {}  # noqa: RUF012

    def build(self, **options: Any) -> Any:
        """The network with random weights in eval mode; what starts as zero, a head or a mean, is random as well."""
        import torch

        torch.manual_seed(0)
        if self.library == "timm":
            import timm

            model = timm.create_model(self.name, pretrained=False, **self.options, **options)
        else:
            import torchvision

            model = torchvision.models.get_model(self.name, weights=None, **self.options, **options)
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.is_floating_point() and not tensor.any():
                    tensor.normal_(std=0.05)
        return model.eval()


_WITHOUT_TRAINING_HEADS = {"aux_logits": False, "init_weights": False}

TORCHVISION = (
    *(
        Family("torchvision", name)
        for name in ("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s")
    ),
    Family("torchvision", "googlenet", 224, _WITHOUT_TRAINING_HEADS),
    Family("torchvision", "inception_v3", 299, _WITHOUT_TRAINING_HEADS),
    *(
        Family("torchvision", name)
        for name in ("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf")
    ),
    *(
        Family("torchvision", name)
        for name in ("regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5")
    ),
    *(Family("torchvision", name) for name in ("squeezenet1_0", "squeezenet1_1", "swin_t")),
    Family("torchvision", "swin_v2_t", 256),
    *(Family("torchvision", name) for name in ("vgg11", "vgg11_bn", "vit_b_16", "wide_resnet50_2")),
)
TIMM = (
    *(
        Family("timm", name)
        for name in ("convnextv2_atto", "deit_tiny_patch16_224", "dla34", "edgenext_xx_small", "efficientnet_lite0")
    ),
    *(
        Family("timm", name)
        for name in ("fbnetc_100", "ghostnet_050", "hrnet_w18_small", "lcnet_050", "levit_128s", "mixer_s32_224")
    ),
    *(
        Family("timm", name)
        for name in ("poolformer_s12", "regnety_002", "repvgg_a0", "res2net50_26w_4s", "resmlp_12_224")
    ),
    Family("timm", "mobilevit_xxs", 256),
    Family("timm", "xcit_nano_12_p16_224", 224),
)
FAMILIES = TORCHVISION + TIMM


class Captured(NamedTuple):
    """What capture made of one network, and how far the graph is from it.

    Attributes:
        nodes: nodes of the graph, parameters included.
        layers: nodes that compute something from the input.
        kinds: different operators among them.
        opaque: ATen names that stayed whole, with how often each occurs.
        gap: largest difference of the outputs on a fresh batch of three, relative to the largest output.
        seconds: time of the capture.
    """

    nodes: int
    layers: int
    kinds: int
    opaque: dict[str, int]
    gap: float
    seconds: float


def measure(family: Family, size: int | None = None, **options: Any) -> Captured:
    """Capture one network and compare the graph with it on a batch it has not seen.

    Args:
        family: which network.
        size: height and width of the pictures; the family's own when None.
        options: further arguments of the constructor.

    Returns:
        Counts, the gap and the time.
    """
    import torch

    from assay.graph import capture, evaluate

    model = family.build(**options)
    generator = torch.Generator().manual_seed(1)
    side = size or family.size
    started = time.perf_counter()
    graph = capture(model, torch.randn(2, 3, side, side, generator=generator))
    seconds = time.perf_counter() - started
    x = torch.randn(3, 3, side, side, generator=generator)
    with torch.no_grad():
        expected, found = model(x), evaluate(graph, x)
    gap = float((found - expected).abs().max() / expected.abs().max())
    labels = [node.label for node in graph.layers if node.op == "opaque"]
    opaque = {label: labels.count(label) for label in sorted(set(labels))}
    return Captured(len(graph), len(graph.layers), len({node.op for node in graph.layers}), opaque, gap, seconds)


_OPERATOR_COLUMNS = ["operator", "affine in inputs", "element by element", "stands for"]


def operators_page() -> str:
    """docs/operators.md: the operators, what each stands for, and what each domain does with it."""
    from assay.boundary.paths import TABLE as SEGMENT
    from assay.graph import OPERATORS
    from assay.interpret import coverage
    from assay.moments.rules import TABLE as MOMENTS
    from assay.sensitivity.roundoff.running_rules import TABLE as ROUND_OFF
    from assay.smoothness.estimators.exact_line import TABLE as LINE
    from assay.smoothness.prediction.rules import TABLE as KINKS

    tables = [MOMENTS, KINKS, LINE, SEGMENT, ROUND_OFF]
    lines = [
        "# Operators",
        "",
        "Made by `python tools/make_tables.py operators`.",
        "",
        "A captured graph consists of the canonical operators below; a call of ATen that none of them stands for",
        "stays whole, as `opaque`. Each domain has rules for operators, and the second table of a family says how",
        "reliable the rule is when its inputs are exact. `exact` holds while only inputs vary in which the operator",
        "is jointly affine; inputs are counted from 1, and sets of them are separated by semicolons. Where a cell",
        "is empty, or several inputs vary in another way, `moments` linearises the operator or samples it and says",
        "so, `kinks` takes the tangent of a smooth operator, and the others refuse it and name the node.",
        "",
        "| domain | what it carries through the graph |",
        "| --- | --- |",
        "| moments | mean and covariance (`moments.propagate`) |",
        "| kinks | values and slopes of a Gaussian process (`smoothness.predict`) |",
        "| line | every breakpoint along a straight line (`smoothness.smp`, estimator `exact_line`) |",
        "| segment | a certificate for one line, rounding included (`boundary.certify_segment`) |",
        "| round-off | a bound of the rounding error (`sensitivity.roundoff_error`, estimator E2) |",
    ]
    families: dict[str, list[Any]] = {}
    for record in coverage(tables):
        families.setdefault(record["family"], []).append(record)
    for family, records in families.items():
        lines += ["", f"## {family.capitalize()}", "", *_header(_OPERATOR_COLUMNS)]
        for record in records:
            row = OPERATORS[record["operator"]]
            targets = ", ".join(f"`{form.target.removesuffix('.default')}`" for form in row.aten)
            lines.append(_line([f"`{row.name}`", _affine(row), "yes" if row.elementwise else "", targets]))
        lines += ["", *_header(["operator", *(table.domain for table in tables)])]
        lines += [_line([f"`{record['operator']}`", *(record[t.domain] for t in tables)]) for record in records]
    return "\n".join(lines) + "\n"


def _affine(row: Any) -> str:
    if row.linear_in == "all":
        return "all"
    return "; ".join(", ".join(str(position + 1) for position in sorted(group)) for group in row.linear_in)


def capture_page() -> str:
    """docs/capture.md: what capture makes of the networks of two libraries, with random weights."""
    import platform
    from importlib.metadata import version

    import torch

    torch.set_num_threads(1)
    columns = ["network", "pixels", "nodes", "layers", "kinds of operator", "opaque", "gap", "seconds"]
    lines = [
        "# Capture",
        "",
        "Made by `python tools/make_tables.py capture`.",
        "",
        "Networks with random weights, captured by `assay.graph.capture`. Nodes include parameters; layers compute",
        "something from the input. The gap is the largest difference between graph and network on a fresh batch of",
        "three, relative to the largest output.",
        f"Times were taken on one thread of {platform.machine()} with PyTorch {version('torch')}.",
    ]
    for library, families in (("torchvision", TORCHVISION), ("timm", TIMM)):
        lines += ["", f"## {library} {version(library)}", "", *_header(columns)]
        lines += _rows(families)
    return "\n".join(lines) + "\n"


def _rows(families: tuple[Family, ...]) -> Iterator[str]:
    for family in families:
        found = measure(family)
        opaque = ", ".join(
            f"{count} × {name.removeprefix('aten.').removesuffix('.default')}" for name, count in found.opaque.items()
        )
        counts = [str(n) for n in (family.size, found.nodes, found.layers, found.kinds)]
        line = _line([f"`{family.name}`", *counts, opaque, f"{found.gap:.1e}", f"{found.seconds:.1f}"])
        print(line, flush=True)
        yield line
        gc.collect()


def _header(columns: list[str]) -> list[str]:
    return [_line(columns), _line(["---"] * len(columns))]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Write one page, or both."""
    pages = {"operators": operators_page, "capture": capture_page}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("page", choices=[*pages, "all"])
    chosen = parser.parse_args().page
    for name, make in pages.items():
        if chosen in (name, "all"):
            FOLDER.mkdir(exist_ok=True)
            (FOLDER / f"{name}.md").write_text(make(), encoding="utf-8")
            print(f"wrote docs/{name}.md")


if __name__ == "__main__":
    main()
