"""Every question to a covariance, in all three forms, against the dense matrix it stands for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from tests.support.inputs import close, numbers
from torch import Tensor

from assay.covariance import (
    Covariance,
    Dense,
    Diagonal,
    LowRankPlusDiagonal,
    MatrixMap,
    add,
    between,
    compress,
    diagonal,
    project,
    sample,
    scale,
    through_linear,
    to_dense,
)
from assay.covariance.functions import flat_columns, flat_rows, size_in_bytes, square_root


@dataclass(frozen=True)
class Case:
    """A covariance, and the matrices (B, n, n) it stands for, computed without assay."""

    name: str
    covariance: Covariance
    truth: Tensor
    event: tuple[int, ...]


def diagonal_case(event: tuple[int, ...], batch: int) -> Case:
    variance = numbers(batch, *event).square()
    truth = torch.stack([torch.diag(row.reshape(-1)) for row in variance])
    return Case("diagonal", Diagonal(variance), truth, event)


def low_rank_case(event: tuple[int, ...], batch: int, rank: int) -> Case:
    factor, rest = numbers(rank, batch, *event), numbers(batch, *event, seed=1).square()
    truth = torch.stack(
        [
            torch.diag(rest[b].reshape(-1))
            + sum(
                (torch.outer(column[b].reshape(-1), column[b].reshape(-1)) for column in factor),
                torch.zeros(rest[b].numel(), rest[b].numel(), dtype=torch.float64),
            )
            for b in range(batch)
        ]
    )
    return Case(f"rank {rank}", LowRankPlusDiagonal(factor, rest), truth, event)


def dense_case(event: tuple[int, ...], batch: int) -> Case:
    size = int(torch.tensor(event).prod())
    root = numbers(batch, size, size + 1)
    return Case("dense", Dense(root @ root.mT, event), root @ root.mT, event)


CASES = [
    build(event, batch)
    for event, batch in (((4,), 1), ((2, 3), 3))
    for build in (
        diagonal_case,
        dense_case,
        lambda e, b: low_rank_case(e, b, 3),
        lambda e, b: low_rank_case(e, b, 9),
        lambda e, b: low_rank_case(e, b, 0),
    )
]
FLAT = [
    case
    for build in (
        diagonal_case,
        dense_case,
        lambda e, b: low_rank_case(e, b, 3),
        lambda e, b: low_rank_case(e, b, 0),
    )
    for case in (build((5,), 1), build((5,), 3))
]


def names(cases: list[Case]) -> list[str]:
    return [f"{case.name}-{'x'.join(map(str, case.covariance.shape))}" for case in cases]


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
class TestAgainstTheDenseTruth:
    def test_shape(self, case: Case) -> None:
        assert case.covariance.shape == (case.truth.shape[0], *case.event)

    def test_to_dense(self, case: Case) -> None:
        dense = to_dense(case.covariance)
        assert dense.event == case.event
        close(dense.matrix, case.truth)
        assert to_dense(dense) is dense

    def test_diagonal(self, case: Case) -> None:
        close(diagonal(case.covariance), case.truth.diagonal(dim1=1, dim2=2).reshape(case.covariance.shape))

    @pytest.mark.parametrize("kind", ["full", "per unit", "number"])
    def test_scale(self, case: Case, kind: str) -> None:
        shape = {"full": case.covariance.shape, "per unit": case.event, "number": ()}[kind]
        gain = numbers(*shape, seed=5)
        scaled = scale(case.covariance, gain)
        assert type(scaled) is type(case.covariance)
        flat = gain.expand(case.covariance.shape).reshape(case.truth.shape[0], -1)
        close(to_dense(scaled).matrix, torch.diag_embed(flat) @ case.truth @ torch.diag_embed(flat))

    @pytest.mark.parametrize("kind", ["full", "per unit"])
    def test_add(self, case: Case, kind: str) -> None:
        variance = numbers(*(case.covariance.shape if kind == "full" else case.event), seed=6).square()
        more = add(case.covariance, variance)
        assert type(more) is type(case.covariance)
        flat = variance.expand(case.covariance.shape).reshape(case.truth.shape[0], -1)
        close(to_dense(more).matrix, case.truth + torch.diag_embed(flat))

    def test_project(self, case: Case) -> None:
        left, right = (numbers(k, *case.covariance.shape, seed=k) for k in (2, 4))
        rows = [t.reshape(t.shape[0], t.shape[1], -1).transpose(0, 1) for t in (left, right)]
        value = project(case.covariance, left, right)
        assert value.shape == (case.truth.shape[0], 2, 4)
        close(value, rows[0] @ case.truth @ rows[1].mT)

    def test_sample(self, case: Case) -> None:
        count = 40_000
        draws = sample(case.covariance, count, torch.Generator().manual_seed(3))
        assert draws.shape == (count, *case.covariance.shape)
        flat = draws.reshape(count, case.truth.shape[0], -1).transpose(0, 1)
        variance = case.truth.diagonal(dim1=1, dim2=2)
        # Gaussian statistics within 6 standard errors: a false alarm of 2e-9 per number, 4e-7 per case of 210 numbers.
        assert (flat.mean(1).abs() <= 6 * (variance / count).sqrt()).all()
        error = ((variance.unsqueeze(2) * variance.unsqueeze(1) + case.truth.square()) / count).sqrt()
        assert ((flat.mT @ flat / count - case.truth).abs() <= 6 * error + 1e-12).all()

    def test_samples_repeat(self, case: Case) -> None:
        first, again, other = (sample(case.covariance, 3, torch.Generator().manual_seed(s)) for s in (7, 7, 8))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    @pytest.mark.parametrize("rank", [0, 1, 2, 20])
    def test_compress(self, case: Case, rank: int) -> None:
        small = compress(case.covariance, rank)
        assert small.rank <= rank
        assert (small.rest >= 0).all()
        close(diagonal(small), diagonal(case.covariance))
        if rank == 20:
            close(to_dense(small).matrix, case.truth, 1e-10)

    def test_batch_is_a_loop(self, case: Case) -> None:
        left = numbers(2, *case.covariance.shape)
        whole = project(case.covariance, left, left)
        for row in range(case.truth.shape[0]):
            close(
                project(one(case.covariance, row), left[:, row : row + 1], left[:, row : row + 1]), whole[row : row + 1]
            )

    def test_memory(self, case: Case) -> None:
        covariance, numel = case.covariance, torch.Size(case.covariance.shape).numel()
        held = {
            "Diagonal": numel,
            "LowRankPlusDiagonal": numel * (1 + getattr(covariance, "rank", 0)),
            "Dense": case.truth.numel(),
        }
        assert size_in_bytes(covariance) == 8 * held[type(covariance).__name__]


@pytest.mark.parametrize("case", FLAT, ids=names(FLAT))
@pytest.mark.parametrize("batched", [False, True])
def test_through_linear(case: Case, batched: bool) -> None:
    batch = case.truth.shape[0]
    matrix = numbers(batch, 3, 5, seed=9) if batched else numbers(3, 5, seed=9)
    image = through_linear(case.covariance, MatrixMap(matrix))
    assert type(image) is type(case.covariance)
    truth = matrix @ case.truth @ matrix.mT
    close(diagonal(image), truth.diagonal(dim1=1, dim2=2))
    if isinstance(image, Dense):
        assert image.event == (3,)
        close(image.matrix, truth)
    if isinstance(image, LowRankPlusDiagonal):
        exact = truth - matrix @ torch.diag_embed(case.covariance.rest) @ matrix.mT
        kept = to_dense(image).matrix - torch.diag_embed(image.rest)
        close(kept, exact)


@pytest.mark.parametrize("batched", [False, True])
def test_a_matrix_map_has_the_transpose_it_claims(batched: bool) -> None:
    matrix = numbers(4, 3, 5) if batched else numbers(3, 5)
    linear = MatrixMap(matrix)
    columns, cotangents = numbers(2, 4, 5), numbers(6, 4, 3)
    image, (pulled,) = linear.apply(columns), linear.transpose(cotangents)
    assert image.shape == (2, 4, 3)
    assert pulled.shape == (6, 4, 5)
    close((cotangents.unsqueeze(1) * image).sum((2, 3)), (pulled.unsqueeze(1) * columns).sum((2, 3)))
    variances = numbers(4, 5).square()
    close(
        linear.squared(variances),
        torch.einsum("...mn,bn->bm", matrix.square(), variances)
        if not batched
        else (torch.einsum("bmn,bn->bm", matrix.square(), variances)),
    )


def test_compression_is_the_best_of_its_rank() -> None:
    case = dense_case((6,), 2)
    values = torch.linalg.eigvalsh(case.truth)
    for rank in (1, 2, 4):
        small = compress(case.covariance, rank)
        rows = flat_rows(small.factor)
        error = torch.linalg.matrix_norm(case.truth - rows @ rows.mT)
        close(error, values[:, : 6 - rank].square().sum(1).sqrt(), 1e-10)
    factor = low_rank_case((6,), 2, 5).covariance
    assert isinstance(factor, LowRankPlusDiagonal)
    small = compress(factor, 2)
    rows, kept = flat_rows(factor.factor), flat_rows(small.factor)
    spectrum = torch.linalg.svdvals(rows)
    close(torch.linalg.matrix_norm(rows @ rows.mT - kept @ kept.mT), spectrum[:, 2:].pow(4).sum(1).sqrt(), 1e-10)


def test_between_counts_shared_sources_only() -> None:
    first, second = low_rank_case((2, 3), 2, 4).covariance, low_rank_case((2, 3), 2, 4).covariance
    assert isinstance(first, LowRankPlusDiagonal)
    assert isinstance(second, LowRankPlusDiagonal)
    moved = LowRankPlusDiagonal(second.factor.flip(-1), second.rest)
    joint = torch.einsum("rbn,rbm->bnm", first.factor.flatten(2), moved.factor.flatten(2))
    close(between(first, moved), joint.diagonal(dim1=1, dim2=2).reshape(2, 2, 3))


def test_columns_and_rows_are_inverse() -> None:
    matrix = numbers(3, 6, 4)
    columns = flat_columns(matrix, (2, 3))
    assert columns.shape == (4, 3, 2, 3)
    assert torch.equal(flat_rows(columns), matrix)
    assert torch.equal(columns[1, 2].reshape(-1), matrix[2, :, 1])


def test_square_root_of_a_singular_matrix() -> None:
    factor = numbers(2, 5, 2)
    matrix = factor @ factor.mT
    root = square_root(matrix)
    close(root @ root.mT, matrix)
    assert torch.isfinite(root).all()


@pytest.mark.parametrize("function", [diagonal, to_dense, *(lambda c, f=f: f(c, torch.ones(1)) for f in (scale, add))])
def test_other_objects_are_refused(function: Callable[[Covariance], object]) -> None:
    with pytest.raises(TypeError, match="not a covariance: Tensor"):
        function(torch.eye(2))  # type: ignore[arg-type]


def one(covariance: Covariance, row: int) -> Covariance:
    part = slice(row, row + 1)
    if isinstance(covariance, Diagonal):
        return Diagonal(covariance.variance[part])
    if isinstance(covariance, Dense):
        return Dense(covariance.matrix[part], covariance.event)
    return LowRankPlusDiagonal(covariance.factor[:, part], covariance.rest[part])
