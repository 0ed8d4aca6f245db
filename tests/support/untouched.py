"""A model in use, and everything about it and the process that work on it must not change."""

from __future__ import annotations

import random
from typing import Any

import numpy
import torch
from torch import nn

PICTURES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 5)
    )


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything about a model and the process that must not change."""
    return {
        "entries": {name: tensor.detach().clone() for name, tensor in model.state_dict().items()},
        "identity": [id(tensor) for tensor in (*model.parameters(), *model.buffers())],
        "versions": [tensor._version for tensor in (*model.parameters(), *model.buffers())],
        "training": [module.training for module in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "gradients": [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()],
        "random": (torch.get_rng_state(), random.getstate(), str(numpy.random.get_state())),
        "switches": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
    }


def assert_same(before: Any, after: Any) -> None:
    assert type(before) is type(after)
    if isinstance(before, torch.Tensor):
        assert torch.equal(before, after)
    elif isinstance(before, dict):
        assert before.keys() == after.keys()
        for key in before:
            assert_same(before[key], after[key])
    elif isinstance(before, (list, tuple)):
        assert len(before) == len(after)
        for one, other in zip(before, after, strict=True):
            assert_same(one, other)
    else:
        assert before == after


def used_model() -> nn.Module:
    """A model in the middle of training: a hook, frozen layers, gradients, mixed modes."""
    model = network()
    model[0].weight.requires_grad_(False)
    model[5].register_forward_hook(lambda module, inputs, output: None)
    model(PICTURES).square().mean().backward()
    model[3].eval()
    return model
