"""Simulated precision against the golden network, plain Python loops, and the bounds of the error analysis."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from tests.support.inputs import Calls, calls, close, numbers, seeded
from tests.support.networks import digits, trained_mlp
from torch import Tensor, nn

from assay.errors import NumericalError, SubjectError, UsageError
from assay.graph import OPERATORS, Node, TensorSpec
from assay.sensitivity.roundoff import (
    FORMATS,
    Accumulation,
    IntegerFormat,
    Precision,
    Simulator,
    calibrate,
    calibrated,
    layer_exponent_bits,
    precision,
    prepared_graph,
    simulate,
    summation,
)
from assay.subject import Subject

T4 = precision(4)
KINDS = {
    "sequential": Accumulation("sequential", T4),
    "pairwise": Accumulation("pairwise", T4),
    "blocked": Accumulation("blocked", T4, block=3),
    "mixed": Accumulation("mixed", precision(6), low=precision(3)),
}


def golden() -> nn.Sequential:
    """The 4-5-3 network whose weights are sines of squares, in double precision."""

    def sines(first: int, last: int, *shape: int) -> Tensor:
        return torch.tensor([math.sin(m * m) for m in range(first, last + 1)], dtype=torch.float64).reshape(shape)

    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double().requires_grad_(False)
    network[0].weight.data, network[2].weight.data = sines(1, 20, 5, 4), sines(21, 35, 3, 5)
    network[0].bias.data, network[2].bias.data = sines(36, 40, 5) / 4 + 1, sines(41, 43, 3) / 4
    return network.eval()


POINT = torch.tensor([[0.25, 0.5, 0.75, 1.0]], dtype=torch.float64)


def test_golden_network() -> None:
    exact = simulate(golden(), POINT, Precision())
    close(exact, torch.tensor([[1.636317330372322, -1.3687648075014123, 0.373745709937538]], dtype=torch.float64))
    found = simulate(golden(), POINT, Precision.uniform("t8"))
    assert found.tolist() == [[1.6328125, -1.3671875, 0.373046875]]


def rounded(value: float, t: int) -> float:
    if value == 0:
        return 0.0
    quantum = 2.0 ** (math.frexp(value)[1] - t)
    return round(value / quantum) * quantum


def summed(products: list[float], kind: str, t: int) -> float:
    """An inner product's rounded products, added in an order."""
    if kind == "pairwise":
        while len(products) > 1:  # a power of two of terms, then what is left over
            pairs = [rounded(a + b, t) for a, b in zip(products[::2], products[1::2], strict=False)]
            products = pairs + products[2 * len(pairs) :]
        return products[0]
    size = 3 if kind == "blocked" else len(products)
    blocks = [products[i : i + size] for i in range(0, len(products), size)]
    sums = []
    for block in blocks:
        total = block[0]
        for product in block[1:]:
            total = rounded(total + product, t)
        sums.append(total)
    total = sums[0]
    for part in sums[1:]:
        total = rounded(total + part, t)
    return total


def inner(weights: list[float], values: list[float], bias: float, kind: str) -> float:
    t = 6 if kind == "mixed" else 4
    if kind == "mixed":
        weights, values = [rounded(w, 3) for w in weights], [rounded(v, 3) for v in values]
    return rounded(summed([rounded(w * v, t) for w, v in zip(weights, values, strict=True)], kind, t) + bias, t)


@pytest.mark.parametrize("kind", KINDS)
def test_dense_layer_is_summed_term_by_term(kind: str) -> None:
    layer = seeded(lambda: nn.Linear(8 if kind == "pairwise" else 11, 3).double().requires_grad_(False))
    x = numbers(4, layer.in_features)
    found = simulate(layer, x, Precision(accumulation=KINDS[kind]))
    for b, o in itertools.product(range(4), range(3)):
        row = layer.weight[o].tolist()
        assert found[b, o] == inner(row, x[b].tolist(), float(layer.bias[o]), kind)


def patches(x: Tensor, kernel: Tensor, place: tuple[int, ...], group: int, layer: nn.Module) -> list[float]:
    """What one output element of a convolution reads, in the order of its kernel; padding is 0."""
    found = []
    for c, *offset in itertools.product(*(range(size) for size in kernel.shape)):
        at = [p * s + o * d - q for p, s, o, d, q in zip(place, layer.stride, offset, layer.dilation, layer.padding, strict=True)]  # fmt: skip  # noqa: E501
        inside = all(0 <= i < size for i, size in zip(at, x.shape[1:], strict=True))
        found.append(float(x[(group * kernel.shape[0] + c, *at)]) if inside else 0.0)
    return found


@pytest.mark.parametrize("kind", ["sequential", "blocked", "mixed"])
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(2, 4, 3, padding=1),
        lambda: nn.Conv2d(4, 4, 3, stride=2, padding=(1, 2), groups=2, dilation=(1, 2)),
        lambda: nn.Conv2d(3, 3, 2, groups=3, bias=False),
        lambda: nn.Conv1d(2, 3, 3, stride=2, padding=2),
        lambda: nn.Conv3d(1, 2, 2),
    ],
)
def test_convolution_is_summed_term_by_term(
    make: Callable[[], nn.Module], small: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small:
        monkeypatch.setattr(summation, "CHUNK", 10)
    conv = seeded(lambda: make().double().requires_grad_(False))
    dims = conv.weight.dim() - 2
    model = nn.Sequential(conv, nn.Flatten())
    x = numbers(2, conv.in_channels, *(5, 4, 3)[:dims])
    shape = conv(x).shape
    found = simulate(model, x, Precision(accumulation=KINDS[kind])).reshape(shape)
    for b, o, *place in itertools.product(*(range(size) for size in shape)):
        group = o // (shape[1] // conv.groups)
        values = patches(x[b], conv.weight[o], tuple(place), group, conv)
        bias = 0.0 if conv.bias is None else float(conv.bias[o])
        assert found[(b, o, *place)] == inner(conv.weight[o].flatten().tolist(), values, bias, kind)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv same": (lambda: nn.Conv2d(2, 3, (2, 3), padding="same"), (2, 5, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2, dilation=2), (4, 5, 4)),
    "transposed gap": (lambda: nn.ConvTranspose1d(3, 2, 2, 3, 1), (3, 6)),
    "average": (lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), (2, 6, 7)),
    "average 1d": (lambda: nn.AvgPool1d(3, 2, 1), (2, 8)),
    "average 3d": (lambda: nn.AvgPool3d(2, ceil_mode=True, divisor_override=5), (2, 5, 4, 4)),
    "adaptive": (lambda: nn.AdaptiveAvgPool2d((3, 2)), (2, 7, 5)),
    "mean": (lambda: calls(lambda m, x: x.mean((1, 3), keepdim=True)), (3, 4, 5)),
    "sum": (lambda: calls(lambda m, x: x.sum(2)), (3, 4, 5)),
    "matmul": (lambda: calls(lambda m, x: x @ x.transpose(1, 2)), (3, 4)),
    "matmul weight": (lambda: calls(lambda m, x: x @ m.w, w=nn.Parameter(numbers(4, 5))), (3, 4)),
    "addmm": (
        lambda: calls(lambda m, x: torch.addmm(m.b, x, m.w), w=nn.Parameter(numbers(4, 5)), b=nn.Parameter(numbers(5))),
        (4,),
    ),
    "linear": (lambda: nn.Linear(4, 5), (3, 4)),
    "add": (lambda: calls(lambda m, x: x + 0.3 * x), (3, 4)),
    "resize": (lambda: nn.Upsample(size=(5, 7), mode="bilinear"), (2, 3, 3)),
}


def layer_and_input(name: str) -> tuple[nn.Module, Tensor]:
    make, shape = LAYERS[name]
    return nn.Sequential(seeded(lambda: make().double()), nn.Flatten()), numbers(3, *shape)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("small", [False, True])
def test_accumulation_with_many_bits_is_the_layer(name: str, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if small:
        monkeypatch.setattr(summation, "CHUNK", 7)
    model, x = layer_and_input(name)
    exact = model(x).detach()
    for kind in (
        Accumulation("sequential", precision(50)),
        Accumulation("pairwise", precision(50)),
        Accumulation("blocked", precision(50), block=4),
        Accumulation("mixed", precision(50), low=precision(50)),
    ):
        found = simulate(model, x, Precision(accumulation=kind))
        assert not torch.equal(found, exact)
        close(found, exact, 1e-13)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("t", [4, 9])
def test_error_of_inner_products_stays_below_its_constant(name: str, t: int) -> None:
    """|computed - exact| <= c(n) (|W||x| + |b|), the magnitude being the layer itself on absolute values."""
    model, x = layer_and_input(name)
    magnitude = seeded(lambda: LAYERS[name][0]().double())
    for parameter in magnitude.parameters():
        parameter.data.abs_()
    size = magnitude(x.abs()).detach().flatten(1)
    exact = model(x).detach()
    low = precision(t - 1)
    for how in (
        Accumulation("sequential", precision(t)),
        Accumulation("pairwise", precision(t)),
        Accumulation("blocked", precision(t), block=4),
        Accumulation("mixed", precision(t + 4), low=low),
    ):
        simulator = Simulator(prepared_graph(Subject.from_model(model, example=x)), Precision(accumulation=how))
        terms = sum(site.terms for site in simulator.sites)
        assert ((simulator(x) - exact).abs() <= how.constant(terms) * size + 1e-300).all()


def test_storage_rounding_is_done_where_values_are_stored() -> None:
    """Conv, folded norm, ReLU, pool, residual sum, dense: one rounding for every computed value."""

    def forward(m: Calls, x: Tensor) -> Tensor:
        z = torch.relu(m.norm(m.conv(x)))
        return m.head((z + x).mean((2, 3)))

    model = calls(forward, conv=nn.Conv2d(3, 3, 3, padding=1), norm=nn.BatchNorm2d(3), head=nn.Linear(3, 2)).double()
    model.norm.running_var = torch.tensor([0.5, 2.0, 1.3], dtype=torch.float64)
    x = numbers(4, 3, 5, 5)
    r = precision(5).round
    scale = model.norm.weight / torch.sqrt(model.norm.running_var + model.norm.eps)
    weight, bias = r(model.conv.weight * scale[:, None, None, None]), r(model.conv.bias * scale)
    z = torch.relu(r(nn.functional.conv2d(r(x), weight, bias, padding=1)))
    pooled = r(r(z + r(x)).mean((2, 3)))
    expected = r(nn.functional.linear(pooled, r(model.head.weight), r(model.head.bias)))
    assert torch.equal(simulate(model, x, Precision.uniform("t5")), expected)


def test_layers_have_formats_of_their_own() -> None:
    """A layer's formats replace those of the network altogether; the longest path counts."""
    model = golden()
    first, last = model[0], model[2]
    z = torch.relu(nn.functional.linear(POINT, precision(3).round(first.weight), first.bias))
    expected = precision(9).round(nn.functional.linear(z, last.weight, last.bias))
    plan = {"0": Precision(weights="t3"), "2": Precision(activations="t9")}
    assert torch.equal(simulate(model, POINT, Precision(), layers=plan), expected)
    assert torch.equal(simulate(model, POINT, Precision(weights="t2", biases="t2"), layers=plan), expected)
    nested = nn.Sequential(model, nn.Identity())
    assert torch.equal(
        simulate(nested, POINT, Precision(), layers={"0": Precision(weights="t3"), "0.2": plan["2"]}), expected
    )
    with pytest.raises(UsageError, match="nowhere"):
        simulate(model, POINT, Precision(), layers={"nowhere": Precision()})


def test_the_format_of_the_input_is_not_that_of_what_layers_read() -> None:
    model = golden()
    expected = model(precision(3).round(POINT))
    close(simulate(model, POINT, Precision(input="t3")), expected)
    hidden = precision(3).round(torch.relu(model[0](POINT)))
    close(simulate(model, POINT, Precision(), layers={"2": Precision(input="t3")}), model[2](hidden))


def test_weights_have_scales_per_output_channel() -> None:
    def forward(m: Calls, x: Tensor) -> Tensor:
        return torch.addmm(m.b, m.up(x).flatten(1), m.w)

    model = calls(
        forward, up=nn.ConvTranspose1d(3, 2, 2), w=nn.Parameter(torch.randn(8, 2)), b=nn.Parameter(torch.ones(2))
    )
    x = numbers(4, 3, 3)
    model = model.double()
    rows = IntegerFormat(3, "channel", axis=1)
    up = nn.functional.conv_transpose1d(x, rows.round(model.up.weight), model.up.bias)
    expected = torch.addmm(model.b, up.flatten(1), rows.round(model.w))
    close(simulate(model, x, Precision(weights="int3_channel")), expected)
    with pytest.raises(UsageError):
        simulate(model, x, Precision(weights="int3_sample"))


def test_batches_agree_with_single_samples() -> None:
    x = digits()[0][:6]
    network = Subject.from_model(trained_mlp(2, 16, 2), example=x)

    def one_by_one(plan: Precision, layers: dict[str, Precision] | None = None) -> Tensor:
        return torch.cat([simulate(network, row[None], plan, layers=layers) for row in x])

    for plan in (
        Precision.uniform("bf16"),
        Precision(weights="int4", activations="int6_sample", input="int6_sample"),
        Precision.uniform("t8", Accumulation("sequential", "t8")),
    ):
        together = simulate(network, x, plan)
        close(one_by_one(plan), together)  # the order of exact sums depends on the batch
        close(simulate(network, x, plan, batch_size=4), together)
    dynamic = Precision(activations="int4", input="int4")
    fixed, layers = calibrate(network, x, dynamic)
    close(one_by_one(fixed, layers), simulate(network, x, fixed, layers=layers))
    assert not torch.allclose(one_by_one(dynamic), simulate(network, x, dynamic), rtol=1e-3)


def test_calibration_takes_the_range_of_what_is_stored() -> None:
    network = copy.deepcopy(trained_mlp(2, 16, 2)).double()
    x = digits()[0][:50].double()
    chosen = Precision(activations="int8_affine", input="int8")
    fixed, layers = calibrate(network, x, chosen, batch_size=7)
    hidden = torch.relu(network[0](x))
    assert fixed.input == calibrated(IntegerFormat(8), x)
    affine = IntegerFormat(8, symmetric=False)
    names = list(layers)
    assert layers[names[0]].activations == calibrated(affine, hidden)
    assert layers[names[0]].input is None
    _, clipped = calibrate(network, x, chosen, percentile=99.0)
    assert clipped[names[0]].activations == calibrated(affine, hidden, percentile=99.0)
    reading = {"2": Precision(input="int8_channel", activations="bf16")}
    _, layers = calibrate(network, x, Precision(), layers=reading)
    assert layers[names[1]].input == calibrated(IntegerFormat(8, "channel", axis=1), hidden)
    assert layers[names[1]].activations == FORMATS["bf16"]


def test_overflow_is_an_error_with_a_place() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    model[0].weight.data.fill_(1e3)
    x = torch.full((1, 2), 1e2, dtype=torch.float64)
    with pytest.raises(NumericalError, match="fp16") as raised:
        simulate(model, x, Precision.uniform("fp16"))
    assert raised.value.where == "0 (linear)"
    found = simulate(model, x, Precision.uniform("fp16"), allow_overflow=True)
    assert not torch.isfinite(found).all()
    assert torch.isfinite(simulate(model, x, Precision.uniform("e4m3"))).all()
    with pytest.raises(SubjectError):
        simulate(model, torch.full((1, 2), math.nan, dtype=torch.float64), Precision())


def test_constants_that_are_stored_are_rounded_too() -> None:
    def forward(m: Calls, x: Tensor) -> Tensor:
        tokens = torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1) + m.place
        masked = torch.softmax(tokens @ tokens.transpose(1, 2) * 0.3 + m.mask, -1)
        return torch.clamp(masked @ tokens, -0.3, 0.3).flatten(1)

    mask = torch.zeros(3, 3).masked_fill(torch.ones(3, 3).triu(1) > 0, -torch.inf)
    token, place = nn.Parameter(numbers(1, 1, 4).float()), nn.Parameter(numbers(1, 3, 4, seed=1).float())
    model = calls(forward, token=token, place=place, mask=mask).requires_grad_(False)
    x = numbers(2, 2, 4)
    for name in ("t3", "int5"):
        p = Precision(biases=name).biases
        assert p is not None
        changed = calls(forward, token=nn.Parameter(p.round(token)), place=nn.Parameter(p.round(place)), mask=mask)
        expected = changed.double()(x)
        close(simulate(model, x.float(), Precision(biases=name)), expected.detach(), 1e-6)
    found = simulate(model, x.float(), Precision.uniform("t3"))
    assert torch.equal(precision(3).round(found), found)  # the bounds of the clip as well
    assert float(found.max()) == 0.3125


def test_weights_that_are_computed_are_rounded_when_made() -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 2).double())
    x = numbers(4, 3)
    expected = nn.functional.linear(x, precision(4).round(layer.weight), layer.bias)
    close(simulate(layer, x, Precision(weights="t4")), expected.detach())


def test_number_types_written_into_a_model_are_followed() -> None:
    model = calls(lambda m, x: m.last(m.first(x).float()), first=nn.Linear(3, 4), last=nn.Linear(4, 2))
    x = numbers(5, 3).float()
    close(simulate(model, x, Precision()), model(x).detach().double(), 1e-6)


def test_the_model_is_left_alone() -> None:
    network = trained_mlp(2, 16, 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    simulate(network, digits()[0][:3], Precision.uniform("t2", Accumulation("pairwise", "t2")))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_range_of_every_layer() -> None:
    network, x = golden(), numbers(40, 4) * 100
    found = layer_exponent_bits(network, x, 8)
    hidden = torch.relu(network[0](x))
    assert len(found) == 1 + 4 + 2
    largest = sorted(part.largest for part in found.values())
    truth = [x, hidden, network[2](hidden), *network.parameters()]
    assert largest == pytest.approx(sorted(float(value.abs().max()) for value in truth), rel=1e-12)
    parts = layer_exponent_bits(network, x, 8, batch_size=7)
    assert parts == found


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_every_operator_says_whether_it_rounds(name: str) -> None:
    """Graph of one operator on its sample inputs: it is a site with a positive fan-in, or moves values."""
    from assay.graph import BatchSize, Graph
    from assay.sensitivity.roundoff.sites import sites

    for sample in OPERATORS[name].samples(torch.Generator().manual_seed(0)):
        value = OPERATORS[name].evaluate(*sample.inputs, **sample.attributes)
        names, nodes, parameters = [], [], {}
        for place, tensor in enumerate(sample.inputs):
            names.append(None if tensor is None else f"x{place}")
            if tensor is not None:
                batched = (BatchSize(), *tensor.shape[1:]) if place == 0 else tuple(tensor.shape)
                spec = TensorSpec(batched, tensor.dtype)
                nodes.append(Node(f"x{place}", "parameter" if place else "input", (), {}, spec))
                if place:
                    parameters[f"x{place}"] = tensor
        spec = TensorSpec((BatchSize(), *value.shape[1:]), value.dtype)
        nodes.append(Node("y", name, tuple(names), sample.attributes, spec))
        found = sites(Graph(tuple(nodes), "x0", "y", parameters))
        smooth = sample.attributes.get("mode") != "nearest" and OPERATORS[name].family != "shape"
        assert bool(found) == (smooth and name not in SELECTS)
        for site in found:
            assert site.fan_in >= 1
            assert site.fan_in == (FAN_IN[name](sample.inputs, sample.attributes) if name in FAN_IN else site.fan_in)


SELECTS = frozenset(
    ["relu", "clip", "abs", "neg", "maximum", "minimum", "where", "max_pool", "adaptive_max_pool", "amax", "window"]
)

FAN_IN: dict[str, Callable[..., int]] = {
    "linear": lambda inputs, _: inputs[1].shape[1],
    "conv": lambda inputs, _: inputs[1][0].numel(),
    "batch_norm": lambda *_: 2,
    "add": lambda *_: 2,
    "mul": lambda *_: 1,
    "gelu": lambda *_: 1,
    "matmul": lambda inputs, _: inputs[0].shape[-1],
    "avg_pool": lambda _, attributes: math.prod(attributes["kernel_size"]),
    "layer_norm": lambda *_: 6,
    "group_norm": lambda *_: 8,
    "softmax": lambda *_: 6,
}


class Added(nn.Module):
    """addmm: what is added comes first, what is multiplied after it."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.weight = nn.Parameter(torch.tensor([1.0 + 2**-10])), nn.Parameter(torch.tensor([[1.0], [2.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


def test_mixed_accumulation_rounds_what_is_multiplied_and_not_what_is_added() -> None:
    how = Accumulation("mixed", FORMATS["fp32"], low=precision(4))
    x = torch.tensor([[1.0 + 2**-10, 2.0]])
    found = simulate(Added(), x, Precision(accumulation=how))
    assert float(found) == 1 + 2**-10 + 1 + 4  # x is rounded to 1, the bias is not


@pytest.mark.parametrize("n", [7, 8, 9])
def test_a_bias_after_a_tree_of_sums_is_one_rounding_more(n: int) -> None:
    torch.manual_seed(n)
    layer, how = nn.Linear(n, 40).double(), Accumulation("pairwise", precision(5))
    x = torch.randn(300, n, dtype=torch.float64)
    low = precision(5)
    layer.weight.data, layer.bias.data, x = low.round(layer.weight.data), low.round(layer.bias.data), low.round(x)
    error = (simulate(layer, x, Precision(accumulation=how)) - layer(x)).abs()
    size = x.abs() @ layer.weight.abs().T + layer.bias.abs()
    assert (error <= how.constant(n, after=1) * size).all()
    assert how.constant(n, after=1) > how.constant(n)


def test_one_format_is_a_precision() -> None:
    layer, x = nn.Linear(3, 2), numbers(4, 3).float()
    expected = simulate(layer, x, Precision.uniform("fp16"))
    assert torch.equal(simulate(layer, x, "fp16"), expected)
    with pytest.raises(UsageError, match="Unknown number format None"):
        simulate(layer, x, None)  # type: ignore[arg-type]
