"""Curvature of surfaces that are known in closed form, with their signs, and of networks by a dense Hessian."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from tests.support.boundary_shape import (
    bordered,
    on_sphere,
    on_surface,
    points,
    shape_operator,
    smooth_cnn,
    two_classes,
)
from torch import Tensor, nn

from assay.boundary.points import boundary_point
from assay.boundary.shape import curvature, mean_curvature
from assay.errors import SubjectError, UsageError
from assay.grade import Grade

BALLS = {
    "square": lambda x: x.square().sum(1) - 4,
    "length": lambda x: x.norm(dim=1) - 2,
    "tanh": lambda x: torch.tanh((x.square().sum(1) - 4) / 3),
    "exp": lambda x: x.square().sum(1).exp() - math.exp(4.0),
}


@pytest.mark.parametrize("name", BALLS)
def test_ball_bends_towards_its_centre(name: str):
    found = on_surface(two_classes(BALLS[name]), on_sphere(3, 10, 2.0))
    assert found.principal.shape == (3, 9)
    torch.testing.assert_close(found.principal, torch.full((3, 9), 0.5, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(found.mean, torch.full((3,), 0.5, dtype=torch.float64), atol=1e-12, rtol=0)
    assert found.mean_error.eq(0).all()
    assert found.grade is Grade.EXACT
    assert found.complete


def test_outside_of_a_ball_bends_away():
    at = on_sphere(3, 10, 2.0)
    complement = on_surface(two_classes(lambda x: 4 - x.square().sum(1)), at)
    torch.testing.assert_close(complement.mean, torch.full((3,), -0.5, dtype=torch.float64), atol=1e-12, rtol=0)
    swapped = on_surface(two_classes(lambda x: x.square().sum(1) - 4), at, own=1, rival=0)
    torch.testing.assert_close(swapped.principal, complement.principal, atol=1e-12, rtol=0)


def test_found_from_an_input():
    ball = two_classes(lambda x: x.square().sum(1) - 4)
    found = curvature(ball, points([0.5, 0, 0, 0, 0]))
    torch.testing.assert_close(found.point, points([2, 0, 0, 0, 0]), atol=1e-9, rtol=0)
    check = found.second_order_check()
    assert float(check.value[0]) == pytest.approx(0.75, abs=1e-9)
    assert not check.violated.any()
    outside = two_classes(lambda x: 1 - x.square().sum(1))
    assert float(curvature(outside, points([1.5, 0, 0])).mean[0]) == pytest.approx(-1.0, abs=1e-9)


def test_second_order_check_finds_a_point_that_is_not_nearest():
    # Along the long axis of an ellipsoid the boundary bends more sharply than a ball around the centre.
    ellipsoid = two_classes(lambda x: (x / points([3, 2, 1])).square().sum(1) - 1)
    near = boundary_point(ellipsoid, points([0.1, 0.0, 0.0]), refine=False)
    far = type(near)(**{**near.__dict__, "point": points([3.0, 0.0, 0.0])})
    check = curvature(ellipsoid, far).second_order_check()
    assert check.violated.all()
    assert float(check.value[0]) == pytest.approx(2.9 * 3.0)
    with pytest.raises(UsageError, match="largest principal"):
        curvature(ellipsoid, far, top=0).second_order_check()


def test_ellipsoid():
    ellipsoid = two_classes(lambda x: (x / points([3, 2, 1])).square().sum(1) - 1)
    tip = on_surface(ellipsoid, points([3, 0, 0]))
    torch.testing.assert_close(tip.principal, points([3.0, 0.75]), atol=1e-12, rtol=0)
    side = on_surface(ellipsoid, points([0.9, 1.0, 0.8124038405]))
    torch.testing.assert_close(side.principal, points([0.3715328995, 0.1393429382]), atol=1e-9, rtol=0)
    assert float(side.gauss_kronecker[0]) == pytest.approx(0.0517704859, abs=1e-9)
    assert float(side.mean[0]) == pytest.approx(0.2554379189, abs=1e-9)


def test_paraboloid_has_the_axes_as_directions():
    k = torch.tensor([-0.7, -0.2, 0.0, 0.1, 0.4], dtype=torch.float64)
    model = two_classes(lambda x: x[:, 0] - 2 + 0.5 * (k * x[:, 1:].square()).sum(1))
    found = on_surface(model, points([2, 0, 0, 0, 0, 0]))
    torch.testing.assert_close(found.principal[0], k.flip(0), atol=1e-12, rtol=0)
    axes = torch.eye(6, dtype=torch.float64)[1:].flip(0)
    torch.testing.assert_close(found.directions[0].abs(), axes, atol=1e-9, rtol=0)
    assert float(found.mean[0]) == pytest.approx(-0.08, abs=1e-12)
    assert float(on_surface(model, points([2, 0, 0, 0, 0, 0]), own=1, rival=0).mean[0]) == pytest.approx(0.08)


@pytest.mark.parametrize("angle", [0.0, 0.7, math.pi / 2, 2.5, math.pi])
def test_torus(angle: float):
    big, small = 3.0, 1.0
    torus = two_classes(lambda x: (x[:, :2].norm(dim=1) - big).square() + x[:, 2].square() - small**2)
    at = points([(big + small * math.cos(angle)), 0.0, small * math.sin(angle)])
    found = on_surface(torus, at)
    around = math.cos(angle) / (big + small * math.cos(angle))
    torch.testing.assert_close(found.principal, points([1 / small, around]), atol=1e-12, rtol=0)
    torch.testing.assert_close(found.directions[0, 1].abs(), points([0, 1, 0])[0], atol=1e-9, rtol=0)


def test_cylinder_keeps_its_zero_curvatures():
    cylinder = two_classes(lambda x: x[:, :2].square().sum(1) - 0.25)
    found = on_surface(cylinder, points([0.3, 0.4, 5.0, -1.0, 2.0]))
    torch.testing.assert_close(found.principal, points([2.0, 0.0, 0.0, 0.0]), atol=1e-12, rtol=0)


def test_against_high_precision_derivatives():
    def plain(x, y, z, m):
        return m.sin(x) * y + m.exp(z / 2) * x**2 - m.cos(y * z) + m.tanh(x - y) / 2

    class Torch:
        sin, exp, cos, tanh = torch.sin, torch.exp, torch.cos, torch.tanh

    at = (0.7, -0.4, 1.1)
    found = on_surface(two_classes(lambda x: plain(x[:, 0], x[:, 1], x[:, 2], Torch)), points(at))
    with mpmath.workdps(40):

        def partial(*orders: int) -> float:
            return float(mpmath.diff(lambda *v: plain(*v, mpmath), tuple(map(mpmath.mpf, at)), orders))

        unit = torch.eye(3, dtype=torch.int64)
        gradient = torch.tensor([partial(*row) for row in unit.tolist()], dtype=torch.float64)
        hessian = points(*[[partial(*(a + b).tolist()) for b in unit] for a in unit])
    normal = gradient / gradient.norm()
    assert float(found.gauss_kronecker[0]) == pytest.approx(bordered(hessian, gradient), rel=1e-9)
    mean = (hessian.trace() - normal @ hessian @ normal) / (2 * gradient.norm())
    assert float(found.mean[0]) == pytest.approx(float(mean), rel=1e-10)


def test_network_against_its_dense_hessian():
    model, x = smooth_cnn(), torch.rand(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = on_surface(model, x, own=2, rival=1, top="full")
    for row in range(3):
        operator = shape_operator(
            lambda z: (lambda f: f[:, 1] - f[:, 2])(model(z.reshape(-1, 1, 8, 8))), x[row].flatten()
        )
        values = torch.linalg.eigvalsh(operator)
        normal = found.normal[row].flatten()
        keep = torch.ones(64, dtype=torch.bool)
        keep[values.abs().argmin()] = False  # here, and only here, we know that no other eigenvalue is as small
        torch.testing.assert_close(found.principal[row], values[keep].flip(0), atol=1e-12, rtol=1e-9)
        vectors = found.directions[row].flatten(1)
        assert (vectors @ normal).abs().max() < 1e-12
        torch.testing.assert_close(vectors @ vectors.T, torch.eye(63, dtype=torch.float64), atol=1e-10, rtol=0)
        torch.testing.assert_close(operator @ vectors.T, vectors.T * found.principal[row], atol=1e-10, rtol=0)


@pytest.mark.parametrize("top", [1, 3, 10, "full"])
def test_normal_is_no_direction_in_single_precision(top: int | str):
    model = smooth_cnn(dtype=torch.float32)
    found = on_surface(model, torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), top=top)
    count = 63 if top == "full" else 2 * int(top)
    assert found.directions.shape == (2, count, 1, 8, 8)
    along = (found.directions.flatten(2).double() @ found.normal.flatten(1).double()[:, :, None])[..., 0]
    assert along.abs().max() < 1e-6


def test_other_scale_of_the_logits_and_of_the_space():
    model, x = smooth_cnn(), torch.rand(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = on_surface(model, x)
    five = on_surface(lambda z: 5 * model(z), x)
    torch.testing.assert_close(five.principal, found.principal, atol=1e-12, rtol=1e-9)
    soft = on_surface(lambda z: torch.log_softmax(model(z), 1), x)
    torch.testing.assert_close(soft.principal, found.principal, atol=1e-12, rtol=1e-9)
    stretched = on_surface(lambda z: model(z / 2), 2 * x)
    torch.testing.assert_close(stretched.principal, found.principal / 2, atol=1e-12, rtol=1e-9)


def test_rotation_turns_the_directions_with_it():
    model, x = smooth_cnn(), torch.rand(1, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    turn = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(4), dtype=torch.float64)).Q
    plain = on_surface(lambda z: model(z.reshape(-1, 1, 8, 8)), x, top=3)
    turned = on_surface(lambda z: model((z @ turn).reshape(-1, 1, 8, 8)), x @ turn.T, top=3)
    torch.testing.assert_close(turned.principal, plain.principal, atol=1e-12, rtol=1e-9)
    overlap = (turned.directions[0] * (plain.directions[0] @ turn.T)).sum(1).abs()
    torch.testing.assert_close(overlap, torch.ones(6, dtype=torch.float64), atol=1e-8, rtol=0)


def test_linear_model_is_exactly_flat_and_says_so():
    model = nn.Linear(6, 3, dtype=torch.float64)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = curvature(model, x)
    assert set(found.status) == {"linear"}
    assert found.mean.eq(0).all()
    assert found.principal.shape == (4, 5)
    assert found.principal.eq(0).all()
    assert (found.directions @ found.normal[:, :, None]).abs().max() < 1e-12
    mean, error = mean_curvature(model, boundary_point(model, x))
    assert mean.eq(0).all()
    assert error.eq(0).all()


def test_rows_without_a_boundary_are_nan_and_say_so():
    model = two_classes(lambda x: x.square().sum(1) - 4)
    near = boundary_point(model, points([0.5, 0, 0], [0, 0.5, 0]))
    lost = type(near)(**{**near.__dict__, "found": torch.tensor([True, False])})
    found = curvature(model, lost)
    assert found.status == ("ok", "not found")
    assert found.mean.isfinite().tolist() == [True, False]
    assert found.principal.isnan().all(1).tolist() == [False, True]
    assert not found.second_order_check().violated.any()
    # The gradient of a square vanishes on its zero set: no normal, no curvature.
    square = on_surface(two_classes(lambda x: x[:, 0].square()), points([0.0, 1.0], [1.0, 1.0]))
    assert square.status == ("no gradient", "ok")
    assert square.mean.isfinite().tolist() == [False, True]


def test_batches_and_seeds():
    model = smooth_cnn()
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    given = {"spectrum": "lanczos", "top": 3, "probes": 10}
    all_rows, again = (on_surface(model, x, **given) for _ in range(2))
    alone = on_surface(model, x[3:4], **given)
    for name in ("mean", "mean_error", "principal", "directions"):
        assert torch.equal(getattr(all_rows, name), getattr(again, name))
        torch.testing.assert_close(getattr(all_rows, name)[3:4], getattr(alone, name), atol=1e-7, rtol=1e-6)
    other = on_surface(model, x, **given, seed=1)
    assert not torch.equal(other.mean, all_rows.mean)
    sampled, single = (on_surface(model, part, top=0, trace="hutchinson", probes=10) for part in (x, x[3:4]))
    torch.testing.assert_close(sampled.mean[3:4], single.mean, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"top": -1}, "no number of curvatures"),
        ({"top": 1.5}, "no number of curvatures"),
        ({"estimator": "magic"}, "unknown"),
        ({"spectrum": "magic"}, "unknown"),
        ({"trace": "magic", "top": 0}, "no method"),
        ({"trace": "xtrace", "top": 0, "probes": 2}, "standard error"),
        ({"probes": 1, "top": 0}, "standard error"),
        ({"frames": 0}, "measures nothing"),
        ({"estimator": "difference", "scale": 0.0}, "no length"),
        ({"estimator": "difference", "scale": torch.ones(5)}, "shape"),
        ({"estimator": "softplus"}, "found no ReLU"),
        ({"estimator": "forward", "trace": "xtrace"}, "symmetric operator"),
        ({"estimator": "frames", "spectrum": "lanczos"}, "symmetric operator"),
    ],
)
def test_requests_that_make_no_sense(options: dict[str, object], match: str):
    ball = two_classes(lambda x: x.square().sum(1) - 4)
    with pytest.raises(UsageError, match=match):
        on_surface(ball, on_sphere(2, 6, 2.0), **options)


def test_inputs_that_have_no_boundary_shape():
    with pytest.raises(UsageError, match="one dimension"):
        on_surface(two_classes(lambda x: x[:, 0]), points([0.0]))
    with pytest.raises(SubjectError, match="NaN"):
        on_surface(two_classes(lambda x: x[:, 0]), points([0.0, math.nan]))


def test_incomplete_spectrum_has_no_product():
    ball = two_classes(lambda x: x.square().sum(1) - 4)
    with pytest.raises(UsageError, match="all 19"):
        _ = on_surface(ball, on_sphere(1, 20, 2.0), top=2).gauss_kronecker


def test_vanishing_second_derivatives_of_a_constant_class():
    def flat(x: Tensor) -> Tensor:
        return x[:, 0] + 0 * x[:, 1].square()

    found = on_surface(two_classes(flat), points([0.0, 1.0, 2.0]))
    assert found.principal.eq(0).all()


@pytest.mark.parametrize("power", ["square", "norm", "tanh", "exp"])
def test_points_that_are_on_the_surface_only_to_rounding_belong_to_the_lower_class(power):
    def outside(x):
        square = x.square().sum(1)
        return {
            "square": square - 4,
            "norm": square.sqrt() - 2,
            "tanh": ((square - 4) / 3).tanh(),
            "exp": square.exp() - math.exp(4),
        }[power]

    z = torch.randn(100, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = 2 * z / z.norm(dim=1, keepdim=True)
    sides = set(torch.sign(outside(z)).tolist())
    assert len(sides) > 1  # rounding puts them on both sides
    found = curvature(lambda x: torch.stack([0 * x[:, 0], outside(x)], 1), z, top="full")
    assert set(found.label.tolist()) == {0}
    assert torch.allclose(found.principal, torch.full_like(found.principal, 0.5), atol=1e-12)
    turned = curvature(lambda x: torch.stack([outside(x), 0 * x[:, 0]], 1), z, top="full")
    assert torch.allclose(turned.principal, torch.full_like(found.principal, -0.5), atol=1e-12)
