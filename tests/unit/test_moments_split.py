"""Splitting into narrower Gaussians, and the two covariances of inputs that come with it: conditioned and blurred."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.support.inputs import numbers
from torch import Tensor, nn

from assay.covariance import (
    Conditioned,
    Convolved,
    Covariance,
    Dense,
    Diagonal,
    LowRankPlusDiagonal,
    MatrixMap,
    add,
    diagonal,
    project,
    sample,
    scale,
    select,
    through_linear,
    times,
    to_dense,
)
from assay.errors import UsageError
from assay.grade import Grade
from assay.moments import blurred_noise, propagate
from assay.moments.basis import low_rank


def close(value: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)


def narrow() -> tuple[nn.Module, Tensor, Tensor]:
    """Six hidden layers of 16: Gaussian closure fails there."""
    random = np.random.RandomState(2)
    layers: list[nn.Module] = []
    for wide, out in zip([6] + [16] * 6, [16] * 6 + [2], strict=True):
        layer = nn.Linear(wide, out).double().requires_grad_(False)
        layer.weight.copy_(torch.from_numpy(random.randn(out, wide) * np.sqrt(2 / wide)))
        layer.bias.copy_(torch.from_numpy(0.1 * random.randn(out)))
        layers += [layer, nn.ReLU()]
    centre, root = random.randn(6), random.randn(6, 6)
    return nn.Sequential(*layers[:-1]), torch.from_numpy(centre)[None], torch.from_numpy(root @ root.T / 6) / 4


TRUTH = torch.tensor([[-0.873902, -0.422362]]).double(), torch.tensor([[0.101792, 0.060793]]).double()


def test_where_closure_fails_it_is_nearer_the_truth() -> None:
    """Truth by randomised quasi-Monte Carlo, 2 million points."""
    net, x, noise = narrow()
    mean, variance = TRUTH
    errors = {}
    for name, options in {
        "whole": {"method": "exact"},
        "one": {"method": "split", "directions": 1},
        "two": {"method": "split", "directions": 2},
    }.items():
        found = propagate(net, x, noise, **options)  # type: ignore[arg-type]
        errors[name] = (
            float(((found.mean - mean) / variance.sqrt()).abs().max()),
            float((found.variance / variance - 1).abs().max()),
        )
    assert errors["whole"][1] > 0.5
    assert errors["one"][1] < 0.5 * errors["whole"][1]
    assert errors["two"][1] < 0.5 * errors["whole"][1]
    assert errors["one"][0] < 0.03 < errors["whole"][0]


FORMS: dict[str, Covariance | float] = {
    "number": 0.5,
    "variances": Diagonal(numbers(1, 3, seed=1).square()),
    "columns": LowRankPlusDiagonal(numbers(2, 1, 3), numbers(1, 3, seed=1).square()),
    "matrix": Dense((lambda root: root @ root.mT)(numbers(1, 3, 3)), (3,)),
}


@pytest.mark.parametrize("within", ["exact", "gain", "factor", "auto"])
@pytest.mark.parametrize("form", FORMS)
def test_an_affine_network_stays_exact(form: str, within: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3)).double().requires_grad_(False)
    found = propagate(net, numbers(2, 3), FORMS[form], method="split", within=within)  # type: ignore[arg-type]
    expected = propagate(net, numbers(2, 3), FORMS[form], method="exact")
    close(found.mean, expected.mean)
    close(found.covariance, expected.covariance)
    assert found.grade is Grade.CLOSED_FORM


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_all_directions_with_many_nodes_reach_the_truth(form: str) -> None:
    """A network of two outputs that see two directions only: then nothing is left inside the pieces."""
    torch.manual_seed(0)
    net = (
        nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2), nn.Tanh())
        .double()
        .requires_grad_(False)
    )
    x = numbers(2, 3)
    found = propagate(net, x, FORMS[form], method="split", nodes=20)  # type: ignore[arg-type]
    whole = propagate(net, x, FORMS[form], method="exact")
    draws = 40_000
    truth = propagate(net, x, FORMS[form], method="mc", samples=draws)
    assert truth.standard_error is not None
    # 5 standard errors: one false alarm in 1.7 million numbers
    assert ((found.mean - truth.mean).abs() < 5 * truth.standard_error).all()
    assert ((found.variance / truth.variance - 1).abs() < 5 * (2 / draws) ** 0.5).all()
    assert not torch.allclose(whole.variance, found.variance, rtol=1e-3)


def test_a_batch_equals_single_inputs_and_outputs_can_be_chosen() -> None:
    net, x, noise = narrow()
    batch = torch.cat([x, x + 0.3])
    together = propagate(net, batch, noise, method="split", nodes=3)
    alone = propagate(net, batch[1:], noise, method="split", nodes=3)
    close(together.covariance[1:], alone.covariance, 1e-8)
    one = propagate(net, x, noise, method="split", outputs=torch.tensor([1]), directions=3)
    assert one.covariance.shape == (1, 1, 1)
    assert "5 pieces" in one.reason  # one output moves along one direction


def test_without_noise_or_directions() -> None:
    net, x, noise = narrow()
    still = propagate(net, x, 0.0, method="split")
    close(still.mean, net(x))
    assert (still.covariance == 0).all()
    whole = propagate(net, x, noise, method="split", directions=0)
    close(whole.covariance, propagate(net, x, noise, method="exact").covariance)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"directions": -1}, "split"),
        ({"nodes": 0}, "split"),
        ({"directions": 9, "nodes": 9}, "split"),
        ({"within": "mc"}, "within"),
    ],
)
def test_refused(options: dict[str, Any], where: str) -> None:
    net, x, noise = narrow()
    with pytest.raises(UsageError) as caught:
        propagate(net, x, noise, method="split", **options)
    assert caught.value.where == where


def conditioned() -> Conditioned:
    root = numbers(2, 4, 4)
    base = Dense(root @ root.mT, (4,))
    guides = numbers(2, 2, 4, seed=5)
    gram = project(base, guides, guides)
    functionals = torch.einsum("bkm,mbd->kbd", torch.linalg.inv(torch.linalg.cholesky(gram)), guides)
    return Conditioned(base, functionals, times(base, functionals))


def blurred() -> Convolved:
    noise = blurred_noise((1, 8, 8), numbers(1, 8, 8, seed=4).abs() + 0.2, (1.0, 0.6))
    return Convolved(noise.taps, noise.scale.expand(2, -1, -1, -1))


def truth_of(covariance: Conditioned | Convolved) -> Tensor:
    """The dense matrix, written down from the definition."""
    if isinstance(covariance, Conditioned):
        base = to_dense(covariance.base).matrix
        v = covariance.functionals.permute(1, 2, 0)
        return base - base @ v @ torch.linalg.inv(v.mT @ base @ v) @ v.mT @ base
    axes = []
    for taps in covariance.taps:
        row = torch.zeros(8, 8 + len(taps) - 1).double()
        for place in range(8):
            row[place, place : place + len(taps)] = taps
        axes.append(row @ row.T)
    flat = covariance.scale.flatten(1)
    return torch.kron(axes[0], axes[1]) * flat.unsqueeze(2) * flat.unsqueeze(1)


@pytest.mark.parametrize("make", [conditioned, blurred])
class TestForms:
    def test_questions_against_the_matrix(self, make: Any) -> None:
        covariance = make()
        truth, event = truth_of(covariance), covariance.shape[1:]
        close(to_dense(covariance).matrix, truth)
        close(diagonal(covariance).flatten(1), truth.diagonal(dim1=1, dim2=2))
        left, right = numbers(3, 2, *event, seed=6), numbers(2, 2, *event, seed=7)
        flat_left, flat_right = (t.flatten(2).transpose(0, 1) for t in (left, right))
        close(project(covariance, left, right), flat_left @ truth @ flat_right.mT)
        close(times(covariance, left).flatten(2).transpose(0, 1), flat_left @ truth)
        close(to_dense(select(covariance, slice(1, 2))).matrix, truth[1:])
        gain = numbers(*event, seed=8)
        flat = gain.flatten()
        close(to_dense(scale(covariance, gain)).matrix, truth * flat * flat.unsqueeze(1))
        close(to_dense(add(covariance, gain.square())).matrix, truth + torch.diag(flat.square()))
        if len(event) == 1:
            matrix = numbers(3, 4, seed=9)
            close(to_dense(through_linear(covariance, MatrixMap(matrix))).matrix, matrix @ truth @ matrix.T)

    def test_draws(self, make: Any) -> None:
        covariance, count = make(), 20_000
        truth = truth_of(covariance)
        draws = sample(covariance, count, torch.Generator().manual_seed(0)).flatten(2).transpose(0, 1)
        found = draws.mT @ draws / count
        variance = truth.diagonal(dim1=1, dim2=2)
        error = ((variance.unsqueeze(1) * variance.unsqueeze(2) + truth.square()) / count).sqrt()
        assert ((found - truth).abs() < 5 * error + 1e-9).all()  # one false alarm in 1.7 million numbers

    def test_columns(self, make: Any) -> None:
        covariance = make()
        reduced, whole = low_rank(covariance, 100)
        assert whole
        close(to_dense(reduced).matrix, truth_of(covariance), 1e-8)
        few = [low_rank(covariance, 3, seed=seed)[0] for seed in range(400)]
        assert few[0].rank == 3
        mean = torch.stack([diagonal(c) for c in few]).mean(0)
        assert (mean / diagonal(covariance).clamp(min=1e-9) - 1).abs().max() < 0.3  # unbiased

    def test_propagation(self, make: Any) -> None:
        covariance = make()
        torch.manual_seed(0)
        size = int(np.prod(covariance.shape[1:]))
        net = nn.Sequential(nn.Flatten(), nn.Linear(size, 5), nn.ReLU(), nn.Linear(5, 2)).double()
        x = numbers(*covariance.shape, seed=3)
        expected = propagate(net, x, truth_of(covariance), method="exact")
        for method in ("exact", "gain", "factor"):
            found = propagate(net, x, covariance, method=method, rank=100)
            close(found.mean, expected.mean, 1e-8)
            if method == "exact":
                close(found.covariance, expected.covariance)
            else:
                torch.testing.assert_close(found.covariance, expected.covariance, rtol=0.2, atol=0.02)
        first = propagate(net, x, covariance, method="linearize")
        close(first.covariance, propagate(net, x, truth_of(covariance), method="linearize").covariance)


def test_blurred_noise_is_even() -> None:
    covariance = blurred_noise((3, 8, 8), 0.5, 1.5)
    assert (diagonal(covariance) == 0.25).all()
    matrix = to_dense(Convolved(covariance.taps, covariance.scale.double())).matrix[0].reshape(3, 8, 8, 3, 8, 8)
    close(matrix[0, 0, 0, 0, 0, 2], matrix[1, 5, 5, 1, 3, 5], 1e-6)
    assert float(matrix[0, 4, 4, 0, 4, 6]) == pytest.approx(0.25 * np.exp(-(2**2) / (4 * 1.5**2)), rel=1e-3)
    assert (matrix[0, :, :, 1] == 0).all()
    plain = blurred_noise((3, 8, 8), 0.5, 0.0)
    close(to_dense(plain).matrix[0], 0.25 * torch.eye(192), 1e-6)


@pytest.mark.parametrize(
    "arguments", [(-1.0, 1.0), (1.0, -1.0), (float("nan"), 1.0), (1.0, float("inf")), (1.0, (1.0,) * 4)]
)
def test_bad_blurs_are_refused(arguments: tuple[Any, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        blurred_noise((1, 8, 8), *arguments)
    assert caught.value.where == "blurred_noise"


def test_blurred_noise_must_fit_the_input() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(UsageError, match="does not fit"):
        propagate(net, torch.zeros(1, 1, 8, 8), blurred_noise((1, 4, 4), 1.0, 1.0))


def test_a_large_picture_needs_no_matrix() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 7, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    x = torch.randn(1, 3, 224, 224)
    noise = blurred_noise((3, 224, 224), 0.3, 2.0)
    found = propagate(net, x, noise, method="factor", rank=16)
    first = propagate(net, x, noise, method="linearize")
    assert (found.variance > 0).all()
    assert (first.variance > 0).all()
