"""Write the pages of the documentation that list what the code offers: docs/reference/{cli,configuration,costs}.md.

python tools/make_reference.py cli              the verbs and their options; takes a second
python tools/make_reference.py configuration    the settings of every analysis; takes a second
python tools/make_reference.py costs            what an audit will do, for some networks and presets; takes a minute

A test compares the first two with the code, and of the third what concerns the built-in network.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
NETWORKS = ("squeezenet1_1", "mobilenet_v2", "resnet18")
"""Of torchvision, with random weights: costs do not depend on them."""
PHOTOS = 20


def cli_page() -> str:
    """docs/reference/cli.md: every verb, its arguments and options."""
    from assay.cli.program import EPILOGUE, application, verbs
    from assay.config import AuditConfig

    app, sections = application(), set(AuditConfig.model_fields)
    lines = [
        "# Command line",
        "",
        "Made by `python tools/make_reference.py cli`.",
        "",
        EPILOGUE.replace("\\\n", " "),
        "",
        "Every verb has `--help`. Options with several values take them with commas or spaces:",
        "`--moments.sigmas 0.05,0.1`.",
        "",
        *_header(["verb", "what it does"]),
        *(_line([f"[`assay {name}`](#{name})", said]) for name, said in verbs().items()),
    ]
    for name, said in verbs().items():
        lines += ["", f"## {name}", "", said, "", f"    {_usage(name, app[name])}"]
        lines += _options(app[name], sections)
    return "\n".join(lines) + "\n"


def _usage(name: str, app: Any) -> str:
    wanted = [each for each in app.assemble_argument_collection() if each.show and each.names]
    places = " ".join(each.names[0] for each in wanted if not each.names[0].startswith("-"))
    options = " [OPTIONS]" if any(each.names[0].startswith("-") for each in wanted) else ""
    return f"assay {name} {places}{options}".replace("  ", " ").rstrip()


def _options(app: Any, sections: set[str]) -> list[str]:
    groups: dict[str, list[Any]] = {}
    settings: dict[str, None] = {}
    for each in app.assemble_argument_collection():
        if not each.show or not each.names or each.names == ("*",):
            continue
        first = each.names[0].lstrip("-").partition(".")[0]
        if each.names[0].startswith("--") and "." in each.names[0] and first in sections:
            settings[first] = None
            continue
        group = next((group.name for group in each.parameter.group or () if group.name), "Options")
        title = group.partition(":")[0]
        if title.lower() in sections:  # the verb of one analysis, whose settings are options without the section's name
            settings[title.lower()] = None
            continue
        groups.setdefault(title, []).append(each)
    lines: list[str] = []
    for title, options in groups.items():
        lines += ["", *_header([title, "takes", "default", "what it does"])]
        lines += [_option(each) for each in options]
    if settings:
        links = ", ".join(f"[{name}](configuration.md#{name})" for name in settings)
        lines += ["", f"And the settings of {links}."]
    return lines


def _option(each: Any) -> str:
    names = ", ".join(f"`{name}`" for name in each.names if not name.startswith(("--no-", "--empty-")))
    kind = "" if each.hint is bool else _kind(each.hint)
    default = each.field_info.default
    shown = "" if each.required else _default(default if default is not False else None)
    return _line([names, kind, "required" if each.required else shown, each.parameter.help or ""])


def configuration_page() -> str:
    """docs/reference/configuration.md: every field of every analysis' settings."""
    from assay.config import AuditConfig
    from assay.presets import PRESETS

    lines = [
        "# Configuration",
        "",
        "Made by `python tools/make_reference.py configuration`.",
        "",
        "One set of settings per analysis. The same names are keys of a TOML file (`--config FILE`, sections in",
        "brackets), flags (`--moments.inputs 16`, with dashes for underscores) and fields of `assay.AuditConfig`. A",
        "flag goes before the file, the file before a preset. A key that does not exist, or a value out of range,",
        "is an error that names it.",
        "",
        "```toml",
        "[moments]",
        "sigmas = [0.05, 0.1]",
        "",
        "[sensitivity]",
        'formats = ["bf16", "int8"]',
        "```",
        "",
        "Presets set how much is done where nothing else is said:",
        "",
        *_header(["preset", "what it does", "cost"]),
        *(_line([f"`--{name}`", each.about, each.cost]) for name, each in PRESETS.items()),
    ]
    for section, field in AuditConfig.model_fields.items():
        kind: Any = field.annotation
        lines += ["", f"## {section}", "", field.description or _first(kind), ""]
        lines += _header(["key", "takes", "default", "what it does"])
        for name, each in kind.model_fields.items():
            takes = ", ".join(filter(None, [_kind(each.annotation), _range(each.metadata)]))
            lines.append(_line([f"`{name}`", takes, _default(each.default), each.description or ""]))
    return "\n".join(lines) + "\n"


def _first(kind: type) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0]


def _kind(kind: Any) -> str:
    """A type in words.

    Returns:
        The words; nothing for a type that has none.

    Example:
        >>> _kind(tuple[float, ...] | None)
        'numbers'
    """
    if getattr(kind, "__value__", None) is not None:
        return _kind(kind.__value__)
    origin, parts = get_origin(kind), [each for each in get_args(kind) if each not in (NoneType, Ellipsis)]
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in parts)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_kind(each) for each in parts))
    if origin is not None and hasattr(kind, "__metadata__"):
        return _kind(parts[0])
    if origin in (tuple, list):
        several = {float: "numbers", int: "integers", str: "texts", Path: "paths"}
        return "some of " + _kind(parts[0]) if get_origin(parts[0]) is Literal else several.get(parts[0], "values")
    return {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path"}.get(kind, "")


def _range(metadata: Iterable[Any]) -> str:
    signs = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most", "min_length": "at least"}
    found = []
    for each in metadata:
        for name, word in signs.items():
            value = getattr(each, name, None)
            if value is not None:
                found.append(f"{word} {value:g}" if name != "min_length" else f"{word} {value} of them")
    return ", ".join(found)


def _default(value: Any) -> str:
    from pydantic_core import PydanticUndefined

    if value is None or value is PydanticUndefined or value == ():
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def costs_page() -> str:
    """docs/reference/costs.md: what the plans say, network by network and preset by preset."""
    lines = [
        "# Costs",
        "",
        "Made by `python tools/make_reference.py costs`.",
        "",
        "What an audit will do is counted before it runs, from the network's graph, the settings and the number of",
        "inputs; `assay plan` says it for your network. Operations are multiplications and additions in billions,",
        "those in double precision counted twice. Memory is what an analysis holds at once, besides model, data and",
        "libraries. Networks too large for the budget of a part get less of it, by a fixed formula, and the result",
        "tells; so operations stay within limits while networks grow. Formulas by method are on the pages of the",
        "[methods](../methods.md), measured times in the README and there.",
        "",
        "## digits demo, 500 inputs of 1 x 8 x 8",
        "",
        *demo_costs(),
    ]
    for name in NETWORKS:
        lines += ["", f"## torchvision:{name}, {PHOTOS} photos of 3 x 224 x 224", "", *_costs(_photos(name))]
    return "\n".join(lines) + "\n"


def demo_costs() -> list[str]:
    """The table of the built-in network."""
    from assay.load import load_subject

    return _costs(load_subject("demo"))


def _photos(name: str) -> Any:
    import torch
    from torchvision.models import get_model

    from assay import Data, Subject

    torch.manual_seed(0)
    data = Data(torch.rand(PHOTOS, 3, 224, 224), torch.arange(PHOTOS), "photos", bounds=(0.0, 1.0))
    return Subject.from_model(get_model(name, weights=None).eval(), data, name=name)


def _costs(subject: Any) -> list[str]:
    from assay.analyses import BUILT_IN
    from assay.presets import PRESETS

    lines = _header(
        ["analysis", *(f"{name}: operations" for name in PRESETS), *(f"{name}: memory" for name in PRESETS)]
    )
    for analysis, record in BUILT_IN.items():
        found: Mapping[str, Any] = {
            name: record.plan(subject, getattr(preset.config(), analysis))  # pyright: ignore[reportCallIssue]
            for name, preset in PRESETS.items()
        }
        operations = [f"{each.operations / 1e9:,.0f}" if each.runs else "" for each in found.values()]
        memory = [f"{each.memory / 2**20:,.0f} MB" if each.runs and each.memory else "" for each in found.values()]
        lines.append(_line([analysis, *operations, *memory]))
    return lines


def _header(columns: list[str]) -> list[str]:
    return [_line(columns), _line(["---"] * len(columns))]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


PAGES = {"cli": cli_page, "configuration": configuration_page, "costs": costs_page}


def main() -> None:
    """Write one page, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("page", choices=[*PAGES, "all"])
    chosen = parser.parse_args().page
    for name, make in PAGES.items():
        if chosen in (name, "all"):
            (FOLDER / f"{name}.md").write_text(make(), encoding="utf-8")
            print(f"wrote docs/reference/{name}.md")


if __name__ == "__main__":
    main()
