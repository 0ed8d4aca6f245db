"""What measurements of kinks report beside their sum, against truths of their own."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.smoothness import Network, smp
from assay.smoothness.estimators.crossings import Crossings
from assay.smoothness.estimators.polyline import Marks, Polyline, aligned
from assay.smoothness.estimators.rows import planned
from assay.smoothness.estimators.sampled import KNOWN_BIAS, sampled
from assay.smoothness.estimators.tally import _doubt
from assay.smoothness.paths import Line


class Bent:
    """Straight pieces between knots: the path itself bends."""

    def __init__(self, corners: Tensor) -> None:
        self.corners, self.start, self.end = corners.double(), 0.0, float(len(corners) - 1)
        self.knots = tuple(float(k) for k in range(1, len(corners) - 1))

    def at(self, t: Tensor, *, side: str = "right") -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=torch.float64)
        piece = (t.ceil() - 1 if side == "left" else t.floor()).long().clamp(0, len(self.corners) - 2)
        tangent = self.corners[piece + 1] - self.corners[piece]
        return self.corners[piece] + (t - piece)[:, None] * tangent, tangent


def one_unit(weight: float) -> Network:
    """f(x) = weight * relu(x), with one kink."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[2].weight.fill_(weight)
    return Network.of(model, torch.zeros(1, 1).double())


@pytest.mark.parametrize("weight", [3.0, -3.0])
def test_densities_keep_the_sign_of_a_kink(weight: float):
    found = smp(one_unit(weight), Line(torch.tensor([-1.0]), torch.tensor([1.0])), estimator="kac_rice", samples=4001)
    assert float(found.signed) == pytest.approx(2 * weight, rel=0.02)  # the path runs at speed 2
    assert float(found.value) == pytest.approx(2 * abs(weight), rel=0.02)
    assert float(found.energy) == pytest.approx((2 * weight) ** 2, rel=0.02)


def test_kinks_of_the_path_itself_are_told_apart():
    """f(x) = 2 x for positive x along slopes 1, 3, -1, 2: jumps 2, 4 and 3, twice as large in the output."""
    path = Bent(torch.tensor([[1.0], [2.0], [5.0], [4.0], [6.0]]))
    for estimator in ("event", "kac_rice", "exact_line"):
        found = smp(one_unit(2.0), path, estimator=estimator)
        assert found.path.tolist() == pytest.approx([18.0]), estimator
        assert float(found.value) == pytest.approx(0.0, abs=1e-9), estimator


def test_doubt_is_the_variance_of_a_choice_between_both_ends():
    """Gradient and slope each as at one end of the step or the other, with chances 1 - u and u, independently."""
    place = torch.tensor([0.2, 0.7, 0.5], dtype=torch.float64)
    begin, end = torch.tensor([[1.0, 2.0, 3.0], [1.5, 2.0, 2.0]], dtype=torch.float64)
    local = torch.lerp(begin, end, place)
    first, second = torch.tensor([[0.4, 1.0, -2.0], [0.6, 3.0, 2.5]], dtype=torch.float64)
    whole = torch.zeros(3, dtype=torch.long)
    crossing = Crossings(whole, place, whole, local, begin, end)
    found = _doubt(crossing, (first * local)[:, None], (second * local)[:, None])[:, 0]
    for e in range(3):
        u, choices = float(place[e]), []
        middle = float(torch.lerp(first[e].abs(), second[e].abs(), place[e]))
        for value in ((first[e].abs() * local[e], second[e].abs() * local[e]), (begin[e] * middle, end[e] * middle)):
            mean = (1 - u) * float(value[0]) + u * float(value[1])
            choices.append((1 - u) * (float(value[0]) - mean) ** 2 + u * (float(value[1]) - mean) ** 2)
        assert float(found[e]) == pytest.approx(sum(choices), rel=1e-12)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_where_two_lines_bend_at_once_the_first_unit_is_named(order: tuple[int, int]):
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    lines = []
    for unit, shift in ((3, 0.0), (7, 1e-15)):
        marks = Marks.ends(3)
        marks.layer[1], marks.unit[1], marks.local[1] = 4, unit, 1.0
        lines.append(Polyline(t + shift * (t == 0.5), torch.zeros(3, 1, dtype=torch.float64), marks))
    for one in aligned([lines[index] for index in order]):
        assert (int(one.marks.layer[1]), int(one.marks.unit[1]), bool(one.marks.several[1])) == (4, 3, True)


def test_parts_of_a_path_have_two_rows_at_least():
    rows = planned(Line(torch.zeros(1), torch.ones(1)), 5)
    parts = list(rows.chunks(1))
    assert [len(part) for part in parts] == [2, 2, 2, 2]
    assert torch.cat([part.t[1:] for part in parts]).tolist() == rows.t[1:].tolist()


@pytest.mark.parametrize("form", ["variation", "height"])
def test_what_samples_recover_of_dense_kinks(form: str):
    """Poisson kinks with Gaussian sizes, the table's six densities: within 4 % and .01 of a simulation."""
    generator = np.random.default_rng(5)
    steps = 40_000
    for density, share in zip(KNOWN_BIAS["kinks_per_step"], KNOWN_BIAS[form], strict=True):
        count = generator.poisson(density * steps)
        at, size = generator.uniform(0, steps, count), generator.normal(size=count)
        # a kink within a step splits its jump over the two samples beside it
        left, part = at.astype(int), at % 1
        bends = np.bincount(left, size * (1 - part), steps + 1) + np.bincount(left + 1, size * part, steps + 1)
        y = np.concatenate([[0.0], np.cumsum(np.cumsum(bends))])
        found = getattr(sampled(y, 1.0), form)
        seen = (found[0] if form == "variation" else found) / np.abs(size).sum()
        assert seen == pytest.approx(share, rel=0.04, abs=0.01), density


def test_a_kink_at_the_very_begin_has_an_exponent():
    y = np.abs(np.arange(60.0) - 1)
    found = sampled(y, 1.0)
    assert float(found.t[0]) == pytest.approx(1.0)
    assert bool(torch.isfinite(found.exponent[0]))
