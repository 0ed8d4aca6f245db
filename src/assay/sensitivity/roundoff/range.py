"""Exponent bits: the range a number format must have, apart from its precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from assay.errors import NumericalError, UsageError
from assay.graph import Node
from assay.inputs import prepared, rows_per_pass
from assay.sensitivity.roundoff.simulation import Simulator
from assay.sensitivity.roundoff.sites import Precision, prepared_graph

if TYPE_CHECKING:
    from assay.subject import Subject

_WIDEST = 11
"""Exponent bits of double precision, which everything here is computed in."""


@dataclass(frozen=True)
class ExponentBits:
    """Exponent bits that hold a set of values.

    Attributes:
        bits: the smallest e with max|v| <= 2^(2^(e-1)) (2 - 2^(1-t)) and few enough underflows: for formats that use
            the top exponent for numbers too, as e4m3 does.
        ieee_bits: the same where the top exponent is kept for infinity and NaN, as in fp16: max|v| is at most
            2^(2^(e-1)-1) (2 - 2^(1-t)).
        largest: max|v|.
        smallest: smallest |v| that is not 0; 0 when all are.
        underflow: share of the values, zeros not counted, that `bits` exponent bits would round to 0.
    """

    bits: int
    ieee_bits: int
    largest: float
    smallest: float
    underflow: float


class _Histogram:
    """Values by exponent, so that the share below any threshold that is a power of two needs one pass only."""

    def __init__(self) -> None:
        self.counts = torch.zeros(2200, dtype=torch.int64)  # exponents -1100 .. 1099
        self.largest, self.smallest = 0.0, math.inf

    def add(self, values: Tensor, place: str) -> None:
        size = values.detach().double().abs().flatten()
        size = size[size != 0]
        if not bool(torch.isfinite(size).all()):
            raise NumericalError("Values hold NaN or infinity.", where=place, advice="Look where they come from.")
        if size.numel():
            low, high = torch.aminmax(size)
            self.largest, self.smallest = max(self.largest, float(high)), min(self.smallest, float(low))
            mantissa, exponent = torch.frexp(size)
            # 2^(k-1) < v <= 2^k is counted at k: what rounds to 0 lies at or below half the smallest number
            self.counts += torch.bincount(exponent - (mantissa == 0.5).int() + 1100, minlength=2200)

    def share_up_to(self, exponent: int) -> float:
        """Share of values at or below 2^exponent."""
        total = int(self.counts.sum())
        return int(self.counts[: max(0, min(2200, exponent + 1101))].sum()) / total if total else 0.0

    def answer(self, significand: int, fraction: float, subnormals: bool, place: str) -> ExponentBits:
        found = [
            next((e for e in range(2, _WIDEST + 1) if self._fits(e, significand, fraction, subnormals, kept)), None)
            for kept in (False, True)
        ]
        bits, ieee = found
        if bits is None or ieee is None:
            raise NumericalError(
                f"No format of up to {_WIDEST} exponent bits holds values from {self.smallest:g} to {self.largest:g}.",
                where=place,
                advice="Allow a larger share of underflows.",
            )
        smallest = 0.0 if math.isinf(self.smallest) else self.smallest
        underflow = self.share_up_to(_vanishing(bits, significand, subnormals))
        return ExponentBits(bits, ieee, self.largest, smallest, underflow)

    def _fits(self, e: int, significand: int, fraction: float, subnormals: bool, kept: bool) -> bool:
        top = 2 ** (e - 1) - kept
        room = math.inf if top > 1023 else 2.0**top * (2 - 2.0 ** (1 - significand))
        return self.largest <= room and self.share_up_to(_vanishing(e, significand, subnormals)) <= fraction


def _vanishing(e: int, significand: int, subnormals: bool) -> int:
    """Exponent of half the smallest number: what lies at or below it rounds to 0 (the tie goes to even)."""
    return 2 - 2 ** (e - 1) + (1 - significand if subnormals else 0) - 1


def exponent_bits(
    values: Tensor, significand: int, *, underflow: float = 1e-3, subnormals: bool = True
) -> ExponentBits:
    """The smallest number of exponent bits (2 to 11) that holds values: no overflow, few underflows.

    Args:
        values: any shape, finite.
        significand: bits t of the significand, the implicit one included.
        underflow: largest share of the values that are not 0 which may round to 0.
        subnormals: whether the format has subnormal numbers.

    Returns:
        The bits and what they follow from. Grade: exact for these values.

    Raises:
        UsageError: for a significand outside 1 .. 53 or a share outside [0, 1].
        NumericalError: for NaN or infinity, or when even 11 bits do not do.

    Example:
        >>> exponent_bits(torch.tensor([480.0, 1.0]), 4).bits, exponent_bits(torch.tensor([500.0, 1.0]), 4).bits
        (4, 5)
    """
    _checked(significand, underflow)
    histogram = _Histogram()
    histogram.add(values, "values")
    return histogram.answer(significand, underflow, subnormals, "values")


def layer_exponent_bits(
    model: nn.Module | Subject,
    data: Tensor,
    significand: int,
    *,
    underflow: float = 1e-3,
    subnormals: bool = True,
    batch_size: int | None = None,
) -> Mapping[str, ExponentBits]:
    """Exponent bits of every stored value of the network over a data set.

    Args:
        model: an nn.Module or a Subject that can be captured.
        data: (N, ...) inputs.
        significand: bits t of the significand, the implicit one included.
        underflow: largest share of a layer's values that are not 0 which may round to 0.
        subnormals: whether the format has subnormal numbers.
        batch_size: samples per pass; by memory when None.

    Returns:
        By name: ``input``'s node, every site's node (activations), and parameter nodes (weights, biases). Grade: exact
        for parameters, sampled for the rest: other data may reach further.

    Raises:
        UsageError: for a significand outside 1 .. 53 or a share outside [0, 1].
        SubjectError: for inputs that do not fit.
        CaptureError: when the model cannot be captured.
        NumericalError: for NaN or infinity, or when even 11 bits do not do.

    Example:
        >>> found = layer_exponent_bits(nn.Sequential(nn.Linear(2, 2)), torch.rand(4, 2), 8)
        >>> len(found)  # input, weight, bias, output
        4
    """
    _checked(significand, underflow)
    subject, data = prepared(model, data)
    graph = prepared_graph(subject)
    simulator = Simulator(graph, Precision())
    stored = {site.stored: site for site in simulator.sites}
    histograms: dict[str, _Histogram] = {graph.input: _Histogram()}
    for site in simulator.sites:
        for name in (site.weight, site.bias):
            if name is not None and name not in histograms:
                histograms[name] = _Histogram()
                histograms[name].add(graph.parameters[name], graph[site.node].place)
        histograms[site.node] = _Histogram()

    def observe(node: Node, value: Tensor) -> None:
        if node.name in stored:
            histograms[stored[node.name].node].add(value, node.place)

    for rows in data.double().split(batch_size or rows_per_pass(data, None, gradients=False)):
        histograms[graph.input].add(rows, "input")
        simulator.run(rows, observe)
    return {name: found.answer(significand, underflow, subnormals, name) for name, found in histograms.items()}


def _checked(significand: int, underflow: float) -> None:
    if not 1 <= significand <= 53 or not 0 <= underflow <= 1:
        raise UsageError(
            f"significand={significand} must be in 1 .. 53 and underflow={underflow} a share in [0, 1].",
            where="exponent_bits",
            advice="Such as 8 and 1e-3.",
        )
