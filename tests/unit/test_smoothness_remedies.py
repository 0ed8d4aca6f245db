import pytest
import torch
import torch.nn.functional as F
from tests.support.inputs import close, numbers
from tests.support.smoothness_paths import picture
from tests.support.watching import Largest
from torch import nn

from assay.errors import UsageError
from assay.smoothness.paths import Latent, Line, Transform
from assay.smoothness.remedies import remedy


def network(seed=0, activation=nn.ReLU):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), activation(), nn.MaxPool2d(2),
        nn.Conv2d(6, 12, 3, padding=1), activation(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(48, 24), activation(), nn.Linear(24, 2),
    ).double()  # fmt: skip


def shifted(seed=0):
    coarse = picture(1, 1, 6, 6, seed=seed)
    image = 2 * F.interpolate(coarse, size=(8, 8), mode="bicubic")[0] - 1
    return Transform(image, "translate", 3.0)


@pytest.mark.parametrize(
    ("change", "sharpness", "within"),
    [
        ("average", 1.0, 0.25),
        ("blur", 1.0, 0.25),
        ("softplus", 5.0, 0.25),
        ("softplus", 100.0, 0.05),
        ("silu", 100.0, 0.1),
    ],
)
def test_prediction_comes_true(change, sharpness, within):
    found = remedy(network(), shifted(), change, sharpness=sharpness, samples=129)
    close(found.predicted, found.measured, within)
    error, without = ((found.measured - one).abs().sum() for one in (found.predicted, found.removed))
    assert float(error) <= float(without)
    assert bool((found.predicted_gain > 0).all())
    assert bool((found.measured_gain > 0).all())
    replaced = "max_pool" if change in ("average", "blur") else "relu"
    assert all(replaced in place for place in found.places)
    assert not any(replaced in place for place in found.after.by_layer)
    assert found.grade == "linearised"


def test_what_is_left_when_all_kinks_go_is_nothing():
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)).double()
    path = Line(numbers(4), numbers(4, seed=1))
    for change in ("silu", "softplus"):
        found = remedy(model, path, change)
        assert float(found.before.value.min()) > 0
        for value in (found.removed, found.predicted, found.measured):
            assert float(value.abs().max()) < 1e-9 * float(found.before.value.max())
        close(found.predicted_gain, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.3), nn.PReLU(8)])
@pytest.mark.parametrize("change", ["silu", "softplus"])
def test_tracks_of_one_layer_are_predicted_exactly(change, activation):
    model = nn.Sequential(nn.Linear(1, 8), activation, nn.Linear(8, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(numbers(8, 1).sign() * torch.linspace(1, 3, 8)[:, None])
        model[0].bias.copy_(-model[0].weight[:, 0] * torch.linspace(0.1, 0.9, 8))  # every unit switches within the path
        if isinstance(activation, nn.PReLU):
            activation.weight.copy_(torch.linspace(-0.5, 0.5, 8))
    found = remedy(model, Line(torch.zeros(1), torch.ones(1)), change, sharpness=15.0, step=1 / 64)
    for summed in (found.variation, found.height):
        close(summed.predicted, summed.measured, 1e-9)
        assert float((summed.predicted - summed.before).abs().max()) > 1e-3
        assert summed.step == 1 / 64


def test_sharp_functions_leave_the_track_and_blunt_ones_do_not():
    path = shifted()
    sharp, blunt = (remedy(network(), path, "softplus", sharpness=b, samples=65).height for b in (1e5, 1.0))
    close(sharp.predicted, sharp.before, 1e-2)
    close(sharp.measured, sharp.before, 1e-2)
    assert bool((blunt.measured < 0.5 * blunt.before).all())


def test_a_pool_passes_kinks_that_it_held_back():
    # two ramps that switch on at 0.3 and 0.6; the pool sees only the higher one, the average both with half the weight
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Unflatten(1, (1, 2)), nn.MaxPool1d(2), nn.Flatten()).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[4.0], [2.0]]))
        model[0].bias.copy_(torch.tensor([-1.2, -1.2]))
    found = remedy(model, Line(torch.zeros(1), torch.ones(1)), "average")
    close(found.before.value, torch.tensor([4.0], dtype=torch.float64), 1e-6)
    for value in (found.predicted, found.measured):
        close(value, torch.tensor([3.0], dtype=torch.float64), 1e-6)


@pytest.mark.parametrize("sharpness", [2.0, 10.0, 200.0])
def test_silu_before_a_max_pool_keeps_kinks_and_says_so(sharpness):
    model = nn.Sequential(nn.ReLU(), nn.MaxPool1d(2), nn.Flatten())  # of one input that rises and one that rests
    path = Line(torch.tensor([[-3.2, -0.2]]), torch.tensor([[2.8, -0.2]]))
    found = remedy(model, path, "silu", sharpness=sharpness, samples=513)
    assert found.removed.item() == 0.0
    close(found.predicted, found.measured, 1e-2)
    if sharpness == 200.0:
        close(found.measured, found.before.value / 2, 1e-3)
    assert "monotone" in found.notes[-1]
    other = remedy(model, path, "softplus", sharpness=sharpness, samples=65)
    assert not other.notes
    assert float(other.predicted) < 0.6 * float(found.before.value)
    behind = nn.Sequential(nn.ReLU(), nn.Conv1d(1, 1, 1), nn.MaxPool1d(2), nn.Flatten())
    assert not remedy(behind, path, "silu", samples=17).notes


@pytest.mark.parametrize("change", ["silu", "average"])
def test_memory_does_not_grow_with_kinks_times_units(change):
    """Nothing may be as large as kinks times units (8 million), only as samples times units (140 thousand)."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 8, 1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 1),
    )  # fmt: skip
    x = torch.randn(1, 16, 16)
    with Largest() as seen:
        found = remedy(model, Line(-x, x), change, samples=17)
    assert float(found.before.count) > 1000
    assert seen.elements < 10 * 17 * 32 * 256


def test_one_layer_of_several_and_one_output():
    model, path = network(), shifted()
    both, first = (remedy(model, path, "average", layers=layers, outputs=1, samples=65) for layers in (None, ["2"]))
    assert len(both.places) == 2
    assert first.places == ("2 (max_pool)",)
    assert first.before.value.shape == (1,)
    close(first.before.value, both.before.value)
    assert any("5 (max_pool)" in place for place in first.after.by_layer)
    close(first.removed + first.before.by_layer["2 (max_pool)"], first.before.value)


def test_notes_of_the_path_are_kept():
    path = Latent(nn.Sequential(nn.Linear(2, 4), nn.ReLU()), Line(numbers(2), numbers(2, seed=1)))
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).double()
    assert any("decoder" in note for note in remedy(model, path, "softplus", samples=17).notes)


def test_the_users_model_is_untouched():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    remedy(model, shifted(), "blur", samples=17)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_mistakes_are_named():
    model, path = network(), shifted()
    with pytest.raises(UsageError, match="change"):
        remedy(model, path, "maxout")
    with pytest.raises(UsageError, match="replace"):
        remedy(model, path, "average", layers=["17"])
    with pytest.raises(UsageError, match="ReLU"):
        remedy(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double(), path, "silu")
    with pytest.raises(UsageError, match="step"):
        remedy(model, path, "silu", step=2.0, samples=9)
