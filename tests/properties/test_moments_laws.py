"""Laws that propagated moments obey, whatever the network and the noise."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from assay.covariance import Dense, Diagonal, LowRankPlusDiagonal, to_dense
from assay.grade import Grade
from assay.moments import Moments, propagate
from assay.subject import Subject

METHODS = ["exact", "gain", "factor", "linearize", "diagonal", "mc"]
WALKING = ["exact", "gain", "factor", "diagonal"]
FEW = settings(max_examples=6)

seeds = st.integers(0, 10_000)
methods = st.sampled_from(["exact", "gain", "factor"])
activations = st.sampled_from([nn.ReLU, nn.LeakyReLU, nn.Hardtanh, nn.GELU, nn.Tanh])


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(value: Tensor, expected: Tensor, tolerance: float = 1e-11) -> None:
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance * max(scale, 1e-300))


def same(one: Moments, other: Moments, tolerance: float = 1e-11) -> None:
    close(one.mean, other.mean, tolerance)
    close(one.covariance, other.covariance, tolerance)


def perceptron(seed: int, *widths: int, activation: type[nn.Module] = nn.ReLU, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=bias), activation()]
    return nn.Sequential(*layers[:-1]).double().requires_grad_(False)


def picture_net(seed: int = 0, *, pool: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    body = [
        nn.Conv2d(2, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        *([nn.MaxPool2d(2)] if pool else []),
        nn.Flatten(),
    ]
    body.append(nn.Linear(12 if pool else 48, 3))
    model = nn.Sequential(*body).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean, module.running_var = numbers(3, seed=1), numbers(3, seed=2).exp()
    return model.eval().requires_grad_(False)


@FEW
@given(seeds, st.floats(1e-6, 1e6), methods)
def test_scale(seed: int, factor: float, method: str) -> None:
    """Without biases a ReLU network is homogeneous, and so are its moments."""
    model, mean, noise = (
        perceptron(seed, 4, 6, 6, 3, bias=False),
        numbers(2, 4, seed=seed),
        numbers(4, 5, seed=seed + 1),
    )
    noise = noise @ noise.T
    one = propagate(model, mean, noise, method=method)
    scaled = propagate(model, factor * mean, factor**2 * noise, method=method)
    close(scaled.mean, factor * one.mean, 1e-9)
    close(scaled.covariance, factor**2 * one.covariance, 1e-9)


@FEW
@given(seeds, activations, methods, st.randoms(use_true_random=False))
def test_permuting_units_changes_nothing(seed, activation, method, random) -> None:
    # the factor form carries innovations of hidden layers with random signs: beyond one hidden layer it is an estimate
    widths = (4, 7, 3) if method == "factor" else (4, 7, 6, 3)
    model, mean = perceptron(seed, *widths, activation=activation), numbers(2, 4, seed=seed)
    permuted = perceptron(seed, *widths, activation=activation)
    order = list(range(7))
    random.shuffle(order)
    permuted[0].weight, permuted[0].bias = (
        nn.Parameter(t[order], requires_grad=False) for t in (model[0].weight, model[0].bias)
    )
    permuted[2].weight = nn.Parameter(model[2].weight[:, order], requires_grad=False)
    same(propagate(permuted, mean, 0.3, method=method), propagate(model, mean, 0.3, method=method), 1e-10)


@FEW
@given(seeds, methods)
def test_permuting_inputs_and_outputs(seed: int, method: str) -> None:
    model, mean, noise = perceptron(seed, 4, 6, 3), numbers(2, 4, seed=seed), numbers(4, 4, seed=seed + 1)
    noise, order, out = noise @ noise.T, [2, 0, 3, 1], [1, 2, 0]
    permuted = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for theirs, ours in zip(permuted.parameters(), model.parameters(), strict=True):
            theirs.copy_(ours)
        permuted[0].weight.copy_(model[0].weight[:, order])
        permuted[2].weight.copy_(model[2].weight[out])
        permuted[2].bias.copy_(model[2].bias[out])
    one = propagate(model, mean, noise, method=method)
    other = propagate(permuted, mean[:, order], noise[order][:, order], method=method)
    close(other.mean, one.mean[:, out])
    close(other.covariance, one.covariance[:, out][:, :, out])


@pytest.mark.parametrize(("method", "rank"), [*((method, 8) for method in METHODS), ("factor", 3), ("factor", 32)])
def test_a_batch_is_a_loop(method: str, rank: int) -> None:
    x = numbers(3, 2, 4, 4)
    noises = [
        0.2,
        numbers(3, 2, 4, 4, seed=1).square(),
        Dense(torch.stack([m @ m.T for m in numbers(3, 32, 32, seed=2)]), (2, 4, 4)),
        LowRankPlusDiagonal(numbers(2, 3, 2, 4, 4, seed=3), numbers(3, 2, 4, 4, seed=4).square()),
    ]
    for model in (picture_net(), nn.Sequential(picture_net(), nn.Softmax(-1))):
        subject = Subject.from_model(model, example=x)
        for noise in noises:
            together = propagate(subject, x, noise, method=method, rank=rank, samples=20)
            for row in range(3):
                alone = propagate(subject, x[row : row + 1], one(noise, row), method=method, rank=rank, samples=20)
                close(alone.mean[0], together.mean[row], 1e-10)
                close(alone.covariance[0], together.covariance[row], 1e-9)
                assert alone.grade is together.grade


@pytest.mark.parametrize("method", WALKING)
def test_a_batch_is_a_loop_when_operators_are_sampled(method: str) -> None:
    x = numbers(3, 4)
    model = Subject.from_model(
        nn.Sequential(perceptron(0, 4, 6, 5), nn.Softmax(-1), nn.Linear(5, 2).double()), example=x
    )
    together = propagate(model, x, 0.4, method=method, fallback="sample")
    for row in range(3):
        alone = propagate(model, x[row : row + 1], 0.4, method=method, fallback="sample")
        close(alone.mean[0], together.mean[row], 1e-10)
        close(alone.covariance[0], together.covariance[row], 1e-10)


@FEW
@given(seeds, activations)
def test_factor_of_full_rank_is_gain(seed: int, activation: type[nn.Module]) -> None:
    """With one hidden layer; the innovations of further layers are carried by random signs."""
    model, mean, noise = (
        perceptron(seed, 4, 6, 3, activation=activation),
        numbers(2, 4, seed=seed),
        numbers(4, 6, seed=seed + 1),
    )
    noise = noise @ noise.T
    same(propagate(model, mean, noise, method="factor", rank=4), propagate(model, mean, noise, method="gain"), 1e-9)


@FEW
@given(seeds)
def test_factor_is_close_to_gain_in_deep_networks(seed: int) -> None:
    model, mean = perceptron(seed, 8, 32, 32, 32, 4), numbers(2, 8, seed=seed)
    factor, gain = (propagate(model, mean, 0.3, method=method) for method in ("factor", "gain"))
    assert ((factor.mean - gain.mean).abs() / gain.std).mean() < 0.05
    assert (factor.variance / gain.variance - 1).abs().mean() < 0.15


@pytest.mark.parametrize("rank", [4, 20])
def test_structured_noise_needs_no_more_columns_than_it_has(rank: int) -> None:
    model, x = picture_net(pool=False), numbers(2, 2, 4, 4)
    noise = LowRankPlusDiagonal(0.3 * numbers(3, 2, 2, 4, 4, seed=1), torch.zeros(2, 2, 4, 4, dtype=torch.float64))
    result = propagate(model, x, noise, method="factor", rank=rank)
    assert result.grade is Grade.CLOSED_FORM
    same(result, propagate(model, x, to_dense(noise), method="factor", rank=32), 1e-8)


@pytest.mark.parametrize("method", ["exact", "gain", "factor"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_covariances_are_positive_semidefinite(method: str, dtype: torch.dtype) -> None:
    """200 outputs of inputs of rank 5: correlations of every kind, many of them near 1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU()).to(dtype)
    root = numbers(200, 5).to(dtype)
    result = propagate(
        model, numbers(1, 200, seed=1).to(dtype), Dense((root @ root.T).unsqueeze(0), (200,)), method=method
    )
    values = torch.linalg.eigvalsh(result.covariance[0].double())
    assert values.max() > 1
    assert values.min() >= -(1e-12 if dtype == torch.float64 else 1e-6) * values.max()
    assert torch.equal(result.covariance, result.covariance.mT)


@FEW
@given(seeds, st.sampled_from([*METHODS[:4]]))
def test_all_active_is_affine(seed: int, method: str) -> None:
    model, mean, noise = perceptron(seed, 4, 6, 5, 3), numbers(2, 4, seed=seed), numbers(4, 4, seed=seed + 1)
    noise = 0.01 * noise @ noise.T
    model[0].bias += 50
    model[2].bias += 2 * 6 * 60
    matrix = model[4].weight @ model[2].weight @ model[0].weight
    result = propagate(model, mean, noise, method=method)
    close(result.mean, model(mean), 1e-12)
    close(result.covariance, (matrix @ noise @ matrix.T).expand(2, 3, 3), 1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_all_dead_is_constant(method: str) -> None:
    model = perceptron(0, 4, 6, 3)
    model[0].bias -= 1000
    result = propagate(model, numbers(2, 4), 0.5, method=method)
    close(result.mean, model[2].bias.expand(2, 3))
    assert (result.covariance == 0).all()


@FEW
@given(seeds, activations, st.sampled_from(METHODS))
def test_no_noise_is_point_evaluation(seed: int, activation: type[nn.Module], method: str) -> None:
    model, mean = perceptron(seed, 4, 6, 5, 3, activation=activation), numbers(2, 4, seed=seed)
    result = propagate(model, mean, 0.0, method=method)
    close(result.mean, model(mean), 1e-12)
    assert result.covariance.abs().max() < 1e-25


@pytest.mark.parametrize("method", WALKING)
def test_no_noise_through_pools_and_at_kinks(method: str) -> None:
    model, x = picture_net(), numbers(2, 2, 4, 4)
    close(propagate(model, x, 0.0, method=method).mean, model(x), 1e-12)
    pool = nn.Sequential(nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()).double()
    tied = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    result = propagate(pool, tied, 0.0, method=method)
    assert (result.mean == 0).all()
    assert (result.covariance == 0).all()


@FEW
@given(seeds, methods)
def test_affine_networks_are_exact(seed: int, method: str) -> None:
    model, mean, noise = (
        perceptron(seed, 4, 6, 5, 3, activation=nn.Identity),
        numbers(2, 4, seed=seed),
        numbers(4, 4, seed=seed + 1),
    )
    noise, matrix = noise @ noise.T, model[4].weight @ model[2].weight @ model[0].weight
    result = propagate(model, mean, noise, method=method)
    assert result.grade is Grade.EXACT
    close(result.mean, model(mean))
    close(result.covariance, (matrix @ noise @ matrix.T).expand(2, 3, 3))


@pytest.mark.parametrize("method", ["exact", "gain", "factor", "linearize"])
def test_a_convolution_is_its_dense_matrix(method: str) -> None:
    model, x = picture_net(pool=False), numbers(2, 2, 4, 4)
    conv, norm = model[0], model[1]
    matrix = torch.autograd.functional.jacobian(
        lambda v: norm(conv(v.reshape(1, 2, 4, 4))).flatten(), torch.zeros(32).double()
    )
    dense = nn.Linear(32, 48).double()
    with torch.no_grad():
        dense.weight.copy_(matrix)
        dense.bias.copy_(norm(conv(torch.zeros(1, 2, 4, 4).double())).flatten())
    other = nn.Sequential(nn.Flatten(), dense, nn.ReLU(), model[4])
    same(propagate(model, x, 0.3, method=method), propagate(other, x, 0.3, method=method), 1e-10)


@pytest.mark.parametrize("method", [*WALKING, "linearize"])
def test_batch_norm_is_a_folded_convolution(method: str) -> None:
    model, x = picture_net(pool=method != "factor"), numbers(2, 2, 4, 4)
    conv, norm = model[0], model[1]
    folded = nn.Conv2d(2, 3, 3, padding=1).double()
    with torch.no_grad():
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        folded.weight.copy_(conv.weight * scale.reshape(-1, 1, 1, 1))
        folded.bias.copy_((conv.bias - norm.running_mean) * scale + norm.bias)
    same(
        propagate(nn.Sequential(folded, *model[2:]), x, 0.3, method=method),
        propagate(model, x, 0.3, method=method),
        1e-10,
    )


class Residual(nn.Module):
    def __init__(self, seed: int, blocks: int, weight: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 6)) for _ in range(blocks))
        self.head = nn.Linear(6, 3)
        self.weight = weight
        self.double().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + self.weight * block(x)
        return self.head(x)


@pytest.mark.parametrize("method", [*WALKING, "linearize"])
def test_a_residual_with_a_zero_branch_is_an_identity(method: str) -> None:
    model, x = Residual(0, 3, 0.0), numbers(2, 6)
    same(propagate(model, x, 0.3, method=method), propagate(model.head, x, 0.3, method=method))


@pytest.mark.parametrize("method", ["exact", "gain", "factor"])
def test_skips_keep_their_covariance_with_the_branch(method: str) -> None:
    """x - 0.9 relu-branch(x) with a branch that follows x: independent treatment adds two variances that cancel."""
    torch.manual_seed(0)
    skip = Skip().double().requires_grad_(False)
    x = numbers(3, 6) + 4
    truth = propagate(skip, x, 0.3, method="mc", samples=40_000)
    ratio = propagate(skip, x, 0.3, method=method).variance / truth.variance
    # sampled variances carry sqrt(2 / 40000) = 0.7 %: six deviations
    assert (ratio - 1).abs().max() < 0.045
    independent = propagate(skip, x, 0.3, method="diagonal").variance / truth.variance
    assert independent.min() > 20


class Skip(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - 0.9 * torch.relu(x)


@pytest.mark.parametrize("method", ["exact", "gain", "factor"])
@pytest.mark.parametrize(
    "function", [lambda x: x * x, lambda x: x + x, lambda x: torch.cat([x, x * x - x], 1)], ids=["square", "sum", "cat"]
)
def test_a_tensor_read_twice(function, method: str) -> None:
    """Against what is known of squares: E x^2 = m^2 + s^2, Var = 4 m^2 s^2 + 2 s^4. Also with independent rests."""

    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    x, variance = numbers(2, 3), numbers(2, 3, seed=1).square() + 0.1
    expected = {
        "mean": [x.square() + variance, 2 * x, torch.cat([x, x.square() + variance - x], 1)],
        "variance": [
            4 * x.square() * variance + 2 * variance.square(),
            4 * variance,
            torch.cat([variance, (2 * x - 1).square() * variance + 2 * variance.square()], 1),
        ],
    }
    which = {3: 0, 6: 2}[function(x).shape[1]] if not torch.equal(function(x), 2 * x) else 1
    result = propagate(Twice(), x, Diagonal(variance), method=method)
    close(result.mean, expected["mean"][which])
    close(result.variance, expected["variance"][which])
    diagonal = propagate(Twice(), x, Diagonal(variance), method="diagonal")
    if which < 2:
        close(diagonal.variance, expected["variance"][which])


@FEW
@given(seeds, st.floats(0.01, 10))
def test_outputs_asked_for_are_those_of_all(seed: int, variance: float) -> None:
    model, x = perceptron(seed, 4, 8, 6), numbers(2, 4, seed=seed)
    wanted = torch.tensor([[5, 0, 2], [1, 1, 4]])
    model = Subject.from_model(model, example=x)
    for method in METHODS:
        some = propagate(model, x, variance, method=method, outputs=wanted, samples=50)
        every = propagate(model, x, variance, method=method, samples=50)
        close(some.mean, every.mean.gather(1, wanted), 1e-10)
        picked = torch.stack([every.covariance[b][wanted[b]][:, wanted[b]] for b in range(2)])
        if method == "diagonal":
            picked = torch.diag_embed(picked.diagonal(dim1=1, dim2=2))
        close(some.covariance, picked, 1e-9)


def one(noise, row: int):
    part = slice(row, row + 1)
    if isinstance(noise, Dense):
        return Dense(noise.matrix[part], noise.event)
    if isinstance(noise, LowRankPlusDiagonal):
        return LowRankPlusDiagonal(noise.factor[:, part], noise.rest[part])
    return noise[part] if isinstance(noise, Tensor) else noise
