"""Changes of parameters: golden numbers, per-sample derivatives against dense Jacobians, and measured responses."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.support.inputs import calls, close, numbers
from tests.support.rounded import POINT, captured, golden, tokens, trained
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from assay.errors import NumericalError, UsageError
from assay.grade import Grade
from assay.graph import capture
from assay.sensitivity.parameters import (
    Taps,
    adversarial_parameter_response,
    parameter_condition,
    random_parameter_response,
)

# --- golden numbers -------------------------------------------------------------------------------------------------


def two_layers() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)).double()
    net[0].weight.data = torch.tensor([[1.0, -1.0], [2.0, 0.0]], dtype=torch.float64)
    net[2].weight.data = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    return net.eval()


@pytest.mark.parametrize("method", ["rows", "lanczos"])
def test_golden_network(method: str):
    found = parameter_condition(golden(), POINT, method=method)  # type: ignore[arg-type]
    assert found.by_parameter[0].tolist() == pytest.approx([3.6560492415, 1.6070432076], rel=1e-9)
    assert float(found.network) == pytest.approx(3.6560492415 + 1.6070432076, rel=1e-9)
    assert found.places == ("0.weight", "2.weight")
    assert found.grade is Grade.LINEARISED
    jacobian = found.absolute[0, 0] / golden()[0].weight.double().norm()
    assert float(jacobian) == pytest.approx(2.472373569803914, rel=1e-9)


def test_two_layers_by_hand():
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    worst = parameter_condition(two_layers(), x).by_parameter
    assert worst[0].tolist() == pytest.approx([2.7386127875, 1.4142135624], rel=1e-9)
    assert parameter_condition(two_layers(), x, kind="componentwise").by_parameter.tolist() == [[1.0, 1.0]]
    rms = parameter_condition(two_layers(), x, kind="rms")
    assert rms.by_output is not None
    close(rms.by_output[0, 0], torch.tensor([2.0, 2.0], dtype=torch.float64))  # f = 2 by one path, weights 2 and 1
    assert float(rms.joint) == pytest.approx(2**0.5, rel=1e-12)


def test_spectral_ball_and_frobenius_ball_agree_because_the_worst_change_has_rank_one():
    net, x = golden(), POINT
    exact = dense_jacobians(net, x)["0.weight"][0].flatten(1)
    norm = torch.linalg.svdvals(exact)[0]
    change = torch.linalg.svd(exact).Vh[0].reshape(5, 4)
    assert int((torch.linalg.svdvals(change) > 1e-12).sum()) == 1
    scale = net[0].weight.norm()
    close(parameter_condition(net, x).absolute[0, 0], norm * scale, 1e-12)


# --- derivatives against dense Jacobians ----------------------------------------------------------------------------


def dense_jacobians(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """(B, K, *shape) of every parameter."""
    values = {name: p.detach() for name, p in net.named_parameters()}

    def outputs(given: dict[str, Tensor]) -> Tensor:
        return vmap(lambda sample: functional_call(net, given, (sample[None],))[0])(x)

    return jacrev(outputs)(values)


def everything() -> tuple[nn.Module, Tensor]:
    """Convolutions, grouped, strided and transposed, a PReLU, positions, a layer used twice, a norm, a matrix."""

    def forward(net, x: Tensor) -> Tensor:
        h = net.up(torch.tanh(net.grouped(net.bend(net.plain(x)))))
        h = h.flatten(2).transpose(1, 2)[:, :9] + net.position
        h = net.norm(net.shared(torch.tanh(net.shared(h)))).mean(1)
        return net.head(h @ net.matrix)

    net = calls(
        forward,
        plain=nn.Conv2d(2, 4, 3, padding=1),
        bend=nn.PReLU(4),
        grouped=nn.Conv2d(4, 4, 3, stride=2, groups=2, padding="valid"),
        up=nn.ConvTranspose2d(4, 4, 2, stride=2),
        shared=nn.Linear(4, 4),
        norm=nn.LayerNorm(4),
        head=nn.Linear(6, 3),
        position=nn.Parameter(0.1 * torch.randn(9, 4)),
        matrix=nn.Parameter(torch.randn(4, 6)),
    )
    return net.double(), numbers(3, 2, 7, 7)


@pytest.mark.parametrize("make", [everything, tokens], ids=["layers", "transformer"])
def test_derivatives_of_every_parameter_are_those_of_the_dense_jacobian(make):
    net, x = make()
    graph = capture(net, x[:2])
    learned = {node: name for node, name in graph.parameter_names.items() if name in dict(net.named_parameters())}
    taps = Taps(graph, x, parameters=tuple(learned))
    exact = dense_jacobians(net, x)
    seeds = torch.eye(3, dtype=torch.float64)[:, None].expand(3, len(x), 3)
    cotangents = taps.stacked_vjp(seeds)
    assert len(learned) >= 10
    for node, name in learned.items():
        truth = exact[name].transpose(0, 1)
        close(taps.parameter_gradients(node, cotangents), truth, 1e-10)
        weight = torch.rand_like(graph.parameters[node])
        for power in (1, 2):
            sums = (truth.abs().pow(power) * weight).flatten(2).sum(2)
            close(taps.contracted(node, cotangents, weight, power), sums, 1e-10)
        change = numbers(len(x), *weight.shape, seed=1)
        moved = torch.einsum("rbw,bw->br", truth.flatten(2), change.flatten(1))
        close(taps.jvp(nodes=taps.moved(node, change)), moved, 1e-10)
        together = torch.einsum("rbw,w->br", truth.flatten(2), change[0].flatten())
        close(taps.jvp(parameters={node: change[0]}), together, 1e-10)


@pytest.mark.parametrize("kind", ["worst", "rms", "componentwise"])
def test_condition_of_all_parameters_against_the_dense_jacobian(kind):
    net, x = everything()
    found = parameter_condition(net, x, kind=kind, parameters="all")
    exact, outputs = dense_jacobians(net, x), net(x).detach()
    values = dict(net.named_parameters())
    for column, place in enumerate(found.places):
        rows, weight = exact[place].flatten(2), values[place].detach().flatten()
        if kind == "worst":
            truth = torch.linalg.svdvals(rows)[:, 0] * weight.norm() / outputs.norm(dim=1)
        elif kind == "rms":
            truth = (rows * weight).flatten(1).norm(dim=1) / outputs.norm(dim=1)
        else:
            truth = (rows.abs() @ weight.abs()).amax(1) / outputs.abs().amax(1)
        close(found.by_parameter[:, column], truth, 1e-9)
    if kind == "worst":
        stacked = torch.cat([exact[p].flatten(2) * values[p].detach().norm() for p in found.places], 2)
        close(found.joint_absolute, torch.linalg.svdvals(stacked)[:, 0], 1e-9)
        lanczos = parameter_condition(net, x, parameters="all", method="lanczos", tolerance=1e-9)
        close(lanczos.absolute, found.absolute, 1e-7)
        close(lanczos.joint_absolute, found.joint_absolute, 1e-7)


def test_random_signs_estimate_the_mean_square():
    net, x = captured("pooled")
    rows = parameter_condition(net, x, kind="rms")
    sampled = parameter_condition(net, x, kind="rms", method="sampled", samples=64)
    ratio = sampled.joint / rows.joint
    assert 0.8 < float(ratio.min()) <= float(ratio.max()) < 1.2
    assert float((sampled.by_parameter / rows.by_parameter).median()) == pytest.approx(1.0, abs=0.05)


# --- laws -----------------------------------------------------------------------------------------------------------


def test_a_batch_gives_what_its_samples_give():
    net, x = captured("residual")
    together = parameter_condition(net, x[:4]).absolute
    alone = torch.cat([parameter_condition(net, x[i : i + 1]).absolute for i in range(4)])
    close(together, alone, 1e-10)
    told: list[tuple[int, int]] = []
    parts = parameter_condition(net, x[:4], batch_size=3, progress=lambda done, total, text: told.append((done, total)))
    close(parts.absolute, together, 1e-10)
    assert told == [(3, 4), (4, 4)]


def test_scaling_the_outputs_changes_nothing():
    net, scaled = golden(), golden()
    scaled[2].weight.data, scaled[2].bias.data = -7 * scaled[2].weight.data, -7 * scaled[2].bias.data
    for kind in ("worst", "rms", "componentwise"):
        first, second = (parameter_condition(model, POINT, kind=kind) for model in (net, scaled))
        close(first.by_parameter, second.by_parameter, 1e-12)


def test_relations_between_the_numbers():
    net, x = captured("dense")
    worst, rms = parameter_condition(net, x), parameter_condition(net, x, kind="rms", noise="tensor")
    assert bool((worst.joint <= worst.network * (1 + 1e-12)).all())
    assert bool((worst.joint >= worst.by_parameter.amax(1) * (1 - 1e-12)).all())
    assert bool((rms.by_parameter < worst.by_parameter).all())  # ||J||_F / sqrt(n) < ||J||_2


def test_the_model_stays_as_it_was():
    net, x = trained("residual")
    before = copy.deepcopy(net.state_dict())
    parameter_condition(net, x[:2])
    random_parameter_response(net, x[:2], draws=2)
    adversarial_parameter_response(net, x[:2], sizes=(0.1,), steps=2)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(p.requires_grad or p.grad is not None for p in net.parameters())


# --- measured beside predicted --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dense", "pooled", "residual"])
def test_mean_square_form_predicts_random_noise(name: str):
    net, x = captured(name)
    predicted = parameter_condition(net, x, kind="rms").network
    measured = random_parameter_response(net, x, sizes=(1e-3, 1e-2), draws=200)
    for column in range(2):
        ratio = predicted / measured.amplification[:, column]
        assert float(ratio.median()) == pytest.approx(1.0, abs=0.05)
        both = torch.stack([predicted, measured.amplification[:, column]])
        assert float(torch.corrcoef(both)[0, 1]) >= 0.98
    assert bool((measured.error < 0.1 * measured.amplification).all())


@pytest.mark.parametrize("name", ["dense", "pooled"])
def test_the_sum_of_condition_numbers_predicts_the_attack(name: str):
    net, x = captured(name)
    x = x[:5]
    condition = parameter_condition(net, x)
    each = adversarial_parameter_response(net, x, sizes=(1e-3, 1e-2), steps=15)
    ratio = condition.network[:, None] / each.amplification
    middle = ratio.median(0).values
    assert bool(((middle > 0.95) & (middle < 1.10)).all())
    assert bool((ratio[:, 0] > 0.99).all())  # at first order no attack gets beyond the sum
    joint = adversarial_parameter_response(net, x, sizes=(1e-3,), budget="joint", steps=15)
    close(condition.joint[:, None] / joint.amplification, torch.ones(5, 1, dtype=torch.float64), 0.02)


# --- refusals -------------------------------------------------------------------------------------------------------


def test_refusals():
    net, x = golden(), POINT
    with pytest.raises(UsageError, match="no parameters nowhere"):
        parameter_condition(net, x, parameters=["nowhere"])
    with pytest.raises(UsageError, match="kind="):
        parameter_condition(net, x, kind="best")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="method="):
        parameter_condition(net, x, kind="componentwise", method="lanczos")
    with pytest.raises(UsageError, match="left to change"):
        parameter_condition(nn.Sequential(nn.Flatten(), nn.ReLU()).double(), x)
    silent = golden()
    silent[2].weight.data.zero_()
    silent[2].bias.data.zero_()
    found = parameter_condition(silent, x)
    assert bool(torch.isfinite(found.absolute).all())
    with pytest.raises(NumericalError, match=r"f\(x\) = 0"):
        _ = found.by_parameter
    with pytest.raises(UsageError, match="sizes must be positive"):
        random_parameter_response(net, x, sizes=(0.0,))
    graph = capture(net, x.expand(2, 4))
    with pytest.raises(UsageError, match="Not parameters"):
        Taps(graph, x, parameters=("input",))


def test_names_of_the_model_and_of_the_graph_both_work():
    net, x = golden(), POINT
    by_model = parameter_condition(net, x, parameters=["2.weight"])
    assert by_model.places == ("2.weight",)
    close(by_model.absolute, parameter_condition(net, x, parameters=by_model.names).absolute)


@pytest.mark.parametrize(("dtype", "scales"), [(torch.float64, (1e-200, 1e200)), (torch.float32, (1e-30, 1e30))])
@pytest.mark.parametrize(
    "options",
    [{}, {"method": "lanczos"}, {"kind": "rms"}, {"kind": "rms", "noise": "tensor"}, {"kind": "componentwise"}],
)
def test_without_biases_the_scale_of_the_input_does_not_matter(dtype: torch.dtype, scales, options: dict):
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False))
    layers = (nn.Conv1d(1, 3, 2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(9, 3, bias=False))
    for net, x in ((dense, torch.randn(3, 4)), (nn.Sequential(*layers), torch.randn(3, 1, 4))):
        net, x = net.to(dtype), x.to(dtype)
        plain = parameter_condition(net, x, **options)
        for scale in scales:
            found = parameter_condition(net, x * scale, **options)
            close(found.by_parameter / plain.by_parameter, torch.ones_like(plain.by_parameter), 1e-5)
            close(found.joint / plain.joint, torch.ones_like(plain.joint), 1e-5)
