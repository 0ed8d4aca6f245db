"""Selective retraining: equal steps on equal batches, frozen weights to the bit, controls, clear errors."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from tests.support.networks import digits
from tests.support.untouched import assert_same, state_of
from torch import Tensor, nn

from assay.attacks import fgsm, pgd
from assay.errors import NumericalError, SubjectError, UsageError
from assay.filtering.retraining import retrain
from assay.filtering.retraining.splits import Pair
from assay.filtering.retraining.training import Recipe, batches, train_arm, trainable_copy
from assay.filtering.units import select_units
from assay.preprocess import Preprocessing
from assay.subject import Data, Subject

ARMS = ("all", "selective", "complement", "random")
FEW = {"seeds": 2, "epochs": 1, "epsilon": 0.1}
CONVS = ["0.weight", "4.weight"]


def cnn() -> nn.Sequential:
    """Three convolutions with batch norm, dropout and two dense layers, trained a little on the digits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 16),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(16, 10),
        )
        x, y = split("train")
        optimizer = torch.optim.Adam(network.parameters(), 5e-3)
        for _ in range(12):
            for rows in torch.randperm(len(y)).split(50):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
                optimizer.step()
    return network.eval()


def split(name: str) -> tuple[Tensor, Tensor]:
    x, y = digits()
    rows = {"train": slice(0, 601), "validation": slice(700, 900), "test": slice(1000, 1200)}[name]
    return x[rows].reshape(-1, 1, 8, 8), y[rows]


NETWORK = cnn()
TRAIN, VALIDATION, TEST = split("train"), split("validation"), split("test")


def run(model: nn.Module = NETWORK, train=TRAIN, **settings):
    return retrain(model, train, VALIDATION, **({"test": TEST, "select": CONVS} | FEW | settings))


class Counting(torch.optim.Adam):
    """Counts the steps of every optimiser made, and remembers the order of making."""

    steps: Counter[int]
    made: int

    def __init__(self, parameters) -> None:
        super().__init__(parameters, lr=1e-3)
        self.number = Counting.made
        Counting.made += 1

    def step(self, closure=None):
        Counting.steps[self.number] += 1
        return super().step(closure)


def test_all_controls_run_by_default_with_equally_many_steps():
    Counting.steps, Counting.made = Counter(), 0
    found = run(optimizer=Counting, adversarial=0.3)
    assert found.arms == ARMS
    assert found.seeds == (0, 1)
    own = [entry for entry in found.runs if not entry.same_as]
    assert Counting.made == len(own), "a fresh optimiser for every training"
    assert set(Counting.steps.values()) == {6} == {entry.steps for entry in found.runs}
    assert found.of("all")[0].units == ("0.weight", "4.weight", "8.weight", "11.weight")
    assert found.of("complement")[0].units == ("8.weight", "11.weight")
    for entry in found.of("random"):
        assert len(entry.units) == 2
        assert set(entry.units) != set(CONVS)
    sizes = {"0.weight": 54, "4.weight": 432, "8.weight": 512, "11.weight": 160}
    assert found.units == sizes
    assert all(entry.weights == sum(sizes[name] for name in entry.units) for entry in found.runs)
    assert run(controls=False).arms == ("selective",)


def test_without_a_last_batch_of_one_sample_and_equal_batches():
    rows = list(batches(601, 100, seed=3, epoch=1))
    assert [len(part) for part in rows] == [100] * 5 + [101]
    assert torch.cat(rows).sort().values.tolist() == list(range(601))
    for one, other in zip(rows, batches(601, 100, seed=3, epoch=1), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(rows[0], next(batches(601, 100, seed=4, epoch=1)))
    assert not torch.equal(rows[0], next(batches(601, 100, seed=3, epoch=2)))
    assert [len(part) for part in batches(3, 1, seed=0, epoch=0)] == [1, 1, 1]


def test_every_arm_sees_the_same_batches():
    seen: list[Tensor] = []

    def watching(network: nn.Module) -> nn.Module:
        network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
        return network

    units = select_units(NETWORK)
    recipe = Recipe(2, 100, 1e-3, "adam", 0.0, None, None)
    model = watching(trainable_copy(NETWORK))
    for chosen in (CONVS, ["8.weight"]):
        train_arm(model, units, chosen, Pair(*TRAIN), recipe, 5, "any")
    half = len(seen) // 2
    assert half == 12
    assert all(torch.equal(one, other) for one, other in zip(seen[:half], seen[half:], strict=True))


@pytest.mark.parametrize(
    "optimizer",
    ["adam", "sgd", lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1),
     lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5)],
    ids=["adam", "sgd", "momentum and decay", "decoupled decay"],
)  # fmt: skip
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_frozen_weights_stay_to_the_bit_and_the_rest_moves(optimizer, granularity):
    units = select_units(NETWORK, granularity=granularity)
    chosen = [unit.name for unit in units][::2]
    recipe = Recipe(1, 100, 1e-2, optimizer, 0.5, lambda m, x, y: fgsm(m, x, y, epsilon=0.1), (0.0, 1.0))
    trained, _ = train_arm(NETWORK, units, chosen, Pair(*TRAIN), recipe, 0, "selective")
    before, after = dict(NETWORK.named_parameters()), dict(trained.named_parameters())
    for unit in units:
        same = torch.equal(unit.take(before[unit.parameter]), unit.take(after[unit.parameter]))
        if granularity == "tensor" or unit.name not in chosen:  # a single dead channel may stay where it was
            assert same == (unit.name not in chosen), unit.name
    moved = [not torch.equal(unit.take(before[unit.parameter]), unit.take(after[unit.parameter])) for unit in units]
    assert sum(moved) >= 0.7 * len(chosen)
    weights = {unit.parameter for unit in units}
    for name in before.keys() - weights:
        assert not torch.equal(before[name], after[name]), f"{name} is in no unit, and trained in every arm"
    batch_norm, old = trained[1], NETWORK[1]
    assert not torch.equal(batch_norm.running_mean, old.running_mean)
    assert not trained.training


def test_frozen_channels_have_no_part_in_the_gradient_that_an_optimiser_sees():
    """It may clip by the norm of all gradients."""
    seen: list[Tensor] = []

    class Watching(torch.optim.SGD):
        def step(self, closure=None):
            seen.extend(
                p.grad.clone() for group in self.param_groups for p in group["params"] if p.shape == (8, 6, 3, 3)
            )

    units = select_units(NETWORK, "4", granularity="channel")
    recipe = Recipe(1, 300, 1e-3, lambda p: Watching(p, lr=0.1), 0.0, None, None)
    train_arm(NETWORK, units, [unit.name for unit in units[:3]], Pair(*TRAIN), recipe, 0, "selective")
    assert len(seen) == 2
    assert all(bool((grad[:3] != 0).any()) and bool((grad[3:] == 0).all()) for grad in seen)


def test_tied_weights_are_frozen_together():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.second = nn.Linear(8, 8)
            self.second.weight = self.first.weight
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.second(self.first(x).relu()).relu())

    model = Tied()
    x = torch.rand(40, 8)
    units = select_units(model)
    recipe = Recipe(2, 10, 1e-2, "adam", 0.0, None, None)
    trained, _ = train_arm(model, units, ["head.weight"], Pair(x, x.argmax(1) % 2), recipe, 0, "selective")
    assert trained.first.weight is trained.second.weight
    assert torch.equal(trained.first.weight, model.first.weight)
    assert not torch.equal(trained.head.weight, model.head.weight)


def test_the_whole_arm_is_a_plain_training_loop():
    """The arm `all` against a loop written by hand: same batches, same dropout, same optimiser."""
    recipe = Recipe(2, 100, 1e-3, "adam", 0.0, None, None)
    units = select_units(NETWORK)
    trained, steps = train_arm(NETWORK, units, [unit.name for unit in units], Pair(*TRAIN), recipe, 7, "all")
    expected = trainable_copy(NETWORK).train()
    optimizer = torch.optim.Adam(expected.parameters(), lr=1e-3)
    torch.manual_seed(7)
    for epoch in range(2):
        for rows in batches(len(TRAIN[1]), 100, 7, epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(expected(TRAIN[0][rows]), TRAIN[1][rows]).backward()
            optimizer.step()
    assert steps == 12
    assert_same(dict(expected.state_dict()), dict(trained.state_dict()))


def test_attacked_batches_are_made_on_the_network_as_it_is():
    """Share 1 of one step: the loss of a hand-made batch, attacked in evaluation mode."""
    recipe = Recipe(
        1, 601, 1e-2, lambda p: torch.optim.SGD(p, lr=0.1), 0.5, lambda m, x, y: fgsm(m, x, y, epsilon=0.2), (0.0, 1.0)
    )
    units = select_units(NETWORK)
    trained, steps = train_arm(NETWORK, units, [unit.name for unit in units], Pair(*TRAIN), recipe, 2, "all")
    expected = trainable_copy(NETWORK)
    (rows,) = batches(601, 601, 2, 0)
    x, y = TRAIN[0][rows], TRAIN[1][rows]
    x[:300] = fgsm(NETWORK, x[:300], y[:300], epsilon=0.2, bounds=(0.0, 1.0))
    torch.manual_seed(2)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    nn.functional.cross_entropy(expected.train()(x), y).backward()
    optimizer.step()
    assert steps == 1
    assert_same(dict(expected.state_dict()), dict(trained.state_dict()))


def test_judged_on_the_network_itself():
    """Accuracies are those of the weights kept, clean and attacked anew by our attacks."""
    found = run(keep=("selective",), adversarial=0.5, bounds=(0.0, 1.0))
    assert found.measures == ("clean", "fgsm", "pgd-10", "pgd-20")
    network = trainable_copy(NETWORK).eval()
    for seed in (0, 1):
        network.load_state_dict(found.weights["selective", seed])
        attacked = {"fgsm": fgsm(network, *TEST, epsilon=0.1, bounds=(0.0, 1.0)), "clean": TEST[0]}
        attacked |= {
            f"pgd-{steps}": pgd(network, *TEST, epsilon=0.1, steps=steps, bounds=(0.0, 1.0)) for steps in (10, 20)
        }
        for measure, x in attacked.items():
            with torch.no_grad():
                right = float((network(x).argmax(1) == TEST[1]).double().mean())
            assert found.accuracy("selective", measure)[seed] == right, measure
    with torch.no_grad():
        assert found.accuracy("before", "clean")[0] == float((NETWORK(TEST[0]).argmax(1) == TEST[1]).double().mean())


def test_same_seed_same_numbers_and_nothing_of_the_users_changes():
    model = trainable_copy(NETWORK).train()
    model[0].weight.requires_grad_(False)
    model[4].register_forward_hook(lambda module, inputs, output: None)
    model(TRAIN[0][:9]).square().mean().backward()
    before, x = state_of(model), TRAIN[0].clone()
    first = retrain(model, TRAIN, VALIDATION, test=TEST, select=CONVS, adversarial=0.5, criticality=True, **FEW)
    assert_same(before, state_of(model))
    assert torch.equal(x, TRAIN[0])
    torch.manual_seed(99)
    second = retrain(model, TRAIN, VALIDATION, test=TEST, select=CONVS, adversarial=0.5, criticality=True, **FEW)
    assert first.arms == (*ARMS, "criticality")
    for one, other in zip(first.runs, second.runs, strict=True):
        assert one.units == other.units
        for measure in first.measures:
            assert np.array_equal(one.correct[measure], other.correct[measure])
    settings = {"test": TEST, "select": CONVS, "adversarial": 0.5, **FEW, "seeds": [1]}
    third = retrain(model, TRAIN, VALIDATION, **settings)
    assert np.array_equal(third.of("all")[0].correct["fgsm"], first.of("all")[1].correct["fgsm"])
    with torch.inference_mode():
        fourth = retrain(model, TRAIN, VALIDATION, **settings)
    assert np.array_equal(third.of("all")[0].correct["pgd-20"], fourth.of("all")[0].correct["pgd-20"])


def test_preprocessing_and_bounds_of_a_subject_hold():
    preprocessing = Preprocessing(bounds=(0.0, 1.0), mean=(0.3,), std=(0.5,))
    subject = Subject.from_model(NETWORK, Data(*TRAIN), preprocessing=preprocessing)
    found = retrain(subject, TRAIN, VALIDATION, test=TEST, select=CONVS, keep=("all",), **FEW)
    assert found.units.keys() == {"0.weight", "4.weight", "8.weight", "11.weight"}
    assert found.weights["all", 0].keys() == NETWORK.state_dict().keys()
    network = trainable_copy(NETWORK).eval()
    network.load_state_dict(found.weights["all", 0])
    trained = Subject.from_model(network, Data(*TEST), preprocessing=preprocessing)
    with torch.no_grad():
        right = trained.model(fgsm(trained, *TEST, epsilon=0.1)).argmax(1) == TEST[1]
    assert found.accuracy("all", "fgsm")[0] == float(right.double().mean())


def test_divergence_names_arm_and_seed():
    with pytest.raises(NumericalError, match="diverged") as caught:
        run(optimizer="sgd", learning_rate=1e30)
    assert "arm all, seed 0" in str(caught.value)

    class Late(torch.optim.SGD):
        """Runs away in the last step, which no loss sees."""

        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data.fill_(math.nan)

    with pytest.raises(NumericalError, match="seed 4, after the last step"):
        run(optimizer=lambda p: Late(p, lr=1.0), batch_size=601, seeds=[4])
    with pytest.raises(NumericalError, match="arm all, seed 4, epoch 1, step 2"):
        run(optimizer=lambda p: Late(p, lr=1.0), batch_size=300, seeds=[4], adversarial=1.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"adversarial": 1.5}, "adversarial=1.5"),
        ({"level": 1.0}, "level=1.0"),
        ({"seeds": 0}, "seeds=0"),
        ({"seeds": [1, 1]}, "seeds="),
        ({"seeds": [-1]}, "seeds="),
        ({"seeds": True}, "seeds="),
        ({"optimizer": "adagrab"}, "adagrab"),
        ({"optimizer": lambda parameters: None}, "makes no optimiser"),
        ({"optimizer": torch.optim.LBFGS}, "plain step"),
        ({"epsilon": "large"}, "epsilon='large'"),
        ({"epsilon": -0.1}, "epsilon=-0.1"),
        ({"epsilon": None}, "needs an epsilon"),
        ({"attack": "carlini"}, "carlini"),
        ({"keep": "all"}, "no arm 'all' to keep"),
        ({"keep": ("best",)}, "no arm 'best'"),
        ({"include": "no.such"}, "no.such"),
        ({"test": (TEST[0], TEST[1].float())}, "integer label"),
        ({"test": TEST[0]}, "integer label"),
    ],
)
def test_settings_that_do_not_fit(settings, words):
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        run(**settings)


def test_samples_that_do_not_fit():
    with pytest.raises(SubjectError, match="do not fit 10 outputs"):
        run(test=(TEST[0], TEST[1] + 1))
    with pytest.raises(SubjectError, match="does not accept"):
        run(test=(TEST[0][:, :, :3, :3], TEST[1]))
    with pytest.raises(SubjectError, match="NaN"):
        run(test=(TEST[0] * math.nan, TEST[1]))
    subject = Subject.from_model(NETWORK, example=TRAIN[0][:2], task="regression")
    with pytest.raises(UsageError, match="for classifiers"):
        retrain(subject, TRAIN, VALIDATION, select=CONVS, **FEW)


def test_models_that_cannot_be_trained():
    with pytest.raises(UsageError, match="cannot be run in training mode"):
        run(
            train=(TRAIN[0][:3], TRAIN[1][:3]),
            batch_size=1,
            model=nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)),
            select=[],
        )

    class Auxiliary(nn.Linear):
        def forward(self, x: Tensor):
            outputs = super().forward(x.flatten(1))
            return (outputs, outputs) if self.training else outputs

    with pytest.raises(UsageError, match="returns tuple instead of logits"):
        run(model=Auxiliary(64, 10), select=[])


def test_shown_in_short():
    found = run(seeds=1)
    assert repr(found) == "Retraining(all, selective, complement, random; 1 seeds, 2 of 4 units)"
    assert repr(found.runs[1]) == "Run('selective', seed=0, 2 units, 6 steps)"
