"""Flags from settings: every field of a pydantic model becomes a flag, and the flags that were given override a file.

Flags carry types and help only; ranges and rules between fields are checked once, on the whole configuration, so that
a flag may correct what the file says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_origin

from cyclopts import Group, Parameter
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, create_model

from assay.cli.failures import flag_of
from assay.config import AuditConfig, configuration, read_config
from assay.errors import UsageError


def split_commas(value: Any) -> Any:
    """A sequence of texts with the commas taken apart, so that `0.1,0.2` and `0.1 0.2` are the same.

    Returns:
        The values; anything else as it is.

    Example:
        >>> split_commas(["0.1,0.2", "0.3"])
        ['0.1', '0.2', '0.3']
    """
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        return value
    return [part.strip() for each in value for part in each.split(",") if part.strip()]


def flags_of(model: type[BaseModel]) -> type[BaseModel]:
    """A model with the same fields, defaults and descriptions and no constraints: what the command line offers.

    Nested models become groups of flags, `--section.field`. What was given is in `model_fields_set`.

    Returns:
        The class; cyclopts takes it as the type of a parameter.
    """
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            section = flags_of(kind)
            group = Group(f"{name.replace('_', ' ').capitalize()}: {field.description}")
            parameter = Parameter(name=name, group=group, json_dict=False, json_list=False)
            fields[name] = (Annotated[section, parameter], Field(default=section(), description=field.description))
            continue
        if get_origin(kind) is tuple:
            kind = Annotated[kind, BeforeValidator(split_commas), Parameter(consume_multiple=1)]
        fields[name] = (kind, Field(default=field.default, description=field.description))
    return create_model(f"{model.__name__}Flags", __doc__=model.__doc__, **fields)


def merged(
    given: BaseModel,
    *,
    file: Path | None = None,
    seed: int | None = None,
    strict: bool = False,
    preset: str | None = None,
) -> AuditConfig:
    """The configuration of a run: defaults, preset, file, then `--seed` and `--strict`, then flags of single fields.

    Args:
        given: what `flags_of(configuration())` parsed.
        file: TOML file.
        seed: seed of every analysis.
        strict: forbid approximating operators without a rule.
        preset: name of a preset, whose values the file and the flags override.

    Returns:
        The configuration, checked.

    Raises:
        UsageError: for a bad file or value, naming the key or the flag.
    """
    kind = configuration()
    base = kind() if file is None else read_config(file)
    # what nobody set stays unset: an analysis may fit such values to the model's size
    sections = {name: getattr(base, name) for name in kind.model_fields}
    content = {name: settings.model_dump(exclude_unset=True) for name, settings in sections.items()}
    if preset is not None:
        _underlay(content, preset, file)
    flags = dict(given_flags(given))
    for section, settings in sections.items():
        if seed is not None and "seed" in type(settings).model_fields:
            content[section]["seed"] = seed
        if strict and "fallback" in type(settings).model_fields:
            if flags.get((section, "fallback"), "error") != "error":
                raise UsageError(
                    "--strict forbids what this flag asks for.",
                    where=flag_of((section, "fallback")),
                    advice="Drop one of the two.",
                )
            content[section]["fallback"] = "error"
    for (section, name), value in flags.items():
        content[section][name] = value
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        refusal = _refused(error, list(flags), seed)
        raise refusal from error


def _underlay(content: dict[str, dict[str, Any]], preset: str, file: Path | None) -> None:
    """Put a preset under what a file says; a file made with another preset contradicts it."""
    from assay.presets import efforts

    for section, values in efforts(preset).items():
        said = content[section].get("effort", preset)
        if said != preset:
            raise UsageError(
                f"--{preset} contradicts the file, which says effort = {said!r} for {section}.",
                where=str(file),
                advice=f"Drop --{preset}, or remove that line.",
            )
        content[section] = values | content[section]


def given_flags(given: BaseModel) -> Iterator[tuple[tuple[str, str], Any]]:
    """((section, field), value) of every flag that was on the command line."""
    for section in given.model_fields_set:
        settings = getattr(given, section)
        for name in settings.model_fields_set:
            yield (section, name), getattr(settings, name)


def _refused(error: ValidationError, flags: Sequence[tuple[str, str]], seed: int | None) -> UsageError:
    first = error.errors()[0]
    path = tuple(str(part) for part in first["loc"][:2])
    suspects = [flag_of(flag) for flag in flags if flag[: len(path)] == path]  # a rule between fields names a section
    if not suspects and seed is not None and path[-1] == "seed":
        suspects = ["--seed"]
    sentence = first["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(first["input"], dict) else f", not {repr(first['input'])[:80]}"
    return UsageError(
        f"{' and '.join(suspects)}: {sentence.rstrip('.')}{shown}.",
        where=", ".join(suspects),
        advice="`assay audit --help` says what each flag takes.",
    )
