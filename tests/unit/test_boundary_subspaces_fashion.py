"""Subspaces on small networks trained on Fashion-MNIST: what curvature explains, and what its control takes back."""

from __future__ import annotations

import pytest
import torch
from tests.support.fashion import fashion_cnn, fashion_pictures

from assay.boundary.points import boundary_point
from assay.boundary.subspaces import (
    asymmetry,
    flip_probability_of,
    profile,
    semi_random,
    shared_directions,
    subspace_noise,
)


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_curvature_at_the_scale_of_the_noise_predicts_flips(activation: str):
    network, (x, _) = fashion_cnn(activation), fashion_pictures()
    points = boundary_point(network, x[:12], bounds=None)
    found = flip_probability_of(network, points, 0.7 * points.distance, samples=2000)
    assert found.sampled is not None
    truth = found.sampled.pair.clamp(min=1 / 4000)
    curved, flat = ((each / truth).log().abs().mean() for each in (found.probability, found.flat))
    assert float(curved) < 0.7 * float(flat)
    assert bool((found.low <= found.probability).all() & (found.probability <= found.high).all())


@pytest.mark.slow
def test_asymmetry_belongs_to_nearest_points():
    network, (x, _) = fashion_cnn("relu"), fashion_pictures()
    found = asymmetry(network, x[:40], estimator="difference", scale=0.1)
    assert found.nearest.negative >= 0.8
    assert found.nearest.high < 0
    assert abs(found.between.average) < 0.25 * abs(found.nearest.average)
    assert found.between.negative < found.nearest.negative_low


def test_random_subspaces_follow_the_flat_law():
    network, (x, _) = fashion_cnn("silu"), fashion_pictures()
    found = semi_random(network, x[:12], [100, 400])
    assert bool((found.found == 1).all())
    assert bool(((found.mean > 0.9) & (found.mean < 1.08)).all())


@pytest.mark.slow
def test_curved_directions_are_shared_vulnerable_and_mostly_first_order():
    network, (x, _) = fashion_cnn("silu"), fashion_pictures()
    shared = shared_directions(network, x[:40], gradient_points=x[40:150])
    ratios = shared.relative_curvature(network, x[150:162], probes=60)
    assert float(ratios.mean[0]) >= 20
    assert float(ratios.mean[-50:].mean()) <= 0.3
    found = subspace_noise(network, x[150:], shared, [0.4], dimension=100, draws=4)
    rate = dict(zip(found.names, found.rate[:, 0].tolist(), strict=True))
    assert rate["curved"] >= 5 * max(rate["flat"], 0.005)
    assert rate["curved"] > rate["random"]
    # The control: the subspace of boundary normals does nearly as much, and overlaps far above chance.
    assert rate["gradient"] > 0.6 * rate["curved"]
    place = found.names.index("curved"), found.names.index("gradient")
    assert float(found.overlap[place]) > 3 * float(found.chance[place])
    bends = profile(network, x[:6])
    assert bends.complete
    assert bends.summary["small"][0] > 0.9
    assert torch.equal(bends.average, bends.average.sort(descending=True).values)
