"""Settings of the filtering analysis: the single truth for Python, the TOML file and the command line."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from assay.effort import Effort, Starts

FAITHFUL: dict[str, Any] = {
    "n": 25,
    "filters": ("high", "low", "pulse"),
    "domain": "signed",
    "cover": "paper",
    "scope": "layer",
    "attack": "fgsm",
    "mode": "adaptive",
    "ignore_bounds": True,
    "normalise": "first",
    "rule": "simpson",
}
"""The published protocol. Two deviations remain: evaluation mode is forced, and low-pass scores integrate upwards."""


class FilteringConfig(BaseModel):
    """What to filter, on which data, and where the classes begin.

    Example:
        >>> FilteringConfig(n=5, filters=("high",)).n
        5
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    STARTS: ClassVar[Starts] = {
        "quick": {"inputs": 200, "n": 13, "draws": 1000},
        "thorough": {"inputs": 5000, "n": 49, "mode": "both", "draws": 10000},
    }
    effort: Effort = "standard"
    inputs: Annotated[int, Field(gt=0, description="Most inputs to evaluate on, spread evenly over the data.")] = 1000
    n: Annotated[int, Field(ge=2, description="Thresholds per filter; odd for Simpson's rule.")] = 25
    filters: Annotated[
        tuple[Literal["high", "low", "pulse"], ...], Field(min_length=1, description="Ideal filters: high, low, pulse.")
    ] = ("high", "low", "pulse")
    replacements: Annotated[
        tuple[Literal["rerandomise", "reinitialise"], ...],
        Field(description="Also replace each unit: rerandomise by fresh weights, reinitialise by those of --initial."),
    ] = ()
    replacement_draws: Annotated[int, Field(gt=0, description="Draws of rerandomise.")] = 3
    domain: Annotated[
        Literal["signed", "magnitude"], Field(description="Whether filters compare weights or their magnitudes.")
    ] = "signed"
    cover: Annotated[
        Literal["paper", "gapless"], Field(description="Width of pulses: as published, with gaps, or gapless.")
    ] = "paper"
    scope: Annotated[
        Literal["layer", "global"],
        Field(description="One unit at a time over its own range, or all at once at common thresholds."),
    ] = "layer"
    granularity: Annotated[
        Literal["tensor", "channel"], Field(description="Unit: a weight tensor, or one output channel of it.")
    ] = "tensor"
    include: Annotated[
        tuple[str, ...], Field(min_length=1, description="What to filter: weight, all, or patterns such as layer1.*")
    ] = ("weight",)
    exclude: Annotated[tuple[str, ...], Field(description="Patterns of what to leave out again.")] = ()
    attack: Annotated[
        Literal["fgsm", "pgd", "pgd-l2", "none"], Field(description="Attack that adversarial scores are made with.")
    ] = "fgsm"
    attack_steps: Annotated[int, Field(gt=0, description="Steps of pgd and pgd-l2.")] = 10
    epsilon: Annotated[
        float | Literal["auto"],
        Field(description="Size of the attack in units of the data; auto halves the accuracy of the unfiltered model."),
    ] = "auto"
    ignore_bounds: Annotated[bool, Field(description="Let attacked inputs leave the data's legal range.")] = False
    mode: Annotated[
        Literal["static", "adaptive", "both", "screen"],
        Field(
            description="Attack the unfiltered model once (static), every filtered one anew (adaptive), both, or "
            "static first and adaptive where the static attack suggests antifragility (screen)."
        ),
    ] = "screen"
    metric: Annotated[
        Literal["auto", "accuracy", "cross_entropy", "squared_error"],
        Field(description="Performance; auto is accuracy for classes and squared_error for regression."),
    ] = "auto"
    normalise: Annotated[
        Literal["unfiltered", "first"],
        Field(description="What performance is relative to: the unfiltered model, or the first threshold."),
    ] = "unfiltered"
    rule: Annotated[
        Literal["simpson", "trapezoid", "mean"], Field(description="How scores integrate over thresholds.")
    ] = "simpson"
    tau: Annotated[
        float, Field(ge=0, allow_inf_nan=False, description="Scores within plus or minus tau count as robust.")
    ] = 0.02
    level: Annotated[float, Field(gt=0, lt=1, description="Probability that a bootstrap interval covers.")] = 0.95
    draws: Annotated[int, Field(gt=0, description="Bootstrap resamples.")] = 2000
    classes_only: Annotated[
        bool, Field(description="Stop a unit as soon as its classes are certain; scores are then of fewer samples.")
    ] = False
    delta: Annotated[
        float, Field(gt=0, lt=1, description="With classes_only: probability that a class given is wrong.")
    ] = 0.05
    faithful: Annotated[bool, Field(description="The published protocol; sets the fields it speaks of.")] = False
    engine: Annotated[
        Literal["auto", "naive", "incremental", "batched"], Field(description="How filtered networks are run.")
    ] = "auto"
    precision: Annotated[
        Literal["full", "bf16", "channels_last"],
        Field(description="full is exact; bf16 and channels_last are faster and differ in the last digits."),
    ] = "full"
    batch_size: Annotated[int | None, Field(gt=0, description="Samples per pass; by memory when not given.")] = None
    workers: Annotated[int, Field(gt=0, description="Processes; results do not depend on it.")] = 1
    threads: Annotated[int, Field(gt=0, description="Threads of torch per process; part of what a sweep is.")] = 1
    executor: Annotated[Literal["local", "ray"], Field(description="Where workers run.")] = "local"
    budget: Annotated[
        float | None,
        Field(
            gt=0,
            description="Billions of operations that what is not set is lowered to; by effort if unset. Where that is "
            "not enough, an audit of everything leaves filtering out, and naming it with --only runs it all the same.",
        ),
    ] = None
    seed: Annotated[int, Field(ge=0, description="Seed of attacks, fresh weights, sample order and resamples.")] = 0

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("faithful") not in (True, "true", "True", "1", 1):
            return values
        other = [name for name, value in FAITHFUL.items() if name in values and _plain(values[name]) != _plain(value)]
        if other:
            raise ValueError(f"the faithful protocol sets {', '.join(other)}; drop these or drop faithful")
        return FAITHFUL | dict(values)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.rule == "simpson" and self.n % 2 == 0:
            raise ValueError(f"Simpson's rule needs an odd number of thresholds, n={self.n}")
        if not isinstance(self.epsilon, str) and not 0 <= self.epsilon < float("inf"):
            raise ValueError(f"epsilon must be a number of at least 0, or auto, got {self.epsilon}")
        if self.scope == "global" and (self.granularity == "channel" or self.replacements):
            raise ValueError("the global scope filters whole tensors together: no channels, no replacements")
        if self.classes_only and (self.metric not in ("auto", "accuracy") or self.normalise != "unfiltered"):
            raise ValueError("classes_only needs accuracy relative to the unfiltered network")
        return self

    @property
    def attacks(self) -> bool:
        """Whether there is an adversarial split at all."""
        return self.attack != "none"


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value
