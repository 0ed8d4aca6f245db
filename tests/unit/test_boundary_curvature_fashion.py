"""Curvature on networks trained on Fashion-MNIST: smooth and piecewise linear."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.support.fashion import fashion_cnn, fashion_pictures
from tests.support.untouched import assert_same, state_of

from assay.boundary.field import Field
from assay.boundary.points import boundary_point
from assay.boundary.shape import curvature, mean_curvature, scale_sweep
from assay.errors import UsageError


@pytest.mark.slow
def test_smooth_network():
    network, (pictures, _) = fashion_cnn("silu"), fashion_pictures()
    field = Field(network)
    near = boundary_point(field, pictures[:12])
    mean, error = mean_curvature(field, near)
    assert int((mean < 0).sum()) >= 8  # the other class bulges towards clean pictures
    assert (error > 0).all()
    again, alone = mean_curvature(field, near)[0], mean_curvature(field, boundary_point(field, pictures[5:6]))[0]
    assert torch.equal(again, mean)
    assert abs(float(alone[0] - mean[5])) < 1e-5
    small, _ = mean_curvature(field, near, estimator="difference", scale=0.1)
    assert (small - mean).abs().max() < 0.1 * mean.abs().max()
    ends = curvature(field, pictures[:2], top=3, spectrum="lanczos")
    dense = curvature(field, pictures[:2], top=3)
    assert dense.trace == "full"
    torch.testing.assert_close(ends.principal, dense.principal, rtol=1e-4, atol=0)
    check = dense.second_order_check()
    assert not check.violated.any()
    assert ((ends.mean - dense.mean).abs() < 5 * ends.mean_error).all()


def test_piecewise_linear_network():
    network, (pictures, _) = fashion_cnn("relu"), fashion_pictures()
    field = Field(network)
    near = boundary_point(field, pictures[:20])
    with pytest.raises(UsageError, match="piecewise linear"):
        mean_curvature(field, near, estimator="exact")
    mean, _ = mean_curvature(field, near, scale=3.0)
    assert int((mean < 0).sum()) >= 14
    alone, _ = mean_curvature(field, boundary_point(field, pictures[7:8]), scale=3.0)
    assert abs(float(alone[0] - mean[7])) < 1e-5
    sweep = scale_sweep(field, near, scales=[0.2, 0.4, 0.8, 1.6, 3.2])
    assert sweep.status == "no plateau"  # the size of the curvature is a statement about the scale
    assert (sweep.mean < 0).all()
    assert (sweep.mean.diff() > 0).all()


def test_models_and_the_process_stay_as_they_are():
    network = copy.deepcopy(fashion_cnn("relu")).train()
    network[0].weight.requires_grad_(True)
    pictures = fashion_pictures()[0][:1]
    before = state_of(network)
    for options in ({"top": 0}, {"estimator": "softplus", "spectrum": "lanczos", "top": 2}):
        curvature(network, pictures, plateau=False, **options)
    assert_same(before, state_of(network))
    with pytest.raises(UsageError):
        curvature(network, pictures, estimator="exact")
    assert_same(before, state_of(network))
