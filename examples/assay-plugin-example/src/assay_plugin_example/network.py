"""A network with the operator in it: assay's digits network, every ReLU followed by a dead zone."""

from torch import nn

from assay.load.demo import demo_model
from assay_plugin_example.dead_zone import DeadZone


def make() -> nn.Module:
    """Digits (B, 1, 8, 8) in [0, 1] -> logits (B, 10)."""
    model = demo_model()
    model.relu = nn.Sequential(nn.ReLU(), DeadZone(width=0.05, leak=0.5))
    return model
