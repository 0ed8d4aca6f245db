"""How much an analysis does where the user did not say: three levels, counted in operations and never in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from assay.subject import Subject

Level = Literal["quick", "standard", "thorough"]
Effort = Annotated[
    Level,
    Field(
        description="How much to do where nothing else is set: quick, standard or thorough; large models get less by "
        "a fixed formula, which the result tells."
    ),
]
"""The field `effort` of an analysis' settings. One that has it follows `--quick`, `--standard` and `--thorough`."""

Starts = Mapping[Level, Mapping[str, Any]]
"""By level of effort, the values that fields begin at when nobody set them; a class attribute `STARTS` of settings."""

SHARE: Mapping[Level, float] = {"quick": 0.1, "standard": 1.0, "thorough": 10.0}
"""Budgets in units of the standard ones."""

Config = TypeVar("Config", bound=BaseModel)


@dataclass(frozen=True)
class Estimate:
    """What an analysis will cost, before it runs.

    Attributes:
        text: the plan in plain words.
        operations: multiplications and additions, those in double precision as what they take; None where unknown.
        memory: bytes that it will hold at once, besides model, data and libraries.
        disk: bytes that it keeps in the run directory.
        seconds: (low, expected, high) wall time where the analysis measured it itself.
        runs: whether it can run at all.
    """

    text: str
    operations: float | None = 0.0
    memory: float = 0.0
    disk: float = 0.0
    seconds: tuple[float, float, float] | None = None
    runs: bool = True

    def __str__(self) -> str:
        return self.text


def begun(config: Config) -> Config:
    """The settings with the values that their level of effort begins at, where they were not set.

    Args:
        config: settings with a field `effort` and, by level, values of other fields in `STARTS`; what is not in there
            keeps its default.

    Returns:
        The settings; what the user set stays.

    Example:
        >>> from typing import ClassVar
        >>> class Settings(BaseModel):
        ...     STARTS: ClassVar[Starts] = {"quick": {"inputs": 5}}
        ...     effort: Effort = "standard"
        ...     inputs: int = 30
        >>> begun(Settings(effort="quick")).inputs
        5
        >>> begun(Settings(effort="quick", inputs=40)).inputs
        40
    """
    starts: Starts = getattr(type(config), "STARTS", {})
    values = starts.get(config.effort, {})  # pyright: ignore[reportAttributeAccessIssue]
    return changed(config, {name: each for name, each in values.items() if name not in config.model_fields_set})


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """The settings with some values replaced, which still count as not set by the user.

    Returns:
        The settings; the same object when there is nothing to replace.
    """
    if not values:
        return config
    return type(config).model_construct(_fields_set=set(config.model_fields_set), **(dict(config) | dict(values)))


def per_pass(subject: Subject) -> float:
    """Operations of one forward pass of one input; for a model that cannot be captured, a guess from its size."""
    from assay.errors import SubjectError
    from assay.graph.cost import operations

    try:
        return float(sum(operations(subject.graph).values()))
    except SubjectError:
        weights = sum(each.numel() for each in subject.model.parameters())
        return float(max(100 * subject.example[0].numel(), 2 * weights))


def lowered(names: Mapping[str, Any], what: str = "The model is large, so less was looked at than by default") -> str:
    """The sentence that tells which settings were lowered; empty for none."""
    said = ", ".join(f"{name} = {value}" for name, value in names.items())
    return f"{what}: {said}. Set these to have more." if said else ""
