"""The configuration of an audit: one section per analysis, from which TOML file and command-line flags are made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assay.boundary.config import BoundaryConfig
from assay.errors import UsageError
from assay.filtering.config import FilteringConfig
from assay.moments.config import MomentsConfig
from assay.sensitivity.config import SensitivityConfig
from assay.smoothness.config import SmoothnessConfig


class AuditConfig(BaseModel):
    """Settings of every analysis."""

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
    """
    try:
        return AuditConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{key}: {first['msg']}", where=where, advice="See `assay audit --help` for keys and ranges."
        ) from error


def to_toml(config: AuditConfig) -> str:
    """What was set, as TOML; the rest are defaults, so reading it back gives the same configuration."""
    import tomlkit

    return tomlkit.dumps(config.model_dump(mode="json", exclude_none=True, exclude_unset=True))
