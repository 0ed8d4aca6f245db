"""Softmax of random logits and the product of two random matrices, of which attention is made."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from assay.covariance.functions import safe_sqrt
from assay.grade import Grade
from assay.interpret import fallback
from assay.moments.rules.elementwise import alone
from assay.moments.rules.groups import Layout, contracted, draws_within, is_batched
from assay.moments.rules.table import TABLE
from assay.moments.smoothed import Operands, Smoothed

_DRAWS, _MOST, _BUDGET = 64, 512, 1 << 20
"""Draws of a product; of a softmax up to so many while all of a sample's draws fit into this many numbers."""

_CHUNK = 1 << 22


@TABLE.rule("softmax", grade=Grade.STATISTICAL, note=f"{_DRAWS} to {_MOST} fixed draws of the logits", applies=alone)
def softmax(operands: Operands) -> Smoothed:
    """Mean, expected Jacobian diag(E p) - E p p^T and what it leaves, over fixed draws of the logits in opposite pairs.

    The draws use the logits' own covariance, so logits that move together hardly move the probabilities.

    Returns:
        The smoothed node.
    """
    mean = operands.mean()
    layout = Layout.along(mean.shape, operands.attributes["dim"])
    count = min(_MOST, max(_DRAWS, _BUDGET // mean[0].numel() // 2 * 2))
    logits, draws = layout.split(mean), draws_within(operands, 0, layout, count)
    values = torch.softmax(logits + draws, -1)
    average = values.mean(0)
    linear = SoftmaxMap(layout, average, values)
    innovation = (values - average - linear.within(draws)).square().mean(0)
    return Smoothed(layout.join(average), linear, layout.join(innovation))


@dataclass(frozen=True)
class SoftmaxMap:
    """diag(E p) - E p p^T within each group, the second part by its draws.

    Attributes:
        layout: of the groups.
        average: E p, (B, G, n).
        values: draws of p, (k, B, G, n).
    """

    layout: Layout
    average: Tensor
    values: Tensor

    def within(self, rows: Tensor) -> Tensor:
        """Of (r, B, G, n)."""
        places = self.values.movedim(0, -2)  # (B, G, k, n)
        onto = rows.movedim(0, -2) @ places.mT  # (B, G, r, k)
        return self.average * rows - (onto @ places).movedim(-2, 0) / len(self.values)

    def apply(self, *columns: Tensor) -> Tensor:
        """(r, B, ...) -> (r, B, ...)."""
        return self.layout.join(self.within(self.layout.split(columns[0])))

    def transpose(self, cotangents: Tensor) -> tuple[Tensor, ...]:
        """The map is symmetric."""
        return (self.apply(cotangents),)

    def squared(self, *variances: Tensor) -> Tensor:
        """Coefficient by coefficient, in chunks of groups."""
        rows = self.layout.split(variances[0])
        size = rows.shape[-1]
        rest = rows.flatten(0, 1)
        average = self.average.flatten(0, 1)
        places = self.values.flatten(1, 2).movedim(0, -2)  # (B G, k, n)
        step = max(1, _CHUNK // (size * size))
        found = []
        for start in range(0, len(rest), step):
            part = places[start : start + step]
            matrix = torch.diag_embed(average[start : start + step]) - part.mT @ part / len(self.values)
            found.append((matrix.square() @ rest[start : start + step].unsqueeze(-1)).squeeze(-1))
        return self.layout.join(torch.cat(found).reshape(rows.shape))


@TABLE.rule(
    "matmul",
    grade=Grade.STATISTICAL,
    note=f"both random: exact mean and map, rest by {_DRAWS} fixed draws",
    applies=lambda varying: varying == {0, 1},
)
def matmul(operands: Operands) -> Smoothed:
    """E A B = E A E B + sum_k Cov(a_ik, b_kj); the map has both Jacobians; the product of both deviations is left."""
    first, second = operands.mean(0), operands.mean(1)
    if not is_batched(operands.elements):
        replaced = fallback.linearise(operands.function, [first, second])
        return Smoothed(replaced.mean, replaced.linear)
    half = _DRAWS // 2
    with torch.no_grad():
        left, right = operands.draw(operands.elements, half)
        left, right = (_unit(left), _unit(right))
    product = (left * operands.std(0)) @ (right * operands.std(1))
    shared = contracted(operands)
    return Smoothed(first @ second + shared, ProductMap(first, second), (product - shared).square().mean(0))


def _unit(draws: Tensor) -> Tensor:
    size = safe_sqrt(draws.square().mean(0))
    return draws / torch.where(size > 0, size, torch.ones_like(size))


@dataclass(frozen=True)
class ProductMap:
    """dA B + A dB.

    Attributes:
        first: E A, (B, ..., i, k).
        second: E B, (B, ..., k, j).
    """

    first: Tensor
    second: Tensor

    def apply(self, *columns: Tensor) -> Tensor:
        """(r, B, ...) of both factors -> (r, B, ...)."""
        left, right = columns
        return left @ self.second + self.first @ right

    def squared(self, *variances: Tensor) -> Tensor:
        """Variances of independent entries."""
        left, right = variances
        return left @ self.second.square() + self.first.square() @ right

    def transpose(self, cotangents: Tensor) -> tuple[Tensor, ...]:
        """(k, B, ...) -> one per factor, summed over axes that were broadcast."""
        count = cotangents.shape[:1]
        left = (cotangents @ self.second.mT).sum_to_size((*count, *self.first.shape))
        right = (self.first.mT @ cotangents).sum_to_size((*count, *self.second.shape))
        return left, right
