"""Our attacks against those of foolbox and torchattacks: the same to the bit where the formulas agree, and theirs run
through ours as they are."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor, nn

from assay.attacks import attack_of, attacked, fgsm, pgd

EPSILON, STEPS, STEP = 8 / 255, 20, 2 / 255
X = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(1))
Y = torch.arange(20) % 5


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A convolutional network with batch normalisation whose statistics are not the initial ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(144, 5),
        )  # fmt: skip
        network(torch.rand(64, 3, 16, 16))
    return network.eval()


@pytest.fixture
def foolbox(monkeypatch):
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")  # it imports a git client, which complains where git is absent
    return importlib.import_module("foolbox")


@pytest.fixture
def torchattacks():
    return importlib.import_module("torchattacks")


FOOLBOX = pytest.mark.models("foolbox", "eagerpy", "GitPython", "gitdb", "smmap", "requests")
TORCHATTACKS = pytest.mark.models("torchattacks")


def of_foolbox(foolbox, attack, epsilon: float = EPSILON):
    """An attack of foolbox as a function (model, x, y)."""

    def run(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return attack(foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu"), x, y, epsilons=epsilon)[1]

    return run


def of_torchattacks(kind, **settings):
    """An attack of torchattacks as a function (model, x, y)."""

    def run(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        attack = kind(module, **settings)
        attack.set_device(x.device)  # it looks for the device at the parameters, and a frozen module has none
        return attack(x, y)

    return run


def same(ours: Tensor, theirs: Tensor) -> None:
    assert not torch.equal(ours, X)
    assert torch.equal(ours, theirs)


@FOOLBOX
@pytest.mark.parametrize("epsilon", [1 / 255, EPSILON, 0.3])
def test_fgsm_is_that_of_foolbox(foolbox, model, epsilon):
    theirs = of_foolbox(foolbox, foolbox.attacks.LinfFastGradientAttack(random_start=False), epsilon)
    same(fgsm(model, X, Y, epsilon=epsilon, bounds=(0, 1)), theirs(model, X, Y))


@TORCHATTACKS
@pytest.mark.parametrize("epsilon", [1 / 255, EPSILON, 0.3])
def test_fgsm_is_that_of_torchattacks(torchattacks, model, epsilon):
    theirs = of_torchattacks(torchattacks.FGSM, eps=epsilon)
    same(fgsm(model, X, Y, epsilon=epsilon, bounds=(0, 1)), theirs(model, X, Y))


@FOOLBOX
def test_pgd_is_that_of_foolbox(foolbox, model):
    theirs = of_foolbox(foolbox, foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=False))
    found = pgd(model, X, Y, epsilon=EPSILON, steps=STEPS, step_size=STEP, bounds=(0, 1))
    same(found, theirs(model, X, Y))


@FOOLBOX
def test_targeted_pgd_is_that_of_foolbox(foolbox, model):
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=False)
    goal = foolbox.criteria.TargetedMisclassification((Y + 1) % 5)
    theirs = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), X, goal, epsilons=EPSILON)[1]
    settings = {"epsilon": EPSILON, "steps": STEPS, "step_size": STEP, "bounds": (0, 1)}
    same(pgd(model, X, (Y + 1) % 5, targeted=True, **settings), theirs)


@TORCHATTACKS
def test_pgd_is_that_of_torchattacks(torchattacks, model):
    """It climbs the mean of the loss where we climb the sum: a division that only powers of two leave exact."""
    theirs = of_torchattacks(torchattacks.PGD, eps=EPSILON, alpha=STEP, steps=STEPS, random_start=False)
    settings = {"epsilon": EPSILON, "steps": STEPS, "step_size": STEP, "bounds": (0, 1)}
    assert torch.equal(pgd(model, X[:16], Y[:16], **settings), theirs(model, X[:16], Y[:16]))
    found = pgd(model, X, Y, loss=nn.functional.cross_entropy, **settings)
    same(found, theirs(model, X, Y))


def nearly(ours: Tensor, theirs: Tensor) -> None:
    """Norms are summed in float64 here and in float32 there: units in the last place."""
    assert float((ours - X).flatten(1).norm(dim=1).max()) > 0.45
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@FOOLBOX
def test_euclidean_pgd_is_that_of_foolbox(foolbox, model):
    theirs = of_foolbox(foolbox, foolbox.attacks.L2PGD(abs_stepsize=0.1, steps=STEPS, random_start=False), 0.5)
    found = pgd(model, X, Y, epsilon=0.5, norm="l2", steps=STEPS, step_size=0.1, bounds=(0, 1))
    nearly(found, theirs(model, X, Y))


@TORCHATTACKS
def test_euclidean_pgd_is_that_of_torchattacks(torchattacks, model):
    theirs = of_torchattacks(torchattacks.PGDL2, eps=0.5, alpha=0.1, steps=STEPS, random_start=False)
    found = pgd(model, X, Y, epsilon=0.5, norm="l2", steps=STEPS, step_size=0.1, bounds=(0, 1))
    nearly(found, theirs(model, X, Y))


@FOOLBOX
@TORCHATTACKS
def test_their_attacks_run_through_ours(foolbox, torchattacks, model):
    """On the user's model and on a changed one, in batches; the model keeps its mode and collects no gradients."""
    changed = {"3.weight": 0.5 * dict(model.named_parameters())["3.weight"].detach()}
    model.zero_grad()
    model.train()
    for parameters in (None, changed):
        ours = attacked(attack_of("fgsm", epsilon=EPSILON), model, X, Y, parameters=parameters, bounds=(0, 1))
        for theirs in (
            of_foolbox(foolbox, foolbox.attacks.LinfFastGradientAttack(random_start=False)),
            of_torchattacks(torchattacks.FGSM, eps=EPSILON),
        ):
            same(ours, attacked(theirs, model, X, Y, parameters=parameters, bounds=(0, 1), batch_size=7))
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()
