"""Formats per layer under a budget: predicted from one linearisation, chosen jointly, verified by a real run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from assay.errors import NumericalError, UsageError
from assay.grade import Grade
from assay.inputs import prepared
from assay.results import Displayed
from assay.sensitivity.bits.budget import as_budget
from assay.sensitivity.bits.choose import LAYER_ERROR, Chooser, Point
from assay.sensitivity.bits.problem import Problem, calibrated_activations
from assay.sensitivity.bits.scores import score
from assay.sensitivity.bits.verify import Verified, verify
from assay.subject import Data, Subject

if TYPE_CHECKING:
    from assay.sensitivity.roundoff.formats import Format
    from assay.sensitivity.roundoff.sites import Precision

DEFAULT_FORMATS = (3, 4, 5, 6, 7, 8)
_MARGIN = 1e-12


@dataclass(frozen=True, eq=False)
class Plan(Displayed):
    """One format per layer, what was predicted for it, and what a real run says.

    Attributes:
        bits: storage bits per weight, by layer name (module path).
        formats: format of the weights, by layer name.
        activations: format of stored activations, by place; empty where they are exact.
        average_bits: bits per weight, over all weights.
        size: bytes of all weights; scales come on top.
        predicted: relative output error on the calibration inputs; None where the method does not predict one. Grade:
            linearised.
        verified: what the quantised network really did on the data it was chosen by.
        uniform: the same for one format everywhere within the same budget; None where none fits.
        uniform_format: that format's name, "" where none fits.
        held: what it did on inputs that took no part in choosing; None without any.
        kind: "mixed", or "uniform" where that did better in the real run.
        notes: how it came about, in sentences.
        method: the score it was chosen by.
        options: index of the option of every group of `problem`.
    """

    bits: Mapping[str, int]
    formats: Mapping[str, Format]
    activations: Mapping[str, Format]
    average_bits: float
    size: float
    predicted: float | None
    verified: Verified
    uniform: Verified | None
    uniform_format: str
    held: Verified | None
    kind: Literal["mixed", "uniform"]
    notes: tuple[str, ...]
    method: str
    options: tuple[int, ...]
    chooser: Chooser
    subject: Subject

    @property
    def problem(self) -> Problem:
        """Graph, calibration inputs and options."""
        return self.chooser.problem

    @property
    def grade(self) -> Grade:
        """The plan's errors are measured; predictions are linearised."""
        return self.verified.grade

    @cached_property
    def pareto(self) -> tuple[Point, ...]:
        """Predicted error against cost for other budgets."""
        return self.chooser.pareto()

    @property
    def precision(self) -> tuple[Precision, dict[str, Precision]]:
        """The plan as `simulate(model, x, precision, layers=...)` takes it."""
        return self.problem.layers_precision(self.options)

    def outputs(self, x: Tensor) -> Tensor:
        """Run the quantised network on other inputs (B, ...), float64 (B, K)."""
        return self.problem.outputs(self.options, prepared(self.subject, x)[1])

    def export(self, path: str | Path, *, kind: Literal["json", "onnx"] | None = None) -> Path:
        """Write the plan: ``.json`` (readable again by `export.read_plan`) or ``.onnx`` (QDQ, needs the extra).

        Args:
            path: the file.
            kind: what to write; by the suffix when None.

        Returns:
            The file.

        Raises:
            UsageError: for another suffix, or a format that the target cannot hold.
        """
        path = Path(path)
        wanted = kind or path.suffix.removeprefix(".")
        if wanted == "json":
            from assay.sensitivity.bits.export.plan_file import write_plan

            return write_plan(self, path)
        if wanted == "onnx":
            from assay.sensitivity.bits.export.qdq import write_qdq

            return write_qdq(self, path).path
        raise UsageError(f"A plan cannot be written as {wanted!r}.", where=str(path), advice="Use .json or .onnx.")

    def __str__(self) -> str:
        lines = [f"{self.average_bits:.3g} bits per weight, {self.kind}, by {self.method}"]
        lines += [f"  {name}: {target.name}" for name, target in self.formats.items()]
        return "\n".join([*lines, *self.notes])


def bit_widths(
    model: nn.Module | Subject,
    data: Data | Tensor | tuple[Tensor, Tensor] | None = None,
    *,
    budget: float | Mapping[str, Any],
    formats: Sequence[Format | str | int] = DEFAULT_FORMATS,
    activations: Format | str | int | Sequence[Format | str | int] | None = None,
    method: str = "auto",
    samples: int = 64,
    layer_error: float = LAYER_ERROR,
    percentile: float | None = None,
    directions: int | None = None,
    holdout: float = 0.0,
    seed: int = 0,
) -> Plan:
    """Choose a number format for every dense and convolution weight under a budget, and verify it by a real run.

    The rounding error of every weight in every format is known, so its effect on the outputs is predicted to first
    order from one shared linearisation (`linearised`), errors of different layers as vectors that cancel or reinforce
    (`joint`). The best choice within the budget is then run for real, beside one format everywhere; where that has the
    smaller output error, it is the plan. Batch norms are folded first; biases stay exact.

    Args:
        model: an nn.Module or a Subject that can be captured.
        data: calibration inputs (N, ...), (inputs, labels) or `Data`; the subject's own when None. Predictions use the
            first `samples`, evenly spread; the real runs use all.
        budget: average bits per weight, or a mapping with one of: ``bits`` (and ``activation_bits`` where activations
            are chosen), ``size`` in bytes of all weights, ``latency`` with ``table`` (costs by (layer name, format
            name), or a function of both), ``error`` (relative output error, root mean square) or ``agreement`` (share
            of unchanged decisions): the cheapest plan that keeps it in a real run.
        formats: what a weight may get; a whole number b means b-bit symmetric integers with a scale per output channel,
            names are those of `as_format` (``int4``, ``int4_group64``, ``fp16``, ``e4m3``).
        activations: None to keep them exact; one format for all stored values; or several, of which each gets one.
            Whole numbers mean integers with one scale per tensor, fixed from the calibration inputs.
        method: a score of `scores`: ``auto`` is ``joint``.
        samples: calibration inputs used for the prediction.
        layer_error: options whose own predicted relative output error is larger are left out, since first order does
            not hold there; relaxed where nothing else fits the budget.
        percentile: of the calibration values that activation ranges hold, in percent; None for all.
        directions: see `score`.
        holdout: share of the inputs, evenly spread, that take no part in choosing: `Plan.held` is measured on them. A
            plan that only just kept an agreement on n inputs has, on others, that agreement give or take a few
            times sqrt(agreement (1 - agreement) / n).
        seed: of random directions.

    Returns:
        The plan.

    Raises:
        UsageError: for a budget that cannot be met, or a request that makes no sense.
        SubjectError: for data or a model that cannot be used.
        CaptureError: when the model cannot be captured.
        NumericalError: where every output is 0, so that no relative error exists.

    Example:
        >>> from assay.load.demo import demo_data, demo_model
        >>> plan = bit_widths(demo_model(), demo_data().inputs[:100], budget=4.5)
        >>> plan.average_bits <= 4.5, plan.verified.agreement > 0.9
        (True, True)
    """
    if samples < 1:
        raise UsageError(f"At least one sample is needed, got {samples}.", where="samples", advice="Leave it at 64.")
    subject, x, targets = _data(model, data)
    kept = _held_out(len(x), holdout)
    held = (x[kept], None if targets is None else targets[kept])
    x, targets = x[~kept], None if targets is None else targets[~kept]
    from assay.sensitivity.roundoff.sites import prepared_graph

    graph = prepared_graph(subject)
    picked = torch.linspace(0, len(x) - 1, min(samples, len(x))).round().long()
    calibration = x[picked]
    stored = {}
    if activations is not None:
        several = isinstance(activations, Sequence) and not isinstance(activations, str)
        chosen = _formats(list(activations) if several else [activations], "tensor", "activations")  # type: ignore[arg-type]
        stored = calibrated_activations(graph, x, chosen, percentile)
    problem = Problem(graph, calibration, _formats(formats, "channel", "formats"), stored)
    limits = as_budget(problem, budget)
    scores = score(problem, "joint" if method == "auto" else method, directions=directions, seed=seed)
    exact = problem.outputs(None, x)
    if not bool(exact[picked].any()):
        raise NumericalError(
            "All outputs are 0 on the calibration inputs: a relative error does not exist.",
            where="data",
            advice="Pass inputs at which the model says something.",
        )
    chooser = Chooser(problem, scores, limits, layer_error)
    run = _Runner(problem, x, exact, targets)
    if limits.limits_error:
        options, uniform, notes = _cheapest(chooser, run)
    else:
        chooser, options, uniform, notes = _within(chooser, run)
    return _plan(subject, chooser, run, options, uniform, notes, held)


class _Runner:
    """Real runs of choices, each made once."""

    def __init__(self, problem: Problem, x: Tensor, exact: Tensor, targets: Tensor | None) -> None:
        self.problem, self.x, self.exact, self.targets = problem, x, exact, targets
        self.made: dict[tuple[int, ...], Verified] = {}

    def __call__(self, options: tuple[int, ...]) -> Verified:
        if options not in self.made:
            self.made[options] = verify(self.problem, options, self.x, self.exact, self.targets)
        return self.made[options]


def _within(chooser: Chooser, run: _Runner) -> tuple[Chooser, tuple[int, ...], tuple[int, ...] | None, list[str]]:
    """The choice of least error within capacities, and the largest uniform one that fits."""
    notes: list[str] = []
    fitting = [options for options in chooser.uniforms() if chooser.fits(options)]
    uniform = fitting[-1] if fitting else None
    while True:
        try:
            additive = chooser.additive(chooser.budget.capacities.tolist())
            break
        except UsageError:
            if not chooser.forbidden.any():
                raise
            chooser = Chooser(chooser.problem, chooser.scores, chooser.budget, 1.5 * chooser.layer_error)
            notes = [
                f"The budget forces options whose own predicted output error is up to {chooser.layer_error:.2g}: "
                "first-order predictions are unsure there."
            ]
    starts = [uniform] if uniform is not None else []
    candidates = dict.fromkeys([chooser.best(chooser.budget.capacities.tolist(), *starts), additive])
    options = min(candidates, key=lambda choice: run(choice).relative_error)
    return chooser, options, uniform, notes


def _cheapest(chooser: Chooser, run: _Runner) -> tuple[tuple[int, ...], tuple[int, ...] | None, list[str]]:
    """The cheapest choice on the Pareto curve, and the cheapest uniform one, that keep the budget in a real run."""
    kind, amount = chooser.budget.kind, chooser.budget.amount

    def keeps(options: tuple[int, ...]) -> bool:
        found = run(options)
        if kind == "error":
            return found.relative_error <= amount
        if found.agreement is None:
            raise UsageError("Agreement needs at least two outputs.", where="budget", advice="Use {'error': ...}.")
        return found.agreement >= amount - _MARGIN

    uniform = next((options for options in chooser.uniforms() if keeps(options)), None)
    points = chooser.pareto()
    low, high = -1, len(points)  # the first point that keeps it lies above low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(points[middle].options) else (middle, high)
    if high < len(points):
        return points[high].options, uniform, []
    if uniform is not None:
        return uniform, uniform, []
    best = run(points[-1].options)
    raise UsageError(
        f"No choice of formats keeps a {kind} of {amount:g}: the finest has a relative error of "
        f"{best.relative_error:.3g}" + ("." if best.agreement is None else f" and agreement {best.agreement:.4f}."),
        where="budget",
        advice="Offer finer formats, also for activations, or allow more error.",
    )


def _plan(
    subject: Subject,
    chooser: Chooser,
    run: _Runner,
    options: tuple[int, ...],
    uniform: tuple[int, ...] | None,
    notes: list[str],
    held: tuple[Tensor, Tensor | None],
) -> Plan:
    problem = chooser.problem
    kind: Literal["mixed", "uniform"] = "mixed"
    found, beside = run(options), None if uniform is None else run(uniform)
    name = "" if uniform is None else problem.of(uniform)[0][1].name
    if uniform is not None and beside is not None:
        cheaper = chooser.budget.limits_error and chooser.cost(uniform) <= chooser.cost(options)
        closer = not chooser.budget.limits_error and beside.relative_error <= found.relative_error
        if uniform == options or cheaper or closer:
            kind, options, found = "uniform", uniform, beside
            reason = "it costs less" if chooser.budget.limits_error else "its output error in the real run is smaller"
            notes.append(f"Uniform {name} is the plan: {reason} than that of mixed formats.")
        else:
            notes.append(
                f"Relative output error {found.relative_error:.3g} in a real run of {found.samples} inputs; "
                f"uniform {name}: {beside.relative_error:.3g}."
            )
    others = None
    if len(held[0]):
        others = verify(problem, options, held[0], problem.outputs(None, held[0]), held[1])
        agreed = "" if others.agreement is None else f", agreement {others.agreement:.4f}"
        notes.append(
            f"On {others.samples} inputs that took no part: relative output error {others.relative_error:.3g}{agreed}."
        )
    chosen = [(group, target) for group, target in problem.of(options)]
    weights = {group.name: (group, target) for group, target in chosen if group.kind == "weights"}
    stored = sum(target.bits * group.size for group, target in weights.values())
    count = sum(group.size for group, _ in weights.values())
    return Plan(
        bits={key: target.bits for key, (_, target) in weights.items()},
        formats={key: target for key, (_, target) in weights.items()},
        activations={group.name: target for group, target in chosen if group.kind == "activations"},
        average_bits=stored / count,
        size=stored / 8,
        predicted=None if chooser.scores.relative is None else chooser.predicted(options),
        verified=found,
        uniform=beside,
        uniform_format=name,
        held=others,
        kind=kind,
        notes=tuple(notes),
        method=chooser.scores.method,
        options=options,
        chooser=chooser,
        subject=subject,
    )


def _data(
    model: nn.Module | Subject, data: Data | Tensor | tuple[Tensor, Tensor] | None
) -> tuple[Subject, Tensor, Tensor | None]:
    if data is None:
        if not isinstance(model, Subject) or model.data is None:
            raise UsageError("Calibration data are needed.", where="data", advice="Pass inputs (N, ...).")
        data = model.data
    inputs, targets = (data.inputs, data.targets) if isinstance(data, Data) else (data, None)
    if isinstance(inputs, tuple):
        inputs, targets = inputs
    subject, x = prepared(model, inputs)
    return subject, x, targets


def _held_out(count: int, share: float) -> Tensor:
    """(N,) which inputs are kept out of choosing, evenly spread."""
    number = round(count * share) if 0 <= share < 1 else count
    if number >= count or (share > 0 and number == 0):
        raise UsageError(
            f"holdout={share} of {count} inputs leaves nothing to choose by, or nothing to hold out.",
            where="holdout",
            advice="Give more inputs, or a share such as 0.5.",
        )
    kept = torch.zeros(count, dtype=torch.bool)
    kept[((torch.arange(number) + 0.5) * count / max(1, number)).long()] = True
    return kept


def _formats(given: Sequence[Format | str | int], granularity: Any, where: str) -> tuple[Format, ...]:
    """Formats in ascending order of bits, whole numbers as symmetric integers."""
    from assay.sensitivity.roundoff.formats import as_format
    from assay.sensitivity.roundoff.integers import IntegerFormat

    given = [given] if isinstance(given, str) else given
    if not given:
        raise UsageError("Give at least one format.", where=where, advice="Such as formats=(3, 4, 6, 8).")
    found = [IntegerFormat(f, granularity) if type(f) is int else as_format(f) for f in given]
    unique = {target.name: target for target in found}
    return tuple(sorted(unique.values(), key=lambda target: target.bits))
