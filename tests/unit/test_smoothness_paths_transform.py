import math

import pytest
import torch
from tests.support.inputs import close
from tests.support.smoothness_paths import by_differences, inner_parameters, picture
from torch.func import jvp

from assay.errors import SubjectError, UsageError
from assay.smoothness.paths import Transform
from assay.smoothness.paths.resampling import Field, along_axes, anywhere

IMAGE = picture(2, 9, 11)
CASES = {
    "down": {"kind": "translate", "amount": 5.3, "direction": (1.0, 0.0)},
    "slanted, wrapped": {"kind": "translate", "amount": -7.7, "direction": (0.3, -2.0), "edge": "wrap"},
    "out of the picture": {"kind": "translate", "amount": 30.0, "edge": "fill", "fill": 0.25},
    "turn": {"kind": "rotate", "amount": 25.0},
    "turn, filled": {"kind": "rotate", "amount": -80.0, "edge": "fill", "start": -1.0},
    "turn, wrapped": {"kind": "rotate", "amount": 50.0, "edge": "wrap"},
    "grow": {"kind": "scale", "amount": 1.6},
    "shrink": {"kind": "scale", "amount": 0.4, "start": -0.5, "end": 2.0},
    "window": {"kind": "rotate", "amount": 30.0, "window": (2, 3, 4, 5)},
    "brighten": {"kind": "brightness", "amount": 0.3},
}


def seen(path, t):
    return path.at(torch.tensor([t], dtype=torch.float64))[0][0]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_tangents_are_derivatives(case):
    path = Transform(IMAGE, **case)
    t = inner_parameters(path)
    # the third derivative jumps at pixel boundaries, so two small steps instead of a higher order
    close(path.at(t)[1], by_differences(path, t, 1e-5), 3e-7)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_path_is_twice_continuously_differentiable(case):
    path = Transform(IMAGE, **case)
    assert path.knots == ()

    coarse, fine = (third_derivative(path, samples) for samples in (1001, 4001))
    assert fine < 1.5 * coarse + 1e-3  # a jump of x'' would multiply it by 4, a jump of x' by 16


def third_derivative(path, samples):
    """Largest second difference of x' over the square of the step."""
    t = torch.linspace(path.start, path.end, samples, dtype=torch.float64)
    tangents = path.at(t)[1]
    return float((tangents[2:] - 2 * tangents[1:-1] + tangents[:-2]).abs().max() / (t[1] - t[0]) ** 2)


def test_bilinear_resampling_would_have_kinks():
    class Bilinear:
        start, end = 0.0, 1.0

        def at(self, t):
            low = (3.3 * t).floor().long()
            return None, 3.3 * (IMAGE[0, 0][low + 1] - IMAGE[0, 0][low])

    assert third_derivative(Bilinear(), 4001) > 15 * third_derivative(Bilinear(), 1001)


def test_start_is_the_picture_itself_and_whole_pixels_only_move():
    close(seen(Transform(IMAGE, "translate", 3.0), 0.0), IMAGE)
    close(seen(Transform(IMAGE, "rotate", 3.0), 0.0), IMAGE)
    close(seen(Transform(IMAGE, "scale", 3.0), 0.0), IMAGE)
    close(seen(Transform(IMAGE, "brightness", 3.0), 0.0), IMAGE)
    rolled = Transform(IMAGE, "translate", 2.0, direction=(1.0, 0.0), edge="wrap")
    close(seen(rolled, 1.0), IMAGE.roll(2, 1))
    filled = Transform(IMAGE, "translate", 4.0, edge="fill", fill=-3.0)
    close(seen(filled, 1.0)[:, :, :4], torch.full((2, 9, 4), -3.0, dtype=torch.float64))
    close(seen(filled, 1.0)[:, :, 4:], IMAGE[:, :, :-4])
    mirrored = Transform(IMAGE, "translate", 2.0)
    close(seen(mirrored, 1.0)[:, :, :2], IMAGE[:, :, 1:3].flip(2))


def test_quarter_turns_are_counterclockwise():
    square = picture(3, 8, 8, seed=2)
    path = Transform(square, "rotate", 90.0, end=3.0)
    for turns in (1, 2, 3):
        close(seen(path, float(turns)), torch.rot90(square, turns, (1, 2)))


def test_twice_the_size_keeps_the_centre_and_every_second_pixel():
    path = Transform(IMAGE, "scale", 2.0)
    grown = seen(path, 1.0)
    close(grown[:, ::2, 1::2], IMAGE[:, 2:7, 3:8])
    close(seen(path, 0.5), seen(Transform(IMAGE, "scale", math.sqrt(2.0)), 1.0))


def test_a_cubic_ramp_is_reproduced_away_from_the_edges():
    x = torch.arange(40, dtype=torch.float64) / 10
    ramp = (x**3 - 2 * x).expand(3, 40)
    points, tangents = Transform(ramp, "translate", 5.0, edge="fill").at(torch.tensor([0.13]))
    moved = x - 0.065
    close(points[0, 1, 17:23], (moved**3 - 2 * moved)[17:23], 1e-8)
    close(tangents[0, 1, 17:23], (-0.5 * (3 * moved**2 - 2))[17:23], 1e-7)


@pytest.mark.parametrize("edge", ["mirror", "wrap", "fill"])
def test_resampling_agrees_with_forward_differentiation(edge):
    field = Field(IMAGE, edge, 0.5)
    y, x = 20 * picture(2, 5, seed=3) - 5, 20 * picture(2, 4, seed=4) - 5
    y_speed, x_speed = picture(2, 5, seed=5), picture(2, 4, seed=6)
    values, slopes = along_axes(field, y, x, y_speed, x_speed)
    still = torch.zeros_like(y), torch.zeros_like(x)
    moved = jvp(lambda a, b: along_axes(field, a, b, *still)[0], (y, x), (y_speed, x_speed))
    close(values, moved[0])
    close(slopes, moved[1])
    grids = [v[:, :, None].expand(2, 5, 4) for v in (y, y_speed)] + [v[:, None].expand(2, 5, 4) for v in (x, x_speed)]
    scattered = anywhere(field, grids[0], grids[2], grids[1], grids[3])
    close(scattered[0], values)
    close(scattered[1], slopes)


def test_agrees_with_scipy_between_pixels():
    from scipy.ndimage import affine_transform

    angle = math.radians(17.0)
    matrix = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    for edge, mode in (("mirror", "mirror"), ("wrap", "grid-wrap")):
        centre = torch.tensor([4.0, 5.0], dtype=torch.float64)
        offset = centre - torch.tensor(matrix, dtype=torch.float64) @ centre
        truth = affine_transform(IMAGE[0].numpy(), matrix, offset.numpy(), order=3, mode=mode)
        path = Transform(IMAGE, "rotate", 17.0, edge=edge)
        close(seen(path, 1.0)[0], torch.from_numpy(truth), 1e-10)


def test_window_looks_at_a_part_of_a_larger_picture():
    path = Transform(IMAGE, "translate", -3.0, window=(2, 1, 4, 5))
    close(seen(path, 0.0), IMAGE[:, 2:6, 1:6])
    close(seen(path, 1.0), IMAGE[:, 2:6, 4:9])
    outside = Transform(IMAGE, "translate", -3.0, window=(-2, -2, 13, 15), edge="fill", fill=7.0)
    assert float((seen(outside, 0.0)[:, 0] - 7.0).abs().max()) < 1e-12
    close(seen(outside, 0.0)[:, 2:11, 2:13], IMAGE)


def test_any_number_of_leading_axes_and_single_rows():
    single = Transform(IMAGE[0], "rotate", 10.0)
    close(seen(single, 0.7), seen(Transform(IMAGE, "rotate", 10.0), 0.7)[0])
    row = Transform(IMAGE[:, :1], "translate", 2.0)
    close(seen(row, 1.0)[:, 0, 2:], IMAGE[:, 0, :-2])
    close(seen(Transform(IMAGE[None], "scale", 2.0), 0.3)[0], seen(Transform(IMAGE, "scale", 2.0), 0.3))
    vector = Transform(torch.ones(3), "brightness", 3.0)
    close(seen(vector, 0.5), torch.full((3,), 2.0, dtype=torch.float64))


def test_long_calls_are_made_in_parts(monkeypatch):
    path = Transform(IMAGE, "rotate", 40.0)
    t = inner_parameters(path, 13)
    whole = path.at(t)
    monkeypatch.setattr("assay.smoothness.paths.transform._AT_ONCE", 5 * IMAGE.numel())
    for first, second in zip(whole, path.at(t), strict=True):
        assert torch.equal(first, second)


MISTAKES = {
    "kind": ((IMAGE, "shear"), {}, UsageError, "shear"),
    "edge": ((IMAGE, "rotate"), {"edge": "nearest"}, UsageError, "nearest"),
    "standing still": ((IMAGE, "translate", 0.0), {}, UsageError, "changes nothing"),
    "same size": ((IMAGE, "scale"), {}, UsageError, "changes nothing"),
    "turned inside out": ((IMAGE, "scale", -2.0), {}, UsageError, "positive"),
    "amount": ((IMAGE, "rotate", math.nan), {}, UsageError, "finite"),
    "amount of text": ((IMAGE, "rotate", "far"), {}, UsageError, "no number"),
    "nowhere": ((IMAGE, "translate"), {"direction": (0.0, 0.0)}, UsageError, "nowhere"),
    "three directions": ((IMAGE, "translate"), {"direction": (1.0, 0.0, 0.0)}, UsageError, "nowhere"),
    "bytes": ((torch.zeros(3, 3, dtype=torch.uint8), "rotate"), {}, SubjectError, "255"),
    "no rows": ((torch.zeros(3), "rotate"), {}, SubjectError, "axes"),
    "NaN": ((IMAGE + math.nan, "rotate"), {}, SubjectError, "NaN"),
    "window": ((IMAGE, "rotate"), {"window": (0, 0, 0, 3)}, UsageError, "rectangle"),
    "half a window": ((IMAGE, "rotate"), {"window": (0, 0.5, 2, 3)}, UsageError, "rectangle"),
    "times": ((IMAGE, "rotate"), {"start": 1.0, "end": 0.0}, UsageError, "no length"),
}


@pytest.mark.parametrize(("arguments", "options", "error", "words"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(arguments, options, error, words):
    with pytest.raises(error, match=words):
        Transform(*arguments, **options)
