"""Curvature at a scale: differences, frames, Gaussian steps, the softplus swap and the plateau."""

from __future__ import annotations

import math

import pytest
import torch
from tests.support.boundary_shape import ReluSphere, boundary_at, on_sphere, on_surface, points, smooth_cnn, two_classes
from torch import Tensor, nn
from torch.nn import functional

from assay.boundary.field import Field
from assay.boundary.points import boundary_point
from assay.boundary.shape import curvature, mean_curvature, scale_sweep
from assay.boundary.shape.plateau import verdict
from assay.boundary.shape.softplus import swapped
from assay.errors import UsageError

SPHERE = ReluSphere()
ON = SPHERE.surface(on_sphere(40, 10, 1.0))


def quadratic(size: int = 8, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """F = x.Ax / 2 + b.x + c as a module, and a point."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(size, size, generator=generator, dtype=torch.float64)
    b = torch.randn(size, generator=generator, dtype=torch.float64)
    A = A + A.T

    class Quadratic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return two_classes(lambda z: 0.5 * (z @ A * z).sum(1) + z @ b)(x)

    return Quadratic(), torch.randn(1, size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("model", [SPHERE, two_classes(lambda x: functional.relu(x @ torch.eye(10).double()).sum(1))])
def test_exact_products_of_a_piecewise_linear_network_are_refused(model: nn.Module):
    """Automatic differentiation would answer exactly zero."""
    hessian = torch.autograd.functional.hessian(lambda z: SPHERE(z[None])[0, 1], ON[0])
    assert isinstance(hessian, Tensor)
    assert hessian.eq(0).all()
    with pytest.raises(UsageError, match="piecewise linear"):
        on_surface(model, ON, estimator="exact")


def test_operators_unknown_to_the_graph_do_not_make_a_silent_zero():
    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = ReluSphere()

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack(self.inner(x).unbind(1), 1)

    found = on_surface(Stacked(), ON[:2], frames=1, plateau=False)
    assert found.estimator == "frames"
    assert (found.mean > 0.3).all()


@pytest.mark.parametrize("estimator", ["difference", "frames"])
@pytest.mark.parametrize("scale", [0.1, 0.2])
def test_relu_sphere(estimator: str, scale: float):
    found = on_surface(SPHERE, ON, estimator=estimator, scale=scale, plateau=False)
    assert 0.48 < float(found.mean.mean()) < 0.53
    assert found.scale is not None
    assert found.scale.eq(scale).all()
    assert any("only at a scale" in note for note in found.notes)
    mean, error = mean_curvature(SPHERE, boundary_at(SPHERE, ON), estimator=estimator, scale=scale)
    assert 0.48 < float(mean.mean()) < 0.53
    assert (error > 0).all()


def test_automatic_choice_on_a_piecewise_linear_network():
    found = on_surface(SPHERE, ON[:3])
    assert found.estimator == "frames"
    assert found.smoothness == "piecewise_linear"
    assert found.scale is not None
    span = torch.stack([row.max() - row.min() for row in ON[:3]])
    torch.testing.assert_close(found.scale, math.sqrt(10) * 0.1 * span)
    assert found.plateau is not None
    assert found.validated is not None
    flat = nn.Sequential(nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 2))
    wide = curvature(flat, torch.rand(1, 784, generator=torch.Generator().manual_seed(0)), top=0, plateau=False)
    assert wide.scale is not None
    assert float(wide.scale[0]) == pytest.approx(2.8, rel=0.3)


@pytest.mark.parametrize("scale", [0.01, 0.3, 2.0])
def test_difference_law_of_the_length(scale: float):
    ball = two_classes(lambda x: x.norm(dim=1) - 2)
    expected = 1 / math.sqrt(4 + scale**2)
    for estimator in ("difference", "frames"):
        for top in (0, 10):
            found = on_surface(ball, on_sphere(2, 10, 2.0), estimator=estimator, scale=scale, top=top)
            assert (found.mean - expected).abs().max() < 1e-10
            if top:
                assert (found.principal - expected).abs().max() < 1e-10
    forward = on_surface(ball, on_sphere(2, 10, 2.0), estimator="forward", scale=scale)
    assert (forward.mean - 2 * (math.sqrt(4 + scale**2) - 2) / scale**2).abs().max() < 1e-10
    assert forward.principal.shape == (2, 0)


def test_differences_in_single_precision():
    at = on_sphere(20, 784, 10.0).float()
    ball = two_classes(lambda x: x.norm(dim=1) - 10)
    assert (on_surface(ball, at, estimator="difference", scale=0.01, top=0).mean - 0.1).abs().max() < 5e-6
    assert (on_surface(ball, at, estimator="difference", top=0).mean - 0.1).abs().max() < 5e-6
    assert (on_surface(ball, at, estimator="forward", top=0).mean - 0.1).abs().max() < 5e-3


@pytest.mark.parametrize("scale", [1e-3, 0.5, 20.0])
def test_one_frame_is_exact_for_a_quadratic(scale: float):
    model, at = quadratic()
    exact = on_surface(model, at, top="full")
    found = on_surface(model, at, estimator="frames", frames=1, scale=scale, top="full")
    torch.testing.assert_close(found.principal, exact.principal, atol=1e-10, rtol=1e-10)
    assert found.asymmetry.max() < 1e-10
    assert found.validated is None
    two = on_surface(model, at, estimator="frames", frames=2, scale=scale, top=2)
    assert two.validated is not None
    torch.testing.assert_close(two.validated, two.principal, atol=1e-10, rtol=1e-10)


def test_gaussian_steps_converge_to_a_quadratic():
    model, at = quadratic()
    exact = on_surface(model, at, top="full")
    found = on_surface(model, at, estimator="gaussian", top=0, probes=4000, scale=3.0)
    # Four standard errors: a false alarm in 1 of 16,000 choices of the seed.
    assert float((found.mean - exact.mean).abs()) < 4 * float(found.mean_error)
    spectrum = on_surface(model, at, estimator="gaussian", top="full", frames=2000, scale=3.0)
    torch.testing.assert_close(spectrum.principal, exact.principal, atol=0.1 * float(exact.principal.norm()), rtol=0)


def test_asymmetry_falls_with_the_square_root_of_frames():
    ratio = {
        frames: float(on_surface(SPHERE, ON, frames=frames, scale=0.05, plateau=False).asymmetry.mean())
        for frames in (1, 4, 16)
    }
    assert ratio[1] > 0.1
    assert 0.4 < ratio[4] / ratio[1] < 0.62
    assert 0.4 < ratio[16] / ratio[4] < 0.62


def test_validated_values_do_not_profit_from_noise():
    # On a sphere every spread of the eigenvalues is noise: halves of the frames that check each other see less of it.
    found = on_surface(SPHERE, ON, frames=2, scale=0.05, plateau=False)
    assert found.validated is not None
    spread = (found.principal[:, 0] - found.principal[:, -1]).mean()
    checked = (found.validated[:, 0] - found.validated[:, -1]).mean()
    assert checked < 0.97 * spread


def test_smooth_network_by_every_estimator():
    model, x = smooth_cnn(), torch.rand(1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = on_surface(model, x, top=3)
    for estimator in ("difference", "frames"):
        found = on_surface(model, x, top=3, estimator=estimator, scale=1e-4)
        torch.testing.assert_close(found.principal, exact.principal, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(found.mean, exact.mean, atol=1e-7, rtol=1e-4)
    lanczos = on_surface(model, x, top=3, estimator="difference", spectrum="lanczos")
    torch.testing.assert_close(lanczos.principal, exact.principal, atol=1e-5, rtol=1e-3)


def test_softplus_finds_the_boundary_again():
    near = boundary_point(SPHERE, 0.5 * on_sphere(10, 10, 1.0))
    for sharpness, slack in ((5.0, 0.05), (30.0, 1e-2)):
        found = curvature(SPHERE, near, estimator="softplus", sharpness=sharpness)
        smooth = swapped(Field(SPHERE), near.x, sharpness)
        residual = smooth.value(found.point, found.label, found.rival).abs()
        assert residual.max() < 1e-12
        assert smooth.value(near.point, near.label, near.rival).abs().max() > 1e-4
        assert found.shift is not None
        assert 0 < float(found.shift.max()) < slack
        assert found.sharpness == sharpness
        assert found.scale is None
        assert any("Max pools" in note for note in found.notes)
    at = curvature(SPHERE, boundary_at(SPHERE, ON), estimator="softplus", sharpness=10.0)
    assert 0.45 < float(at.mean.mean()) < 0.53


def softened(x: Tensor, b: float) -> Tensor:
    return functional.softplus(x, beta=b, threshold=200)


@pytest.mark.parametrize(
    ("sharp", "smooth"),
    [
        (functional.relu, softened),
        (torch.relu, softened),
        (lambda x: x.clone().relu_(), softened),
        (lambda x: functional.relu(x.clone(), inplace=True), softened),
        (lambda x: x.clamp(min=0), softened),
        (lambda x: x.clamp_min(0), softened),
        (lambda x: x.clamp(max=1.0), lambda x, b: x - softened(x - 1, b)),
        (lambda x: functional.leaky_relu(x, 0.1), lambda x, b: 0.1 * x + 0.9 * softened(x, b)),
        (nn.LeakyReLU(0.2), lambda x, b: 0.2 * x + 0.8 * softened(x, b)),
        (lambda x: functional.prelu(x, torch.full((6,), 0.3).double()), lambda x, b: 0.3 * x + 0.7 * softened(x, b)),
        (functional.relu6, lambda x, b: softened(x, b) - softened(x - 6, b)),
        (functional.hardtanh, lambda x, b: softened(x + 1, b) - softened(x - 1, b) - 1),
        (functional.hardsigmoid, lambda x, b: (softened(x + 3, b) - softened(x - 3, b)) / 6),
        (functional.hardswish, lambda x, b: x * (softened(x + 3, b) - softened(x - 3, b)) / 6),
        (torch.abs, lambda x, b: softened(x, b) + softened(-x, b)),
        (lambda x: torch.maximum(x, x.flip(1)), lambda x, b: x.flip(1) + softened(x - x.flip(1), b)),
        (lambda x: torch.minimum(x, x.flip(1)), lambda x, b: x - softened(x - x.flip(1), b)),
    ],
)
def test_every_activation_is_rounded(sharp: nn.Module, smooth: nn.Module):
    x = 3 * torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = sharp(x)
    found = swapped(Field(sharp), x, 4.0).logits(x)
    torch.testing.assert_close(found, smooth(x, 4.0), atol=1e-7, rtol=1e-7)
    assert not torch.equal(found, before)
    assert torch.equal(sharp(x), before)


def test_guards_of_divisions_are_not_activations():
    def model(x: Tensor) -> Tensor:
        return functional.relu(x) / x.norm(dim=1, keepdim=True).clamp(min=1e-6)

    x = torch.full((1, 2), 0.01, dtype=torch.float64)
    found = swapped(Field(model), x, 5.0).logits(x)
    torch.testing.assert_close(found, functional.softplus(x, beta=5.0) / x.norm())


def test_plateau_of_a_sphere_and_of_a_corner():
    found = scale_sweep(SPHERE, boundary_at(SPHERE, ON))
    assert found.status == "plateau"
    assert 0.44 < found.value < 0.53
    assert found.low < 0.3 < found.high * 2
    assert "plateau from" in str(found)
    # One kink, a wedge: differences over h see its angle over h, at no scale the same.
    wedge = two_classes(lambda x: x[:, 0].abs() + x[:, 1])
    found = scale_sweep(wedge, boundary_at(wedge, points([1e-9, 0.0, 0.0])), scales=[0.1, 0.2, 0.4, 0.8])
    assert found.status == "no plateau"
    assert not found.found
    assert "no plateau" in str(found)
    assert math.isnan(found.value)
    ratio = found.mean[1:] / found.mean[:-1]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.5), atol=1e-6, rtol=0)


def test_noise_is_no_plateau():
    ladder = 2.0 ** torch.arange(6).double()
    noise = torch.randn(6, 40, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert verdict(ladder, noise).status == "no plateau"
    assert verdict(ladder, noise + 1000).status == "plateau"
    # The mean stays the same by chance, and the directions disagree: that shows nothing.
    swing = torch.tensor([3.0, -3.0, 3.0, -3.0], dtype=torch.float64)
    steady = torch.stack([1 + (-1) ** number * swing[None] for number in range(6)])
    assert verdict(ladder, steady).status == "no plateau"
    assert verdict(ladder, torch.ones_like(steady)).status == "plateau"
    with pytest.raises(UsageError, match="double"):
        scale_sweep(SPHERE, boundary_point(SPHERE, ON[:1] / 2), scales=[0.1, 0.3])


def test_matrices_that_do_not_fit():
    wide = nn.Sequential(nn.Linear(5000, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.rand(1, 5000, generator=torch.Generator().manual_seed(0))
    found = curvature(wide, x, at="input", plateau=False)
    assert found.principal.shape == (1, 0)
    assert found.mean.isfinite().all()
    assert any("softplus" in note for note in found.notes)
    with pytest.raises(UsageError, match="4999 x 4999"):
        curvature(wide, x, at="input", estimator="frames")
    with pytest.raises(UsageError, match="symmetric operator"):
        curvature(wide, x, at="input", estimator="difference", spectrum="lanczos")


def test_mixed_networks_are_marked():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = curvature(model, x, at="input")
    assert found.estimator == "exact"
    assert any("kinks" in note for note in found.notes)
