r"""MTCNN's third network (O-Net): is this a face, where is its box, where are five landmarks; a factory for `--trust`.

pip install --no-deps facenet-pytorch==2.6.0
assay audit examples/onet.py:landmarks --trust --task regression --data faces/ --resize 48 --crop 48 --bounds 0 1 \
    --scale 0 255 --mean 127.5 --std 128 -o run        (`load` in place of `landmarks`: with the face and its box)

K. Zhang, Z. Zhang, Z. Li, Y. Qiao, "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional
Networks", 2016. On the way from the pixels to box and landmarks there are only convolutions, PReLUs (many slopes are
negative), max pools and dense layers: these outputs are piecewise linear in the input.
"""

from importlib.metadata import distribution

import torch
from torch import Tensor, nn

WEIGHTS = "facenet_pytorch/data/onet.pt"
SIDE = 48
"""Pixels along a side of the input."""
POINTS = ("left eye", "right eye", "nose", "left corner of the mouth", "right corner of the mouth")
"""Landmarks in the order of the outputs; left and right as the picture shows them."""


def state() -> dict[str, Tensor]:
    """The published weights."""
    file = str(distribution("facenet-pytorch").locate_file(WEIGHTS))
    return torch.load(file, map_location="cpu", weights_only=True)


class Trunk(nn.Module):
    """(B, 3, 48, 48) -> (B, 256): what all three answers are read from. Names are those of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3)
        self.prelu1 = nn.PReLU(32)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)  # 46 -> 23: the last windows reach over the edge
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.prelu2 = nn.PReLU(64)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)  # 21 -> 10
        self.conv3 = nn.Conv2d(64, 64, 3)
        self.prelu3 = nn.PReLU(64)
        self.pool3 = nn.MaxPool2d(2, 2, ceil_mode=True)  # 8 -> 4
        self.conv4 = nn.Conv2d(64, 128, 2)
        self.prelu4 = nn.PReLU(128)
        self.dense5 = nn.Linear(1152, 256)
        self.prelu5 = nn.PReLU(256)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.pool3(self.prelu3(self.conv3(x)))
        x = self.prelu4(self.conv4(x))
        # Trained where pictures were stored column by column: the dense layer counts columns, rows, channels.
        return self.prelu5(self.dense5(x.permute(0, 3, 2, 1).flatten(1)))


class ONet(nn.Module):
    """All answers: (B, 15) of probability of a face, box (left, top, right, bottom corrections), 5 x and 5 y.

    Box and landmarks are in shares of the crop's side, the landmarks from its left and top edge.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.dense6_1 = nn.Linear(256, 2)
        self.dense6_2 = nn.Linear(256, 4)
        self.dense6_3 = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        face = self.dense6_1(x).softmax(dim=1)[:, 1:]
        return torch.cat([face, self.dense6_2(x), self.dense6_3(x)], dim=1)


class Landmarks(nn.Module):
    """Landmarks alone: (B, 10) of x, y of every point of `POINTS` in pixels of the 48 x 48 crop."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.points = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.points(self.trunk(x))


def load() -> nn.Module:
    """The whole network in evaluation mode."""
    network = ONet()
    heads = {name: tensor for name, tensor in state().items() if name.startswith("dense6")}
    network.load_state_dict(trunk_state("trunk.") | heads)
    return network.eval()


def landmarks() -> nn.Module:
    """The landmarks alone in evaluation mode; output 2 i is x of point i, output 2 i + 1 its y."""
    stored = state()
    pairs = [place for point in range(5) for place in (point, point + 5)]  # five x, then five y in the file
    network = Landmarks()
    head = {f"points.{kind}": SIDE * stored[f"dense6_3.{kind}"][pairs] for kind in ("weight", "bias")}
    network.load_state_dict(trunk_state("trunk.") | head)
    return network.eval()


def trunk_state(prefix: str) -> dict[str, Tensor]:
    """Weights of the shared part, with a prefix before every name."""
    return {prefix + name: tensor for name, tensor in state().items() if not name.startswith("dense6")}
