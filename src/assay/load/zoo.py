"""Networks by name from torchvision and timm: constructed without weights and without the network."""

from __future__ import annotations

import difflib
import importlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from assay.errors import MissingExtra, SubjectError, UsageError
from assay.load.isolation import isolated
from assay.load.weights import PREFIXES, versions_of, with_versions
from assay.preprocess import Preprocessing

_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")


@dataclass(frozen=True)
class ZooModel:
    """A network from a collection, with what the collection knows about it.

    Attributes:
        module: the network, in eval mode, weights random from seed 0.
        preprocessing: the one its published weights were trained with.
        class_names: names of its outputs, or empty.
        state: the weights to load, adapted to current names, or None.
        notes: what the reader must know.
    """

    module: nn.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    state: Mapping[str, Any] | None
    notes: tuple[str, ...]


def torchvision_model(name: str, state: Mapping[str, Any] | None = None) -> ZooModel:
    """A classification network of torchvision, its head as wide as the weights say.

    Args:
        name: as in `torchvision.models.list_models()`, such as "resnet18".
        state: weights that will be loaded, or None; they decide the number of outputs.

    Returns:
        The network with random weights, and the weights to load into it.

    Raises:
        MissingExtra: when torchvision is not installed.
        SubjectError: when it is installed and cannot be imported.
        UsageError: when there is no such network.
    """
    models = import_collection("torchvision").models
    known = models.list_models(module=models)  # no detection or segmentation: those constructors download a backbone
    if name not in known:
        _refuse_name("torchvision", name, known)
    notes: list[str] = []
    options: dict[str, Any] = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        # Their side heads are for training only; published weights expect the input transformed to [-1, 1] inside.
        options |= {"aux_logits": False, "init_weights": False, "transform_input": state is not None}
        if state is not None:
            notes.append(
                "The network transforms its input inside (transform_input=True), as its published weights expect."
            )
            kept = {
                key: value for key, value in state.items() if not key.removeprefix("module.").startswith(_AUXILIARY)
            }
            if len(kept) < len(state):
                notes.append("The side heads in the weights, used in training only, were left out.")
            state = with_versions(kept, versions_of(state))
    if state is not None and name.startswith("densenet"):
        renamed = {re.sub(r"\.(norm|relu|conv)\.([12])\.", r".\1\2.", key): value for key, value in state.items()}
        state = with_versions(renamed, versions_of(state))
    module = _with_right_head(lambda **head: models.get_model(name, **options, **head), state, notes)
    published = list(models.get_model_weights(name))
    side = getattr(module, "image_size", None)  # a transformer takes one size only; some weights are for another
    best = next((each for each in published if each.transforms().crop_size == [side]), published[0])
    transforms, categories = best.transforms(), tuple(best.meta.get("categories", ()))
    preprocessing = Preprocessing(
        resize=transforms.resize_size[0],
        crop=transforms.crop_size[0],
        bounds=(0.0, 1.0),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
    return ZooModel(module, preprocessing, categories, state, tuple(notes))


def timm_model(name: str, state: Mapping[str, Any] | None = None) -> ZooModel:
    """A network of timm, its head as wide as the weights say; arguments and errors as in `torchvision_model`."""
    timm = import_collection("timm")
    if not timm.is_model(name):  # also keeps out "hf-hub:..." names, which would download
        _refuse_name("timm", name, timm.list_models())
    notes: list[str] = []
    module = _with_right_head(lambda **head: timm.create_model(name, pretrained=False, **head), state, notes)
    facts = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None) or {}
    size = facts.get("input_size", (3, 224, 224))[-1]
    preprocessing = Preprocessing(
        resize=math.floor(size / facts.get("crop_pct", 0.875)),
        crop=size,
        bounds=(0.0, 1.0),
        mean=tuple(facts.get("mean", (0.485, 0.456, 0.406))),
        std=tuple(facts.get("std", (0.229, 0.224, 0.225))),
    )
    return ZooModel(module, preprocessing, (), state, tuple(notes))


def zoo_example(preprocessing: Preprocessing, channels: int = 3) -> Tensor:
    """Two noise pictures (2, C, S, S) of the size the network expects, the same every time; for use without data."""
    side = preprocessing.crop or 224
    return torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))


def import_collection(library: str) -> ModuleType:
    """Import torchvision or timm, or say precisely why that is not possible.

    Returns:
        The module.

    Raises:
        MissingExtra: when it (or what it needs) is not installed.
        SubjectError: when it is installed and its import fails.
    """
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise MissingExtra((error.name or library).partition(".")[0], "vision", f"A {library} network") from error
    except Exception as error:  # compiled operators built for another torch fail in several ways
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise SubjectError(
            f"{library} is installed, but importing it beside torch {torch.__version__} fails: {reason}",
            where=library,
            advice="Its build must match torch's: a CPU torch needs the CPU torchvision of the same release, from "
            "https://download.pytorch.org/whl/cpu.",
        ) from error


def _with_right_head(build: Callable[..., nn.Module], state: Mapping[str, Any] | None, notes: list[str]) -> nn.Module:
    """Build with the collection's own head; again with as many outputs as the weights have, when those differ."""
    with isolated(seed=0):
        module = build()
    head = next((name for name, tensor in reversed(module.state_dict().items()) if tensor.dim() > 1), None)
    stored = next((state[p + head] for p in ("", *PREFIXES) if p + head in state), None) if state and head else None
    if head and isinstance(stored, Tensor) and stored.dim() > 1 and len(stored) != len(module.state_dict()[head]):
        notes.append(f"The weights have {len(stored)} outputs; the network was built with as many.")
        with isolated(seed=0):
            module = build(num_classes=len(stored))
    return module.eval()


def _refuse_name(library: str, name: str, known: list[str]) -> NoReturn:
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    raise UsageError(
        f"{library} has no classification network {name!r}.",
        where=f"{library}:{name}",
        advice=f"Did you mean {', '.join(close)}?" if close else f"{library}.list_models() names them all.",
    )
