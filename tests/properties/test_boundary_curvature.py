"""Laws of curvature on random quadratics and random normals."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.boundary_shape import Function, bordered, on_surface, two_classes
from torch import Tensor

from assay.boundary.shape.tangent import Tangent

SIZES = st.integers(2, 9)
SEEDS = st.integers(0, 10_000)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quadratic(size: int, seed: int) -> tuple[Function, Tensor, Tensor, Tensor]:
    """F = x.Ax / 2 + b.x, a point, and Hessian and gradient there."""
    A, b, at = drawn(seed, size, size), drawn(seed + 1, size), drawn(seed + 2, 1, size)
    A = A + A.T
    return lambda x: 0.5 * (x @ A * x).sum(1) + x @ b, at, A, A @ at[0] + b


@given(SIZES, SEEDS)
@settings(max_examples=40, deadline=None)
def test_quadratics_against_the_bordered_determinant(size: int, seed: int):
    function, at, A, gradient = quadratic(size, seed)
    found = on_surface(two_classes(function), at, top="full")
    scale = float((A.norm() / gradient.norm()) ** (size - 1))
    assert abs(float(found.gauss_kronecker[0]) - bordered(A, gradient)) <= 1e-10 * scale
    normal = gradient / gradient.norm()
    mean = float((A.trace() - normal @ A @ normal) / gradient.norm() / (size - 1))
    assert abs(float(found.mean[0]) - mean) <= 1e-10 * max(1.0, float(A.norm() / gradient.norm()))


@given(SIZES, SEEDS, st.sampled_from(["swap", "frame", "monotone", "stretch", "turn"]))
@settings(max_examples=50, deadline=None)
def test_invariances(size: int, seed: int, change: str):
    function, at, _, _ = quadratic(size, seed)
    level = function(at)
    plain = on_surface(two_classes(lambda x: function(x) - level), at, top="full")
    largest = float(plain.principal.abs().max())
    expected = plain.principal
    if change == "swap":
        found = on_surface(two_classes(lambda x: function(x) - level), at, own=1, rival=0, top="full")
        expected = -expected.flip(1)
    elif change == "frame":
        found = on_surface(two_classes(function), at, estimator="frames", frames=1, scale=0.3, top="full")
    elif change == "monotone":
        found = on_surface(two_classes(lambda x: torch.sinh(0.1 * (function(x) - level))), at, top="full")
    elif change == "stretch":
        found = on_surface(two_classes(lambda x: function(x / 3)), 3 * at, top="full")
        expected = expected / 3
    else:
        turn = torch.linalg.qr(drawn(seed + 3, size, size)).Q
        found = on_surface(two_classes(lambda x: function(x @ turn)), at @ turn.T, top="full")
        moved = plain.directions[0] @ turn.T
        operator = (found.directions[0].T * found.principal[0]) @ found.directions[0]
        torch.testing.assert_close(operator, (moved.T * expected[0]) @ moved, atol=1e-9 * (1 + largest), rtol=0)
    torch.testing.assert_close(found.principal, expected, atol=1e-9 * (1 + largest), rtol=0)


@given(st.integers(2, 40), SEEDS, st.booleans())
@settings(max_examples=40, deadline=None)
def test_tangent_bases(size: int, seed: int, sparse: bool):
    normal = drawn(seed, size)
    if sparse:  # normals along an axis, where reflections degenerate
        normal = torch.zeros(size, dtype=torch.float64)
        normal[seed % size] = math.copysign(1.0, seed % 3 - 1.5)
    tangent = Tangent(normal / normal.norm())
    basis = tangent.basis(0, size - 1)
    count = min(size - 1, 5)
    frame = tangent.frame(count, torch.Generator().manual_seed(seed))
    for vectors in (basis, frame):
        torch.testing.assert_close(vectors @ vectors.T, torch.eye(len(vectors)).double(), atol=1e-12, rtol=0)
        assert (vectors @ tangent.normal).abs().max() < 1e-12
    torch.testing.assert_close(tangent.embed(tangent.restrict(frame)), frame, atol=1e-12, rtol=0)
    some = drawn(seed + 1, 3, size)
    torch.testing.assert_close(tangent.embed(tangent.restrict(some)), tangent.project(some), atol=1e-12, rtol=0)
