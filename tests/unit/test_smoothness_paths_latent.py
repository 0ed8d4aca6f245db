import pytest
import torch
from tests.support.inputs import close, numbers
from tests.support.smoothness_paths import by_differences, inner_parameters
from torch import nn

from assay.errors import SubjectError
from assay.smoothness.measure import smp
from assay.smoothness.paths import Frames, Joined, Latent, Line, Retimed, Spline


def decoder(activation):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), activation, nn.Linear(8, 18), nn.Unflatten(1, (2, 3, 3)), nn.Sigmoid())


def test_tangent_is_the_derivative_of_the_decoded_point():
    path = Latent(decoder(nn.Tanh()), Spline(numbers(4, 3)))
    t = inner_parameters(path)
    points, tangents = path.at(t)
    assert points.shape == (7, 2, 3, 3)
    close(tangents, by_differences(path, t), 1e-8)
    assert path.notes == ()


def test_knots_of_the_latent_path_stay():
    path = Latent(decoder(nn.Tanh()), Frames(numbers(3, 3)))
    assert path.knots == (1.0,)
    left, right = (path.at(torch.tensor([1.0]), side=side)[1] for side in ("left", "right"))
    assert float((left - right).norm()) > 1e-3


def test_kinks_of_a_decoder_are_said_and_carried_along():
    path = Latent(decoder(nn.ReLU()), Line(numbers(3), numbers(3, seed=1)))
    assert "relu" in path.notes[0]
    assert Retimed(path, 2.0).notes == path.notes
    assert Joined(path).notes == path.notes
    unknown = Latent(lambda z: z if z.sum() > 0 else -z, Line(numbers(3), numbers(3, seed=1)))
    assert "captured" in unknown.notes[0]


def test_composed_network_is_the_model_after_the_decoder():
    decode, model = decoder(nn.ReLU()), nn.Sequential(nn.Flatten(), nn.Linear(18, 2)).double()
    path = Latent(decode, Line(numbers(3), numbers(3, seed=1)))
    both, latent = path.composed(model)
    t = inner_parameters(path)
    close(both(latent.at(t)[0]), model(path.at(t)[0]))


def test_the_users_decoder_is_untouched():
    decode = decoder(nn.Tanh()).train()
    weight = decode[0].weight
    Latent(decode, Line(numbers(3), numbers(3, seed=1))).at(torch.tensor([0.3]))
    assert decode.training
    assert decode[0].weight is weight
    assert weight.dtype == torch.float32
    assert weight.requires_grad


def test_a_decoder_that_does_not_fit_is_refused():
    path = Latent(nn.Linear(4, 2), Line(numbers(3), numbers(3, seed=1)))
    with pytest.raises(SubjectError, match="fails"):
        path.at(torch.tensor([0.3]))


def test_measurements_repeat_what_the_path_says():
    path = Latent(decoder(nn.ReLU()), Line(numbers(3), numbers(3, seed=1)))
    model = nn.Sequential(nn.Flatten(), nn.Linear(18, 4), nn.ReLU()).double()
    for estimator in ("auto", "event", "kac_rice", "sampled"):
        found = smp(model, path, estimator=estimator, samples=33)
        assert any("decoder" in note for note in found.notes)
    both, latent = path.composed(model)
    counted = smp(both, latent, samples=33)
    assert not any("decoder" in note for note in counted.notes)
    assert any(place.startswith("0.1") for place in counted.by_layer)  # kinks of the decoder count as a layer's
