"""Budgets of a bit plan: what options cost, how much there is, or how much error is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from assay.errors import UsageError
from assay.sensitivity.bits.problem import Problem

Kind = Literal["bits", "size", "latency", "error", "agreement"]
KEYS = (*get_args(Kind), "activation_bits", "table")


@dataclass(frozen=True, eq=False)
class Budget:
    """What limits a plan.

    Attributes:
        kind: which quantity is limited.
        amount: how much of it.
        costs: (C, R) what every option costs of every resource: average bits per weight first, or bytes, or time.
        capacities: (C,) how much there is; inf for the quantity to minimise under an error budget.
        unit: of the first resource.
    """

    kind: Kind
    amount: float
    costs: np.ndarray
    capacities: np.ndarray
    unit: str

    @property
    def limits_error(self) -> bool:
        """True when costs are minimised under an allowed error, False when the error is under allowed costs."""
        return self.kind in ("error", "agreement")


def as_budget(problem: Problem, budget: float | Mapping[str, Any]) -> Budget:
    """Read what the user wrote.

    Args:
        problem: groups and options.
        budget: average bits per weight, or a mapping: ``{"bits": 4, "activation_bits": 8}``, ``{"size": bytes}`` of
            all weights, ``{"latency": seconds, "table": ...}`` with a table of costs by (layer name, format name) or a
            function of both, ``{"error": 0.05}`` relative output error, ``{"agreement": 0.98}`` of decisions.

    Returns:
        The budget.

    Raises:
        UsageError: for anything else.
    """
    given: dict[str, Any] = dict(budget) if isinstance(budget, Mapping) else {"bits": budget}
    unknown = sorted(set(given) - set(KEYS))
    kinds = [kind for kind in get_args(Kind) if kind in given]
    if unknown or len(kinds) != 1:
        raise UsageError(
            f"A budget names one quantity, got {sorted(given)}.",
            where="budget",
            advice="A number of average bits, or a mapping with one of bits, size, latency (with table), error, "
            "agreement.",
        )
    kind: Kind = kinds[0]
    try:
        amount = float(given[kind])
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"A budget is a number, got {given[kind]!r} for {kind}.", where="budget", advice="Such as budget=4.5."
        ) from error
    if not np.isfinite(amount) or amount <= 0 or (kind == "agreement" and amount > 1):
        raise UsageError(
            f"A budget of {amount} for {kind} makes no sense.", where="budget", advice="Give a positive one."
        )
    weight_bits, activation_bits = _average_bits(problem, "weights"), _average_bits(problem, "activations")
    choosing = any(len(formats) > 1 for formats in problem.activations.values())
    if kind == "bits":
        if not choosing:
            return Budget(kind, amount, weight_bits[None], np.array([amount]), "bit")
        capacities = np.array([amount, float(given.get("activation_bits", amount))])
        return Budget(kind, amount, np.stack([weight_bits, activation_bits]), capacities, "bit")
    if kind in ("error", "agreement"):
        return Budget(kind, amount, (weight_bits + activation_bits)[None], np.array([np.inf]), "bit")
    if choosing:
        raise UsageError(
            f"A budget of {kind} chooses formats of weights only.",
            where="activations",
            advice="Give one format for activations, or a budget in bits.",
        )
    if kind == "size":
        total = sum(group.size for group in problem.groups if group.kind == "weights")
        return Budget(kind, amount, (weight_bits * total / 8)[None], np.array([amount]), "byte")
    return Budget(kind, amount, _latency(problem, given.get("table"))[None], np.array([amount]), "")


def _average_bits(problem: Problem, kind: str) -> np.ndarray:
    """(R,) share of each option in the average bits per number of one kind."""
    total = sum(group.size for group in problem.groups if group.kind == kind) or 1
    return np.array(
        [
            target.bits * group.size / total if group.kind == kind else 0.0
            for group in problem.groups
            for target in group.formats
        ]
    )


def _latency(
    problem: Problem, table: Mapping[tuple[str, str], float] | Callable[[str, str], float] | None
) -> np.ndarray:
    if table is None:
        raise UsageError(
            "A latency budget needs a table.",
            where="budget",
            advice="{'latency': 0.01, 'table': {(layer, format name): seconds, ...}}; pairs left out are forbidden.",
        )
    costs = []
    for group in problem.groups:
        names = [target.name for target in group.formats]
        if not callable(table) and group.kind == "weights" and not any((group.name, name) in table for name in names):
            raise UsageError(
                f"The latency table has no entry for layer {group.name} in any format offered.",
                where="budget",
                advice=f"Its keys are (layer name, format name), such as {(group.name, names[0])}.",
            )
        for target in group.formats:
            if group.kind == "activations":
                costs.append(0.0)
            elif callable(table):
                costs.append(float(table(group.name, target.name)))
            else:
                costs.append(float(table.get((group.name, target.name), np.inf)))
    return np.array(costs)
