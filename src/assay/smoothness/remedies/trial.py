"""A remedy tried: what should become of the kinks, said from the network as it is, and what becomes of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor, nn

from assay.brief import Brief
from assay.certified.prepared import bound_graph
from assay.errors import UsageError
from assay.grade import Grade
from assay.graph import Graph, Node
from assay.results import Displayed
from assay.smoothness.estimators.event import Limits, event
from assay.smoothness.estimators.sampled import smp_sampled
from assay.smoothness.kinks import Smp
from assay.smoothness.network import Network, Outputs
from assay.smoothness.paths import Path
from assay.smoothness.remedies.rewriting import POOLING, Change, changeable, rewritten
from assay.smoothness.remedies.softening import Softening, softened
from assay.smoothness.remedies.transferred import transferred
from assay.smoothness.switches import THRESHOLDS, WINNERS
from assay.subject import Subject


@dataclass(frozen=True, eq=False)
class Resolved(Brief):
    """Second differences of the outputs at one step, summed over a path: a smooth network has some too.

    Attributes:
        step: h, in units of the path's parameter.
        before: (K,) measured, of the network as it is.
        predicted: (K,) from its outputs and kinks.
        measured: (K,) of the changed network.
    """

    step: float
    before: Tensor
    predicted: Tensor
    measured: Tensor


@dataclass(frozen=True, eq=False)
class Remedy(Displayed):
    """One change, predicted and made, along one path. All SMP in output units per parameter unit.

    Attributes:
        change: what replaces what, see `rewriting.rewritten`.
        sharpness: of the smooth function; None for pools.
        places: what was replaced.
        before: kinks of the network as it is.
        after: kinks of the changed network, weights as they are.
        removed: (K,) SMP before, less the parts of what goes.
        predicted: (K,) SMP to expect, from the network as it is.
        grade: of the prediction.
        variation: sum of |second difference| / step, for softened thresholds.
        height: sum of the local maxima of |second difference| / step, likewise.
        notes: what the reader must know.
    """

    change: Change
    sharpness: float | None
    places: tuple[str, ...]
    before: Smp
    after: Smp
    removed: Tensor
    predicted: Tensor
    grade: Grade
    variation: Resolved | None = None
    height: Resolved | None = None
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> Tensor:
        """(K,) SMP of the changed network."""
        return self.after.value

    @property
    def predicted_gain(self) -> Tensor:
        """(K,) share of SMP that should go; negative where more comes."""
        return 1 - _over(self.predicted, self.before.value)

    @property
    def measured_gain(self) -> Tensor:
        """(K,) share of SMP that goes."""
        return 1 - _over(self.measured, self.before.value)


def remedy(
    model: nn.Module | Subject,
    path: Path,
    change: Change,
    *,
    sharpness: float = 5.0,
    layers: Collection[str] | None = None,
    outputs: Outputs = None,
    samples: int = 257,
    step: float | None = None,
    memory: int = 2**28,
) -> Remedy:
    """Predict what a change without retraining does to the kinks of the outputs, then make it and measure.

    By the adjoint identity, SMP = sum over kinks of |g| |local jump|, with g the gradient of the output at the unit.

    `removed` leaves out the terms of what goes and nothing else. `predicted` also takes slopes and gradients through
    what comes in its place, at the values of the network as it is (`transferred`): kinks that a max pool held back,
    because their unit lost its window, pass an average with their share; slopes behind averages are averages. What it
    leaves out is that values change too, which moves the kinks of later layers; retraining changes all of it.

    Softened kinks have no SMP, but at a step h one with unit speed |z'| is still seen with height
    (2 / (b|z'|h)) log cosh(b|z'|h / 2) (softplus) or tanh(b|z'|h / 2) (SiLU) of the sharp one. `variation` and `height`
    predict the whole track by putting the smooth function in the place of every listed kink,
    y(t) + sum J [s(t - tau) - max(t - tau, 0)]: exact as the sharpness b grows. Units that come near their threshold
    without crossing it are missed, and gradients are as they were, so it is a rough guide, too large, where 1/b is no
    longer small against the unit's values.

    SiLU turns around below 0, and a max pool behind it prefers a silent unit to one that is about to wake: the pool
    makes a new kink, in the sharp limit half the size of the one that was softened (`softening.returning`). `predicted`
    counts it where the pool comes right behind; a note says so. Softplus has no such effect.

    Args:
        model: module or Subject.
        path: a path through its inputs.
        change: ``average`` or ``blur`` for max pools, ``silu`` or ``softplus`` for ReLU, leaky ReLU, PReLU and clip.
        sharpness: b of the smooth function, z sigmoid(b z) or log(1 + exp(b z)) / b.
        layers: module paths or places of what to replace; all by default.
        outputs: which outputs, see `Network.of`.
        samples: points of the path for the kinks.
        step: of the second differences, for softened thresholds; the path's length over `samples` - 1 by default.
        memory: bytes that a sweep may use.

    Returns:
        Prediction and measurement side by side.

    Raises:
        CaptureError: when the model cannot be captured.
        UnsupportedOperator: for operators whose kinks are not known, or that the change has no counterpart for.
        UsageError: for an unknown change, layers without anything to replace, or a step longer than half the path.

    Example:
        >>> from assay.smoothness.paths import Line
        >>> net = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
        >>> _ = net[0].weight.data.fill_(2.0), net[0].bias.data.fill_(-1.0)
        >>> found = remedy(net, Line(torch.zeros(1), torch.ones(1)), "softplus", sharpness=20.0)
        >>> [value.item() for value in (found.before.value, found.predicted, found.measured)]
        [2.0, 0.0, 0.0]
    """
    if change not in get_args(Change):
        raise UsageError(
            f"There is no change {change!r}.", where="change", advice=f"Choose from {', '.join(get_args(Change))}."
        )
    ends = torch.tensor([path.start, path.end], dtype=torch.float64)
    graph = bound_graph(model, path.at(ends)[0])
    shape = tuple(path.at(ends[:1])[0].shape[1:])
    chosen = _chosen(graph, change, layers)
    names = frozenset(node.name for node in chosen)
    changed = rewritten(graph, change, sharpness, names)
    network, other = (Network.from_graph(one, shape, outputs) for one in (graph, changed))
    limits = Limits(memory=memory)
    before, after = (event(one, path, samples=samples, limits=limits) for one in (network, other))
    removed = before.value.clone()
    for name in names & network.places.keys():
        removed -= before.by_layer[network.places[name]]
    notes = tuple(dict.fromkeys((*getattr(path, "notes", ()), *before.notes, *after.notes)))
    found = Remedy(
        change,
        None if change in POOLING else sharpness,
        tuple(node.place for node in chosen),
        before,
        after,
        removed.clamp(min=0),
        removed.clamp(min=0),
        Grade.LINEARISED,
        notes=notes,
    )
    if change in POOLING:
        unswapped = Network(graph, shape, network.projection)
        instead = {node.name: _instead(graph, changed, node) for node in chosen}
        return replace(found, predicted=transferred(unswapped, instead, changed.parameters, path, samples, memory))
    behind = rewritten(network.graph, change, sharpness, names)
    instead = {node.name: _instead(network.graph, behind, network.graph[node.name]) for node in chosen}
    silu = sharpness if change == "silu" else None
    expected = transferred(network, instead, behind.parameters, path, samples, memory, silu=silu)
    found = replace(found, predicted=expected)
    if change == "silu" and _pooled(graph, names):
        note = "SiLU is not monotone: max pools behind it make new kinks, up to half the size of those it removes."
        found = replace(found, notes=(*found.notes, note))
    kind: Softening = "silu" if change == "silu" else "softplus"
    return _resolved(found, network, other, names, path, step, kind, sharpness)


def _chosen(graph: Graph, change: Change, layers: Collection[str] | None) -> tuple[Node, ...]:
    found = changeable(graph, change)
    if layers is None:
        if change == "blur":
            found = tuple(node for node in found if node.op == "max_pool")
        return found
    wanted = {layers} if isinstance(layers, str) else set(layers)
    chosen = tuple(node for node in found if {node.module_path, node.place, node.name} & wanted)
    missing = wanted - {key for node in chosen for key in (node.module_path, node.place, node.name)}
    if missing:
        have = ", ".join(node.place for node in found[:8]) or "nothing"
        raise UsageError(
            f"There is nothing to replace at {', '.join(sorted(missing))}.",
            where="layers",
            advice=f"This change is about: {have}.",
        )
    return chosen


def _pooled(graph: Graph, names: frozenset[str]) -> bool:
    """Whether a maximum sees the value of one of these nodes, perhaps rearranged."""
    seen = set(names)
    for node in graph:
        if node.op in _REARRANGED and node.inputs[0] in seen:
            seen.add(node.name)
    return any(node.op in WINNERS and not seen.isdisjoint(node.inputs) for node in graph)


_REARRANGED = frozenset({"identity", "reshape", "permute", "slice", "select", "part", "expand", "pad", "roll", "flip"})


def _instead(graph: Graph, changed: Graph, node: Node) -> Sequence[Node]:
    """What stands in a node's place in the changed graph."""
    known = {one.name for one in graph if one.name != node.name}
    position = next(i for i, one in enumerate(changed.nodes) if one.name == node.name)
    first = position
    while first > 0 and changed.nodes[first - 1].name not in known:
        first -= 1
    return changed.nodes[first : position + 1]


def _resolved(
    found: Remedy,
    network: Network,
    other: Network,
    names: frozenset[str],
    path: Path,
    step: float | None,
    kind: Softening,
    sharpness: float,
) -> Remedy:
    """The remedy with second differences at a step: as they are, predicted, and measured."""
    length = path.end - path.start
    step = length / (found.before.samples - 1) if step is None else float(step)
    if not 0 < step <= length / 2:
        raise UsageError(
            f"No second difference with step {step:g} fits into a path of length {length:g}.",
            where="step",
            advice="Choose a positive step of at most half the length.",
        )
    t = path.start + step * torch.arange(int(length / step * (1 + 1e-12)) + 1, dtype=torch.float64)
    values, measured = (_along(one, path, t) for one in (network, other))
    kinks = found.before.kinks
    assert kinks is not None
    speed = torch.zeros(len(kinks), dtype=torch.float64)
    soft = torch.zeros(len(kinks), dtype=torch.bool)
    for place, node in enumerate(network.switching):
        if node.name in names:
            mine = kinks.layer == place
            soft |= mine
            speed[mine] = (kinks.local[mine] / _change_of(network.graph, node, kinks.unit[mine])).abs()
    predicted = values + softened(t, kinks.t[soft], kinks.jump[soft], sharpness * speed[soft], kind)
    tracks = (values, predicted, measured)
    variation, height = (
        Resolved(step, *(torch.as_tensor(smp_sampled(y, step, form=form)) for y in tracks))
        for form in ("variation", "height")
    )
    notes = found.notes
    if kinks.dropped:
        notes = (*notes, f"The prediction at a step leaves {kinks.dropped} small kinks sharp that are not listed.")
    return replace(found, variation=variation, height=height, notes=notes)


def _along(network: Network, path: Path, t: Tensor) -> Tensor:
    rows = network.rows(2**28)
    return torch.cat([network.values(path.at(part)[0]) for part in t.split(rows)])


def _change_of(graph: Graph, node: Node, unit: Tensor) -> Tensor:
    """Change of slope at the threshold of each unit (m,): 1 less the slope of a leaky ReLU."""
    shape = (1, *(int(size) for size in node.spec.shape[1:] if isinstance(size, int)))
    operands = [torch.zeros(shape, dtype=torch.float64), *(graph.parameters[name] for name in node.inputs[1:] if name)]
    changes = [
        torch.as_tensor(one.change, dtype=torch.float64).abs() for one in THRESHOLDS[node.op](operands, node.attributes)
    ]
    largest = torch.stack([one.expand(shape).reshape(-1) for one in changes]).amax(0)
    return largest[unit.clamp(min=0)].clamp(min=1e-12)


def _over(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1.0), torch.nan)
