"""The configuration of an audit: one section per analysis, from which TOML file and command-line flags are made.

`AuditConfig` has the sections of assay's analyses; `configuration()` those of other packages' as well.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from assay import analyses
from assay.boundary.config import BoundaryConfig
from assay.errors import PluginError, UsageError
from assay.filtering.config import FilteringConfig
from assay.moments.config import MomentsConfig
from assay.sensitivity.config import SensitivityConfig
from assay.smoothness.config import SmoothnessConfig


class AuditConfig(BaseModel):
    """Settings of every analysis.

    Example:
        >>> AuditConfig(moments=MomentsConfig(inputs=8)).moments.inputs
        8
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    moments: Annotated[MomentsConfig, Field(description="Gaussian noise in, mean and covariance out.")] = (
        MomentsConfig()
    )
    sensitivity: Annotated[SensitivityConfig, Field(description="Condition number of the network.")] = (
        SensitivityConfig()
    )
    filtering: Annotated[
        FilteringConfig, Field(description="Which weights the network depends on: fragile, robust, antifragile.")
    ] = FilteringConfig()
    boundary: Annotated[
        BoundaryConfig, Field(description="Where decisions flip, how the boundary bends, what that gives away.")
    ] = BoundaryConfig()
    smoothness: Annotated[
        SmoothnessConfig, Field(description="Kinks of the outputs along paths: from which layers, and what would help.")
    ] = SmoothnessConfig()


def configuration() -> type[AuditConfig]:
    """The class of configurations with a section for every analysis that is installed, also those of other packages.

    Returns:
        `AuditConfig` itself, or a class derived from it.

    Example:
        >>> configuration()().moments == AuditConfig().moments
        True
    """
    kinds = {name: analysis.config for name, analysis in analyses.usable().items()}
    return _extended(tuple(kinds.items())) if kinds else AuditConfig


@cache
def _extended(kinds: tuple[tuple[str, Any], ...]) -> type[AuditConfig]:
    sections: dict[str, Any] = {}
    for name, kind in kinds:
        heading = (kind.__doc__ or name).strip().splitlines()[0]
        sections[name] = (Annotated[kind, Field(description=heading)], kind())
    return create_model("AuditConfig", __base__=AuditConfig, __doc__=AuditConfig.__doc__, **sections)


def section(config: AuditConfig, name: str) -> Any:
    """Settings of one analysis; its defaults where the configuration has no such section.

    Args:
        config: of any class that `configuration` returned.
        name: of an analysis that is installed.

    Returns:
        An object of the analysis' own class.
    """
    found = getattr(config, name, None)
    kind = analyses.ANALYSES[name].config
    return kind() if found is None and kind is not None else found


def read_config(path: str | Path) -> AuditConfig:
    """Configuration from a TOML file; sections and keys that are absent keep their defaults.

    Args:
        path: the file.

    Returns:
        The validated configuration.

    Raises:
        UsageError: for a missing file, bad TOML, an unknown key or a value out of range, naming it.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        content = tomlkit.parse(Path(path).read_text(encoding="utf-8")).unwrap()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The configuration cannot be read: {error}", where=str(path), advice="Check the path."
        ) from error
    except TOMLKitError as error:
        raise UsageError(
            f"The configuration is not valid TOML: {error}", where=str(path), advice="Mend that line."
        ) from error
    return validated(content, str(path))


def validated(content: dict[str, object], where: str) -> AuditConfig:
    """Configuration from plain values.

    Returns:
        The validated configuration.

    Raises:
        UsageError: naming the first key that is wrong.
        refusal: for a section that no analysis has.
    """
    try:
        return configuration().model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            refusal = _no_section(str(first["loc"][0]), where)
            raise refusal from error
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{key}: {first['msg']}", where=where, advice="See `assay audit --help` for keys and ranges."
        ) from error


def _no_section(name: str, where: str) -> UsageError:
    """Why there is no such section: no analysis has that name, or the package that offers it is broken."""
    if name in analyses.offered():
        try:
            analyses.ANALYSES[name]
        except PluginError as error:
            return error
    return analyses.unknown(name, where=f"{where}, [{name}]")


def to_toml(config: AuditConfig) -> str:
    """What was set, as TOML; the rest are defaults, so reading it back gives the same configuration."""
    import tomlkit

    return tomlkit.dumps(config.model_dump(mode="json", exclude_none=True, exclude_unset=True))
