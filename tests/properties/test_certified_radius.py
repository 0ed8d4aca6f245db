"""Laws of the certified radius: no point within it has another class, and what must not matter does not."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.inputs import close, numbers
from torch import Tensor, nn

from assay.certified import certified_radius

SEEDS = st.integers(0, 10_000)
few = settings(max_examples=10, deadline=None)
fewer = settings(max_examples=4, deadline=None)


class Skip(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def network(seed: int, sizes: list[int]) -> nn.Sequential:
    torch.manual_seed(seed)
    activations = [nn.ReLU, nn.Tanh, nn.SiLU, lambda: nn.LeakyReLU(0.3), nn.GELU, nn.ReLU6]
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        layers += [nn.Linear(inputs, outputs), activations[(seed + i) % 6]()]
        if inputs == outputs:
            layers[-2:] = [Skip(nn.Sequential(*layers[-2:]))]
    return nn.Sequential(*layers[:-1]).double().eval()


def within(centre: Tensor, radius: Tensor, count: int, seed: int) -> Tensor:
    """(B, count, n) points of the balls, half of them on their surface."""
    directions = nn.functional.normalize(numbers(len(centre), count, centre.shape[1], seed=seed), dim=2)
    sizes = torch.rand(len(centre), count, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return centre[:, None] + radius[:, None, None] * (2 * sizes).clamp(max=1) * directions


@few
@given(SEEDS, st.sampled_from(["auto", "joint"]))
def test_the_class_stays_within_the_radius(seed: int, method: str):
    net, x = network(seed, [3, 8, 8, 4]), numbers(3, 3, seed=seed)
    found = certified_radius(net, x, method=method)  # type: ignore[arg-type]
    radius = found.radius.clamp(max=1e3)
    points = within(x, radius, 2000, seed)
    for _ in range(5):  # and down the smallest margin, along the surface
        points = points.detach().requires_grad_(True)
        outputs = net(points)
        own = outputs.gather(2, found.label[:, None, None].expand(-1, outputs.shape[1], 1))
        others = outputs.scatter(2, found.label[:, None, None].expand(-1, outputs.shape[1], 1), -torch.inf).amax(2)
        assert bool((own[..., 0] > others).all())
        (gradient,) = torch.autograd.grad((own[..., 0] - others).sum(), points)
        step = points - 0.5 * radius[:, None, None] * nn.functional.normalize(gradient, dim=2)
        away = step - x[:, None]
        points = x[:, None] + away * (radius[:, None, None] / away.norm(dim=2, keepdim=True)).clamp(max=1)


@fewer
@given(SEEDS, st.floats(0.1, 10.0))
def test_what_must_not_matter(seed: int, factor: float):
    net, x = network(seed - seed % 6, [4, 7, 7, 3]), numbers(2, 4, seed=seed)
    base = certified_radius(net, x).radius
    scaled = copy.deepcopy(net)
    scaled[-1].weight.data *= factor
    scaled[-1].bias.data *= factor
    close(certified_radius(scaled, x).radius, base, 0.02)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(seed))
    permuted = copy.deepcopy(net)
    permuted[-1].weight.data, permuted[-1].bias.data = net[-1].weight.data[order], net[-1].bias.data[order]
    close(certified_radius(permuted, x).radius, base, 1e-9)
    rotation = torch.linalg.qr(numbers(4, 4, seed=seed))[0]
    turned = nn.Sequential(nn.Linear(4, 4, bias=False).double(), copy.deepcopy(net))
    turned[0].weight.data = rotation
    close(certified_radius(turned, x @ rotation).radius, base, 1e-6)
    units = nn.Sequential(nn.Linear(4, 4, bias=False).double(), copy.deepcopy(net))
    units[0].weight.data = torch.eye(4, dtype=torch.float64) / factor
    close(certified_radius(units, x * factor).radius, base * factor, 0.02)
