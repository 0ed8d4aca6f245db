"""Engines: the same outputs as the module, without its repeated work, in bounded memory."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pytest
import torch
import torch.nn.functional as F
from tests.support.filtered_networks import (
    SHAPES,
    Attention,
    Computed,
    Digits,
    Grouped,
    ReluThatASiblingReads,
    ResNet18,
    SqueezeExcite,
    ThreeReaders,
    Tied,
    subject_of,
)
from torch import Tensor, nn

from assay.errors import AssayError, CaptureError, UsageError
from assay.filtering import FILTERS, distinct_masks, select_units
from assay.filtering.engines import RULE_VERSION, engine_of, incremental
from assay.filtering.engines.batched import ROWS_ELEMENTS, BatchedEngine
from assay.filtering.engines.incremental import IncrementalEngine
from assay.filtering.engines.kernels import QUICK
from assay.filtering.engines.naive import NaiveEngine
from assay.filtering.engines.program import footprint
from assay.filtering.units import Unit
from assay.subject import Subject

NETWORKS = [pytest.param(network, id=network.__name__) for network in SHAPES]  # type: ignore[attr-defined]


def units_of(subject: Subject) -> tuple[Unit, ...]:
    computed = any("parametrizations" in name for name, _ in subject.model.named_parameters())
    return select_units(subject, "all" if computed else "weight")


def weight_of(subject: Subject, unit: Unit) -> Tensor:
    return unit.take(dict(subject.model.named_parameters(remove_duplicate=False))[unit.parameter])


def filtered(subject: Subject, unit: Unit, n: int = 5) -> list[Tensor]:
    """The unfiltered weights, and those of every filter and threshold."""
    weight = weight_of(subject, unit)
    merged = distinct_masks(weight, FILTERS, n)
    return [weight.clone(), *(merged.filtered(row) for row in range(len(merged)))]


def inputs_of(subject: Subject) -> Tensor:
    assert subject.data is not None
    return subject.data.inputs


def same(found: Tensor, expected: Tensor) -> bool:
    """Equal bit for bit; a weight computed from zeros may be NaN."""
    return torch.equal(found.isnan(), expected.isnan()) and torch.equal(found.nan_to_num(), expected.nan_to_num())


def equal(found: Iterable[Tensor], expected: Iterable[Tensor]) -> bool:
    pairs = list(zip(found, expected, strict=True))
    assert len(pairs) > 1
    return all(same(a, b) for a, b in pairs)


def exact_engine(subject: Subject, batch_size: int | None = 4) -> IncrementalEngine:
    engine = engine_of(subject, "incremental", batch_size=batch_size)
    assert type(engine) is IncrementalEngine
    return engine


@pytest.mark.parametrize("network", NETWORKS)
def test_incremental_equals_naive_bit_for_bit(network):
    subject = subject_of(network)
    x, units = inputs_of(subject), units_of(subject)
    slow, quick = engine_of(subject, "naive", batch_size=4), exact_engine(subject)
    assert quick.agrees(x)
    for unit in units:
        weights = filtered(subject, unit)
        expected = list(slow.outputs(unit, weights, x))
        assert equal(quick.outputs(unit, weights, x), expected), unit.name
        assert not all(same(expected[0], other) for other in expected), f"{unit.name}: nothing is tested"


def test_resnet_has_all_its_units():
    assert len(units_of(subject_of(ResNet18))) == 21


def test_naive_is_the_users_model_with_other_weights():
    subject = subject_of(Tied)
    (unit, *_), x = units_of(subject), inputs_of(subject)
    assert len(unit.aliases) == 3
    changed = copy.deepcopy(subject.model)
    weight = torch.randn(unit.shape)
    for name in unit.aliases:
        changed.get_submodule(name.removesuffix(".weight")).weight = nn.Parameter(weight)  # type: ignore[assignment]
    (found,) = engine_of(subject, "naive").outputs(unit, [weight], x)
    assert torch.equal(found, changed(x))
    assert torch.equal(next(exact_engine(subject, 6).outputs(unit, [weight], x)), changed(x))


@pytest.mark.parametrize("network", [ResNet18, Grouped])
def test_channels_are_units_too(network):
    subject = subject_of(network)
    x = inputs_of(subject)
    units = select_units(subject, granularity="channel")
    slow, quick = engine_of(subject, "naive", batch_size=2), exact_engine(subject, 2)
    for unit in units[:: len(units) // 12]:
        weights = [weight_of(subject, unit), torch.zeros(unit.shape)]
        assert equal(quick.outputs(unit, weights, x), slow.outputs(unit, weights, x)), unit.name


@pytest.mark.parametrize("network", NETWORKS)
def test_batched_runs_several_masks_at_once_with_equal_outputs(network):
    subject = subject_of(network)
    x = inputs_of(subject)
    engine = engine_of(subject, "batched", batch_size=4)
    assert isinstance(engine, BatchedEngine)
    together = {unit.name: engine.masks_per_pass(unit, len(x)) for unit in units_of(subject)}
    alone = {name for name, count in together.items() if count < 2}
    # rows of the tokens lie before those of the samples there, so that masks cannot follow each other
    assert alone == ({"attention.out_proj.weight"} if network is Attention else set())
    for unit in units_of(subject):
        weights = filtered(subject, unit)
        for found, expected in zip(
            engine.outputs(unit, weights, x), exact_engine(subject).outputs(unit, weights, x), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_batched_takes_one_mask_at_a_time_where_values_are_large():
    subject = subject_of(Digits, 600)
    engine = engine_of(subject, "batched")
    assert isinstance(engine, BatchedEngine)
    assert engine.batch_size == 512
    first, second, third, fourth, _ = (engine.masks_per_pass(unit, 600) for unit in units_of(subject))
    assert first == second == ROWS_ELEMENTS // (512 * 1024)  # 16 channels of 8x8 are the largest value
    assert third == ROWS_ELEMENTS // (512 * 256) < fourth
    large = engine_of(subject_of(ResNet18), "batched", batch_size=2)
    assert isinstance(large, BatchedEngine)
    large.batch_size = 4096
    unit = units_of(large.subject)[0]
    assert large.masks_per_pass(unit, 4096) == 1
    weights = filtered(large.subject, unit, 2)
    y = inputs_of(large.subject)
    assert equal(large.outputs(unit, weights, y), engine_of(large.subject, "naive").outputs(unit, weights, y))


@pytest.mark.parametrize("network", [Digits, Attention])
@pytest.mark.parametrize("name", ["naive", "incremental", "batched"])
def test_decisions_do_not_depend_on_the_batch_size(network, name):
    subject = subject_of(network, 60)
    x = inputs_of(subject)
    for unit in units_of(subject):
        weights = filtered(subject, unit)
        found = [
            [logits.argmax(1) for logits in engine_of(subject, name, batch_size=size).outputs(unit, weights, x)]
            for size in (1, 7, 60)
        ]
        assert equal(found[0], found[1])
        assert equal(found[0], found[2])


class Watch:
    """Counts the steps that ran by the name of what they made, and the most bytes of values alive after any."""

    def __init__(self, engine: IncrementalEngine) -> None:
        self.steps: Counter[str] = Counter()
        self.peak = 0
        self._parameters = set(engine.program.constants)
        self._caches: list[Mapping[str, Tensor]] = []
        engine.observe = self
        keep = engine._keep

        def remembering(*arguments):
            kept = keep(*arguments)
            self._caches.append(kept.values)
            return kept

        engine._keep = remembering  # type: ignore[method-assign]

    def __call__(self, values: Mapping[str, Tensor]) -> None:
        self.steps[list(values)[-1]] += 1
        alive = {}
        for group in (values, *self._caches):
            for name, tensor in group.items():
                if name in self._parameters:
                    continue
                alive[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        self.peak = max(self.peak, sum(alive.values()))


@pytest.mark.parametrize("network", NETWORKS)
def test_every_step_outside_the_suffix_runs_once_per_batch(network):
    subject = subject_of(network)
    x = inputs_of(subject)
    for unit in units_of(subject):
        engine = exact_engine(subject)
        watch = Watch(engine)
        weights = filtered(subject, unit, 2)
        list(engine.outputs(unit, weights, x))
        region = engine.program.region(unit)
        once = {step.node.name: 2 for step in region.prefix}
        often = {step.node.name: 2 * len(weights) for step in region.suffix}
        assert watch.steps == once | often


def test_parallel_branches_are_not_run_again():
    subject = subject_of(SqueezeExcite)
    program = exact_engine(subject).program
    suffixes = {
        unit.name: {step.node.module_path for step in program.region(unit).suffix} for unit in units_of(subject)
    }
    assert "side" not in suffixes["up.weight"]
    assert not {"down", "up"} & suffixes["side.weight"]
    assert suffixes["head.weight"] == {"head"}
    later = program.region(units_of(subject)[1])
    made = [program.graph[name] for name in later.frontier]  # pooled for the branch, to be scaled, and the side branch
    assert [(node.op, node.module_path) for node in made] == [("silu", ""), ("adaptive_avg_pool", ""), ("conv", "side")]


@pytest.mark.parametrize("network", NETWORKS)
def test_memory_stays_within_the_stated_bound(network):
    subject = subject_of(network)
    x = inputs_of(subject)
    for unit in units_of(subject):
        engine = exact_engine(subject)
        watch = Watch(engine)
        list(engine.outputs(unit, filtered(subject, unit, 3), x))
        inputs = x.untyped_storage().nbytes()
        assert 0 < watch.peak - inputs <= engine.memory(unit, len(x)), unit.name


def test_bound_of_memory_is_not_idle():
    subject = subject_of(ResNet18)
    x = inputs_of(subject)
    shares = []
    for unit in units_of(subject):
        engine = exact_engine(subject)
        watch = Watch(engine)
        list(engine.outputs(unit, filtered(subject, unit, 2)[:2], x))
        shares.append((watch.peak - x.untyped_storage().nbytes()) / engine.memory(unit, len(x)))
    assert min(shares) > 0.4


def test_few_batches_are_kept_where_the_frontier_is_large(monkeypatch):
    subject = subject_of(ResNet18)
    x, unit = inputs_of(subject), units_of(subject)[9]
    weights = filtered(subject, unit)
    engine = exact_engine(subject, 2)
    expected = list(engine.outputs(unit, weights, x))
    assert engine.cached_batches(unit, len(x)) == 3
    size = engine.memory(unit, len(x))
    frontier = footprint(engine.program.graph, engine.program.region(unit), 2).frontier
    monkeypatch.setattr(incremental, "CACHE_BYTES", 2 * frontier)
    assert engine.cached_batches(unit, len(x)) == 2
    assert engine.memory(unit, len(x)) < size
    assert equal(engine.outputs(unit, weights, x), expected)


class Lazy(Sequence):
    """Weights that are computed when asked for, and counted."""

    def __init__(self, weights: list[Tensor]) -> None:
        self.weights, self.asked = weights, 0

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, index):
        self.asked += 1
        return self.weights[index]


@pytest.mark.parametrize("name", ["naive", "incremental"])
def test_masks_are_streamed(name):
    subject = subject_of(ReluThatASiblingReads)
    unit = units_of(subject)[1]
    lazy = Lazy(filtered(subject, unit))
    outputs = engine_of(subject, name, batch_size=4).outputs(unit, lazy, inputs_of(subject))
    assert next(outputs).shape == (6, 3)
    assert lazy.asked == 1
    assert len(list(outputs)) == len(lazy) - 1 == lazy.asked - 1


@pytest.mark.parametrize("name", ["naive", "incremental", "batched"])
def test_nothing_of_the_subject_changes(name):
    subject = subject_of(ResNet18)
    x, unit = inputs_of(subject), units_of(subject)[3]
    before, state, inputs = subject.digest, torch.get_rng_state(), x.clone()
    engine = engine_of(subject, name, batch_size=2)
    list(engine.outputs(unit, filtered(subject, unit, 2), x))
    with pytest.raises(UsageError):
        list(engine.outputs(unit, [torch.zeros(1)], x))
    assert type(subject)(**{f: getattr(subject, f) for f in subject.__dataclass_fields__}).digest == before
    assert torch.equal(x, inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.requires_grad or p.grad is not None for p in subject.model.parameters())
    assert not any(module.training for module in subject.model.modules())


@pytest.mark.parametrize("name", ["naive", "incremental", "batched"])
def test_weights_that_the_output_does_not_depend_on(name):
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    x = torch.randn(5, 4)
    subject = Subject.from_model(Idle(), x)
    unit = select_units(subject, "idle")[0]
    found = list(engine_of(subject, name).outputs(unit, [torch.zeros(3, 4), torch.ones(3, 4)], x))
    assert equal(found, [subject.model(x)] * 2)


def test_weights_computed_from_parameters_are_run_again():
    subject = subject_of(Computed)
    region = exact_engine(subject).program.region(units_of(subject)[1])
    assert "_weight_norm" in {step.node.name for step in region.suffix}


def test_auto_takes_what_is_measured_to_be_quickest():
    assert isinstance(engine_of(subject_of(Digits)), BatchedEngine)
    large = engine_of(subject_of(ResNet18))
    assert type(large) is IncrementalEngine
    assert large.why == ""
    assert isinstance(RULE_VERSION, int)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else self.layer(-x)


def test_what_cannot_be_captured_runs_naively_and_says_why():
    x = torch.rand(5, 4)
    subject = Subject.from_model(Branching(), x)
    engine = engine_of(subject)
    assert isinstance(engine, NaiveEngine)
    assert "data-dependent" in engine.why or "depends on the values" in engine.why
    unit = select_units(subject)[0]
    assert torch.equal(next(engine.outputs(unit, [weight_of(subject, unit)], x)), subject.model(x))
    with pytest.raises(CaptureError):
        engine_of(subject, "incremental")


def test_a_graph_that_only_rounds_like_the_model_is_not_taken_by_auto(monkeypatch):
    subject = subject_of(Digits)
    monkeypatch.setattr(IncrementalEngine, "agrees", lambda self, x: False)
    engine = engine_of(subject)
    assert isinstance(engine, NaiveEngine)
    assert "bit for bit" in engine.why


def test_agreement_is_measured():
    subject = subject_of(ThreeReaders)
    engine = exact_engine(subject)
    assert engine.agrees(inputs_of(subject))
    name = next(name for name, known in engine.program.graph.parameter_names.items() if known == "head.bias")
    engine.program.constants = {**engine.program.constants, name: engine.program.constants[name] * (1 + 2**-22)}
    assert not engine.agrees(inputs_of(subject))


def test_other_precisions_are_close_and_only_on_request():
    subject = subject_of(ResNet18)
    x, unit = inputs_of(subject), units_of(subject)[5]
    weights = filtered(subject, unit, 2)
    expected = torch.stack(list(exact_engine(subject).outputs(unit, weights, x)))
    for name in ("naive", "incremental"):
        low = engine_of(subject, name, batch_size=4, precision="bf16")
        found = torch.stack(list(low.outputs(unit, weights, x)))
        assert found.dtype == torch.float32
        assert 0 < float((found - expected).abs().max()) < 0.1 * float(expected.abs().max())
        assert not low.agrees(x)
        last = engine_of(subject, name, batch_size=4, precision="channels_last")
        torch.testing.assert_close(torch.stack(list(last.outputs(unit, weights, x))), expected, rtol=1e-4, atol=1e-5)


def test_cost_is_the_work_that_is_done():
    subject = subject_of(ResNet18)
    engine, slow = exact_engine(subject), engine_of(subject, "naive")
    first, *_, last = units_of(subject)
    whole = engine.cost(first, 10, 100)
    assert engine.cost(last, 10, 100) < 0.15 * whole
    assert engine.cost(first, 20, 100) == pytest.approx(2 * whole)
    assert engine.cost(last, 10, 100, adaptive=True) > 10 * engine.cost(last, 10, 100)
    assert slow.cost(first, 10, 100) == pytest.approx(slow.cost(last, 10, 100))


@pytest.mark.parametrize("kernel_size", [(1,), (2,), (3,), (3, 2)])
@pytest.mark.parametrize("stride", [(), (1,), (2,), (3, 1)])
@pytest.mark.parametrize("padding", [(0,), (1,)])
@pytest.mark.parametrize("dilation", [(1,), (2,)])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_quick_pooling_equals_torchs(kernel_size, stride, padding, dilation, ceil_mode):
    if padding[0] * 2 > min(kernel_size):
        padding = (0,)
    x = torch.relu(torch.randn(2, 3, 11, 8))
    x[0, 0, 3, 4] = torch.nan
    settings = {"padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
    found = QUICK["max_pool"](x, kernel_size=kernel_size, stride=stride, **settings)
    pooled = F.max_pool2d(x, kernel_size, stride or kernel_size, **settings)
    assert torch.equal(found.nan_to_num(-7.0), pooled.nan_to_num(-7.0))
    line = x[:, 0]
    if len(kernel_size) == 1 and len(stride) < 2:
        found = QUICK["max_pool"](line, kernel_size=kernel_size, stride=stride, **settings)
        pooled = F.max_pool1d(line, kernel_size, stride or kernel_size, **settings)
        assert torch.equal(found.nan_to_num(-7.0), pooled.nan_to_num(-7.0))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"name": "vmap"}, "engine"),
        ({"precision": "fp8"}, "engine"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments, expected):
    with pytest.raises(UsageError) as caught:
        engine_of(subject_of(ThreeReaders), **arguments)
    assert caught.value.where == expected
    assert isinstance(caught.value, AssayError)


@pytest.mark.parametrize("name", ["naive", "incremental", "batched"])
def test_units_of_another_model_are_refused(name):
    subject, other = subject_of(ThreeReaders), subject_of(Grouped)
    unit = units_of(other)[0]
    with pytest.raises(UsageError, match="no parameter"):
        list(engine_of(subject, name).outputs(unit, [weight_of(other, unit)] * 2, inputs_of(subject)))
