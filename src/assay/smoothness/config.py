"""Settings of the smoothness analysis: the single truth for Python, the TOML file and the command line."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from assay.effort import Effort, Starts

Part = Literal["prediction", "remedies", "indices"]
Movement = Literal["line", "translate", "rotate", "scale", "brightness"]


class SmoothnessConfig(BaseModel):
    """Along which paths to look for kinks of the outputs, and what else to ask about them.

    Example:
        >>> SmoothnessConfig(paths=2).paths
        2
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    STARTS: ClassVar[Starts] = {
        "quick": {"paths": 2, "samples": 65, "outputs": 2, "index_inputs": 200},
        "thorough": {"paths": 16, "samples": 513, "outputs": 16, "index_inputs": 2000},
    }
    effort: Effort = "standard"
    movements: Annotated[
        tuple[Movement, ...],
        Field(
            min_length=1,
            description="Kinds of paths: line (between two inputs), translate, rotate, scale, brightness (of one "
            "picture).",
        ),
    ] = ("line", "translate")
    paths: Annotated[int, Field(gt=0, description="Paths of each kind, spread over the data.")] = 4
    samples: Annotated[int, Field(ge=3, description="Points of a path at which the network is evaluated.")] = 129
    shift: Annotated[float, Field(gt=0, allow_inf_nan=False, description="Length of a translation, in pixels.")] = 1.0
    angle: Annotated[float, Field(gt=0, le=180, description="Size of a rotation, in degrees.")] = 5.0
    zoom: Annotated[float, Field(gt=1, le=4, description="Factor at the end of a scaling.")] = 1.1
    gain: Annotated[float, Field(gt=1, le=10, description="Factor at the end of a change of brightness.")] = 1.2
    outputs: Annotated[
        int, Field(gt=0, description="Most outputs to follow; the most active ones of a larger net.")
    ] = 4
    parts: Annotated[
        tuple[Part, ...],
        Field(description="What to look at besides kinks: prediction, remedies, indices."),
    ] = ("prediction", "remedies", "indices")
    sharpness: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="Sharpness of the smooth activation that is tried instead.")
    ] = 5.0
    index_inputs: Annotated[int, Field(ge=0, description="Inputs whose neighbours are compared in every layer.")] = 500
    batch_size: Annotated[int | None, Field(gt=0, description="Samples per pass; by memory when not given.")] = None
    seed: Annotated[int, Field(ge=0, description="Seed of everything that is drawn.")] = 0
    rough_above: Annotated[
        float,
        Field(
            gt=0,
            description="SMP x length / range of a regression output (median over paths) above which it is a WARN.",
        ),
    ] = 50.0
