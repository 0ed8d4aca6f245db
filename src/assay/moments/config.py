"""Settings of the moments analysis: the single truth for Python, the TOML file and the command line."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from assay.effort import Effort, Starts

Method = Literal[
    "auto", "exact", "gain", "cumulant", "factor", "linearize", "two_stage", "split", "diagonal", "mc", "mc_cv"
]


class MomentsConfig(BaseModel):
    """What to propagate and where the findings draw their lines.

    Example:
        >>> MomentsConfig(inputs=8).sigmas
        (0.02, 0.05, 0.1)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    STARTS: ClassVar[Starts] = {
        "quick": {"inputs": 8, "maps": 2, "attack_inputs": 2, "attack_steps": 20},
        "thorough": {"inputs": 128, "maps": 16, "attack_inputs": 24, "attack_steps": 100},
    }
    effort: Effort = "standard"
    inputs: Annotated[int, Field(gt=0, description="Most inputs to analyse, spread evenly over the data.")] = 32
    sigmas: Annotated[
        tuple[float, ...],
        Field(min_length=1, description="Noise levels, as shares of the data's value range (of 1 when unbounded)."),
    ] = (0.02, 0.05, 0.1)
    method: Annotated[Method, Field(description="How to propagate; auto chooses by size.")] = "auto"
    rank: Annotated[int, Field(gt=0, description="Columns of the low-rank method.")] = 32
    fallback: Annotated[
        Literal["linearise", "sample", "error"],
        Field(description="Operators without a rule: linearise, sample, or error (strict)."),
    ] = "linearise"
    top: Annotated[int, Field(ge=2, description="Largest outputs to follow when there are more than 64.")] = 10
    check: Annotated[
        int | None,
        Field(
            ge=0,
            description="Draws per input and level to check the numbers with; 0 none, by the model's size if unset.",
        ),
    ] = None
    maps: Annotated[int, Field(ge=0, description="Inputs to draw a sensitivity map of.")] = 4
    flip_levels: Annotated[
        tuple[float, ...],
        Field(min_length=1, description="Flip probabilities to find the noise for, input by input."),
    ] = (0.01, 0.05, 0.5)
    attack_inputs: Annotated[
        int, Field(ge=0, description="Inputs to search the worst Gaussian noise of; 0 none, fewer on large models.")
    ] = 6
    attack_steps: Annotated[int, Field(gt=0, description="Gradient steps of that search.")] = 40
    attack_bound: Annotated[
        float | None,
        Field(gt=0, description="Largest mean and deviation of its noise, share of the range; largest sigma if unset."),
    ] = None
    seed: Annotated[int, Field(ge=0, description="Seed of draws and random directions.")] = 0
    flip_above: Annotated[
        float, Field(gt=0, le=1, description="Mean flip probability from which noise counts as a problem.")
    ] = 0.05
    mean_error_above: Annotated[
        float, Field(gt=0, description="Net error of the mean, in output deviations, from which numbers are doubtful.")
    ] = 0.1
    variance_ratio_within: Annotated[
        tuple[float, float], Field(description="Predicted over sampled variance outside this range is doubtful.")
    ] = (0.8, 1.25)

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if any(not sigma > 0 for sigma in self.sigmas) or list(self.sigmas) != sorted(set(self.sigmas)):
            raise ValueError(f"sigmas must be positive and increase strictly, got {self.sigmas}")
        if any(not 0 < p < 1 for p in self.flip_levels) or list(self.flip_levels) != sorted(set(self.flip_levels)):
            raise ValueError(f"flip_levels must lie between 0 and 1 and increase strictly, got {self.flip_levels}")
        if not 0 < self.variance_ratio_within[0] < 1 < self.variance_ratio_within[1]:
            raise ValueError(f"variance_ratio_within must hold 1, got {self.variance_ratio_within}")
        return self
