"""Engines under attack: the inputs that `assay.attacks` finds through each filtered network, bit for bit."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tests.support.filtered_networks import (
    SHAPES,
    Attention,
    Digits,
    Grouped,
    ReluThatASiblingReads,
    ResNet18,
    SkipAddedInPlace,
    ThreeReaders,
    subject_of,
)
from torch import Tensor, nn

from assay.attacks import Attack, attack_of, attacked, fgsm
from assay.errors import NumericalError, UsageError
from assay.filtering.engines import engine_of
from assay.filtering.engines.gradient import CleanPoint, fast_gradient
from assay.filtering.engines.incremental import IncrementalEngine
from assay.filtering.units import Unit, select_units
from assay.preprocess import Preprocessing
from assay.subject import Data, Subject

OVERWRITING = (ReluThatASiblingReads, SkipAddedInPlace)  # what their derivative needs: torch refuses to differentiate
DIFFERENTIABLE = [network for network in SHAPES if network not in OVERWRITING]
NETWORKS = [pytest.param(network, id=network.__name__) for network in DIFFERENTIABLE]  # type: ignore[attr-defined]
BOUNDS = (0.0, 1.0)


def units_of(subject: Subject) -> tuple[Unit, ...]:
    computed = any("parametrizations" in name for name, _ in subject.model.named_parameters())
    return select_units(subject, "all" if computed else "weight")


def versions(subject: Subject, unit: Unit) -> list[Tensor]:
    """The weights as they are, halved in number, and dead (nearly so where zeros have no direction)."""
    weight = unit.take(dict(subject.model.named_parameters(remove_duplicate=False))[unit.parameter])
    dead = 1e-3 if "parametrizations" in unit.name else 0.0
    return [weight.clone(), torch.where(weight > weight.median(), weight, dead), torch.full_like(weight, dead)]


def samples(subject: Subject) -> tuple[Tensor, Tensor]:
    assert subject.data is not None
    assert subject.data.targets is not None
    return subject.data.inputs, subject.data.targets


def exact_engine(subject: Subject, batch_size: int = 4) -> IncrementalEngine:
    engine = engine_of(subject, "incremental", batch_size=batch_size)
    assert type(engine) is IncrementalEngine
    return engine


class Spy:
    """The attacked inputs that an engine evaluates, in order of evaluation, and how often the module was attacked."""

    def __init__(self, engine: IncrementalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.points: list[Tensor] = []
        self.on_module = 0
        anew = engine._anew

        def evaluate(unit, weights, points):
            self.points.append(points)
            return anew(unit, weights, points)

        def counted(*arguments, **keywords):
            self.on_module += 1
            return attacked(*arguments, **keywords)

        engine._anew = evaluate  # type: ignore[method-assign]
        monkeypatch.setattr("assay.filtering.engines.incremental.attacked", counted)


def test_every_network_keeps_its_prefix_unless_a_derivative_is_in_doubt():
    kept = {network: exact_engine(subject_of(network)) for network in DIFFERENTIABLE}
    for network, engine in kept.items():
        x, y = samples(engine.subject)
        assert all(engine.gradients_agree(unit, x, y) for unit in units_of(engine.subject)), network


@pytest.mark.parametrize("network", OVERWRITING)
@pytest.mark.parametrize("name", ["naive", "incremental"])
def test_networks_that_cannot_be_differentiated_are_refused_by_torch(network, name):
    subject = subject_of(network)
    x, y = samples(subject)
    unit = units_of(subject)[0]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        list(engine_of(subject, name).attacked(unit, versions(subject, unit), x, y, attack_of("fgsm", epsilon=0.1)))


@pytest.mark.parametrize("network", NETWORKS)
def test_fast_gradient_through_the_kept_prefix_is_the_attack(network, monkeypatch):
    subject = subject_of(network)
    x, y = samples(subject)
    engine, slow = exact_engine(subject), engine_of(subject, "naive", batch_size=4)
    spy = Spy(engine, monkeypatch)
    attack = attack_of("fgsm", epsilon=0.05)
    for unit in units_of(subject):
        weights = versions(subject, unit)
        spy.points.clear()
        found = list(engine.attacked(unit, weights, x, y, attack))
        expected = list(slow.attacked(unit, weights, x, y, attack))
        assert spy.on_module == 0
        for index, weight in enumerate(weights):
            parameter = dict(subject.model.named_parameters(remove_duplicate=False))[unit.parameter]
            changed = unit.parameters(unit.put(parameter, weight))
            points = attacked(attack, subject, x, y, parameters=changed, batch_size=4)
            ours = torch.cat(spy.points[index :: len(weights)])  # one batch after the other, masks within
            assert torch.equal(ours, points), (unit.name, index)
            assert torch.equal(found[index], expected[index]), (unit.name, index)
        assert not torch.equal(torch.cat(spy.points[:: len(weights)]), x)


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(attack_of("pgd", epsilon=0.05, steps=3), id="pgd"),
        pytest.param(attack_of("pgd", epsilon=0.05, steps=2, random_start=True, seed=3), id="pgd-random"),
        pytest.param(attack_of("pgd-l2", epsilon=0.5, steps=2), id="pgd-l2"),
        pytest.param(attack_of("fgsm", epsilon=0.05, targeted=True), id="fgsm-targeted"),
        pytest.param(
            attack_of("fgsm", epsilon=0.05, loss=lambda z, y: -z.gather(1, y[:, None])[:, 0].square()), id="fgsm-loss"
        ),
        pytest.param(attack_of("fgsm", epsilon=0.05, bounds=(0.2, 0.8)), id="fgsm-own-bounds"),
        pytest.param(attack_of("fgsm", epsilon=0.05, batch_size=1), id="fgsm-own-batches"),
        pytest.param(attack_of("fgsm", epsilon=0), id="fgsm-zero"),
        pytest.param(
            lambda model, x, y: (x - 0.1 * model(x).argmax(1).reshape(-1, 1, 1, 1)).clamp(0, 1), id="callable"
        ),
    ],
)
@pytest.mark.parametrize("bounds", ["auto", None, (-1.0, 2.0)])
@pytest.mark.parametrize("name", ["incremental", "batched"])
def test_any_attack_agrees_with_naive(attack: Attack, bounds, name):
    subject = subject_of(Grouped)
    x, y = samples(subject)
    if fast_gradient(attack) is None and "bounds" in getattr(attack, "keywords", {}):
        x = x.clamp(0.2, 0.8)
    unit = units_of(subject)[1]
    weights = versions(subject, unit)
    found = list(engine_of(subject, name, batch_size=4).attacked(unit, weights, x, y, attack, bounds))
    expected = list(engine_of(subject, "naive", batch_size=4).attacked(unit, weights, x, y, attack, bounds))
    assert len(found) == len(expected) == 3
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    if bounds is None and isinstance(attack, partial) and attack.keywords.get("epsilon"):
        clamped = list(engine_of(subject, name, batch_size=4).attacked(unit, weights, x, y, attack, "auto"))
        assert attack.keywords.keys() & {"bounds"} or not torch.equal(clamped[0], found[0])


def test_attacks_that_are_recognised():
    settings = fast_gradient(attack_of("fgsm", epsilon=0.5))
    assert settings is not None
    assert settings.epsilon == 0.5
    assert fast_gradient(attack_of("pgd", epsilon=0.5)) is None
    assert fast_gradient(fgsm) is None  # pyright: ignore[reportArgumentType]
    assert fast_gradient(partial(fgsm, epsilon=-1.0)) is None  # it complains itself
    assert fast_gradient(lambda model, x, y: x) is None


def test_regression_targets_and_one_sample():
    x = torch.rand(3, 4)
    targets = torch.rand(3, 2)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    subject = Subject.from_model(network, Data(x, targets), task="regression")
    for unit in units_of(subject):
        for size in (1, 2):
            attack, weights = attack_of("fgsm", epsilon=0.1), versions(subject, unit)
            found = exact_engine(subject, size).attacked(unit, weights, x, targets, attack)
            expected = engine_of(subject, "naive", batch_size=size).attacked(unit, weights, x, targets, attack)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_preprocessing_is_attacked_through():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    preprocessing = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.1), bounds=BOUNDS)
    x, y = torch.rand(5, 3, 6, 6), torch.arange(5) % 3
    subject = Subject.from_model(network, Data(x, y), preprocessing=preprocessing)
    attack = attack_of("fgsm", epsilon=0.05)
    for unit in units_of(subject):
        weights = versions(subject, unit)
        found = exact_engine(subject).attacked(unit, weights, x, y, attack)
        expected = engine_of(subject, "naive", batch_size=4).attacked(unit, weights, x, y, attack)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_gradients_of_a_value_with_many_readers_are_summed_in_the_models_order():
    subject = subject_of(ThreeReaders, 64)
    x, y = samples(subject)
    engine = exact_engine(subject, 64)
    unit = next(unit for unit in units_of(subject) if unit.name == "branches.0.weight")
    weights = versions(subject, unit)[1]
    program = engine.program
    ordered = program.region_in_order(unit)
    assert len(ordered.suffix) > len(program.region(unit).suffix)
    assert engine.gradients_agree(unit, x, y)
    attack, settings = attack_of("fgsm", epsilon=0.1), fast_gradient(attack_of("fgsm", epsilon=0.1))
    assert settings is not None
    changed = program.changed(ordered, unit, weights)
    expected = attacked(attack, subject, x, y, parameters=unit.parameters(weights), batch_size=64)
    assert torch.equal(CleanPoint(program, ordered, x, y).attacked(changed, settings, BOUNDS), expected)

    def loss(z, y):
        return nn.functional.cross_entropy(z, y, reduction="sum")

    # without the order gradients differ in the last bit, which this test would not see in signs alone
    in_order = CleanPoint(program, ordered, x, y).gradient(changed, loss)
    out_of_order = CleanPoint(program, program.region(unit), x, y).gradient(changed, loss)
    torch.testing.assert_close(in_order, out_of_order)
    assert not torch.equal(in_order, out_of_order)


class Kink(nn.Module):
    """Black pictures stand exactly on the kink of a clamp, or of a ReLU6."""

    def __init__(self, activation: nn.Module | None) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5, bias=False), nn.Linear(5, 3)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.second(hidden.clamp(0, 6) if self.activation is None else self.activation(hidden))


@pytest.mark.parametrize("activation", [None, nn.ReLU6(), nn.Hardtanh(0.0, 6.0), nn.ReLU()])
def test_kinks_that_the_graph_does_not_tell_apart(activation):
    x, y = torch.rand(8, 4), torch.arange(8) % 3
    x[4:] = 0
    subject = Subject.from_model(Kink(activation), Data(x, y))
    engine = exact_engine(subject)
    attack = attack_of("fgsm", epsilon=0.3)
    for unit in units_of(subject):
        assert engine.gradients_agree(unit, x, y) == (activation is not None)
        weights = versions(subject, unit)
        found = engine.attacked(unit, weights, x, y, attack)
        expected = engine_of(subject, "naive", batch_size=4).attacked(unit, weights, x, y, attack)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("network", [ResNet18, Attention])
def test_a_gradient_that_differs_sends_the_attack_to_the_module(network, monkeypatch):
    subject = subject_of(network)
    x, y = samples(subject)
    engine = exact_engine(subject)
    engine._exact.same_gradients = False  # type: ignore[misc]
    spy = Spy(engine, monkeypatch)
    unit = units_of(subject)[-1]
    weights = versions(subject, unit)
    attack = attack_of("fgsm", epsilon=0.05)
    found = list(engine.attacked(unit, weights, x, y, attack))
    assert spy.on_module == 3
    expected = engine_of(subject, "naive", batch_size=4).attacked(unit, weights, x, y, attack)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    del engine._exact.same_gradients


def test_weights_the_output_does_not_depend_on_and_inputs_it_does_not_depend_on():
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    x, y = torch.rand(5, 4), torch.arange(5) % 3
    subject = Subject.from_model(Constant(), Data(x, y))
    attack = attack_of("fgsm", epsilon=0.5)
    for choice in ("idle", "used"):
        unit = select_units(subject, choice)[0]
        weights = [torch.zeros(3, 4), torch.ones(3, 4)]
        found = exact_engine(subject).attacked(unit, weights, x, y, attack)
        expected = engine_of(subject, "naive", batch_size=4).attacked(unit, weights, x, y, attack)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), choice


@pytest.mark.parametrize("name", ["naive", "incremental", "batched"])
def test_attacks_leave_nothing_behind(name):
    subject = subject_of(Digits)
    x, y = samples(subject)
    before, state, inputs, labels = subject.digest, torch.get_rng_state(), x.clone(), y.clone()
    unit = units_of(subject)[2]
    engine = engine_of(subject, name, batch_size=4)
    weights = versions(subject, unit)
    list(engine.attacked(unit, weights, x, y, attack_of("fgsm", epsilon=0.1)))
    with pytest.raises(NumericalError):
        list(engine.attacked(unit, [weights[0] * torch.nan], x, y, attack_of("fgsm", epsilon=0.1)))
    with pytest.raises(UsageError):
        list(engine.attacked(unit, weights, x, y + 20, attack_of("fgsm", epsilon=0.1)))
    with pytest.raises(UsageError):
        list(engine.attacked(unit, weights, 3 * x, y, attack_of("fgsm", epsilon=0.1)))
    assert type(subject)(**{f: getattr(subject, f) for f in subject.__dataclass_fields__}).digest == before
    assert torch.equal(x, inputs)
    assert torch.equal(y, labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert not x.requires_grad
    assert not any(p.requires_grad or p.grad is not None for p in subject.model.parameters())


@pytest.mark.parametrize("precision", ["bf16", "channels_last"])
def test_attacks_stay_in_full_precision(precision, monkeypatch):
    subject = subject_of(ResNet18)
    x, y = samples(subject)
    unit = units_of(subject)[4]
    weights = versions(subject, unit)
    attack = attack_of("fgsm", epsilon=0.05)
    low = engine_of(subject, "incremental", batch_size=4, precision=precision)
    assert isinstance(low, IncrementalEngine)
    spy = Spy(low, monkeypatch)
    found = list(low.attacked(unit, weights, x, y, attack))
    changed = unit.parameters(weights[1])
    expected = attacked(attack, subject, x, y, parameters=changed, batch_size=4)
    assert torch.equal(torch.cat(spy.points[1::3]), expected)
    exact = list(exact_engine(subject).attacked(unit, weights, x, y, attack))
    scale = float(exact[1].abs().max())
    assert 0 < float((found[1] - exact[1]).abs().max()) < 0.1 * scale
