"""Settings of the sensitivity analysis: the single truth for Python, the TOML file and the command line."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from assay.effort import Effort, Starts
from assay.errors import UsageError


class SensitivityConfig(BaseModel):
    """What to compute and where the findings draw their lines.

    Example:
        >>> SensitivityConfig(inputs=8).relative_sizes
        (0.001, 0.01, 0.1)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    STARTS: ClassVar[Starts] = {
        "quick": {
            "inputs": 16, "random_directions": 50, "attack_steps": 15, "attack_random_starts": 1, "max_steps": 50,
            "frobenius_samples": 32, "section_inputs": 8, "bits_inputs": 100, "formats": ("bf16", "int8"),
        },
        "thorough": {
            "inputs": 256, "random_directions": 500, "attack_steps": 100, "attack_random_starts": 10,
            "frobenius_samples": 256, "section_inputs": 128, "bits_inputs": 2000,
        },
    }  # fmt: skip
    effort: Effort = "standard"
    inputs: Annotated[int, Field(gt=0, description="Most inputs to analyse, spread evenly over the data.")] = 64
    relative_sizes: Annotated[
        tuple[float, ...],
        Field(min_length=1, description="Sizes of the input change to measure at, as shares of the input's norm."),
    ] = (1e-3, 1e-2, 1e-1)
    random_directions: Annotated[int, Field(ge=2, description="Random directions per input and size.")] = 100
    attack_steps: Annotated[int, Field(gt=0, description="Gradient steps of the attack.")] = 30
    attack_random_starts: Annotated[
        int, Field(ge=0, description="Random starts of the attack, besides two others.")
    ] = 4
    respect_bounds: Annotated[bool, Field(description="Keep attacked inputs inside the data's legal range.")] = False
    method: Annotated[
        Literal["auto", "rows", "lanczos"],
        Field(description="How the Jacobian norm is computed; auto goes by outputs."),
    ] = "auto"
    tolerance: Annotated[float, Field(gt=0, lt=1, description="Relative residual at which Lanczos stops.")] = 1e-5
    max_steps: Annotated[int, Field(gt=0, description="Most Lanczos steps.")] = 100
    frobenius_samples: Annotated[
        int, Field(ge=2, description="Sign vectors for the Frobenius norm of models with more than 64 outputs.")
    ] = 64
    directions_shown: Annotated[int, Field(ge=0, description="Worst directions to draw for picture-shaped inputs.")] = 6
    batch_size: Annotated[int | None, Field(gt=0, description="Samples per pass; by memory when not given.")] = None
    sections: Annotated[
        tuple[Literal["norms", "bounds", "parameters", "roundoff", "bits"], ...],
        Field(description="What to look at besides input changes: norms, bounds, parameters, roundoff, bits."),
    ] = ("norms", "bounds", "parameters", "roundoff", "bits")
    section_inputs: Annotated[int, Field(gt=0, description="Most inputs for those; a large model takes four.")] = 32
    formats: Annotated[
        tuple[str, ...],
        Field(description="Number formats to look at: fp16, bf16, e4m3, int8, t6 (6 significand bits)."),
    ] = ("fp16", "bf16", "int8", "e4m3")
    average_bits: Annotated[
        float,
        Field(ge=3, allow_inf_nan=False, description="Average bits per weight of the mixed-precision plan, 3 or more."),
    ] = 5.0
    bits_inputs: Annotated[int, Field(gt=0, description="Most inputs that the plan is run on for real.")] = 500
    seed: Annotated[int, Field(ge=0, description="Seed of all random directions.")] = 0
    ill_conditioned_above: Annotated[
        float, Field(gt=0, description="Condition number from which an input counts as ill-conditioned.")
    ] = 30.0
    agreement: Annotated[
        float, Field(gt=0, description="Predicted / measured may differ from 1 by this much to count as agreeing.")
    ] = 0.02
    agreement_share: Annotated[
        float, Field(gt=0, le=1, description="Share of inputs that must agree at the smallest size.")
    ] = 0.9
    noise_agreement: Annotated[
        float, Field(gt=0, description="Median kappa_rms / measured noise response may differ from 1 by this much.")
    ] = 0.07
    excess_above: Annotated[
        float, Field(ge=1, description="Attack / prediction from which exceeding the prediction is a warning.")
    ] = 1.5
    understatement_above: Annotated[
        float, Field(ge=1, description="Attack / largest random response from which sampling alone is a warning.")
    ] = 10.0

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if not all(0 < size <= 1 for size in self.relative_sizes):
            raise ValueError(f"relative_sizes must lie in (0, 1], got {self.relative_sizes}")
        if list(self.relative_sizes) != sorted(set(self.relative_sizes)):
            raise ValueError(f"relative_sizes must increase strictly, got {self.relative_sizes}")
        return self

    @field_validator("formats")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from assay.sensitivity.roundoff.formats import as_format

        for name in names:
            try:
                as_format(name)
            except UsageError as error:
                raise ValueError(f"{error.what} {error.advice}".rstrip(" .")) from error
        return names
