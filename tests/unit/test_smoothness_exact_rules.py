"""Polylines and their rules: every operator, the envelopes of windows, and which rows a layer carries."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.smoothness_exact import Function, cnn
from torch import Tensor, nn

from assay.certified.prepared import bound_graph
from assay.graph import OPERATORS
from assay.interpret import check_rule, forward
from assay.interpret.rules import Rule
from assay.smoothness.estimators import exact_line, polyline_maxima
from assay.smoothness.estimators.polyline import Marks, Polyline, TooManyRows, aligned, inserted, segment
from assay.smoothness.estimators.polyline_rules import TABLE, LineDomain, propagate

assert exact_line  # importing it fills the table
COVERED = [name for name in OPERATORS if TABLE.lookup(name) is not None]
SMOOTH = {"elu", "gelu", "silu", "sigmoid", "hardswish", "tanh", "softplus", "mish", "erf", "exp", "log", "sin", "cos"}
SMOOTH |= {"power", "layer_norm", "group_norm", "rms_norm", "softmax", "log_softmax", "vector_norm"}


def test_which_operators_have_a_rule() -> None:
    assert set(OPERATORS) - set(COVERED) == SMOOTH


@pytest.mark.parametrize("operator", COVERED)
def test_every_rule_conforms(operator: str) -> None:
    check_rule(TABLE, operator)


@pytest.mark.parametrize("operator", ["relu", "max_pool", "minimum"])
def test_a_rule_that_adds_no_rows_does_not_conform(operator: str) -> None:
    row = OPERATORS[operator]
    rule = TABLE.lookup(operator)
    assert rule is not None

    def rowless(operands, attributes) -> Polyline:
        values = [one.values if isinstance(one, Polyline) else one for one in operands]
        line = next(one for one in operands if isinstance(one, Polyline))
        return line.with_values(row.evaluate(*values, **attributes))

    wrong: Rule = replace(rule, function=rowless)
    sample = row.samples(torch.Generator().manual_seed(0))[0]
    assert TABLE.conformance(rule, row, sample) == []
    assert TABLE.conformance(wrong, row, sample) != []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(2, 5), st.booleans())
def test_envelopes(seed: int, inputs: int, rows: int, coarse: bool) -> None:
    """Rows of a maximum are exactly the vertices of the upper envelope; whole numbers make ties of all kinds."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, inputs, generator=generator, dtype=torch.float64)
    values = (2 * values).round() if coarse else values
    t = torch.linspace(0, 1, rows, dtype=torch.float64)
    rule = TABLE.lookup("amax")
    assert rule is not None
    found = rule.function([Polyline(t, values, Marks.ends(rows))], {"dim": (1,)})
    fine = torch.linspace(0, 1, 997, dtype=torch.float64)
    line = Polyline(t, values, Marks.ends(rows))
    torch.testing.assert_close(found.at(fine), line.at(fine).amax(1), rtol=0, atol=1e-13)
    new = (found.t[:, None] - t).abs().amin(1) > 1e-14
    slopes = (found.values[1:] - found.values[:-1]) / (found.t[1:] - found.t[:-1])
    jumps = slopes[1:] - slopes[:-1]
    assert bool((jumps[new[1:-1]] > 1e-12).all())  # no row where nothing bends
    torch.testing.assert_close(found.marks.local[1:-1][new[1:-1]], jumps[new[1:-1]], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("attributes", [
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 1), "ceil_mode": True},
    {"kernel_size": (2, 2), "stride": (2, 3), "dilation": (2, 1)},
    {"kernel_size": (3,), "padding": (1,)},
])  # fmt: skip
def test_windows_of_pools_are_those_of_torch(attributes: dict) -> None:
    x = torch.randn(4, 3, 7, 6, dtype=torch.float64)
    seen = []
    real = polyline_maxima._crossings

    def spying(t: Tensor, flat: Tensor, winner: Tensor, windows: polyline_maxima.Windows):
        seen.append((flat, winner, windows))
        return real(t, flat, winner, windows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(polyline_maxima, "_crossings", spying)
        rule = TABLE.lookup("max_pool")
        assert rule is not None
        rule.function([Polyline(torch.linspace(0, 1, 4).double(), x, Marks.ends(4))], attributes)
    flat, winner, windows = seen[0]
    units = torch.arange(winner.shape[1])
    expected = OPERATORS["max_pool"].evaluate(x, **attributes).flatten(1)
    torch.testing.assert_close(flat[:, windows.of(units)].amax(2), expected)
    reading = windows.reading()
    for place in range(windows.plane):
        readers = {int(w) for w in reading[place] if w >= 0}
        assert readers == {w for w, taps in enumerate(windows.taps.tolist()) if place in taps}


def test_early_layers_carry_only_early_breakpoints() -> None:
    model = cnn(3, nn.LeakyReLU(0.2))
    graph = bound_graph(model, torch.zeros(1, 2, 9, 9).double())
    carried: dict[str, Marks] = {}
    a, b = torch.randn(2, 2, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    forward(
        graph,
        LineDomain(graph),
        {graph.input: segment(0.0, 1.0, a, b)},
        batch=1,
        observe=lambda node, line: carried.update({node.name: line.marks}),
    )
    conv, act, pool = (node.name for node in graph.layers[:3])
    positions = {node.name: place for place, node in enumerate(graph)}
    assert len(carried[conv].layer) == 2
    assert set(carried[act].layer.tolist()) == {-1, positions[act]}
    assert set(carried[pool].layer.tolist()) == {-1, positions[act], positions[pool]}
    kept = (carried[pool].layer == positions[act]).sum()
    assert 0 < kept < len(carried[act].layer) - 2  # the pool drops what it does not take


def test_units_that_a_pool_drops_leave_no_row() -> None:
    """Two inputs, one always larger: only its crossing stays."""
    model = nn.Sequential(nn.LeakyReLU(-0.5), nn.MaxPool1d(2), nn.Flatten())
    graph = bound_graph(model, torch.zeros(1, 1, 2).double())
    first, last = torch.tensor([[-1.0, -9.0]]).double(), torch.tensor([[3.0, -8.0]]).double()
    found = propagate(graph, segment(0.0, 1.0, first, last))
    assert isinstance(found, Polyline)
    assert found.t.tolist() == [0, 1]  # the negative slope turns the second input into the larger one
    found = propagate(graph, segment(0.0, 1.0, first, last + torch.tensor([[0.0, 8.5]]).double()))
    assert isinstance(found, Polyline)
    truth = model(torch.lerp(first, last + torch.tensor([[0.0, 8.5]]).double(), found.t[:, None, None]))
    torch.testing.assert_close(found.values, truth)


def test_coinciding_breakpoints_become_one_row() -> None:
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    marks = Marks.ends(3)._replace(layer=torch.tensor([-1, 4, -1]), unit=torch.tensor([-1, 2, -1]))
    new = torch.tensor([0.5 + 2e-16, 0.7 + 2e-16, 0.7, 1e-16, 0.2], dtype=torch.float64)
    rows, found = inserted(t, marks, new, torch.tensor([9, 8, 7, 6, 5]), torch.arange(5.0).double())
    assert rows.tolist() == pytest.approx([0, 0.2, 0.5, 0.7, 1])
    assert found.unit.tolist()[1:4] == [5, 2, 7]
    assert found.several.tolist() == [False, False, True, True, False]
    assert found.local.tolist()[1:4] == [4, 0, 2]


def test_union_of_rows_keeps_the_first_origin() -> None:
    def line(t: list[float], layer: list[int], unit: list[int]) -> Polyline:
        rows = torch.tensor(t, dtype=torch.float64)
        marks = Marks.ends(len(t))._replace(layer=torch.tensor(layer), unit=torch.tensor(unit))
        return Polyline(rows, rows[:, None] ** 2, marks)

    one = line([0, 0.3, 0.6, 1], [-1, 7, 3, -1], [-1, 0, 5, -1])
    two = line([0, 0.3, 0.6, 0.9, 1], [-1, 2, 3, 9, -1], [-1, 1, 5, 4, -1])
    first, second, constant = aligned([one, two, None])
    assert constant is None
    for found in (first, second):
        assert found.t.tolist() == [0, 0.3, 0.6, 0.9, 1]
        assert found.marks.layer.tolist() == [-1, 2, 3, 9, -1]
        assert found.marks.unit.tolist() == [-1, 1, 5, 4, -1]
        assert found.marks.several.tolist() == [False, True, False, False, False]
    assert first.values[3, 0] == pytest.approx(0.36 + 0.64 * 0.75)


def test_constants_of_the_batch_are_repeated_for_every_row() -> None:
    token = torch.tensor([[5.0, -5.0]]).double()
    model = Function(lambda x: torch.relu(torch.cat([token.expand(x.shape[0], 2), x - 0.5], dim=1)))
    graph = bound_graph(model, torch.zeros(2, 1).double())
    found = propagate(graph, segment(0.0, 1.0, torch.zeros(1), torch.ones(1)))
    assert isinstance(found, Polyline)
    assert found.values.tolist() == [[5, 0, 0], [5, 0, 0], [5, 0, 0.5]]


def test_too_many_rows_say_how_many() -> None:
    model = nn.Sequential(nn.Linear(1, 50), nn.ReLU()).double()
    model[0].weight.data.fill_(1.0)  # type: ignore[union-attr]
    model[0].bias.data = -torch.linspace(0.01, 0.99, 50).double()  # type: ignore[union-attr]
    graph = bound_graph(model, torch.zeros(1, 1).double())
    with pytest.raises(TooManyRows) as stop:
        propagate(graph, segment(0.0, 1.0, torch.zeros(1), torch.ones(1), room=8 * 50 * 13))
    assert stop.value.times == pytest.approx(4)
