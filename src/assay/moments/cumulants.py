"""Past Gaussian closure: third and fourth cumulants of every tensor, to leading order in the correlation of units.

Each non-linearity y = f(z) is split into its expected slope and an innovation e, as in the Gaussian domains; every
unit's innovation is then kept as a *source*. A later tensor x is, to first order, x = (linear part) + sum_i M_xi e_i,
with M the expected Jacobian from the source and C_xi = Cov(x, z_i). The cumulants of x follow from those of single
sources with their own argument (closed by quadrature), and of pairs of sources, which share noise and depend on each
other:

    k(a,a,b)   = sum_i  2 M_ai C_ai (s2 C_bi + p M_bi) + C_ai^2 s2 M_bi + M_ai^2 (p C_bi + q M_bi)
                 + sum_ij M_ai^2 M_bj E_ji
    k(a,a,b,b) = sum_i (single-source terms) + 4 sum_ij u_ai C_ij u_bj + sum_ij M_ai^2 M_bj^2 R_ij,   u = s2 M C

with s2 = E f'', p = E[(z - m) e^2] / s^2, q = E e^3, and, between sources, R = Cov(e_i^2, e_j^2) and
E = Cov(e_i, e_j^2), which are built by the same rules when a source is made. On a network with many comparable units
per layer all terms kept are of order 1/n and all terms dropped of order n^(-3/2). Cumulants then correct mean, slope,
variance and covariance of the next non-linearity by its Gram-Charlier series (`gaussian/expansion.py`). Derived here;
for wide random networks compare cumulant propagation (Robinson, Hilton, Winer, Christiano, Lecomte, Wu 2026, arXiv
2605.05179).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from assay.covariance.functions import flat_columns, flat_rows, safe_sqrt
from assay.gaussian.expansion import Expansion, expansion
from assay.graph import Node
from assay.moments.dense import DenseDomain, DenseElement
from assay.moments.domain import Fallback, operands_of, smooth
from assay.moments.smoothed import Operands

_SKEW, _KURTOSIS = 1.0, 2.0
"""Limits of standardised cumulants: beyond them a two-term series says nothing."""
_LEAST_VARIANCE = 0.02
"""Share of the Gaussian variance that a correction leaves at least."""


@dataclass(frozen=True, eq=False)
class Innovations:
    """Innovations of all non-linearities so far, side by side on the last axis (B, N).

    The first eight are the expansion's numbers (`gaussian/expansion.py`), `spread` is the variance of the argument.

    Attributes:
        arguments: covariance (B, N, N) of the arguments.
        squares: k(e_i, e_i, e_j, e_j), (B, N, N).
        mixed: Cov(e_i, e_j^2), (B, N, N).
    """

    slope2: Tensor
    curvature: Tensor
    xee: Tensor
    eee: Tensor
    xxxe: Tensor
    xxee: Tensor
    xeee: Tensor
    eeee: Tensor
    spread: Tensor
    arguments: Tensor
    squares: Tensor
    mixed: Tensor

    @property
    def count(self) -> int:
        """N."""
        return self.slope2.shape[1]


@dataclass(frozen=True, eq=False)
class Argument:
    """What a non-linearity is a function of: z = sum of sign * input + shift.

    Attributes:
        parts: varying inputs with their signs.
        function: out = f(z) + terms affine in the inputs.
        kinks: of f.
        shift: fixed part of z, (B, ...) or a number.
    """

    parts: tuple[tuple[DenseElement, float], ...]
    function: Callable[[Tensor], Tensor]
    kinks: tuple[float, ...]
    shift: Tensor | float = 0.0


class CumulantDomain(DenseDomain):
    """The full-covariance domain with third and fourth cumulants.

    Args:
        fallback: what to do without a rule.
    """

    def __init__(self, *, fallback: Fallback = "linearise") -> None:
        super().__init__(exact=True, fallback=fallback)
        self.innovations: Innovations | None = None
        self.jacobians: dict[str, Tensor] = {}
        """M (B, n, N) of live tensors: expected derivatives with respect to the sources."""
        self.relations: dict[str, Tensor] = {}
        """C (B, n, N) of live tensors: covariances with the sources' arguments."""
        self.beyond: list[str] = []
        """Nodes whose argument is too far from Gaussian for the series."""

    def lift(self, name: str, mean: Tensor, matrix: Tensor) -> DenseElement:
        """The input, which is Gaussian."""
        self.jacobians[name] = self.relations[name] = matrix[:, :, :0]
        return super().lift(name, mean, matrix)

    def release(self, name: str) -> None:
        """Drop every block of a dead tensor."""
        super().release(name)
        self.jacobians.pop(name, None)
        self.relations.pop(name, None)

    def apply(self, node: Node, operands: Sequence[Any], live: frozenset[str], batch: int) -> DenseElement:
        """The Gaussian step, corrected by the cumulants of what the node is a function of, and its new source."""
        bundle = operands_of(node, operands, batch, self)
        smoothed, grade = smooth(bundle, self.fallback)
        element = self.advance(node, bundle, smoothed, grade, live)
        for table in (self.jacobians, self.relations):
            columns = [flat_columns(self._padded(table[part.name]), part.event) for part in bundle.elements]
            table[node.name] = flat_rows(smoothed.linear.apply(*columns))
        argument = None if smoothed.innovation is None else _argument(bundle)
        if argument is None or any(part.event != element.event for part, _ in argument.parts):
            return element
        return self._bend(element, argument, live)

    def _padded(self, columns: Tensor) -> Tensor:
        missing = (0 if self.innovations is None else self.innovations.count) - columns.shape[2]
        return torch.nn.functional.pad(columns, (0, missing)) if missing else columns

    def _bend(self, element: DenseElement, argument: Argument, live: frozenset[str]) -> DenseElement:
        own = element.name
        others = [name for name in live if name in self.relations and name != own]
        parts = argument.parts

        def against(name: str) -> Tensor:  # Cov(tensor, z)
            return _signed([(self.block(name, part.name), sign) for part, sign in parts])

        spread = _signed([(against(part.name).mT, sign) for part, sign in parts])  # Cov(z, z)
        jacobian = _signed([(self._padded(self.jacobians[part.name]), sign) for part, sign in parts])
        relation = _signed([(self.relations[part.name], sign) for part, sign in parts])
        mean = _signed([(part.mean, sign) for part, sign in parts]) + argument.shift
        variance = spread.diagonal(dim1=1, dim2=2)
        found = expansion(
            argument.function, mean, safe_sqrt(variance.clamp(min=0)).reshape(mean.shape), kinks=argument.kinks
        )
        terms = _flat(found)
        towards = {name: against(name) for name in others}
        rest = against(parts[1][0].name) if len(parts) == 2 else None  # Cov(y, z) for z = x - y, out = y + f(z)
        fourth = torch.zeros_like(spread)
        if self.innovations is not None:
            cumulants = _Cumulants(self.innovations, jacobian, relation)
            third, fourth = cumulants.third_own(), cumulants.fourth()
            third, fourth = self._limited(own, third, fourth, variance)
            extra_rest = None if rest is None else cumulants.third(*self._columns(parts[1][0].name))
            element, slope = self._correct(element, terms, third, fourth, spread, rest, extra_rest)
            bent = 0.5 * terms.slopes[1].unsqueeze(2)
            for name in others:
                extra = slope.unsqueeze(2) * towards[name].mT + bent * cumulants.third(*self._columns(name))
                self._add_block(own, name, extra)
            self.jacobians[own] = self.jacobians[own] + slope.unsqueeze(2) * jacobian
            self.relations[own] = self.relations[own] + slope.unsqueeze(2) * relation
            gain = terms.slopes[0] + slope
        else:
            gain = terms.slopes[0]
        self.innovations = _with(self.innovations, terms, spread, fourth, jacobian, relation)
        for name in others:
            self.relations[name] = torch.cat([self.relations[name], towards[name]], 2)
        through = gain.unsqueeze(2) * spread
        self.relations[own] = torch.cat([self.relations[own], through if rest is None else rest + through], 2)
        unit = torch.eye(spread.shape[1], dtype=spread.dtype, device=spread.device).expand_as(spread)
        self.jacobians[own] = torch.cat([self.jacobians[own], unit], 2)
        return element

    def _columns(self, name: str) -> tuple[Tensor, Tensor]:
        return self._padded(self.jacobians[name]), self.relations[name]

    def _add_block(self, first: str, second: str, extra: Tensor) -> None:
        if (first, second) in self.blocks:
            self.blocks[first, second] = self.blocks[first, second] + extra
        else:
            self.blocks[second, first] = self.blocks[second, first] + extra.mT

    def _limited(self, name: str, third: Tensor, fourth: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Cumulants shrunk where the series would not hold, and a note of their size."""
        positive = variance > 0
        safe = torch.where(positive, variance, torch.ones_like(variance))
        skew = third.diagonal(dim1=1, dim2=2) / safe**1.5
        kurtosis = fourth.diagonal(dim1=1, dim2=2) / safe**2
        self.shape[name] = float(skew.detach().abs().max()), float(kurtosis.detach().abs().max())
        if self.shape[name][0] > _SKEW or self.shape[name][1] > _KURTOSIS:
            self.beyond.append(name)
        kept3 = positive * _SKEW / skew.abs().clamp(min=_SKEW)
        kept4 = positive * _KURTOSIS / kurtosis.abs().clamp(min=_KURTOSIS)
        both = (kept4.unsqueeze(2) * kept4.unsqueeze(1)).sqrt()
        return third * kept3.unsqueeze(2), fourth * both

    def _correct(
        self,
        element: DenseElement,
        terms: Expansion,
        third: Tensor,
        fourth: Tensor,
        spread: Tensor,
        rest: Tensor | None,
        extra_rest: Tensor | None,
    ) -> tuple[DenseElement, Tensor]:
        """Mean, variance and covariances of the node by the Gram-Charlier series; also the change of its slope."""
        slope1, slope2, slope3, slope4, slope5, slope6 = terms.slopes
        own3, own4 = third.diagonal(dim1=1, dim2=2), fourth.diagonal(dim1=1, dim2=2)
        shift = own3 / 6 * slope3 + own4 / 24 * slope4 + own3.square() / 72 * slope6
        slope = own3 / 6 * slope4 + own4 / 24 * slope5
        gain = slope1 + slope
        bent = 0.5 * slope2.unsqueeze(2) * third * slope1.unsqueeze(1)
        change = bent + bent.mT + 0.25 * fourth * (slope2.unsqueeze(2) * slope2.unsqueeze(1))
        change = change + spread * (gain.unsqueeze(2) * gain.unsqueeze(1) - slope1.unsqueeze(2) * slope1.unsqueeze(1))
        square3, square4, square6 = terms.square
        own = own3 / 6 * square3 + own4 / 24 * square4 + own3.square() / 72 * square6 - shift.square()
        if rest is not None and extra_rest is not None:
            mixed = rest * slope.unsqueeze(1) + 0.5 * slope2.unsqueeze(1) * extra_rest.mT  # Cov(y_a, f(z_b))
            change = change + mixed + mixed.mT
            own = own + 2 * mixed.diagonal(dim1=1, dim2=2)
        before = self.blocks[element.name, element.name]
        plain = before.diagonal(dim1=1, dim2=2)
        variance = torch.maximum(plain + own, _LEAST_VARIANCE * plain)
        most = safe_sqrt(variance.unsqueeze(2) * variance.unsqueeze(1))
        matrix = torch.minimum(torch.maximum(before + change, -most), most)
        matrix = matrix - torch.diag_embed(matrix.diagonal(dim1=1, dim2=2)) + torch.diag_embed(variance)
        self.blocks[element.name, element.name] = matrix
        mean = element.mean + shift.reshape(element.mean.shape)
        return DenseElement(element.name, mean, variance.reshape(mean.shape)), slope


class _Cumulants:
    """Third and fourth cumulants of z from its Jacobian M and relation C to the sources, all (B, n, N)."""

    def __init__(self, innovations: Innovations, jacobian: Tensor, relation: Tensor) -> None:
        self.innovations, self.jacobian, self.relation = innovations, jacobian, relation
        self.weights = jacobian.square()
        self.mixed_off = _off_diagonal(innovations.mixed)
        self.pairs = self.weights @ self.mixed_off.mT

    def third(self, jacobian: Tensor, relation: Tensor) -> Tensor:
        """k(z_a, z_a, w_b) for another tensor w, (B, n, n_w)."""
        return self._single(jacobian, relation) + self.pairs @ jacobian.mT

    def third_own(self) -> Tensor:
        """k(z_a, z_a, z_b); on the diagonal each pair of sources counts three times."""
        pairs = self.pairs @ self.jacobian.mT
        total = self._single(self.jacobian, self.relation) + pairs
        return total + torch.diag_embed(2 * pairs.diagonal(dim1=1, dim2=2))

    def _single(self, jacobian: Tensor, relation: Tensor) -> Tensor:
        s = self.innovations
        xee, slope2 = s.xee.unsqueeze(1), s.slope2.unsqueeze(1)
        both = (self.jacobian * self.relation) @ (2 * (relation * slope2 + jacobian * xee)).mT
        bent = self.relation.square() @ (jacobian * slope2).mT
        return both + bent + self.weights @ (relation * xee + jacobian * s.eee.unsqueeze(1)).mT

    def fourth(self) -> Tensor:
        """k(z_a, z_a, z_b, z_b)."""
        s = self.innovations
        spread = s.spread.unsqueeze(1)
        slope = self.relation / torch.where(spread > 0, spread, torch.ones_like(spread))
        joint, slope_square = self.jacobian * slope, slope.square()
        rows = [
            2 * (joint * s.xxxe.unsqueeze(1)) @ slope_square.mT,
            (self.weights * s.xxee.unsqueeze(1)) @ slope_square.mT,
            2 * (self.weights * s.xeee.unsqueeze(1)) @ joint.mT,
        ]
        total = sum((row + row.mT for row in rows), torch.zeros_like(rows[0]))
        total = (
            total
            + 4 * (joint * s.xxee.unsqueeze(1)) @ joint.mT
            + (self.weights * s.eeee.unsqueeze(1)) @ self.weights.mT
        )
        push = self.jacobian * self.relation * s.slope2.unsqueeze(1)
        chain = push @ _off_diagonal(s.arguments) @ push.mT
        pairs = self.weights @ _off_diagonal(s.squares) @ self.weights.mT
        once = total + 4 * chain + pairs  # on the diagonal three orders coincide
        return once + torch.diag_embed((8 * chain + 2 * pairs).diagonal(dim1=1, dim2=2))


def _with(
    old: Innovations | None, terms: Expansion, spread: Tensor, fourth: Tensor, jacobian: Tensor, relation: Tensor
) -> Innovations:
    """The sources and a new one: how its innovations depend on each other and on all before."""
    bend, curve = terms.slopes[1], terms.curvature
    shared = 0.5 * spread.square() + 0.25 * fourth
    squares = _with_diagonal(curve.unsqueeze(2) * curve.unsqueeze(1) * shared, terms.eeee)
    mixed = _with_diagonal(bend.unsqueeze(2) * curve.unsqueeze(1) * shared, terms.eee)
    named = {
        "slope2": bend,
        "spread": spread.diagonal(dim1=1, dim2=2),
        **{name: getattr(terms, name) for name in ("curvature", "xee", "eee", "xxxe", "xxee", "xeee", "eeee")},
    }
    if old is None:
        return Innovations(**named, arguments=spread, squares=squares, mixed=mixed)
    weights, square = jacobian.square(), relation.square()
    with_square = square * old.curvature.unsqueeze(1) + weights @ old.squares  # k(z, z, e_i, e_i)
    with_source = square * old.slope2.unsqueeze(1) + weights @ old.mixed.mT  # k(z, z, e_i)
    below = 0.5 * curve.unsqueeze(2) * with_square
    stacked = {name: torch.cat([getattr(old, name), value], 1) for name, value in named.items()}
    return Innovations(
        **stacked,
        arguments=_bordered(old.arguments, relation.mT, relation, spread),
        squares=_bordered(old.squares, below.mT, below, squares),
        mixed=_bordered(
            old.mixed, 0.5 * (curve.unsqueeze(2) * with_source).mT, 0.5 * bend.unsqueeze(2) * with_square, mixed
        ),
    )


def _argument(bundle: Operands) -> Argument | None:
    """The one number per unit that the node bends, or None where it is not of that kind."""
    name, varying, elements = bundle.operator.name, bundle.varying, bundle.elements
    if name in ("maximum", "minimum"):
        function = torch.relu if name == "maximum" else _negative_part
        if len(elements) == 2:
            return Argument(((elements[0], 1.0), (elements[1], -1.0)), function, (0.0,))
        constant = bundle.values[1 - varying[0]]
        return Argument(((elements[0], 1.0),), function, (0.0,), -constant.to(elements[0].mean))
    if bundle.operator.elementwise and varying == (0,):
        return Argument(((elements[0], 1.0),), bundle.function, bundle.operator.kinks_of(bundle.attributes))
    return None


def _negative_part(x: Tensor) -> Tensor:
    return x.clamp(max=0)


def _signed(terms: Sequence[tuple[Tensor, float]]) -> Tensor:
    total = terms[0][0] * terms[0][1]
    for value, sign in terms[1:]:
        total = total + sign * value
    return total


def _flat(found: Expansion) -> Expansion:
    values: dict[str, Any] = {}
    for field in fields(found):
        value = getattr(found, field.name)
        values[field.name] = tuple(each.flatten(1) for each in value) if isinstance(value, tuple) else value.flatten(1)
    return Expansion(**values)


def _off_diagonal(matrix: Tensor) -> Tensor:
    return matrix - torch.diag_embed(matrix.diagonal(dim1=1, dim2=2))


def _with_diagonal(matrix: Tensor, diagonal: Tensor) -> Tensor:
    return _off_diagonal(matrix) + torch.diag_embed(diagonal)


def _bordered(corner: Tensor, right: Tensor, below: Tensor, end: Tensor) -> Tensor:
    return torch.cat([torch.cat([corner, right], 2), torch.cat([below, end], 2)], 1)
