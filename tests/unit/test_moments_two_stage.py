"""Two-stage linearisation: reference values, exactness where one ReLU is all there is, options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.support.inputs import numbers
from torch import Tensor, nn

from assay.errors import UsageError
from assay.grade import Grade
from assay.moments import propagate


def close(value: Tensor, expected: Any, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(value, torch.as_tensor(expected, dtype=value.dtype), rtol=tolerance, atol=tolerance)


def linear(weight: Any, bias: Any) -> nn.Linear:
    weight = torch.as_tensor(weight, dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0]).double().requires_grad_(False)
    layer.weight.copy_(weight)
    layer.bias.copy_(torch.as_tensor(bias, dtype=torch.float64))
    return layer


MEAN = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
NOISE = torch.tensor([[1.0, 0.3], [0.3, 2.0]], dtype=torch.float64)
LAST = ([[1, -1, 0.5], [0.2, 0.4, -0.6]], [0.5, -1.0])
BLOCKS = [  # mpmath, 45 digits
    (
        (-1.5, 1.0),
        (0.1, -0.2, 0.3),
        [1.40103194604697246, -0.735303825716323076],
        [1.93201966220812624, -0.0560401828335800434, 0.242087085736734422],
    ),
    (
        (-1.5, 1.0),
        None,
        [0.148450717162087485, -0.889242369113047416],
        [2.92738232269735768, -0.637089934067929657, 0.524134607838933399],
    ),
    (
        (-1.5, 0.75),  # two units with correlation -1
        (0.1, -0.2, 0.3),
        [1.40098926482546566, -0.735252608250514910],
        [2.00715884523628026, -0.113048923176462728, 0.270707638999111087],
    ),
]


@pytest.mark.parametrize(("row", "bias", "mean", "covariance"), BLOCKS)
def test_one_block_is_exact(row: Any, bias: Any, mean: list[float], covariance: list[float]) -> None:
    first = torch.tensor([[1, -0.5], [0.25, 2], row]).double()
    bias = -(first @ MEAN[0]) if bias is None else bias
    net = nn.Sequential(linear(first, bias), nn.ReLU(), linear(*LAST))
    for point in (None, torch.tensor([3.0, 1.0]), numbers(1, 2, seed=3)):  # wherever it is linearised
        found = propagate(net, MEAN, NOISE, method="two_stage", point=point)
        close(found.mean, [mean])
        a, b, c = covariance
        close(found.covariance, [[[a, b], [b, c]]])
        assert found.grade is Grade.EXACT
    paper = propagate(net, MEAN, NOISE, method="two_stage", covariance="paper")
    close(paper.mean, [mean])
    assert paper.grade is Grade.LINEARISED
    if torch.allclose(net[0](MEAN), torch.zeros(3).double()):
        close(paper.covariance, found.covariance)
    else:
        assert not torch.allclose(paper.covariance, found.covariance, rtol=0.05)


DEEP = [  # an independent implementation of the published method
    (
        -1,
        [-0.8756405241292707, 0.7079056783365346, 0.9644832215592687],
        [0.1911120446660491, 0.1687375082955094, 0.1246331932452682],
        [0.1796287252917089, 0.1916589051969138, 0.1917278942001004],
    ),
    (
        0,
        [-0.8549199231695069, 0.8617142581043056, 0.9149051993172811],
        [0.4358076095538379, 0.2270228016445181, 0.2990118886285758],
        [0.4517194514861775, 0.1595067545228310, 0.2138087837198303],
    ),
]


@pytest.mark.parametrize(("relu", "mean", "paper", "exact"), DEEP)
def test_a_deep_network(relu: int, mean: list[float], paper: list[float], exact: list[float]) -> None:
    random = np.random.RandomState(0)
    layers: list[nn.Module] = []
    for wide, out in ((6, 32), (32, 32), (32, 32), (32, 3)):
        layers += [linear(random.randn(out, wide) * np.sqrt(2 / wide), 0.1 * random.randn(out)), nn.ReLU()]
    centre, root = random.randn(6), random.randn(6, 6)
    net, x, noise = nn.Sequential(*layers[:-1]), torch.from_numpy(centre)[None], torch.from_numpy(root @ root.T / 6) / 4
    for form, variance in (("paper", paper), ("exact", exact)):
        found = propagate(net, x, noise, method="two_stage", relu=relu, covariance=form)
        close(found.mean, [mean])
        close(found.variance, [variance])
        assert found.grade is Grade.LINEARISED
    last = propagate(net, x, noise, method="two_stage", relu=2 if relu == -1 else -3)
    close(last.variance, [exact])


class Skipping(nn.Module):
    """A skip connection passes the only non-linearity by."""

    def __init__(self, activation: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.skip = nn.Linear(3, 5), nn.Linear(5, 2), nn.Linear(3, 2)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.activation(self.first(x))) + self.skip(x)


@pytest.mark.parametrize(
    "activation", [torch.relu, F.relu6, lambda x: F.leaky_relu(x, 0.2), F.hardtanh, torch.abs, nn.PReLU()]
)
def test_skips_and_other_piecewise_linear_functions_are_exact(activation: Any) -> None:
    net, x = Skipping(activation).double().requires_grad_(False), numbers(2, 3)
    found = propagate(net, x, 0.7, method="two_stage")
    expected = propagate(net, x, 0.7, method="exact")
    close(found.mean, expected.mean)
    close(found.covariance, expected.covariance)
    assert found.grade is Grade.EXACT


def test_a_convolutional_network() -> None:
    torch.manual_seed(0)
    net = (
        nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten()
        )
        .double()
        .requires_grad_(False)
    )
    x = numbers(3, 1, 4, 4)
    outputs = torch.tensor([[0, 1], [2, 0], [1, 2]])
    for relu in (0, 1):
        found = propagate(net, x, 1e-6, method="two_stage", relu=relu)
        small = propagate(net, x, 1e-6, method="linearize")  # the limit of small noise
        torch.testing.assert_close(found.covariance, small.covariance, rtol=1e-3, atol=1e-10)
        close(found.mean, small.mean, 1e-3)
        some = propagate(net, x, 1e-6, method="two_stage", relu=relu, outputs=outputs)
        close(some.mean, found.mean.gather(1, outputs))
        alone = propagate(net, x[1:2], 1e-6, method="two_stage", relu=relu)
        close(alone.covariance, found.covariance[1:2])


def test_another_point_moves_the_linearisation() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    x = numbers(2, 3)
    here = propagate(net, x, 0.1, method="two_stage")
    close(propagate(net, x, 0.1, method="two_stage", point=x).covariance, here.covariance)
    there = propagate(net, x, 0.1, method="two_stage", point=x[0])
    close(there.covariance[0], here.covariance[0])
    assert not torch.allclose(there.covariance[1], here.covariance[1])


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"relu": 2}, "relu"),
        ({"relu": -3}, "relu"),
        ({"relu": 0.5}, "relu"),
        ({"point": torch.zeros(4)}, "point"),
        ({"covariance": "zero"}, "covariance"),
    ],
)
def test_refused(options: dict[str, Any], where: str) -> None:
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    with pytest.raises(UsageError) as caught:
        propagate(net, numbers(2, 3), 0.1, method="two_stage", **options)
    assert caught.value.where == where


def test_a_network_without_a_relu_is_refused() -> None:
    with pytest.raises(UsageError, match="no ReLU"):
        propagate(nn.Sequential(nn.Linear(3, 2), nn.Tanh()).double(), numbers(2, 3), 0.1, method="two_stage")
