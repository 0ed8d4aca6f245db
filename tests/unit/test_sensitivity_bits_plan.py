"""Bit plans: every kind of budget is kept, the real run decides, and a plan survives being written and read."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tests.support.inputs import seeded
from torch import nn

from assay.errors import MissingExtra, NumericalError, UsageError
from assay.load.demo import demo_data, demo_model
from assay.sensitivity.bits import bit_widths
from assay.sensitivity.bits.export import onnx_outputs, quantised_copy, read_plan, write_qdq
from assay.sensitivity.bits.plan import Plan
from assay.sensitivity.bits.verify import compare
from assay.sensitivity.roundoff import FORMATS, IntegerFormat, Precision, simulate
from assay.subject import Data, Subject


@pytest.fixture(scope="module")
def data() -> Data:
    return demo_data().take(120)


@pytest.fixture(scope="module")
def plan(data: Data) -> Plan:
    return bit_widths(demo_model(), data, budget=4.0, formats=("int3", "int4", "int5", "int6", "int8"))


class TestBudgets:
    def test_average_bits(self, plan: Plan):
        sizes = {"first": 108, "second": 1296, "third": 2592, "head": 960}
        assert set(plan.bits) == set(sizes)
        average = sum(sizes[name] * bits for name, bits in plan.bits.items()) / sum(sizes.values())
        assert plan.average_bits == pytest.approx(average)
        assert average <= 4 + 1e-9
        assert plan.size == pytest.approx(average * sum(sizes.values()) / 8)
        assert plan.kind == "mixed"
        assert plan.uniform_format == "int4"
        assert plan.uniform is not None
        assert plan.verified.relative_error < plan.uniform.relative_error
        assert plan.predicted == pytest.approx(plan.verified.relative_error, rel=0.4)
        assert "int4" in plan.notes[-1]

    def test_verified_is_a_real_run_on_all_data(self, plan: Plan, data: Data):
        by_layer = {name: Precision(weights=target) for name, target in plan.formats.items()}
        outputs = simulate(demo_model(), data.inputs, Precision(), layers=by_layer)
        exact = simulate(demo_model(), data.inputs, Precision())
        torch.testing.assert_close(plan.outputs(data.inputs), outputs)
        found = compare(outputs, exact, data.targets)
        assert found == plan.verified
        assert found.samples == 120
        assert found.accuracy == pytest.approx(float((outputs.argmax(1) == data.targets).double().mean()))

    def test_more_budget_less_predicted_error(self, plan: Plan):
        points = plan.pareto
        assert len(points) > 5
        for point, following in pairwise(points):
            assert point.cost < following.cost
            assert point.predicted > following.predicted
        assert points[-1].cost <= 8

    def test_size_and_latency(self, data: Data):
        by_size = bit_widths(demo_model(), data, budget={"size": 2500}, formats=(3, 4, 6, 8))
        assert by_size.size <= 2500
        time = {"int4_channel": 1.0, "int8_channel": 2.0}
        table = {(layer, name): cost for layer in by_size.bits for name, cost in time.items()}
        timed = bit_widths(demo_model(), data, budget={"latency": 6, "table": table}, formats=(4, 6, 8))
        assert sorted(timed.bits.values()) == [4, 4, 8, 8]

        def cost(layer: str, name: str) -> float:
            return table.get((layer, name), float("inf"))

        by_function = bit_widths(demo_model(), data, budget={"latency": 6, "table": cost}, formats=(4, 6, 8))
        assert by_function.bits == timed.bits

    def test_allowed_error_and_agreement(self, data: Data):
        for budget in ({"error": 0.03}, {"agreement": 0.99}):
            found = bit_widths(demo_model(), data, budget=budget)
            assert found.verified.relative_error <= budget.get("error", 1)
            assert (found.verified.agreement or 0) >= budget.get("agreement", 0)
            assert found.uniform is not None
            uniform_bits = int(found.uniform_format.removeprefix("int").removesuffix("_channel"))
            assert found.average_bits <= uniform_bits

    def test_held_out_inputs_take_no_part(self, data: Data):
        found = bit_widths(demo_model(), data, budget={"agreement": 0.98}, holdout=0.25)
        assert found.held is not None
        assert (found.held.samples, found.verified.samples) == (30, 90)
        kept = torch.zeros(120, dtype=torch.bool)
        kept[2::4] = True  # every fourth
        alone = bit_widths(demo_model(), (data.inputs[~kept], data.targets[~kept]), budget={"agreement": 0.98})
        assert (alone.options, alone.verified, alone.held) == (found.options, found.verified, None)
        exact = simulate(demo_model(), data.inputs[kept], Precision())
        assert compare(found.outputs(data.inputs[kept]), exact, data.targets[kept]) == found.held
        assert "30 inputs that took no part" in found.notes[-1]
        for share in (-0.1, 1.0, 0.999, 1e-6):
            with pytest.raises(UsageError, match="holdout"):
                bit_widths(demo_model(), data, budget=5.0, holdout=share)

    def test_activations_get_formats_too(self, data: Data):
        fixed = bit_widths(demo_model(), data, budget=5.0, activations=8)
        assert {target.name for target in fixed.activations.values()} == {"int8"}
        coarse = bit_widths(demo_model(), data, budget=5.0, activations=3)
        assert coarse.verified.relative_error > 3 * fixed.verified.relative_error
        assert list(fixed.activations) == ["input", "first", "second", "third", "head"]
        chosen = bit_widths(
            demo_model(), data, budget={"bits": 5, "activation_bits": 6.5}, activations=(4, 6, 8), formats=(4, 5, 6, 8)
        )
        sizes = {group.name: group.size for group in chosen.problem.groups if group.kind == "activations"}
        stored = sum(sizes[name] * target.bits for name, target in chosen.activations.items()) / sum(sizes.values())
        assert stored <= 6.5
        assert chosen.average_bits <= 5
        assert len({target.bits for target in chosen.activations.values()}) > 1

    def test_bounds_that_cannot_be_met(self, data: Data):
        with pytest.raises(UsageError, match="least possible is 3"):
            bit_widths(demo_model(), data, budget=2.0)
        with pytest.raises(UsageError, match="No choice of formats"):
            bit_widths(demo_model(), data, budget={"error": 1e-9}, formats=(3, 4))
        for budget in ({"bits": 4, "size": 100}, {"speed": 3}, {"agreement": 1.5}, -1.0, float("nan")):
            with pytest.raises(UsageError):
                bit_widths(demo_model(), data, budget=budget)
        with pytest.raises(UsageError, match="needs a table"):
            bit_widths(demo_model(), data, budget={"latency": 1.0})
        with pytest.raises(UsageError, match="Calibration data"):
            bit_widths(demo_model(), budget=4.0)
        with pytest.raises(UsageError, match="at least one format"):
            bit_widths(demo_model(), data, budget=4.0, formats=())


class TestHonesty:
    def test_uniform_wins_where_it_does_better(self, data: Data, monkeypatch: pytest.MonkeyPatch):
        """A choice of the coarsest formats loses the real run, and the plan says so."""
        from assay.sensitivity.bits import choose

        monkeypatch.setattr(choose.Chooser, "best", lambda self, *arguments: (0, 0, 0, 2))
        monkeypatch.setattr(choose.Chooser, "additive", lambda self, capacities: (0, 0, 0, 0))
        found = bit_widths(demo_model(), data, budget=4.0, formats=("int3", "int4", "int8"))
        assert found.kind == "uniform"
        assert set(found.bits.values()) == {4}
        assert found.verified == found.uniform
        assert any("Uniform int4 is the plan" in note for note in found.notes)

    def test_options_beyond_first_order_are_left_out(self, data: Data):
        found = bit_widths(demo_model(), data, budget=6.0, formats=(2, 4, 8))
        assert found.chooser.forbidden.any()
        assert min(found.bits.values()) >= 4
        forced = bit_widths(demo_model(), data, budget=2.5, formats=(2, 4))
        assert any("first-order predictions are unsure" in note for note in forced.notes)
        assert forced.average_bits <= 2.5

    def test_model_is_left_alone(self, data: Data):
        model = demo_model()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        bit_widths(model, data, budget=4.0)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

    def test_same_plan_twice(self, data: Data, plan: Plan):
        again = bit_widths(demo_model(), data, budget=4.0, formats=("int3", "int4", "int5", "int6", "int8"))
        assert again.bits == plan.bits
        assert again.verified == plan.verified

    def test_other_scores_and_a_regression(self, data: Data):
        for method in ("joint_margin", "kl", "hessian"):
            assert bit_widths(demo_model(), data, budget=4.5, method=method).average_bits <= 4.5
        network = seeded(lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 1)))
        found = bit_widths(network, torch.rand(30, 6), budget=5.0)
        assert found.verified.agreement is None
        with pytest.raises(UsageError, match="at least two outputs"):
            bit_widths(network, torch.rand(30, 6), budget={"agreement": 0.9})

    def test_floats_and_integers_mixed(self, data: Data):
        found = bit_widths(demo_model(), data, budget=9.0, formats=("int4", "int8", "fp16", FORMATS["e4m3"]))
        assert found.average_bits <= 9
        assert set(found.bits.values()) <= {4, 8, 16}

    def test_preprocessing_and_batch_norm(self):
        from assay.preprocess import Preprocessing

        network = seeded(
            lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
        )
        inputs = torch.rand(20, 1, 8, 8)
        subject = Subject.from_model(network, inputs, preprocessing=Preprocessing(mean=(0.5,), std=(0.2,)))
        found = bit_widths(subject, budget=5.0)
        assert list(found.bits) == ["0", "4"]
        assert found.verified.relative_error < 0.2


class TestFile:
    def test_round_trip(self, data: Data, tmp_path: Path):
        made = bit_widths(demo_model(), data, budget=4.5, activations="int8_affine")
        stored = read_plan(made.export(tmp_path / "plan.json"))
        assert stored.bits == made.bits
        assert stored.kind == made.kind
        assert stored.verified.relative_error == made.verified.relative_error
        precision, layers = stored.precision
        outputs = simulate(demo_model(), data.inputs, precision, layers=layers)
        torch.testing.assert_close(outputs, made.outputs(data.inputs), rtol=0, atol=0)

    def test_errors(self, plan: Plan, tmp_path: Path):
        with pytest.raises(UsageError, match="no such plan"):
            read_plan(tmp_path / "absent.json")
        (tmp_path / "other.json").write_text('{"schema_version": "assay.bit-plan/9"}')
        with pytest.raises(UsageError, match="not a bit plan"):
            read_plan(tmp_path / "other.json")
        with pytest.raises(UsageError, match=r"\.json or \.onnx"):
            plan.export(tmp_path / "plan.txt")


class TestOnnx:
    @pytest.fixture(autouse=True)
    def _libraries(self) -> None:
        for library in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(library)

    def test_weights_only_is_the_plan_itself(self, plan: Plan, data: Data, tmp_path: Path):
        found = write_qdq(plan, tmp_path / "plan.onnx")
        assert set(found.integers) == set(plan.bits)
        assert not found.kept
        assert {name for name, kind in found.integers.items() if kind == "int4"} == {
            name for name, bits in plan.bits.items() if bits <= 4
        }
        ran = onnx_outputs(found.path, data.inputs)
        torch.testing.assert_close(ran.double(), plan.outputs(data.inputs), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("budget", [4.5, 7.0])
    def test_every_layer_keeps_its_scales(self, data: Data, tmp_path: Path, budget: float):
        network = seeded(
            lambda: nn.Sequential(
                nn.Conv2d(1, 6, 3, groups=1),
                nn.BatchNorm2d(6),
                nn.ReLU(),
                nn.ConvTranspose2d(6, 4, 2),
                nn.Flatten(2),
                nn.Linear(49, 5),
                nn.Flatten(),
                nn.Linear(20, 3),
            )
        )
        formats = ("int4_channel", "int6_channel", "int12_channel", "fp16")
        made = bit_widths(network, data.inputs, budget=budget, formats=formats)
        found = write_qdq(made, tmp_path / "plan.onnx")
        assert set(found.integers) | set(found.kept) == set(made.bits)
        plain = onnx_outputs(found.path, data.inputs, optimise=False).double()
        torch.testing.assert_close(plain, made.outputs(data.inputs), rtol=1e-5, atol=1e-6)
        fast = onnx_outputs(found.path, data.inputs).double()
        assert float((fast - plain).norm() / plain.norm()) < 0.02

    @pytest.mark.parametrize("kind", ["int8", "int8_affine"])
    def test_integer_arithmetic_is_close_to_the_plan(self, data: Data, tmp_path: Path, kind: str):
        made = bit_widths(demo_model(), data, budget=8.0, formats=("int8_channel",), activations=kind)
        found = write_qdq(made, tmp_path / "plan.onnx")
        assert set(found.integers.values()) == {"int8"}
        ran = onnx_outputs(found.path, data.inputs)
        exact = made.problem.outputs(None, data.inputs)
        measured = compare(ran, exact)
        assert measured.agreement is not None
        assert measured.agreement >= 0.97
        assert 1e-4 < measured.relative_error < 3 * made.verified.relative_error

    def test_activations_it_cannot_hold(self, data: Data, tmp_path: Path):
        made = bit_widths(demo_model(), data, budget=6.0, activations=6)
        with pytest.raises(UsageError, match="8 or 16 bits"):
            write_qdq(made, tmp_path / "plan.onnx")


def test_torchao_copy(data: Data):
    pytest.importorskip("torchao")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    made = bit_widths(seeded(lambda: model), data.inputs, budget=6.0, formats=(4, 8))
    found = quantised_copy(made)
    assert set(found.quantised) == {"1", "3"}
    assert type(found.model[1].weight).__name__ != "Parameter"  # type: ignore[index]
    assert 0 < found.verified.relative_error < 3 * made.verified.relative_error
    convolutions = quantised_copy(bit_widths(demo_model(), data, budget=6.0))
    assert set(convolutions.quantised) == {"head"}
    assert all("nn.Linear" in reason for reason in convolutions.kept.values())


def test_missing_libraries_name_the_extra(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(MissingExtra, match=r"assay\[onnx\]"):
        plan.export(tmp_path / "plan.onnx")
    with pytest.raises(MissingExtra, match=r"assay\[torchao\]"):
        quantised_copy(plan)


def test_scales_per_group(data: Data):
    found = bit_widths(demo_model(), data, budget=4.0, formats=("int3_group16", "int4_group16", "int6_group16"))
    assert all(isinstance(target, IntegerFormat) and target.group == 16 for target in found.formats.values())
    coarse = bit_widths(demo_model(), data, budget=4.0, formats=("int3", "int4", "int6"))
    assert found.verified.relative_error < coarse.verified.relative_error


def test_outputs_of_zero_have_no_relative_error():
    network = seeded(lambda: nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False)))
    with pytest.raises(NumericalError, match="All outputs are 0"):
        bit_widths(network, torch.zeros(5, 4), budget=5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"budget": "much"}, "is a number"),
        ({"budget": None}, "is a number"),
        ({"budget": {"latency": 1.0, "table": {("typo", "int8_channel"): 0.1}}}, "no entry for layer"),
        ({"budget": 5, "samples": 0}, "at least one sample|At least one sample"),
    ],
)
def test_requests_that_make_no_sense_are_named(options: dict, match: str):
    with pytest.raises(UsageError, match=match):
        bit_widths(nn.Linear(3, 2), torch.ones(4, 3), **options)


def test_one_format_needs_no_list():
    assert bit_widths(nn.Linear(3, 2), torch.ones(4, 3), budget=5, formats="int4").average_bits == 4
