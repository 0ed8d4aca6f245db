"""Is an export format safe to offer: the same bytes twice, whole files or none, nothing that a name can run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy

from assay.grade import Grade
from assay.results import Audit, Column, Figure, Finding, Provenance, Quantity, Result, Status, Table

Renderer = Callable[[Audit, Path], list[Path]]

_MARKUP = "</script></style><img src=x onerror=assay(1)>"
_LINE = "::error::assay-injected"
_UNSEEN = "\x00\x1b\x9b\u202e"
_HOSTILE = f"{_MARKUP}\n{_LINE}\r\n{_LINE} & ]]> 100% {_UNSEEN} \ud800"
_PICKLES = tuple(b"\x80" + bytes([version]) for version in (2, 3, 4, 5))
_BOUNDED = (".csv", ".tsv")
"""Formats in which a quoted cell may hold a line break."""


def check_renderer(renderer: Renderer, audit: Audit | None = None) -> None:
    """Conformance test of one export format.

    The files it returns exist, are where it was told, and are all it leaves; the same audit gives the same bytes; what
    is there is replaced by a whole file, so that nobody reads half of it; and names from models and data, however
    hostile, stay text: no markup, no line of their own, no unseen characters, no pickle, nothing executable.

    Args:
        renderer: writes an audit to a path and returns the files.
        audit: what to write; one full of hostile names when None, which finds most.

    Raises:
        AssertionError: listing everything that is wrong.
    """
    first = audit if audit is not None else hostile_audit()
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        wrong, files = _written(renderer, first, Path(one))
        _, others = _written(renderer, first, Path(two))
        if files.keys() != others.keys() or any(others[name] != content for name, content in files.items()):
            wrong.append("the same audit gives other bytes")
        wrong += [sentence for name, content in files.items() for sentence in _inert_faults(name, content)]
        wrong += [f"{name} is executable" for name in files if os.access(Path(one) / name, os.X_OK)]
        wrong += _half_faults(renderer, Path(two), others)
    assert not wrong, "renderer:\n" + "\n".join(wrong)


def hostile_audit(value: float = 0.5) -> Audit:
    """A small audit whose every name and sentence is what a stranger might put there.

    Args:
        value: a number in it.

    Returns:
        The audit; strings hold markup, line breaks, workflow commands, unseen characters and a lone surrogate.
    """
    columns = (Column("place", _HOSTILE, node=True), Column("=1+1", "size", "sd", Grade.EXACT, _HOSTILE))
    rows = ((_HOSTILE, value), ("=HYPERLINK(1)", None), ("", float("nan")))
    result = Result(
        name="moments",
        title=f"Title {_HOSTILE}",
        question=_HOSTILE,
        summary={"size": Quantity(value, Grade.SAMPLED, "sd", _HOSTILE, value - 0.1, value + 0.1, "95 %")},
        tables={"layers": Table("layers", _HOSTILE, columns, rows, _HOSTILE)},
        arrays={"map": numpy.arange(6.0).reshape(2, 3)},
        figures=(Figure("heatmaps", _HOSTILE, _HOSTILE, {"panels": [{"title": _HOSTILE, "array": "map"}]}),),
        findings=(
            Finding("moments.size", Status.FAIL, f"It is {value}. {_HOSTILE}", _HOSTILE, _HOSTILE),
            Finding("moments.fine", Status.PASS, "All is well."),
        ),
        warnings=(_HOSTILE,),
        provenance=Provenance("moments", _HOSTILE, "0", _HOSTILE, "0", {"seed": 0}, 0, {"torch": "2"}, (_HOSTILE,)),
    )
    nodes = Table("graph", "Layers", (Column("node", "node", node=True),), ((_HOSTILE,),))
    subject = {"name": _HOSTILE, "class_names": [_HOSTILE], "warnings": [_HOSTILE], "task": "classification"}
    return Audit(subject, {"moments": result}, {_HOSTILE: _HOSTILE}, "", nodes)


def _written(renderer: Renderer, audit: Audit, folder: Path) -> tuple[list[str], dict[str, bytes]]:
    """Faults, and content by path of what the renderer left in a folder."""
    returned = renderer(audit, folder / "out")
    left = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
    if not isinstance(returned, list) or not returned:
        return ["it does not return the list of files it wrote"], left
    wrong = []
    named = set()
    for path in map(Path, returned):
        if not path.is_file():
            wrong.append(f"it returns {path.name}, which it did not write")
        elif not path.resolve().is_relative_to(folder.resolve()):
            wrong.append(f"it writes to {path}, not where it was told")
        else:
            named.add(path.resolve().relative_to(folder.resolve()).as_posix())
    wrong += [f"it leaves {name}, which it does not return" for name in sorted(left.keys() - named)]
    return wrong, left


def _inert_faults(name: str, content: bytes) -> list[str]:
    if content.startswith(_PICKLES):
        return [f"{name} looks like a pickle, which runs code when it is read"]
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return []
    if "\x00" in text and not any(mark in text for mark in _UNSEEN[1:]):
        return []  # a binary format that happens to decode
    wrong = []
    if _MARKUP in text and text.lstrip()[:1] == "<":
        wrong.append(f"{name}: markup in a name is markup in the file")
    if name.endswith(_BOUNDED):
        return wrong
    if any(line.startswith(_LINE) for line in text.splitlines()):
        wrong.append(f"{name}: a name can begin a line of its own")
    if any(character in text for character in _UNSEEN):
        wrong.append(f"{name}: control or direction-changing characters of a name are in the file")
    return wrong


def _half_faults(renderer: Renderer, folder: Path, files: dict[str, bytes]) -> list[str]:
    """A second name for each file keeps what was there, unless it is written over in place."""
    kept = {name: folder / f"kept-{index}" for index, name in enumerate(files)}
    for name, other in kept.items():
        os.link(folder / name, other)
    renderer(hostile_audit(0.25), folder / "out")
    spoilt = [name for name, other in kept.items() if other.read_bytes() != files[name]]
    return [f"{name} is written over in place: a reader may see half of it; use write_atomic" for name in spoilt]
