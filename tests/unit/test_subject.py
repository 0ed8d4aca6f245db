"""A Subject: the user's model stays as it was, the digest sees every weight, and what does not fit is refused."""

import pytest
import torch
from tests.support.untouched import PICTURES, assert_same, network, state_of, used_model
from torch import nn

from assay.errors import SubjectError
from assay.preprocess import PRESETS, Preprocessing
from assay.subject import Data, Subject, private_copy


def test_user_model_is_untouched_by_every_view():
    model = used_model()
    before, data = state_of(model), PICTURES.clone()
    subject = Subject.from_model(model, (data, torch.arange(6) % 5), preprocessing=PRESETS["imagenet"])
    subject.probe(data)
    subject.probe.jvp(data, torch.ones_like(data))
    subject.probe.vjp(data)[1](torch.ones(6, 5))
    subject.call({"model.5.bias": torch.ones(5)}, data)
    assert subject.digest
    assert subject.describe()
    subject.model.train()
    assert_same(before, state_of(model))
    assert torch.equal(data, PICTURES)


@pytest.mark.parametrize(
    "bad", [torch.rand(2, 4, 8, 8), torch.full((2, 3, 8, 8), float("nan")), torch.rand(0, 3, 8, 8)]
)
def test_user_model_is_untouched_after_an_exception(bad):
    model = used_model()
    before = state_of(model)
    with pytest.raises(SubjectError):
        Subject.from_model(model, bad)
    assert_same(before, state_of(model))


def test_random_streams_survive_a_model_that_draws_numbers():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    before = torch.get_rng_state()
    with pytest.raises(SubjectError, match="random"):
        Subject.from_model(Noisy(), torch.rand(4, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(before, torch.get_rng_state())


def test_training_mode_is_analysed_in_evaluation_mode_and_said():
    model = network().train()
    subject = Subject.from_model(model, PICTURES)
    assert any("training mode" in warning for warning in subject.warnings)
    assert not any(module.training for module in subject.model.modules())
    assert torch.equal(subject.probe(PICTURES), subject.probe(PICTURES))
    assert model.training
    assert not Subject.from_model(model.eval(), PICTURES).warnings


def test_parameters_are_shared_and_buffers_are_not():
    model = network().eval()
    copy = private_copy(model)
    assert copy[0].weight.data_ptr() == model[0].weight.data_ptr()
    assert copy[1].running_mean.data_ptr() != model[1].running_mean.data_ptr()
    assert not any(parameter.requires_grad for parameter in copy.parameters())


def test_shared_modules_stay_shared():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer).eval()
    x = torch.rand(3, 4)
    subject = Subject.from_model(model, x)
    assert subject.model[0] is subject.model[2]
    assert len(list(subject.model.parameters())) == 2
    assert torch.equal(subject.probe(x), model(x))
    changed = subject.call({"0.weight": torch.zeros(4, 4)}, x)
    assert torch.allclose(changed, (layer.bias.relu() @ torch.zeros(4, 4) + layer.bias).expand(3, 4))


def test_digest_follows_every_weight_and_nothing_else():
    model = network().eval()
    first = Subject.from_model(model, PICTURES).digest
    assert Subject.from_model(model, PICTURES[:2]).digest == first
    assert Subject.from_model(model, PICTURES, name="other").digest == first
    assert Subject.from_model(model, PICTURES, preprocessing=PRESETS["imagenet"]).digest != first
    with torch.no_grad():
        model[5].bias[2] += 1e-6
    assert Subject.from_model(model, PICTURES).digest != first
    second = Subject.from_model(model, PICTURES).digest
    model[1].running_var[0] *= 1.0001
    assert Subject.from_model(model, PICTURES).digest != second


def test_digest_sees_buffers_outside_the_state_dict_and_no_addresses():
    def make(value: float) -> nn.Module:
        model = nn.Sequential(nn.Linear(2, 2))
        nn.init.constant_(model[0].weight, 1.0)
        nn.init.constant_(model[0].bias, 0.0)
        model.register_buffer("scale", torch.tensor(value), persistent=False)
        function = lambda x: x  # noqa: E731
        model.extra_repr = lambda: f"{function}"
        return model

    x = torch.rand(2, 2)
    assert "0x" in repr(make(1.0))
    assert Subject.from_model(make(1.0), x).digest == Subject.from_model(make(1.0), x).digest
    assert Subject.from_model(make(1.0), x).digest != Subject.from_model(make(2.0), x).digest


def test_data_digest_follows_values_targets_and_shape():
    data = Data(PICTURES, torch.arange(6))
    assert data.digest == Data(PICTURES.clone(), torch.arange(6), name="other").digest
    assert data.digest != Data(PICTURES).digest
    assert data.digest != Data(PICTURES.reshape(6, 192), torch.arange(6)).digest
    assert data.take(2).inputs.shape[0] == 2


@pytest.mark.parametrize("count", [1, 2, 5])
def test_batch_coupled_model_is_refused(count):
    class Coupled(nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    with pytest.raises(SubjectError, match="other samples"):
        Subject.from_model(Coupled(), torch.rand(count, 3))


def test_batch_norm_without_running_statistics_is_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2))
    with pytest.raises(SubjectError, match="other samples"):
        Subject.from_model(model.eval(), torch.rand(5, 3))


def test_model_that_overwrites_its_input_is_refused_and_the_data_survive():
    data = torch.randn(4, 3)
    kept = data.clone()
    with pytest.raises(SubjectError, match="overwrites its input"):
        Subject.from_model(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2)), data)
    assert torch.equal(data, kept)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_weights_are_refused_by_name(value):
    model = network()
    with torch.no_grad():
        model[5].weight[1, 2] = value
    with pytest.raises(SubjectError, match=r"5\.weight"):
        Subject.from_model(model, PICTURES)


def test_infinite_mask_in_a_buffer_is_fine_and_nan_is_not():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.mask = nn.Buffer(torch.tensor([0.0, float("-inf"), 0.0]))

        def forward(self, x):
            return (x + self.mask).softmax(1)

    model = Masked()
    assert Subject.from_model(model, torch.rand(2, 3)).output_count == 3
    model.mask[0] = float("nan")
    with pytest.raises(SubjectError, match="mask"):
        Subject.from_model(model, torch.rand(2, 3))


@pytest.mark.parametrize("model", [nn.Linear(3, 2, device="meta"), nn.LazyLinear(2)])
def test_parameters_without_data_are_refused(model):
    with pytest.raises(SubjectError, match="without data"):
        Subject.from_model(model, torch.rand(2, 3))


def test_something_else_than_a_module_is_refused():
    with pytest.raises(SubjectError, match=r"torch\.nn\.Module"):
        Subject.from_model(torch.relu, torch.rand(2, 3))  # type: ignore[arg-type]


def test_attribute_that_cannot_be_copied_is_named_as_the_reason():
    model = nn.Linear(3, 2)
    model.file = open(__file__)  # noqa: SIM115
    with pytest.raises(SubjectError, match="could not be copied"):
        Subject.from_model(model, torch.rand(2, 3))
    model.file.close()


@pytest.mark.parametrize("labels", [torch.tensor([0, 1, 2, 3, 4, 5]), torch.tensor([0, 1, 2, 3, 4, -1])])
def test_labels_outside_the_outputs_are_refused(labels):
    with pytest.raises(SubjectError, match="5 outputs"):
        Subject.from_model(network(), (PICTURES, labels))


def test_labels_of_the_wrong_kind_or_number_are_refused():
    with pytest.raises(SubjectError, match="--task regression"):
        Subject.from_model(network(), (PICTURES, torch.rand(6)))
    with pytest.raises(SubjectError, match="6 inputs and 5 targets"):
        Subject.from_model(network(), (PICTURES, torch.arange(5)))


def test_regression_targets_must_match_the_outputs_and_be_finite():
    assert Subject.from_model(network(), (PICTURES, torch.rand(6, 5)), task="regression").task == "regression"
    with pytest.raises(SubjectError, match="5 outputs"):
        Subject.from_model(network(), (PICTURES, torch.rand(6, 4)), task="regression")
    with pytest.raises(SubjectError, match="targets hold NaN"):
        Subject.from_model(network(), (PICTURES, torch.full((6, 5), float("nan"))), task="regression")


def test_bounds_are_enforced_and_taken_from_the_data():
    data = Data(PICTURES, bounds=(0.0, 1.0))
    assert Subject.from_model(network(), data).preprocessing.bounds == (0.0, 1.0)
    assert Subject.from_model(network(), data, preprocessing=Preprocessing(mean=(0.5,))).preprocessing.bounds == (
        0.0,
        1.0,
    )
    with pytest.raises(SubjectError, match="outside the bounds"):
        Subject.from_model(network(), Data(PICTURES * 255, bounds=(0.0, 1.0)))


def test_notes_of_the_data_become_warnings():
    subject = Subject.from_model(network().eval(), Data(PICTURES, notes=("Bytes were scaled.",)))
    assert subject.warnings == ("Bytes were scaled.",)


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [
        (PRESETS["imagenet"], lambda x: (x - torch.tensor(PRESETS["imagenet"].mean).reshape(3, 1, 1)) / 0.225),
        (
            PRESETS["imagenet-bgr-255"],
            lambda x: x.flip(1) * 255 - torch.tensor([103.939, 116.779, 123.68]).reshape(3, 1, 1),
        ),
        (PRESETS["symmetric"], lambda x: (x * 255 - 127) / 128),
        (Preprocessing(bounds=(-1, 1), scale=(0, 2)), lambda x: x + 1),
    ],
)
def test_preprocessing_is_the_first_layer(preprocessing, expected):
    subject = Subject.from_model(nn.Flatten(), PICTURES, preprocessing=preprocessing)
    wanted = expected(PICTURES)
    if preprocessing is PRESETS["imagenet"]:
        wanted = wanted * 0.225 / torch.tensor(preprocessing.std).reshape(3, 1, 1)
    assert torch.allclose(subject.probe(PICTURES), wanted.flatten(1), atol=1e-4)
    assert [name for name, _ in subject.model.named_children()] == ["preprocessing", "model"]


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_preprocessing_that_does_not_fit_the_channels_is_refused(channels):
    x = torch.rand(2, channels, 4, 4)
    for preprocessing in (PRESETS["imagenet"], Preprocessing(channel_order="BGR")):
        with pytest.raises(SubjectError, match="channel"):
            Subject.from_model(nn.Flatten(), x, preprocessing=preprocessing)


def test_jacobian_products_agree_with_each_other_and_with_differences():
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double().eval()
    x, v, u = (torch.randn(4, n, dtype=torch.float64) for n in (3, 3, 2))
    probe = Subject.from_model(model, x).probe
    value, product = probe.jvp(x, v)
    step = 1e-6
    assert torch.allclose(product, (model(x + step * v) - model(x - step * v)) / (2 * step), atol=1e-8)
    assert torch.allclose((product * u).sum(), (probe.vjp(x)[1](u) * v).sum())
    assert torch.equal(value, model(x))
