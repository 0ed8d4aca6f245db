"""Settings of the boundary analysis: the single truth for Python, the TOML file and the command line."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from assay.effort import Effort, Starts

Part = Literal["curvature", "noise", "paths", "detection"]


class BoundaryConfig(BaseModel):
    """Which questions to ask about the decision boundary, of how many inputs, and when to warn.

    Example:
        >>> BoundaryConfig(inputs=20).inputs
        20
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    STARTS: ClassVar[Starts] = {
        "quick": {
            "inputs": 48, "certified_inputs": 2, "probes": 30, "spectrum_inputs": 3, "noise_draws": 500, "pairs": 5,
            "certified_segments": 5, "slices": 1,
        },
        "thorough": {
            "inputs": 300, "certified_inputs": 24, "probes": 100, "spectrum_inputs": 40, "noise_draws": 10000,
            "pairs": 60, "certified_segments": 60, "slices": 4,
        },
    }  # fmt: skip
    effort: Effort = "standard"
    inputs: Annotated[int, Field(gt=0, description="Most inputs to find boundary points of, spread over the data.")] = (
        100
    )
    respect_bounds: Annotated[bool, Field(description="Keep boundary points inside the data's legal range.")] = False
    parts: Annotated[
        tuple[Part, ...],
        Field(description="What to look at besides distances: curvature, noise, paths, detection."),
    ] = ("curvature", "noise", "paths", "detection")
    certified_inputs: Annotated[
        int, Field(ge=0, description="Inputs that also get a guaranteed distance, where the layers allow one.")
    ] = 8
    estimator: Annotated[
        Literal["auto", "exact", "difference", "frames", "gaussian", "softplus"],
        Field(description="How curvature is measured; auto is exact on smooth networks, frames on others."),
    ] = "auto"
    scale: Annotated[
        float | None,
        Field(gt=0, allow_inf_nan=False, description="Length over which curvature is measured; by dimension if unset."),
    ] = None
    probes: Annotated[int, Field(ge=2, description="Random directions per mean curvature.")] = 60
    spectrum_inputs: Annotated[int, Field(ge=0, description="Inputs whose principal curvatures are computed.")] = 12
    top: Annotated[int, Field(gt=0, description="Principal curvatures at each end.")] = 5
    noise_levels: Annotated[
        tuple[float, ...],
        Field(min_length=1, description="Noise deviations over the distance to the boundary, for flip probabilities."),
    ] = (0.3, 0.5, 0.7)
    noise_draws: Annotated[int, Field(ge=100, description="Noisy copies per input that check them.")] = 2000
    pairs: Annotated[int, Field(gt=0, description="Pairs of inputs to find paths between, per kind of pair.")] = 20
    certified_segments: Annotated[
        int, Field(ge=0, description="Paths whose every segment is to be certified, where the layers allow it.")
    ] = 20
    slices: Annotated[int, Field(ge=0, description="Planes through three inputs to draw class regions of.")] = 2
    attack_sizes: Annotated[
        tuple[float, ...],
        Field(min_length=1, description="Sizes of the perturbations to detect, in distances to the boundary."),
    ] = (1.0, 1.5, 2.0)
    false_positive_rate: Annotated[
        float, Field(gt=0, lt=1, description="Share of clean inputs that the detector may flag.")
    ] = 0.05
    batch_size: Annotated[int | None, Field(gt=0, description="Samples per pass; by memory when not given.")] = None
    seed: Annotated[int, Field(ge=0, description="Seed of all random directions.")] = 0
    near_below: Annotated[
        float, Field(gt=0, description="Median relative distance below which the boundary is near everywhere.")
    ] = 0.05

    @model_validator(mode="after")
    def _increasing(self) -> Self:
        for name in ("noise_levels", "attack_sizes"):
            values = getattr(self, name)
            if min(values) <= 0 or list(values) != sorted(set(values)):
                raise ValueError(f"{name} must be positive and increase strictly, got {values}")
        return self
