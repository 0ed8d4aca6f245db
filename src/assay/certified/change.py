"""What travels along the edges of a graph in the domain of global bounds: a bound on the norm of a change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from assay.certified.chain import averaged, eclipse, product
from assay.certified.slopes import Slopes
from assay.certified.stretch import SIDE, Stretch, matrix_norm, sum_of


@dataclass(frozen=True, eq=False)
class Change:
    """The change of a node per unit of input change: that of an anchor, through a chain of linear maps and slopes.

    Attributes:
        anchor: name of an earlier node through which all of this change goes.
        bounds: bound on the norm of the anchor's change, by method; ``auto`` is the best.
        linears: W_0 ... W_k from the anchor on, the identity where nothing linear lies between two activations.
        slopes: of the activations between them.
    """

    anchor: str
    bounds: Mapping[str, float]
    linears: tuple[Stretch, ...]
    slopes: tuple[Slopes, ...] = ()

    @classmethod
    def at(cls, name: str, shape: torch.Size, bounds: Mapping[str, float]) -> Change:
        """The change of a node that is an anchor itself."""
        return cls(name, bounds, (Stretch.identity(shape),))

    @property
    def shape(self) -> torch.Size:
        """Of the node, for one sample."""
        return self.linears[-1].target

    @property
    def fresh(self) -> bool:
        """Whether the node is its own anchor."""
        return not self.slopes and not self.linears[0].nodes

    def through(self, stretch: Stretch) -> Change:
        """After an affine node."""
        return replace(self, linears=(*self.linears[:-1], self.linears[-1].then(stretch)))

    def bent(self, slopes: Slopes) -> Change:
        """After an elementwise activation."""
        return replace(self, linears=(*self.linears, Stretch.identity(self.shape)), slopes=(*self.slopes, slopes))

    def so_far(self, method: str, kind: str) -> float:
        """Bound at this node by plain multiplication from the anchor on."""
        return self.bounds[method] * product(self.linears, self.slopes, "frobenius" if method == "frobenius" else kind)

    def closed(self, name: str, kind: str, reasons: dict[str, str]) -> Change:
        """The same change with its node as the anchor: every method bounds the chain and multiplies it on.

        Args:
            name: of the node.
            kind: norm.
            reasons: why a method does not apply, by method; grows.

        Returns:
            A fresh change.
        """
        if self.fresh:
            return replace(self, anchor=name)
        bounds = {method: self.bounds[method] * found for method, found in self._norms(kind, reasons).items()}
        return Change.at(name, self.shape, bounds)

    def _norms(self, kind: str, reasons: dict[str, str]) -> dict[str, float]:
        """Norm of the chain by every method that the change carries."""
        norms = {"product": product(self.linears, self.slopes, kind)}
        if "frobenius" in self.bounds:
            norms["frobenius"] = product(self.linears, self.slopes, "frobenius") if kind == "2" else math.inf
        if "averaged" in self.bounds:
            found = averaged(self.linears, self.slopes, kind)
            norms["averaged"] = found.value
            if self.slopes and found.whole is None:
                reasons.setdefault("averaged", f"a layer's matrix has more than {SIDE} rows and columns")
        if "eclipse" in self.bounds:
            bound = eclipse(self.linears, self.slopes) if kind == "2" else "it bounds the 2-norm only"
            norms["eclipse"] = math.inf if isinstance(bound, str) else bound
            if isinstance(bound, str):
                reasons.setdefault("eclipse", bound)
        return norms | {"auto": min(norms.values())}


def joined(
    name: str, changes: Sequence[Change], kind: str, reasons: dict[str, str], *, disjoint: bool = False
) -> Change:
    """The change of a sum, or of tensors laid side by side.

    Sums of linear stretches from one anchor stay linear. A sum of chains from one anchor, such as a skip connection
    x + W_2 D W_1 x, is multiplied out as in `chain.averaged`, and its straight parts are added as matrices before the
    norm is taken: ||I + W_2 W_1 / 2|| + ||W_2|| ||W_1|| / 2 for slopes in [0, 1].

    Args:
        name: of the node.
        changes: of its inputs, each already of the node's shape.
        kind: norm.
        reasons: why a method does not apply, by method; grows.
        disjoint: no two inputs reach one element of the node.

    Returns:
        The change.
    """
    same = len({change.anchor for change in changes}) == 1
    if same and not any(change.slopes for change in changes):
        total = changes[0].linears[0]
        for change in changes[1:]:
            total = sum_of(total, change.linears[0], disjoint=disjoint)
        return replace(changes[0], linears=(total,))
    ends = [change.closed(name, kind, reasons) for change in changes]
    bounds = {method: _together([end.bounds[method] for end in ends], kind, disjoint) for method in changes[0].bounds}
    if same and "averaged" in bounds:
        base = changes[0].bounds
        parts = [averaged(change.linears, change.slopes, kind) for change in changes]
        wholes = [part.whole for part in parts]
        if all(whole is not None for whole in wholes):
            straight = matrix_norm(torch.stack(wholes).sum(0), kind)  # type: ignore[arg-type]
            found = straight + sum(max(0.0, part.value - part.straight) for part in parts)
            bounds["averaged"] = min(bounds["averaged"], base["averaged"] * found)
            bounds["auto"] = min(bounds["auto"], base["auto"] * found)
    return Change.at(name, changes[0].shape, bounds)


def _together(values: Sequence[float], kind: str, disjoint: bool) -> float:
    if not disjoint:
        return sum(values)
    return max(values) if kind == "inf" else math.hypot(*values)
