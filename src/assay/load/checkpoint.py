"""Files of weights, read without executing code: safetensors, and pickles that hold nothing but tensors."""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterable
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


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # the file may be anything; the library's own errors are of several classes
        raise _damaged(path, "safetensors file", error) from error


def _read_pickle(path: Path, trust: Trust) -> Any:
    if _is_archive(path):
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
                f"The file holds pickled objects, not only tensors: {some_of(foreign, 3)}. Loading them executes code, "
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
        if not _is_archive(path):
            with path.open("rb") as stream:
                return _globals(stream)
        with zipfile.ZipFile(path) as archive:
            member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(member) as stream:
                return _globals(stream)
    except Exception:  # a damaged archive can fail anywhere
        return []


def _is_archive(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"  # torch decides by the same bytes


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


def some_of(names: Iterable[Any], count: int = 5) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    rest = len(names) - count
    return ", ".join(map(str, islice(names, count))) + (f" and {rest} more" if rest > 0 else "")
