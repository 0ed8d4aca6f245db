"""Presets: how much to do, in one word, with what it costs; `--quick`, `--standard`, `--thorough`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from assay.config import AuditConfig, configuration
from assay.effort import Level


@dataclass(frozen=True)
class Preset:
    """A level of effort for every analysis at once.

    A preset sets the field `effort` of every analysis that has it and nothing else: any other value may be set beside
    it, and the settings of a run name it, so the same run can be made again.

    Attributes:
        name: of the preset.
        about: what it does, in a sentence.
        cost: what it takes, in a sentence; measured once on two cores where it does not say estimated.
    """

    name: Level
    about: str
    cost: str

    def config(self) -> AuditConfig:
        """The settings.

        Returns:
            What an audit with this preset and nothing else runs with.

        Example:
            >>> PRESETS["quick"].config().moments.effort
            'quick'
        """
        return configuration().model_validate(efforts(self.name))


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        each.name: each
        for each in (
            Preset(
                "quick",
                "A first look: few inputs, and on large models only the cheapest parts.",
                "Estimated: less than a minute for a small network, minutes for MobileNetV2 at 224 pixels.",
            ),
            Preset(
                "standard",
                "The default: every analysis, each within a fixed number of operations.",
                "A minute for a small network; SqueezeNet at 227 pixels, 20 photos: 19 minutes and 3.5 GB.",
            ),
            Preset(
                "thorough",
                "More inputs, draws and paths, and ten times the operations for each analysis.",
                "Estimated: an hour for a small network, several hours for MobileNetV2.",
            ),
        )
    }
)


def efforts(name: str) -> dict[str, dict[str, str]]:
    """The values that a preset sets, by section; an analysis without a field `effort` has no presets."""
    sections = {section: field.annotation for section, field in configuration().model_fields.items()}
    return {section: {"effort": name} for section, kind in sections.items() if "effort" in _fields(kind)}


def _fields(kind: object) -> Mapping[str, object]:
    return getattr(kind, "model_fields", {})
