"""Condition numbers against hand calculation, dense Jacobians and the laws they obey."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from assay.errors import NumericalError, SubjectError, UsageError
from assay.grade import Grade
from assay.preprocess import Preprocessing
from assay.sensitivity import condition_number, condition_numbers
from assay.subject import Subject

DOUBLE = torch.float64
METHODS = ("rows", "lanczos")


def linear(weight: list[list[float]] | Tensor, bias: Tensor | None = None) -> nn.Linear:
    weight = torch.as_tensor(weight, dtype=DOUBLE)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=DOUBLE)
    layer.weight.data.copy_(weight)
    if bias is not None:
        layer.bias.data.copy_(bias)
    return layer


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=DOUBLE)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def golden_net() -> nn.Sequential:
    """4-5-3 with weights sin(m^2): a net anybody can build again."""
    wave = torch.sin(torch.arange(0, 44, dtype=DOUBLE).square())
    first = linear(wave[1:21].reshape(5, 4), wave[36:41] / 4 + 1)
    second = linear(wave[21:36].reshape(3, 5), wave[41:44] / 4)
    return nn.Sequential(first, nn.ReLU(), second)


def mlp(bias: bool = True, seed: int = 0, outputs: int = 7) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(10, 24, bias=bias),
        nn.ReLU(),
        nn.Linear(24, 16, bias=bias),
        nn.ReLU(),
        nn.Linear(16, outputs, bias=bias),
    ).double()


def conv_net() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 9),
    ).double()


def dense_condition_numbers(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    model = model.eval()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda sample: model(sample[None])[0]))(x).detach().flatten(2)
    outputs = model(x).detach()
    scale = x.flatten(1).norm(dim=1) / outputs.norm(dim=1)
    worst = torch.linalg.svdvals(jacobian)[:, 0] * scale
    return worst, jacobian.flatten(1).norm(dim=1) * scale / math.sqrt(x[0].numel())


@pytest.mark.parametrize("method", METHODS)
def test_diagonal_matrix(method: str) -> None:
    layer = linear([[3.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=DOUBLE)
    worst = condition_number(layer, x, method=method)
    rms = condition_number(layer, x, kind="rms", method=method)
    torch.testing.assert_close(worst, torch.tensor([1.0, 3.0, 1.3416407864998738], dtype=DOUBLE), rtol=1e-12, atol=0)
    torch.testing.assert_close(rms[1:], torch.tensor([2.23606797749979, 1.0], dtype=DOUBLE), rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_two_layer_net_by_hand(method: str) -> None:
    """f = relu(x1 - x2) + relu(2 x1) = 2 at (1, 2), J = [2, 0]: kappa = sqrt(5), its rms 1 / sqrt(2) of it."""
    model = nn.Sequential(linear([[1.0, -1.0], [2.0, 0.0]]), nn.ReLU(), linear([[1.0, 1.0]]))
    found = condition_numbers(model, row(1.0, 2.0), method=method)
    assert float(found.worst) == pytest.approx(2.2360679775, rel=1e-10)
    assert float(found.rms) == pytest.approx(math.sqrt(5) / math.sqrt(2), rel=1e-10)
    torch.testing.assert_close(found.right, row(1.0, 0.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_golden_net(method: str) -> None:
    found = condition_numbers(golden_net(), row(0.25, 0.5, 0.75, 1.0), method=method)
    assert float(found.jacobian_norm) == pytest.approx(2.6579791618, rel=1e-8)
    assert float(found.worst) == pytest.approx(1.6804734268, rel=1e-8)
    assert found.frobenius is not None
    if method == "rows":
        assert float(found.frobenius) == pytest.approx(2.8706985998, rel=1e-8)
        assert float(found.rms) == pytest.approx(0.9074812892, rel=1e-8)
        assert float(found.rms_error) == 0
    assert found.grade is Grade.LINEARISED


def test_auto_is_exact_for_few_outputs() -> None:
    assert float(condition_number(golden_net(), row(0.25, 0.5, 0.75, 1.0), kind="rms")) == pytest.approx(
        0.9074812892, rel=1e-8
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("build", [mlp, conv_net])
def test_equals_the_dense_jacobian(build, method: str) -> None:
    model = build()
    x = random(6, *((10,) if build is mlp else (3, 8, 8)))
    worst, rms = dense_condition_numbers(model, x)
    found = condition_numbers(model, x, method=method, tolerance=1e-8)
    torch.testing.assert_close(found.worst, worst, rtol=1e-10, atol=0)
    if method == "rows":
        torch.testing.assert_close(found.rms, rms, rtol=1e-12, atol=0)
    else:  # sampled: within 5 standard errors, and rounding where the Lanczos basis caught everything
        assert ((found.rms - rms).abs() <= 5 * found.rms_error + 1e-9 * rms).all()
    assert (found.rms <= found.worst).all()


def test_many_outputs_choose_lanczos() -> None:
    model, x = mlp(outputs=100), random(3, 10)
    found = condition_numbers(model, x)
    assert found.method == "lanczos"
    assert (found.iterations > 0).all()
    worst, rms = dense_condition_numbers(model, x)
    torch.testing.assert_close(found.worst, worst, rtol=1e-8, atol=0)
    assert ((found.rms - rms).abs() <= 5 * found.rms_error + 1e-9 * rms).all()
    assert condition_numbers(model, x[:1], kinds=("worst",)).frobenius is None


@pytest.mark.parametrize("method", METHODS)
def test_more_outputs_than_inputs(method: str) -> None:
    model, x = linear(random(40, 3)), random(4, 3)
    worst, _ = dense_condition_numbers(model, x)
    torch.testing.assert_close(condition_number(model, x, method=method), worst, rtol=1e-10, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_batch_equals_single_inputs_in_any_order(method: str) -> None:
    model, x = conv_net(), random(7, 3, 8, 8)
    together = condition_numbers(model, x, method=method)
    swapped = condition_numbers(model, x.flip(0), method=method, batch_size=3)
    for i in range(len(x)):
        alone = condition_numbers(model, x[i : i + 1], method=method)
        assert float(alone.worst[0]) == pytest.approx(float(together.worst[i]), rel=1e-11)
        assert float(alone.rms[0]) == pytest.approx(float(together.rms[i]), rel=1e-11)
        torch.testing.assert_close(alone.right[0], together.right[i], rtol=0, atol=1e-7)
    torch.testing.assert_close(swapped.worst.flip(0), together.worst, rtol=1e-11, atol=0)
    torch.testing.assert_close(swapped.rms.flip(0), together.rms, rtol=1e-11, atol=0)


def test_repeats_bit_for_bit() -> None:
    model, x = conv_net(), random(3, 3, 8, 8)
    first, second = (condition_numbers(model, x, method="lanczos", seed=4) for _ in range(2))
    assert torch.equal(first.worst, second.worst)
    assert torch.equal(first.rms, second.rms)
    assert torch.equal(first.right, second.right)


def test_the_worst_direction_is_the_worst_direction() -> None:
    """Moving along `right` by a small step changes the output by ||J|| times the step, along `left`."""
    model, x = mlp(), random(5, 10)
    found = condition_numbers(model, x)
    with torch.no_grad():
        change = (model(x + 1e-7 * found.right) - model(x)) / 1e-7
    torch.testing.assert_close(change, found.left * found.jacobian_norm[:, None], rtol=1e-5, atol=1e-6)


@given(st.floats(1e-6, 1e6), st.integers(0, 100))
def test_scaling_the_output_changes_nothing(factor: float, seed: int) -> None:
    model, x = mlp(seed=seed), random(2, 10, seed=seed)
    plain = condition_number(model, x)
    model[4].weight.data.mul_(factor)
    model[4].bias.data.mul_(factor)
    torch.testing.assert_close(condition_number(model, x), plain, rtol=1e-10, atol=0)


@given(st.floats(1e-6, 1e6), st.integers(0, 100), st.sampled_from(("worst", "rms")))
def test_homogeneous_nets_do_not_see_the_scale_of_the_input(factor: float, seed: int, kind: str) -> None:
    model, x = mlp(bias=False, seed=seed), random(2, 10, seed=seed)
    torch.testing.assert_close(
        condition_number(model, factor * x, kind=kind), condition_number(model, x, kind=kind), rtol=1e-9, atol=0
    )


def test_homogeneous_nets_have_at_least_condition_number_one() -> None:
    """f(cx) = c f(x) means J x = f(x), so ||J|| ||x|| >= ||f||."""
    assert (condition_number(mlp(bias=False), random(20, 10)) >= 1 - 1e-12).all()


@given(st.permutations(range(24)))
def test_permuting_hidden_units_changes_nothing(order: list[int]) -> None:
    model, x = mlp(), random(3, 10)
    plain = condition_number(model, x)
    model[0].weight.data = model[0].weight.data[order]
    model[0].bias.data = model[0].bias.data[order]
    model[2].weight.data = model[2].weight.data[:, order]
    torch.testing.assert_close(condition_number(model, x), plain, rtol=1e-11, atol=0)


def test_an_identity_layer_changes_nothing() -> None:
    model, x = mlp(), random(3, 10)
    longer = nn.Sequential(nn.Identity(), model, linear(torch.eye(7)))
    torch.testing.assert_close(condition_number(longer, x), condition_number(model, x), rtol=1e-12, atol=0)


def test_orthogonal_maps_have_condition_number_one() -> None:
    rotation = torch.linalg.qr(random(9, 9))[0]
    for method in METHODS:
        torch.testing.assert_close(
            condition_number(linear(rotation), random(4, 9), method=method), torch.ones(4, dtype=DOUBLE)
        )


def test_preprocessing_belongs_to_the_model() -> None:
    """Relative to the user's data, before normalisation."""
    model, x = mlp(), random(3, 10).abs()
    subject = Subject.from_model(model, x, preprocessing=Preprocessing(mean=(0.5,), std=(0.25,)))
    shifted = nn.Sequential(linear(torch.eye(10) / 0.25, torch.full((10,), -2.0)), model)
    torch.testing.assert_close(condition_number(subject, x), condition_number(shifted, x), rtol=1e-12, atol=0)


def test_single_precision_models_and_double_inputs() -> None:
    model, x = mlp(), random(3, 10)
    exact = condition_number(model, x)
    for method in METHODS:
        torch.testing.assert_close(condition_number(model.float(), x, method=method), exact, rtol=1e-5, atol=0)
        model.double()


def test_absolute_norms() -> None:
    layer, x = linear([[3.0, 0.0], [0.0, 1.0]]), row(0.0, 0.0)
    assert condition_number(layer, x, relative=False).tolist() == [3.0]
    assert float(condition_number(layer, x, relative=False, kind="rms")) == pytest.approx(math.sqrt(10 / 2))


def test_zero_output_has_no_relative_change() -> None:
    layer = linear([[1.0, -1.0]])
    with pytest.raises(NumericalError, match=r"f\(x\) = 0 for 1 of 2") as caught:
        condition_number(layer, torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=DOUBLE))
    assert "samples 1" in str(caught.value)
    assert "relative=False" in str(caught.value)


def test_zero_input_has_condition_number_zero() -> None:
    layer = linear([[3.0, 0.0], [0.0, 1.0]], bias=torch.ones(2))
    assert condition_number(layer, row(0.0, 0.0)).tolist() == [0.0]


def test_a_constant_model_has_condition_number_zero() -> None:
    layer = linear(torch.zeros(2, 3), bias=torch.ones(2))
    for method in METHODS:
        found = condition_numbers(layer, random(2, 3), method=method)
        assert found.worst.tolist() == [0, 0]
        assert found.rms.tolist() == [0, 0]
        assert not found.right.any()


class Branching(nn.Module):
    """Python decides on the values of the input, so no graph can be captured."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x.abs() > 1e9).any()):
            raise ValueError("out of range")
        return torch.cat([x.square(), x.sum(1, keepdim=True)], 1)


def test_models_that_cannot_be_captured() -> None:
    x = random(3, 5)
    worst, rms = dense_by_formula(x)
    for method in METHODS:
        torch.testing.assert_close(condition_number(Branching(), x, method=method), worst, rtol=1e-9, atol=0)
    torch.testing.assert_close(condition_number(Branching(), x, kind="rms"), rms, rtol=1e-12, atol=0)


def dense_by_formula(x: Tensor) -> tuple[Tensor, Tensor]:
    jacobian = torch.cat([torch.diag_embed(2 * x), torch.ones(len(x), 1, x.shape[1], dtype=DOUBLE)], 1)
    scale = x.norm(dim=1) / Branching()(x).norm(dim=1)
    return torch.linalg.svdvals(jacobian)[:, 0] * scale, jacobian.flatten(1).norm(dim=1) * scale / x.shape[1] ** 0.5


def test_the_model_is_left_untouched() -> None:
    model = conv_net().train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    condition_numbers(model, random(2, 3, 8, 8), method="lanczos")
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_progress_counts_inputs() -> None:
    seen = []
    condition_number(mlp(), random(7, 10), batch_size=3, progress=lambda *report: seen.append(report))
    assert [report[:2] for report in seen] == [(3, 7), (6, 7), (7, 7)]


class Unstable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (mlp(), torch.full((1, 10), math.nan, dtype=DOUBLE), "NaN"),
        (mlp(), torch.full((1, 10), math.inf, dtype=DOUBLE), "NaN or infinity"),
        (mlp(), torch.ones(2, 10, dtype=torch.int64), "floating-point"),
        (mlp(), [[1.0]], "floating-point"),
        (mlp(), torch.ones(10, dtype=DOUBLE), "batch"),
        (mlp(), torch.ones(0, 10, dtype=DOUBLE), "non-empty"),
        (mlp(), torch.ones(2, 9, dtype=DOUBLE), "does not accept"),
        (Unstable(), torch.tensor([[1.0], [1.0], [-1.0]]), "returns NaN"),
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)), torch.eye(2), "other samples"),
        (lambda x: x, torch.ones(1, 2), "torch.nn.Module"),
    ],
)
def test_unusable_inputs_and_models(model: nn.Module, x: Tensor, message: str) -> None:
    with pytest.raises(SubjectError, match=message):
        condition_number(model, x)


def test_a_subject_checks_the_shape() -> None:
    subject = Subject.from_model(mlp(), random(4, 10))
    with pytest.raises(SubjectError, match="per sample"):
        condition_number(subject, random(4, 11))


def test_an_infinite_derivative_is_an_error() -> None:
    for method in METHODS:
        with pytest.raises(NumericalError, match="NaN or infinite"):
            condition_number(Unstable(), torch.tensor([[1.0, 0.0]]), method=method)


@pytest.mark.parametrize("arguments", [{"kind": "mean"}, {"method": "svd"}, {"samples": 1}])
def test_unknown_choices(arguments: dict) -> None:
    with pytest.raises(UsageError):
        condition_number(mlp(), random(1, 10), **arguments)


def test_rms_needs_its_norm() -> None:
    found = condition_numbers(mlp(), random(1, 10), kinds=("worst",), method="lanczos")
    with pytest.raises(UsageError, match="was not computed"):
        _ = found.rms
