"""The filtering sweep as a job: the baseline and its attack, every filtered network on both, adaptive attacks last."""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assay._version import __version__
from assay.attacks import Attack, attack_of, attacked, auto_epsilon
from assay.errors import CaptureError, SubjectError, UsageError
from assay.filtering.assembly import BASELINE, Outcomes, baseline_of, screened
from assay.filtering.config import FilteringConfig
from assay.filtering.deciding import until_decided
from assay.filtering.engines import RULE_VERSION, Engine, engine_of
from assay.filtering.metrics import Metric
from assay.filtering.units import Unit
from assay.filtering.variants import Variants, variants_of
from assay.graph import Graph, operations
from assay.subject import Subject
from assay.sweep import Item, Outcome

ITEM_OPERATIONS = 1e12
"""Operations of one item, about: what a crash can lose, some tens of seconds."""
_DECIDING = (
    "inputs", "n", "filters", "replacements", "replacement_draws", "domain", "cover", "scope", "granularity", "include",
    "exclude", "attack", "attack_steps", "epsilon", "ignore_bounds", "mode", "engine", "precision", "batch_size",
    "classes_only", "seed",
)  # fmt: skip
_SCREENING = ("tau", "level", "draws", "normalise", "rule")
"""Settings that decide what is run only where scores choose it."""


@dataclass(frozen=True, eq=False)
class FilteringJob:
    """One sweep over the units of a subject.

    Attributes:
        subject: the model.
        x: (N, ...) inputs.
        y: (N,) labels or targets.
        config: settings.
        units: what is filtered.
        metric: performance of a sample.
        attack: the attack, by name or as a function; None for clean data only.
        bounds: legal range of inputs, None for none.
        initial: checkpoint for ``reinitialise``.
    """

    subject: Subject
    x: Tensor
    y: Tensor
    config: FilteringConfig
    units: tuple[Unit, ...]
    metric: Metric
    attack: str | Attack | None
    bounds: tuple[float, float] | None
    initial: Mapping[str, Tensor] | None = None
    name: str = field(default="filtering", init=False)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides every outcome, as plain values."""
        return self._identity

    @cached_property
    def _identity(self) -> Mapping[str, Any]:
        settings = self.config.model_dump(mode="json")
        decided = (*_DECIDING, *(_SCREENING if self.config.mode == "screen" else ()))
        decided = (*decided, "tau", "delta") if self.config.classes_only else decided
        return {
            "model": self.subject.digest,
            "data": _digest([self.x, self.y]),
            "units": [unit.name for unit in self.units],
            "settings": {name: settings[name] for name in dict.fromkeys(decided)},
            "metric": _function_identity(self.metric.function) | {"higher": self.metric.higher_is_better},
            "attack": self.attack if self.attack is None or isinstance(self.attack, str)
            else _function_identity(self.attack),
            "bounds": self.bounds,
            "initial": None if self.initial is None else _digest([self.initial[name] for name in sorted(self.initial)]),
            "rules": RULE_VERSION,
            "versions": {"assay": __version__, "torch": torch.__version__},
            "processor": torch.backends.cpu.get_cpu_capability(),
        }  # fmt: skip

    @property
    def threads(self) -> int:
        """Threads of torch in every process."""
        return self.config.threads

    @property
    def stages(self) -> int:
        """Baseline; static sweep; adaptive sweep where asked for."""
        return 2 if self.attack is None or self.config.mode == "static" else 3

    def items(self, stage: int, done: Mapping[str, Outcome]) -> Sequence[Item]:
        """The baseline; then blocks of variants of every unit; then those to attack anew."""
        if stage == 0:
            return [Item(BASELINE, {"what": BASELINE}, self._full * len(self.x) * (30 if self.attack else 1))]
        every = list(self.variants())
        if stage == 1 or self.config.mode != "screen":
            chosen = [list(variants.rows) for variants in every]
        else:
            baseline, outcomes = baseline_of(self, done), Outcomes(done)
            chosen = [screened(self, variants, baseline, outcomes) for variants in every]
        pairs = zip(every, chosen, strict=True)
        return [item for variants, filters in pairs for item in self._blocks(variants, filters, stage == 1)]

    def _blocks(self, variants: Variants, filters: Sequence[str], static: bool) -> Iterator[Item]:
        rows = variants.needed(filters)
        if not rows:
            return
        each = self.cost(variants, static)
        most = len(rows) if self.config.classes_only else int(ITEM_OPERATIONS / each)
        size = max(1, min(len(rows), most))
        kind = "static" if static else "adaptive"
        for begin in range(0, len(rows), size):
            block = rows[begin : begin + size]
            name = f"{kind} {variants.name} {begin + 1}-{begin + len(block)}"
            yield Item(name, {"unit": variants.name, "rows": block, "attack": kind}, each * len(block))

    def extent(self) -> tuple[int, float]:
        """How many filtered networks there are, and operations of all stages (a screen: as if all were attacked)."""
        networks, spent = 0, self.items(0, {})[0].cost
        for variants in self.variants():
            count = len(variants.needed(list(variants.rows)))
            networks += count
            spent += count * sum(self.cost(variants, static) for static in (True, False)[: self.stages - 1])
        return networks, spent

    def variants(self) -> Iterator[Variants]:
        """The variants of every unit."""
        return variants_of(self.subject.model, self.units, self.config, self.initial)

    @property
    def same_attack_first(self) -> bool:
        """Whether the static stage evaluates on attacked data too."""
        return self.attack is not None and self.config.mode != "adaptive"

    def open(self, stage: int, done: Mapping[str, Outcome]) -> Callable[[Item], Outcome]:
        """What computes one item of a stage."""
        runner = Runner(self)
        if stage == 0:
            return lambda item: runner.baseline()
        if stage == 1:
            return lambda item: runner.static(item, done)
        return lambda item: runner.adaptive(item, done)

    @cached_property
    def graph(self) -> Graph | None:
        """The captured graph, None where the model cannot be captured."""
        try:
            return self.subject.graph
        except (CaptureError, SubjectError):
            return None

    @cached_property
    def _costs(self) -> Mapping[str, float]:
        """Operations per sample behind each parameter, by its name; of the whole network under the empty name."""
        if self.graph is None:
            return {"": 2.0 * sum(parameter.numel() for parameter in self.subject.model.parameters()) + 1.0}
        spent, after = operations(self.graph), {"": 0.0}
        after[""] = sum(spent.values()) + 1.0
        for leaf, name in self.graph.parameter_names.items():
            reached = {leaf}
            for node in self.graph:
                if any(source in reached for source in node.inputs):
                    reached.add(node.name)
            after[name] = after.get(name, 0.0) + sum(spent.get(node, 0.0) for node in reached)
        return after

    @property
    def _full(self) -> float:
        return self._costs[""]

    def cost(self, variants: Variants, static: bool) -> float:
        """Operations of one variant on all samples."""
        suffix = self._full
        if len(variants.units) == 1 and self.config.engine != "naive":
            behind = [self._costs[name] for name in variants.units[0].aliases if name in self._costs]
            suffix = min(suffix, max(behind, default=self._full))
        if static:
            return len(self.x) * suffix * (2 if self.same_attack_first else 1)
        steps = self.config.attack_steps if self.attack in ("pgd", "pgd-l2") else 1
        return len(self.x) * (2 * self._full * steps + suffix + (self._full if steps > 1 else 0))

    def attack_with(self, epsilon: float | None) -> Attack:
        """The attack with its settings filled in."""
        assert self.attack is not None
        return attack_of(self.attack, epsilon=epsilon, **self.attack_settings)

    @property
    def attack_settings(self) -> dict[str, Any]:
        """Settings of a named attack besides epsilon."""
        return {"steps": self.config.attack_steps} if self.attack in ("pgd", "pgd-l2") else {}


class Runner:
    """Computes items in one process."""

    def __init__(self, job: FilteringJob) -> None:
        self.job = job
        self.size = job.config.batch_size or max(1, min(512, 2**22 // (job.x[0].numel() * job.x.element_size())))

    @cached_property
    def engine(self) -> Engine:
        """What runs filtered networks."""
        precision = self.job.config.precision
        return engine_of(
            self.job.subject,
            self.job.config.engine,
            batch_size=self.job.config.batch_size,
            precision=None if precision == "full" else precision,
        )

    @cached_property
    def _variants(self) -> dict[str, Variants]:
        return {each.name: each for each in self.job.variants()}

    def baseline(self) -> Outcome:
        """The unfiltered network: its performance per sample, and the attacked inputs that static scores use."""
        job = self.job
        found: dict[str, np.ndarray] = {"clean": self._unfiltered(job.x)}
        if job.attack is None:
            return found
        given = job.config.epsilon
        epsilon: float | None = None if isinstance(given, str) else given
        if given == "auto" and (isinstance(job.attack, str) or _takes_epsilon(job.attack)):
            search = auto_epsilon(
                job.subject, job.x, job.y, job.attack, bounds=job.bounds, batch_size=job.config.batch_size,
                **job.attack_settings,
            )  # fmt: skip
            epsilon = search.epsilon
            found["bracket"] = np.array(search.bracket)
        found["epsilon"] = np.array(math.nan if epsilon is None else epsilon)
        points = attacked(
            job.attack_with(epsilon), job.subject, job.x, job.y, bounds=job.bounds, batch_size=job.config.batch_size
        )
        return found | {"adversarial": self._unfiltered(points), "attacked": points.numpy()}

    def static(self, item: Item, done: Mapping[str, Outcome]) -> Outcome:
        """Variants on clean inputs, and on inputs attacked once."""
        variants, rows = self._variants[item.arguments["unit"]], item.arguments["rows"]
        if self.job.config.classes_only:
            return until_decided(self, variants, rows, done, adaptive=False)
        found = {"rows": np.array(rows), "clean": self.outputs(variants, rows, self.job.x, self.job.y)}
        if self.job.same_attack_first:
            points = torch.tensor(done[BASELINE]["attacked"])
            found["adversarial"] = self.outputs(variants, rows, points, self.job.y)
        return found

    def adaptive(self, item: Item, done: Mapping[str, Outcome]) -> Outcome:
        """Variants on inputs that were attacked through them."""
        variants, rows = self._variants[item.arguments["unit"]], item.arguments["rows"]
        if self.job.config.classes_only:
            return until_decided(self, variants, rows, done, adaptive=True)
        epsilon = float(done[BASELINE]["epsilon"])
        return {"rows": np.array(rows), "adversarial": self.attacked(variants, rows, self.job.x, self.job.y, epsilon)}

    def attacked(self, variants: Variants, rows: Sequence[int], x: Tensor, y: Tensor, epsilon: float) -> np.ndarray:
        """Values (rows, N) on inputs attacked through each variant."""
        attack = self.job.attack_with(None if math.isnan(epsilon) else epsilon)
        bounds = self.job.bounds
        if len(variants.units) == 1:
            stack = variants.stack(rows)
            return self.values(self.engine.attacked(variants.units[0], stack, x, y, attack, bounds=bounds), y)
        found = []
        for row in rows:
            changed = variants.parameters(row)
            points = attacked(attack, self.job.subject, x, y, parameters=changed, bounds=bounds)
            found.append(self._forward(points, changed))
        return self.values(iter(found), y)

    def outputs(self, variants: Variants, rows: Sequence[int], x: Tensor, y: Tensor) -> np.ndarray:
        """Values (rows, N) of variants on inputs as they are."""
        if len(variants.units) == 1:
            return self.values(self.engine.outputs(variants.units[0], variants.stack(rows), x), y)
        return self.values((self._forward(x, variants.parameters(row)) for row in rows), y)

    def _unfiltered(self, x: Tensor) -> np.ndarray:
        """Values of the network as it is, by the same engine, so that a filter without effect changes nothing."""
        if self.job.config.precision == "full":
            return self.values(iter([self._forward(x, {})]), self.job.y)[0]
        unit = self.job.units[0]
        whole = dict(self.job.subject.model.named_parameters(remove_duplicate=False))[unit.parameter]
        return self.values(self.engine.outputs(unit, [unit.take(whole.detach())], x), self.job.y)[0]

    def _forward(self, x: Tensor, changed: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.job.subject.call(changed, part.clone()) for part in x.split(self.size)])

    def values(self, logits: Iterator[Tensor], y: Tensor) -> np.ndarray:
        """Metric of every sample, (rows, N)."""
        values = [self.job.metric(each, y) for each in logits]
        stacked = torch.stack(values)
        return (stacked.double() if stacked.dtype.is_floating_point else stacked).numpy()


def _takes_epsilon(attack: Attack) -> bool:
    try:
        attack_of(attack, epsilon=0.0)
    except UsageError:
        return False
    return True


def _digest(tensors: Sequence[Tensor]) -> str:
    from assay.subject import tensors_digest

    return tensors_digest({str(index): tensor for index, tensor in enumerate(tensors)})


def _function_identity(function: Callable[..., Any]) -> dict[str, Any]:
    """A function by name, filled-in settings and code, so that a changed one is another."""
    settings: dict[str, str] = {}
    while hasattr(function, "func"):  # functools.partial
        settings |= {name: _setting(value) for name, value in getattr(function, "keywords", {}).items()}
        function = function.func  # pyright: ignore[reportFunctionMemberAccess]
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    code = getattr(function, "__code__", None)
    content = "" if code is None else f"{code.co_code.hex()}|{code.co_names}|{code.co_varnames}|{_constants(code)}"
    return {"name": name, "settings": settings, "code": hashlib.sha256(content.encode()).hexdigest()}


def _setting(value: Any) -> str:
    """A filled-in value in full: what tensors and results print of themselves leaves most of it out."""
    plain = (bool, int, float, str, bytes, type(None))
    inside = value if isinstance(value, (tuple, list)) else (value,)
    if all(isinstance(each, plain) for each in inside):
        return repr(value)
    try:
        return f"{type(value).__qualname__} {hashlib.sha256(pickle.dumps(value)).hexdigest()}"
    except Exception:  # it cannot be pickled: what it prints is all there is
        return repr(value)


def _constants(code: CodeType) -> list[str]:
    """Constants of a function; functions inside it by their code."""
    return [
        f"{each.co_code.hex()}{_constants(each)}" if isinstance(each, CodeType) else repr(each)
        for each in code.co_consts
    ]
