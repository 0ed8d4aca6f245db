"""Propagation against numbers computed elsewhere: by mpmath with 45 digits, and by 16 x 2^17 randomised quasi-random
points.

One affine-ReLU-affine block, where the method is exact, and deep random networks, where it carries the error of the
Gaussian closure.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.covariance import Dense, LowRankPlusDiagonal
from assay.grade import Grade
from assay.moments import propagate


def tensor(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def dense_layer(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0]).double()
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


# third row of A, bias (None: minus A mu), mean, (cov00, cov01, cov11)
BLOCKS = [
    (
        (-1.5, 1.0),
        (0.1, -0.2, 0.3),
        (1.40103194604697246, -0.735303825716323076),
        (1.93201966220812624, -0.0560401828335800434, 0.242087085736734422),
    ),
    (
        (-1.5, 1.0),
        None,
        (0.148450717162087485, -0.889242369113047416),
        (2.92738232269735768, -0.637089934067929657, 0.524134607838933399),
    ),
    (  # the first and third unit have correlation -1
        (-1.5, 0.75),
        (0.1, -0.2, 0.3),
        (1.40098926482546566, -0.735252608250514910),
        (2.00715884523628026, -0.113048923176462728, 0.270707638999111087),
    ),
]
MEAN = tensor([[0.5, -1.0]])
NOISE = tensor([[1.0, 0.3], [0.3, 2.0]])


def block(row: tuple[float, float], bias: tuple[float, ...] | None) -> nn.Sequential:
    first = tensor([[1.0, -0.5], [0.25, 2.0], row])
    second = tensor([[1.0, -1.0, 0.5], [0.2, 0.4, -0.6]])
    shift = -first @ MEAN[0] if bias is None else tensor(bias)
    return nn.Sequential(dense_layer(first, shift), nn.ReLU(), dense_layer(second, tensor([0.5, -1.0])))


@pytest.mark.parametrize(("row", "bias", "mean", "covariance"), BLOCKS, ids=["general", "zero mean", "correlation -1"])
def test_one_block_is_exact(
    row: tuple[float, float],
    bias: tuple[float, ...] | None,
    mean: tuple[float, float],
    covariance: tuple[float, float, float],
) -> None:
    result = propagate(block(row, bias), MEAN, NOISE, method="exact")
    assert result.grade is Grade.EXACT
    torch.testing.assert_close(result.mean[0], tensor(mean), rtol=0, atol=1e-12)
    expected = tensor([[covariance[0], covariance[1]], [covariance[1], covariance[2]]])
    torch.testing.assert_close(result.covariance[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["gain", "factor"])
def test_one_block_to_first_order(method: str) -> None:
    """Means and hidden variances are exact; only covariances of pairs are first order, and graded so."""
    row, bias, mean, covariance = BLOCKS[0]
    result = propagate(block(row, bias), MEAN, NOISE, method=method)
    assert result.grade is Grade.CLOSED_FORM
    torch.testing.assert_close(result.mean[0], tensor(mean), rtol=0, atol=1e-12)
    assert result.variance[0, 0] == pytest.approx(covariance[0], rel=0.1)
    assert abs(float(result.variance[0, 0]) - covariance[0]) > 1e-3


def network(seed: int, widths: list[int]) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Layers W ~ N(0, 2 / fan in), b ~ N(0, 0.01), then a mean and a covariance, all drawn in this order."""
    r = np.random.RandomState(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        weight, bias = r.randn(outputs, inputs) * np.sqrt(2 / inputs), 0.1 * r.randn(outputs)
        layers += [dense_layer(tensor(weight), tensor(bias)), nn.ReLU()]
    mean, root = r.randn(widths[0]), r.randn(widths[0], widths[0])
    return nn.Sequential(*layers[:-1]), tensor(mean).unsqueeze(0), tensor(root @ root.T / widths[0])


DEEP = [6, 32, 32, 32, 3]


def test_the_network_is_the_documented_one() -> None:
    model, _, noise = network(0, DEEP)
    first = model[0].requires_grad_(False)
    assert isinstance(first, nn.Linear)
    assert float(first.weight[0, 0]) == pytest.approx(1.018476096809022, abs=1e-14)
    assert float(first.bias[0]) == pytest.approx(-0.003928281822750, abs=1e-14)
    assert float(0.25 * noise[0, 0]) == pytest.approx(0.093751977955444, abs=1e-14)


def test_layerwise_exact() -> None:
    model, mean, noise = network(0, DEEP)
    result = propagate(model, mean, 0.25 * noise, method="exact")
    assert result.grade is Grade.CLOSED_FORM
    expected = tensor([-0.9249706223467635, 0.8591048258469791, 1.0904830263002145])
    torch.testing.assert_close(result.mean[0], expected, rtol=0, atol=1e-9)
    covariance = tensor(
        [
            [0.1986196746585494, -0.1297290968396017, -0.0685166233134664],
            [-0.1297290968396017, 0.2071831762778016, 0.0281679238126018],
            [-0.0685166233134664, 0.0281679238126018, 0.2617079718981797],
        ]
    )
    torch.testing.assert_close(result.covariance[0], covariance, rtol=0, atol=1e-9)


def test_linearised() -> None:
    model, mean, noise = network(0, DEEP)
    result = propagate(model, mean, 0.25 * noise, method="linearize")
    expected = tensor([-0.7525107993923514, 0.7181891106859346, 0.8392599119735782])
    torch.testing.assert_close(result.mean[0], expected, rtol=0, atol=1e-9)
    variance = tensor([0.3139367308959254, 0.1118632598007105, 0.1549937694104845])
    torch.testing.assert_close(result.variance[0], variance, rtol=0, atol=1e-9)


TRUTH = {  # mean and variance by quasi-random points; standard errors 1.4e-5 and 1.6e-6
    0.25: ([-0.913636, 0.860449, 1.072054], [0.209917, 0.229187, 0.262625]),
    0.01: ([-0.762606, 0.738896, 0.859012], [0.012265, 0.007202, 0.007759]),
}


@pytest.mark.parametrize(("scale", "mean_within", "ratio_within"), [(0.25, 0.05, 0.13), (0.01, 0.008, 0.08)])
@pytest.mark.parametrize("method", ["exact", "gain", "factor"])
def test_against_the_truth(method: str, scale: float, mean_within: float, ratio_within: float) -> None:
    """What the Gaussian closure costs: at most `mean_within` output deviations and this share of the variance."""
    model, mean, noise = network(0, DEEP)
    result = propagate(model, mean, scale * noise, method=method)
    true_mean, true_variance = (tensor(values) for values in TRUTH[scale])
    assert ((result.mean[0] - true_mean).abs() / true_variance.sqrt()).max() < mean_within
    assert (result.variance[0] / true_variance - 1).abs().max() < ratio_within


@pytest.mark.parametrize("scale", [0.25, 0.01])
def test_far_better_than_linearising(scale: float) -> None:
    model, mean, noise = network(0, DEEP)
    true_mean, true_variance = (tensor(values) for values in TRUTH[scale])
    errors = {
        method: (
            (propagate(model, mean, scale * noise, method=method).mean[0] - true_mean).abs() / true_variance.sqrt()
        ).mean()
        for method in ("exact", "linearize")
    }
    assert errors["exact"] < 0.1 * errors["linearize"]


def test_true_covariances_of_pairs_of_outputs() -> None:
    model, mean, noise = network(0, DEEP)
    result = propagate(model, mean, 0.25 * noise, method="exact").covariance[0]
    scale = tensor(TRUTH[0.25][1]).sqrt()
    for (i, j), true in {(0, 1): -0.150932, (0, 2): -0.073855, (1, 2): 0.042581}.items():
        assert abs(float(result[i, j]) - true) < 0.1 * float(scale[i] * scale[j])


def test_where_the_closure_fails() -> None:
    """Narrow and deep: the mean is still useful, the variance is too large by the documented ratios."""
    model, mean, noise = network(2, [6, *(16,) * 6, 2])
    result = propagate(model, mean, 0.25 * noise, method="exact")
    variance = tensor([0.101792, 0.060793])
    assert (result.variance[0] / variance).tolist() == pytest.approx([1.08, 1.55], abs=0.01)
    assert ((result.mean[0] - tensor([-0.873902, -0.422362])).abs() / variance.sqrt()).max() < 0.3


def test_sampling_finds_the_truth() -> None:
    model, mean, noise = network(2, [6, *(16,) * 6, 2])
    result = propagate(model, mean, 0.25 * noise, method="mc", samples=100_000)
    variance = tensor([0.101792, 0.060793])
    assert result.standard_error is not None
    # six standard errors: a false alarm of 2e-9 per number for a normal statistic; kurtosis of these outputs stays
    # below 9
    assert ((result.mean[0] - tensor([-0.873902, -0.422362])).abs() < 6 * result.standard_error[0] + 2e-5).all()
    assert (result.variance[0] / variance - 1).abs().max() < 6 * (8 / 100_000) ** 0.5
    torch.testing.assert_close(result.standard_error[0], (result.variance[0] / 100_000).sqrt())


@pytest.mark.parametrize("method", ["exact", "gain", "factor", "linearize"])
def test_every_form_of_the_same_noise_gives_the_same_answer(method: str) -> None:
    model, mean, noise = network(0, DEEP)
    root = torch.linalg.cholesky(noise)
    forms = [
        noise,
        noise.unsqueeze(0),
        Dense(noise.unsqueeze(0), (6,)),
        LowRankPlusDiagonal(root.T.unsqueeze(1), torch.zeros(1, 6, dtype=torch.float64)),
    ]
    results = [propagate(model, mean, form, method=method) for form in forms]
    for other in results[1:]:
        torch.testing.assert_close(other.mean, results[0].mean, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(other.covariance, results[0].covariance, rtol=1e-11, atol=1e-11)
