"""Capture of every kind of model: the graph equals it at any batch size."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.support.inputs import Calls, calls, seeded
from torch import Tensor, nn

from assay.graph import OPERATORS, Graph, capture, evaluate
from assay.graph.functional import without_mutation


def equal(
    model: nn.Module, *shape: int, dtype: torch.dtype = torch.float32, batches: tuple[int, ...] = (1, 5)
) -> Graph:
    """Capture on two samples and compare with the model on other batches."""
    generator = torch.Generator().manual_seed(0)
    graph = capture(model, torch.randn(2, *shape, generator=generator).to(dtype))
    tolerance = {torch.float64: 1e-12, torch.bfloat16: 2e-2}.get(dtype, 1e-5)
    for batch in batches:
        x = torch.randn(batch, *shape, generator=generator).to(dtype)
        with torch.no_grad():
            torch.testing.assert_close(evaluate(graph, x.clone()), model(x.clone()), rtol=tolerance, atol=tolerance)
    return graph


def operators(graph: Graph) -> list[str]:
    return [node.label for node in graph.layers]


# Models that can: the graph equals them at other batch sizes.


def test_a_shared_module_becomes_two_nodes_of_one_path():
    model = calls(lambda self, x: self.layer(torch.relu(self.layer(x))), layer=nn.Linear(3, 3))
    graph = equal(model, 3)
    layers = [node for node in graph.layers if node.op == "linear"]
    assert [node.module_path for node in layers] == ["layer", "layer"]
    assert layers[0].name != layers[1].name
    assert layers[0].inputs[1] == layers[1].inputs[1]


def test_tied_weights_are_one_parameter():
    model = calls(lambda self, x: self.second(self.first(x)), first=nn.Linear(3, 3), second=nn.Linear(3, 3))
    model.second.weight = model.first.weight
    graph = equal(model, 3)
    weights = [graph.parameters[node.inputs[1] or ""] for node in graph.layers]
    assert torch.equal(weights[0], weights[1])
    assert {graph.parameter_names[node.inputs[1] or ""] for node in graph.layers} == {"first.weight"}


def relu_after_use(self: Any, x: Tensor) -> Tensor:
    x = self.layer(x)
    doubled = x * 2
    x.relu_()
    return doubled + x


def relu_before_use(self: Any, x: Tensor) -> Tensor:
    x = self.layer(x)
    y = x.relu_()
    return y + 10 * x  # x has changed too


def chained(self: Any, x: Tensor) -> Tensor:
    x = self.layer(x)
    y = x.relu_()
    y.add_(1)
    x.mul_(3)
    return y - 0.5 * x


def view_taken_before(self: Any, x: Tensor) -> Tensor:
    x = self.layer(x)
    view = x.view(-1, 3, 1)
    x.relu_()
    return view.sum(2) + x


def view_of_the_result(self: Any, x: Tensor) -> Tensor:
    x = self.layer(x)
    y = x.relu_()
    view = x[:, :2]
    y.add_(1)
    return F.pad(view, (0, 1)) + y


def write_to_a_part(self: Any, x: Tensor) -> Tensor:
    y = self.layer(x)
    y[:, 1] = 0.5
    y[:, 2] += x[:, 0]
    return y


def write_to_the_input(self: Any, x: Tensor) -> Tensor:
    x.mul_(2)
    return x + 1


def dropout_in_place(self: Any, x: Tensor) -> Tensor:
    y = F.dropout(x, 0.5, training=False, inplace=True)
    return F.relu(self.layer(F.dropout(y, 0.5, training=False)), inplace=True)


def residual_in_place(self: Any, x: Tensor) -> Tensor:
    x = F.relu(self.layer(x), inplace=True)
    skip = x
    x = self.layer(x)
    x += skip
    return F.relu(x, inplace=True)


def promoted(self: Any, x: Tensor) -> Tensor:
    y = self.layer(x)
    y.add_(torch.ones(3, dtype=torch.float64))
    return y


IN_PLACE = [
    relu_after_use,
    relu_before_use,
    chained,
    view_taken_before,
    view_of_the_result,
    write_to_a_part,
    write_to_the_input,
    dropout_in_place,
    residual_in_place,
    promoted,
]


@pytest.mark.parametrize("forward", IN_PLACE, ids=lambda forward: forward.__name__)
def test_in_place_calls(forward: Callable[..., Any]):
    model = calls(forward, layer=nn.Linear(3, 3))
    graph = equal(model, 3)
    assert not any(node.label.split(".")[1].endswith("_") for node in graph.layers if node.op == "opaque")


@pytest.mark.parametrize("forward", IN_PLACE, ids=lambda forward: forward.__name__)
def test_in_place_calls_are_renamed_only_where_memory_is_not_shared(forward: Callable[..., Any]):
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    model = calls(forward, layer=nn.Linear(3, 3))
    exported = torch.export.export(model, (torch.randn(2, 3),), strict=False, dynamic_shapes=(batch,))
    simple = {relu_after_use, relu_before_use, chained, dropout_in_place, residual_in_place}
    assert without_mutation(exported) == (forward in simple)
    if forward in simple:
        x = torch.randn(2, 3)
        with torch.no_grad():
            torch.testing.assert_close(exported.module()(x.clone()), model(x.clone()))


def several_pieces(self: Any, x: Tensor) -> Tensor:
    a, b, c = x.chunk(3, 1)
    d, e = x.split([2, 4], 1)
    first, second = torch.stack([a, b, c], 2).unbind(-2)
    return torch.cat([first * second[:, :1], d, e.flip(1)], 1).unsqueeze(1).squeeze(1)


FUNCTIONAL: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "pieces": (several_pieces, (6,)),
    "flatten": (lambda self, x: x.flatten(1).reshape(x.shape[0], -1, 2).transpose(1, 2), (3, 4)),
    "squeeze": (lambda self, x: x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1), (3, 4, 4)),
    "slices": (lambda self, x: x[:, 1:, ::2] + x[:, :-1, 1::2] - x[:, -1:, -1:], (3, 4)),
    "select": (lambda self, x: x[:, 0] * x[:, -1], (3, 4)),
    "index by constants": (lambda self, x: x[:, [2, 0, 1, 0]], (3,)),
    "index by a buffer": (lambda self, x: x[:, self.order].sum(1), (3, 4)),
    "gather": (lambda self, x: torch.gather(x, 1, torch.tensor([[0, 2]]).expand(x.shape[0], 2)), (3,)),
    "index_select": (lambda self, x: x.index_select(1, torch.tensor([1, 1, 0])), (3, 4)),
    "batch in a shape": (lambda self, x: (x.reshape(x.shape[0] * 3, 4) + 1).reshape(-1, 12), (3, 4)),
    "windows": (lambda self, x: x.unfold(1, 2, 1).reshape(x.shape[0], -1), (4,)),
    "einsum": (lambda self, x: torch.einsum("bij,bkj->bik", x, x), (3, 4)),
    "arange": (lambda self, x: x + torch.arange(3, device=x.device) * torch.zeros(1).add(2), (3,)),
    "zeros": (lambda self, x: torch.cat([x, torch.zeros(x.shape[0], 2)], 1) + x.new_ones(5), (3,)),
    "zeros_like": (lambda self, x: torch.maximum(x, torch.zeros_like(x)), (3,)),
    "mask": (lambda self, x: x.masked_fill(torch.ones(3, 3).triu(1).bool(), 0.0), (3, 3)),
    "where": (lambda self, x: torch.where(x > 0, x, 0.1 * x), (3,)),
    "norm": (lambda self, x: F.normalize(x, dim=1), (3,)),
    "functional layers": (lambda self, x: F.linear(F.conv1d(x, self.weight, padding=1), self.matrix), (2, 4)),
    "cast": (lambda self, x: (x.double().exp().float() + x.to(torch.float32)).type_as(x), (3,)),
    "reductions": (lambda self, x: x.mean(-1) + x.sum(-1) + x.amax(-1) + x.var(-1) + x.max(-1).values, (3, 4)),
    "powers": (lambda self, x: x**2 + (x.abs() + 1).sqrt() + 2**x + 1 / (1 + x * x) - x.neg(), (3,)),
    "scalars": (lambda self, x: 1 - (2 * x - 3) / 4 + torch.rsub(x, 5), (3,)),
    "instance norm": (lambda self, x: F.instance_norm(x), (3, 5)),
    "fused": (lambda self, x: torch.addmm(self.matrix[0, :2], x, self.matrix.t()[:3, :2], beta=0.5, alpha=2.0), (3,)),
    "outside grad": (lambda self, x: x + torch.no_grad()(lambda: (x * 2).detach())(), (3,)),
    "return the input": (lambda self, x: x, (3,)),
}


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_functional_calls(name: str):
    forward, shape = FUNCTIONAL[name]
    layers = {"weight": nn.Parameter(torch.randn(2, 2, 3)), "matrix": nn.Parameter(torch.randn(3, 4))}
    graph = equal(calls(forward, **layers, order=torch.tensor([2, 0])), *shape)
    assert all(node.op in OPERATORS or node.op in ("input", "parameter") for node in graph)


def test_einsum_stays_whole():
    assert "aten.einsum.default" in operators(equal(calls(FUNCTIONAL["einsum"][0]), 3, 4))


def test_what_depends_on_nothing_is_a_constant():
    graph = equal(calls(FUNCTIONAL["arange"][0]), 3)
    assert operators(graph) == ["add"]
    constant = graph.parameters[graph.layers[0].inputs[1] or ""]
    assert constant.tolist() == [0.0, 2.0, 4.0]


def test_what_depends_on_parameters_stays_computed():
    model = calls(lambda self, x: x @ (self.matrix * 2), matrix=nn.Parameter(torch.randn(3, 4)))
    graph = equal(model, 3)
    x = torch.randn(2, 3)
    name = next(node for node, parameter in graph.parameter_names.items() if parameter == "matrix")
    changed = evaluate(graph, x, parameters={name: torch.ones(3, 4)})
    torch.testing.assert_close(changed, x @ torch.full((3, 4), 2.0))


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(2, 4, 3, stride=2, padding=1, groups=2, bias=False), (2, 9)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, padding="same"), (2, 4, 4, 4)),
    "conv, reflected": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 5, 5)),
    "conv, circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 5, 5)),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(2, 4, 3, stride=2, output_padding=1), (2, 5)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(4, 2, 3, dilation=2, groups=2, bias=False), (4, 5, 5)),
    "conv_transpose3d": (lambda: nn.ConvTranspose3d(2, 2, 2), (2, 3, 3, 3)),
    "linear without bias": (lambda: nn.Linear(3, 4, bias=False), (5, 3)),
    "bilinear": (lambda: calls(lambda self, x: self.layer(x, x), layer=nn.Bilinear(3, 3, 2)), (3,)),
    "max_pool, ceil_mode": (lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True), (2, 6, 6)),
    "max_pool with indices": (lambda: calls(lambda self, x: F.max_pool2d(x, 2, return_indices=True)[0]), (2, 6, 6)),
    "avg_pool, ceil_mode": (lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), (2, 6, 6)),
    "avg_pool1d": (lambda: nn.AvgPool1d(3, 2, ceil_mode=True), (2, 8)),
    "max_pool3d": (lambda: nn.MaxPool3d(2), (2, 4, 4, 4)),
    "adaptive pools": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d((3, None)), nn.AdaptiveMaxPool2d(2)), (2, 7, 5)),
    "lp_pool": (lambda: nn.LPPool2d(2, 2), (2, 4, 4)),
    "batch_norm1d": (lambda: nn.BatchNorm1d(3, affine=False), (3,)),
    "batch_norm3d": (lambda: nn.BatchNorm3d(3), (3, 2, 2, 2)),
    "group_norm": (lambda: nn.GroupNorm(2, 4), (4, 3, 3)),
    "instance_norm": (lambda: nn.InstanceNorm2d(4, affine=True), (4, 3, 3)),
    "instance_norm, running": (lambda: nn.InstanceNorm1d(4, track_running_stats=True), (4, 6)),
    "layer_norm": (lambda: nn.LayerNorm((3, 4), elementwise_affine=False), (3, 4)),
    "rms_norm": (lambda: nn.RMSNorm(4), (3, 4)),
    "local response": (lambda: nn.LocalResponseNorm(2), (4, 3, 3)),
    "upsample": (lambda: nn.Sequential(nn.Upsample(scale_factor=1.5), nn.Upsample((7, 9), mode="bilinear")), (2, 4, 5)),
    "upsample by a factor": (lambda: nn.Upsample(scale_factor=1.5, mode="bilinear", align_corners=False), (2, 5, 5)),
    "bicubic": (lambda: nn.Upsample(scale_factor=2, mode="bicubic"), (2, 4, 4)),
    "pixel_shuffle": (lambda: nn.Sequential(nn.PixelShuffle(2), nn.ChannelShuffle(2), nn.ZeroPad2d(1)), (8, 3, 3)),
    "attention, sequence first": (
        lambda: calls(
            lambda self, x: self.layer(*(x.transpose(0, 1),) * 3, need_weights=False)[0].transpose(0, 1),
            layer=nn.MultiheadAttention(8, 2),
        ),
        (5, 8),
    ),
    "attention with weights": (
        lambda: calls(lambda self, x: self.layer(x, x, x)[0], layer=nn.MultiheadAttention(8, 2, batch_first=True)),
        (5, 8),
    ),
    "transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True), (5, 8)),
    "activations": (
        lambda: nn.Sequential(
            *(nn.ReLU6(), nn.ELU(), nn.SELU(), nn.CELU(0.7), nn.GELU("tanh"), nn.SiLU(), nn.Mish(), nn.Softplus(2, 3)),
            *(
                nn.Hardswish(),
                nn.Hardsigmoid(),
                nn.Hardtanh(-2, 1),
                nn.PReLU(3),
                nn.LeakyReLU(0.2),
                nn.Tanh(),
                nn.LogSigmoid(),
            ),
            *(
                nn.Softsign(),
                nn.Tanhshrink(),
                nn.Hardshrink(),
                nn.Softshrink(),
                nn.Threshold(0.1, 2),
                nn.RReLU(),
                nn.Softmin(1),
            ),
        ),
        (3, 4),
    ),
    "glu": (lambda: nn.GLU(1), (4,)),
    "dropout": (lambda: nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.AlphaDropout(), nn.Linear(3, 2)), (3,)),
    "lstm": (lambda: calls(lambda self, x: self.layer(x)[0][:, -1], layer=nn.LSTM(3, 4, 2, batch_first=True)), (5, 3)),
    "gru": (lambda: calls(lambda self, x: self.layer(x)[1][0], layer=nn.GRU(3, 4, batch_first=True)), (5, 3)),
    "embedding of rounded data": (
        lambda: calls(lambda self, x: self.layer(x.round().clamp(0, 4).long()).mean(1), layer=nn.Embedding(5, 3)),
        (4,),
    ),
    "weight_norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), (3,)),
    "spectral_norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)), (3,)),
    "old spectral_norm": (lambda: nn.utils.spectral_norm(nn.Linear(3, 4)), (3,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str):
    make, shape = LAYERS[name]
    equal(seeded(make), *shape)


def test_old_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = seeded(lambda: nn.Sequential(nn.utils.weight_norm(nn.Conv1d(2, 3, 3)), nn.ReLU()))
    graph = equal(model, 2, 5)
    assert {"0.weight_g", "0.weight_v"} <= set(graph.parameter_names.values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_number_formats(dtype: torch.dtype):
    model = calls(lambda self, x: self.norm(self.layer(x) * 0.3 + 1), layer=nn.Conv1d(2, 4, 3), norm=nn.BatchNorm1d(4))
    graph = equal(model.to(dtype), 2, 6, dtype=dtype)
    assert graph[graph.output].spec.dtype == dtype


def test_integers_in():
    model = seeded(lambda: nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 2)))
    tokens = torch.tensor([[0, 3, 6], [1, 1, 2], [5, 4, 0]])
    graph = capture(model, tokens)
    with torch.no_grad():
        torch.testing.assert_close(evaluate(graph, tokens), model(tokens))


def test_an_example_of_one_sample():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)))
    graph = capture(model, torch.randn(1, 1, 4, 4))
    x = torch.randn(4, 1, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(evaluate(graph, x), model(x))


def test_nodes_say_where_they_come_from():
    inner = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    graph = equal(calls(lambda self, x: self.body(x) + x, body=inner), 3)
    assert [node.module_path for node in graph.layers] == ["body.0", "body.1", ""]
    assert inspect.getfile(Calls) in graph.layers[-1].source  # where the forward pass is written
    stripped = capture(nn.Sequential(inner).eval(), torch.randn(2, 3), strip="0.")
    assert [node.module_path for node in stripped.layers] == ["0", "1"]
