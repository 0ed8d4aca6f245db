"""SMP of whole networks predicted from the law of the input, against kinks counted along simulated paths."""

from __future__ import annotations

import math

import pytest
import torch
from tests.support.smoothness_prediction import (
    counted,
    gaussian_paths,
    he_mlp,
    random_cnn,
    slope_variance,
    smooth_field,
    square_root,
)
from torch import Tensor, nn

from assay.errors import NumericalError, SubjectError, UnsupportedOperator, UsageError
from assay.gaussian import maximum_kinks
from assay.grade import Grade
from assay.smoothness.network import Network
from assay.smoothness.prediction import Process, predict, predict_network

SPEED = slope_variance()


def total(parts: dict[str, Tensor]) -> float:
    return float(sum(part.sum() for part in parts.values()))


def along(model: nn.Module, shape: tuple[int, ...], seed: int, length: float, points: int, root: Tensor | None = None):
    """A Gaussian path through the inputs of a model, and the SMP of its layers."""
    t = torch.linspace(0, length, points, dtype=torch.float64)
    x, slope = gaussian_paths(t, (math.prod(shape),), seed)
    x, slope = (v if root is None else v @ root for v in (x, slope))
    x, slope = (v.reshape(-1, *shape) for v in (x, slope))
    network = Network.of(model, x[:2])
    return network, counted(network, x, slope, rows=256)


def test_one_layer_is_the_closed_form():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2)).double()
    first, last = model[0], model[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    mean, spread = torch.randn(5, dtype=torch.float64), torch.randn(5, 5, dtype=torch.float64)
    found = predict(model, Process(mean, spread @ spread.T, 0.3 * torch.eye(5)))
    centre = first.weight @ mean + first.bias
    deviation = ((first.weight @ spread) ** 2).sum(1).sqrt()
    speed = 0.3 * (first.weight**2).sum(1)
    units = speed / (deviation * math.sqrt(2 * math.pi)) * torch.exp(-0.5 * (centre / deviation) ** 2)
    torch.testing.assert_close(found.value, (last.weight.abs() @ units).detach())
    assert found.grade is Grade.CLOSED_FORM
    torch.testing.assert_close(found.by_layer["1 (relu)"], found.value)
    assert float(found.error.abs().max()) == 0


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_he_networks_without_bias(depth):
    """The mean over six networks against paths of length 20, and against 16/pi for each layer."""
    predicted, measured = [], []
    for seed in range(6):
        model = he_mlp(128, depth, seed)
        network, parts = along(model, (128,), 50 + seed, 20.0, 1001)
        found = predict_network(network, Process(torch.zeros(128), 1.0, SPEED))
        predicted.append(20 * float(found.value))
        measured.append(total(parts))
        assert list(found.by_layer) == list(parts)
    mean, truth = (sum(v) / len(v) for v in (predicted, measured))
    assert mean == pytest.approx(truth, rel=0.03 if depth == 1 else 0.05)
    assert mean / 20 / depth == pytest.approx(16 / math.pi, rel=0.1)  # weights at random around the mean field


def test_random_convolutional_networks():
    """Pools of correlated neighbours, batch norm, three networks on paths of length 60."""
    field = smooth_field(12, 1.2)
    root, ratios = square_root(field), []
    for seed in range(3):
        network, parts = along(random_cnn(seed, size=12, channels=8), (1, 12, 12), seed, 60.0, 1801, root)
        found = predict_network(network, Process(torch.zeros(1, 12, 12), field, SPEED * field))
        assert set(parts) == set(found.by_layer)
        ratios.append(60 * float(found.value) / total(parts))
        first = "3 (max_pool)"  # windows of the first layer are exactly Gaussian
        assert 60 * float(found.by_layer[first]) == pytest.approx(float(parts[first]), rel=0.15)
    assert sum(ratios) / len(ratios) == pytest.approx(1, abs=0.1)
    assert max(abs(ratio - 1) for ratio in ratios) < 0.2


def test_a_pool_alone_has_the_law_of_its_windows():
    """max pool of the input, and of relu(input): the sum over windows of closed forms."""
    torch.manual_seed(1)
    field = smooth_field(4, 1.5)
    process = Process(0.2 * torch.randn(1, 4, 4), field, 2 * field)
    windows = torch.arange(16).reshape(4, 4).unfold(0, 2, 2).unfold(1, 2, 2).reshape(4, 4)
    for floor, layers in ((None, [nn.MaxPool2d(2)]), (0.0, [nn.ReLU(), nn.MaxPool2d(2)])):
        found = predict(nn.Sequential(*layers, nn.Flatten()).double(), process)
        parts = (process.mean.double().reshape(-1)[windows], field[windows[:, :, None], windows[:, None, :]])
        law, _ = maximum_kinks(*parts, 2 * parts[1], floor=floor)
        torch.testing.assert_close(found.value, law.smp, rtol=1e-4, atol=1e-6)


def _activations() -> list[tuple[str, nn.Module]]:
    return [
        ("leaky", nn.LeakyReLU(0.2)), ("prelu", nn.PReLU(24, init=-0.3)), ("relu6", nn.ReLU6()),
        ("hardswish", nn.Hardswish()), ("hardtanh", nn.Hardtanh()), ("elu", nn.ELU(0.5)),
    ]  # fmt: skip


class Mixed(nn.Module):
    """Batch norm, a residual sum, a maximum of two tensors, one with a constant, a smooth activation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(40, 40) for _ in range(3))
        self.norm = nn.BatchNorm1d(40)
        self.last = nn.Linear(40, 2)
        nn.init.normal_(self.c.weight, 0, 0.2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x + torch.relu(self.a(x)))
        y = y + torch.tanh(self.b(y))
        return self.last(torch.maximum(torch.maximum(self.c(y), y), torch.full((1, 40), -0.4).to(y)))


def compare(model: nn.Module, width: int, seed: int, tolerance: float) -> None:
    model = model.double().eval()
    network, parts = along(model, (width,), seed, 240.0, 6001)
    found = predict_network(network, Process(torch.zeros(width), 1.0, SPEED))
    assert 240 * float(found.value.sum()) == pytest.approx(total(parts), rel=tolerance)


@pytest.mark.parametrize(("name", "activation"), _activations())
def test_activations(name, activation):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(24, 24), activation, nn.Linear(24, 24), activation, nn.Linear(24, 1))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 1.5 / 24**0.5)
    compare(model, 24, 4, 0.12)


def test_sums_and_maxima_of_branches():
    torch.manual_seed(5)
    compare(Mixed(), 40, 6, 0.1)


def test_smooth_and_linear_networks_have_no_kinks():
    for middle in (nn.Tanh(), nn.SiLU(), nn.Identity(), nn.LayerNorm(4)):
        model = nn.Sequential(nn.Linear(3, 4), middle, nn.Linear(4, 2)).double()
        found = predict(model, Process(torch.zeros(3), 1.0, 1.0))
        assert float(found.value.abs().max()) == 0
        assert found.by_layer == {}


def test_kinks_that_cancel_by_architecture_are_named():
    """relu(x) - relu(-x) is x: its kinks come in pairs and cancel; the prediction counts both, and says so."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        for layer, weight in ((model[0], [[1.0], [-1.0]]), (model[2], [[1.0, -1.0]])):
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(torch.tensor(weight))
    found = predict(model, Process(torch.zeros(1), 1.0, 1.0))
    assert float(found.value) == pytest.approx(2 / math.sqrt(2 * math.pi))
    assert any("kink together" in note for note in found.notes)


def test_outputs_and_scales():
    model = he_mlp(32, 2, 1)
    model[-1] = nn.Linear(32, 3).double()
    process = Process(torch.zeros(32), 1.0, 1.0)
    every = predict(model, process)
    one = predict(model, process, outputs=1)
    torch.testing.assert_close(one.value, every.value[1:2])
    turned = predict(model, process, outputs=torch.tensor([[2.0], [0.0], [0.0]]))
    torch.testing.assert_close(turned.value, 2 * every.value[:1])
    faster = predict(model, Process(torch.zeros(32), 1.0, 4.0))  # twice as fast: SMP per unit of t is four times
    torch.testing.assert_close(faster.value, 4 * every.value)
    torch.testing.assert_close(faster.energy, 8 * every.energy)
    assert faster.count == pytest.approx(2 * every.count)


def test_wide_tensors_keep_variances_and_say_so():
    """Without covariances the first layer is still exact, and what follows is of the right size."""
    model, process = he_mlp(64, 2, 2), Process(torch.zeros(64), 1.0, 1.0)
    full, thin = predict(model, process), predict(model, process, width=63)
    assert full.grade is Grade.STATISTICAL  # the first layer's derivative depends on the second
    assert thin.grade is Grade.STATISTICAL
    assert any("wider" in note for note in thin.notes)
    assert not any("wider" in note for note in full.notes)
    assert float(thin.value) == pytest.approx(float(full.value), rel=0.5)
    model = nn.Sequential(nn.Linear(8, 30), nn.ReLU(), nn.Linear(30, 1)).double()
    spread = torch.randn(8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    narrow = Process(torch.ones(8), spread @ spread.T, 1.0)
    torch.testing.assert_close(predict(model, narrow, width=10).value, predict(model, narrow).value)


def test_a_wide_convolution_before_a_narrow_head():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 1)
    ).double()
    process = Process(torch.zeros(1, 8, 8), 1.0, 1.0)
    thin, full = predict(model, process, width=40), predict(model, process)
    assert 0.4 < float(thin.value / full.value) < 2.5
    assert thin.grade is Grade.STATISTICAL


def test_processes_that_do_not_fit_are_refused():
    model = he_mlp(8, 1, 0)
    for call in (
        lambda: Process(torch.zeros(3), torch.zeros(2), 1.0),
        lambda: Process(torch.zeros(3), -1.0, 1.0),
        lambda: Process(torch.zeros(3), 1.0, float("nan")),
        lambda: Process.from_points(torch.zeros(1, 3), torch.zeros(1, 3)),
        lambda: Process.from_frames(torch.zeros(2, 3), 1.0),
        lambda: predict(model, Process(torch.zeros(8), 1.0, 1.0), width=0),
        lambda: predict(model, Process(torch.zeros(8), 1.0, 1.0), outputs=4),
    ):
        with pytest.raises(UsageError):
            call()
    with pytest.raises(SubjectError):
        predict_network(Network.of(model, torch.zeros(1, 8)), Process(torch.zeros(9), 1.0, 1.0))
    with pytest.raises(NumericalError):
        Process.from_points(torch.full((4, 3), float("nan")), torch.zeros(4, 3))


def test_operators_without_a_law_are_refused():
    class Norm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.amax(1, keepdim=True)

    with pytest.raises(UnsupportedOperator):
        predict(Norm(), Process(torch.zeros(4), 1.0, 1.0))


def test_processes_from_data():
    """The law of long paths is found again: 2,000 points over 400 correlation lengths, to 10 %."""
    t = torch.linspace(0, 400, 2001, dtype=torch.float64)
    x, slope = gaussian_paths(t, (3,), 3)
    mix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.3, 0.0, 2.0]], dtype=torch.float64)
    fitted = Process.from_points(x @ mix, slope @ mix)
    assert fitted.grade is Grade.STATISTICAL
    torch.testing.assert_close(fitted.covariance, mix.T @ mix, rtol=0.15, atol=0.25)
    torch.testing.assert_close(fitted.slope_covariance, SPEED * mix.T @ mix, rtol=0.15, atol=0.25)
    frames = Process.from_frames(x @ mix, 0.2)
    torch.testing.assert_close(frames.slope_covariance, fitted.slope_covariance, rtol=0.06, atol=0.05)
    thin = Process.from_points(x, slope, widest=2)
    assert isinstance(thin.covariance, Tensor)
    assert thin.covariance.shape == (3,)
