import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from tests.support.inputs import Function, close, numbers
from torch import nn

from assay.certified.prepared import bound_graph
from assay.errors import UnsupportedOperator, UsageError
from assay.graph import evaluate
from assay.smoothness.remedies import changeable, rewritten, softened_height
from assay.smoothness.remedies.softening import softened


def changed(model, x, change, sharpness=1.0, names=None):
    return evaluate(rewritten(bound_graph(model, x), change, sharpness, names), x)


POOLS = {
    "2": {"kernel_size": 2},
    "3, stride 2, padded": {"kernel_size": 3, "stride": 2, "padding": 1},
    "3, stride 2, cut at the end": {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    "2 by 3": {"kernel_size": (2, 3), "stride": (1, 2), "padding": (1, 1)},
    "4": {"kernel_size": 4, "stride": 3, "ceil_mode": True},
}


def pooling(**options):
    return nn.Sequential(nn.Conv2d(1, 3, 1), nn.MaxPool2d(**options), nn.Flatten()).double()


@pytest.mark.parametrize("options", POOLS.values(), ids=POOLS)
def test_average_takes_the_same_windows(options):
    model, x = pooling(**options), numbers(2, 1, 9, 10)
    expected = F.avg_pool2d(model[0](x), **options, count_include_pad=False).flatten(1)
    close(changed(model, x, "average"), expected.detach())


@pytest.mark.parametrize("options", POOLS.values(), ids=POOLS)
def test_blur_keeps_constants_everywhere_and_ramps_inside(options):
    model = pooling(**options)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.zero_()
    constant = torch.full((1, 1, 9, 10), 2.5, dtype=torch.float64)
    close(changed(model, constant, "blur"), torch.full_like(model(constant), 2.5).detach())

    ramp = (torch.arange(9.0)[:, None] + 10 * torch.arange(10.0)).double()[None, None]
    found = changed(model, ramp, "blur").reshape(1, 3, *F.max_pool2d(ramp, **options).shape[2:])
    kernel, stride, padding = (
        (v, v) if isinstance(v, int) else v
        for v in (options["kernel_size"], options.get("stride", options["kernel_size"]), options.get("padding", 0))
    )
    inside = 0
    for i, j in itertools.product(*map(range, found.shape[2:])):  # inside, the value at the centre of the window
        centre = [place * s - p + (k - 1) / 2 for place, s, p, k in zip((i, j), stride, padding, kernel, strict=True)]
        if all(1.5 <= c <= size - 2.5 for c, size in zip(centre, (9, 10), strict=True)):
            close(found[0, :, i, j], torch.full((3,), centre[0] + 10 * centre[1], dtype=torch.float64))
            inside += 1
    assert inside > 0


def test_blur_is_a_binomial_filter_at_the_stride_of_the_pool():
    model, x = pooling(kernel_size=3, stride=2), numbers(2, 1, 9, 9)
    taps = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
    weight = torch.outer(taps, taps).expand(3, 1, 3, 3)
    close(changed(model, x, "blur"), F.conv2d(model[0](x), weight, stride=2, groups=3).flatten(1).detach())
    line = nn.Sequential(nn.Conv1d(1, 2, 1), nn.MaxPool1d(2), nn.Flatten()).double()
    signal = numbers(1, 1, 8)
    value = line[0](signal)[:, :, 1:5] @ torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
    close(changed(line, signal, "blur").reshape(1, 2, 4)[:, :, 1], value.detach())


def test_maxima_without_windows_become_means():
    x = numbers(2, 3, 6, 6)
    adaptive = nn.Sequential(nn.AdaptiveMaxPool2d(2), nn.Flatten())
    close(changed(adaptive, x, "average"), F.adaptive_avg_pool2d(x, 2).flatten(1))
    overall = Function(lambda v: v.amax((2, 3)))
    close(changed(overall, x, "average"), x.mean((2, 3)))
    with pytest.raises(UnsupportedOperator, match="windows"):
        changed(overall, x, "blur")


SOFT = {"softplus": lambda z, b: F.softplus(b * z, threshold=1e9) / b, "silu": lambda z, b: z * torch.sigmoid(b * z)}


@pytest.mark.parametrize("change", SOFT)
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 12.0])
def test_thresholds_become_smooth_functions(change, sharpness):
    x, soft = 4 * numbers(5, 3, 4), SOFT[change]

    def s(z):
        return soft(z, sharpness)

    slopes = torch.tensor([0.1, -0.3, 0.5], dtype=torch.float64)
    prelu = nn.PReLU(3).double()
    prelu.weight.data.copy_(slopes)
    a = slopes[:, None]
    cases = (
        (nn.ReLU(), s(x)),
        (nn.LeakyReLU(0.2), 0.2 * x + 0.8 * s(x)),
        (prelu, a * x + (1 - a) * s(x)),
        (nn.ReLU6(), s(x) - s(x - 6)),
        (nn.Hardtanh(-1.0, 2.0), -1 + s(x + 1) - s(x - 2)),
        (Function(lambda v: v.clamp(min=0.5)), 0.5 + s(x - 0.5)),
        (Function(lambda v: v.clamp(max=0.5)), x - s(x - 0.5)),
    )
    for layer, expected in cases:
        close(changed(nn.Sequential(layer, nn.Flatten()), x, change, sharpness), expected.flatten(1))


@pytest.mark.parametrize(("change", "most"), [("softplus", math.log(2)), ("silu", 0.2785)])
@pytest.mark.parametrize("slope", [-0.5, 0.3])
def test_sharper_functions_come_closer(change, most, slope):
    x, model = torch.linspace(-9, 9, 3601, dtype=torch.float64)[:, None], nn.LeakyReLU(slope)
    graph = bound_graph(model, x)
    for sharpness in (0.5, 1.0, 7.0, 200.0, 1e4):
        distance = (evaluate(rewritten(graph, change, sharpness), x) - model(x)).abs().max()
        assert float(distance) <= 1.001 * (1 - slope) * most / sharpness
        assert sharpness > 10 or float(distance) >= 0.99 * (1 - slope) * most / sharpness


def test_only_what_was_named_is_replaced_and_weights_stay():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU()).double(), numbers(5, 3)
    graph = bound_graph(model, x)
    first, second = changeable(graph, "silu")
    hidden = F.silu(model[0](x))
    close(changed(model, x, "silu", 1.0, {first.name}), torch.relu(model[2](hidden)).detach())
    close(changed(model, x, "silu", 1.0, {second.name}), F.silu(model[2](torch.relu(model[0](x)))).detach())
    close(evaluate(graph, x), model(x).detach())
    assert changeable(graph, "blur") == ()


def test_what_cannot_be_replaced_is_refused():
    x = numbers(1, 2, 8, 8)
    with pytest.raises(UsageError, match="max pool"):
        changed(nn.Sequential(nn.ReLU(), nn.Flatten()), x, "blur")
    with pytest.raises(UsageError, match="sharpness"):
        changed(nn.Sequential(nn.ReLU(), nn.Flatten()), x, "silu", 0.0)
    for change in ("average", "blur"):
        with pytest.raises(UnsupportedOperator, match="holes"):
            changed(nn.Sequential(nn.MaxPool2d(2, dilation=2), nn.Flatten()), x, change)


def test_height_of_a_softened_kink():
    known = {0.2: 0.049917, 1.0: 0.240229, 10.0: 0.861380}  # (2 / bh) log cosh(bh / 2)
    for bh, height in known.items():
        assert float(softened_height(bh / 0.1, 0.1)) == pytest.approx(height, abs=1e-6)
    b, h = torch.logspace(-3, 4, 30, dtype=torch.float64), 0.07
    for kind, soft in SOFT.items():
        zero = torch.zeros_like(b)
        direct = (soft(zero + h, b) - 2 * soft(zero, b) + soft(zero - h, b)) / h
        close(softened_height(b, h, kind), direct, 1e-9)
        assert bool((softened_height(b, h, kind).diff() > -1e-15).all())
    assert float(softened_height(0.0, h)) == 0.0


@pytest.mark.parametrize("kind", SOFT)
def test_softened_tracks(kind):
    t = torch.linspace(0, 1, 41, dtype=torch.float64)
    places, jumps = torch.tensor([0.2, 0.61], dtype=torch.float64), numbers(2, 3)
    b = torch.tensor([7.0, 300.0], dtype=torch.float64)
    sharp = torch.relu(t[:, None] - places) @ jumps
    soft = SOFT[kind](t[:, None] - places, b) @ jumps
    close(sharp + softened(t, places, jumps, b, kind), soft)
    assert not bool(softened(t, places[:0], jumps[:0], b[:0], kind).any())
