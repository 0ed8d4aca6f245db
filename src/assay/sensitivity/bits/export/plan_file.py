"""A plan as a JSON file: versioned, checked on reading, and ready for `simulate` again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from assay.errors import UsageError

if TYPE_CHECKING:
    from assay.sensitivity.bits.plan import Plan
    from assay.sensitivity.roundoff.formats import Format
    from assay.sensitivity.roundoff.sites import Precision

SCHEMA = "assay.bit-plan/1"


class StoredFormat(BaseModel):
    """A number format by name, with the fixed scales of an activation.

    Attributes:
        format: name as in `as_format`.
        bits: storage bits per number.
        scales: fixed scales; None where they come from the tensor.
        zero_points: of affine formats.
        axis: channel axis of the scales.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: str
    bits: int
    scales: tuple[float, ...] | None = None
    zero_points: tuple[int, ...] | None = None
    axis: int = 0

    @classmethod
    def of(cls, target: Format) -> StoredFormat:
        """Store a format."""
        from assay.sensitivity.roundoff.integers import IntegerFormat

        if not isinstance(target, IntegerFormat):
            return cls(format=target.name, bits=target.bits)
        return cls(
            format=target.name,
            bits=target.bits,
            scales=target.scales,
            zero_points=target.zero_points,
            axis=target.axis,
        )

    def restored(self) -> Format:
        """The format again."""
        from dataclasses import replace

        from assay.sensitivity.roundoff.formats import as_format
        from assay.sensitivity.roundoff.integers import IntegerFormat

        target = as_format(self.format)
        if isinstance(target, IntegerFormat):
            return replace(target, scales=self.scales, zero_points=self.zero_points, axis=self.axis)
        return target


class Site(BaseModel):
    """Formats at one node of the graph.

    Attributes:
        weights: format of what multiplies there, or None.
        activations: format of the stored value, or None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    weights: StoredFormat | None = None
    activations: StoredFormat | None = None


class Measured(BaseModel):
    """What a real run said; attributes as in `Verified`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    agreement: float | None
    relative_error: float
    error: float
    accuracy: float | None
    exact_accuracy: float | None
    samples: int


class PlanFile(BaseModel):
    """A stored plan.

    Attributes:
        schema_version: `SCHEMA`.
        model: name of the model.
        model_digest: SHA-256 of the model it was made for.
        kind: mixed or uniform.
        method: the score it was chosen by.
        average_bits: bits per weight.
        layers: format of the weights by layer name (module path).
        sites: formats by node of the prepared graph, as `simulate` takes them.
        input: format of the network's input, or None.
        predicted: relative output error predicted, or None.
        verified: what a real run said.
        uniform: the same for one format everywhere, or None.
        uniform_format: that format's name.
        notes: how it came about.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal["assay.bit-plan/1"] = SCHEMA
    model: str
    model_digest: str
    kind: Literal["mixed", "uniform"]
    method: str
    average_bits: float
    layers: dict[str, StoredFormat]
    sites: dict[str, Site]
    input: StoredFormat | None
    predicted: float | None
    verified: Measured
    uniform: Measured | None
    uniform_format: str
    notes: tuple[str, ...]

    @property
    def bits(self) -> dict[str, int]:
        """Bits per weight by layer name."""
        return {name: stored.bits for name, stored in self.layers.items()}

    @property
    def precision(self) -> tuple[Precision, dict[str, Precision]]:
        """The plan as `simulate(model, x, precision, layers=...)` takes it."""
        from assay.sensitivity.roundoff.sites import Precision

        def made(stored: StoredFormat | None) -> Format | None:
            return None if stored is None else stored.restored()

        sites = {
            name: Precision(weights=made(site.weights), activations=made(site.activations))
            for name, site in self.sites.items()
        }
        return Precision(input=made(self.input)), sites


def write_plan(plan: Plan, path: Path) -> Path:
    """Write a plan as JSON.

    Args:
        plan: the plan.
        path: the file; its folder must exist.

    Returns:
        The file.
    """

    def stored(target: Format | None) -> StoredFormat | None:
        return None if target is None else StoredFormat.of(target)

    network, sites = plan.precision
    file = PlanFile(
        model=plan.subject.name,
        model_digest=plan.subject.digest,
        kind=plan.kind,
        method=plan.method,
        average_bits=plan.average_bits,
        layers={name: StoredFormat.of(target) for name, target in plan.formats.items()},
        sites={
            name: Site(weights=stored(site.weights), activations=stored(site.activations))
            for name, site in sites.items()
            if site.weights is not None or site.activations is not None
        },
        input=stored(network.input),
        predicted=plan.predicted,
        verified=Measured.model_validate(plan.verified.to_dict()),
        uniform=None if plan.uniform is None else Measured.model_validate(plan.uniform.to_dict()),
        uniform_format=plan.uniform_format,
        notes=plan.notes,
    )
    path.write_text(file.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return path


def read_plan(path: str | Path) -> PlanFile:
    """Read a plan written by `write_plan`.

    Args:
        path: the file.

    Returns:
        The plan, checked.

    Raises:
        UsageError: when the file is missing or is not such a plan.
    """
    path = Path(path)
    try:
        return PlanFile.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            "There is no such plan file.", where=str(path), advice="Write one with plan.export."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"This is not a bit plan of schema {SCHEMA}: {place}: {first['msg']}.",
            where=str(path),
            advice="Write it again with plan.export of this version.",
        ) from error
