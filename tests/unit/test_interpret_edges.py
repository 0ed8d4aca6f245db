"""Corners of the walks and linear maps: what bends, what is held in memory, integer nodes, broken rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.support.inputs import Function, close, numbers
from torch import Tensor, nn

from assay.errors import AssayError, PluginError
from assay.grade import Grade
from assay.graph import OPERATORS, Node, capture, evaluate_node
from assay.interpret import (
    Gains,
    JacobianMap,
    OperatorMap,
    RuleTable,
    Step,
    Tied,
    backward,
    check_rule,
    coverage,
    fallback,
    forward,
    rules,
    unsupported,
)
from assay.interpret.linear import probe_variances, sum_all
from assay.interpret.rules import varying_positions


class TestSampledFallback:
    def test_a_function_that_bends_off_passes_on_less(self) -> None:
        mean, draws = torch.tensor([[0.0, 0.3, -1.5]]).double(), 2 * numbers(400, 1, 3)
        replaced = fallback.sampled(torch.tanh, [mean], [draws])
        both = torch.cat([draws, -draws])
        values = torch.tanh(mean + both)
        steps = (1 - mean.tanh().square()) * both
        # least squares through the mean of the draws: the same slope by numpy's solver, output by output
        slope = [
            torch.linalg.lstsq(steps[:, 0, i : i + 1], (values - values.mean(0))[:, 0, i : i + 1]).solution
            for i in range(3)
        ]
        slope = torch.stack(slope).reshape(1, 3)
        assert (slope[:, :2] < 0.7).all(), "tanh saturates: this case tells a slope from one"
        close(replaced.mean, values.mean(0))
        direction = numbers(4, 1, 3, seed=1)
        close(replaced.linear.apply(direction), slope * (1 - mean.tanh().square()) * direction)
        assert replaced.innovation is not None
        close(replaced.innovation, (values - values.mean(0) - slope * steps).square().mean(0))
        # what is kept and what is left are uncorrelated, and together are the variance of the values
        kept = (slope * steps).square().mean(0)
        close(kept + replaced.innovation, values.square().mean(0) - values.mean(0).square(), 1e-10)

    def test_an_output_that_does_not_move_keeps_its_jacobian(self) -> None:
        """At the kink of a square the Jacobian is zero: nothing passes, all is innovation, no number is lost."""
        draws = numbers(100, 1, 2)
        replaced = fallback.sampled(torch.square, [torch.zeros(1, 2).double()], [draws])
        close(replaced.linear.apply(torch.ones(1, 1, 2).double()), torch.zeros(1, 1, 2).double())
        assert replaced.innovation is not None
        both = torch.cat([draws, -draws]).square()
        close(replaced.innovation, both.var(0, unbiased=False))

    def test_a_step_without_noise_is_the_function_itself(self) -> None:
        mean = numbers(2, 3)
        replaced = fallback.sampled(torch.exp, [mean], [torch.zeros(5, 2, 3).double()])
        close(replaced.mean, mean.exp())
        direction = numbers(2, 2, 3, seed=1)
        close(replaced.linear.apply(direction), mean.exp() * direction)
        assert replaced.innovation is not None
        assert (replaced.innovation < 1e-28).all(), "rounding of a mean of ten equal numbers"

    def test_inputs_move_together(self) -> None:
        means, draws = [numbers(1, 4), numbers(1, 4, seed=1)], numbers(60, 1, 4, seed=2)
        replaced = fallback.sampled(lambda x, y: x - y, means, [draws, draws])
        close(replaced.mean, means[0] - means[1])
        assert replaced.innovation is not None
        close(replaced.innovation, torch.zeros(1, 4).double())


class TestLinearMaps:
    def test_of_what_varies_only_the_shape_is_held(self) -> None:
        x, weight = numbers(64, 500), numbers(3, 500, seed=1)
        linear = OperatorMap(OPERATORS["linear"], [x, weight, None], frozenset({0}), {})
        held = linear.inputs[0]
        assert held is not None
        assert held.shape == x.shape
        assert held.untyped_storage().nbytes() == 8
        assert linear.inputs[1] is weight
        close(linear.apply(x.unsqueeze(0))[0], x @ weight.T)

    def test_a_wrong_number_of_stacks_is_refused(self) -> None:
        x, y = numbers(2, 3), numbers(2, 3, seed=1)
        two = OperatorMap(OPERATORS["sub"], [x, y], frozenset({0, 1}), {})
        for call in (two.apply, Gains(x, y).apply, Gains(x, y).squared):
            with pytest.raises(ValueError, match="argument 2"):
                call(x.unsqueeze(0))
        with pytest.raises(ValueError, match="argument 2"):
            Gains(x, y, shapes=[x.shape]).transpose(x.unsqueeze(0))

    def test_no_columns_have_the_image_s_shape_and_type(self) -> None:
        x, weight = numbers(2, 5), numbers(3, 5)
        for linear in (
            OperatorMap(OPERATORS["linear"], [x, weight, None], frozenset({0}), {}),
            JacobianMap(lambda value: value @ weight.T, [x]),
        ):
            image = linear.apply(torch.zeros(0, 2, 5, dtype=torch.float64))
            assert image.shape == (0, 2, 3)
            assert image.dtype == torch.float64

    def test_shapes_of_gains_are_those_of_the_inputs(self) -> None:
        gain, row = numbers(2, 3), numbers(1, 3, seed=1)
        (whole,) = Gains(gain).transpose(torch.ones(4, 2, 3).double())
        close(whole, gain.expand(4, 2, 3))
        (summed,) = Gains(gain, shapes=[row.shape]).transpose(torch.ones(4, 2, 3).double())
        close(summed, gain.sum(0, keepdim=True).expand(4, 1, 3))

    def test_a_second_input_that_varies_alone(self) -> None:
        x, y = numbers(2, 3), numbers(2, 3, seed=1)
        linear = OperatorMap(OPERATORS["mul"], [x, y], frozenset({1}), {})
        columns, cotangents = numbers(4, 2, 3, seed=2), numbers(5, 2, 3, seed=3)
        close(linear.apply(columns), x * columns)
        (pulled,) = linear.transpose(cotangents)
        close(pulled, x * cotangents)
        close(linear.squared(columns[0].square()), (x * columns[0]).square())

    @pytest.mark.parametrize("padding", [(1, 0), "same"], ids=["own transpose", "none of its own"])
    def test_the_transpose_of_a_convolution(self, padding: Any) -> None:
        weight, x = numbers(4, 3, 3, 3, seed=1), numbers(2, 3, 6, 5)
        stride = (2, 2) if padding != "same" else (1, 1)
        attributes = {"stride": stride, "padding": padding, "dilation": (1, 1), "groups": 1}

        def convolved(value: Tensor) -> Tensor:
            return torch.nn.functional.conv2d(value, weight, None, stride, padding)

        cotangents = numbers(2, *convolved(x).shape, seed=2)
        linear = OperatorMap(OPERATORS["conv"], [x, weight, None], frozenset({0}), attributes)
        (pulled,) = linear.transpose(cotangents)
        close(pulled, torch.stack([torch.func.vjp(convolved, x)[1](row)[0] for row in cotangents]))

    def test_signs_are_shared_by_name_only(self) -> None:
        x = numbers(1, 40)
        variance = numbers(1, 40, seed=1).square()
        difference = Gains(torch.ones(1, 40).double(), -torch.ones(1, 40).double())
        same = Tied(difference, ("a", "a")).squared(variance, variance)
        apart = Tied(difference, ("a", "b")).squared(variance, variance)
        unnamed = probe_variances(difference, (variance, variance))
        assert not same.any()
        # (s - t)^2 of independent signs is 0 or 4, of mean 2: spread 2 / sqrt(32) per element, five of them
        assert (apart.mean() / variance.mean() - 2).abs() < 5 * 2 / 32**0.5
        assert torch.equal(apart, unnamed)
        later = Gains(*(torch.ones(1, 40).double() for _ in range(3)))
        close(Tied(later, ("a", "b", "b")).squared(0 * x, variance, variance), 4 * variance)
        close(Tied(later, ("a", "a", "b")).squared(variance, variance, 0 * x), 4 * variance)
        close(Tied(later, ("a", "a", "a")).squared(variance, variance, variance), 9 * variance)
        assert bool((Tied(later, ("a", "a", "b")).squared(variance, variance, variance) != 4 * variance).any())

    def test_probes_are_signs_of_unit_size_and_the_same_every_time(self) -> None:
        seen: list[Tensor] = []
        recorder = SimpleNamespace(apply=lambda *stacks: seen.extend(stacks) or stacks[0])
        estimate = probe_variances(recorder, (torch.full((3, 50), 4.0),))
        assert torch.equal(estimate, torch.full((3, 50), 4.0))
        probe_variances(recorder, (torch.full((3, 50), 4.0),))
        first, again = seen
        assert first.shape == (32, 3, 50)
        assert torch.equal(first, again)
        assert set(first.flatten().tolist()) == {-2.0, 2.0}
        assert torch.equal(first[:, 0], first[:, 2]), "one sign for the whole batch"
        assert 0.4 < float((first > 0).float().mean()) < 0.6

    def test_a_sum_of_one_and_of_three(self) -> None:
        terms = [numbers(2), numbers(2, seed=1), numbers(2, seed=2)]
        assert sum_all(terms[:1]) is terms[0]
        close(sum_all(terms), terms[0] + terms[1] + terms[2])


class Values:
    """Elements are tensors in a box; an integer node gives the number at that point."""

    def __init__(self) -> None:
        self.frozen: list[str] = []
        self.released: list[str] = []
        self.batches: set[int] = set()

    def apply(self, node: Node, operands: Sequence[Any], live: frozenset[str], batch: int) -> SimpleNamespace:
        self.batches.add(batch)
        return SimpleNamespace(value=evaluate_node(node, self.numbers(operands), batch))

    def freeze(self, node: Node, operands: Sequence[Any], batch: int) -> Tensor:
        self.frozen.append(node.op)
        return evaluate_node(node, self.numbers(operands), batch)

    def release(self, name: str) -> None:
        self.released.append(name)

    @staticmethod
    def numbers(operands: Sequence[Any]) -> list[Any]:
        return [item.value if isinstance(item, SimpleNamespace) else item for item in operands]


class TestForward:
    def test_integer_nodes_are_frozen_and_read_as_numbers(self) -> None:
        def function(x: Tensor) -> Tensor:
            return torch.where(x > 0, x, 0.1 * x) + x

        x = numbers(3, 4)
        graph, domain = capture(Function(function), x), Values()
        seen: list[str] = []
        result = forward(
            graph,
            domain,
            {graph.input: SimpleNamespace(value=x)},
            batch=3,
            observe=lambda node, element: seen.append(node.name),
        )
        close(result.value, function(x))
        assert len(domain.frozen) == 1
        integer = {node.name for node in graph if not node.spec.dtype.is_floating_point}
        assert integer
        assert not integer & set(seen), "an integer node has no element to observe"
        assert not integer & set(domain.released)
        assert domain.batches == {3}

    def test_numbers_that_are_read_no_more_are_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A long side branch of plain numbers does not pile up: each one is gone after its last reader."""
        from weakref import ref

        class Side(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(numbers(4))

            def forward(self, x: Tensor) -> Tensor:
                side = self.weight.exp()
                for _ in range(4):
                    side = side.tanh()
                return x * side

        model, x = Side().requires_grad_(False), numbers(2, 4)
        graph = capture(model, x)
        made: list[Any] = []
        most = 0

        def watched(node: Node, operands: Sequence[Any], batch: int) -> Any:
            nonlocal most
            value = evaluate_node(node, operands, batch)
            made.append(ref(value))
            most = max(most, sum(item() is not None for item in made))
            return value

        monkeypatch.setattr("assay.interpret.run.evaluate_node", watched)
        result = forward(graph, Values(), {graph.input: SimpleNamespace(value=x)}, batch=2)
        close(result.value, model(x))
        assert len(made) >= 5
        assert most == 2

    def test_parameters_outlive_their_last_reader_in_the_graph_only(self) -> None:
        model, x = nn.Sequential(nn.Linear(3, 3), nn.Tanh()).double().requires_grad_(False), numbers(2, 3)
        graph = capture(model, x)
        before = dict(graph.parameters)
        for _ in range(2):
            close(forward(graph, Values(), {graph.input: SimpleNamespace(value=x)}, batch=2).value, model(x))
        assert graph.parameters.keys() == before.keys()

    def test_a_replaced_node_is_observed_once(self) -> None:
        x = numbers(2, 3)
        graph = capture(nn.Sequential(nn.Tanh(), nn.ReLU()), x)
        (tanh,) = (node.name for node in graph if node.op == "tanh")
        seen: list[str] = []
        given = {graph.input: SimpleNamespace(value=x), tanh: SimpleNamespace(value=-x)}
        result = forward(graph, Values(), given, batch=2, observe=lambda node, _: seen.append(node.name))
        assert torch.equal(result.value, (-x).relu())
        assert sorted(seen) == sorted({graph.input, tanh, graph.output})


class TestBackward:
    def test_several_steps_add_up_at_one_input(self) -> None:
        steps = [
            Step("a", ("x",), Gains(torch.full((1, 1), 2.0))),
            Step("b", ("x", "a"), Gains(torch.full((1, 1), 3.0), torch.full((1, 1), 5.0))),
        ]
        visited: dict[str, float] = {}
        reached = backward(
            steps, "b", torch.ones(1, 1, 1), lambda step, seeds: visited.update({step.node: float(seeds)})
        )
        assert visited == {"b": 1.0, "a": 5.0}
        assert {name: float(value) for name, value in reached.items()} == {"x": 13.0}

    def test_a_step_does_not_change(self) -> None:
        step = Step("b", ("x",), Gains(torch.ones(1, 1)))
        assert (step.innovation, step.sources) == (None, ())
        with pytest.raises(FrozenInstanceError):
            step.node = "c"  # type: ignore[misc]

    def test_a_map_with_too_few_inputs_is_refused(self) -> None:
        with pytest.raises(ValueError, match="shorter"):
            backward([Step("b", ("x", "y"), Gains(torch.ones(1, 1)))], "b", torch.ones(1, 1, 1))


class TestRules:
    def test_the_defaults_of_a_rule(self) -> None:
        plain = rules.Rule("relu", len, Grade.EXACT)
        assert plain.note == ""
        with pytest.raises(FrozenInstanceError):
            plain.grade = Grade.BOUND  # type: ignore[misc]
        assert plain.applies(frozenset({0, 1}))
        table: RuleTable[Any] = RuleTable("trial")
        table.rule("mul", grade=Grade.EXACT)(len)
        assert table.lowered == {}
        found = table.lookup("mul", frozenset({0, 1}))
        assert found is not None
        assert found.function is len

    @pytest.mark.parametrize(
        "failure", [PluginError("broken"), RuntimeError("no such thing")], ids=["known", "unknown"]
    )
    def test_a_plugin_that_fails_adds_nothing(self, failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        told: list[str] = []

        def broken(table: RuleTable[Any]) -> None:
            table.rule("softmax", grade=Grade.BOUND)(len)
            raise failure

        def good(table: RuleTable[Any]) -> None:
            table.rule("relu", grade=Grade.BOUND)(max)

        entries = [SimpleNamespace(load=lambda f=f: f, refusal=told.append) for f in (broken, good)]
        monkeypatch.setattr(rules.plugins, "installed", lambda group: entries)
        monkeypatch.setattr(rules.plugins, "credit", lambda plugin, names: told.append(",".join(names)))
        table: RuleTable[Any] = RuleTable("trial")
        table.rule("tanh", grade=Grade.EXACT)(len)
        table.freeze()
        assert {rule.operator for rule in table} == {"tanh", "relu"}  # type: ignore[attr-defined]
        assert told == ([] if isinstance(failure, PluginError) else ["RuntimeError: no such thing"]) + ["relu"]
        with pytest.raises(ValueError, match="frozen"):
            table.rule("softmax", grade=Grade.EXACT)(len)

    def test_positions_and_nodes_that_depend_on_the_input(self) -> None:
        class Both(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.ones(3))

            def forward(self, x: Tensor) -> Tensor:
                return (self.weight * x) * x.tanh()

        graph = capture(Both(), torch.ones(2, 3))
        first, second = (node for node in graph if node.op == "mul")
        assert varying_positions(graph, first) == {1}
        assert varying_positions(graph, second) == {0, 1}
        table: RuleTable[Any] = RuleTable("trial")
        table.rule("mul", grade=Grade.EXACT, applies=lambda varying: len(varying) == 1)(len)
        assert [node.op for node in unsupported(graph, table)] == ["tanh", "mul"]

    def test_coverage_prefers_a_rule_to_a_lowering(self) -> None:
        table: RuleTable[Any] = RuleTable("trial", lowered={"relu": "lowered", "tanh": "lowered"})
        table.rule("relu", grade=Grade.EXACT)(len)
        records = {record["operator"]: record["trial"] for record in coverage([table])}
        assert (records["relu"], records["tanh"], records["exp"]) == ("exact", "lowered", "")

    def test_every_sentence_about_every_sample_is_listed(self) -> None:
        drawn: list[float] = []

        def conformance(rule: Any, operator: Any, sample: Any) -> list[str]:
            drawn.append(float(sample.inputs[0].sum()))
            return ["too large", "too small"]

        table: RuleTable[Any] = RuleTable("trial", conformance=conformance)
        table.rule("relu", grade=Grade.EXACT)(len)
        count = len(list(OPERATORS["relu"].samples(torch.Generator().manual_seed(0))))
        with pytest.raises(AssertionError) as caught:
            check_rule(table, "relu")
        lines = str(caught.value).splitlines()
        assert lines[0] == "rule trial/relu:"
        assert lines[1:] == [f"sample {i}: too {how}" for i in range(count) for how in ("large", "small")]
        first = drawn.copy()
        for seed, same in ((0, True), (1, False)):
            drawn.clear()
            with pytest.raises(AssertionError):
                check_rule(table, "relu", seed=seed)
            assert (drawn == first) is same

    def test_a_rule_without_a_complaint_passes(self) -> None:
        table: RuleTable[Any] = RuleTable("trial")
        table.rule("relu", grade=Grade.EXACT)(len)
        check_rule(table, "relu")
        with pytest.raises(AssayError, match="trial has no rule for tanh") as caught:
            check_rule(table, "tanh")
        assert caught.value.where == "tanh"
