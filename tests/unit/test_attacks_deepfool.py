"""DeepFool against closed forms, its own definition written out, and foolbox."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from tests.support.boundary_points import ball, classifier, network
from torch import Tensor, nn

from assay.attacks import attack_of, attacked, deepfool, fooled, target_of
from assay.errors import NumericalError, UsageError
from assay.load import load_subject

DOUBLE = torch.float64
FOOLBOX = pytest.mark.models("foolbox", "eagerpy", "GitPython", "gitdb", "smmap", "requests")


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(dtype)


def digits(count: int = 60):
    """The demo network, and test digits that it gets right."""
    subject = load_subject("demo")
    assert subject.data is not None
    assert subject.data.targets is not None
    x, y = subject.data.inputs[: 2 * count], subject.data.targets[: 2 * count]
    right = subject.probe(x).argmax(1) == y
    return subject, x[right][:count], y[right][:count]


def size(change: Tensor, norm: str) -> Tensor:
    flat = change.flatten(1).double()
    return flat.norm(dim=1) if norm == "l2" else flat.abs().amax(1)


def written_out(model, x: Tensor, *, norm: str, overshoot: float, steps: int = 50) -> Tensor:
    """One sample at a time, every class, no short cuts."""
    results = []
    for sample in x:
        change = torch.zeros_like(sample)
        own = int(model(sample[None]).argmax())
        for _ in range(steps):
            point = sample + (1 + overshoot) * change
            logits = model(point[None])[0]
            if int(logits.argmax()) != own:
                break
            logits = logits.detach()
            jacobian = torch.autograd.functional.jacobian(lambda z: model(z[None])[0], point)
            best = None
            for k in range(len(logits)):
                if k == own:
                    continue
                w, f = jacobian[k] - jacobian[own], float(logits[k] - logits[own])
                steep = float(w.norm() if norm == "l2" else w.abs().sum())
                if best is None or abs(f) / steep < best[0]:
                    best = (abs(f) / steep, w / w.norm() if norm == "l2" else w.sign())
            assert best is not None
            change = change + best[0] * best[1]
        results.append(sample + (1 + overshoot) * change)
    return torch.stack(results)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("smooth", [True, False])
def test_it_does_what_the_paper_says(norm, smooth):
    model = network(smooth=smooth)
    x = draw(16, 6)
    expected = written_out(model, x, norm=norm, overshoot=0.02)
    torch.testing.assert_close(deepfool(model, x, norm=norm), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_step_for_linear_classes(norm, dtype):
    weight, x = draw(5, 9, dtype=dtype), draw(12, 9, seed=1, dtype=dtype)

    def model(points: Tensor) -> Tensor:
        return points @ weight.to(points.dtype).T

    own = model(x).argmax(1)
    change = (weight[None] - weight[own][:, None]).double()
    dual = change.norm(dim=2) if norm == "l2" else change.abs().sum(2)
    logits = model(x.double())
    distance = (logits.gather(1, own[:, None]) - logits) / dual
    distance[torch.arange(12), own] = math.inf
    found = fooled(target_of(model), x, own, norm=norm, overshoot=0.1)
    assert found.steps.tolist() == [1] * 12
    assert bool(found.found.all())
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(size(found.point - x, norm), 1.1 * distance.amin(1), rtol=100 * unit, atol=100 * unit)


def test_misclassified_inputs_come_back_as_they_are():
    model, x = network(), draw(10, 6)
    decided = model(x).argmax(1)
    y = torch.where(torch.arange(10) % 2 == 0, (decided + 1) % 4, decided)
    found = deepfool(model, x, y)
    assert torch.equal(found[::2], x[::2])
    assert bool((model(found).argmax(1) != y).all())
    assert torch.equal(found[1::2], deepfool(model, x[1::2]))


def test_targets_are_reached():
    model, x = network(), draw(20, 6)
    decided = model(x).argmax(1)
    goals = (decided + torch.arange(20) % 4) % 4
    for goal in (2, goals):
        wanted = torch.as_tensor(goal).expand(20)
        found = deepfool(model, x, decided, target=goal)
        assert torch.equal(found[decided == wanted], x[decided == wanted])
        assert float((model(found).argmax(1) == wanted).double().mean()) >= 0.9


def test_a_target_has_to_beat_every_class():
    """Along the gradient of target over own class, the third class stays above both."""

    def model(x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x), dtype=x.dtype), 2 * x[:, 0], x.sum(1) - 1], 1)

    x = torch.tensor([[-0.2, 0.1]], dtype=DOUBLE)
    assert int(model(x).argmax()) == 0
    assert int(model(deepfool(model, x, target=2)).argmax()) == 2


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_bounds_hold_and_every_digit_is_fooled(norm):
    subject, x, y = digits()
    found = deepfool(subject, x, y, norm=norm)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert bool((subject.probe(found).argmax(1) != y).all())
    free = deepfool(subject, x, y, norm=norm, bounds=None)
    assert bool((free < 0).any())
    assert float(size(free - x, norm).median()) <= float(size(found - x, norm).median())


def test_elements_at_a_bound_do_not_stop_the_search():
    """All but one element stand at the bound and carry nearly all of the gradient."""
    weight = torch.tensor([100.0] * 10 + [1.0], dtype=DOUBLE)
    model = classifier(lambda x: x @ weight - 1000.5)
    x = torch.ones(1, 11, dtype=DOUBLE)
    x[0, -1] = 0.1
    found = deepfool(model, x, torch.tensor([0]), bounds=(0.0, 1.0))
    assert int(model(found).argmax()) == 1
    assert float((found - x).abs().max()) < 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("own", [0, 1])
def test_ties_do_not_stall(dtype, own):
    """At an exact tie, and a few units of rounding beside it, with no overshoot to help."""
    weight = draw(50, dtype=dtype)
    model = classifier(lambda x: (x - 1) @ weight.to(x.dtype), own=own, rival=1 - own)
    x = torch.ones(3, 50, dtype=dtype)
    x[1] -= 4 * torch.finfo(dtype).eps * weight
    x[2] += 2 * torch.finfo(dtype).eps * weight.sign() * -1
    y = model(x).argmax(1)
    found = deepfool(model, x, y, overshoot=0.0)
    assert bool((model(found).argmax(1) != y).all())
    assert float((found - x).norm(dim=1).max()) < 1e4 * torch.finfo(dtype).eps


def test_no_gradient_no_standstill():
    """The centre of a ball, and a plateau of dead units that ends nearby."""
    for dtype in (torch.float32, torch.float64):
        model = classifier(ball())
        found = deepfool(model, torch.zeros(2, 5, dtype=dtype))
        assert model(found).argmax(1).tolist() == [1, 1]
        assert torch.equal(found[0], found[1])  # noise by content
    plateau = classifier(lambda x: torch.relu(x[:, 0]).add(torch.relu(-x[:, 0])).sub(1e-3))
    found = deepfool(plateau, torch.zeros(1, 3))
    assert plateau(found).argmax(1).tolist() == [1]


def test_nan_on_the_way_is_walked_around():
    """The logarithm ends where the first step leads."""

    def model(x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x), dtype=x.dtype), (-5 - torch.log(x[:, 0]))], 1)

    x = torch.tensor([[1.0, 0.0], [0.5, 0.0]], dtype=DOUBLE)
    assert bool(model(x - 5).isnan().any())
    found = deepfool(model, x)
    assert bool(torch.isfinite(model(found)).all())
    assert model(found).argmax(1).tolist() == [1, 1]
    assert bool(torch.isfinite(model(deepfool(model, x, steps=1))).all())


def test_what_cannot_be_fooled_is_returned_finite():
    found = fooled(target_of(lambda x: torch.zeros(len(x), 2) + torch.tensor([1.0, 0.0])), torch.zeros(2, 3),
                   torch.tensor([0, 0]))  # fmt: skip
    assert found.found.tolist() == [False, False]
    assert bool(torch.isfinite(found.point).all())
    assert found.steps.tolist() == [50, 50]


def test_rows_do_not_influence_each_other():
    subject, x, _ = digits(20)
    found = deepfool(subject, x)
    assert torch.equal(deepfool(subject, x.flip(0)).flip(0), found)
    assert torch.equal(deepfool(subject, x, batch_size=7), found)
    torch.testing.assert_close(torch.cat([deepfool(subject, row[None]) for row in x]), found, rtol=0, atol=1e-5)


def test_the_model_is_not_touched():
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.ReLU(inplace=True), nn.Linear(6, 3)).train()
    x = draw(5, 4, dtype=torch.float32)
    deepfool(model, x)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not x.requires_grad


def test_by_name_it_takes_no_epsilon():
    subject, x, y = digits(10)
    found = attacked(attack_of("deepfool"), subject, x, y)
    assert torch.equal(found, deepfool(subject, x, y))
    assert torch.equal(attack_of("deepfool", norm="linf")(subject, x, y), deepfool(subject, x, y, norm="linf"))
    with pytest.raises(UsageError, match="epsilon"):
        attack_of("deepfool", epsilon=0.1)
    with pytest.raises(UsageError, match="needs an epsilon"):
        attack_of("pgd")


@pytest.mark.parametrize(
    "bad",
    [
        {"norm": "l1"}, {"overshoot": -0.1}, {"overshoot": math.nan}, {"steps": 0}, {"candidates": 1}, {"target": 4},
        {"target": torch.tensor([1, 2])}, {"target": 1.0}, {"bounds": (0.0, 0.1)}, {"y": torch.tensor([0, 1, 4])},
        {"y": torch.tensor([0.0, 1.0, 2.0])}, {"y": torch.tensor([0])}, {"batch_size": 0},
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(bad):
    with pytest.raises(UsageError):
        deepfool(network(), draw(3, 6), **bad)


def test_numbers_that_are_none_are_refused():
    with pytest.raises(NumericalError):
        deepfool(network(), draw(3, 6) / 0)
    with pytest.raises(NumericalError):
        deepfool(lambda x: x / 0 * 0, draw(3, 6))


def test_fewer_candidates_are_the_largest_logits():
    """With two classes only the runner-up at x counts, though another class is nearer."""
    weight = torch.tensor([[1.0, 0.0], [0.9, 0.0], [0.0, 30.0]], dtype=DOUBLE)

    def model(points: Tensor) -> Tensor:
        return points @ weight.T - torch.tensor([0.0, 0.0, 10.0], dtype=DOUBLE)

    x = torch.tensor([[1.0, 0.0]], dtype=DOUBLE)
    assert int(model(deepfool(model, x)).argmax()) == 2
    assert int(model(deepfool(model, x, candidates=2)).argmax()) == 1


@FOOLBOX
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-100.0, 100.0)])
def test_as_near_as_foolbox(monkeypatch, norm, bounds):
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    foolbox = importlib.import_module("foolbox")
    subject, x, y = digits(100)
    kind = foolbox.attacks.L2DeepFoolAttack if norm == "l2" else foolbox.attacks.LinfDeepFoolAttack
    module = foolbox.PyTorchModel(target_of(subject), bounds=bounds, device="cpu")
    theirs = kind()(module, x, y, epsilons=None)[0]
    ours = deepfool(subject, x, y, norm=norm, bounds=bounds)
    medians = [float(size(each - x, norm).median()) for each in (ours, theirs)]
    assert medians[0] == pytest.approx(medians[1], rel=0.01)
    assert bool((subject.probe(ours).argmax(1) != y).all())
