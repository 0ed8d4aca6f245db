"""Pictures through Pillow: turned upright, resized, cropped, as floats; equal to torchvision's usual transforms."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor

from assay.errors import SubjectError
from assay.load.convert import bytes_to_range
from assay.preprocess import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


def read_picture(file: Path, preprocessing: Preprocessing, mode: str = "RGB") -> Tensor:
    """One picture file as (C, H, W), values in the preprocessing's bounds, (0, 1) when it has none.

    Args:
        file: any format Pillow reads; EXIF rotation is applied; the first frame of an animation is taken.
        preprocessing: resize (short side, bilinear with antialiasing) and crop (centre) are applied.
        mode: "RGB" or "L" (grey).

    Returns:
        (C, H, W) floats.

    Raises:
        SubjectError: naming the file, when it is damaged, too large to be trusted, or smaller than the crop.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Pillow only warns between one and two times its limit; a hostile file is refused from the limit on.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                upright = ImageOps.exif_transpose(opened)
                return prepare_picture(upright, preprocessing, mode, str(file))
    except SubjectError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise SubjectError(
            "The picture has more pixels than any photograph: it may be a decompression bomb.",
            where=str(file),
            advice=f"Scale it down below {Image.MAX_IMAGE_PIXELS} pixels, or remove it.",
        ) from error
    except Exception as error:  # decoders raise whatever they like on damaged files
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise SubjectError(
            f"The picture cannot be read: {reason}", where=str(file), advice="Replace or remove this file."
        ) from error


def prepare_picture(picture: Image, preprocessing: Preprocessing, mode: str, where: str) -> Tensor:
    """A Pillow image as (C, H, W): converted to the mode, resized, cropped, mapped to the bounds.

    Returns:
        (C, H, W) floats.

    Raises:
        SubjectError: when the pixel type has no known range, or the picture is smaller than the crop.
    """
    from PIL import Image

    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((numpy.asarray(picture).astype(numpy.float32) / 257.0).round().astype(numpy.uint8))
    if picture.mode in ("I", "F"):
        raise SubjectError(
            "The picture has 32-bit pixels, whose range is not known.",
            where=where,
            advice="Convert it to 8 or 16 bits.",
        )
    picture = picture.convert(mode)
    if preprocessing.resize is not None:
        width, height = picture.size
        short, long = sorted((width, height))
        new_short, new_long = (
            preprocessing.resize,
            int(preprocessing.resize * long / short),
        )  # down, as torchvision does
        size = (new_short, new_long) if width <= height else (new_long, new_short)
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    if preprocessing.crop is not None:
        picture = _centre_crop(picture, preprocessing.crop, where)
    pixels = torch.from_numpy(numpy.array(picture, dtype=numpy.uint8))
    pixels = pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1)
    return bytes_to_range(pixels, *(preprocessing.bounds or (0.0, 1.0))).contiguous()


def _centre_crop(picture: Image, side: int, where: str) -> Image:
    width, height = picture.size
    if min(width, height) < side:
        raise SubjectError(
            f"The picture is {width} x {height} pixels, smaller than the crop of {side}.",
            where=where,
            advice="Resize first: give resize (short side in pixels) as well as crop.",
        )
    left, top = round((width - side) / 2), round((height - side) / 2)
    return picture.crop((left, top, left + side, top + side))
