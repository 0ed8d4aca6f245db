import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline
from tests.support.inputs import close, numbers
from tests.support.smoothness_paths import by_differences, inner_parameters, picture

from assay.errors import SubjectError, UsageError
from assay.smoothness.paths import (
    Curve,
    Frames,
    Joined,
    Line,
    Path,
    Retimed,
    Reversed,
    Section,
    Spline,
    Transform,
    straight_between_knots,
)

PATHS = {
    "line": lambda: Line(numbers(2, 3), numbers(2, 3, seed=1)),
    "spline": lambda: Spline(numbers(6, 4)),
    "spline with times": lambda: Spline(numbers(5, 2, 2), times=[-1.0, 0.0, 0.5, 3.0, 4.0]),
    "closed spline": lambda: Spline(numbers(5, 3), closed=True),
    "spline of two": lambda: Spline(numbers(2, 3)),
    "frames": lambda: Frames(numbers(4, 3)),
    "curve": lambda: Curve(lambda t: torch.stack([t.cos(), t**3], dim=1), -1.0, 2.0),
    "joined": lambda: Joined(Line(numbers(3), numbers(3, seed=1)), Line(numbers(3, seed=1), numbers(3, seed=2))),
    "reversed": lambda: Reversed(Frames(numbers(4, 3), times=[0.0, 0.3, 2.0, 2.5])),
    "retimed": lambda: Retimed(Spline(numbers(6, 4)), 2.5),
    "section": lambda: Section(Frames(numbers(5, 3)), 0.4, 3.3),
    "brightness": lambda: Transform(picture(1, 4, 4), "brightness", 1.5),
}


@pytest.mark.parametrize("make", PATHS.values(), ids=PATHS)
def test_a_path_keeps_its_promises(make):
    path = make()
    assert isinstance(path, Path)
    assert path.start < path.end
    assert list(path.knots) == sorted(path.knots)
    assert all(path.start < knot < path.end for knot in path.knots)
    t = inner_parameters(path)
    points, tangents = path.at(t)
    assert points.dtype == tangents.dtype == torch.float64
    assert points.shape == tangents.shape
    assert len(points) == len(t)
    close(tangents, by_differences(path, t), 1e-7)
    for row in (0, 3):  # a batch is its rows
        close(path.at(t[row : row + 1])[0][0], points[row])
        close(path.at(t[row : row + 1])[1][0], tangents[row])
    ends = path.at(torch.tensor([path.start, path.end], dtype=torch.float64))
    assert bool(torch.isfinite(ends[1]).all())
    assert len(path.at(t[:0])[0]) == 0
    assert type(path).__name__ in repr(path)


@pytest.mark.parametrize("make", PATHS.values(), ids=PATHS)
def test_tangents_jump_at_knots_and_nowhere_else(make):
    path = make()
    step = 1e-7 * (path.end - path.start)
    knots = torch.tensor(path.knots, dtype=torch.float64)
    left, right = (path.at(knots, side=side)[1].flatten(1) for side in ("left", "right"))
    assert bool(((left - right).norm(dim=1) > 1e-3).all())
    close(path.at(knots - step)[1].flatten(1), left, 1e-5)
    close(path.at(knots + step, side="left")[1].flatten(1), right, 1e-5)
    t = inner_parameters(path, 200)
    close(path.at(t, side="left")[1], path.at(t, side="right")[1])
    points = path.at(torch.linspace(path.start, path.end, 1001, dtype=torch.float64))[0]
    assert float((points[1:] - points[:-1]).flatten(1).norm(dim=1).max()) < 0.2  # continuous


@pytest.mark.parametrize("make", PATHS.values(), ids=PATHS)
def test_parameters_outside_a_path_are_refused_and_rounding_is_not(make):
    path = make()
    for wrong in (path.start - 0.01, path.end + 0.01, math.nan, math.inf):
        with pytest.raises(UsageError, match="outside the path"):
            path.at(torch.tensor([wrong], dtype=torch.float64))
    with pytest.raises(UsageError, match="one axis"):
        path.at(torch.zeros(2, 2))
    beyond = path.end + 1e-12 * (path.end - path.start)
    close(path.at(at64([beyond]))[0], path.at(at64([path.end]))[0])
    single = torch.tensor([path.end], dtype=torch.float32)  # may round upwards
    close(path.at(single)[0], path.at(at64([path.end]))[0], 1e-5)


def at64(values):
    return torch.tensor(values, dtype=torch.float64)


def test_line_is_exact_at_its_ends():
    a, b = numbers(4, seed=3) * 1e6, numbers(4, seed=4)
    points, tangents = Line(a, b).at(torch.tensor([0.0, 1.0, 0.25]))
    assert torch.equal(points[0], a)
    assert torch.equal(points[1], b)
    close(points[2], 0.75 * a + 0.25 * b)
    assert torch.equal(tangents[2], b - a)


@pytest.mark.parametrize("closed", [False, True])
def test_spline_agrees_with_scipy_through_the_points_themselves(closed):
    points, times = numbers(6, 2, 2), [0.0, 0.5, 0.6, 2.0, 3.0, 4.5, 5.0][: 6 + closed]
    path = Spline(points, times, closed=closed)
    values = points.reshape(6, -1).numpy()
    values = np.concatenate([values, values[:1]]) if closed else values
    truth = CubicSpline(times, values, bc_type="periodic" if closed else "not-a-knot")
    t = inner_parameters(path, 20)
    close(path.at(t)[0].flatten(1), torch.from_numpy(truth(t.numpy())))
    close(path.at(t)[1].flatten(1), torch.from_numpy(truth(t.numpy(), 1)))
    close(path.at(at64(times))[0][:6], points)


def test_closed_spline_closes_smoothly():
    path = Spline(numbers(5, 3), closed=True)
    points, tangents = path.at(torch.tensor([0.0, 1.0]))
    close(points[0], points[1])
    close(tangents[0], tangents[1])


def test_frames_in_line_leave_no_knot():
    frames = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 6.0], [3.0, 7.0]], dtype=torch.float64)
    assert Frames(frames, times=[0.0, 1.0, 3.0, 4.0]).knots == (3.0,)
    assert Frames(frames).knots == (1.0, 2.0)


def test_a_detour_and_back_has_the_knots_of_both_and_of_the_turn():
    path = Frames(numbers(3, 2))
    there_and_back = Joined(path, Reversed(path))
    assert there_and_back.knots == (1.0, 2.0, 3.0)
    close(there_and_back.at(torch.tensor([1.5]))[0], there_and_back.at(torch.tensor([2.5]))[0])
    close(there_and_back.at(torch.tensor([1.5]))[1], -there_and_back.at(torch.tensor([2.5]))[1])


def test_cut_and_joined_again_is_the_same_path():
    path = Spline(numbers(6, 3))
    joined = Joined(Section(path, 0.0, 0.37), Section(path, 0.37, 1.0))
    assert joined.knots == ()
    t = inner_parameters(path, 20)
    for whole, parts in zip(path.at(t), joined.at(t), strict=True):
        close(parts, whole)


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=6, unique=True), st.floats(0.2, 5.0), st.integers(0, 10_000))
def test_retiming_and_reversal_follow_the_chain_rule(times, factor, seed):
    times = sorted(times)
    if min(b - a for a, b in pairwise(times)) < 1e-3:
        return
    path = Frames(numbers(len(times), 2, seed=seed), times=times)
    fast, back = Retimed(path, factor), Reversed(path)
    t = inner_parameters(path, 9)
    close(fast.at(path.start + (t - path.start) / factor)[1], path.at(t)[1] * factor, 1e-6)
    close(back.at(path.start + path.end - t)[0], path.at(t)[0], 1e-6)
    for side, other in (("left", "right"), ("right", "left")):
        knots = torch.tensor(path.knots, dtype=torch.float64)
        close(path.at(knots, side=side)[1] * factor, fast.at(at64(fast.knots), side=side)[1])
        close(path.at(knots, side=side)[1], -back.at(at64(back.knots[::-1]), side=other)[1])


def test_what_is_straight_between_knots():
    straight = {"line", "spline of two", "frames", "joined", "reversed", "section", "brightness"}
    assert {name for name, make in PATHS.items() if straight_between_knots(make())} == straight


X = torch.zeros(2, 2)
MISTAKES = {
    "integers": (lambda: Line(torch.zeros(2, dtype=torch.uint8), X), SubjectError, "floating-point"),
    "text": (lambda: Line("a", "b"), SubjectError, "tensor of numbers"),
    "not a number": (lambda: Line(X, X + math.nan), SubjectError, "NaN"),
    "infinite": (lambda: Frames(torch.stack([X, X + math.inf])), SubjectError, "infinity"),
    "shapes differ": (lambda: Line(X, torch.ones(2)), SubjectError, "differ"),
    "equal ends": (lambda: Line(X, X), UsageError, "same"),
    "equal frames": (lambda: Frames(torch.stack([X, X, X])), UsageError, "same"),
    "one frame": (lambda: Frames(X[:1]), UsageError, "two frames"),
    "no axis": (lambda: Spline(torch.tensor([1.0, 2.0])), SubjectError, "axes"),
    "no point": (lambda: Spline(torch.zeros(0, 2)), SubjectError, "shape"),
    "one point": (lambda: Spline(torch.ones(1, 2)), UsageError, "needs 2"),
    "loop of two": (lambda: Spline(numbers(2, 2), closed=True), UsageError, "needs 3"),
    "too few times": (lambda: Spline(numbers(3, 2), times=[0.0, 1.0]), UsageError, "one time per point"),
    "times back": (lambda: Frames(numbers(3, 2), times=[0.0, 2.0, 1.0]), UsageError, "ascend"),
    "times NaN": (lambda: Frames(numbers(2, 2), times=[0.0, math.nan]), UsageError, "finite"),
    "times of text": (lambda: Frames(numbers(2, 2), times=["a", "b"]), UsageError, "numbers"),
    "no length": (lambda: Curve(lambda t: t[:, None], 1.0, 1.0), UsageError, "no length"),
    "no speed": (lambda: Retimed(Line(X, X + 1), 0.0), UsageError, "positive"),
    "outside": (lambda: Section(Line(X, X + 1), 0.5, 1.5), UsageError, "outside"),
    "gap": (lambda: Joined(Line(X, X + 1), Line(X, X + 2)), UsageError, "do not meet"),
    "spaces": (lambda: Joined(Line(X, X + 1), Line(X[0], X[0] + 1)), SubjectError, "differ"),
    "nothing": (lambda: Joined(), UsageError, "no path"),
    "rows": (lambda: Curve(lambda t: t[:1, None]).at(torch.zeros(2)), SubjectError, "returns shape"),
    "fails": (lambda: Curve(lambda t: t[:, 3]).at(torch.zeros(2)), SubjectError, "fails"),
    "pole": (lambda: Curve(lambda t: t[:, None].sqrt()).at(torch.zeros(2)), Exception, "not finite"),
}


@pytest.mark.parametrize(("make", "error", "words"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_numbers_written_down_are_doubles():
    points, _ = Line([0.1, 0], [0.7, 1]).at(0.0)
    assert points.tolist() == [[0.1, 0.0]]  # not rounded to single precision
    assert Line([0], [1]).at(0.5)[0].item() == 0.5


@pytest.mark.parametrize("convert", [list, tuple, lambda x: [one.numpy() for one in x]])
def test_points_in_a_list(convert):
    points = torch.tensor([[0.0, 1.0], [2.0, 3.0], [5.0, 1.0]])
    t = torch.tensor([0.3])
    assert torch.equal(Spline(convert(points)).at(t)[0], Spline(points).at(t)[0])


@pytest.mark.parametrize("t", ["a", None, [[0.1], [0.2, 0.3]]])
def test_parameters_that_are_no_numbers(t):
    with pytest.raises(UsageError):
        Line([0.0], [1.0]).at(t)
