"""Allocation in closed form, the multiple-choice knapsack against enumeration, and choosing by joint predictions."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.errors import UsageError
from assay.sensitivity.bits import Knapsack, knapsack, variance_allocation, worst_case_allocation
from assay.sensitivity.bits.allocation import average, uniform_variance_bits, uniform_worst_case_bits
from assay.sensitivity.bits.joint import Joint


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


class TestClosedForms:
    def test_worst_case_of_three_layers(self):
        """Coefficients 1, 4, 2 and a third layer twice as large, E = 0.05."""
        a, sizes = tensor(1, 4, 2), tensor(1, 1, 2)
        bits = worst_case_allocation(a, sizes, 0.05)
        torch.testing.assert_close(bits, tensor(6.32192809, 8.32192809, 6.32192809), rtol=0, atol=1e-8)
        assert average(bits, sizes) == pytest.approx(6.82192809, abs=1e-8)
        assert uniform_worst_case_bits(a, 0.05) == pytest.approx(7.12928302, abs=1e-8)
        assert float((a * 2.0**-bits).sum()) == pytest.approx(0.05)

    @pytest.mark.parametrize(("allocate", "base"), [(variance_allocation, 4.0), (worst_case_allocation, 2.0)])
    def test_no_other_allocation_is_smaller(self, allocate, base: float):
        """500 random allocations with the same error are all larger."""
        draws = torch.Generator().manual_seed(0)
        c, n = torch.rand(5, generator=draws).double() + 0.1, torch.rand(5, generator=draws).double() + 0.1
        budget = 0.01
        best = allocate(c, n, budget)
        allowed = budget**2 if base == 4 else budget
        assert float((c * base**-best).sum()) == pytest.approx(allowed)
        for _ in range(500):
            other = best + torch.randn(5, generator=draws).double()
            other = other + np.log(float((c * base**-other).sum()) / allowed) / np.log(base)
            assert average(other, n) >= average(best, n) - 1e-9

    def test_layers_that_matter_little_get_none(self):
        bits = variance_allocation(tensor(1.0, 1e-9), tensor(1.0, 1.0), 0.1)
        assert bits[1] == 0
        assert float((tensor(1.0, 1e-9) * 4.0**-bits).sum()) == pytest.approx(0.01)
        assert uniform_variance_bits(tensor(1.0, 1.0), 0.1) == pytest.approx(0.5 * np.log2(200))

    def test_errors(self):
        with pytest.raises(UsageError):
            variance_allocation(tensor(1.0), tensor(1.0), 0.0)
        with pytest.raises(UsageError):
            worst_case_allocation(tensor(1.0, 2.0), tensor(1.0), 0.1)


def random_problem(seed: int, groups: int, options: int) -> tuple[Knapsack, float]:
    draws = np.random.RandomState(seed)
    sizes = draws.randint(1, 50, groups)
    costs = [size * np.arange(2, 2 + options).astype(float) for size in sizes]
    values = [
        np.exp(2 * draws.randn()) * 4.0 ** -np.arange(options) * np.exp(0.3 * draws.randn(options)) for _ in sizes
    ]
    return Knapsack(tuple(costs), tuple(values)), float(sizes.sum() * (2 + draws.rand() * (options - 1)))


def brute(problem: Knapsack, capacity: float) -> float:
    found = (problem.choice(options) for options in product(*(range(len(row)) for row in problem.costs)))
    return min(choice.value for choice in found if choice.cost <= capacity)


class TestKnapsack:
    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 10_000))
    def test_every_method_finds_the_best(self, seed: int):
        problem, capacity = random_problem(seed, 4, 5)
        truth = brute(problem, capacity)
        for method in ("merge", "bound", "milp", "enumerate", "auto"):
            choice = problem.cheapest_within(capacity, method=method)
            assert choice.cost <= capacity
            assert choice.value == pytest.approx(truth, rel=1e-9)

    @settings(max_examples=10, deadline=None)
    @given(st.integers(0, 10_000))
    def test_frontier_holds_every_budget(self, seed: int):
        problem, _ = random_problem(seed, 4, 4)
        frontier = problem.frontier()
        assert all(a.cost < b.cost and a.value > b.value for a, b in pairwise(frontier))
        for point in frontier[:: max(1, len(frontier) // 5)]:
            assert brute(problem, point.cost) == pytest.approx(point.value)
            assert problem.smallest_with(point.value).cost == pytest.approx(point.cost)
            assert problem.smallest_with(point.value, method="milp").cost == pytest.approx(point.cost)

    def test_solver_and_merging_agree_on_a_deep_network(self):
        problem, capacity = random_problem(1, 60, 6)
        merged = problem.cheapest_within(capacity, method="merge")
        for method in ("bound", "milp"):
            solved = problem.cheapest_within(capacity, method=method)
            assert solved.cost <= capacity * (1 + 1e-9)
            assert solved.value == pytest.approx(merged.value, rel=1e-9)

    def test_bound_needs_no_solver_where_merging_gives_up(self, monkeypatch: pytest.MonkeyPatch):
        draws = np.random.RandomState(3)
        costs = [size * np.arange(3, 11).astype(float) for size in draws.uniform(1e2, 1e6, 130)]
        values = [np.exp(2 * draws.randn() + 0.3 * draws.randn(8)) * 4.0 ** -np.arange(8) for _ in costs]
        problem = Knapsack(tuple(costs), tuple(values))
        capacity = 5.5 * sum(float(row[0]) for row in costs) / 3
        solved = problem.cheapest_within(capacity, method="milp")
        assert "_merged" not in vars(problem)  # so many groups are not merged
        monkeypatch.setattr(knapsack, "_milp", lambda *_: pytest.fail("the solver was called"))
        choice = problem.cheapest_within(capacity)
        assert choice.cost <= capacity * (1 + 1e-9)
        assert choice.value <= solved.value * (1 + 1e-9)
        assert choice.value == pytest.approx(solved.value, rel=1e-3)
        dearer = problem.smallest_with(choice.value)
        assert dearer.value <= choice.value * (1 + 1e-9)
        assert dearer.cost <= choice.cost

    def test_frontier_by_the_solver_where_merging_is_too_large(self, monkeypatch: pytest.MonkeyPatch):
        problem, _ = random_problem(2, 4, 4)
        full = {round(point.cost, 6): point.value for point in problem.frontier()}
        monkeypatch.setattr("assay.sensitivity.bits.knapsack.STATES", 2)
        again, _ = random_problem(2, 4, 4)
        points = again.frontier(points=9)
        assert len(points) >= 3
        assert all(full[round(point.cost, 6)] == pytest.approx(point.value) for point in points)

    def test_forbidden_options_and_empty_budgets(self):
        costs = (np.array([1.0, 2.0]), np.array([1.0, 2.0]))
        problem = Knapsack(costs, (np.array([np.inf, 1.0]), np.array([3.0, 1.0])))
        assert problem.cheapest_within(3).options == (1, 0)
        with pytest.raises(UsageError, match="least possible is 3"):
            problem.cheapest_within(2.5)
        with pytest.raises(UsageError, match="forbidden"):
            Knapsack(costs, (np.array([np.inf, np.inf]), np.array([3.0, 1.0])))

    def test_budget_in_fractions_is_met_exactly(self):
        """Shares of thirds add up to an average of exactly 4 bits, round-off aside."""
        third = np.arange(3.0, 6.0) / 3
        problem = Knapsack((third,) * 3, (4.0 ** -np.arange(3),) * 3)
        assert problem.cheapest_within(4.0).options == (1, 1, 1)


class TestJoint:
    def problem(self, seed: int) -> tuple[Joint, np.ndarray]:
        draws = np.random.RandomState(seed)
        vectors = draws.randn(12, 6) * np.tile(2.0 ** -np.arange(3), 4)[:, None]
        costs = np.tile(np.arange(3.0), 4)[None]
        return Joint(vectors @ vectors.T, np.repeat(np.arange(4), 3), costs), vectors

    def test_value_is_the_norm_of_the_sum(self):
        joint, vectors = self.problem(0)
        rows = [0, 4, 8, 9]
        assert joint.value([0, 1, 2, 0]) == pytest.approx(float((vectors[rows].sum(0) ** 2).sum()))
        assert joint.cost([0, 1, 2, 0]).tolist() == [3.0]

    def test_exchanges_help_and_stay_within_the_budget(self):
        best_found = 0
        for seed in range(20):
            joint, _ = self.problem(seed)
            start = (0, 0, 2, 2)
            found = joint.refined(start, [5.0])
            assert joint.cost(found)[0] <= 5
            assert joint.value(found) <= joint.value(start)
            every = [o for o in product(range(3), repeat=4) if joint.cost(o)[0] <= 5]
            truth = min(joint.value(options) for options in every)
            best_found += joint.value(found) <= truth * (1 + 1e-9)
            for options in every:  # no change of one or two groups is better
                if sum(a != b for a, b in zip(options, found, strict=True)) <= 2:
                    assert joint.value(options) >= joint.value(found) * (1 - 1e-6)
        assert best_found >= 12

    def test_two_resources(self):
        joint, _ = self.problem(3)
        costs = np.stack([np.where(joint.groups < 2, joint.costs[0], 0), np.where(joint.groups < 2, 0, joint.costs[0])])
        two = Joint(joint.gram, joint.groups, costs)
        found = two.refined((0, 0, 0, 0), [2.0, 3.0])
        assert (two.cost(found) <= [2.0, 3.0]).all()
        with pytest.raises(UsageError, match="exceeds"):
            two.refined((2, 2, 0, 0), [2.0, 3.0])
