"""A plan as an ONNX model with quantised weights (QDQ), run by onnxruntime and measured.

The fp32 model is the prepared graph, batch norms folded. Weights become int4, int8 or int16 initialisers with exactly
the plan's scales behind a DequantizeLinear, so a 3-bit weight is an int4 that uses 3 bits. With activations in 8 or 16
bits, `onnxruntime.quantization.quantize_static` places the QuantizeLinear pairs, with its own ranges from the same
calibration inputs. What ONNX cannot hold (floating-point formats, groups) stays float32 with the plan's values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from assay.errors import MissingExtra, UsageError
from assay.sensitivity.bits.export.graph_module import GraphModule
from assay.sensitivity.bits.layers import WeightLayer
from assay.sensitivity.bits.verify import Verified, compare

if TYPE_CHECKING:
    from assay.sensitivity.bits.plan import Plan
    from assay.sensitivity.roundoff.formats import Format
    from assay.sensitivity.roundoff.integers import IntegerFormat

OPSET = 21  # the first with 4-bit and 16-bit integers
_TYPES = {4: "INT4", 8: "INT8", 16: "INT16"}


@dataclass(frozen=True)
class Exported:
    """An ONNX file and what it does.

    Attributes:
        path: the file.
        verified: outputs of onnxruntime beside the exact network, on the plan's calibration inputs.
        integers: stored integer type by layer.
        kept: layers whose weights stay float32, with the reason.
    """

    path: Path
    verified: Verified
    integers: dict[str, str]
    kept: dict[str, str]


def write_qdq(plan: Plan, path: str | Path) -> Exported:
    """Write a plan as ONNX, run it with onnxruntime and measure it.

    Args:
        plan: from `bit_widths`.
        path: the file to write.

    Returns:
        The file, and what it did.

    Raises:
        MissingExtra: without onnx, onnxscript and onnxruntime.
        UsageError: when activations have formats that onnxruntime does not run.
    """
    _libraries()
    path = Path(path)
    module = GraphModule(plan.problem.graph)
    layers = {layer.name: layer for layer in plan.problem.layers}
    module.assign({layers[name].parameter: layers[name].rounded(target) for name, target in plan.formats.items()})
    with TemporaryDirectory() as folder:
        exact = Path(folder) / "exact.onnx"
        _export(module, plan.problem.x, exact)
        if plan.activations:
            integers, kept = _static(plan, layers, exact, path)
        else:
            integers, kept = _weights_only(plan, layers, exact, path)
    outputs = onnx_outputs(path, plan.problem.x)
    return Exported(path, compare(outputs, plan.problem.outputs()), integers, kept)


def onnx_outputs(path: str | Path, x: Tensor, *, optimise: bool = True) -> Tensor:
    """Run an ONNX file with onnxruntime on the CPU; (B, K).

    Args:
        path: the file; one input, one output.
        x: (B, ...).
        optimise: whether onnxruntime may rewrite the graph, as it does by default. It then computes matrix products
            with 4-bit and 8-bit weights in integers, which rounds activations too; without, the file is taken at its
            word.

    Returns:
        The outputs.

    Raises:
        MissingExtra: without onnxruntime.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "onnx", "Running an ONNX model") from error
    options = onnxruntime.SessionOptions()
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return torch.from_numpy(np.asarray(session.run(None, {name: x.float().numpy()})[0]))


def _libraries() -> None:
    for library in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(library)
        except ImportError as error:
            raise MissingExtra(library, "onnx", "Writing a plan as ONNX") from error


def _export(module: GraphModule, x: Tensor, path: Path) -> None:
    example = x[:2].float() if len(x) > 1 else x[:1].float().repeat(2, *[1] * (x.dim() - 1))
    torch.onnx.export(
        module.float().eval(),
        (example,),
        str(path),
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
        external_data=False,
    )


def _found(model: Any, layer: WeightLayer, target: Format) -> tuple[str, bool] | None:
    """Name of the initialiser that holds a layer's rounded weight, and whether it is transposed; by value."""
    from onnx import numpy_helper

    weight = layer.rounded(target).float().numpy()
    for initializer in model.graph.initializer:
        size = int(np.prod(initializer.dims))
        if size != weight.size or len(initializer.dims) != weight.ndim:
            continue
        value = numpy_helper.to_array(initializer)
        if value.shape == weight.shape and np.array_equal(value, weight):
            return initializer.name, False
        if weight.ndim == 2 and value.shape == weight.T.shape and np.array_equal(value, weight.T):
            return initializer.name, True
    return None


def _scales(layer: WeightLayer, target: IntegerFormat) -> np.ndarray:
    """() or (channels,) float64 scales of a weight."""
    step = target.along(layer.output_axis).step(layer.weight.double())
    if target.granularity == "tensor":
        return step.flatten()[:1].squeeze(0).numpy()
    return step.movedim(layer.output_axis, 0).flatten(1)[:, 0].numpy()


def _placed(
    plan: Plan, layers: dict[str, WeightLayer], model: Any, kept: dict[str, str]
) -> Iterator[tuple[WeightLayer, str, int, np.ndarray, np.ndarray, int]]:
    """Layers that become integers: initialiser, container bits, integer values, scales, channel axis."""
    from assay.sensitivity.roundoff.integers import IntegerFormat

    for name, target in plan.formats.items():
        layer = layers[name]
        if not isinstance(target, IntegerFormat) or not target.symmetric:
            kept[name] = f"{target.name} has no integer type in ONNX"
            continue
        if target.granularity == "group" or target.width > 16:
            kept[name] = f"{target.name}: one scale per tensor or channel, and at most 16 bits"
            continue
        place = _found(model, layer, target)
        if place is None:
            kept[name] = "the exporter rewrote this weight"
            continue
        initializer, transposed = place
        grouped = layer.uses[0].op == "conv_transpose" and layer.uses[0].attributes.get("groups", 1) != 1
        if grouped and target.granularity == "channel":
            kept[name] = "channels of a grouped transposed convolution share scales across groups"
            continue
        scales = _scales(layer, target)
        axis = 1 - layer.output_axis if transposed else layer.output_axis
        rounded = layer.rounded(target).double().numpy()
        rounded = rounded.T if transposed else rounded
        shaped = scales if scales.ndim == 0 else scales.reshape([-1 if i == axis else 1 for i in range(rounded.ndim)])
        values = np.rint(rounded / shaped)
        container = 4 if target.width <= 4 else 8 if target.width <= 8 else 16
        yield layer, initializer, container, values, scales, axis


def _weights_only(
    plan: Plan, layers: dict[str, WeightLayer], exact: Path, path: Path
) -> tuple[dict[str, str], dict[str, str]]:
    """Integer initialisers and a DequantizeLinear for each; the arithmetic stays floating point."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(exact))
    kept: dict[str, str] = {}
    integers: dict[str, str] = {}
    nodes = []
    for layer, name, container, values, scales, axis in list(_placed(plan, layers, model, kept)):
        old = next(one for one in model.graph.initializer if one.name == name)
        model.graph.initializer.remove(old)
        kind = getattr(onnx.TensorProto, _TYPES[container])
        codes = values.astype(helper.tensor_dtype_to_np_dtype(kind))
        stored = (
            helper.make_tensor(f"{name}_int", kind, codes.shape, values.astype(np.int8).flatten().tolist())
            if container == 4
            else numpy_helper.from_array(codes, f"{name}_int")
        )
        scale = numpy_helper.from_array(np.asarray(scales, dtype=np.float32), f"{name}_scale")
        model.graph.initializer.extend([stored, scale])
        attributes: dict[str, Any] = {} if np.ndim(scales) == 0 else {"axis": axis}
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [stored.name, scale.name], [name], name=f"dequantize_{name}", **attributes
            )
        )
        integers[layer.name] = _TYPES[container].lower()
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return integers, kept


def _static(
    plan: Plan, layers: dict[str, WeightLayer], exact: Path, path: Path
) -> tuple[dict[str, str], dict[str, str]]:
    """Weights and activations as integers, placed by onnxruntime's static quantisation."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    from assay.sensitivity.roundoff.integers import IntegerFormat

    formats = {target.name: target for target in plan.activations.values()}
    first = next(iter(formats.values()))
    if (
        len(formats) != 1
        or not isinstance(first, IntegerFormat)
        or first.granularity != "tensor"
        or first.bits not in (8, 16)
    ):
        raise UsageError(
            "onnxruntime holds all activations in one integer type of 8 or 16 bits with one scale per tensor, the "
            f"plan has {', '.join(sorted(formats))}.",
            where="activations",
            advice="Make the plan with activations='int8' or 'int8_affine', or None for weights only.",
        )
    kinds = {
        (8, True): QuantType.QInt8,
        (8, False): QuantType.QUInt8,
        (16, True): QuantType.QInt16,
        (16, False): QuantType.QUInt16,
    }
    model = onnx.load(str(exact))
    kept: dict[str, str] = {}
    integers: dict[str, str] = {}
    overrides: dict[str, list[dict[str, Any]]] = {}
    for layer, name, container, _, scales, axis in _placed(plan, layers, model, kept):
        kind = {4: QuantType.QInt4, 8: QuantType.QInt8, 16: QuantType.QInt16}[container]
        rows = [
            {"quant_type": kind, "scale": np.array(scale, dtype=np.float32), "zero_point": np.array(0, dtype=np.int8)}
            for scale in np.atleast_1d(scales)
        ]
        if np.ndim(scales):
            rows[0]["axis"] = axis
        overrides[name] = rows
        integers[layer.name] = _TYPES[container].lower()
    quantised = set(overrides)
    excluded = [
        node.name
        for node in model.graph.node
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and not quantised.intersection(node.input)
    ]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.parts = iter(plan.problem.x.float().split(64))

        def get_next(self) -> Any:
            part = next(self.parts, None)
            return None if part is None else {model.graph.input[0].name: part.numpy()}

    quantize_static(
        str(exact),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=False,
        activation_type=kinds[first.bits, first.symmetric],
        weight_type=QuantType.QInt8,
        nodes_to_exclude=excluded,
        extra_options={
            "TensorQuantOverrides": overrides,
            "ActivationSymmetric": first.symmetric,
            "WeightSymmetric": True,
            "QDQDisableWeightAdjustForInt32Bias": True,
        },
    )
    return integers, kept
