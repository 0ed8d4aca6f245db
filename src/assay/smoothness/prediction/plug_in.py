"""The Gaussian plug-in: closed forms at moments measured along a path, unit by unit, times the measured derivative.

It says what the kinks would be if every unit were a stationary Gaussian process. For random networks that is close;
for trained ones, whose pre-activations pile up away from zero, it is far off, which is what it is for: compare it with
the measurement.
"""

from __future__ import annotations

import torch
from torch import Tensor

from assay.errors import UnsupportedOperator, UsageError
from assay.gaussian import KinkLaw, threshold_kinks
from assay.grade import Grade
from assay.graph import Graph, lower_max_pools
from assay.smoothness.network import Network
from assay.smoothness.paths.path import Path
from assay.smoothness.prediction.drawn_windows import is_drawn, laws
from assay.smoothness.prediction.result import LayerLaw, Prediction
from assay.smoothness.prediction.windows import candidate_places
from assay.smoothness.walk import Switch

_MEMORY = 1 << 28
_POINTS = 128
WINDOWS = 1024
"""Windows of a node that are worked out where a law takes points: ten seconds for windows of nine."""
LABEL = "Gaussian plug-in"


def plug_in(network: Network, path: Path, samples: int = 256, windows: int | None = WINDOWS) -> Prediction:
    """SMP per unit of path from measured moments of every unit, as if units were Gaussian.

    Each threshold counts |change| E z'^2 p(level) with the Gaussian density at the unit's measured mean and deviation,
    each window the law of ties at its measured moments, times the measured mean |derivative of the output|. A
    stationary process is assumed; known to fail on trained networks (ReLU parts more than twice too large).

    Args:
        network: with its outputs.
        path: any path.
        samples: points on it, equally far apart.
        windows: of each maximum over more than five candidates, how many are worked out, drawn by what they may add;
            the others take the share of these among closed forms. None for all: milliseconds each.

    Returns:
        The prediction, grade statistical; its `error` is of points and draws.

    Raises:
        UsageError: fewer than two samples or windows.
        UnsupportedOperator: for maxima whose windows are not known.

    Example:
        >>> from torch import nn
        >>> from assay.smoothness import Line
        >>> network = Network.of(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)), torch.zeros(2, 2))
        >>> plug_in(network, Line(torch.zeros(2), torch.ones(2))).value.shape
        torch.Size([1])
    """
    if samples < 2:
        raise UsageError(f"{samples} samples.", where="samples", advice="Use two or more.")
    if windows is not None and windows < 2:
        raise UsageError(f"{windows} windows.", where="windows", advice="Use two or more, or None for all.")
    step = (path.end - path.start) / samples
    t = path.start + step * (torch.arange(samples, dtype=torch.float64) + 0.5)
    lowered = lower_max_pools(network.graph)
    gathered: dict[str, _Moments] = {}
    for piece in t.split(network.rows(_MEMORY)):
        sweep = network.sweep(*path.at(piece))
        for switch, adjoint in zip(sweep.switches, sweep.adjoints(), strict=True):
            name = switch.node.name
            if name not in gathered:
                gathered[name] = _Moments(switch, _windows(switch, network.graph, lowered))
            gathered[name].add(switch, adjoint)
    layers, error = [], torch.zeros(network.outputs, dtype=torch.float64)
    notes = ["Every unit is taken to be a stationary Gaussian process: in trained networks this is far from true."]
    by_layer: dict[str, Tensor] = {}
    energy = torch.zeros(network.outputs, dtype=torch.float64)
    for moments in gathered.values():
        law, smp, power, doubt = moments.law(samples, windows)
        place = network.places[moments.switch.node.name]
        by_layer[place] = smp
        table = moments.windows
        if table is not None and windows is not None and is_drawn(len(table), table.shape[1], windows):
            notes.append(
                f"{place}: {windows:,} draws among {len(table):,} windows stand for all, see the standard "
                "error. windows=None works out every one."
            )
        energy = energy + power
        error = error + doubt
        layers.append(LayerLaw(place, moments.switch.node.op, law.rate, law.smp, law.energy, moments.size / samples))
    return Prediction(
        sum(by_layer.values(), torch.zeros(network.outputs, dtype=torch.float64)),
        by_layer,
        energy,
        sum(float(layer.rate.sum()) for layer in layers),
        error,
        Grade.STATISTICAL,
        LABEL,
        tuple(layers),
        tuple(notes),
    )


def _windows(switch: Switch, graph: Graph, lowered: Graph) -> Tensor | None:
    """(units, k) places of the candidates of a maximum, -1 for padding; None for thresholds."""
    node = switch.node
    if switch.winners is None:
        return None
    if node.op in ("maximum", "minimum"):
        first = torch.arange(switch.units)
        return torch.stack([first, first + switch.units], 1)
    source = node.inputs[0]
    assert source is not None
    shape = [size if isinstance(size, int) else size.multiple for size in graph[source].spec.shape]
    if node.op == "amax":
        places = torch.arange(switch.inputs.shape[1]).reshape(shape)
        dims = sorted(d % len(shape) for d in (node.attributes.get("dim") or range(1, len(shape))))
        kept = [d for d in range(len(shape)) if d not in dims]
        return places.permute(*kept, *dims).reshape(switch.units, -1)
    if not any(other.name.startswith(f"{node.name}_window") for other in lowered):
        raise UnsupportedOperator(
            f"The windows of {node.place} are not all alike.",
            where=node.place,
            advice="Measure instead: smp(model, path).",
        )
    return candidate_places(node.name, lowered, shape)


class _Moments:
    """Sums over samples of what the law of one node needs."""

    def __init__(self, switch: Switch, windows: Tensor | None) -> None:
        self.switch, self.windows = switch, windows
        self.first: Tensor | float = 0.0
        self.second: Tensor | float = 0.0
        self.speed: Tensor | float = 0.0
        self.size = torch.zeros((), dtype=torch.float64)
        self.square = torch.zeros((), dtype=torch.float64)

    def add(self, switch: Switch, adjoint: Tensor) -> None:
        """Add samples; the first moments are taken about the first sample, against cancellation."""
        z, slope = switch.inputs, switch.slopes
        if isinstance(self.first, float):
            self.origin = z[:1].clone()
        z = z - self.origin
        first = z.sum(0)
        if self.windows is not None:
            places = self.windows.clamp(min=0)
            first, second, speed = first[places], _products(z, places), _products(slope, places)
        else:
            second, speed = z.square().sum(0), slope.square().sum(0)
        self.first, self.second, self.speed = self.first + first, self.second + second, self.speed + speed
        self.size, self.square = self.size + adjoint.abs().sum(1), self.square + adjoint.square().sum(1)

    def law(self, samples: int, windows: int | None) -> tuple[KinkLaw, Tensor, Tensor, Tensor]:
        """Gaussian law at the moments; SMP, energy and standard error of the outputs that follow from it."""
        mean, second, speed = (
            torch.as_tensor(value, dtype=torch.float64) / samples for value in (self.first, self.second, self.speed)
        )
        size, square = self.size / samples, self.square / samples
        if self.windows is None:
            variance = (second - mean.square()).clamp(min=0)
            variance = torch.where(variance > 1e-14 * second, variance, torch.zeros_like(variance))
            total = [torch.zeros_like(variance) for _ in range(3)]
            for level, change in self.switch.thresholds:
                part = threshold_kinks(mean + self.origin[0], variance.sqrt(), speed.sqrt(), level=level, change=change)
                total = [one + two for one, two in zip(total, part, strict=True)]
            law = KinkLaw(*total)
            return law, size @ law.smp, square @ law.energy, torch.zeros_like(size[:, 0])
        covariance = second - mean.unsqueeze(2) * mean.unsqueeze(1)
        inside = self.windows >= 0
        both = (inside.unsqueeze(2) & inside.unsqueeze(1)).double()
        centre = mean + self.origin[0][self.windows.clamp(min=0)]
        sign = -1.0 if self.switch.node.op == "minimum" else 1.0
        deviation = covariance.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt().amax()
        centre = torch.where(inside, sign * centre, (sign * centre).min() - 100 * deviation - 1)
        return laws(centre, covariance * both, speed * both, size, square, windows, _POINTS)


def _products(z: Tensor, places: Tensor) -> Tensor:
    """(units, k, k) sums over samples of products of candidates, some units at a time."""
    count, k = places.shape
    result = z.new_empty((count, k, k))
    step = max(1, _MEMORY // (32 * len(z) * k))
    for begin in range(0, count, step):
        piece = z[:, places[begin : begin + step]]
        result[begin : begin + step] = torch.einsum("nmi,nmj->mij", piece, piece)
    return result
