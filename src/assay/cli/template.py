"""A configuration file with every setting in it: what it is, what it may be, its default, commented out."""

from __future__ import annotations

import shlex
import textwrap
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from assay.config import configuration
from assay.effort import Starts
from assay.presets import PRESETS

WIDTH = 100
_OPEN = "#"
"""What a setting is commented out with: no blank after it, unlike prose."""
_BOUNDS = {
    "gt": "above {}",
    "ge": "at least {}",
    "lt": "below {}",
    "le": "at most {}",
    "min_length": "at least {} of them",
}
_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def template(
    *, preset: str | None = None, model: str | None = None, data: str | None = None, file: str | Path = "assay.toml"
) -> str:
    """The text of a configuration file for `assay audit --config`.

    Every setting of every analysis stands in it, commented out with its default, so the file as written changes
    nothing but the preset. What has no default is described only.

    Args:
        preset: name of a preset, which the file then sets.
        model: specification of a model, for the line that says how to use the file.
        data: likewise.
        file: likewise.

    Returns:
        TOML.

    Example:
        >>> print(template(preset="quick").splitlines()[0])
        # Settings of assay.
    """
    kind = configuration()
    use = [
        "assay",
        "audit",
        model or "MODEL",
        *(["--data", data or "DATA"] if not _own_data(model) else []),
        "--config",
        str(file),
    ]
    lines = [
        *_prose("Settings of assay."),
        *_prose(f"Use it with: {_printable(shlex.join(use))}"),
        "#",
        *_prose(
            "A line such as `#inputs = 32` is a setting with its default, commented out. Take away the # to set it. "
            "Flags on the command line override what is set here. What is not set here may be lowered for a large "
            "model, which the results then say; what is set never is."
        ),
        "#",
        *_prose("effort, the first setting of every section, is what --quick, --standard and --thorough set:"),
        *(line for each in PRESETS.values() for line in _prose(f"{each.name}: {each.about} {each.cost}", indent="  ")),
    ]
    for name, field in kind.model_fields.items():
        section: Any = field.annotation
        lines += ["", *_prose(field.description or ""), f"[{name}]"]
        for key, each in section.model_fields.items():
            lines += _setting(key, each, getattr(section, "STARTS", {}), preset if key == "effort" else None)
    return "\n".join(lines) + "\n"


def _setting(key: str, field: FieldInfo, starts: Starts, chosen: Any) -> list[str]:
    """Description, range and the line itself."""
    about = (field.description or "").strip()
    others = [f"{level}: {_toml(values[key])}" for level, values in starts.items() if key in values]
    allowed = "; ".join([f"{_kind(field.annotation)}{_range(field.metadata)}", *others])
    lines = ["", *_prose(f"{about} ({allowed})" if about else f"({allowed})")]
    default = field.get_default(call_default_factory=True)
    if chosen is not None:
        return [*lines, f"{key} = {_toml(chosen)}"]
    if default is None:
        return [*lines, f"# {key} is not set."]
    return [*lines, f"{_OPEN}{key} = {_toml(default)}"]


def _kind(annotation: Any) -> str:
    """What a value may be, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is Literal:
        return "one of " + ", ".join(_toml(each) for each in arguments)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        inner = _kind(arguments[0])
        return f"a list of {inner.removeprefix('one of ')}" if inner.startswith("one of ") else f"a list, each {inner}"
    if origin is tuple:
        return f"a list of {len(arguments)}, each {_kind(arguments[0])}"
    if arguments and (origin is Union or str(origin) == "<class 'types.UnionType'>"):
        return ", or ".join(_kind(each) for each in arguments if each is not type(None))
    return _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _range(metadata: list[Any]) -> str:
    found = []
    for constraint in metadata:
        for name, words in _BOUNDS.items():
            if (limit := getattr(constraint, name, None)) is not None:
                found.append(words.format(f"{limit:g}" if isinstance(limit, float) else limit))
    return f", {' and '.join(found)}" if found else ""


def _toml(value: Any) -> str:
    import tomlkit

    return tomlkit.item(list(value) if isinstance(value, tuple) else value).as_string()


def _prose(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"# {indent}", subsequent_indent=f"# {indent}", break_long_words=False
    )


def _printable(text: str) -> str:
    """Fit for a comment: a control character would end it."""
    return "".join(each if each.isprintable() else " " for each in text)


def _own_data(model: str | None) -> bool:
    return model is not None and model.startswith("demo")
