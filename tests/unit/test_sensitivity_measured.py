"""Measured responses against what is known exactly: affine maps, clamps, and a kink out of the derivative's sight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from assay.attacks import largest_response
from assay.errors import NumericalError, SubjectError, UsageError
from assay.grade import Grade
from assay.probe import Probe
from assay.sensitivity import adversarial_response, condition_numbers, random_response

SIZES = (1e-3, 1e-1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def affine(inputs: int = 12, outputs: int = 5) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs).double()


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 5)).double()


def test_random_rms_is_the_mean_square_condition_number_of_an_affine_map() -> None:
    """E ||J d||^2 = ||J||_F^2 ||d||^2 / n exactly. 16 inputs within 5 standard errors: a false alarm in 10^5 seeds."""
    x = random(16, 12)
    kappa = condition_numbers(affine(), x).rms
    found = random_response(affine(), x, SIZES, directions=400)
    assert found.rms.shape == (16, 2)
    assert found.grade is Grade.SAMPLED
    deviation = (found.rms - kappa[:, None]) / found.rms_error
    assert (deviation.abs() < 5).all()
    # The standard error is neither too large nor too small: the deviations have a mean square near 1 (16 inputs: within
    # [0.3, 2.2] except once in 500 seeds).
    assert 0.3 < float(deviation[:, 0].square().mean()) < 2.2
    assert (found.rms_error < 0.05 * found.rms).all()


def test_random_maximum_lies_between_rms_and_worst() -> None:
    x = random(8, 12)
    worst = condition_numbers(affine(), x).worst
    found = random_response(affine(), x, SIZES)
    assert (found.mean <= found.rms).all()
    assert (found.rms < found.maximum).all()
    assert (found.maximum <= worst[:, None] * (1 + 1e-9)).all()


def test_random_directions_follow_the_input_not_its_place() -> None:
    x = random(6, 12)
    together = random_response(mlp(), x, SIZES, directions=30)
    other = random_response(mlp(), x.flip(0), SIZES, directions=30, batch_size=7)
    for field in ("rms", "rms_error", "mean", "maximum"):
        torch.testing.assert_close(getattr(other, field).flip(0), getattr(together, field), rtol=1e-8, atol=0)
    alone = random_response(mlp(), x[3:4], SIZES, directions=30)
    torch.testing.assert_close(alone.rms[0], together.rms[3], rtol=1e-8, atol=0)
    reseeded = random_response(mlp(), x, SIZES, directions=30, seed=1)
    assert not torch.allclose(reseeded.rms, together.rms, rtol=1e-4)


def test_the_attack_on_an_affine_map_finds_exactly_the_condition_number() -> None:
    x = random(8, 12)
    found = condition_numbers(affine(), x)
    attack = adversarial_response(affine(), x, SIZES, right=found.right)
    torch.testing.assert_close(attack.amplification, found.worst[:, None].expand(-1, 2), rtol=1e-9, atol=0)
    assert (attack.amplification <= found.worst[:, None] * (1 + 1e-9)).all()
    radius = torch.tensor(SIZES, dtype=torch.float64) * x.norm(dim=1)[:, None]
    torch.testing.assert_close(attack.perturbation.norm(dim=2), radius, rtol=1e-12, atol=0)
    assert attack.from_singular.all()


def test_gradient_ascent_needs_no_hint() -> None:
    """From random starts alone the attack reaches the top singular value of an affine map."""
    x = random(8, 12)
    starts = random(8, 3, 12, seed=5)
    radius = torch.full((8,), 0.1, dtype=torch.float64)
    found = largest_response(Probe(affine()), x, radius, starts, steps=60)
    top = float(torch.linalg.svdvals(affine().weight.detach())[0])
    torch.testing.assert_close(found.change / 0.1, torch.full((8,), top, dtype=torch.float64), rtol=1e-3, atol=0)


def test_the_attack_beats_every_random_direction_and_its_own_start() -> None:
    x = random(8, 12)
    found = condition_numbers(mlp(), x)
    attack = adversarial_response(mlp(), x, SIZES, right=found.right)
    noise = random_response(mlp(), x, SIZES, directions=300)
    assert (attack.amplification >= noise.maximum).all()
    with torch.no_grad():
        for column, size in enumerate(SIZES):
            step = found.right * (size * x.norm(dim=1))[:, None]
            start = (mlp()(x + step) - mlp()(x)).norm(dim=1) / mlp()(x).norm(dim=1) / size
            assert (attack.amplification[:, column] >= start * (1 - 1e-9)).all()
            made = (mlp()(x + attack.perturbation[:, column]) - mlp()(x)).norm(dim=1) / mlp()(x).norm(dim=1) / size
            torch.testing.assert_close(made, attack.amplification[:, column], rtol=1e-9, atol=0)


class Saturating(nn.Module):
    """Steep but bounded along x_2, and very steep along x_1, but only beyond a kink that a derivative cannot see."""

    def forward(self, x: Tensor) -> Tensor:
        kink = 100 * torch.relu(x[:, 0] - 1.05)
        return torch.stack([torch.ones_like(kink), kink, 0.1 * torch.tanh(10 * (x[:, 1] - 1))], 1)


def test_random_starts_find_what_the_linear_prediction_cannot_see() -> None:
    x = torch.ones(1, 2, dtype=torch.float64)
    found = condition_numbers(Saturating(), x)
    assert float(found.jacobian_norm) == pytest.approx(1.0)  # along x_2 only: the kink is out of sight
    attack = adversarial_response(Saturating(), x, (0.1,), right=found.right)
    assert float(attack.amplification) > 20 * float(found.worst)
    assert not bool(attack.from_singular)


def test_clamp_keeps_inputs_legal() -> None:
    x = random(6, 12).sigmoid()
    free = adversarial_response(mlp(), x, (0.5,))
    held = adversarial_response(mlp(), x, (0.5,), clamp=(0.0, 1.0))
    attacked = x + held.perturbation[:, 0]
    assert float(attacked.min()) >= -1e-12
    assert float(attacked.max()) <= 1 + 1e-12
    assert float((x + free.perturbation[:, 0]).max()) > 1.01
    assert (held.perturbation[:, 0].norm(dim=1) <= 0.5 * x.norm(dim=1) * (1 + 1e-12)).all()
    assert (held.amplification > 0).all()


def test_attacks_follow_the_input_not_its_place() -> None:
    x = random(5, 12)
    together = adversarial_response(mlp(), x, SIZES)
    other = adversarial_response(mlp(), x.flip(0), SIZES, batch_size=7)
    torch.testing.assert_close(other.amplification.flip(0), together.amplification, rtol=1e-7, atol=0)


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[int, int, str]] = []
    random_response(mlp(), random(5, 12), SIZES, directions=4, batch_size=8, progress=lambda *r: seen.append(r))
    assert [report[0] for report in seen] == [2, 4, 5]
    seen.clear()
    adversarial_response(mlp(), random(5, 12), SIZES, steps=2, batch_size=12, progress=lambda *r: seen.append(r))
    assert [report[0] for report in seen] == [2, 4, 5]


class Difference(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1] - x[:, 1:]


def test_relative_changes_need_something_to_be_relative_to() -> None:
    for measure in (random_response, adversarial_response):
        with pytest.raises(NumericalError, match="input that is zero"):
            measure(affine(), torch.zeros(1, 12, dtype=torch.float64))
        with pytest.raises(NumericalError, match=r"f\(x\) = 0"):
            measure(Difference(), torch.ones(1, 2))


def test_refused_arguments() -> None:
    x = random(2, 12)
    with pytest.raises(UsageError, match="sizes must be positive"):
        random_response(affine(), x, (0.0,))
    with pytest.raises(UsageError, match="sizes must be positive"):
        adversarial_response(affine(), x, ())
    with pytest.raises(UsageError, match="at least 2"):
        random_response(affine(), x, directions=1)
    with pytest.raises(UsageError, match="cannot be used"):
        adversarial_response(affine(), x, steps=0)
    with pytest.raises(UsageError, match="cannot be used"):
        adversarial_response(affine(), x, clamp=(1.0, 0.0))
    with pytest.raises(UsageError, match="right has shape"):
        adversarial_response(affine(), x, right=x[:1])
    with pytest.raises(UsageError, match="do not fit"):
        largest_response(Probe(affine()), x, torch.ones(2), x[:, None, :5])
    with pytest.raises(SubjectError, match="NaN"):
        random_response(affine(), x * float("nan"))
