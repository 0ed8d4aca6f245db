"""Noise on weights and activations in the factor domain: a few columns forwards, exact backwards.

Forwards every node that such noise enters gets its exact variance, spread over columns: one per source element where
there are no more of them than columns, else random signs, scaled so that each unit keeps its variance. Backwards the
output covariance takes the parameter's own derivative, per sample, so it does not depend on those signs.

For a layer y = (W + dW)(mean + dx), dW dx is a product of two independent terms; its covariance over positions needs
that of dx, of which at most 16 columns are kept (or that many random combinations of them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from assay.covariance.functions import safe_sqrt
from assay.grade import Grade, combine
from assay.graph import Graph, Node
from assay.moments.smoothed import Operands
from assay.moments.sources import Sources, Use, independent, noisy, output_variance, uses_of

_KEPT = 16
"""Columns of a noisy layer's input kept for the reverse walk."""


@dataclass(frozen=True, eq=False)
class Spread:
    """What a weight's noise adds to output covariances: its derivatives at the mean, and along the input's columns.

    Attributes:
        use: the parameter and its reader.
        inputs: the reader's inputs, means where they vary.
        varying: positions of those that vary.
        moved: (q, B, ...) per varying input, columns whose outer products make its covariance.
    """

    use: Use
    inputs: tuple[Tensor | None, ...]
    varying: tuple[int, ...]
    moved: tuple[Tensor, ...]

    def gradients(self, cotangents: Tensor, row: int) -> Tensor:
        """(k, n) for one sample, at its mean."""
        return self.use.gradients(self._at(row, None), self.varying, cotangents[:, row : row + 1])

    def products(self, cotangents: Tensor, row: int) -> Tensor:
        """Covariance (k, k) of one sample's output combinations, made by noise meeting noise."""
        total = cotangents.new_zeros(cotangents.shape[0], cotangents.shape[0])
        weights = self.use.variance.reshape(-1)
        at_mean = self.gradients(cotangents, row)
        for column in range(len(self.moved[0])):
            rows = self.use.gradients(self._at(row, column), self.varying, cotangents[:, row : row + 1]) - at_mean
            total = total + (rows * weights) @ rows.T
        return total

    def _at(self, row: int, column: int | None) -> list[Tensor | None]:
        filled = list(self.inputs)
        for place, moved in zip(self.varying, self.moved, strict=True):
            mean = filled[place]
            assert mean is not None
            alone = mean[row : row + 1]
            filled[place] = alone if column is None else alone + moved[column, row : row + 1]
        return filled


@dataclass(frozen=True, eq=False)
class Added:
    """What the sources add to one node.

    Attributes:
        columns: (q, B, ...).
        rest: variance (B, ...) that goes into the independent rest.
        independent: variance (B, ...) of noise independent between units, for the reverse walk.
        sources: the correlated noise, for the reverse walk.
        grade: of the forward variances.
    """

    columns: Tensor
    rest: Tensor
    independent: Tensor
    sources: tuple[Spread, ...]
    grade: Grade


class Disturbance:
    """Noise on weights and activations, as one walk meets it.

    Args:
        graph: that will be walked.
        sources: the noise.
        columns: at most this many columns; with 0, only variances of independent units (for ``diagonal``).
    """

    def __init__(self, graph: Graph, sources: Sources, columns: int) -> None:
        self.uses: Mapping[str, list[Use]] = uses_of(graph, sources)
        self.activations = {noisy(name): variance for name, variance in sources.activations.items()}
        elements = sum(variance.numel() for variance in sources.weights.values())
        elements += sum(variance[0].numel() for variance in self.activations.values())
        self.whole = elements <= columns
        self.columns = elements if self.whole else columns
        self._starts: dict[str, int] = {}
        start = 0
        for name, variance in (*sources.weights.items(), *self.activations.items()):
            self._starts[name] = start
            start += variance[0].numel() if name in self.activations else variance.numel()

    def reaches(self, node: Node) -> bool:
        """Whether noise enters at this node."""
        return node.name in self.uses or node.name in self.activations

    def at(self, node: Node, operands: Operands, mean: Tensor) -> Added:
        """What enters at this node."""
        columns = mean.new_zeros((self.columns, *mean.shape))
        rest, alone = torch.zeros_like(mean), torch.zeros_like(mean)
        spreads: list[Spread] = []
        grades = [Grade.EXACT]
        if node.name in self.activations:
            variance = self.activations[node.name].expand(mean.shape)
            alone = alone + variance
            columns = columns + self._signed(node.name, safe_sqrt(variance))
        for use in self.uses.get(node.name, []):
            exact = output_variance(use, operands)
            exact = exact if exact is None else exact.expand(mean.shape)
            if exact is None or use.tied:
                grades.append(Grade.LINEARISED if use.tied or use.position is None else Grade.STATISTICAL)
            if exact is not None and independent(use, operands):
                alone = alone + exact
                if not self.columns:
                    rest = rest + exact
                elif not self.whole:
                    columns = columns + self._signed(f"{node.name}/{use.name}", safe_sqrt(exact))
                    continue
                else:
                    made, left = self._made(use, operands, exact)
                    columns, rest = columns + made, rest + left
                continue
            spread = self._kept(use, operands)
            spreads.append(spread)
            if self.columns:
                made, left = self._made(use, operands, exact)
                columns, rest = columns + made, rest + left
            else:
                rest = rest + (exact if exact is not None else self._probed(use, operands))
        if not self.columns and node.name in self.activations:
            rest = rest + self.activations[node.name].expand(mean.shape)
        return Added(columns, rest, alone, tuple(spreads), combine(grades))

    def _signed(self, name: str, std: Tensor) -> Tensor:
        """Independent noise of units over the columns: one each, or random signs."""
        if self.whole:
            start, size = self._starts[name], std[0].numel()
            flat = torch.diag_embed(std.flatten(1)).permute(1, 0, 2).reshape(size, *std.shape)
            padding = (*(0, 0) * std.dim(), start, self.columns - start - size)
            return torch.nn.functional.pad(flat, padding)
        signs = self._signs(name, (self.columns, 1, *std.shape[1:])).to(std)
        return signs * std / max(1, self.columns) ** 0.5

    def _signs(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Random signs that depend on the name alone."""
        generator = torch.Generator().manual_seed(sum(place * ord(letter) for place, letter in enumerate(name, 1)))
        return 2 * torch.randint(0, 2, shape, generator=generator, dtype=torch.int8) - 1

    def _made(self, use: Use, operands: Operands, exact: Tensor | None) -> tuple[Tensor, Tensor]:
        """Columns (q, B, ...) of a weight's noise, and the variance they leave over."""
        std = safe_sqrt(use.variance)
        batch = operands.elements[0].mean.shape[0]
        if self.whole:
            size, start = std.numel(), self._starts[use.name]
            directions = torch.diag_embed(std.reshape(-1)).reshape(size, *std.shape)
            found = use.columns(operands.means, directions, batch)
            padding = (*(0, 0) * (found.dim() - 1), start, self.columns - start - size)
            columns = torch.nn.functional.pad(found, padding)
            left = torch.zeros_like(found[0]) if exact is None else (exact - found.square().sum(0)).clamp(min=0)
            return columns, left
        directions = self._signs(use.name, (self.columns, *std.shape)).to(std) * std / self.columns**0.5
        found = torch.stack(
            [
                use.columns(self._moved(operands, column), direction.unsqueeze(0), batch)[0]
                for column, direction in enumerate(directions)
            ]
        )
        if exact is None:
            return found, torch.zeros_like(found[0])
        estimate = found.square().sum(0)
        positive = estimate > 0
        factor = torch.where(positive, exact / torch.where(positive, estimate, torch.ones_like(estimate)), 0 * exact)
        return found * safe_sqrt(factor), torch.where(positive, torch.zeros_like(exact), exact)

    def _moved(self, operands: Operands, column: int) -> list[Tensor | None]:
        """The inputs with one random combination of their columns added: stands for their spread."""
        filled = list(operands.means)
        for place in operands.varying:
            element = operands.values[place]
            factor = element.covariance.factor
            signs = self._signs(f"column {column}", (len(factor),)).to(factor)
            moved = torch.tensordot(signs, factor, dims=1)
            own = self._signs(f"rest {column} {element.name}", tuple(element.mean.shape[1:])).to(factor)
            filled[place] = element.mean + moved + own * safe_sqrt(element.covariance.rest)
        return filled

    def _kept(self, use: Use, operands: Operands) -> Spread:
        """Means and at most 16 columns of the reader's inputs; their rest joins the columns with random signs."""
        factors = [element.covariance.factor for element in operands.elements]
        rests = [element.covariance.rest for element in operands.elements]
        used = torch.stack([factor.detach().flatten(1).ne(0).any(1) for factor in factors]).any(0)
        factors = [factor[used] for factor in factors]  # at a noisy layer close to the input most columns are empty
        moved: list[Tensor] = []
        resting = any(bool((rest > 0).any()) for rest in rests)
        if len(factors[0]) <= _KEPT and not resting:
            moved = factors
        else:
            signs = self._signs("kept", (_KEPT, len(factors[0]))).to(factors[0]) / _KEPT**0.5
            for factor, rest, element in zip(factors, rests, operands.elements, strict=True):
                own = self._signs(f"kept {element.name}", (_KEPT, 1, *rest.shape[1:])).to(rest) / _KEPT**0.5
                moved.append(torch.tensordot(signs, factor, dims=1) + own * safe_sqrt(rest))
        return Spread(use, tuple(operands.means), operands.varying, tuple(moved))

    def _probed(self, use: Use, operands: Operands) -> Tensor:
        """Variance by fixed sign probes, where no closed form is known."""
        signs = self._signs(use.name, (32, *use.variance.shape)).to(use.variance)
        batch = operands.elements[0].mean.shape[0]
        return use.columns(operands.means, signs * safe_sqrt(use.variance), batch).square().mean(0)


def accumulate(total: Tensor, step_sources: tuple[Any, ...], cotangents: Tensor, tied: dict[str, Any]) -> Tensor:
    """Add what one node's weight noise brings to output covariances (B, k, k).

    Derivatives by a parameter that several nodes read add up before they are squared: they are collected in `tied`.
    Memory: k copies of the parameter at a time, k B where it is tied.

    Returns:
        The total.
    """
    for spread in step_sources:
        weights = spread.use.variance.reshape(-1)
        found = []
        for row in range(total.shape[0]):
            products = spread.products(cotangents, row)
            rows = spread.gradients(cotangents, row)
            if spread.use.tied:
                collected = tied.setdefault(spread.use.name, (weights, {}))[1]
                collected[row] = collected[row] + rows if row in collected else rows
            else:
                products = products + (rows * weights) @ rows.T
            found.append(products)
        total = total + torch.stack(found)
    return total


def untie(total: Tensor, tied: dict[str, Any]) -> Tensor:
    """Add what the collected parameters bring to output covariances (B, k, k)."""
    for weights, collected in tied.values():
        total = total + torch.stack([(rows * weights) @ rows.T for _, rows in sorted(collected.items())])
    return total


__all__ = ["Added", "Disturbance", "Spread", "accumulate", "untie"]
