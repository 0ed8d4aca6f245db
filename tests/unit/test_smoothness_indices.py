import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support import smoothness_indices as truth
from tests.support.inputs import numbers

from assay.errors import SubjectError, UsageError
from assay.smoothness.indices import separation_index, separations, smoothness_index, smoothnesses
from assay.smoothness.indices.neighbours import nearest


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_known_values():
    assert separation_index(column(0, 1, 3, 10), [0, 0, 1, 1]) == 0.75
    x, y = column(0, 1, 2.5, 4.5), [0, 3, 1, 2]
    assert smoothness_index(x, y) == pytest.approx(0.25, abs=1e-15)
    assert smoothness_index(x, y, form="exponential") == pytest.approx(0.473768, abs=5e-7)
    same = column(0, 1, 3, 10)
    assert smoothness_index(same, same) == 1.0


@pytest.mark.parametrize("search", ["blockwise", "tree"])
@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize("kind", ["high", "soft", "anti"])
def test_separation_is_its_definition(kind, order, search):
    x, labels = numbers(30, 3), torch.arange(30) % 3
    found = separations(x, labels, order=order, kind=kind, search=search)
    assert found.tolist() == pytest.approx(truth.separation(x, labels.tolist(), order, kind))
    assert separation_index(x, labels, order=order, kind=kind, search=search) == pytest.approx(float(found.mean()))


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("form", ["linear", "exponential"])
@pytest.mark.parametrize("order", [1, 2, 5, 24])
@pytest.mark.parametrize("kind", ["high", "soft", "anti"])
def test_smoothness_is_its_definition(kind, order, form, axes):
    x, y = numbers(25, 4), numbers(25, axes, seed=1)
    found = smoothnesses(x, y, form=form, order=order, kind=kind, gamma=0.7)
    assert found.tolist() == pytest.approx(truth.smoothness(x, y, order, kind, form, 0.7), rel=1e-11, abs=1e-12)


def test_centre_counts_points_nearest_to_their_own_mean():
    x = column(0, 1, 2, 8, 9, 10)
    assert separations(x, [0, 0, 1, 1, 1, 1], kind="centre").tolist() == [1, 1, 0, 1, 1, 1]
    assert separation_index(x, [5, 5, 5, 5, 5, 5], kind="centre") == 1.0
    halfway = column(-1, 1, 0, 3, 5)  # means 0 and 4; a point at the same distance from both is not lost
    assert separation_index(torch.cat([halfway, column(2)]), [0, 0, 0, 1, 1, 1], kind="centre") == 1.0


def test_standardising_undoes_units():
    x, labels = numbers(40, 3), torch.arange(40) % 2
    stretched = x * torch.tensor([1e-6, 1.0, 1e6]) + torch.tensor([3.0, -1.0, 1e5])
    expected = separation_index(x / x.std(0), labels)
    assert separation_index(stretched, labels, standardise=True) == expected
    assert separation_index(stretched, labels) != expected
    constant = torch.cat([x, torch.full((40, 1), 7.0)], dim=1)
    assert separation_index(constant, labels, standardise=True) == expected
    y = numbers(40, 2, seed=2)
    assert smoothness_index(stretched, y * 5, standardise=True) == pytest.approx(
        smoothness_index(x / x.std(0), y / y.std(0))
    )


def test_of_ties_the_first_in_the_data_counts():
    x = column(0, 1, 2)
    assert separations(x, [0, 1, 1]).tolist() == [0, 0, 1]
    assert separations(x.flip(0), [0, 1, 1]).tolist() == [0, 0, 1]  # the middle point looks at whoever comes first
    assert nearest(x, 1).tied.tolist() == [False, True, False]
    everywhere = torch.zeros(5, 3)
    assert separations(everywhere, [0, 0, 1, 1, 1]).tolist() == [1, 1, 0, 0, 0]
    assert bool(nearest(everywhere.double(), 1).tied.all())


@pytest.mark.parametrize("axes", [1, 2])
def test_constant_targets_are_smooth(axes):
    x = numbers(8, 2)
    for form in ("linear", "exponential"):
        assert smoothness_index(x, torch.full((8, axes), 3.7), form=form, order=3) == 1.0
    assert smoothness_index(x[:2], [1.0, 5.0]) == 1.0  # the only neighbour is the best one


@pytest.mark.parametrize("kind", ["grid", "copies", "far from the origin", "one far away"])
def test_both_searches_agree_where_rounding_and_ties_decide(kind):
    x = {
        "grid": torch.cartesian_prod(*[torch.arange(6.0)] * 3).double(),
        "copies": numbers(20, 3).repeat(10, 1),
        "far from the origin": 1e7 + numbers(200, 3),
        "one far away": torch.cat([1e-3 * numbers(199, 3), torch.full((1, 3), 1e8, dtype=torch.float64)]),
    }[kind]
    expected = truth.neighbours(x, 4)
    for search in ("blockwise", "tree"):
        assert nearest(x, 4, search).index.tolist() == expected


def test_large_data_take_the_tree_and_give_the_same():
    x = numbers(6000, 2)
    y = x.sin().sum(1)
    assert smoothness_index(x, y) == smoothness_index(x, y, search="blockwise")
    labels = (y > 0).long()
    assert separation_index(x, labels, order=3) == separation_index(x, labels, order=3, search="blockwise")
    assert smoothness_index(x, y) > 0.99
    unrelated = torch.rand(6000, generator=torch.Generator().manual_seed(5))
    # uniform targets: the integral of 1 - |y - y'| / max(y, 1 - y) over the unit square; five standard errors
    assert abs(smoothness_index(x, unrelated) - (1.25 - math.log(2))) < 5 * 0.3 / 6000**0.5


@given(st.integers(3, 12), st.integers(1, 3), st.integers(0, 10_000), st.floats(0.1, 10), st.floats(-5, 5))
def test_laws(count, order, seed, scale, shift):
    order = min(order, count - 1)
    x, y = numbers(count, 2, seed=seed), numbers(count, seed=seed + 1)
    linear = smoothness_index(x, y, order=order)
    assert linear == pytest.approx(smoothness_index(scale * x + shift, scale * y + shift, order=order), abs=1e-7)
    mixed = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    assert linear == pytest.approx(smoothness_index(x[mixed], y[mixed], order=order), abs=1e-9)
    assert smoothness_index(y, y, order=order, kind="soft") == pytest.approx(1.0)
    labels = (y > 0).long()
    high, soft, anti = (separation_index(x, labels, order=order, kind=kind) for kind in ("high", "soft", "anti"))
    assert high <= soft <= 1 - anti + 1e-12
    assert 0 <= smoothness_index(x, y) <= 1


MISTAKES = {
    "one point": (lambda: separation_index(torch.zeros(1, 2), [0]), SubjectError, "two points"),
    "NaN": (lambda: separation_index(torch.full((3, 2), math.nan), [0, 0, 1]), SubjectError, "NaN"),
    "labels": (lambda: separation_index(numbers(3, 2), [0, 1]), SubjectError, "one label per point"),
    "targets as labels": (lambda: separation_index(numbers(3, 2), numbers(3)), SubjectError, "whole numbers"),
    "targets": (lambda: smoothness_index(numbers(3, 2), numbers(4)), SubjectError, "one target per point"),
    "target NaN": (lambda: smoothness_index(numbers(3, 2), [0.0, math.nan, 1.0]), SubjectError, "NaN"),
    "order 0": (lambda: separation_index(numbers(3, 2), [0, 0, 1], order=0), UsageError, "1 to 2"),
    "order n": (lambda: smoothness_index(numbers(3, 2), numbers(3), order=3), UsageError, "1 to 2"),
    "kind": (lambda: smoothness_index(numbers(3, 2), numbers(3), kind="centre"), UsageError, "centre"),
    "form": (lambda: smoothness_index(numbers(3, 2), numbers(3), form="cubic"), UsageError, "cubic"),
    "search": (lambda: separation_index(numbers(3, 2), [0, 0, 1], search="ball"), UsageError, "ball"),
}


@pytest.mark.parametrize(("ask", "error", "words"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(ask, error, words):
    with pytest.raises(error, match=words) as caught:
        ask()
    assert words in str(caught.value)
