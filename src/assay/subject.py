"""Subject: one model with its data, seen in three ways: `graph`, `call` and `probe`."""

from __future__ import annotations

import copy
import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from assay.brief import Brief, in_short
from assay.errors import AssayError, SubjectError
from assay.preprocess import Preprocessing
from assay.probe import Probe

if TYPE_CHECKING:
    from assay.graph import Graph

Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class Data(Brief):
    """Inputs and, where known, targets.

    Attributes:
        inputs: (N, ...) floating point, in the units of the user's data (before normalisation).
        targets: (N,) integer labels, (N,) or (N, K) regression targets, or None.
        name: where they came from.
        class_names: names of the label values found with the data; may be empty.
        bounds: legal range the loader knows of, such as (0, 1) for pictures, or None.
        notes: what the loader decided and the reader should know; they join the subject's warnings.
    """

    inputs: Tensor
    targets: Tensor | None = None
    name: str = "data"
    class_names: tuple[str, ...] = ()
    bounds: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.inputs.shape[0]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of inputs and targets: shapes, types and bytes."""
        named = {"inputs": self.inputs} | ({} if self.targets is None else {"targets": self.targets})
        return tensors_digest(named)

    def take(self, count: int | None) -> Data:
        """The first `count` samples (all when None)."""
        if count is None or count >= len(self):
            return self
        return replace(self, inputs=self.inputs[:count], targets=None if self.targets is None else self.targets[:count])


@dataclass(frozen=True, eq=False)
class Subject:
    """A model and everything needed to question it. Build it with `Subject.from_model` or `assay.load_subject`.

    Attributes:
        model: a private copy in eval mode, gradients off; preprocessing is its first layer. Parameters share memory
            with the user's model, buffers do not.
        data: inputs and targets, or None.
        preprocessing: how data become model inputs.
        class_names: one per output, or empty.
        task: classification (outputs are logits) or regression.
        name: for people.
        trusted: what was executed because the user gave --trust.
        warnings: what the reader must know, such as random weights.
    """

    model: nn.Module
    data: Data | None
    preprocessing: Preprocessing
    class_names: tuple[str, ...] = ()
    task: Task = "classification"
    name: str = "model"
    trusted: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    example: Tensor = field(default_factory=lambda: torch.empty(0))

    def __repr__(self) -> str:
        data = "no data" if self.data is None else f"inputs {in_short(self.data.inputs)}"
        return f"Subject({self.name!r}, {type(self.model).__name__}, {data}, {self.task})"

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        data: Data | Tensor | tuple[Tensor, Tensor] | None = None,
        *,
        preprocessing: Preprocessing | None = None,
        class_names: tuple[str, ...] = (),
        task: Task = "classification",
        name: str = "",
        trusted: tuple[str, ...] = (),
        warnings: tuple[str, ...] = (),
        example: Tensor | None = None,
    ) -> Subject:
        """Wrap a model and data, checking that they fit each other. The user's model is not changed.

        Args:
            model: any nn.Module taking one tensor (B, ...) and returning one tensor (B, K).
            data: `Data`, inputs (N, ...), or (inputs, targets).
            preprocessing: see `Preprocessing`; identity by default.
            class_names: one per output.
            task: whether outputs are logits or regression values.
            name: for people; the class name when empty.
            trusted: what code was executed to load the model.
            warnings: passed on to every reader.
            example: a batch to check the model with when there are no data.

        Returns:
            The subject, checked.

        Raises:
            SubjectError: when model and data do not fit: shape, dtype, NaN, bounds, labels.
        """
        from assay import checks

        if isinstance(data, Tensor):
            data = Data(data)
        elif isinstance(data, tuple):
            data = Data(data[0], data[1])
        preprocessing = preprocessing or Preprocessing()
        if preprocessing.bounds is None and data is not None and data.bounds is not None:
            preprocessing = preprocessing.model_copy(update={"bounds": data.bounds})
        checks.check_module(model)
        notes = [*warnings, *(data.notes if data is not None else ())]
        if model.training:
            notes.append("The model was in training mode; it is analysed in evaluation mode.")
        private = private_copy(model)
        dtype = next((p.dtype for p in private.parameters() if p.dtype.is_floating_point), torch.float32)
        if data is not None:
            data = checks.checked_data(data, preprocessing, dtype)
            example = data.inputs[:2]
        wrapped = private
        if not preprocessing.is_identity:
            layers = OrderedDict(preprocessing=preprocessing.module(dtype), model=private)
            wrapped = nn.Sequential(layers).eval()
        for tensor in wrapped.parameters():
            tensor.requires_grad_(False)
        subject = cls(
            model=wrapped,
            data=data,
            preprocessing=preprocessing,
            class_names=class_names or (data.class_names if data is not None else ()),
            task=task,
            name=name or type(model).__name__,
            trusted=trusted,
            warnings=tuple(notes),
            example=example if example is not None else torch.empty(0),
        )
        if subject.example.numel():
            with torch.random.fork_rng(devices=[]):  # a model may draw numbers
                checks.check_fit(subject)
        return subject

    @property
    def graph(self) -> Graph:
        """The captured layer graph, checked node by node against the model; captured once.

        Raises:
            CaptureError: when the model cannot be captured, with the reason and the source line.
            SubjectError: when there is no input to capture it with.
        """
        if isinstance(self._captured, AssayError):
            raise self._captured
        return self._captured

    @cached_property
    def _captured(self) -> Graph | AssayError:
        from assay.graph import capture

        if not self.example.numel():
            return SubjectError(
                "A graph needs an example input, and this subject has neither data nor an example.",
                where=self.name,
                advice="Load data with the model, or pass example=.",
            )
        try:
            return capture(self.model, self.example, strip="" if self.preprocessing.is_identity else "model.")
        except AssayError as error:  # a failure is as final as a graph: do not try again for every analysis
            return error

    @cached_property
    def probe(self) -> Probe:
        """The model as a function of its input, with JVP and VJP."""
        return Probe(self.model)

    def call(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Logits of a batch under changed parameters, named as in `model.named_parameters()`; others keep theirs."""
        return torch.func.functional_call(self.model, dict(parameters), (x,))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of parameters and buffers (names, shapes, types, bytes), the repr and the preprocessing."""
        shown = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(self.model))  # functions print their address
        extra = f"{shown}|{self.preprocessing.model_dump_json()}|{self.task}"
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        return tensors_digest(parameters | dict(self.model.named_buffers(remove_duplicate=False)), extra)

    @cached_property
    def output_count(self) -> int:
        """Number of outputs K."""
        with torch.no_grad():
            return self.model(self.example[:1]).shape[1]

    def output_name(self, index: int) -> str:
        """Name of one output: its class name where known."""
        if index < len(self.class_names):
            return self.class_names[index]
        return f"class {index}" if self.task == "classification" else f"output {index}"

    def describe(self) -> dict[str, Any]:
        """Facts about the subject, JSON-serialisable, for reports."""
        return {
            "name": self.name,
            "model_digest": self.digest,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "task": self.task,
            "class_names": list(self.class_names[:50]),
            "outputs": self.output_count if self.example.numel() else None,
            "preprocessing": self.preprocessing.model_dump(mode="json"),
            "data": None if self.data is None else self.data.name,
            "data_digest": None if self.data is None else self.data.digest,
            "samples": None if self.data is None else len(self.data),
            "input_shape": list(self.example.shape[1:]) if self.example.numel() else None,
            "trusted": list(self.trusted),
            "warnings": list(self.warnings),
        }


def as_subject(model: nn.Module | Subject, x: Tensor | None = None) -> Subject:
    """A Subject as it is; a module wrapped, with `x` as its example input."""
    return model if isinstance(model, Subject) else Subject.from_model(model, example=x)


def private_copy(model: nn.Module) -> nn.Module:
    """Copy the modules in eval mode; parameters share memory with the original, buffers are copied.

    The user's flags, hooks, gradients and buffers are not touched, and no memory is spent on parameters.

    Returns:
        The copy.

    Raises:
        SubjectError: when an attribute of the model cannot be copied.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().clone()
    for module in model.modules():  # tensors kept as plain attributes (old-style weight norm) refuse deepcopy
        for value in vars(module).values():
            if isinstance(value, Tensor) and id(value) not in memo:
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(model, memo).eval()
    except Exception as error:
        raise SubjectError(
            f"The model could not be copied: {type(error).__name__}: {str(error)[:200]}",
            where=type(model).__name__,
            advice="Take open files, locks and tensors with a gradient history out of its attributes.",
        ) from error


def tensors_digest(tensors: Mapping[str, Tensor], extra: str = "") -> str:
    """SHA-256 over names, types, shapes and bytes, in name order."""
    digest = hashlib.sha256(extra.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"|{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
