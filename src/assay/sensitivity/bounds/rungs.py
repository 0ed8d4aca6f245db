"""The ladder: every bound and estimate of the response to an input change side by side, from loose to tight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from assay.brief import Brief
from assay.certified.ball import graph_balls
from assay.certified.global_bound import METHODS, LipschitzBound, graph_bound
from assay.certified.prepared import bound_graph
from assay.errors import NumericalError, UnsupportedOperator, UsageError
from assay.grade import Grade
from assay.graph import Graph
from assay.inputs import prepared
from assay.results import Displayed
from assay.sensitivity.bounds.stage import stage_norms, stages
from assay.sensitivity.condition import ConditionNumbers, check_outputs_nonzero, condition_numbers
from assay.subject import Subject


@dataclass(frozen=True, eq=False)
class Rung(Brief):
    """One line of the ladder.

    Attributes:
        name: short name.
        value: (B,) float64, or None where it does not exist; `note` then says why.
        grade: reliability.
        holds: for which changes: any, up to a radius, or in the limit of small ones.
        cost: what it took.
        note: what else the reader should know.
    """

    name: str
    value: Tensor | None
    grade: Grade
    holds: str
    cost: str
    note: str = ""


@dataclass(frozen=True, eq=False)
class Ladder(Displayed):
    """Rungs in order, guaranteed and loose first.

    Attributes:
        rungs: the lines.
        relative: whether values are relative output change per relative input change, or absolute.
    """

    rungs: tuple[Rung, ...]
    relative: bool

    def __iter__(self) -> Iterator[Rung]:
        return iter(self.rungs)

    def __len__(self) -> int:
        return len(self.rungs)

    def __getitem__(self, name: str) -> Rung:
        for rung in self.rungs:
            if rung.name == name:
                return rung
        raise KeyError(f"{name!r} is not a rung of this ladder: {', '.join(rung.name for rung in self.rungs)}")

    def records(self) -> list[Mapping[str, Any]]:
        """One record per rung: its median over inputs, range, grade and cost."""
        rows = []
        for rung in self.rungs:
            value = rung.value
            numbers = (None,) * 3 if value is None else (float(value.median()), float(value.min()), float(value.max()))
            described = {"grade": rung.grade.value, "holds": rung.holds, "cost": rung.cost, "note": rung.note}
            rows.append({"rung": rung.name, **dict(zip(("median", "low", "high"), numbers, strict=True)), **described})
        return rows


def ladder(
    model: nn.Module | Subject,
    x: Tensor,
    *,
    relative: bool = True,
    groups: Sequence[int] = (1, 2, 3),
    radii: Sequence[float] = (1e-2,),
    seed: int = 0,
) -> Ladder:
    """Every rung at inputs: global bounds, certified balls, masked and grouped Jacobian products, condition numbers.

    Guaranteed rungs come first. ``product``, ``frobenius``, ``averaged``, ``eclipse`` and ``global`` (the best of them)
    hold for changes of any size, ``ball ...`` for changes up to a part of ||x||. ``masked rows`` (||D_l W_l||),
    ``masked`` (columns too), ``masked by 2`` ... and ``kappa`` hold to first order and get tighter in this order;
    ``kappa rms`` is the mean-square number. A rung that does not exist for this model says why and has no value.

    Args:
        model: a module or Subject.
        x: (B, ...) inputs.
        relative: relative output change per relative input change (times ||x|| / ||f(x)||); False: absolute.
        groups: consecutive stages per Jacobian norm.
        radii: of the certified balls, relative to ||x||.
        seed: of Lanczos starts.

    Returns:
        The ladder.

    Raises:
        NumericalError: where f(x) = 0 and relative numbers were asked for, or a derivative is not finite.
        SubjectError: for inputs or a model that cannot be used.
        UsageError: for groups or radii that are not positive.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.ReLU())
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        >>> found = ladder(net, torch.tensor([[-1.0, 1.0]]), relative=False)
        >>> round(float(found["global"].value), 6), round(float(found["kappa"].value), 6)
        (3.0, 1.0)
    """
    if not all(group >= 1 for group in groups) or not all(radius > 0 for radius in radii):
        raise UsageError("groups and radii must be positive.", where="ladder", advice="Leave them at their defaults.")
    subject, x = prepared(model, x)
    conditions = condition_numbers(subject, x, seed=seed)
    if relative:
        check_outputs_nonzero(conditions.output_norm)
    factor = conditions.input_norm / conditions.output_norm if relative else torch.ones_like(conditions.input_norm)
    graph = bound_graph(subject, x)
    rungs = _global_rungs(graph, factor)
    rungs += _ball_rungs(graph, x.double(), radii, conditions, factor, rungs[-1].value)
    rungs += _stage_rungs(graph, x, groups, factor, seed)
    return Ladder((*rungs, *_local_rungs(conditions, factor)), relative)


def _global_rungs(graph: Graph, factor: Tensor) -> list[Rung]:
    found: LipschitzBound | Exception
    try:
        found = graph_bound(graph)
    except (NumericalError, UnsupportedOperator) as error:
        return [Rung("global", None, Grade.BOUND, "any change", "", error.what)]
    cost = f"norms of {len(found.layers)} nodes, once"
    rungs = []
    for method in (*METHODS, "global"):
        value = found.value if method == "global" else found.tried[method]
        if isinstance(value, str):
            rungs.append(Rung(method, None, Grade.BOUND, "any change", "", f"does not apply: {value}"))
        else:
            rungs.append(Rung(method, value * factor, Grade.BOUND, "any change", cost))
    return rungs


def _ball_rungs(
    graph: Graph,
    x: Tensor,
    radii: Sequence[float],
    conditions: ConditionNumbers,
    factor: Tensor,
    anywhere: Tensor | None,
) -> list[Rung]:
    rungs = []
    for relative in sorted(radii, reverse=True):
        name, holds = f"ball {relative:g}", f"changes up to {relative:g} ||x||"
        size = conditions.input_norm * relative
        if bool((size == 0).any()):
            rungs.append(Rung(name, None, Grade.BOUND, holds, "", "an input is zero, so its ball is a point"))
            continue
        try:
            changes = [graph_balls(graph, x, size, joint=joint)[0] for joint in (False, True)]
        except UnsupportedOperator as error:
            rungs.append(Rung(name, None, Grade.BOUND, holds, "", error.what))
            continue
        value = torch.minimum(*changes) / size * factor
        value = value if anywhere is None else torch.minimum(value, anywhere)
        rungs.append(Rung(name, value, Grade.BOUND, holds, "two walks with matrices per input"))
    return rungs


def _stage_rungs(graph: Graph, x: Tensor, groups: Sequence[int], factor: Tensor, seed: int) -> list[Rung]:
    count = len(stages(graph))
    rungs = []
    for group in sorted(set(groups)):
        if group >= count > 1 and group > 1:
            continue  # one group is the Jacobian itself: kappa
        for mask in ("rows", "both") if group == 1 else ("both",):
            found = stage_norms(graph, x, group=group, mask=mask, seed=seed)
            name = "masked rows" if mask == "rows" else "masked" if group == 1 else f"masked by {group}"
            cost = f"norms of {len(found.places)} Jacobians per input"
            rungs.append(Rung(name, found.product * factor, found.grade, "small changes", cost))
    return rungs


def _local_rungs(conditions: ConditionNumbers, factor: Tensor) -> list[Rung]:
    cost = "one Jacobian norm per input"
    note = "" if conditions.method == "rows" else "by Lanczos, from below"
    worst = Rung("kappa", conditions.jacobian_norm * factor, Grade.LINEARISED, "small changes", cost, note)
    rms = Rung("kappa rms", conditions.rms_norm * factor, Grade.LINEARISED, "small random changes, on average", cost)
    return [worst, rms]
