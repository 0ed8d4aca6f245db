"""FGSM and PGD by hand and in closed form, any attack on any model, the automatic epsilon; the model untouched."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tests.support.networks import digits, trained_mlp
from tests.support.untouched import PICTURES, assert_same, network, state_of, used_model
from torch import Tensor, nn

from assay.attacks import Target, attack_of, attacked, auto_epsilon, fgsm, pgd, target_of
from assay.errors import NumericalError, UsageError
from assay.preprocess import Preprocessing
from assay.subject import Subject

LABELS = torch.arange(6) % 5


def linear(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    rows = torch.tensor(weight, dtype=torch.float64)
    layer = nn.Linear(rows.shape[1], len(rows), dtype=torch.float64)
    layer.weight.data = rows
    layer.bias.data = torch.tensor(bias or [0.0] * len(rows), dtype=torch.float64)
    return layer


def digits_sample(count: int = 60) -> tuple[nn.Module, Tensor, Tensor]:
    x, y = digits()
    return trained_mlp(2, 32), x[1300 : 1300 + count], y[1300 : 1300 + count]


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((model(x).argmax(1) == y).double().mean())


def test_fgsm_by_hand():
    """Softmax regression: the gradient is W^T (p - onehot)."""
    layer = linear([[2.0, -1.0, 0.5], [-1.0, 1.0, 0.0], [0.25, 0.0, -2.0]], [0.1, 0.0, -0.2])
    x = torch.tensor([[0.3, 0.6, 0.9], [0.0, 1.0, 0.5]], dtype=torch.float64)
    y = torch.tensor([0, 1])
    with torch.no_grad():
        gradient = (layer(x).softmax(1) - nn.functional.one_hot(y, 3)) @ layer.weight
    expected = x + 0.25 * gradient.sign()
    assert torch.equal(fgsm(layer, x, y, epsilon=0.25), expected)
    assert torch.equal(fgsm(layer, x, y, epsilon=0.25, bounds=(0.0, 1.0)), expected.clamp(0, 1))
    assert torch.equal(fgsm(layer, x, y, epsilon=0.0), x)
    with torch.no_grad():
        towards = (layer(x).softmax(1) - nn.functional.one_hot(1 - y, 3)) @ layer.weight
    assert torch.equal(fgsm(layer, x, 1 - y, epsilon=0.25, targeted=True), x - 0.25 * towards.sign())


def test_fgsm_on_the_two_by_two_example():
    layer = linear([[2.0, -1.0], [-1.0, 1.0]])
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    y = torch.tensor([0, 1, 1])
    points = fgsm(layer, x, y, epsilon=0.5, bounds=(0.0, 1.0))
    assert points.tolist() == [[0.5, 0.5], [0.5, 0.5], [1.0, 0.5]]
    assert accuracy(layer, x, y) == pytest.approx(2 / 3)
    assert accuracy(layer, points, y) == pytest.approx(1 / 3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("random_start", [False, True])
def test_pgd_finds_the_worst_case_of_two_classes(norm, random_start):
    """The margin of two linear classes is linear: its worst case is a corner (linf), or along the difference (l2)."""
    layer = linear([[0.5, -0.3, 0.2], [-0.1, 0.4, 0.6]])
    x = torch.tensor([[0.2, 0.4, 0.1], [0.9, 0.5, 0.3]], dtype=torch.float64)
    y = torch.tensor([0, 1])
    difference = (layer.weight[1 - y] - layer.weight[y]).detach()
    direction = difference.sign() if norm == "linf" else difference / difference.norm(dim=1, keepdim=True)
    found = pgd(layer, x, y, epsilon=0.5, norm=norm, steps=20, random_start=random_start)
    tolerance = 1e-12 if norm == "linf" or not random_start else 0.05  # on the sphere l2 only nears the best point
    torch.testing.assert_close(found, x + 0.5 * direction, rtol=0, atol=tolerance)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_by_hand(norm):
    """The same steps written out, on a network whose gradient turns on the way."""
    model, x, y = digits_sample(5)
    epsilon, steps, step = 0.3, 4, 0.2
    point = x
    for _ in range(steps):
        point = point.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(point), y, reduction="sum"), point)
        if norm == "linf":
            change = (point + step * gradient.sign() - x).clamp(-epsilon, epsilon)
        else:
            change = point + step * gradient / gradient.norm(dim=1, keepdim=True) - x
            change = change * (epsilon / change.norm(dim=1, keepdim=True)).clamp(max=1)
        point = (x + change).clamp(0, 1)
    found = pgd(model, x, y, epsilon=epsilon, norm=norm, steps=steps, step_size=step, bounds=(0, 1))
    torch.testing.assert_close(found, point.detach(), rtol=0, atol=0 if norm == "linf" else 1e-6)


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.5])
def test_pgd_stays_in_the_ball_and_in_the_bounds_and_does_harm(norm, epsilon, random_start):
    model, x, y = digits_sample()
    found = pgd(model, x, y, epsilon=epsilon, norm=norm, steps=5, random_start=random_start, bounds=(0, 1))
    change = (found - x).flatten(1)
    size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert float(size.max()) <= epsilon * (1 + 1e-5)
    assert float(size.max()) > 0.9 * epsilon
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    before, after = (nn.functional.cross_entropy(model(points), y) for points in (x, found))
    assert after > before


def test_pgd_is_at_least_as_strong_as_fgsm_on_digits():
    model, x, y = digits_sample(200)
    one, many = (attack(model, x, y, epsilon=0.1, bounds=(0, 1)) for attack in (fgsm, pgd))
    assert accuracy(model, many, y) <= accuracy(model, one, y) < accuracy(model, x, y) - 0.1


def test_targeted_attacks_reach_their_target():
    model, x, y = digits_sample(100)
    goal = (y + 1) % 10
    found = pgd(model, x, goal, epsilon=0.3, targeted=True, bounds=(0, 1))
    assert accuracy(model, found, goal) > 0.8
    assert accuracy(model, x, goal) < 0.1


def test_regression_climbs_the_squared_error():
    layer = linear([[1.0, -2.0]])
    x = torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([0.0, 2.0], dtype=torch.float64)  # f = -0.5 and 1: errors grow downwards
    for targets in (y, y[:, None]):
        assert fgsm(layer, x, targets, epsilon=0.25).tolist() == [[0.25, 0.75], [0.75, 0.25]]

    def absolute(outputs, targets):
        return (outputs[:, 0] - targets).abs()

    assert torch.equal(fgsm(layer, x, y, epsilon=0.25, loss=absolute), fgsm(layer, x, y, epsilon=0.25))


def test_uniform_starts():
    """With a model that has no gradient PGD returns its start: uniform in the ball, by two moments."""

    def flat(x):
        return torch.zeros(len(x), 2)

    x = torch.arange(4000.0)[:, None].repeat(1, 3)
    y = torch.zeros(4000, dtype=torch.int64)
    start = partial(pgd, flat, x, y, epsilon=2.0, steps=1, random_start=True)
    drawn = start(norm="linf") - x
    assert abs(float(drawn.var()) - 4 / 3) < 0.05  # standard error 4 sqrt(4/45 / 12000) = 0.011
    radius = (start(norm="l2") - x).norm(dim=1) / 2
    assert abs(float(radius.mean()) - 3 / 4) < 0.015  # radius^3 is uniform: deviation 0.19, standard error 0.003
    assert float(radius.max()) <= 1 + 1e-3
    assert torch.equal(pgd(flat, x, y, epsilon=2.0), x)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_follow_the_input_and_the_seed_not_the_place(norm):
    model, x, y = digits_sample(20)
    settings = {"epsilon": 0.2, "norm": norm, "steps": 3, "random_start": True, "bounds": (0, 1)}
    state = torch.get_rng_state()
    found = pgd(model, x, y, **settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(pgd(model, x, y, **settings), found)
    for size in (1, 7):
        torch.testing.assert_close(
            pgd(model, x.flip(0), y.flip(0), batch_size=size, **settings).flip(0), found, rtol=0, atol=1e-5
        )
    assert not torch.equal(pgd(model, x, y, seed=1, **settings), found)


@pytest.mark.parametrize("attack", [fgsm, partial(pgd, steps=2, random_start=True)])
def test_the_user_s_model_is_untouched(attack):
    model = used_model()
    before, x = state_of(model), PICTURES.clone()
    attack(model, x, LABELS, epsilon=0.1)
    attacked(attack_of(attack, epsilon=0.1), model, x, LABELS)
    auto_epsilon(model, x, torch.zeros(6, dtype=torch.int64) + model.eval()(x).argmax(1), bounds=(0, 1))
    model.train()
    model[3].eval()
    assert_same(before, state_of(model))
    assert torch.equal(x, PICTURES)


def test_models_in_training_are_attacked_in_evaluation():
    model = network()
    expected = fgsm(model.eval(), PICTURES, LABELS, epsilon=0.1)
    assert torch.equal(fgsm(model.train(), PICTURES, LABELS, epsilon=0.1), expected)


def test_a_subject_and_its_module_and_a_function_are_attacked_alike():
    model, x, y = digits_sample(30)
    before = state_of(model)
    expected = fgsm(model, x, y, epsilon=0.1, bounds=(0.0, 1.0))
    subject = Subject.from_model(model, (x, y), preprocessing=Preprocessing(bounds=(0.0, 1.0)))
    assert torch.equal(fgsm(subject, x, y, epsilon=0.1), expected)
    assert torch.equal(fgsm(lambda points: model(points), x, y, epsilon=0.1, bounds=(0.0, 1.0)), expected)
    assert_same(before, state_of(model))
    assert float(fgsm(subject, x, y, epsilon=0.1, bounds=None).max()) > 1.05


def test_epsilon_is_in_the_units_of_the_data():
    model, x, y = digits_sample(10)
    subject = Subject.from_model(
        model, (255 * x, y), preprocessing=Preprocessing(bounds=(0.0, 255.0), scale=(0.0, 1.0))
    )
    found = fgsm(subject, 255 * x, y, epsilon=25.5)
    torch.testing.assert_close(found / 255, fgsm(model, x, y, epsilon=0.1, bounds=(0, 1)), rtol=0, atol=1e-5)


def test_the_changed_network_is_attacked():
    model, x, y = digits_sample(10)
    changed = {"2.weight": 0.5 * dict(model.named_parameters())["2.weight"].detach()}
    twin = nn.Sequential(*list(trained_mlp(2, 32)))
    twin[2] = nn.Linear(32, 32)
    twin[2].weight.data, twin[2].bias.data = changed["2.weight"], model[2].bias.data
    expected = fgsm(twin, x, y, epsilon=0.1)
    for target in (target_of(model, changed), target_of(Subject.from_model(model, (x, y)), changed)):
        assert torch.equal(fgsm(target, x, y, epsilon=0.1), expected)
    assert torch.equal(attacked(attack_of("fgsm", epsilon=0.1), model, x, y, parameters=changed), expected)
    assert not torch.equal(fgsm(model, x, y, epsilon=0.1), expected)
    for bad in (model, lambda points: points):
        with pytest.raises(UsageError):
            target_of(bad, {"9.weight": torch.ones(1)})


def test_either_name_of_tied_weights_can_be_changed():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    x = torch.rand(2, 3)
    for name in ("0.weight", "2.weight"):
        found = target_of(model, {name: torch.zeros(3, 3)})(x)
        assert torch.equal(found, model[2].bias.detach().expand(2, 3))


def test_layers_that_work_in_place():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3), nn.ReLU(inplace=True))
    x = torch.randn(5, 4)
    kept = x.clone()
    plain = nn.Sequential(nn.ReLU(), model[1], nn.ReLU())
    y = torch.zeros(5, dtype=torch.int64)
    assert torch.equal(pgd(model, x, y, epsilon=0.5), pgd(plain, x, y, epsilon=0.5))
    assert torch.equal(x, kept)


# Any attack


def test_anyone_s_attack_sees_a_frozen_module():
    model, x, y = digits_sample(20)
    before = state_of(model)
    seen: list[Target] = []

    def stranger(module: nn.Module, points: Tensor, labels: Tensor) -> Tensor:
        assert isinstance(module, nn.Module)
        assert not module.training
        seen.append(module)
        points.requires_grad_(True)
        nn.functional.cross_entropy(module(points), labels).backward()
        labels.zero_()
        return points + 3 * points.grad.sign()

    found = attacked(stranger, model.train(), x, y, bounds=(0, 1), batch_size=8)
    model.eval()
    assert len(seen) == 3
    assert not list(seen[0].parameters())
    assert torch.equal(found, fgsm(model, x, y, epsilon=3.0, bounds=(0, 1)))  # clamped though it knows no bounds
    assert_same(before, state_of(model))
    assert torch.equal(y, digits()[1][1300:1320])


def test_bounds_hold_at_every_step_wherever_they_come_from():
    """Clamping at the end only is another attack: weaker, or measured at another point."""
    model, x, y = digits_sample(40)
    expected = pgd(model, x, y, epsilon=1.0, norm="l2", steps=3, bounds=(0, 1))
    attack = attack_of("pgd-l2", epsilon=1.0, steps=3)
    bounded = Subject.from_model(model, (x, y), preprocessing=Preprocessing(bounds=(0.0, 1.0)))
    assert torch.equal(attacked(attack, model, x, y, bounds=(0, 1)), expected)
    assert torch.equal(attacked(attack, bounded, x, y), expected)
    free = pgd(model, x, y, epsilon=1.0, norm="l2", steps=3)
    assert torch.equal(attacked(attack, bounded, x, y, bounds=None), free)
    assert not torch.equal(free.clamp(0, 1), expected)


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (lambda x: x[:, :3], UsageError),
        (lambda x: (x, x), UsageError),
        (lambda x: x / 0 * 0, NumericalError),
    ],
)
def test_what_an_attack_returns_is_checked(result, error):
    model, x, y = digits_sample(4)
    with pytest.raises(error, match="attack returned"):
        attacked(lambda module, points, labels: result(points), model, x, y)


def test_attacks_by_name():
    model, x, y = digits_sample(4)
    for name, expected in (
        ("fgsm", fgsm(model, x, y, epsilon=0.1)),
        ("pgd", pgd(model, x, y, epsilon=0.1)),
        ("pgd-l2", pgd(model, x, y, epsilon=0.1, norm="l2")),
    ):
        assert torch.equal(attack_of(name, epsilon=0.1)(model, x, y), expected)
    assert torch.equal(attack_of("pgd", epsilon=0.1, steps=3)(model, x, y), pgd(model, x, y, epsilon=0.1, steps=3))

    def plain(module, points, labels):
        return points

    assert attack_of(plain) is plain
    for bad in ({"attack": "strong"}, {"attack": "fgsm"}, {"attack": plain, "epsilon": 0.1}):
        with pytest.raises(UsageError):
            attack_of(**bad)
    with pytest.raises(UsageError, match="steps"):
        attack_of("fgsm", epsilon=0.1, steps=3)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"epsilon": -0.1}, UsageError),
        ({"epsilon": float("nan")}, UsageError),
        ({"epsilon": "auto"}, UsageError),
        ({"steps": 0}, UsageError),
        ({"norm": "l1"}, UsageError),
        ({"step_size": -1.0}, UsageError),
        ({"bounds": (0.5, 1.0)}, UsageError),
        ({"bounds": (1.0, 0.0)}, UsageError),
        ({"batch_size": 0}, UsageError),
        ({"y": torch.tensor([0, 10, 0, 0])}, UsageError),
        ({"y": torch.tensor([0, -1, 0, 0])}, UsageError),
        ({"y": torch.tensor([0, 1])}, UsageError),
        ({"x": torch.ones(4, 64, dtype=torch.int64)}, UsageError),
        ({"x": torch.full((4, 64), float("nan"))}, NumericalError),
        ({"model": lambda x: x.sum(1)}, UsageError),
        ({"model": lambda x: x[:, :10].sqrt() * 0}, NumericalError),
    ],
)
def test_what_cannot_be_attacked_is_refused(change, error):
    model, x, y = digits_sample(4)
    arguments = {"model": model, "x": x, "y": y, "epsilon": 0.1} | change
    with pytest.raises(error):
        pgd(**arguments)


def test_inputs_outside_the_bounds_by_rounding_stay():
    x = torch.tensor([[1.00002, 0.5]])
    found = fgsm(lambda points: points, x, torch.tensor([1]), epsilon=0.0, bounds=(0.0, 1.0))
    assert torch.equal(found, x)


# The automatic epsilon


def test_auto_epsilon_of_known_margins():
    """Two classes, logits x and 0: sample i falls at epsilon = x_i."""
    margins = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)[:, None]

    def model(x):
        return torch.cat([x, torch.zeros_like(x)], 1)

    y = torch.zeros(10, dtype=torch.int64)
    found = auto_epsilon(model, margins, y, bounds=(-1.0, 1.0))
    assert found.clean_accuracy == 1.0
    assert found.adversarial_accuracy == 0.5
    assert 0.45 <= found.epsilon == found.bracket[1] <= 0.55
    assert found.bracket[1] - found.bracket[0] == pytest.approx(2.0 / 4096)
    assert found.tried[0] == (2.0, 0.0)
    fifth = auto_epsilon(model, margins, y, share=0.2, bounds=(-1.0, 1.0))
    assert fifth.adversarial_accuracy == 0.2
    assert 0.75 <= fifth.epsilon <= 0.85
    assert auto_epsilon(model, margins, y, share=0.2, bounds=(-1.0, 1.0), bisections=2).bracket == (0.5, 1.0)


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "pgd-l2"])
def test_auto_epsilon_halves_the_accuracy_on_digits(attack):
    model, x, y = digits_sample(200)
    settings = {} if attack == "fgsm" else {"steps": 3}
    found = auto_epsilon(model, x, y, attack, bounds=(0, 1), **settings)
    assert found.clean_accuracy == accuracy(model, x, y)
    assert abs(found.adversarial_accuracy - found.clean_accuracy / 2) <= 1.5 / 200
    points = attack_of(attack, epsilon=found.epsilon, bounds=(0, 1), **settings)(model, x, y)
    assert accuracy(model, points, y) == pytest.approx(found.adversarial_accuracy, abs=1e-12)


def test_auto_epsilon_steps_back_where_large_attacks_overshoot():
    """An attack that works only between 0.2 and 0.6: the width of the range finds nothing, half of it does."""

    def model(x):
        return torch.cat([x, 0.5 - x], 1)

    def limited(module: nn.Module, x: Tensor, y: Tensor, *, epsilon: float) -> Tensor:
        return torch.zeros_like(x) if 0.2 < epsilon < 0.6 else x

    found = auto_epsilon(model, torch.ones(4, 1), torch.zeros(4, dtype=torch.int64), limited, bounds=(0.0, 1.0))
    assert found.tried[:2] == ((1.0, 1.0), (0.5, 0.0))
    assert found.epsilon == pytest.approx(0.2, abs=2e-4)


def test_auto_epsilon_says_why_it_failed():
    x, y = torch.ones(4, 2), torch.zeros(4, dtype=torch.int64)

    def constant(points):
        return torch.tensor([[1.0, 0.0]]).expand(len(points), 2)

    with pytest.raises(NumericalError, match="No attack"):
        auto_epsilon(constant, x, y, bounds=(0, 1))
    with pytest.raises(NumericalError, match="no sample right"):
        auto_epsilon(constant, x, y + 1, bounds=(0, 1))
    for bad in ({"share": 0.0}, {"share": 1.0}, {"bisections": 0}, {"attack": lambda m, p, q: p}):
        with pytest.raises(UsageError):
            auto_epsilon(lambda points: points, torch.tensor([[1.0, 0.0]]), y[:1], **bad)
    with pytest.raises(UsageError, match="regression"):
        auto_epsilon(constant, x, y.double())
