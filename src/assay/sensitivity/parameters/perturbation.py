"""Condition number of a network in its parameters: worst case, mean square and componentwise, per layer and in all.

With J_l the Jacobian of the outputs in parameter l, a change dW_l of relative size eta moves the outputs by

- worst case: at most eta ||J_l||_(F->2) ||W_l||_F. For a dense layer of vectors ||J_l|| = ||df/dz_l||_2 ||x_(l-1)||_2
  (the extremal change is of rank one, so a spectral-norm ball gives the same);
- mean square: (sum_i sum_w J_iw^2 var(dw))^(1/2) for independent relative noise;
- componentwise: sum_w |J_iw| |w| for output i, when every weight moves by at most eta |w| (what rounding does).

All are first order (grade `linearised`); divided by the output's norm they are condition numbers (Rice 1966; the mixed
componentwise one is that of Gohberg and Koltracht 1993).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from assay.errors import NumericalError, UsageError
from assay.grade import Grade
from assay.graph import Graph
from assay.inputs import checked_outputs, norms, power_of_two_near, prepared
from assay.norms.golub_kahan import largest_singular
from assay.progress import Progress
from assay.results import Displayed
from assay.sensitivity.condition import ROWS_LIMIT, check_outputs_nonzero
from assay.sensitivity.parameters.select import chosen_parameters, folded_graph, frobenius, place_of
from assay.sensitivity.parameters.taps import Taps
from assay.subject import Subject

Kind = Literal["worst", "rms", "componentwise"]
Noise = Literal["elementwise", "tensor"]
Method = Literal["auto", "rows", "lanczos", "sampled"]
_BYTES = 256_000_000


@dataclass(frozen=True, eq=False)
class ParameterCondition(Displayed):
    """Sensitivity of every sample's outputs to relative changes of P parameters; float64. Grade `linearised`.

    Attributes:
        kind: ``worst``, ``rms`` or ``componentwise``.
        names: the P parameter nodes.
        places: where a reader finds them.
        absolute: (B, P) output change per unit of relative change of one parameter: ||J_l|| ||W_l||_F, or the root mean
            square over noise, or the largest over outputs of sum |J_iw| |w|. By Lanczos a lower estimate that converges
            from below.
        joint_absolute: (B,) the same for all parameters together: ``worst`` for one budget sum_l (||dW_l|| /
            ||W_l||)^2 <= eta^2; ``rms`` for independent noise; ``componentwise`` for all weights at once.
        output_norm: (B,) ||f||_2, or max_i |f_i| for ``componentwise``.
        by_output: (B, K, P) standard deviations or componentwise sums of every output; None where not computed.
        left: (B, K) unit output direction that moves most under a joint change; None but for ``worst``.
        method: ``rows`` (exact up to rounding), ``lanczos`` or ``sampled``.
    """

    kind: Kind
    names: tuple[str, ...]
    places: tuple[str, ...]
    absolute: Tensor
    joint_absolute: Tensor
    output_norm: Tensor
    by_output: Tensor | None
    left: Tensor | None
    method: str

    @property
    def grade(self) -> Grade:
        """First order: right for small changes."""
        return Grade.LINEARISED

    @property
    def by_parameter(self) -> Tensor:
        """Condition number of every parameter, (B, P).

        Raises:
            NumericalError: where f(x) = 0.
        """
        check_outputs_nonzero(self.output_norm)
        return self.absolute / self.output_norm[:, None]

    @property
    def joint(self) -> Tensor:
        """Condition number for all parameters with one budget, or with independent noise, (B,).

        Raises:
            NumericalError: where f(x) = 0.
        """
        check_outputs_nonzero(self.output_norm)
        return self.joint_absolute / self.output_norm

    @property
    def network(self) -> Tensor:
        """The network's number, (B,): ``worst`` with a budget of eta for every parameter (the sum), else `joint`.

        Raises:
            NumericalError: where f(x) = 0.
        """
        return self.by_parameter.sum(1) if self.kind == "worst" else self.joint


def parameter_condition(
    model: nn.Module | Subject,
    x: Tensor,
    *,
    kind: Kind = "worst",
    parameters: str | Sequence[str] = "weights",
    noise: Noise = "elementwise",
    method: Method = "auto",
    tolerance: float = 1e-5,
    max_steps: int = 100,
    samples: int = 64,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> ParameterCondition:
    """How much relative changes of the parameters change the outputs, at every input of a batch.

    Batch norms are folded into the layers before them first. ``rows`` takes one reverse pass per output and per-sample
    gradients layer by layer, exact up to rounding; ``lanczos`` (for ``worst``) finds the largest singular value of each
    layer's Jacobian by products with it and its transpose, a lower estimate; ``sampled`` (for ``rms``) takes `samples`
    reverse passes with random signs instead of one per output. ``auto`` takes rows up to 64 outputs; for
    ``componentwise`` always.

    Args:
        model: a module (B, ...) -> (B, K), or a Subject; used in evaluation mode and left untouched.
        x: (B, ...) floating point.
        kind: ``worst``, ``rms`` or ``componentwise``.
        parameters: ``weights`` (learned tensors of two axes or more), ``all``, or names.
        noise: for ``rms``: ``elementwise`` for deviations eta |w|, ``tensor`` for eta ||W||_F / sqrt(size of W).
        method: see above.
        tolerance: relative residual at which Lanczos stops.
        max_steps: most Lanczos steps.
        samples: sign vectors of ``sampled``.
        seed: of the Lanczos start and the sign vectors.
        batch_size: samples per pass; None chooses by memory.
        progress: called as progress(done, total, text).

    Returns:
        Per-parameter and network numbers; grade `linearised`.

    Raises:
        CaptureError: when the model cannot be captured as a graph.
        NumericalError: where a derivative is NaN or infinite.
        SubjectError: for inputs or a model that cannot be used.
        UsageError: for an unknown kind, noise, method or parameter.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.ReLU())
        >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0, -1.0], [2.0, 0.0]]))
        >>> parameter_condition(net, torch.tensor([[2.0, 0.0]])).network  # ||df/dz|| ||x|| ||W||_F / ||f||
        tensor([1.0954], dtype=torch.float64)
    """
    if kind not in ("worst", "rms", "componentwise") or noise not in ("elementwise", "tensor"):
        raise UsageError(
            f"kind={kind!r} or noise={noise!r} is unknown.",
            where="parameter_condition",
            advice="kind: worst, rms or componentwise; noise: elementwise or tensor.",
        )
    allowed = {"worst": ("auto", "rows", "lanczos"), "rms": ("auto", "rows", "sampled")}.get(kind, ("auto", "rows"))
    if method not in allowed or samples < 1:
        raise UsageError(
            f"method={method!r} with samples={samples} does not fit kind={kind!r}.",
            where="parameter_condition",
            advice=f"Use one of {', '.join(allowed)}, and at least one sample.",
        )
    subject, x = prepared(model, x)
    graph = folded_graph(subject)
    names = chosen_parameters(subject, graph, parameters)
    outputs = subject.output_count
    if method == "auto":
        large = {"worst": "lanczos", "rms": "sampled", "componentwise": "rows"}[kind]
        method = "rows" if outputs <= ROWS_LIMIT else large  # type: ignore[assignment]
    seeds = {"rows": outputs, "sampled": samples, "lanczos": 2}[method]
    size = batch_size or samples_per_chunk(graph, names, x, seeds)
    parts: list[_Part] = []
    for part in x.split(size):
        taps = Taps(graph, part, parameters=names)
        checked_outputs(taps.outputs)
        if kind == "worst":
            parts.append(_by_lanczos(taps, tolerance, max_steps, seed) if method == "lanczos" else _by_rows(taps))
        else:
            parts.append(_contracted(taps, kind, noise, samples if method == "sampled" else None, seed))
        if progress is not None:
            progress(sum(len(done[0]) for done in parts), len(x), "parameters")
    joined = [None if any(f is None for f in field) else torch.cat(field) for field in zip(*parts, strict=True)]  # type: ignore[arg-type]
    absolute, joint, norm, by_output, left = joined
    assert absolute is not None
    assert joint is not None
    assert norm is not None
    places = tuple(place_of(graph, name) for name in names)
    return ParameterCondition(kind, names, places, absolute, joint, norm, by_output, left, method)


def samples_per_chunk(graph: Graph, names: Sequence[str], x: Tensor, seeds: int) -> int:
    """Samples whose activations, cotangents for all seeds and largest per-sample gradient stay below 256 MB."""
    activations = sum(node.spec.size_per_sample for node in graph.layers)
    largest = max(graph.parameters[name].numel() for name in names)
    return max(1, _BYTES // ((activations * (1 + seeds) + largest) * x.element_size()))


_Part = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]


def _unit_seeds(taps: Taps, first: int, last: int) -> Tensor:
    """(R, B, K) seeds that pick one output each."""
    count = taps.outputs.shape[1]
    eye = torch.eye(count, dtype=taps.outputs.dtype)[first:last]
    return eye[:, None, :] / _units(taps)[:, None]


def _units(taps: Taps) -> Tensor:
    """(B,) sizes of the outputs, in which derivatives are computed: their squares neither overflow nor vanish."""
    return power_of_two_near(norms(taps.outputs).to(taps.outputs.dtype))


def _by_rows(taps: Taps) -> _Part:
    """Gram matrices J_l J_l^T (B, K, K) of every parameter, from one reverse pass per output."""
    count = taps.outputs.shape[1]
    cotangents = taps.stacked_vjp(_unit_seeds(taps, 0, count))
    units = _units(taps).double()
    absolute: list[Tensor] = []
    joint = torch.zeros(len(taps.x), count, count, dtype=torch.float64)
    for name in taps.parameters:
        scale = frobenius(taps.graph.parameters[name])
        gram = scale**2 * _gram(taps, name, cotangents)
        if not bool(torch.isfinite(gram).all()):
            raise NumericalError(
                "A derivative is NaN or infinite.",
                where=place_of(taps.graph, name),
                advice="The model overflows there; try it in double precision (model.double()).",
            )
        absolute.append(torch.linalg.eigvalsh(gram)[:, -1].clamp(min=0).sqrt() * units)
        joint += gram
    value, vectors = torch.linalg.eigh(joint)
    return (
        torch.stack(absolute, 1),
        value[:, -1].clamp(min=0).sqrt() * units,
        norms(taps.outputs),
        None,
        vectors[:, :, -1].to(taps.x.dtype),
    )


def _gram(taps: Taps, name: str, cotangents: dict[str, Tensor]) -> Tensor:
    dense = _dense_layer(taps, name)
    if dense is not None:
        delta = cotangents[taps.readers[name][0].node.name].transpose(0, 1).double()  # (B, K, O)
        delta = delta * norms(dense)[:, None, None]
        return delta @ delta.mT
    count, batch = next(iter(cotangents.values())).shape[:2]
    size = taps.graph.parameters[name].numel()
    rows = max(1, _BYTES // (count * size * taps.x.element_size()))
    grams = []
    for begin in range(0, batch, rows):
        part = slice(begin, begin + rows)
        gradient: Tensor | None = None
        for reader in taps.readers[name]:
            share = reader.gradients(taps.values, cotangents[reader.node.name], batch, part)
            gradient = share if gradient is None else gradient + share
        assert gradient is not None
        flat = gradient.flatten(2).transpose(0, 1)
        grams.append(torch.stack([row.double() @ row.double().mT for row in flat]))
    return torch.cat(grams)


def _dense_layer(taps: Taps, name: str) -> Tensor | None:
    """The input (B, n) of the dense layer of vectors that alone reads this weight, else None."""
    readers = taps.readers[name]
    if len(readers) != 1 or readers[0].node.op != "linear" or readers[0].position != 1:
        return None
    x = taps.values[readers[0].varying[0]]
    plain = x.dim() == 2 and x.shape[0] == len(taps.x) and readers[0].varying == (readers[0].node.inputs[0],)
    return x if plain else None


@dataclass(frozen=True, eq=False)
class _SquaredMap:
    """sum_l s_l^2 J_l J_l^T on R^K: no vector of the parameters' size is kept, however many steps are taken."""

    taps: Taps
    scales: dict[str, float]

    @property
    def shape(self) -> tuple[int, int, int]:
        batch, count = self.taps.outputs.shape
        return batch, count, count

    def forward(self, v: Tensor) -> Tensor:
        units = _units(self.taps)[:, None]
        cotangents = self.taps.vjp(v / units)
        changes: dict[str, Tensor] = {}
        for name, scale in self.scales.items():
            dense = _dense_layer(self.taps, name)
            if dense is not None:
                node = self.taps.readers[name][0].node.name
                size = norms(dense)[:, None].to(dense.dtype)
                moved = {node: cotangents[node] * size * size}
            else:
                moved = self.taps.moved(name, self.taps.parameter_gradient(name, cotangents))
            for node, change in moved.items():
                share = scale**2 * change
                changes[node] = changes[node] + share if node in changes else share
        return self.taps.jvp(nodes=changes) / units

    def transpose(self, u: Tensor) -> Tensor:
        return self.forward(u)

    def select(self, rows: Tensor) -> _SquaredMap:
        return _SquaredMap(self.taps.select(rows), self.scales)


def _by_lanczos(taps: Taps, tolerance: float, max_steps: int, seed: int) -> _Part:
    scales = {name: frobenius(taps.graph.parameters[name]) for name in taps.parameters}
    dtype = torch.float64 if taps.x.dtype == torch.float64 else torch.float32

    def largest(chosen: dict[str, float]):
        return largest_singular(
            _SquaredMap(taps, chosen), dtype=dtype, tolerance=tolerance, max_steps=max_steps, seed=seed
        )

    absolute = [largest({name: scale}).value.sqrt() for name, scale in scales.items()]
    joint = largest(scales)
    units = _units(taps).double()
    found = torch.stack(absolute, 1) * units[:, None], joint.value.sqrt() * units
    return *found, norms(taps.outputs), None, joint.left.to(taps.x.dtype)


def _contracted(taps: Taps, kind: Kind, noise: Noise, samples: int | None, seed: int) -> _Part:
    """Sums over a parameter's elements of |J_iw|^p times what a unit relative change is."""
    power = 2 if kind == "rms" else 1
    count = taps.outputs.shape[1] if samples is None else samples
    weights = {name: _unit_change(taps.graph.parameters[name], kind, noise) for name in taps.parameters}
    columns: dict[str, list[Tensor]] = {name: [] for name in taps.parameters}
    generator = torch.Generator().manual_seed(seed)
    for first in range(0, count, ROWS_LIMIT):
        last = min(count, first + ROWS_LIMIT)
        if samples is None:
            seeds = _unit_seeds(taps, first, last)
        else:  # for random signs s, E (s^T J)_w^2 = sum_i J_iw^2; the same signs for every sample of a batch
            shape = (last - first, 1, taps.outputs.shape[1])
            signs = torch.randint(0, 2, shape, generator=generator).to(taps.outputs.dtype) * 2 - 1
            seeds = signs / _units(taps)[:, None]
        cotangents = taps.stacked_vjp(seeds)
        for name in taps.parameters:
            columns[name].append(taps.contracted(name, cotangents, weights[name], power).double())
    sums = torch.stack([torch.cat(columns[name]).transpose(0, 1) for name in taps.parameters], 2)  # (B, R, P)
    units = _units(taps).double()
    if kind == "componentwise":
        sums = sums * units[:, None, None]
        return sums.amax(1), sums.sum(2).amax(1), taps.outputs.double().abs().amax(1), sums, None
    total = sums.sum(1) if samples is None else sums.mean(1)
    by_output = sums.sqrt() * units[:, None, None] if samples is None else None
    return total.sqrt() * units[:, None], total.sum(1).sqrt() * units, norms(taps.outputs), by_output, None


def _unit_change(weight: Tensor, kind: Kind, noise: Noise) -> Tensor:
    if kind == "componentwise":
        return weight.abs()
    return weight.square() if noise == "elementwise" else weight.square().mean().expand_as(weight)
