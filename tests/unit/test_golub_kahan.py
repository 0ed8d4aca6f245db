"""Golub-Kahan-Lanczos against the dense singular value decomposition."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from assay.errors import NumericalError, SubjectError, UsageError
from assay.norms.golub_kahan import largest_singular, start_vector
from assay.probe import Probe
from assay.sensitivity.jacobian import JacobianOperator, frobenius_squared_sampled


@dataclass
class Matrices:
    """A batch of dense matrices (B, K, n) as an operator that counts its products."""

    dense: Tensor
    forwards: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        batch, outputs, inputs = self.dense.shape
        return batch, outputs, inputs

    def forward(self, v: Tensor) -> Tensor:
        self.forwards += 1
        return torch.einsum("bkn,bn->bk", self.dense, v)

    def transpose(self, u: Tensor) -> Tensor:
        return torch.einsum("bkn,bk->bn", self.dense, u)

    def select(self, rows: Tensor) -> Matrices:
        return Matrices(self.dense[rows])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def with_spectrum(values: list[float], outputs: int, inputs: int, seed: int = 0) -> Tensor:
    left = torch.linalg.qr(random(outputs, len(values), seed=seed))[0]
    right = torch.linalg.qr(random(inputs, len(values), seed=seed + 1))[0]
    return (left * torch.tensor(values, dtype=torch.float64)) @ right.mT


CASES = {
    "random": random(6, 20, 30),
    "tall": random(4, 40, 3),
    "wide": random(4, 3, 200),
    "square": random(3, 12, 12),
    "one row": random(3, 1, 50),
    "one column": random(3, 50, 1),
    "one by one": random(3, 1, 1),
    "rank one": torch.stack([torch.outer(random(9, seed=s), random(14, seed=s + 9)) for s in range(3)]),
    "orthogonal": torch.linalg.qr(random(2, 15, 15))[0],
    "identity": torch.eye(8, dtype=torch.float64)[None],
    "twice the largest": with_spectrum([3.0, 3.0, 1.0, 0.5], 12, 20)[None],
    "clustered": with_spectrum([1.0, 1 - 1e-4, 1 - 2e-4, 0.5, 0.1], 20, 30)[None],
    "one outlier": with_spectrum([100.0] + [1.0] * 15, 20, 30)[None],
    "geometric": with_spectrum([0.5**k for k in range(25)], 25, 40)[None],
    "tiny": random(2, 6, 9) * 1e-160,
    "huge": random(2, 6, 9) * 1e150,
    "long": random(2, 120, 90),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_dense_decomposition(name: str) -> None:
    dense = CASES[name]
    found = largest_singular(Matrices(dense), tolerance=1e-9)
    truth = torch.linalg.svdvals(dense)
    torch.testing.assert_close(found.value, truth[:, 0], rtol=1e-11, atol=0)
    # The triplet really is one: A v = sigma u, A^T u = sigma v, unit vectors.
    scale = truth[:, :1]
    torch.testing.assert_close(torch.einsum("bkn,bn->bk", dense, found.right) / scale, found.left, rtol=0, atol=2e-8)
    torch.testing.assert_close(torch.einsum("bkn,bk->bn", dense, found.left) / scale, found.right, rtol=0, atol=2e-8)
    torch.testing.assert_close(found.left.norm(dim=1), torch.ones(len(dense), dtype=torch.float64))
    torch.testing.assert_close(found.right.norm(dim=1), torch.ones(len(dense), dtype=torch.float64))


def test_rank_one_ends_after_one_step() -> None:
    found = largest_singular(Matrices(CASES["rank one"]))
    assert found.iterations.tolist() == [1, 1, 1]
    assert found.exhausted.all()


@pytest.mark.parametrize("name", ["orthogonal", "identity"])
def test_an_invariant_space_is_recognised(name: str) -> None:
    """One step finds the norm and that there is nothing more to find, so that no probability is needed."""
    found = largest_singular(Matrices(CASES[name]))
    assert (found.iterations == 1).all()
    assert found.exhausted.all()
    assert torch.equal(found.upper(), found.value)


def test_orthogonality_needs_two_passes() -> None:
    """With one pass per step the loss builds up over many steps, here to 4e-7."""
    dense = with_spectrum([1 / (1 + 0.01 * k) for k in range(30)], 45, 60)[None]
    found = largest_singular(Matrices(dense), max_steps=30, tolerance=1e-300)
    used = found.basis[0, : int(found.iterations)]
    assert len(used) > 20
    torch.testing.assert_close(used @ used.mT, torch.eye(len(used), dtype=torch.float64), rtol=0, atol=1e-13)


def test_a_zero_map_gives_zero_beside_others() -> None:
    dense = random(3, 5, 7)
    dense[1] = 0
    found = largest_singular(Matrices(dense))
    assert found.value[1] == 0
    assert not found.left[1].any()
    assert not found.right[1].any()
    torch.testing.assert_close(found.value, torch.linalg.svdvals(dense)[:, 0], rtol=1e-9, atol=0)
    assert all(torch.isfinite(part).all() for part in (found.value, found.left, found.right, found.residual))


def test_estimates_grow_from_below() -> None:
    dense = with_spectrum([1 / (1 + 0.01 * k) for k in range(60)], 60, 80)[None]
    values = [float(largest_singular(Matrices(dense), max_steps=k, tolerance=1e-12).value) for k in (1, 2, 4, 8, 16)]
    assert values == sorted(values)
    assert values[0] < values[-1] <= 1 + 1e-12


def test_the_last_beta_and_the_start_matter() -> None:
    """k steps know ||U_k^T A||, more than the square k x k bidiagonal matrix says and never less."""
    dense = random(1, 30, 40)
    found = largest_singular(Matrices(dense), max_steps=3, tolerance=1e-12)
    basis = found.basis[0]
    torch.testing.assert_close(basis @ basis.mT, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-13)
    projected = basis @ dense[0]
    torch.testing.assert_close(found.value[0], torch.linalg.svdvals(projected)[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(found.captured[0], projected.square().sum(), rtol=1e-12, atol=0)
    # The first right vector is A^T r, so that the first left vector is along A A^T r.
    expected = dense[0] @ dense[0].mT @ start_vector(30)
    torch.testing.assert_close(basis[0], expected / expected.norm(), rtol=0, atol=1e-13)


def test_the_reported_residual_is_the_true_one() -> None:
    dense = random(4, 30, 40)
    found = largest_singular(Matrices(dense), max_steps=5, tolerance=1e-12)
    true = torch.einsum("bkn,bn->bk", dense, found.right) - found.value[:, None] * found.left
    torch.testing.assert_close(found.residual, true.norm(dim=1) / found.value, rtol=1e-8, atol=0)
    assert (found.residual > 1e-3).all()
    assert not found.exhausted.any()


def test_full_reorthogonalisation_survives_a_wide_spectrum() -> None:
    """Without it the basis loses orthogonality as soon as the first singular value has converged."""
    dense = with_spectrum([1e6] + [1.0] * 5 + [0.9**k for k in range(40)], 50, 70)[None]
    found = largest_singular(Matrices(dense), max_steps=40, tolerance=1e-300)
    used = found.basis[0, : int(found.iterations)]
    torch.testing.assert_close(used @ used.mT, torch.eye(len(used), dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_batch_gives_what_its_members_give() -> None:
    dense = random(7, 20, 30)
    dense[2] = with_spectrum([1.0, 0.1], 20, 30)  # ends early
    dense[5] = 0
    together = largest_singular(Matrices(dense))
    assert len(set(together.iterations.tolist())) > 2
    for row in range(len(dense)):
        alone = largest_singular(Matrices(dense[row : row + 1]))
        assert alone.iterations[0] == together.iterations[row]
        torch.testing.assert_close(alone.value[0], together.value[row], rtol=1e-14, atol=0)
        torch.testing.assert_close(alone.right[0], together.right[row], rtol=0, atol=1e-12)


def test_single_precision() -> None:
    dense = random(5, 25, 60).float()
    found = largest_singular(Matrices(dense), dtype=torch.float32)
    truth = torch.linalg.svdvals(dense.double())[:, 0]
    torch.testing.assert_close(found.value, truth, rtol=2e-6, atol=0)
    low_rank = with_spectrum([2.0, 1.0, 0.5], 25, 60)[None].float()
    exhausted = largest_singular(Matrices(low_rank), dtype=torch.float32, tolerance=1e-9)
    assert int(exhausted.iterations) <= 4
    assert float(exhausted.value) == pytest.approx(2.0, rel=1e-6)


def test_the_probability_statement_holds() -> None:
    """60 seeds, 5 steps: at 5 % failure probability 12 or more misses of 60 have probability below 1e-4."""
    dense = with_spectrum([1 / (1 + 0.02 * k) for k in range(40)], 40, 60)[None]
    misses = low = 0
    for seed in range(60):
        found = largest_singular(Matrices(dense), max_steps=5, seed=seed)
        low += float(found.value) < 1 - 1e-6
        misses += float(found.upper(0.05)) < 1
    assert low > 50  # the plain estimates do lie below
    assert misses < 12


def test_the_probability_statement_follows_the_formula() -> None:
    found = largest_singular(Matrices(random(1, 100, 120)), max_steps=20, tolerance=1e-12)
    error = (math.log(1.648 * math.sqrt(100) / 1e-6) / (2 * 20 - 1)) ** 2
    assert float(found.upper()) == pytest.approx(float(found.value) / math.sqrt(1 - error), rel=1e-12)
    assert math.isinf(float(largest_singular(Matrices(random(1, 100, 120)), max_steps=2).upper()))
    exhausted = largest_singular(Matrices(random(1, 5, 9)))
    assert float(exhausted.upper()) == float(exhausted.value)


def test_stops_when_converged() -> None:
    counted = Matrices(with_spectrum([100.0] + [1.0 - 0.01 * k for k in range(40)], 60, 80)[None])
    found = largest_singular(counted, tolerance=1e-5)
    assert int(found.iterations) <= 5
    assert counted.forwards == int(found.iterations) + 1
    assert float(found.residual) <= 1e-5


@pytest.mark.parametrize("arguments", [{"tolerance": 0.0}, {"tolerance": float("nan")}, {"max_steps": 0}])
def test_refuses_useless_settings(arguments: dict) -> None:
    with pytest.raises(UsageError, match="tolerance must be positive"):
        largest_singular(Matrices(random(1, 2, 2)), **arguments)


def conv_net() -> nn.Module:
    torch.manual_seed(1)
    layers = [
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, stride=2, padding=1, padding_mode="circular"),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(32, 70),
    ]
    return nn.Sequential(*layers).double().eval().requires_grad_(False)


def dense_jacobian(model: nn.Module, x: Tensor) -> Tensor:
    return torch.func.vmap(torch.func.jacrev(lambda sample: model(sample[None])[0]))(x).flatten(2)


def test_conv_net_against_a_dense_jacobian() -> None:
    model, x = conv_net(), random(4, 2, 8, 8)
    operator = JacobianOperator(Probe(model), x)
    dense = dense_jacobian(model, x)
    assert operator.shape == dense.shape == (4, 70, 128)
    torch.testing.assert_close(operator.rows(), dense, rtol=0, atol=1e-14)
    found = largest_singular(operator)
    left, values, right = torch.linalg.svd(dense)
    torch.testing.assert_close(found.value, values[:, 0], rtol=1e-8, atol=0)
    assert (torch.einsum("bk,bk->b", found.left, left[:, :, 0]).abs() > 1 - 1e-8).all()
    assert (torch.einsum("bn,bn->b", found.right, right[:, 0]).abs() > 1 - 1e-8).all()


def test_sampled_frobenius_norm() -> None:
    """Within 5 of its own standard errors of the truth: chance below 1e-5 per input."""
    model, x = conv_net(), random(4, 2, 8, 8)
    operator = JacobianOperator(Probe(model), x)
    truth = dense_jacobian(model, x).square().sum((1, 2))
    plain, plain_error = frobenius_squared_sampled(operator, 200, seed=3)
    assert ((plain - truth).abs() < 5 * plain_error).all()
    assert (plain_error > 0).all()
    partial = largest_singular(operator, max_steps=6, tolerance=1e-12)
    helped, helped_error = frobenius_squared_sampled(
        operator, 200, seed=3, basis=partial.basis, captured=partial.captured
    )
    assert ((helped - truth).abs() < 5 * helped_error).all()
    assert (helped_error < 0.7 * plain_error).all()


class Root(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


class Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError("no derivative for this")


def test_infinite_derivatives_are_an_error() -> None:
    with pytest.raises(NumericalError, match="NaN or infinite"):
        largest_singular(JacobianOperator(Probe(Root()), torch.zeros(1, 3, dtype=torch.float64)))


def test_a_failing_derivative_is_one_clear_error() -> None:
    with pytest.raises(SubjectError, match="cannot be differentiated"):
        JacobianOperator(Probe(Rounded()), torch.zeros(1, 3)).outputs  # noqa: B018
