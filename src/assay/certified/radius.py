"""The certified radius: a ball around an input within which the predicted class provably cannot change."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from assay.certified.global_bound import graph_bound
from assay.certified.prepared import bound_graph
from assay.certified.reach import SLACK, Reach
from assay.certified.reach_domain import ReachDomain
from assay.certified.reverse import Both, ReverseDomain, Shared, Unbounded, reverse_walk
from assay.certified.search import Tried, largest
from assay.errors import CaptureError, NumericalError, SubjectError, UsageError
from assay.grade import Grade
from assay.graph import Graph, evaluate
from assay.inputs import prepared
from assay.interpret import forward
from assay.results import Displayed
from assay.subject import Subject

Method = Literal["auto", "reverse", "joint", "steps", "global"]
METHODS = ("auto", "reverse", "joint", "steps", "global")
_ROUNDING = 1e-12  # of the largest output: what rounding may have added to a margin


@dataclass(frozen=True, eq=False)
class CertifiedRadius(Displayed):
    """Balls in which the class cannot change. Float64.

    Attributes:
        radius: (B,) Euclidean radius in the units of the data; guaranteed, 0 where nothing could be certified.
        label: (B,) the class that cannot change.
        margin: (B,) how far its output is above the next one (or above the rival's).
        balls: (B,) number of balls that were walked through.
        why: for each input, why its radius is 0; empty elsewhere.
        method: as asked.
        grade: guaranteed.
    """

    radius: Tensor
    label: Tensor
    margin: Tensor
    balls: Tensor
    why: tuple[str, ...]
    method: str
    grade: Grade = Grade.BOUND


def certified_radius(
    model: nn.Module | Subject,
    x: Tensor,
    *,
    label: int | Sequence[int] | Tensor | None = None,
    upper: float | Sequence[float] | Tensor | None = None,
    rival: int | Sequence[int] | Tensor | None = None,
    tolerance: float = 0.01,
    method: Method = "auto",
) -> CertifiedRadius:
    """Guaranteed Euclidean distance to the decision boundary from below: no change smaller than it changes the class.

    On a ball, F_j = f_j - f_label is bounded for every rival j, the difference itself, so that what moves all outputs
    alike cancels. A bound F_j(x + d) <= F_j(x) + shift_j + ||d|| gradient_j on a ball of radius r certifies the smaller
    of r and (margin_j - shift_j) / gradient_j, so every ball tried gives a radius; the best one is searched for.

    ``reverse`` carries lines above and below every activation back to the input (CROWN, Zhang et al. 2018, arXiv
    1811.00866; see `reverse`), and is the tightest. ``joint`` and ``steps`` are those of `certified_ball`. ``global``
    is margin / (sqrt(2) L) with the global Lipschitz bound L (Tsuzuku et al. 2018, arXiv 1802.04034): no ball, and very
    small. ``auto`` is ``reverse``. All but ``global`` are exact for an affine model.

    Cost of ``reverse``: 4 to 8 balls per input; for each two passes back per unit whose slope is open, where units that
    read different patches share a pass. Once per call one pass back per unit.

    Args:
        model: a module or Subject that returns logits (or their softmax), (B, K).
        x: (B, ...) inputs in the units of the data.
        label: class that must not change, one or one per input; default the predicted one. Where the prediction is
            another class, the radius is 0.
        upper: a distance at which the class is known to change, such as an attack's: where to stop searching. Infinite
            or NaN where none is known.
        rival: the only class to guard against, one or one per input; default all of them.
        tolerance: relative; where the search stops, below the largest radius that the method certifies.
        method: ``auto``, ``reverse``, ``joint``, ``steps`` or ``global``.

    Returns:
        Radii, of the function in exact arithmetic; computed in double precision with rounding added.

    Raises:
        CaptureError: when the model cannot be captured.
        SubjectError: for inputs or outputs that are not (B, ...) and (B, K) with at least two classes.
        UnsupportedOperator: naming every node that cannot be bounded; `obstacles` asks beforehand.
        UsageError: for labels, rivals, distances, a tolerance or a method that do not make sense.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 2, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> found = certified_radius(net, torch.tensor([[3.0, 1.0], [0.0, 1.0]]))
        >>> [round(float(value), 6) for value in found.radius]
        [1.414214, 0.707107]
    """
    if method not in METHODS:
        raise UsageError(
            f"Unknown method {method!r}.", where="certified_radius", advice=f"Use one of {', '.join(METHODS)}."
        )
    if not 0 < tolerance < 1:
        raise UsageError(
            f"tolerance={tolerance} is not between 0 and 1.", where="certified_radius", advice="0.01 is one per cent."
        )
    subject, x = prepared(model, x)
    x = x.double()
    graph = _logits(bound_graph(subject, x))
    classes = _classes(graph)
    with torch.no_grad():
        outputs = torch.cat([evaluate(graph, part) for part in x.split(64)])
    predicted = outputs.argmax(1)
    own = predicted if label is None else _per_input(label, len(x), classes, "label")
    against = None if rival is None else _per_input(rival, len(x), classes, "rival")
    if against is not None and bool((against == own).any()):
        raise UsageError("An input's rival is its own class.", where="rival", advice="Name another class.")
    limits = _upper(upper, len(x))
    certifier = _Certifier(graph, "reverse" if method == "auto" else method, tolerance)
    radii, margins, balls, why = [], [], [], []
    for row, point in enumerate(x):
        mine = int(own[row])
        rivals = torch.tensor([j for j in range(classes) if j != mine]) if against is None else against[row : row + 1]
        margin = outputs[row, mine] - outputs[row, rivals]
        margins.append(float(margin.min()))
        margin = margin - _ROUNDING * outputs[row].abs().max()
        lost = float(margin.min()) <= 0
        radius, count = (0.0, 0) if lost else certifier(point, mine, rivals, margin, float(limits[row]))
        radii.append(radius)
        balls.append(count)
        if lost:
            tie = f"class {int(predicted[row])} is predicted instead of {mine}"
            why.append(tie if margins[-1] < 0 else "two classes tie within rounding")
        else:
            why.append("" if radius > 0 else "no ball that was tried could be certified")
    return CertifiedRadius(
        torch.tensor(radii, dtype=torch.float64),
        own,
        torch.tensor(margins, dtype=torch.float64),
        torch.tensor(balls),
        tuple(why),
        method,
    )


def obstacles(model: nn.Module | Subject, x: Tensor) -> tuple[str, ...]:
    """What keeps `certified_radius` from working on a model; one sentence per node, none where it works.

    Args:
        model: a module or Subject.
        x: (B, ...) inputs; the first is tried.

    Returns:
        Why the model cannot be captured, or what each node that cannot be bounded is.

    Example:
        >>> import torch
        >>> obstacles(torch.nn.Linear(2, 2), torch.zeros(1, 2))
        ()
    """
    subject, x = prepared(model, x[:1])
    try:
        graph = _logits(bound_graph(subject, x))
        _classes(graph)
    except (CaptureError, SubjectError) as error:
        return (str(error),)
    domain = ReverseDomain(graph, 0.0, {}, Shared())
    domain.walk(x[0].double())
    return domain.reasons()


def certifiable(model: nn.Module | Subject, x: Tensor) -> bool:
    """Whether `certified_radius` works on a model; see `obstacles`.

    Returns:
        True where every operator has bounds.

    Example:
        >>> certifiable(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(2, 2))
        True
    """
    return not obstacles(model, x)


class _Certifier:
    """Radii of a graph by one method. Bounds that do not depend on the input are kept from one input to the next."""

    def __init__(self, graph: Graph, method: str, tolerance: float) -> None:
        self.graph = graph
        self.method = method
        self.tolerance = tolerance
        self._shared = Shared()
        self._reach = ReachDomain(graph, method == "joint")
        self._lipschitz = _global_value(graph) if method == "global" else math.inf

    def __call__(self, x: Tensor, own: int, rivals: Tensor, margin: Tensor, upper: float) -> tuple[float, int]:
        """Certified radius of one input, and how many balls it took."""
        if self.method == "global":
            return min(upper, float(margin.min()) / (math.sqrt(2) * SLACK * self._lipschitz)), 0
        weights = torch.zeros(len(rivals), 1, _classes(self.graph), dtype=torch.float64)
        weights[torch.arange(len(rivals)), 0, rivals] = 1
        weights[:, 0, own] -= 1
        _, start = reverse_walk(self.graph, x, 0.0, {}, self._shared)
        slopes = start.above(self.graph.output, weights).gradient
        linear = float((margin / slopes).min())  # distance of the linearised boundary
        if start.affine:
            return min(upper, linear / SLACK), 1
        walk = self._reverse(x, weights, margin) if self.method == "reverse" else self._ball(x, weights, margin)
        found, count = largest(walk, linear, upper, self.tolerance)
        return found, count + 1

    def _reverse(self, x: Tensor, weights: Tensor, margin: Tensor) -> Callable[[float], Tried]:
        known: dict[float, dict[str, Both]] = {math.inf: {}}

        def walk(radius: float) -> Tried:
            nearest = min(size for size in known if size >= radius)
            try:
                _, domain = reverse_walk(self.graph, x, radius, known[nearest], self._shared)
            except Unbounded:
                return Tried(radius, 0.0, math.inf)
            known[radius] = domain.bounds
            shift, gradient = domain.above(self.graph.output, weights)
            gradient = gradient * SLACK
            share = float(((shift + radius * gradient) / margin).max())
            certified = torch.where(gradient > 0, (margin - shift) / gradient, math.inf)
            certified = torch.where(margin > shift, certified, 0.0)
            return Tried(radius, min(radius, float(certified.min())), share)

        return walk

    def _ball(self, x: Tensor, weights: Tensor, margin: Tensor) -> Callable[[float], Tried]:
        differences = weights[:, 0].T  # (K, R)

        def walk(radius: float) -> Tried:
            self._reach.refused.clear()
            with torch.no_grad():
                ball = {self.graph.input: Reach.ball(self.graph.input, x[None], radius)}
                found = forward(self.graph, self._reach, ball, batch=1)
            self._reach.raise_refusals()
            if not isinstance(found, Reach):  # nothing in it moves the output
                return Tried(radius, radius, 0.0)
            moved = torch.full_like(margin, math.sqrt(2) * found.rest)
            for source in found.sources.values():
                moved = moved + source.size * (source.flat @ differences).norm(dim=0)
            share = float((moved * SLACK / margin).max())
            return Tried(radius, min(radius, radius / share) if share > 0 else radius, share)

        return walk


def _logits(graph: Graph) -> Graph:
    """The graph without a softmax at its end, which leaves the order of the classes as it is."""
    while graph[graph.output].op in ("softmax", "log_softmax", "identity"):
        last = graph[graph.output]
        if last.op != "identity" and last.attributes["dim"] not in (-1, len(last.spec.shape) - 1):
            break
        kept = tuple(node for node in graph if node.name != last.name)
        graph = graph.replace_nodes(kept, output=last.inputs[0])
    return graph


def _classes(graph: Graph) -> int:
    """Number of outputs.

    Returns:
        K.

    Raises:
        SubjectError: for outputs that are not logits of at least two classes.
    """
    shape = graph[graph.output].spec.shape
    if len(shape) != 2 or not isinstance(shape[1], int) or shape[1] < 2:
        raise SubjectError(
            f"The model returns {graph[graph.output].spec}.",
            where="model",
            advice="A certified radius needs the logits (B, K) of at least two classes.",
        )
    return shape[1]


def _per_input(given: int | Sequence[int] | Tensor, count: int, classes: int, where: str) -> Tensor:
    values = torch.as_tensor(given)
    if values.dtype.is_floating_point or values.numel() not in (1, count) or values.dim() > 1:
        raise UsageError(
            f"{tuple(values.shape)} {values.dtype} do not fit {count} inputs.",
            where=where,
            advice="Give one class number, or one per input.",
        )
    values = values.reshape(-1).long().expand(count)
    if int(values.min()) < 0 or int(values.max()) >= classes:
        raise UsageError(
            f"Class {int(values.max())} is not one of {classes}.", where=where, advice=f"Use 0 to {classes - 1}."
        )
    return values


def _upper(given: float | Sequence[float] | Tensor | None, count: int) -> Tensor:
    values = torch.as_tensor(math.inf if given is None else given, dtype=torch.float64)
    if values.numel() not in (1, count) or values.dim() > 1 or bool((values <= 0).any()):
        raise UsageError(
            f"Distances of shape {tuple(values.shape)} do not fit {count} inputs, or are not positive.",
            where="upper",
            advice="Give one positive distance per input; infinity where none is known.",
        )
    return torch.where(values.isnan(), math.inf, values).reshape(-1).expand(count)


def _global_value(graph: Graph) -> float:
    try:
        return graph_bound(graph).value
    except NumericalError:
        return math.inf
