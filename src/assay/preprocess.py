"""Preprocessing: how raw data become model inputs. It belongs to the Subject and is part of the model analysed.

Two halves. `resize` and `crop` act once, when data are loaded. The rest is an affine map that becomes the first layer
of the analysed network, so noise levels are in the units of the user's data (`bounds`), never of the normalised tensor.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from assay.errors import SubjectError


class Preprocessing(BaseModel):
    """Everything between the user's data and the model.

    Attributes:
        resize: short side in pixels after resizing, or None.
        crop: side of the centre crop in pixels, or None.
        bounds: lowest and highest legal value of the data, such as (0, 1) for images as floats; None for tables.
        scale: `bounds` are mapped onto this range before mean and standard deviation are applied, such as (0, 255).
        channel_order: order the *model* expects; data are always RGB.
        mean: per channel (or one), subtracted after scaling.
        std: per channel (or one), divided by after subtracting the mean.

    Example:
        >>> Preprocessing(bounds=(0, 1), mean=(0.5,), std=(0.25,)).bounds
        (0.0, 1.0)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: Annotated[int | None, Field(gt=0, description="Short side in pixels after resizing.")] = None
    crop: Annotated[int | None, Field(gt=0, description="Side of the centre crop in pixels.")] = None
    bounds: Annotated[tuple[float, float] | None, Field(description="Lowest and highest legal data value.")] = None
    scale: Annotated[
        tuple[float, float] | None, Field(description="Range that bounds are mapped to before mean and std.")
    ] = None
    channel_order: Annotated[Literal["RGB", "BGR"], Field(description="Channel order the model expects.")] = "RGB"
    mean: Annotated[tuple[float, ...], Field(description="Per-channel mean subtracted after scaling.")] = ()
    std: Annotated[tuple[float, ...], Field(description="Per-channel standard deviation divided by.")] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("bounds", "scale"):
            pair = getattr(self, name)
            if pair is not None and not pair[0] < pair[1]:
                raise ValueError(f"{name} must be (low, high) with low < high, got {pair}")
        if self.scale is not None and self.bounds is None:
            raise ValueError("scale needs bounds: it says what the bounds are mapped to")
        if any(not value > 0 for value in self.std):
            raise ValueError(f"every std must be positive, got {self.std}")
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}; they must agree")
        return self

    @property
    def is_identity(self) -> bool:
        """True when the model sees the data as they are."""
        return not (self.mean or self.std or self.channel_order == "BGR" or self.scale not in (None, self.bounds))

    def module(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The affine half as a layer in front of the model."""
        return nn.Identity() if self.is_identity else Normalise(self, dtype)

    @property
    def value_range(self) -> float:
        """Width of the legal range: the unit of noise levels given as shares; 1.0 when unbounded."""
        return self.bounds[1] - self.bounds[0] if self.bounds is not None else 1.0


class Normalise(nn.Module):
    """x -> ((x - low) / (high - low) * (scale_high - scale_low) + scale_low - mean) / std, channels reordered first."""

    def __init__(self, preprocessing: Preprocessing, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        low, high = preprocessing.bounds or (0.0, 1.0)
        scale_low, scale_high = preprocessing.scale or (low, high)
        stretch = (scale_high - scale_low) / (high - low)
        mean = torch.tensor(preprocessing.mean or (0.0,), dtype=torch.float64)
        std = torch.tensor(preprocessing.std or (1.0,), dtype=torch.float64)
        self.reverse = preprocessing.channel_order == "BGR"
        self.multiplier = nn.Buffer((stretch / std).to(dtype))
        self.offset = nn.Buffer(((scale_low - low * stretch - mean) / std).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map to a batch (B, C, ...)."""
        channels = max(self.multiplier.numel(), self.offset.numel())
        if channels > 1 and (x.dim() < 2 or x.shape[1] != channels):
            raise SubjectError(
                f"The preprocessing has {channels} channel values, but the data have shape {tuple(x.shape)}.",
                where="preprocessing mean/std",
                advice="Give one mean and std per channel of the data, or one for all.",
            )
        if self.reverse:
            if x.shape[1] != 3:
                raise SubjectError(
                    f"BGR order needs three channels, but the data have shape {tuple(x.shape)}.",
                    where="preprocessing channel_order",
                    advice="Use RGB for data without colours.",
                )
            x = torch.cat([x[:, 2:3], x[:, 1:2], x[:, 0:1]], dim=1)
        shape = (-1,) + (1,) * (x.dim() - 2)
        return x * self.multiplier.reshape(shape) + self.offset.reshape(shape)


PRESETS = {
    "none": Preprocessing(),
    "unit": Preprocessing(bounds=(0.0, 1.0)),
    "imagenet": Preprocessing(
        resize=256, crop=224, bounds=(0.0, 1.0), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ),
    "imagenet-bgr-255": Preprocessing(
        resize=256,
        crop=227,
        bounds=(0.0, 1.0),
        scale=(0.0, 255.0),
        channel_order="BGR",
        mean=(103.939, 116.779, 123.68),
    ),
    "symmetric": Preprocessing(
        resize=256, crop=224, bounds=(0.0, 1.0), scale=(0.0, 255.0), mean=(127.0,), std=(128.0,)
    ),
}
