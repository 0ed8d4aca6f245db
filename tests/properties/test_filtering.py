"""Laws of filters, scores and attacks on random tensors: mirror, scale, rank intervals, orientation, balls."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from assay.attacks import pgd
from assay.filtering import FILTERS, Baseline, Recording, distinct_masks, label_of, masks, score

FINITE = st.floats(-1e6, 1e6, width=32, allow_subnormal=False).map(lambda value: 0.0 if abs(value) < 1e-6 else value)


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    """Tensors of one to three axes; sometimes of few values, so that there are ties and zeros."""
    shape = draw(arrays.array_shapes(max_dims=3, max_side=5))
    elements = draw(st.sampled_from([FINITE, st.integers(-3, 3).map(float)]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    return torch.tensor(draw(arrays.arrays(np.float32, shape, elements=elements))).to(dtype)


COUNTS = st.integers(2, 26)
SETTINGS = st.fixed_dictionaries(
    {"domain": st.sampled_from(["signed", "magnitude"]), "cover": st.sampled_from(["paper", "gapless"])}
)


@given(weights(), COUNTS, st.integers(-20, 20))
def test_scale_and_mirror(weight: Tensor, n: int, exponent: int):
    for name in FILTERS:
        assert torch.equal(masks(weight, name, n), masks(weight * 2.0**exponent, name, n))
    assert torch.equal(masks(weight, "high", n), masks(-weight, "low", n))


@given(weights(), COUNTS, SETTINGS)
def test_filters_look_at_values_alone(weight: Tensor, n: int, settings: dict[str, Any]):
    order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(0))
    shuffled = weight.flatten()[order]
    for name in FILTERS:
        kept = masks(weight, name, n, **settings)
        assert torch.equal(kept.flatten(1)[:, order], masks(shuffled, name, n, **settings))
        values = weight.abs() if settings["domain"] == "magnitude" else weight
        for mask in kept:
            assert not set(values[mask].tolist()) & set(values[~mask].tolist())


@given(weights(), COUNTS, SETTINGS)
def test_step_filters_only_take_away(weight: Tensor, n: int, settings: dict[str, Any]):
    for name in ("high", "low"):
        kept = masks(weight, name, n, **settings)
        assert not (kept[1:] & ~kept[:-1]).any()
        assert not kept[-1].any()
        assert not kept[0].all()
    values = weight.abs() if settings["domain"] == "magnitude" else weight
    assume(values.min() < values.max())
    removed = (~masks(weight, "pulse", n, **settings)).sum(0)
    assert (removed == 1).all() if settings["cover"] == "gapless" else (removed <= 1).all()


@given(weights(), COUNTS, SETTINGS)
def test_merged_tensors_are_the_filtered_ones(weight: Tensor, n: int, settings: dict[str, Any]):
    weight = weight + 0.0  # no minus zero
    merged = distinct_masks(weight, n=n, **settings)
    found = {merged.filtered(row).double().numpy().tobytes() for row in range(len(merged))}
    assert len(found) == len(merged)
    for name in FILTERS:
        kept = masks(weight, name, n, **settings)
        for k in range(n):
            expected = torch.where(kept[k], weight, 0)
            assert torch.equal(merged.filtered(int(merged.rows[name][k])), expected)
            assert int(merged.removed[name][k]) == int((~kept[k]).sum())
            assert int(merged.changed[name][k]) == int((expected != weight).sum())


@given(st.integers(1, 6), st.integers(5, 60), st.integers(0, 10_000), st.floats(0, 0.5))
def test_scores(half: int, samples: int, seed: int, tau: float):
    n, draws = 2 * half + 1, np.random.default_rng(seed)
    baseline = Baseline(draws.random(samples) < 0.9, draws.random(samples) < 0.6)
    assume(baseline.clean.any() and baseline.adversarial is not None and baseline.adversarial.any())
    recording = Recording(draws.random((n, samples)) < 0.7, draws.random((n, samples)) < 0.5, draws.random(n))
    order = draws.permutation(samples)
    mixed = Recording(recording.clean[:, order], recording.split("adversarial")[:, order], recording.density)
    same = Baseline(baseline.clean[order], baseline.split("adversarial")[order])
    result = score({"low": recording}, baseline, draws=30, tau=tau)
    again = score({"low": mixed}, same, draws=30, tau=tau)
    for row, other in zip(result.rows, again.rows, strict=True):
        assert abs(row.score - other.score) < 1e-12  # the order of samples does not matter
        assert row.low <= row.score <= row.high
        assert row.label == label_of(row.low, row.high, tau)
        if row.label == "robust":
            assert abs(row.score) <= tau
        elif row.label != "undecided":
            assert np.sign(row.score) * tau < abs(row.score)
    for reference in ("compressed", "unfiltered"):
        clean, attacked, both = (
            result.get("low", split, reference).score for split in ("clean", "adversarial", "difference")
        )
        assert abs(both - (attacked - clean)) < 1e-12


@given(
    st.sampled_from(["linf", "l2"]),
    st.floats(0, 3),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_attacks_stay_in_the_ball(norm: Any, epsilon: float, steps: int, random_start: bool, targeted: bool, seed: int):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 5, generator=generator, dtype=torch.float64)
    layers = [
        torch.randn(5, 8, generator=generator, dtype=torch.float64),
        torch.randn(8, 3, generator=generator).double(),
    ]
    found = pgd(
        lambda points: torch.relu(points @ layers[0]) @ layers[1],
        x,
        torch.tensor([0, 1, 2]),
        epsilon=epsilon,
        norm=norm,
        steps=steps,
        random_start=random_start,
        targeted=targeted,
        seed=seed,
        bounds=(0.0, 1.0),
    )
    change = found - x
    size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert float(size.max()) <= epsilon * (1 + 1e-12) + 1e-15
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
