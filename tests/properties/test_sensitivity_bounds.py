"""Laws of the bounds on input changes: nothing exceeds a guaranteed one, and what must not matter does not."""

from __future__ import annotations

import copy
from functools import lru_cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.inputs import calls, close, numbers
from tests.support.networks import digits, trained_mlp
from torch import Tensor, nn

from assay.sensitivity import adversarial_response, condition_numbers, random_response
from assay.sensitivity.bounds import certified_ball, chain_conditions, ladder, lipschitz_bound, theorem_a

SEEDS = st.integers(0, 10_000)
few = settings(max_examples=8, deadline=None)
fewer = settings(max_examples=2, deadline=None)


def network(seed: int, sizes: list[int], bias: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    activations = [nn.ReLU, nn.Tanh, nn.SiLU, lambda: nn.LeakyReLU(0.3)]
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        layers += [nn.Linear(inputs, outputs, bias=bias), activations[(seed + i) % 4]()]
    return nn.Sequential(*layers[:-1]).double().eval()


def pooled() -> nn.Module:
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 10))


def residual() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(x + self.b(torch.relu(self.a(x))))
        x = torch.relu(self.skip(x) + self.d(torch.relu(self.c(x))))
        return self.head(x.mean((2, 3)))

    layers = {
        "first": nn.Conv2d(1, 4, 3, padding=1),
        "norm": nn.BatchNorm2d(4),
        "a": nn.Conv2d(4, 4, 3, padding=1),
        "b": nn.Conv2d(4, 4, 3, padding=1),
        "skip": nn.Conv2d(4, 8, 1, 2),
        "c": nn.Conv2d(4, 8, 3, 2, 1),
        "d": nn.Conv2d(8, 8, 3, padding=1),
        "head": nn.Linear(8, 10),
    }
    return calls(forward, **layers)


@lru_cache(maxsize=3)
def trained(name: str) -> tuple[nn.Module, Tensor]:
    """A network trained on digits in double precision, and test digits."""
    x, y = digits()
    if name == "dense":
        return copy.deepcopy(trained_mlp(3, 32, 5)).double(), x[1300:].double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = {"pooled": pooled, "residual": residual}[name]().train()
        x = x.reshape(-1, 1, 8, 8)
        optimizer = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(5):
            for rows in torch.randperm(1300).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
    return net.eval().double(), x[1300:].double()


@pytest.mark.parametrize("name", ["dense", "pooled", "residual"])
def test_no_attack_exceeds_a_guaranteed_bound(name: str):
    net, x = trained(name)
    x, sizes = x[:6], (1e-3, 3e-2, 0.3)
    everywhere = lipschitz_bound(net, example=x)
    in_inf = lipschitz_bound(net, example=x, norm="inf")
    attack = adversarial_response(net, x, sizes, steps=6, random_starts=2)
    drawn = random_response(net, x, sizes, directions=30)
    conditions = condition_numbers(net, x)
    scale = conditions.output_norm / conditions.input_norm
    for i, size in enumerate(sizes):
        ball = certified_ball(net, x, size * conditions.input_norm)
        reached = torch.maximum(attack.amplification[:, i], drawn.maximum[:, i]) * scale
        assert bool((reached <= ball.lipschitz).all())
        assert bool((ball.lipschitz <= everywhere.value).all())
        change = attack.perturbation[:, i].double()
        moved = (net(x + change) - net(x)).detach()
        assert bool((moved.abs() <= ball.spread).all())
        ratio = moved.abs().amax(1) / change.flatten(1).abs().amax(1)
        assert bool((ratio <= in_inf.value).all())
    assert bool((conditions.jacobian_norm <= everywhere.value).all())
    assert everywhere.value <= min(float(v) for v in everywhere.tried.values())
    if name != "pooled":  # blank places tie in a max pool: the function has a kink at the input itself
        close(certified_ball(net, x, 1e-7).lipschitz, conditions.jacobian_norm, 1e-2)


def test_theorem_holds_for_finite_changes():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    sines = torch.sin(torch.arange(1, 44, dtype=torch.float64).square())
    net[0].weight.data, net[2].weight.data = sines[:20].reshape(5, 4), sines[20:35].reshape(3, 5)
    net[0].bias.data, net[2].bias.data = sines[35:40] / 4 + 1, sines[40:43] / 4
    x = torch.tensor([[0.25, 0.5, 0.75, 1.0]], dtype=torch.float64)
    count, generator = 2000, torch.Generator().manual_seed(1)
    sizes = 10 ** (-3 * torch.rand(count, 7, generator=generator, dtype=torch.float64))

    def change(like: Tensor, column: int) -> Tensor:
        draw = torch.randn(count, *like.shape, generator=generator, dtype=torch.float64)
        return (
            draw
            / draw.flatten(1).norm(dim=1).reshape(-1, *[1] * like.dim())
            * like.norm()
            * sizes[:, column].reshape(-1, *[1] * like.dim())
        )

    first, second = net[0], net[2]
    hidden = torch.relu(first(x)).detach()[0]
    dx = change(x[0], 0)
    dW, db, eta = change(first.weight.data, 1), change(first.bias.data, 2), change(hidden, 3)
    dV, dc, mu = change(second.weight.data, 4), change(second.bias.data, 5), change(net(x).detach()[0], 6)
    middle = torch.relu(torch.einsum("boi,bi->bo", first.weight.data + dW, x + dx) + first.bias.data + db + eta)
    outputs = torch.einsum("boi,bi->bo", second.weight.data + dV, middle) + second.bias.data + dc + mu
    for norm, order in ((2, 2), ("inf", torch.inf)):
        chain = chain_conditions(net, x, norm=norm)  # type: ignore[arg-type]

        def vector(value: Tensor, order=order) -> Tensor:
            return torch.linalg.vector_norm(value, order, dim=-1)

        def matrix(value: Tensor, order=order) -> Tensor:
            return torch.linalg.matrix_norm(value, order)

        w1, w2, h0, h1 = matrix(first.weight.data), matrix(second.weight.data), vector(x[0]), vector(hidden)
        bound = theorem_a(
            chain.kappa,
            vector(dx) / h0,
            weight_change=torch.stack([matrix(dW) / w1, matrix(dV) / w2], 1),
            bias_change=torch.stack([vector(db) / (w1 * h0), vector(dc) / (w2 * h1)], 1),
            local_error=torch.stack([vector(eta) / (w1 * h0), vector(mu) / (w2 * h1)], 1),
        )
        measured = vector(outputs - net(x).detach()) / vector(net(x).detach())
        ratio = measured / bound[:, -1]
        assert float(ratio.max()) <= 1
        assert float(ratio.max()) > 0.1  # and the bound is not so loose that nothing could exceed it


@few
@given(SEEDS)
def test_every_method_is_above_every_jacobian(seed: int):
    net = network(seed, [5, 7, 6, 4])
    found = lipschitz_bound(net, example=numbers(2, 5))
    steepest = float(condition_numbers(net, 3 * numbers(400, 5, seed=seed), kinds=("worst",)).jacobian_norm.max())
    for value in found.tried.values():
        assert isinstance(value, str) or value >= steepest * (1 - 1e-12)
    assert found.value <= found.tried["product"]


@few
@given(SEEDS, st.floats(1e-3, 1.0))
def test_no_two_points_of_a_ball_are_further_apart_than_certified(seed: int, size: float):
    net = network(seed, [5, 8, 8, 3])
    x = numbers(2, 5, seed=seed)
    ball = certified_ball(net, x, size)
    a, b = (size * nn.functional.normalize(numbers(2, 300, 5, seed=seed + i), dim=2) for i in (1, 2))
    with torch.no_grad():
        moved = (net(x[:, None] + a) - net(x[:, None] + b)).norm(dim=2)
    assert bool((moved <= ball.lipschitz[:, None] * (a - b).norm(dim=2) * (1 + 1e-12)).all())


def rungs(net: nn.Module, x: Tensor, **options) -> dict[str, Tensor]:
    return {rung.name: rung.value for rung in ladder(net, x, radii=(0.02,), **options) if rung.value is not None}


@fewer
@given(SEEDS, st.floats(0.1, 10.0))
def test_what_must_not_matter(seed: int, factor: float):
    net, x = network(4 * (seed // 4), [4, 6, 5, 3]), numbers(3, 4, seed=seed)
    base = rungs(net, x)
    scaled = copy.deepcopy(net)
    scaled[-1].weight.data *= factor
    scaled[-1].bias.data *= factor
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    permuted = copy.deepcopy(net)
    permuted[0].weight.data, permuted[0].bias.data = net[0].weight.data[order], net[0].bias.data[order]
    permuted[2].weight.data = net[2].weight.data[:, order]
    longer = nn.Sequential(nn.Identity(), *net[:3], nn.Identity(), *net[3:])
    for other in (scaled, permuted, longer):
        found = rungs(other, x)
        assert found.keys() == base.keys()
        for name, value in base.items():
            close(found[name], value, 1e-8)
    for name, value in rungs(net, x[1:2]).items():
        close(value, base[name][1:2], 1e-8)


@fewer
@given(SEEDS, st.floats(0.1, 10.0))
def test_networks_without_bias_do_not_see_the_scale(seed: int, factor: float):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False)).double()
    x = numbers(3, 4, seed=seed)
    if bool((net(x) == 0).all(1).any()):
        return
    scaled = rungs(net, factor * x)
    for name, value in rungs(net, x).items():
        close(scaled[name], value, 1e-7)
