"""The backward walk: mean and second moments of the derivative of one output with respect to every node.

The derivative of an output is a product of the same switches and weights as the slopes, read from the other end, so its
second moments follow the transposed rules. Switches of different layers are taken to be independent, as are switches
and what stands behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import vjp

from assay.covariance import LinearMap
from assay.interpret import OperatorMap
from assay.smoothness.prediction.domain import Step, pulled, written
from assay.smoothness.prediction.laws import Element, Straight

_EXPLICIT = 1 << 26
_PROBES = 64

Visit = Callable[[str, Tensor, Tensor], None]


def walk_back(steps: Sequence[Step], output: Element, seed: Tensor, visit: Visit) -> None:
    """Carry the derivative of one output back to all nodes.

    Args:
        steps: of the forward walk, in its order.
        output: element of the graph's output.
        seed: (n,) weights that make the one output.
        visit: called with the name of every node, mean and second moment (n,) of the derivative there.
    """
    pending = _Pending({step.element.name for step in steps})
    square = seed.unsqueeze(1) * seed if output.dense else seed.square()
    pending.add([output], [seed], [[square]], {})
    for step in reversed(steps):
        name = step.element.name
        if name not in pending.means:
            continue
        mean, square, shared = pending.take(name)
        visit(name, mean, square.diagonal() if square.dim() == 2 else square)
        if all(source.name not in pending.known for source in step.inputs):
            continue
        carry = _dense if step.element.dense else _wide
        means, squares, cross = carry(step, mean, square, shared)
        pending.add(step.inputs, means, squares, cross)


class _Pending:
    """Derivatives of nodes that still wait for more paths: means, second moments, and those between dense ones."""

    def __init__(self, known: set[str]) -> None:
        self.known = known
        self.means: dict[str, Tensor] = {}
        self.squares: dict[tuple[str, str], Tensor] = {}

    def take(self, name: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Remove a node: mean, second moments, and those with every other dense one, (n_other, n)."""
        mean, square, shared = self.means.pop(name), self.squares.pop((name, name)), {}
        for pair in [pair for pair in self.squares if name in pair]:
            block = self.squares.pop(pair)
            shared[pair[1] if pair[0] == name else pair[0]] = block.T if pair[0] == name else block
        return mean, square, shared

    def add(
        self,
        sources: Sequence[Element],
        means: Sequence[Tensor],
        squares: list[list[Tensor]],
        cross: dict[str, list[Tensor]],
    ) -> None:
        """Add one part per source; `cross` holds second moments (n_other, n_source) with nodes that wait."""
        for i, source in enumerate(sources):
            name = source.name
            if name not in self.known:
                continue
            known = {other: blocks[i] for other, blocks in cross.items()}
            for j in range(i):  # parts of this very step that were added before
                if source.dense and sources[j].dense and sources[j].name in self.known:
                    before = squares[j][i]
                    known[sources[j].name] = known[sources[j].name] + before if sources[j].name in known else before
            own = squares[i][i]
            if name in self.means:
                self.means[name] = self.means[name] + means[i]
                both = known.get(name)
                own = own if both is None or not source.dense else own + both + both.T
                self.squares[name, name] = self.squares[name, name] + own
            else:
                self.means[name], self.squares[name, name] = means[i], own
            if not source.dense:
                continue
            for other, block in known.items():
                if other == name:
                    continue
                if (name, other) in self.squares:
                    self.squares[name, other] = self.squares[name, other] + block.T
                else:
                    found = self.squares.get((other, name))
                    self.squares[other, name] = block if found is None else found + block


Carried = tuple[list[Tensor], list[list[Tensor]], dict[str, list[Tensor]]]


def _dense(step: Step, mean: Tensor, square: Tensor, shared: dict[str, Tensor]) -> Carried:
    law, sources, element = step.law, step.inputs, step.element
    many = range(len(sources))
    if not isinstance(law, Straight):
        means = [gain * mean for gain in law.gains]
        squares = [[step.joint[i][j] * square for j in many] for i in many]
        return means, squares, {other: [block * gain for gain in law.gains] for other, block in shared.items()}
    means = [part[0] for part in pulled(law.linear, element, mean.unsqueeze(0))]
    if not all(source.dense for source in sources):
        return means, _onto_wide(law.linear, step, square), {}
    rows = pulled(law.linear, element, square)
    squares = [[torch.empty(0)] * len(sources) for _ in many]
    for j in many:
        for i, part in enumerate(pulled(law.linear, element, rows[j].T)):
            squares[i][j] = part.T
    return means, squares, {other: pulled(law.linear, element, block) for other, block in shared.items()}


def _onto_wide(linear: LinearMap, step: Step, square: Tensor) -> list[list[Tensor]]:
    """Second moments of single units of wide sources, from all pairs of a dense output."""
    sources, element = step.inputs, step.element
    many = range(len(sources))
    if len(sources) == 1 and element.size * sources[0].size <= _EXPLICIT:
        map_ = written(linear, sources[0], element)
        return [[((square @ map_) * map_).sum(0)]]
    own = _squared_back(linear, step, square.diagonal())
    found = [torch.diag(part) if source.dense else part for part, source in zip(own, sources, strict=True)]
    return [[found[i] if i == j else torch.zeros(()) for j in many] for i in many]


def _wide(step: Step, mean: Tensor, square: Tensor, shared: dict[str, Tensor]) -> Carried:
    law, sources = step.law, step.inputs
    many = range(len(sources))
    if isinstance(law, Straight):
        means = [part[0] for part in pulled(law.linear, step.element, mean.unsqueeze(0))]
        parts = _squared_back(law.linear, step, square)
    else:
        means = [gain * mean for gain in law.gains]
        parts = [law.squares[i][i] * square for i in many]
    own = [torch.diag(part) if source.dense else part for part, source in zip(parts, sources, strict=True)]
    none = [[torch.zeros(s.size, t.size) if s.dense and t.dense else torch.zeros(()) for t in sources] for s in sources]
    return means, [[own[i] if i == j else none[i][j].double() for j in many] for i in many], {}


def _squared_back(linear: LinearMap, step: Step, square: Tensor) -> list[Tensor]:
    """Second moments through the transposed map, for outputs whose derivatives are uncorrelated."""
    shapes = [source.mean.shape for source in step.inputs]
    shaped = square.reshape(step.element.mean.shape)
    if isinstance(linear, OperatorMap) and linear.operator.squared is not None:
        zeros = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
        return [part.reshape(-1) for part in vjp(linear.squared, *zeros)[1](shaped)]
    generator = torch.Generator().manual_seed(0)
    signs = 2 * torch.randint(0, 2, (_PROBES, *shaped.shape), generator=generator).double() - 1
    parts = linear.transpose(signs * shaped.clamp(min=0).sqrt())
    return [part.square().mean(0).reshape(-1) for part in parts]
