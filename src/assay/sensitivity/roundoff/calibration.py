"""Scales of integer activations fixed from data, per layer, before the network runs (static quantisation)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from assay.graph import Node
from assay.inputs import prepared, rows_per_pass
from assay.sensitivity.roundoff.formats import Format, IntegerFormat, calibrated
from assay.sensitivity.roundoff.simulation import Simulator, assigned
from assay.sensitivity.roundoff.sites import Precision, prepared_graph, sites

if TYPE_CHECKING:
    from assay.subject import Subject

KEPT = 2**20
"""Values of a layer that a percentile is taken over."""


def calibrate(
    model: nn.Module | Subject,
    data: Tensor,
    precision: Precision,
    *,
    layers: Mapping[str, Precision] | None = None,
    percentile: float | None = None,
    batch_size: int | None = None,
) -> tuple[Precision, dict[str, Precision]]:
    """Fix the scales of integer activations from data, per layer (static quantisation).

    The values are those of the network with nothing rounded.

    Args:
        model: an nn.Module or a Subject that can be captured.
        data: (N, ...) calibration inputs.
        precision: formats of the network; scales per "tensor" or "channel" are fixed, per "sample" and "group" stay.
        layers: formats of single layers, as in `simulate`.
        percentile: see `calibrated`; None for smallest and largest value. Percentiles are taken over at most 2^20
            values a layer, evenly spread over the data.
        batch_size: samples per pass; by memory when None.

    Returns:
        Formats of the network and of every site, to pass on: `simulate(model, x, fixed, layers=by_layer)`.

    Raises:
        UsageError: for a layer that does not exist or a percentile outside (0, 100].
        SubjectError: for inputs that do not fit.
        CaptureError: when the model cannot be captured.
        NumericalError: for NaN or infinity in the network.

    Example:
        >>> from assay.sensitivity.roundoff import simulate
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> x = torch.rand(8, 2)
        >>> fixed, by_layer = calibrate(network, x, Precision(activations="int8_affine", input="int8"))
        >>> simulate(network, x, fixed, layers=by_layer).shape
        torch.Size([8, 1])
    """
    subject, data = prepared(model, data)
    graph = prepared_graph(subject)
    found = sites(graph)
    at = assigned(found, precision, layers or {})
    watched: dict[str, list[_Watch]] = {}
    network = _Watch(precision.input)
    watched[graph.input] = [network]
    made: dict[str, tuple[_Watch, list[_Watch]]] = {}
    for site in found:
        chosen = at[site.node]
        result = _Watch(chosen.activations)
        watched.setdefault(site.stored, []).append(result)
        read = [_Watch(chosen.input) for _ in site.varying]
        for place, watch in zip(site.varying, read, strict=True):
            watched.setdefault(graph[site.node].inputs[place] or "", []).append(watch)
        made[site.node] = (result, read)

    def observe(node: Node, value: Tensor) -> None:
        for watch in watched.get(node.name, []):
            watch.add(value, data.shape[0], percentile)

    exact = Simulator(graph, Precision())
    for rows in data.double().split(batch_size or rows_per_pass(data, None, gradients=False)):
        observe(graph[graph.input], rows)
        exact.run(rows, observe)
    by_layer = {
        node: replace(at[node], activations=result.fixed(percentile), input=read[0].fixed(percentile, *read[1:]))
        for node, (result, read) in made.items()
    }
    return replace(precision, input=network.fixed(percentile)), by_layer


class _Watch:
    """What passes one place, as far as the scales of a format need it; nothing for a format that has none to fix."""

    def __init__(self, target: Format | None) -> None:
        self.target = target
        self.pieces: list[Tensor] = []

    def add(self, value: Tensor, samples: int, percentile: float | None) -> None:
        target = self.target
        if not isinstance(target, IntegerFormat) or not target.dynamic or target.granularity not in _FIXABLE:
            return
        rows = (
            value.movedim(target.axis or 1, 0).flatten(1) if target.granularity == "channel" else value.reshape(1, -1)
        )
        if percentile is None:
            self.pieces.append(torch.stack(torch.aminmax(rows, dim=1), 1))
        else:
            total = value.numel() // value.shape[0] * samples
            self.pieces.append(rows[:, :: max(1, -(-total // KEPT))].clone())

    def fixed(self, percentile: float | None, *others: _Watch) -> Format | None:
        """The format with scales for all values of this and the other places."""
        if not isinstance(self.target, IntegerFormat) or not self.pieces:
            return self.target
        values = torch.cat([piece for watch in (self, *others) for piece in watch.pieces], 1)
        fixed = calibrated(self.target, values, percentile=percentile, axis=0)
        return fixed.along(self.target.axis or 1) if fixed.granularity == "channel" else fixed


_FIXABLE = ("tensor", "channel")
