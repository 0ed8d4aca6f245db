"""Models from specifications: one function for every form, one shape of answer."""

from __future__ import annotations

import copy
import hashlib
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from assay.errors import SubjectError, UsageError
from assay.load.checkpoint import SUFFIXES, read_weights
from assay.load.demo import demo_model
from assay.load.factory import call_factory, is_factory
from assay.load.isolation import isolated
from assay.load.limits import existing_file, open_zip
from assay.load.trust import Trust, require_trust
from assay.load.weights import fit_weights, state_of
from assay.load.zoo import timm_model, torchvision_model, zoo_example
from assay.preprocess import Preprocessing
from assay.subject import Task

FORMS = (
    "demo",
    "demo:regression",
    "torchvision:NAME",
    "timm:NAME",
    "FILE.safetensors|.pt|.pth|.bin with --arch",
    "package.module:factory or FILE.py:factory with --trust",
    "FILE.pt2 with --trust",
)


@dataclass
class LoadedModel:
    """A model as it came from its specification, with what is known about it.

    Attributes:
        module: the network.
        name: for people.
        task: what it is for, where known.
        preprocessing: the usual one for it, where known; used when the user gives none.
        class_names: names of its outputs where known; empty otherwise.
        example: inputs it accepts (B, ...), where known.
        warnings: what the reader must know.
    """

    module: nn.Module
    name: str
    task: Task | None = None
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] = ()
    example: Tensor | None = None
    warnings: list[str] = field(default_factory=list)


class ExportedNetwork(nn.Module):
    """A `.pt2` program as a module: such programs refuse `eval()`, because the mode was fixed at export."""

    def __init__(self, program: nn.Module, code: str) -> None:
        super().__init__()
        self.program = program
        self.code_digest = hashlib.sha256(code.encode()).hexdigest()[:16]
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        """Run the program on a batch."""
        return self.program(x)

    def train(self, mode: bool = True) -> ExportedNetwork:
        """Change nothing: the mode is part of the program."""
        return self

    def extra_repr(self) -> str:
        """Digest of the program, so that two programs with equal weights differ."""
        return f"code={self.code_digest}"


def load_model(
    spec: str, *, trust: bool | Trust = False, weights: str | Path | None = None, arch: str | None = None
) -> LoadedModel:
    """Load a model from its specification; the caller's random streams are untouched.

    Args:
        spec: one of `FORMS`.
        trust: whether code may be executed.
        weights: a file of weights for a named network or a factory's.
        arch: the network a file of weights belongs to: any form that is not itself a file of weights.

    Returns:
        The network and what is known about it.

    Raises:
        TrustRequired: when it would execute code and trust was not given.
        UsageError: when the request does not make sense.
        SubjectError: when a file is damaged or weights do not fit.

    Example:
        >>> load_model("demo").module(torch.zeros(1, 1, 8, 8)).shape
        torch.Size([1, 10])
    """
    record, path = Trust.of(trust), Path(spec)
    if path.suffix in SUFFIXES and not is_factory(spec):
        if weights is not None:
            raise UsageError("Weights were given twice.", where=f"{spec} and {weights}", advice="Drop one of them.")
        return _from_weights(path, arch, record)
    if arch is not None:
        raise UsageError(
            "arch says which network a file of weights belongs to, but the model is not such a file.",
            where=f"model {spec}, arch {arch}",
            advice=f"Give the model as {arch} and the file as weights.",
        )
    if path.suffix == ".pt2":
        if weights is not None:
            raise UsageError("A .pt2 program has its weights inside.", where=str(weights), advice="Leave weights out.")
        return _from_program(path, record)
    if path.suffix == ".onnx":
        raise SubjectError(
            "ONNX models are not supported yet.",
            where=spec,
            advice="Load the PyTorch model it was exported from: its factory, its weights or a .pt2 program.",
        )
    if weights is None:
        return _built(spec, None, record, spec)
    return _built(spec, read_weights(Path(weights), record), record, str(weights))


def _from_weights(path: Path, arch: str | None, trust: Trust) -> LoadedModel:
    content: Any = read_weights(path, trust)
    if isinstance(content, dict) and arch is None:
        content = next((value for value in content.values() if isinstance(value, nn.Module)), content)
    if isinstance(content, nn.Module) and arch is None:
        return LoadedModel(content, path.stem)
    if arch is None:
        raise UsageError(
            "This file holds weights, not a network.",
            where=str(path),
            advice="Say which network they belong to: --arch torchvision:NAME, timm:NAME or FILE.py:factory.",
        )
    if Path(arch).suffix in (*SUFFIXES, ".pt2", ".onnx"):
        raise UsageError("arch must name a network, not a file of weights.", where=arch)
    loaded = _built(arch, content, trust, str(path))
    loaded.name = f"{arch} with {path.name}"
    return loaded


def _built(spec: str, content: Any, trust: Trust, where: str) -> LoadedModel:
    """The network of a specification, with weights from `content` unless that is None."""
    kind, _, name = spec.partition(":")
    notes: list[str] = []
    if kind in ("torchvision", "timm") and name:
        state = None if content is None else state_of(content, where, notes)
        zoo = (torchvision_model if kind == "torchvision" else timm_model)(name, state)
        loaded = LoadedModel(zoo.module, spec, "classification", zoo.preprocessing, zoo.class_names)
        loaded.example = zoo_example(zoo.preprocessing)
        loaded.warnings += [*notes, *zoo.notes]
        content = zoo.state
        if content is None:
            loaded.warnings.append("The weights are random (seed 0): no file of weights was given.")
    elif spec in ("demo", "demo:classification", "demo:regression"):
        task: Task = "regression" if name == "regression" else "classification"
        loaded = LoadedModel(demo_model(task), spec, task)
    elif is_factory(spec):
        made = call_factory(spec, trust)
        if not isinstance(made, nn.Module):
            raise SubjectError(
                f"The factory returned {type(made).__name__}, not a torch.nn.Module.",
                where=spec,
                advice="Return the network itself.",
            )
        # Weights go into a copy: the factory may have handed out an object that others hold too.
        loaded = LoadedModel(made if content is None else copy.deepcopy(made), spec)
    else:
        raise UsageError("This is not a model specification.", where=spec, advice=f"Use one of: {'; '.join(FORMS)}.")
    if content is not None:
        loaded.warnings += fit_weights(loaded.module, content, where)
        loaded.module.eval()
    return loaded


def _from_program(path: Path, trust: Trust) -> LoadedModel:
    existing_file(path, "exported program")
    require_trust(trust, f"exported program {path.name}", str(path))
    open_zip(path, "exported program").close()
    try:
        with isolated(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks about itself
            program = torch.export.load(path)
            module = ExportedNetwork(program.module(), program.graph_module.code)
    except Exception as error:
        raise SubjectError(
            f"The exported program cannot be loaded: {type(error).__name__}: {str(error)[:300]}",
            where=str(path),
            advice="Export it again with torch.export.save of this release of torch.",
        ) from error
    names = set(program.graph_signature.user_inputs)
    inputs = [node.meta.get("val") for node in program.graph.nodes if node.name in names and node.op == "placeholder"]
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor):
        raise SubjectError(
            f"The program takes {len(inputs)} inputs; a model must take one tensor (batch, ...).",
            where=str(path),
            advice="Export a wrapper with a single tensor input.",
        )
    if inputs[0].dim() == 0 or isinstance(inputs[0].shape[0], int):
        raise SubjectError(
            f"The program was exported for inputs of the fixed shape {tuple(inputs[0].shape)}.",
            where=str(path),
            advice="Export it with a dynamic batch axis: dynamic_shapes=({0: torch.export.Dim.DYNAMIC},).",
        )
    given = program.example_inputs[0] if program.example_inputs else ()
    example = given[0].detach() if len(given) == 1 and isinstance(given[0], Tensor) else None
    return LoadedModel(module, path.stem, example=example)
