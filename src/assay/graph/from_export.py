"""Capture a model with `torch.export` and translate it into our own graph.

Export runs non-strictly with a dynamic batch axis; in-place calls are made functional afterwards. Nothing of torch.fx
leaves this file except through `check`, which compares the two programs node by node.
"""

from __future__ import annotations

import contextlib
import operator
import os
import random
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from assay.errors import AssayError, CaptureError
from assay.graph.check import check_against_export, check_other_batch
from assay.graph.evaluate import evaluate_node
from assay.graph.functional import without_mutation
from assay.graph.ir import BatchSize, Graph, Node, Slot, TensorSpec
from assay.graph.operators import ATEN
from assay.graph.operators.operator import Inexpressible

_PASSED_ON = {
    "aten.clone.default",
    "aten.alias.default",
    "aten.detach.default",
    "aten.contiguous.default",
    "aten.lift_fresh_copy.default",
}
_CASTS = ("aten.to.", "aten.type_as.", "aten._to_copy.")
_MADE = frozenset({"new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like"})
_TRAINING_NORM = ("_native_batch_norm_legit.", "_native_batch_norm_legit_functional", "native_batch_norm.default")
_NOT_USERS = tuple(os.path.join(os.path.dirname(file), "") for file in (torch.__file__, os.__file__, __file__))


def capture(model: nn.Module, example: Tensor, *, strip: str = "") -> Graph:
    """Capture `model` in eval mode as a graph and prove that the graph equals the model.

    Args:
        model: takes one batch (B, ...), returns one tensor (B, K).
        example: a batch to trace with; two samples are used (one is repeated).
        strip: prefix removed from module paths for people.

    Returns:
        A graph valid for any batch size, equal in value to the model node by node.

    Raises:
        CaptureError: with the reason and the source line when the model cannot be captured, is random in eval mode,
            uses batch statistics, or the graph differs from the model (the first diverging node is named).

    Example:
        >>> graph = capture(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.zeros(2, 2))
        >>> [node.op for node in graph.layers]
        ['linear', 'relu']
    """
    x = example[:2] if len(example) >= 2 else torch.cat([example[:1], example[:1]])
    with _unnoticed(model, x), torch.no_grad():
        exported = _export(model, x)
        graph, origin = _Translator(exported, _first_names(model), strip).translate()
        check_against_export(graph, origin, exported, x)
        check_other_batch(graph, model, x)
    return graph


def _export(model: nn.Module, x: Tensor) -> Any:
    batch = torch.export.Dim("batch", min=1, max=65536)
    try:
        exported = torch.export.export(model, (x,), strict=False, dynamic_shapes=({0: batch},))
        return exported if without_mutation(exported) else exported.run_decompositions({})
    except AssayError:
        raise
    except Exception as error:
        raise CaptureError(
            f"The model cannot be captured as a graph: {_reason(error)}",
            where=_user_line(error) or type(model).__name__,
            advice="Analyses that need no graph still run (Monte Carlo and linearised moments, local condition "
            "number). To get the rest, make the forward pass free of data-dependent Python control flow and of fixed "
            "batch sizes.",
        ) from error


@contextlib.contextmanager
def _unnoticed(model: nn.Module, x: Tensor) -> Iterator[None]:
    """Evaluation mode, no warnings; afterwards all flags, random states and filters are as before, error or not."""
    flags = [(module, module.training) for module in model.modules()]
    states = random.getstate(), numpy.random.get_state()
    devices = [x.device] if x.device.type == "cuda" else []
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=devices):
            warnings.simplefilter("ignore")
            if any(training for _, training in flags):
                model.eval()
            yield
    finally:
        for module, training in flags:
            module.training = training
        random.setstate(states[0])
        numpy.random.set_state(states[1])


def _reason(error: Exception) -> str:
    text = str(error).strip()
    lowered = text.lower()
    if "data-dependent" in lowered or "guardondatadependent" in type(error).__name__.lower():
        return "its control flow depends on the values of the data (an `if` or a loop on a tensor)."
    if "constraints violated" in lowered or "specialized" in lowered:
        return "it works for one fixed batch size only."
    first = text.splitlines()[0] if text else type(error).__name__
    return f"{type(error).__name__}: {first[:300]}"


def _user_line(error: BaseException) -> str:
    """Deepest source line of the user's own code or of a model library, from the traceback."""
    found = ""
    traceback = error.__traceback__
    while traceback is not None:
        filename = os.path.abspath(traceback.tb_frame.f_code.co_filename)
        inside = filename.startswith(_NOT_USERS) and not (
            "site-packages" in filename and not filename.startswith(_NOT_USERS[0])
        )
        if not inside and f"{os.sep}sympy{os.sep}" not in filename and os.path.exists(filename):
            found = f"{filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return found


def _first_names(model: nn.Module) -> dict[str, str]:
    """For each name of a parameter or buffer, the tensor's first name: the one that `named_parameters` lists."""
    first: dict[int, str] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


class _Translator:
    """Turns one exported program into nodes; keeps where every fx node went."""

    def __init__(self, exported: Any, first_names: dict[str, str], strip: str) -> None:
        self.exported = exported
        self.first_names = first_names
        self.strip = strip
        self.nodes: list[Node] = []
        self.names: dict[str, str] = {}  # fx name -> our node name
        self.packs: dict[str, Any] = {}  # fx name of a tuple-valued call -> its fx node
        self.parameters: dict[str, Tensor] = {}
        self.parameter_names: dict[str, str] = {}
        self.constants: set[str] = set()  # names of values made in the forward pass from nothing
        self.batch_symbol: Any = None

    def translate(self) -> tuple[Graph, dict[str, str]]:
        signature = self.exported.graph_signature
        kinds = [spec.kind.name for spec in signature.output_specs]
        input_name, output_name = "", ""
        for fx in self.exported.graph.nodes:
            if fx.op == "placeholder":
                if fx.name in signature.user_inputs:
                    input_name = fx.name
                    self.batch_symbol = fx.meta["val"].shape[0].node.expr
                    self._emit(fx, "input", (), {})
                else:
                    self._parameter(fx, signature)
            elif fx.op == "call_function":
                self._call(fx)
            elif fx.op == "output":
                (results,) = fx.args
                outputs = [item for item, kind in zip(results, kinds, strict=True) if kind == "USER_OUTPUT"]
                if len(outputs) != 1 or not isinstance(outputs[0], torch.fx.Node):
                    raise CaptureError(
                        f"The model returns {len(outputs)} values, not one tensor.",
                        where="output",
                        advice="Wrap the model so that it returns one tensor.",
                    )
                output_name = self.names[outputs[0].name]
        read = {name for node in self.nodes for name in node.inputs} | {output_name}
        idle = {node.name for node in self.nodes if node.name in self.constants and node.name not in read}
        idle -= {fx.name for fx in self.exported.graph.nodes if fx.op == "placeholder"}
        parameters = {name: value for name, value in self.parameters.items() if name not in idle}
        nodes = tuple(node for node in self.nodes if node.name not in idle)
        return Graph(nodes, input_name, output_name, parameters, self.parameter_names), self.names

    def _emit(
        self, fx: Any, op: str, inputs: tuple[str | None, ...], attributes: dict[str, Any], value: Any = None
    ) -> None:
        meta = fx.meta.get("val") if value is None else value
        spec = TensorSpec(tuple(self._size(s) for s in meta.shape), meta.dtype)
        path, line = self._origin(fx)
        self.nodes.append(Node(fx.name, op, inputs, attributes, spec, path, line))
        self.names[fx.name] = fx.name

    def _origin(self, fx: Any) -> tuple[str, str]:
        stack = fx.meta.get("nn_module_stack") or {}
        path = next(reversed(list(stack.values())))[0] if stack else ""
        path = path.removeprefix("L__self__").removeprefix(".").split("@")[0]
        trace = (fx.meta.get("stack_trace") or "").strip().splitlines()
        line = next((text.strip() for text in reversed(trace) if text.strip().startswith("File")), "")
        return path.removeprefix(self.strip), line

    def _parameter(self, fx: Any, signature: Any) -> None:
        name: str | None
        name = signature.inputs_to_parameters.get(fx.name) or signature.inputs_to_buffers.get(fx.name)
        if name is not None:
            value = self.exported.state_dict.get(name)
            value = self.exported.constants[name] if value is None else value
            self.parameter_names[fx.name] = self.first_names.get(name, name)
        else:
            value = self.exported.constants[signature.inputs_to_lifted_tensor_constants[fx.name]]
        self._constant(fx.name, value.detach(), made_here=name is None)
        self.names[fx.name] = fx.name

    def _constant(self, name: str, value: Tensor, made_here: bool) -> str:
        self.parameters[name] = value
        if made_here:
            self.constants.add(name)
        self.nodes.append(Node(name, "parameter", (), {}, TensorSpec(tuple(value.shape), value.dtype)))
        return name

    def _call(self, fx: Any) -> None:
        if fx.target is operator.getitem:
            self._take_item(fx)
            return
        meta = fx.meta.get("val")
        if not isinstance(meta, Tensor) and not isinstance(meta, (tuple, list)):
            return  # arithmetic on sizes: its value is read where it is used
        target = str(fx.target)
        self._refuse_random(fx, target)
        if isinstance(meta, (tuple, list)):
            self.packs[fx.name] = fx
            return
        if self._passes_on(fx, target, meta):
            self.names[fx.name] = self.names[fx.args[0].name]
            return
        self._operator(fx, target, meta)
        self._fold(self.nodes[-1], fx)

    def _fold(self, node: Node, fx: Any) -> None:
        """Compute here what depends neither on the input nor on a parameter, such as the mask of shifted windows."""
        made = fx.target._schema.name.removeprefix("aten::") in _MADE
        if not made and not all(name is None or name in self.constants for name in node.inputs):
            return
        if made and node.spec.batched:
            self._filled(node, fx)
        if node.spec.batched or _mentions_batch(tuple(node.attributes.values())):
            return
        inputs = [None if name is None else self.parameters.get(name) for name in node.inputs]
        if made:  # reads its input for shape, type and device only
            source = fx.all_input_nodes[0].meta["val"]
            inputs = [torch.zeros(node.spec.shape, dtype=source.dtype, device=source.device)]  # type: ignore[arg-type]
        value = evaluate_node(node, inputs, 0).detach()
        self.nodes.pop()
        self._constant(node.name, value, made_here=True)

    def _filled(self, node: Node, fx: Any) -> None:
        """One number in the shape of a batch: no function of the tensor whose shape it takes."""
        name = fx.target._schema.name
        number = 0.0 if "zeros" in name else 1.0 if "ones" in name else bound_arguments(fx).get("fill_value")
        if not isinstance(number, (bool, int, float)):
            return
        self.nodes.pop()
        source = self._constant(f"{node.name}_value", torch.tensor(number, dtype=node.spec.dtype), made_here=True)
        self.nodes.append(replace(node, op="expand", inputs=(source,), attributes={"shape": node.spec.shape}))

    def _passes_on(self, fx: Any, target: str, meta: Tensor) -> bool:
        """Whether the call returns its input as it is; dropout stays, as an identity that people look for."""
        if target.startswith(_CASTS):
            source = fx.args[0].meta["val"]
            return source.dtype == meta.dtype and source.device == meta.device
        return target in _PASSED_ON and "Dropout" not in self._module_class(fx)

    def _module_class(self, fx: Any) -> str:
        stack = fx.meta.get("nn_module_stack") or {}
        last = next(reversed(list(stack.values()))) if stack else ("", "")
        return last[1] if isinstance(last[1], str) else getattr(last[1], "__name__", "")

    def _refuse_random(self, fx: Any, target: str) -> None:
        path, line = self._origin(fx)
        bound = bound_arguments(fx)
        if torch.Tag.nondeterministic_seeded in fx.target.tags:
            chance = bound.get("p", bound.get("dropout", bound.get("dropout_p", 1.0)))
            active = bound.get("train", bound.get("training", True))
            if chance and active is not False:
                raise CaptureError(
                    "The model draws random numbers in evaluation mode.",
                    where=f"{path} ({target}) {line}".strip(),
                    advice="Make dropout and noise depend on self.training.",
                )
        trained = target == "aten.batch_norm.default" and (bound["training"] or bound["running_mean"] is None)
        if trained or target.removeprefix("aten.").startswith(_TRAINING_NORM):
            raise CaptureError(
                "Batch norm uses the statistics of the batch in evaluation mode.",
                where=f"{path} ({target})",
                advice="Use track_running_stats=True and call it with training=self.training.",
            )

    def _take_item(self, fx: Any) -> None:
        source, index = fx.args
        pack = self.packs.get(source.name)
        if pack is None or not fx.users:  # such as the places of maxima, which nobody reads
            return
        target = str(pack.target)
        if target in ("aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default", "aten.unbind.int"):
            self._part(fx, pack, index, target)
        elif target in ATEN and index == 0:
            self._operator(pack, target, fx.meta["val"], alias=fx)
        else:
            self._opaque(pack, fx.meta["val"], alias=fx, index=index)

    def _part(self, fx: Any, pack: Any, index: int, target: str) -> None:
        bound = bound_arguments(pack)
        rank = len(pack.args[0].meta["val"].shape)
        axis = bound["dim"] % rank
        source = self.names[pack.args[0].name]
        if target == "aten.unbind.int":
            self._emit(fx, "select", (source,), {"axis": axis, "index": index})
            return
        sizes = [self._size(item.shape[axis]) for item in pack.meta["val"]]
        if any(isinstance(size, BatchSize) for size in sizes):
            self._opaque(pack, fx.meta["val"], alias=fx, index=index)
            return
        self._emit(fx, "part", (source,), {"axis": axis, "start": sum(sizes[:index]), "length": sizes[index]})

    def _operator(self, fx: Any, target: str, meta: Any, alias: Any = None) -> None:
        if target not in ATEN:
            self._opaque(fx, meta, alias)
            return
        row, form = ATEN[target]
        shape = tuple(self._size(size) for size in meta.shape)
        try:
            arguments = {name: self._plain(value) for name, value in bound_arguments(fx).items()}
            inputs, attributes = form.bind(arguments, shape)
        except Inexpressible:
            self._opaque(fx, meta, alias)
            return
        names = tuple(self._tensor(fx, value, position) for position, value in enumerate(inputs))
        self._emit(alias or fx, row.name, names, attributes, meta)

    def _opaque(self, fx: Any, meta: Any, alias: Any = None, index: int | None = None) -> None:
        inputs: list[str] = []

        def template(value: Any) -> Any:
            if isinstance(value, torch.fx.Node):
                if not isinstance(value.meta["val"], Tensor):
                    return self._size(value.meta["val"])
                inputs.append(self.names[value.name])
                return Slot(len(inputs) - 1)
            if isinstance(value, (tuple, list)):
                return tuple(template(item) for item in value)
            return value

        arguments = template(fx.args)
        keywords = tuple((name, template(value)) for name, value in fx.kwargs.items())
        attributes = {"target": str(fx.target), "arguments": arguments, "keywords": keywords, "index": index}
        self._emit(alias or fx, "opaque", tuple(inputs), attributes, meta)

    def _plain(self, value: Any) -> Any:
        """An argument with sizes as numbers or `BatchSize`, and tensors still as fx nodes."""
        if isinstance(value, (tuple, list)):
            return tuple(self._plain(item) for item in value)
        if isinstance(value, torch.SymInt):
            return self._size(value)
        if isinstance(value, torch.fx.Node) and not isinstance(value.meta["val"], Tensor):
            return self._size(value.meta["val"])
        return value

    def _tensor(self, fx: Any, value: Any, position: int) -> str | None:
        if value is None:
            return None
        if isinstance(value, torch.fx.Node):
            return self.names[value.name]
        if isinstance(value, (bool, int, float)):
            double = isinstance(value, float) and fx.meta["val"].dtype == torch.float64
            exact = torch.float64 if double else None  # else the type a number takes part with
            return self._constant(f"{fx.name}_constant{position}", torch.tensor(value, dtype=exact), made_here=True)
        raise CaptureError(f"Cannot read argument {position} of {fx.target}: {value!r}", where=self._origin(fx)[0])

    def _size(self, size: Any) -> Any:
        if not isinstance(size, torch.SymInt):
            return size
        expression = size.node.expr
        if expression.is_Integer:
            return int(expression)
        multiple = expression / self.batch_symbol
        if multiple.is_Integer:
            return BatchSize(int(multiple))
        raise CaptureError(
            f"A size is {expression}, not a fixed multiple of the batch size.",
            where="shapes",
            advice="Shapes must be fixed for a given input size, apart from the batch axis.",
        )


def _mentions_batch(value: Any) -> bool:
    return any(map(_mentions_batch, value)) if isinstance(value, tuple) else isinstance(value, BatchSize)


def bound_arguments(fx: Any) -> dict[str, Any]:
    """Arguments of a call by schema name, defaults filled in."""
    bound: dict[str, Any] = {}
    for position, argument in enumerate(fx.target._schema.arguments):
        if argument.name in fx.kwargs:
            bound[argument.name] = fx.kwargs[argument.name]
        elif position < len(fx.args):
            bound[argument.name] = fx.args[position]
        elif argument.has_default_value():
            bound[argument.name] = argument.default_value
    return bound
