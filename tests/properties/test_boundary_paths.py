"""Laws of paths and certificates: proofs hold, paths stay inside, and units, order and direction do not matter."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.boundary_paths import leaves
from torch import Tensor, nn

from assay.boundary.paths import certify_segment, connect
from assay.boundary.paths.prepared import Prepared, prepared
from assay.boundary.paths.zonotope import point, segment

few = settings(max_examples=12, deadline=None)
SEEDS = st.integers(0, 10_000)


def random_network(seed: int) -> tuple[nn.Sequential, Prepared]:
    """Two to four classes in the plane, with kinks close together."""
    generator = torch.Generator().manual_seed(seed)
    width, classes = 6 + seed % 20, 2 + seed % 3
    layers = [nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, classes)]
    model = nn.Sequential(*layers).double().eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2)
    return model, prepared(model, torch.zeros(2, 2, dtype=torch.float64))


def ends(seed: int, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed + 1)
    return tuple(3 * torch.randn((2, count, 2), generator=generator, dtype=torch.float64))  # type: ignore[return-value]


@few
@given(SEEDS)
def test_no_certificate_is_wrong_and_every_refutation_is_right(seed: int) -> None:
    model, network = random_network(seed)
    start, end = ends(seed, 12)
    found = certify_segment(model, start, end, network=network)
    out = leaves(model, start, end, found.label, 10_000)
    assert not bool((found.certified & out).any())
    refuted = torch.tensor([status == "refuted" for status in found.status])
    x = start + found.counterexample[:, None] * (end - start)
    assert bool((model(x[refuted]).argmax(1) != found.label[refuted]).all())


@few
@given(SEEDS)
def test_the_certified_margin_is_below_every_sample(seed: int) -> None:
    model, network = random_network(seed)
    start, end = ends(seed, 8)
    found = certify_segment(model, start, end, network=network)
    for row in found.certified.nonzero()[:, 0].tolist():
        x = torch.lerp(start[row], end[row], torch.linspace(0, 1, 500, dtype=torch.float64)[:, None])
        logits = model(x)
        own = int(found.label[row])
        others = torch.cat([logits[:, :own], logits[:, own + 1 :]], 1).amax(1)
        assert float(found.margin[row]) <= float((logits[:, own] - others).min()) + 1e-12


@few
@given(SEEDS)
def test_a_segment_may_be_walked_backwards(seed: int) -> None:
    model, network = random_network(seed)
    start, end = ends(seed, 8)
    there = certify_segment(model, start, end, network=network)
    back = certify_segment(model, end, start, there.label, network=network)
    assert back.status == there.status


@few
@given(SEEDS, st.floats(0, 0.9), st.floats(1e-6, 0.1))
def test_enclosures_hold_their_points(seed: int, low: float, width: float) -> None:
    _, network = random_network(seed)
    start, end = ends(seed, 5)
    own = torch.zeros(5, dtype=torch.long)
    first, last = torch.full((5,), low, dtype=torch.float64), torch.full((5,), low + width, dtype=torch.float64)
    whole = network.differences(segment(start, end, first, last), own)
    for s in torch.linspace(-1, 1, 9, dtype=torch.float64):
        t = (low + low + width + s * width) / 2
        exact = network.differences(point(start + t * (end - start)), own)
        assert bool(((exact.centre - whole.centre - s * whole.slope).abs() <= whole.error + 1e-13).all())


@few
@given(SEEDS, st.floats(0.01, 100))
def test_paths_stay_inside_and_units_of_the_logits_do_not_matter(seed: int, factor: float) -> None:
    model, _ = random_network(seed)
    start, end = ends(seed, 6)
    found = connect(model, start, end, dense=200, waypoints=0)
    for row in found.connected.nonzero()[:, 0].tolist():
        path = found.path[row]
        own = found.label[row].expand(len(path) - 1)
        assert not bool(leaves(model, path[:-1], path[1:], own, 2001).any())
        assert float(found.length_ratio[row]) >= 1 - 1e-12
    other = connect(lambda x: 2.0 ** round(factor % 7) * model(x), start, end, dense=200, waypoints=0)
    assert other.status == found.status
    assert [len(path) for path in other.path] == [len(path) for path in found.path]
