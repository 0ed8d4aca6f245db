"""The analysis `occlusion`: its settings and its record. No torch here, so that `assay audit --help` stays quick."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from assay.analyses import Analysis


class OcclusionConfig(BaseModel):
    """Occlusion: what changes when a part of a picture is blanked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: Annotated[int, Field(gt=0, description="Pictures to look at, spread over the data.")] = 50
    patch: Annotated[int, Field(gt=0, description="Side of the blanked square in pixels.")] = 2
    step: Annotated[int, Field(gt=0, description="Pixels from one square to the next.")] = 1
    fill: Annotated[
        float | None, Field(allow_inf_nan=False, description="Value of blank pixels; the channel's mean if unset.")
    ] = None
    flips_above: Annotated[
        float, Field(ge=0, le=1, description="Share of pictures that one square may flip before a warning.")
    ] = 0.5


OCCLUSION = Analysis(
    run="assay_plugin_example.blanking:analyse", plan="assay_plugin_example.blanking:plan", config=OcclusionConfig
)
