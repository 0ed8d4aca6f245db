"""Smooth noise, conditioned noise, and the corners of the other forms, each against the dense matrix it stands for."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest
import torch
from tests.support.inputs import close, numbers
from torch import Tensor

from assay.covariance import (
    Conditioned,
    Convolved,
    Covariance,
    Dense,
    Diagonal,
    LowRankPlusDiagonal,
    MatrixMap,
    add,
    compress,
    diagonal,
    project,
    sample,
    scale,
    select,
    through_linear,
    times,
    to_dense,
)
from assay.covariance import functions as module
from assay.covariance.convolved import root, root_transposed
from assay.covariance.functions import safe_sqrt, size_in_bytes, square_root

BATCH, EVENT = 3, (2, 3, 4)
SIZE = 24
TAPS = (torch.tensor([0.6, -0.48, 0.64], dtype=torch.float64), torch.tensor([0.8, 0.6], dtype=torch.float64))


def band(size: int, taps: Tensor) -> Tensor:
    """(size, size + len(taps) - 1): every row holds the taps, one place further on."""
    rows = torch.zeros(size, size + len(taps) - 1, dtype=torch.float64)
    for row in range(size):
        rows[row, row : row + len(taps)] = taps
    return rows


def smooth() -> tuple[Covariance, Tensor]:
    """Two channels, taps of 3 and 2 on the last two axes."""
    deviation = numbers(BATCH, *EVENT).abs() + 0.1
    plane = torch.kron(band(3, TAPS[0]) @ band(3, TAPS[0]).T, band(4, TAPS[1]) @ band(4, TAPS[1]).T)
    whole = torch.kron(torch.eye(2, dtype=torch.float64), plane)
    flat = deviation.flatten(1)
    return Convolved(TAPS, deviation), whole * flat.unsqueeze(1) * flat.unsqueeze(2)


def wide() -> tuple[Covariance, Tensor]:
    """Taps on every axis but the batch, the first of them a single number."""
    taps = (torch.ones(1, dtype=torch.float64), *TAPS)
    covariance, truth = smooth()
    assert isinstance(covariance, Convolved)
    return Convolved(taps, covariance.scale), truth


def known(base: Covariance, truth: Tensor) -> tuple[Covariance, Tensor]:
    """Three numbers about the noise are known, one of them of no variance."""
    values, vectors = torch.linalg.eigh(truth)
    turn = torch.linalg.qr(numbers(SIZE, SIZE, seed=11))[0][:, :2]
    root_inverse = vectors @ torch.diag_embed(values.clamp(min=1e-9).rsqrt()) @ vectors.mT
    weights = torch.cat([root_inverse @ turn, torch.zeros(BATCH, SIZE, 1, dtype=torch.float64)], 2)
    covered = truth @ weights
    functionals = weights.permute(2, 0, 1).reshape(3, BATCH, *EVENT)
    columns = covered.permute(2, 0, 1).reshape(3, BATCH, *EVENT)
    return Conditioned(base, functionals, columns), truth - covered @ covered.mT


def low_rank() -> tuple[Covariance, Tensor]:
    factor, rest = numbers(2, BATCH, *EVENT, seed=3), numbers(BATCH, *EVENT, seed=4).square()
    flat = factor.flatten(2)
    return LowRankPlusDiagonal(factor, rest), torch.einsum("rbn,rbm->bnm", flat, flat) + torch.diag_embed(
        rest.flatten(1)
    )


def independent() -> tuple[Covariance, Tensor]:
    variance = numbers(BATCH, *EVENT, seed=5).square() + 0.1
    return Diagonal(variance), torch.diag_embed(variance.flatten(1))


def full() -> tuple[Covariance, Tensor]:
    half = numbers(BATCH, SIZE, SIZE + 2, seed=6)
    return Dense(half @ half.mT, EVENT), half @ half.mT


FORMS = {
    "smooth": smooth,
    "smooth on every axis": wide,
    "low rank": low_rank,
    "independent": independent,
    "full": full,
    "conditioned, independent": lambda: known(*independent()),
    "conditioned, smooth": lambda: known(*smooth()),
    "conditioned, full": lambda: known(*full()),
}
NOT_DIAGONAL_BEFORE = ("smooth", "conditioned")


def rows(columns: Tensor) -> Tensor:
    """(B, k, n) of (k, B, ...)."""
    return columns.flatten(2).transpose(0, 1)


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> tuple[Covariance, Tensor]:
    return FORMS[request.param]()


class TestEveryQuestion:
    def test_a_covariance_is_one_object_that_does_not_change(self, form: tuple[Covariance, Tensor]) -> None:
        """Equal is who is the same: comparing tensors element by element has no truth value."""
        covariance, _ = form
        for field in fields(covariance):
            with pytest.raises(FrozenInstanceError):
                setattr(covariance, field.name, None)
        twin = type(covariance)(*(getattr(covariance, field.name) for field in fields(covariance)))
        assert covariance != twin
        assert len({covariance, twin, covariance}) == 2

    def test_shape_matrix_and_variances(self, form: tuple[Covariance, Tensor]) -> None:
        covariance, truth = form
        assert covariance.shape == (BATCH, *EVENT)
        assert to_dense(covariance).shape == (BATCH, *EVENT)
        close(to_dense(covariance).matrix, truth)
        close(diagonal(covariance), truth.diagonal(dim1=1, dim2=2).reshape(BATCH, *EVENT))

    def test_products(self, form: tuple[Covariance, Tensor]) -> None:
        covariance, truth = form
        left, right = numbers(2, BATCH, *EVENT, seed=7), numbers(5, BATCH, *EVENT, seed=8)
        close(rows(times(covariance, left)), rows(left) @ truth)
        close(project(covariance, left, right), rows(left) @ truth @ rows(right).mT)

    def test_gains_and_added_variances(self, form: tuple[Covariance, Tensor]) -> None:
        covariance, truth = form
        gain, variance = numbers(BATCH, *EVENT, seed=9), numbers(BATCH, *EVENT, seed=10).square()
        flat = gain.flatten(1)
        close(to_dense(scale(covariance, gain)).matrix, truth * flat.unsqueeze(1) * flat.unsqueeze(2))
        close(to_dense(add(covariance, variance)).matrix, truth + torch.diag_embed(variance.flatten(1)))

    @pytest.mark.parametrize("chosen", [slice(1, None), torch.tensor([2, 0])], ids=["slice", "indices"])
    def test_some_samples(self, form: tuple[Covariance, Tensor], chosen: slice | Tensor) -> None:
        covariance, truth = form
        part = select(covariance, chosen)
        assert type(part) is type(covariance)
        close(to_dense(part).matrix, truth[chosen])
        close(diagonal(part), diagonal(covariance)[chosen])
        draws = numbers(2, 2, *EVENT)
        close(project(part, draws, draws), rows(draws) @ truth[chosen] @ rows(draws).mT)

    def test_draws(self, form: tuple[Covariance, Tensor]) -> None:
        covariance, truth = form
        count = 20_000
        draws = sample(covariance, count, torch.Generator().manual_seed(3))
        assert draws.shape == (count, BATCH, *EVENT)
        flat = rows(draws)
        variance = truth.diagonal(dim1=1, dim2=2)
        # within 6 standard errors: a false alarm of 2e-9 for each of the 1,800 numbers of a form
        assert (flat.mean(1).abs() <= 6 * (variance / count).sqrt()).all()
        error = ((variance.unsqueeze(2) * variance.unsqueeze(1) + truth.square()) / count).sqrt()
        assert ((flat.mT @ flat / count - truth).abs() <= 6 * error + 1e-12).all()


@pytest.mark.parametrize("name", [name for name in FORMS if name.startswith(NOT_DIAGONAL_BEFORE)])
def test_the_image_of_a_structured_form_is_the_full_matrix(name: str) -> None:
    covariance, truth = FORMS[name]()

    class Flat(MatrixMap):
        def apply(self, *columns: Tensor) -> Tensor:
            return super().apply(columns[0].flatten(2))

    matrix = numbers(5, SIZE, seed=12)
    image = through_linear(covariance, Flat(matrix))
    assert isinstance(image, Dense)
    assert image.event == (5,)
    close(image.matrix, matrix @ truth @ matrix.mT)


def test_what_is_known_does_not_vary() -> None:
    covariance, _ = known(*smooth())
    assert isinstance(covariance, Conditioned)
    draws = sample(covariance, 50, torch.Generator().manual_seed(0))
    told = torch.einsum("nbd,kbd->nbk", draws.flatten(2), covariance.functionals.flatten(2))
    close(told, torch.zeros_like(told), 1e-10)
    wholly = Conditioned(
        Diagonal(torch.full((1, 1), 0.1)), torch.full((1, 1, 1), 0.1**-0.5), torch.full((1, 1, 1), 0.1**0.5)
    )
    assert (diagonal(wholly) >= 0).all(), "rounding must not make a variance negative"


def test_the_root_of_smooth_noise_and_its_transpose() -> None:
    covariance, truth = smooth()
    assert isinstance(covariance, Convolved)
    assert covariance.canvas == (2, 3 + 2, 4 + 1)
    white, columns = numbers(4, BATCH, *covariance.canvas, seed=1), numbers(6, BATCH, *EVENT, seed=2)
    left = torch.einsum("kbd,nbd->bkn", columns.flatten(2), root(covariance, white).flatten(2))
    right = torch.einsum("kbd,nbd->bkn", root_transposed(covariance, columns).flatten(2), white.flatten(2))
    close(left, right)
    units = torch.eye(2 * 5 * 5, dtype=torch.float64).reshape(50, 1, 2, 5, 5)
    half = rows(root(covariance, units).expand(50, BATCH, *EVENT)).mT
    close(half @ half.mT, truth)
    single = Convolved(tuple(taps.float() for taps in TAPS), covariance.scale)
    close(diagonal(single), diagonal(covariance))
    close(times(single, columns), times(covariance, columns), 1e-6)


class TestVariancesOfManyColumns:
    """`diagonal` sums columns a block at a time, unless a derivative is asked for."""

    def case(self) -> LowRankPlusDiagonal:
        return LowRankPlusDiagonal(numbers(3, 2, 5, 7), numbers(2, 5, 7, seed=1).square())

    @pytest.mark.parametrize("block", [1, 32, 69, 70, 1000])
    def test_blocks_of_any_size(self, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_BLOCK", block)
        covariance = self.case()
        rest = covariance.rest.clone()
        close(diagonal(covariance), covariance.factor.square().sum(0) + rest)
        assert torch.equal(covariance.rest, rest), "the covariance itself must not change"

    def test_a_rest_that_is_not_contiguous(self) -> None:
        covariance = LowRankPlusDiagonal(numbers(3, 2, 5, 7), numbers(2, 7, 5, seed=1).square().mT)
        close(diagonal(covariance), covariance.factor.square().sum(0) + covariance.rest)

    @pytest.mark.parametrize("followed", ["factor", "rest"])
    def test_derivatives(self, followed: str) -> None:
        covariance = self.case()
        getattr(covariance, followed).requires_grad_()
        total = diagonal(covariance)
        close(total.detach(), (covariance.factor.square().sum(0) + covariance.rest).detach())
        weights = numbers(2, 5, 7, seed=2)
        (slope,) = torch.autograd.grad((total * weights).sum(), getattr(covariance, followed))
        close(slope, weights * 2 * covariance.factor.detach() if followed == "factor" else weights)


class TestRoots:
    def test_of_a_variance(self) -> None:
        values = torch.tensor([4.0, 0.0, -1e-18], dtype=torch.float64)
        assert safe_sqrt(values).tolist() == [2.0, 0.0, 0.0]
        assert values.tolist() == [4.0, 0.0, -1e-18], "the variance itself must not change"
        values.requires_grad_()
        result = safe_sqrt(values)
        assert result.tolist() == [2.0, 0.0, 0.0]
        (slope,) = torch.autograd.grad(result.sum(), values)
        assert slope.tolist() == [0.25, 0.0, 0.0]

    def test_of_small_variances(self) -> None:
        small = torch.tensor([1e-30, 0.25], dtype=torch.float64, requires_grad=True)
        close(safe_sqrt(small), small.detach().sqrt())

    def test_of_a_matrix_whose_eigenvalues_are_negative_by_rounding(self) -> None:
        turn = torch.linalg.qr(numbers(5, 5))[0]
        values = torch.tensor([-1e-17, -1e-16, 0.5, 1.0, 4.0], dtype=torch.float64)
        half = square_root((turn * values @ turn.mT).unsqueeze(0))
        assert torch.isfinite(half).all()
        close(half @ half.mT, (turn * values.clamp(min=0) @ turn.mT).unsqueeze(0))


class TestCompression:
    def test_a_structured_form_passes_through_its_matrix(self) -> None:
        covariance, truth = smooth()
        small = compress(covariance, 4)
        assert small.rank == 4
        assert small.shape == (BATCH, *EVENT)
        close(diagonal(small), diagonal(covariance))
        flat = rows(small.factor).mT
        values = torch.linalg.eigvalsh(truth)
        error = torch.linalg.matrix_norm(truth - flat @ flat.mT)
        close(error, values[:, : SIZE - 4].square().sum(1).sqrt(), 1e-10)

    def test_few_columns_are_kept_as_they_are(self) -> None:
        covariance, _ = low_rank()
        assert compress(covariance, 2) is covariance
        assert compress(covariance, 3) is covariance
        cut = compress(covariance, 1)
        assert cut.rank == 1
        close(diagonal(cut), diagonal(covariance))
        assert (cut.rest > covariance.rest - 1e-12).all()  # type: ignore[union-attr]

    def test_independent_elements_have_no_columns(self) -> None:
        covariance, _ = independent()
        small = compress(covariance, 5)
        assert small.factor.shape == (0, BATCH, *EVENT)
        assert small.factor.dtype == torch.float64
        assert torch.equal(small.rest, diagonal(covariance))

    def test_no_variance_is_negative(self) -> None:
        half = numbers(2, 6, 2, seed=3)
        for covariance in (
            Dense(half @ half.mT, (6,)),
            LowRankPlusDiagonal(
                torch.cat([half, 1e-9 * numbers(2, 6, 1)], 2).permute(2, 0, 1), torch.zeros(2, 6).double()
            ),
        ):
            small = compress(covariance, 2)
            assert torch.isfinite(small.factor).all()
            assert (small.rest >= 0).all()
        rounded = Dense(torch.diag_embed(torch.tensor([[1.0, -1e-17, 0.5]], dtype=torch.float64)), (3,))
        assert torch.isfinite(compress(rounded, 3).factor).all()


def test_memory_counts_the_bytes_of_each_type() -> None:
    assert size_in_bytes(Diagonal(torch.ones(2, 3))) == 2 * 3 * 4
    assert size_in_bytes(LowRankPlusDiagonal(torch.ones(5, 2, 3), torch.ones(2, 3))) == 6 * 2 * 3 * 4
    assert size_in_bytes(Dense(torch.ones(2, 6, 6).double(), (2, 3))) == 2 * 36 * 8


@pytest.mark.parametrize(
    "question",
    [
        lambda c: through_linear(c, MatrixMap(torch.eye(2))),
        lambda c: project(c, c, c),
        lambda c: times(c, c),
        lambda c: select(c, slice(1)),
        lambda c: sample(c, 1, torch.Generator()),
    ],
    ids=["through_linear", "project", "times", "select", "sample"],
)
def test_other_objects_are_refused(question) -> None:
    with pytest.raises(TypeError, match="not a covariance: Tensor"):
        question(torch.eye(2))
