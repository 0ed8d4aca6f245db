"""Both ends by Lanczos, and the mean by Hutchinson, Hutch++ and XTrace, against dense matrices."""

from __future__ import annotations

import math

import pytest
import torch
from tests.support.boundary_shape import on_sphere, on_surface, smooth_cnn, two_classes
from torch import Tensor

from assay.boundary.field import Field
from assay.boundary.points import boundary_point
from assay.boundary.shape import mean_curvature
from assay.boundary.shape.places import places_at
from assay.boundary.shape.products import tangent_products
from assay.boundary.shape.tangent import Tangent
from assay.boundary.shape.traces import Trace, trace
from assay.errors import NumericalError, UsageError
from assay.grade import Grade

X = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def decaying(size: int, power: float, seed: int = 0) -> tuple[Tensor, Tangent]:
    """Symmetric (d, d) operator of the tangent space of a random normal, with eigenvalues +-1 / i^power."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(size, generator=generator, dtype=torch.float64)
    tangent = Tangent(normal / normal.norm())
    basis = torch.linalg.qr(torch.randn(size - 1, size - 1, generator=generator, dtype=torch.float64)).Q
    index = torch.arange(1, size, dtype=torch.float64)
    values = torch.where(index % 3 == 0, -1.0, 1.0) / index**power
    embedded = tangent.embed(basis.T.contiguous())
    return embedded.T @ (values[:, None] * embedded), tangent


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lanczos_finds_both_ends(dtype: torch.dtype):
    model, x = smooth_cnn(dtype=dtype), X.to(dtype)
    dense = on_surface(model, x, top="full")
    ends = on_surface(model, x, top=5, spectrum="lanczos")
    assert (dense.spectrum, ends.spectrum) == ("dense", "lanczos")
    expected = torch.cat([dense.principal[:, :5], dense.principal[:, -5:]], 1)
    torch.testing.assert_close(ends.principal, expected, rtol=1e-4, atol=0)
    chosen = torch.cat([dense.directions[:, :5], dense.directions[:, -5:]], 1)
    overlap = (ends.directions * chosen).flatten(2).double().sum(2).abs()
    torch.testing.assert_close(overlap, torch.ones_like(overlap), atol=1e-3, rtol=0)
    assert dense.asymmetry.max() < (1e-5 if dtype == torch.float32 else 1e-12)
    assert ends.asymmetry.isnan().all()
    # Four standard errors, 2 rows: a false alarm in about 1 of 8,000 choices of the seed.
    assert ((ends.mean - dense.mean).abs() <= 4 * ends.mean_error + 1e-7).all()
    assert (ends.trace, ends.grade) == ("deflated", Grade.SAMPLED)


def test_lanczos_with_equal_and_with_zero_eigenvalues():
    ball = on_surface(two_classes(lambda x: x.norm(dim=1) - 2), on_sphere(1, 300, 2.0), top=4, spectrum="lanczos")
    torch.testing.assert_close(ball.principal, torch.full((1, 8), 0.5, dtype=torch.float64), atol=1e-9, rtol=0)
    assert float(ball.mean[0]) == pytest.approx(0.5, abs=1e-9)
    # Only two directions are curved, of three hundred.
    k = torch.tensor([0.8, -0.6], dtype=torch.float64)
    low_rank = two_classes(lambda x: x[:, 0] + 0.5 * (k * x[:, 1:3].square()).sum(1))
    at = torch.zeros(1, 300, dtype=torch.float64)
    found = on_surface(low_rank, at, top=3, spectrum="lanczos")
    expected = torch.tensor([[0.8, 0, 0, 0, 0, -0.6]], dtype=torch.float64)
    torch.testing.assert_close(found.principal, expected, atol=1e-9, rtol=0)
    plane = on_surface(two_classes(lambda x: x[:, 0] + x[:, 1] ** 3), at, top=3, spectrum="lanczos")
    assert plane.principal.eq(0).all()


def test_linearised_and_kept_graph_give_the_same_products(monkeypatch: pytest.MonkeyPatch):
    model, label = smooth_cnn(), torch.zeros(2, dtype=torch.int64)
    places = places_at(Field(model), X.double(), X.double(), label, label + 1, torch.ones(2, dtype=torch.bool))
    vectors = torch.randn(7, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    kept = tangent_products(places, 1)(vectors)
    monkeypatch.setattr("assay.boundary.shape.products.TRACING_PAYS", 1)
    torch.testing.assert_close(tangent_products(places, 1, expected=7)(vectors), kept, atol=1e-14, rtol=1e-10)
    assert kept.norm() > 1e-3
    assert (kept @ places.tangent(1).normal).abs().max() < 1e-12 * kept.norm()
    along = tangent_products(places, 1)(places.tangent(1).normal[None])
    assert along.norm() < 1e-12
    torch.testing.assert_close(torch.cat([tangent_products(places, 1)(v[None]) for v in vectors]), kept)


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
@pytest.mark.parametrize("power", [0.5, 2.0])
def test_sampled_traces_are_unbiased_and_know_their_error(method: Trace, power: float):
    operator, tangent = decaying(61, power)
    runs = [
        trace(lambda v: v @ operator, tangent, method=method, probes=24, generator=torch.Generator().manual_seed(seed))
        for seed in range(400)
    ]
    values, errors = torch.tensor(runs, dtype=torch.float64).T
    truth = float(operator.trace())
    # Four standard errors of the mean of 400 runs: a false alarm in 1 of 16,000 choices of the seeds.
    assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / 20 + 1e-12
    ratio = float(errors.square().mean().sqrt() / values.std())
    assert 0.6 < ratio < 1.6


def test_decaying_spectra_are_better_sketched():
    operator, tangent = decaying(201, 2.0)
    spread = {}
    for method in ("hutchinson", "hutch++", "xtrace"):
        found = [
            trace(
                lambda v: v @ operator, tangent, method=method, probes=90, generator=torch.Generator().manual_seed(s)
            )[0]
            for s in range(60)
        ]
        spread[method] = float(torch.tensor(found, dtype=torch.float64).std())
    assert spread["hutch++"] < 0.3 * spread["hutchinson"]
    assert spread["xtrace"] < spread["hutch++"]


@pytest.mark.parametrize("method", ["hutch++", "xtrace", "full", "auto"])
def test_operators_of_low_rank_and_nothing(method: Trace):
    _, tangent = decaying(101, 1.0)
    ends = tangent.basis(0, 2)
    generator = torch.Generator().manual_seed(0)
    value, error = trace(lambda v: 3 * (v @ ends.T) @ ends, tangent, method=method, probes=30, generator=generator)
    if method == "auto":  # Hutchinson: not exact
        assert error > 0
    else:
        assert value == pytest.approx(6.0, abs=1e-9)
        assert error == pytest.approx(0.0, abs=1e-9)
    assert trace(torch.zeros_like, tangent, method=method, probes=30, generator=generator) == (0.0, 0.0)


def test_hutchinson_spread_follows_the_norm():
    """The law sqrt(2 / M) ||G||_F within 30 %.

    A standard deviation of 300 runs is itself known to 4 %: a false alarm is beyond seven standard deviations.
    """
    model, probes = Field(smooth_cnn()), 20
    x = X[:1].double()
    dense = on_surface(model, x, top="full")
    law = math.sqrt(2 / probes) * float(dense.principal[0].norm()) / 63
    runs = [on_surface(model, x, top=0, trace="hutchinson", probes=probes, seed=seed) for seed in range(300)]
    found = torch.cat([run.mean for run in runs])
    assert 0.7 < float(found.std()) / law < 1.3
    assert abs(float(found.mean() - dense.mean[0])) < 4 * law / math.sqrt(300)
    assert 0.7 < float(torch.cat([run.mean_error for run in runs]).mean()) / law < 1.3


def test_mean_alone_agrees_with_the_spectrum():
    model = smooth_cnn()
    near = boundary_point(model, X.double())
    dense = on_surface(model, near.point, own=int(near.label[0]), rival=int(near.rival[0]), top="full")
    mean, error = mean_curvature(model, near)
    torch.testing.assert_close(mean[:1], dense.mean[:1], atol=1e-12, rtol=1e-9)
    assert error.eq(0).all()
    for method in ("hutch++", "xtrace", "hutchinson"):
        mean, error = mean_curvature(model, near, trace=method, probes=30)
        assert (error > 0).all()
        # Five standard errors that are themselves estimates from ten to fifteen samples.
        assert float((mean[0] - dense.mean[0]).abs()) < 6 * float(error[0])


def test_too_large_and_not_finite():
    at = torch.zeros(1, 20_000)
    with pytest.raises(UsageError, match="GiB"):
        on_surface(two_classes(lambda x: x[:, 0] + x.square().sum(1)), at, top="full")
    with pytest.raises(NumericalError, match="NaN or infinite"):
        on_surface(two_classes(lambda x: x[:, 0] + x[:, 1].abs().pow(1.5)), torch.zeros(1, 3))
