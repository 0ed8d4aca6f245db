"""Small networks on which reusing values goes wrong when done carelessly, each with a batch of inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from assay.subject import Data, Subject


class _Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride > 1 or inputs != width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet18(nn.Sequential):
    """ResNet-18 as torchvision's: 21 weights, batch norm, skips, downsampling, ReLUs in place; 8 channels at first."""

    def __init__(self, width: int = 8) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)]
        layers += [nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
        inputs = width
        for stage in range(4):
            outputs = width * 2**stage
            layers += [_Block(inputs, outputs, 1 + (stage > 0)), _Block(outputs, outputs, 1)]
            inputs = outputs
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


class ReluThatASiblingReads(nn.Module):
    """A ReLU in place writes over a value that a second branch, run before it, has read already: kept, it is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.left = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.right = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        left = self.left(x)
        right = self.right(self.relu(x))
        return self.head((left + right).mean((2, 3)))


class SkipAddedInPlace(nn.Module):
    """The value that the skip carries is the one that is written over, and a later branch reads the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.after = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x.add_(self.body(x))
        x += self.after(torch.relu(x))
        return self.head(x.mean((2, 3)))


class Grouped(nn.Sequential):
    """Grouped and depthwise convolutions, a transposed one, ReLU6, hard swish, SELU, CELU."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6(inplace=True),
            nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False),
            nn.ReLU6(inplace=True),
            nn.Conv2d(8, 8, 1, groups=2),
            nn.Hardswish(inplace=True),
            nn.ConvTranspose2d(8, 6, 2, 2, groups=2),
            nn.SELU(),
            nn.MaxPool2d(3, 2, 1, ceil_mode=True),
            nn.CELU(0.5),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(486, 3),
        )


class Tied(nn.Module):
    """One weight in two layers as one parameter, in a third as another parameter in the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.between = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.third = nn.Linear(6, 6)
        self.third.weight = nn.Parameter(self.first.weight.data)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.between(torch.relu(self.first(x))))
        return self.head(torch.relu(self.third(torch.relu(self.second(x)))))


class SqueezeExcite(nn.Module):
    """Channels scaled by a branch that looks at their means, a branch of its own beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.down, self.up = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.side = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.stem(x), inplace=True)
        scale = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)), inplace=True)))
        return self.head(F.adaptive_avg_pool2d(x * scale + self.side(x), 1).flatten(1))


class Attention(nn.Module):
    """Two layers of a transformer over 5 tokens of 8, one before and one after the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norms = nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8)])
        self.wide, self.narrow, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 3)
        self.place = nn.Parameter(torch.randn(1, 5, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.place
        attended, _ = self.attention(x, x, x, need_weights=False)
        x = self.norms[0](x + attended)
        return self.head(self.norms[1](x + self.narrow(F.gelu(self.wide(x)))).mean(1))


class ThreeReaders(nn.Module):
    """One value read by three branches, whose gradients must be summed in the model's own order."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.branches = nn.ModuleList([nn.Linear(6, 6) for _ in range(4)])
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        first, second, third, fourth = (torch.tanh(branch(x)) for branch in self.branches)
        return self.head(first * second + third * fourth)


class Computed(nn.Sequential):
    """A weight computed from two parameters."""

    def __init__(self) -> None:
        super().__init__(weight_norm(nn.Linear(6, 5)), nn.ReLU(), nn.Linear(5, 3))


class Digits(nn.Sequential):
    """8x8 pictures, three convolutions and two linear layers: 8-16-16 channels, 32-10 units."""

    def __init__(self) -> None:
        convolutions = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()]
        pooled = [nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        super().__init__(*convolutions, *pooled, nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


SHAPES: dict[Callable[[], nn.Module], tuple[int, ...]] = {
    ResNet18: (3, 24, 24),
    ReluThatASiblingReads: (3, 6, 6),
    SkipAddedInPlace: (3, 6, 6),
    Grouped: (3, 16, 16),
    Tied: (6,),
    SqueezeExcite: (3, 6, 6),
    Attention: (5, 8),
    ThreeReaders: (6,),
    Computed: (6,),
    Digits: (1, 8, 8),
}


@lru_cache
def subject_of(network: Callable[[], nn.Module], samples: int = 6, seed: int = 0) -> Subject:
    """A network with random weights and statistics, and random labelled inputs in [0, 1]; made and captured once."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.1)
        data = Data(torch.rand(samples, *SHAPES[network]), torch.randint(3, (samples,)), bounds=(0.0, 1.0))
        return Subject.from_model(model, data)
