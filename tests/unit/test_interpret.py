"""The forward and reverse walks, rule tables, linear maps and fallbacks, with small known domains."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.support.inputs import numbers
from torch import Tensor, nn

from assay.errors import AssayError, UnsupportedOperator
from assay.grade import Grade
from assay.graph import OPERATORS, Graph, Node, capture, evaluate, evaluate_node
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
from assay.moments import propagate
from assay.moments.rules import TABLE


def close(value: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-11)


class Branchy(nn.Module):
    """Skips, a tensor read twice by one node, a weight read twice, a squeeze-and-excite gate."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        skip = h + x
        gate = torch.sigmoid(self.second(skip)) * skip
        twice = gate * gate + (gate + gate)
        again = self.second(twice) * (self.scale.abs() + 1)
        return torch.cat([again, skip - h], 1)


@pytest.fixture(scope="module")
def branchy() -> tuple[Branchy, Graph, Tensor]:
    torch.manual_seed(3)
    model, x = Branchy().double().requires_grad_(False), numbers(3, 6)
    return model, capture(model, x), x


class Numbers:
    """Tensors as elements; counts what is alive, and keeps a Jacobian of every node for the reverse walk."""

    def __init__(self) -> None:
        self.alive: set[str] = set()
        self.most = 0
        self.released: list[str] = []
        self.live: dict[str, frozenset[str]] = {}
        self.steps: list[Step] = []

    def apply(self, node: Node, operands: Sequence[Any], live: frozenset[str], batch: int) -> SimpleNamespace:
        values = [item.value if isinstance(item, SimpleNamespace) else item for item in operands]
        moving = [i for i, item in enumerate(operands) if isinstance(item, SimpleNamespace)]

        def function(*varying: Tensor) -> Tensor:
            filled = list(values)
            for position, value in zip(moving, varying, strict=True):
                filled[position] = value
            return evaluate_node(node, filled, batch)

        point = [values[i] for i in moving]
        self.steps.append(Step(node.name, tuple(operands[i].name for i in moving), JacobianMap(function, point)))
        assert all(operands[i].name not in self.released for i in moving)
        self.alive.add(node.name)
        self.most = max(self.most, len(self.alive))
        self.live[node.name] = live
        return SimpleNamespace(name=node.name, value=function(*point))

    def release(self, name: str) -> None:
        self.alive.discard(name)
        self.released.append(name)


def start(graph: Graph, x: Tensor) -> dict[str, SimpleNamespace]:
    return {graph.input: SimpleNamespace(name=graph.input, value=x)}


class TestForward:
    def test_numbers_give_the_value_of_the_graph(self, branchy: tuple[Branchy, Graph, Tensor]) -> None:
        model, graph, x = branchy
        result = forward(graph, Numbers(), start(graph, x), batch=3)
        close(result.value, model(x))

    def test_every_element_is_dropped_after_its_last_use(self, branchy: tuple[Branchy, Graph, Tensor]) -> None:
        _, graph, x = branchy
        domain, seen = Numbers(), []
        forward(graph, domain, start(graph, x), batch=3, observe=lambda node, element: seen.append(node.name))
        assert domain.alive == {graph.output}
        assert len(domain.released) == len(set(domain.released))
        assert set(domain.released) == {n.name for n in graph if n.name in graph.dependent} - {graph.output}
        assert seen == [node.name for node in graph if node.name in graph.dependent]

    def test_a_chain_needs_two_elements_at_a_time(self) -> None:
        model = nn.Sequential(*(layer for _ in range(5) for layer in (nn.Linear(4, 4), nn.Tanh()))).double()
        graph, domain = capture(model, numbers(2, 4)), Numbers()
        forward(graph, domain, start(graph, numbers(2, 4)), batch=2)
        assert domain.most == 2

    def test_live_is_what_later_nodes_read(self, branchy: tuple[Branchy, Graph, Tensor]) -> None:
        _, graph, x = branchy
        domain = Numbers()
        forward(graph, domain, start(graph, x), batch=3)
        order = [node.name for node in graph]
        for name, live in domain.live.items():
            place = order.index(name)
            readers = {n: [r.name for r in graph.nodes[place + 1 :] if n in r.inputs] for n in order[:place]}
            assert live == {n for n, later in readers.items() if later and n in graph.dependent}

    def test_parameters_can_be_replaced(self, branchy: tuple[Branchy, Graph, Tensor]) -> None:
        model, graph, x = branchy
        (name,) = [node for node, path in graph.parameter_names.items() if path == "scale"]
        changed = forward(graph, Numbers(), start(graph, x), batch=3, parameters={name: torch.tensor(-2.0)})
        other = Branchy().double()
        other.load_state_dict(model.state_dict() | {"scale": torch.tensor(-2.0)})
        close(changed.value, other(x))
        close(forward(graph, Numbers(), start(graph, x), batch=3).value, model(x))

    def test_a_parameter_can_be_an_element(self, branchy: tuple[Branchy, Graph, Tensor]) -> None:
        model, graph, x = branchy
        (name,) = [node for node, path in graph.parameter_names.items() if path == "second.weight"]
        weight = SimpleNamespace(name=name, value=model.second.weight * 2)
        domain = Numbers()
        result = forward(graph, domain, start(graph, x) | {name: weight}, batch=3)
        close(result.value, evaluate(graph, x, parameters={name: model.second.weight * 2}))
        assert name in domain.released

    def test_a_node_can_be_replaced(self, branchy: tuple[Branchy, Graph, Tensor]) -> None:
        _, graph, x = branchy
        tanh = next(node.name for node in graph if node.op == "tanh")
        h = numbers(3, 6, seed=5)
        domain = Numbers()
        result = forward(graph, domain, start(graph, x) | {tanh: SimpleNamespace(name=tanh, value=h)}, batch=3)
        close(result.value[:, 6:], x)  # (h + x) - h
        assert all(step.node != tanh for step in domain.steps)

    def test_without_elements_the_result_is_a_plain_tensor(self, branchy: tuple[Branchy, Graph, Tensor]) -> None:
        model, graph, x = branchy
        parameters = {**graph.parameters, graph.input: x}
        close(forward(graph, Numbers(), {}, batch=3, parameters=parameters), model(x))

    def test_other_batches(self, branchy: tuple[Branchy, Graph, Tensor]) -> None:
        model, graph, _ = branchy
        x = numbers(7, 6, seed=8)
        close(forward(graph, Numbers(), start(graph, x), batch=7).value, model(x))


class TestBackward:
    def test_total_derivative_through_skips_and_doubled_inputs(self, branchy: tuple[Branchy, Graph, Tensor]) -> None:
        model, graph, x = branchy
        domain = Numbers()
        forward(graph, domain, start(graph, x), batch=3)
        seeds = numbers(4, 3, 12, seed=2)
        reached = backward(domain.steps, graph.output, seeds)
        assert set(reached) == {graph.input}
        expected = torch.stack([torch.autograd.functional.vjp(model, x, seed)[1] for seed in seeds])
        close(reached[graph.input], expected)

    @pytest.mark.parametrize("op", ["mul", "add", "sub"])
    def test_a_node_that_reads_one_tensor_twice(self, op: str) -> None:
        x, seeds = numbers(2, 3), numbers(5, 2, 3, seed=1)
        row = OPERATORS[op]
        linear = JacobianMap(row.evaluate, [x, x])
        reached = backward([Step("y", ("x", "x"), linear)], "y", seeds)
        close(reached["x"], seeds * {"mul": 2 * x, "add": 2.0, "sub": 0.0}[op])

    def test_visits_see_totals_in_reverse_order(self, branchy: tuple[Branchy, Graph, Tensor]) -> None:
        _, graph, x = branchy
        domain, values = Numbers(), {}
        forward(
            graph,
            domain,
            start(graph, x),
            batch=3,
            observe=lambda node, element: values.update({node.name: element.value}),
        )
        visited: dict[str, Tensor] = {}
        seeds = numbers(1, 3, 12, seed=2)
        backward(domain.steps, graph.output, seeds, lambda step, cotangents: visited.update({step.node: cotangents}))
        assert list(visited) == [step.node for step in reversed(domain.steps)]
        tanh = next(node.name for node in graph if node.op == "tanh")

        def rest(h: Tensor) -> Tensor:
            elements = start(graph, x) | {tanh: SimpleNamespace(name=tanh, value=h)}
            return forward(graph, Numbers(), elements, batch=3).value

        close(visited[tanh][0], torch.autograd.functional.vjp(rest, values[tanh], seeds[0])[1])

    def test_dead_ends_are_passed_by(self) -> None:
        steps = [
            Step("used", ("x",), Gains(torch.full((1, 1), 3.0))),
            Step("unused", ("used",), Gains(torch.ones(1, 1))),
        ]
        visited = []
        reached = backward(steps, "used", torch.ones(1, 1, 1), lambda step, _: visited.append(step.node))
        assert visited == ["used"]
        assert float(reached["x"]) == 3

    def test_an_output_that_no_step_makes(self) -> None:
        seeds = torch.ones(1, 2, 3)
        assert backward([], "x", seeds)["x"] is seeds


class TestLinearMaps:
    @pytest.mark.parametrize("columns", [0, 1, 4])
    @pytest.mark.parametrize("kind", ["operator", "gains", "jacobian"])
    def test_the_three_actions_belong_together(self, kind: str, columns: int) -> None:
        x, y = numbers(2, 3, 4), numbers(2, 1, 4, seed=1)
        row = OPERATORS["sub"]
        linear: Any = {
            "operator": OperatorMap(row, [x, y], frozenset({0, 1}), {"alpha": 2.0}),
            "gains": Gains(x, numbers(2, 3, 4, seed=2), shapes=[x.shape, y.shape]),
            "jacobian": JacobianMap(lambda a, b: (a * b).cumsum(1), [x, y]),
        }[kind]
        stacks = [numbers(columns, *t.shape, seed=9 + i) for i, t in enumerate((x, y))]
        image = linear.apply(*stacks)
        assert image.shape == (columns, 2, 3, 4)
        cotangents = numbers(5, 2, 3, 4, seed=4)
        pulled = linear.transpose(cotangents)
        assert [p.shape for p in pulled] == [(5, *x.shape), (5, *y.shape)]
        if columns == 4:
            left = torch.einsum("kbij,rbij->kr", cotangents, image)
            right = sum(torch.einsum("kbij,rbij->kr", p, s) for p, s in zip(pulled, stacks, strict=True))
            close(left, right)  # type: ignore[arg-type]

    def test_variances_of_gains_and_operators_are_exact(self) -> None:
        x, y = numbers(2, 3), numbers(2, 3, seed=1)
        variances = numbers(2, 3, seed=2).square(), numbers(2, 3, seed=3).square()
        close(Gains(x, y).squared(*variances), x.square() * variances[0] + y.square() * variances[1])
        linear = OperatorMap(OPERATORS["sub"], [x, y], frozenset({0, 1}), {"alpha": 2.0})
        close(linear.squared(*variances), variances[0] + 4 * variances[1])

    def test_variances_of_a_jacobian_are_estimated(self) -> None:
        matrix = numbers(6, 50)
        linear = JacobianMap(lambda x: x @ matrix.T, [torch.zeros(400, 50, dtype=torch.float64)])
        variance = numbers(1, 50, seed=1).square().expand(400, 50)
        estimate = linear.squared(variance)
        # relative spread sqrt(2 / 32) = 0.25: within 5 deviations for each of 6 numbers
        assert ((estimate / (matrix.square() @ variance[0]) - 1).abs() < 1.25).all()
        assert torch.equal(estimate, estimate[:1].expand(400, 6))
        diagonal = JacobianMap(torch.sin, [numbers(2, 5)])
        close(diagonal.squared(numbers(2, 5).square()), numbers(2, 5).cos().square() * numbers(2, 5).square())

    def test_a_tensor_read_twice_moves_as_one(self) -> None:
        x, variance = numbers(2, 3), numbers(2, 3, seed=1).square()
        close(Tied(Gains(x, x), ("h", "h")).squared(variance, variance), 4 * x.square() * variance)
        three = OperatorMap(OPERATORS["cat"], [x, x, x], frozenset({0, 1, 2}), {"axis": 1})
        close(
            Tied(three, ("h", "g", "h")).squared(variance, 2 * variance, variance),
            torch.cat([variance, 2 * variance, variance], 1),
        )
        minus = OperatorMap(OPERATORS["sub"], [x, x], frozenset({0, 1}), {})
        close(Tied(minus, ("h", "h")).squared(variance, variance), torch.zeros_like(x))


class TestFallback:
    def test_linearise(self) -> None:
        mean = numbers(2, 5)
        replaced = fallback.linearise(lambda x: x.softmax(-1), [mean])
        close(replaced.mean, mean.softmax(-1))
        assert replaced.innovation is None
        direction = numbers(1, 2, 5, seed=1)
        close(replaced.linear.apply(direction)[0], torch.func.jvp(lambda x: x.softmax(-1), (mean,), (direction[0],))[1])

    def test_sampled(self) -> None:
        mean, count = numbers(2, 3), 4000
        draws = 0.5 * numbers(count, 2, 3, seed=1)
        replaced = fallback.sampled(lambda x: x.square(), [mean], [draws])
        # E x^2 = m^2 + 1/4 with deviation sqrt(4 m^2 / 4 + 1/8); what the slope 2 m leaves is d^2, of variance 2/16:
        # six deviations
        deviation = (mean.square() + 1 / 8).sqrt()
        assert ((replaced.mean - mean.square() - 0.25).abs() < 6 * deviation / count**0.5).all()
        assert replaced.innovation is not None
        assert ((replaced.innovation - 1 / 8).abs() < 6 * 0.5 / count**0.5).all()
        close(replaced.linear.apply(torch.ones(1, 2, 3, dtype=torch.float64))[0], 2 * mean)

    def test_an_affine_function_leaves_nothing(self) -> None:
        replaced = fallback.sampled(
            lambda x, y: 2 * x - y, [numbers(2, 3)] * 2, [numbers(50, 2, 3), numbers(50, 2, 3, seed=1)]
        )
        assert replaced.innovation is not None
        # the mean of the draws is not exactly zero, and shifts the estimate by its square
        assert (replaced.innovation < 5 * 36 / 50).all()


def a_table(**extra: Any) -> RuleTable[Any]:
    return RuleTable("trial", **extra)


class TestRuleTable:
    def test_registers_and_finds(self) -> None:
        table = a_table()

        @table.rule("relu", "tanh", grade=Grade.CLOSED_FORM, note="why")
        def function() -> None: ...

        rule = table.lookup("tanh")
        assert rule is not None
        assert (rule.operator, rule.function, rule.grade, rule.note) == ("tanh", function, Grade.CLOSED_FORM, "why")
        assert table.lookup("sigmoid") is None
        assert {r.operator for r in table} == {"relu", "tanh"}  # type: ignore[attr-defined]

    def test_one_rule_per_operator(self) -> None:
        table = a_table()
        table.rule("relu", grade=Grade.EXACT)(len)
        with pytest.raises(ValueError, match="trial/relu: registered twice"):
            table.rule("relu", grade=Grade.EXACT)(max)
        found = table.lookup("relu")
        assert found is not None
        assert found.function is len

    def test_unknown_operators_are_refused(self) -> None:
        with pytest.raises(ValueError, match="trial/rellu: not an operator"):
            a_table().rule("rellu", grade=Grade.EXACT)(len)

    def test_frozen(self) -> None:
        table = a_table()
        table.freeze()
        with pytest.raises(ValueError, match="trial/relu: frozen"):
            table.rule("relu", grade=Grade.EXACT)(len)
        with pytest.raises(ValueError, match="moments/softmax: frozen"):
            TABLE.rule("softmax", grade=Grade.EXACT)(len)

    def test_third_parties_add_rules(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def installed(group: str) -> list[SimpleNamespace]:
            asked.append(group)
            return [SimpleNamespace(load=lambda: lambda table: table.rule("softmax", grade=Grade.BOUND)(len))]

        monkeypatch.setattr(rules.plugins, "installed", installed)
        monkeypatch.setattr(rules.plugins, "credit", lambda plugin, operators: asked.extend(operators))
        table = a_table()
        table.freeze()
        assert asked == ["assay.rules.trial", "softmax"]
        found = table.lookup("softmax")
        assert found is not None
        assert found.grade is Grade.BOUND

    def test_a_rule_that_does_not_apply_gives_way_to_the_derived_one(self) -> None:
        derived = rules.Rule("mul", max, Grade.EXACT, applies=lambda varying: len(varying) == 1)
        table = a_table(derive=lambda operator: derived if operator.name == "mul" else None)
        table.rule("mul", grade=Grade.CLOSED_FORM, applies=lambda varying: varying == {0, 1})(len)
        both, one = table.lookup("mul", frozenset({0, 1})), table.lookup("mul", frozenset({1}))
        assert both is not None
        assert both.function is len
        assert one is derived
        assert table.lookup("mul", frozenset({0, 1, 2})) is None


def test_coverage_lists_every_operator_and_domain() -> None:
    table = a_table(lowered={"max_pool": "closed_form (lowered)"})
    table.rule("relu", grade=Grade.CLOSED_FORM)(len)
    table.rule("tanh", grade=Grade.BOUND, note="32 nodes")(len)
    records = {record["operator"]: record for record in coverage([table, TABLE])}
    assert set(records) == set(OPERATORS)
    assert all(set(record) == {"family", "operator", "trial", "moments"} for record in records.values())
    assert records["relu"]["trial"] == "closed_form"
    assert records["tanh"]["trial"] == "bound (32 nodes)"
    assert records["max_pool"]["trial"] == "closed_form (lowered)"
    assert records["log_softmax"]["trial"] == records["log_softmax"]["moments"] == ""
    assert records["conv"]["moments"] == "exact"
    assert records["max_pool"]["moments"].startswith("closed_form")
    assert records["conv"]["family"] == "affine"


def test_checking_a_rule_that_is_not_there() -> None:
    with pytest.raises(AssayError, match="no rule for log_softmax"):
        check_rule(TABLE, "log_softmax")


class Exotic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(6, 3), nn.LogSoftmax(-1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).cumsum(1))


@pytest.mark.parametrize("method", ["exact", "gain", "factor", "diagonal"])
def test_strict_lists_every_node_without_a_rule(method: str) -> None:
    x = numbers(1, 4)
    with pytest.raises(UnsupportedOperator) as caught:
        propagate(Exotic().double(), x, 0.1, method=method, fallback="error")
    assert "2 operator(s)" in caught.value.what
    assert caught.value.where == "cumsum (aten.cumsum.default); head.1 (log_softmax)"
    assert "--strict" in caught.value.advice


def test_unsupported_leaves_out_what_does_not_depend_on_the_input() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight.softmax(0)

    graph = capture(Fixed().double(), numbers(2, 4))
    assert "softmax" in {node.op for node in graph}
    assert unsupported(graph, TABLE) == []
