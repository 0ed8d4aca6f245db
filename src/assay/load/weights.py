"""Weights fitted to a network, with a full account of what differs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from assay.errors import SubjectError
from assay.load.checkpoint import some_of

_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "state_dict_ema",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
)
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")


def fit_weights(model: nn.Module, content: nn.Module | Mapping[str, Any], where: str) -> list[str]:
    """Put weights into the model, all of them or none of it.

    Wrapping dictionaries (`{"state_dict": ...}`) and prefixes (`module.`) are taken off; the returned notes say so.

    Args:
        model: the network; its parameters and buffers are overwritten.
        content: what `read_weights` returned.
        where: the file, for messages.

    Returns:
        Notes for the reader; usually none.

    Raises:
        SubjectError: listing the first missing, unexpected and misshapen entries.
    """
    notes: list[str] = []
    state = state_of(content, where, notes)
    state = _without_prefix(state, model.state_dict().keys(), notes)
    stored = {tensor.dtype for tensor in state.values() if isinstance(tensor, Tensor) and tensor.is_floating_point()}
    narrow = sorted(str(dtype).removeprefix("torch.") for dtype in stored if dtype.itemsize < 4)
    if narrow:
        notes.append(f"The weights are stored as {', '.join(narrow)}; the model computes in its own number format.")
    try:
        missing, unexpected = _loaded(model, state)
    except Exception as error:  # torch lists shape mismatches here; tensors from strangers can fail in other ways too
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise SubjectError(
            "The weights do not fit the network: " + some_of(lines),
            where=where,
            advice="Check that --arch names the network these weights were trained with.",
        ) from error
    if missing or unexpected:
        parts = [f"missing: {some_of(missing)}"] if missing else []
        parts += [f"not in the network: {some_of(unexpected)}"] if unexpected else []
        raise SubjectError(
            "The weights do not fit the network: " + "; ".join(parts),
            where=where,
            advice="Check that --arch names the network these weights were trained with.",
        )
    return notes


def state_of(content: nn.Module | Mapping[str, Any], where: str, notes: list[str] | None = None) -> dict[str, Any]:
    """The dictionary of tensors inside what a weights file held, unwrapped.

    Returns:
        Parameter name -> tensor.

    Raises:
        SubjectError: when there is none.
    """
    notes = [] if notes is None else notes
    for _ in range(3):
        if isinstance(content, nn.Module):
            return with_versions(content.state_dict(), versions_of(content.state_dict()))
        if not isinstance(content, Mapping):
            break
        if content and all(isinstance(key, str) for key in content) and _all_tensors(content):
            return with_versions(content, versions_of(content))
        inner = next((key for key in _WRAPPERS if isinstance(content.get(key), (Mapping, nn.Module))), None)
        if inner is None:
            break
        notes.append(f"The weights were taken from the entry {inner!r} of the file.")
        content = content[inner]
    held = (
        f"a dictionary with the keys {some_of(map(str, content))}"
        if isinstance(content, Mapping)
        else type(content).__name__
    )
    raise SubjectError(
        f"The file holds {held}, not a dictionary of tensors.",
        where=where,
        advice="Save model.state_dict() with torch.save or safetensors.torch.save_file.",
    )


def _without_prefix(state: dict[str, Any], wanted: Any, notes: list[str]) -> dict[str, Any]:
    wanted = set(wanted)
    while state and not wanted & state.keys():
        prefix = next((each for each in PREFIXES if all(key.startswith(each) for key in state)), None)
        if prefix is None:
            break
        notes.append(f"The prefix {prefix!r} was taken off the names of the weights.")
        versions = {
            f"{path}.".removeprefix(prefix).rstrip("."): facts
            for path, facts in versions_of(state).items()
            if f"{path}.".startswith(prefix)
        }
        state = with_versions({key[len(prefix) :]: value for key, value in state.items()}, versions)
    return state


def with_versions(state: Mapping[str, Any], versions: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """A copy of a state dict with what torch hides beside the entries: the version of each layer's format."""
    copied = OrderedDict(state)
    copied._metadata = OrderedDict(versions)  # type: ignore[attr-defined]
    return copied


def versions_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """Layer path -> its version facts; empty where the file did not store any."""
    known = getattr(state, "_metadata", None)
    if not isinstance(known, dict) or not all(isinstance(facts, dict) for facts in known.values()):
        return {}
    return dict(known)


def _loaded(model: nn.Module, state: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Load what fits; the names that are missing and those that are unexpected."""
    # Files without versions (safetensors has none) may be of the first format or of today's, which is tried second.
    attempts = [state]
    if not versions_of(state):
        attempts.append(with_versions(state, versions_of(model.state_dict())))
    outcomes: list[tuple[list[str], list[str]]] = []
    failures: list[Exception] = []
    for attempt in attempts:
        try:
            with torch.no_grad():
                outcome = model.load_state_dict(attempt, strict=False)
        except Exception as error:
            failures.append(error)
            continue
        outcomes.append((_truly_missing(model, outcome.missing_keys), outcome.unexpected_keys))
        if not any(outcomes[-1]):
            break
    if not outcomes:
        raise failures[0]
    return min(outcomes, key=lambda names: len(names[0]) + len(names[1]))


def _truly_missing(model: nn.Module, missing: list[str]) -> list[str]:
    """Names that were not loaded under any other name either: tied weights are stored once."""
    entries = model.state_dict(keep_vars=True)
    loaded = {id(tensor) for name, tensor in entries.items() if name not in missing}
    return [
        name
        for name in missing
        if id(entries.get(name)) not in loaded and not name.endswith("num_batches_tracked")  # of no use after training
    ]


def _all_tensors(content: Mapping[str, Any]) -> bool:
    return all(isinstance(value, Tensor) or key.endswith("_extra_state") for key, value in content.items())
