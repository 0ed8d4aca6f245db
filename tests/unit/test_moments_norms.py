"""Norms of random groups against sampling, and against linearising at the mean."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.support.inputs import Function, numbers

from assay.grade import Grade
from assay.moments import propagate
from assay.moments.rules.groups import Layout, Spread
from assay.subject import Subject

WEIGHT, BIAS = numbers(12, seed=3), numbers(12, seed=4)
NORMS = {
    "layer": lambda x: F.layer_norm(x, (12,), WEIGHT, BIAS),
    "rms": lambda x: F.rms_norm(x, (12,), WEIGHT),
    "layer by rows": lambda x: F.layer_norm(x.reshape(-1, 2, 6), (6,)).flatten(1),
    "group": lambda x: F.group_norm(x.reshape(-1, 4, 3), 2, WEIGHT[:4], BIAS[:4]).flatten(1),
    "instance": lambda x: F.instance_norm(x.reshape(-1, 2, 6)).flatten(1),
}


@pytest.mark.parametrize("method", ["exact", "gain", "factor"])
@pytest.mark.parametrize("name", NORMS)
def test_a_norm_against_sampling(name: str, method: str) -> None:
    function, mean = NORMS[name], numbers(2, 12, seed=1)
    noise = 0.3 * numbers(12, 12, seed=2) / 12**0.5
    covariance = noise @ noise.T + 0.02 * torch.eye(12, dtype=torch.float64)
    root = torch.linalg.cholesky(covariance)
    draws = function((mean.unsqueeze(1) + numbers(100_000, 12, seed=5) @ root.T).flatten(0, 1)).unflatten(0, (2, -1))
    deviation, variance = draws.std(1), draws.var(1)
    found = propagate(Function(function), mean, covariance, method=method, rank=12)
    plain = propagate(Function(function), mean, covariance, method="linearize")
    error, of_plain = (((r.mean - draws.mean(1)).abs() / deviation).mean() for r in (found, plain))
    assert error < 0.03
    assert error < 0.25 * of_plain
    spread, of_plain = ((r.variance / variance - 1).abs().mean() for r in (found, plain))
    assert spread < 0.12
    assert spread < of_plain + 0.01
    assert found.grade is Grade.LINEARISED


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("method", ["exact", "factor"])
def test_a_group_keeps_its_energy_however_large_the_noise(method: str, size: float) -> None:
    """The squares of a normalised group add up to at most n; the map may exceed that by a quarter."""
    result = propagate(Function(lambda x: F.layer_norm(x, (12,))), numbers(2, 12), size**2, method=method, rank=12)
    energy = (result.mean.square() + result.variance).sum(1)
    assert (energy < 12 * 1.25).all()
    assert (energy > 12 * 0.9).all()


@pytest.mark.parametrize("method", ["exact", "factor"])
def test_a_norm_of_a_constant_group_is_finite_with_gradients(method: str) -> None:
    mean = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    subject = Subject.from_model(Function(lambda x: F.layer_norm(x, (6,))), example=numbers(1, 6))
    for variance in (0.0, 0.5):
        result = propagate(subject, mean, variance, method=method, rank=6)
        assert torch.isfinite(result.covariance).all()
        (slope,) = torch.autograd.grad(result.mean[0, 0] + result.variance.sum(), mean)
        assert torch.isfinite(slope).all()


def test_single_precision_agrees_with_double() -> None:
    x = numbers(2, 12)
    wide, narrow = (
        propagate(Function(lambda x: F.layer_norm(x, (12,))), x.to(kind), 0.09, method="factor", rank=12)
        for kind in (torch.float64, torch.float32)
    )
    torch.testing.assert_close(narrow.mean.double(), wide.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(narrow.variance.double(), wide.variance, rtol=1e-3, atol=1e-4)


class TestGroups:
    @pytest.mark.parametrize(("shape", "axis"), [((2, 3, 4), 1), ((2, 3, 4), -1), ((2, 5, 3, 4), 2)])
    def test_split_and_join(self, shape: tuple[int, ...], axis: int) -> None:
        value, layout = numbers(7, *shape), Layout.along(shape, axis)
        rows = layout.split(value)
        expected = value.movedim(axis if axis < 0 else axis + 1, -1)
        assert torch.equal(rows, expected.reshape(7, 2, -1, shape[axis]))
        assert torch.equal(layout.join(rows), value)

    def test_columns_and_matrix_agree(self) -> None:
        factor, rest, vector = numbers(3, 2, 4, 5), numbers(2, 4, 5, seed=1).square(), numbers(2, 4, 5, seed=2)
        matrix = torch.einsum("rbgn,rbgm->bgnm", factor, factor) + torch.diag_embed(rest)
        variance = matrix.diagonal(dim1=-2, dim2=-1)
        columns, full = Spread(variance, None, factor, rest), Spread(variance, matrix, None, None)
        strength = torch.full((2, 4, 1), 0.7, dtype=torch.float64)
        torch.testing.assert_close(columns.times(vector), full.times(vector))
        torch.testing.assert_close(columns.square_trace(), full.square_trace())
        torch.testing.assert_close(columns.shrunk(vector, strength), full.shrunk(vector, strength))
        direct = torch.linalg.inv(torch.eye(5).double() + 0.7 * matrix) @ vector.unsqueeze(-1)
        torch.testing.assert_close(full.shrunk(vector, strength), direct.squeeze(-1))
        torch.testing.assert_close(columns.centred().variance, full.centred().variance)
