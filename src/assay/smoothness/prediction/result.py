"""What a prediction hands back, and how it compares with a measurement, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from assay.brief import Brief
from assay.grade import Grade
from assay.results import Displayed
from assay.smoothness.kinks import Smp


@dataclass(frozen=True, eq=False)
class LayerLaw(Brief):
    """New kinks of one node per unit of path, before they travel on.

    Attributes:
        place: of the node.
        op: its operator.
        rate: (n,) kinks of each unit.
        smp: (n,) sum of their sizes, as jumps of the unit's own slope.
        energy: (n,) sum of their squares.
        adjoint: (K, n) mean |derivative of the output| that they are multiplied by.
    """

    place: str
    op: str
    rate: Tensor
    smp: Tensor
    energy: Tensor
    adjoint: Tensor


@dataclass(frozen=True, eq=False)
class Prediction(Displayed):
    """Predicted SMP of K outputs per unit of path.

    Attributes:
        value: (K,) SMP per unit of the path's parameter, in output units over that unit squared; float64.
        by_layer: place of a layer -> (K,) its part; parts add up to `value`.
        energy: (K,) sum of J^2 per unit of path.
        count: kinks per unit of path, of all units, also of those whose derivative is zero at the time.
        error: (K,) standard error from quasi-random points; 0 where closed forms sufficed.
        grade: closed form where every derivative of an output is a constant, statistical otherwise.
        label: how it was made.
        layers: local laws, in the order of the graph.
        notes: what the reader must know.
    """

    value: Tensor
    by_layer: Mapping[str, Tensor]
    energy: Tensor
    count: float
    error: Tensor
    grade: Grade
    label: str
    layers: tuple[LayerLaw, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Agreement(Displayed):
    """One row of the comparison of a prediction with a measurement.

    Attributes:
        layer: its place, or ``all``.
        predicted: (K,) SMP over the measured path.
        measured: (K,).
        ratio: (K,) predicted over measured; NaN where nothing was measured.
    """

    layer: str
    predicted: Tensor
    measured: Tensor
    ratio: Tensor


class Agreements(Displayed, tuple[Agreement, ...]):
    """The rows of `agreement`, shown as one table."""


def agreement(prediction: Prediction, measured: Smp) -> Agreements:
    """Predicted against measured SMP, block by block.

    Args:
        prediction: per unit of path.
        measured: along one path, of the same outputs.

    Returns:
        One row for each layer of either, in their order, and one for all. Layers that only one of them has count as
        zero in the other.

    Example:
        >>> import torch
        >>> from assay.smoothness import Line, Network, plug_in, smp
        >>> layers = torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1)
        >>> network = Network.of(torch.nn.Sequential(*layers), torch.zeros(2, 2))
        >>> path = Line(torch.zeros(2), torch.ones(2))
        >>> [row.layer for row in agreement(plug_in(network, path), smp(network, path))][-1]
        'all'
    """
    rows = []
    for layer in dict.fromkeys([*prediction.by_layer, *measured.by_layer]):
        none = measured.value.new_zeros(measured.value.shape)
        rows.append(
            _row(layer, prediction.by_layer.get(layer, none) * measured.length, measured.by_layer.get(layer, none))
        )
    rows.append(_row("all", prediction.value * measured.length, measured.value))
    return Agreements(rows)


def _row(layer: str, predicted: Tensor, measured: Tensor) -> Agreement:
    ratio = predicted / measured.where(measured > 0, measured.new_tensor(float("nan")))
    return Agreement(layer, predicted, measured, ratio)
