"""Weight files: read without executing code, and fitted to a network with a full account of what differs."""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from assay.errors import SubjectError, TrustRequired
from assay.load.isolation import isolated
from assay.load.limits import existing_file, open_zip
from assay.load.trust import Trust, require_trust

PICKLES = (".pt", ".pth", ".bin")
SUFFIXES = (".safetensors", *PICKLES)
_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "state_dict_ema",
    "module",
)
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
_TENSOR_PARTS = ("torch._utils.", "torch._tensor.", "torch.storage.", "torch.nn.parameter.", "collections.OrderedDict")


def read_weights(path: Path, trust: bool | Trust = False) -> nn.Module | dict[str, Any]:
    """Read a file of weights: a dictionary of tensors, or a whole module where the file is a trusted pickle.

    `.safetensors` cannot hold code. `.pt`, `.pth` and `.bin` are read with `weights_only=True`; only when that refuses
    the file *and* trust was given is it unpickled in full, and recorded.

    Returns:
        A dictionary of tensors, possibly wrapped in others; or a module.

    Raises:
        TrustRequired: when the file holds objects other than tensors and trust was not given; nothing was executed.
        SubjectError: when the file is missing, damaged, a TorchScript archive or not a file of weights.
    """
    existing_file(path, "weights file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix not in PICKLES:
        raise SubjectError(
            f"Weights cannot be read from {path.suffix or 'a file without suffix'!r}.",
            where=str(path),
            advice=f"Use one of {', '.join(SUFFIXES)}.",
        )
    return _read_pickle(path, Trust.of(trust))


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
        with torch.no_grad():
            outcome = model.load_state_dict(state, strict=False)
    except Exception as error:  # torch lists shape mismatches here; tensors from strangers can fail in other ways too
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise SubjectError(
            "The weights do not fit the network: " + _some(lines),
            where=where,
            advice="Check that --arch names the network these weights were trained with.",
        ) from error
    missing = _truly_missing(model, outcome.missing_keys)
    if missing or outcome.unexpected_keys:
        parts = [f"missing: {_some(missing)}"] if missing else []
        parts += [f"not in the network: {_some(outcome.unexpected_keys)}"] if outcome.unexpected_keys else []
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
            return dict(content.state_dict())
        if not isinstance(content, Mapping):
            break
        if content and all(isinstance(key, str) for key in content) and _all_tensors(content):
            return dict(content)
        inner = next((key for key in _WRAPPERS if isinstance(content.get(key), (Mapping, nn.Module))), None)
        if inner is None:
            break
        notes.append(f"The weights were taken from the entry {inner!r} of the file.")
        content = content[inner]
    held = (
        f"a dictionary with the keys {_some(map(str, content))}"
        if isinstance(content, Mapping)
        else type(content).__name__
    )
    raise SubjectError(
        f"The file holds {held}, not a dictionary of tensors.",
        where=where,
        advice="Save model.state_dict() with torch.save or safetensors.torch.save_file.",
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # the file may be anything; the library's own errors are of several classes
        raise _damaged(path, "safetensors file", error) from error


def _read_pickle(path: Path, trust: Trust) -> Any:
    if zipfile.is_zipfile(path):
        with open_zip(path, "weights file") as archive:
            _refuse_programs(path, archive.namelist())
    try:
        return _load(path, weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = foreign_globals(path)
        if not foreign:
            raise _damaged(path, "weights file", error) from error
        try:
            require_trust(trust, f"pickle {path.name}", str(path))
        except TrustRequired as refusal:
            raise TrustRequired(
                f"The file holds pickled objects, not only tensors: {_some(foreign, 3)}. Loading them executes code, "
                "and trust was not given.",
                where=str(path),
                advice="Save model.state_dict() instead of the model; or repeat with --trust if you trust its origin.",
            ) from refusal
    except Exception as error:  # damaged in any of a hundred ways; nothing was executed
        raise _damaged(path, "weights file", error) from error
    try:
        with isolated():
            return _load(path, weights_only=False)
    except Exception as error:
        raise SubjectError(
            f"The pickled objects cannot be restored: {type(error).__name__}: {str(error)[:300]}",
            where=str(path),
            advice="The code that defines them must be importable here; or save a state dict instead.",
        ) from error


def _load(path: Path, *, weights_only: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks on pickle protocols; what matters is raised
        return torch.load(path, map_location="cpu", weights_only=weights_only)


def _refuse_programs(path: Path, names: list[str]) -> None:
    if any(name.endswith("/constants.pkl") for name in names):
        raise SubjectError(
            "This is a TorchScript archive, which is not supported.",
            where=str(path),
            advice="Save the original module's state_dict(), or export it with torch.export to a .pt2 file.",
        )
    if any(name.endswith("/archive_format") for name in names) and not any(
        name.endswith("/data.pkl") for name in names
    ):
        raise SubjectError(
            "This is an exported program, not a file of weights.", where=str(path), advice="Name it FILE.pt2."
        )


def foreign_globals(path: Path) -> list[str]:
    """What a pickle would import beyond torch's own tensors: names of functions and classes, read without executing it.

    Returns:
        The names, or a remark on a protocol newer than torch reads safely; empty when it is no pickle.
    """
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as stream:
                return _globals(stream)
        with zipfile.ZipFile(path) as archive:
            member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(member) as stream:
                return _globals(stream)
    except (OSError, StopIteration, zipfile.BadZipFile):
        return []


def _globals(stream: IO[bytes]) -> list[str]:
    found: dict[str, None] = {}
    try:
        for _ in range(5):  # the old format begins with three small pickles
            strings: list[str] = []
            memo: dict[int, str] = {}
            for operation, argument, _ in pickletools.genops(stream):
                name, last = operation.name, strings[-1] if strings else ""
                if name in ("GLOBAL", "INST"):
                    found[str(argument).replace(" ", ".")] = None
                elif name == "STACK_GLOBAL":
                    found[".".join(strings[-2:])] = None
                elif name == "PROTO" and isinstance(argument, int) and argument > 2:
                    found[f"objects in pickle protocol {argument}"] = None
                elif name == "MEMOIZE":
                    memo[len(memo)] = last
                elif name in ("BINPUT", "LONG_BINPUT") and isinstance(argument, int):
                    memo[argument] = last
                elif name in ("BINGET", "LONG_BINGET") and isinstance(argument, int):
                    strings.append(memo.get(argument, ""))
                elif isinstance(argument, str):
                    strings.append(argument)
    except Exception:  # not a pickle from here on
        pass
    names = [name for name in found if not _is_part_of_tensors(name)]
    return [name for name in names if " " not in name] or names


def _is_part_of_tensors(name: str) -> bool:
    plain = getattr(torch, name.removeprefix("torch."), None) if name.startswith("torch.") else None
    return (
        name.startswith(_TENSOR_PARTS)
        or name.endswith("Storage")
        or isinstance(plain, torch.dtype)
        or plain is torch.Size
    )


def _without_prefix(state: dict[str, Any], wanted: Any, notes: list[str]) -> dict[str, Any]:
    wanted = set(wanted)
    while state and not wanted & state.keys():
        prefix = next((each for each in PREFIXES if all(key.startswith(each) for key in state)), None)
        if prefix is None:
            break
        notes.append(f"The prefix {prefix!r} was taken off the names of the weights.")
        state = {key[len(prefix) :]: value for key, value in state.items()}
    return state


def _truly_missing(model: nn.Module, missing: list[str]) -> list[str]:
    """Names that were not loaded under any other name either: tied weights are stored once."""
    entries = model.state_dict(keep_vars=True)
    loaded = {id(tensor) for name, tensor in entries.items() if name not in missing}
    return [name for name in missing if id(entries.get(name)) not in loaded]


def _all_tensors(content: Mapping[str, Any]) -> bool:
    return all(isinstance(value, Tensor) or key.endswith("_extra_state") for key, value in content.items())


def _damaged(path: Path, what: str, error: Exception) -> SubjectError:
    reason = (
        re.split(r"\. |\n", str(error).strip().removeprefix("Weights only load failed. "))[0] or type(error).__name__
    )
    if "PyTorch 2.6" in reason:  # torch's advice, not a reason
        reason = "it is no archive and no pickle that torch wrote"
    return SubjectError(
        f"The {what} is damaged or not what its name says: {reason[:200]}.",
        where=str(path),
        advice="Write or download it again; a cut-off download is the usual reason.",
    )


def _some(names: Any, count: int = 5) -> str:
    names = list(names)
    rest = len(names) - count
    return ", ".join(map(str, islice(names, count))) + (f" and {rest} more" if rest > 0 else "")
