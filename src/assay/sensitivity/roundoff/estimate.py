"""Round-off error of a network's outputs under number formats: a ladder of estimators, guaranteed to statistical."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from assay.errors import NumericalError, UsageError
from assay.grade import Grade
from assay.inputs import checked_outputs, prepared
from assay.progress import Progress
from assay.results import Displayed
from assay.sensitivity.roundoff.adjoint import Adjoint, Model, random_changes, seeds_for
from assay.sensitivity.roundoff.assignment import Assignment
from assay.sensitivity.roundoff.forward import running_bound
from assay.sensitivity.roundoff.known import known_change
from assay.sensitivity.roundoff.rounding import Format
from assay.sensitivity.roundoff.sites import Precision, prepared_graph
from assay.subject import Subject

Estimator = Literal["E2", "E3", "E3-probable", "E4", "E5"]
_GRADES = {
    "E2": Grade.BOUND,
    "E3": Grade.LINEARISED,
    "E3-probable": Grade.STATISTICAL,
    "E4": Grade.STATISTICAL,
    "E5": Grade.LINEARISED,
}
_BYTES = 256_000_000
_EXACT_SEEDS = 64


@dataclass(frozen=True, eq=False)
class RoundoffError(Displayed):
    """Error of P quantities per sample: the K outputs, or differences of the top output and its rivals; float64.

    Attributes:
        estimator: which one.
        outputs: (B, K) exact outputs.
        rivals: (B, P) outputs j of the differences f_top - f_j; None when the quantities are the outputs.
        error: (B, P) bound (E2 guaranteed, E3 to first order), standard deviation (E4), or size of the known change
            with the deviation of what is not known (E5).
        layers: the L layers: the network's input, then the sites, by node name.
        contributions: (B, P, L) what each layer adds to `error`: terms of the sum (E3), standard deviations whose
            squares add up (E4), the bound or change with that layer alone rounding (E2, E5); None where not computed.
        parts: for E3 and E4, (B, P, L) of the same kind by part: weights, biases, activations, accumulation.
        change: (B, P) signed known change of E5; else None.
        standard_error: relative standard error of `error` where it was sampled, else 0.
    """

    estimator: str
    outputs: Tensor
    rivals: Tensor | None
    error: Tensor
    layers: tuple[str, ...]
    contributions: Tensor | None
    parts: Mapping[str, Tensor]
    change: Tensor | None
    standard_error: float

    @property
    def grade(self) -> Grade:
        """Bound for E2, linearised for E3 and E5, statistical for the others."""
        return _GRADES[self.estimator]

    @property
    def by_layer(self) -> Tensor:
        """What each layer adds to the worst quantity, (B, L).

        Raises:
            UsageError: where contributions were not computed.
        """
        if self.contributions is None:
            raise UsageError(
                "Contributions of layers were not computed.", where="by_layer", advice="Ask with by_layer=True."
            )
        return self.contributions.amax(1)

    @property
    def margins(self) -> Tensor:
        """f_top - f_j for the rivals, (B, P).

        Raises:
            UsageError: when the quantities are the outputs themselves.
        """
        if self.rivals is None:
            raise UsageError(
                "These are errors of outputs.", where="margins", advice="Ask with pairs='all' or a number."
            )
        return self.outputs.amax(1, keepdim=True) - self.outputs.gather(1, self.rivals)


def roundoff_error(
    model: nn.Module | Subject,
    x: Tensor,
    precision: Precision | Format | str | int,
    *,
    estimator: Estimator = "E4",
    pairs: int | Literal["all"] | Tensor | None = None,
    layers: Mapping[str, Precision | Format | str | int] | None = None,
    by_layer: bool = True,
    partial_sums: bool = True,
    failure: float | None = None,
    draws: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> RoundoffError:
    """Predict the error of the outputs when a network is computed in given number formats.

    - ``E2`` carries a running bound forward: guaranteed, and 10^2 to 10^6 times too large.
    - ``E3`` adds up |derivative| x bound over all roundings, with gamma for sums: a bound to first order.
    - ``E3-probable`` is the same with c(n) = sqrt(n) u, or the one that holds but for `failure` per inner product.
    - ``E4`` adds up derivative^2 x variance: a standard deviation. Sums by their real partial sums.
    - ``E5`` takes the errors of parameters and input as they are: the change J dw; where activations or sums are
      rounded too, E4 for these alone is added in squares.

    The graph is that of `simulate`: batch norms folded, double precision. E3 and E4 cost one reverse pass per quantity;
    E4 with `draws` one forward product per draw for all outputs; E2 one forward walk of two numbers per value.

    Args:
        model: a module or Subject that can be captured.
        x: (B, ...) floating point.
        precision: formats of the network; a single format (or its name) is for weights, biases, activations and input.
        estimator: see above.
        pairs: None for every output; a number of closest rivals of the top output; "all"; or (B, P) their indices.
        layers: formats of single layers, as in `simulate`.
        by_layer: also what each layer adds; E2 and E5 then take one pass more per layer.
        partial_sums: False for the cheap form of E4's sums, n u^2 (|W||x|)^2 / 12: several times too large.
        failure: for ``E3-probable``, in (0, 1).
        draws: for E4: sample with this many draws instead, all quantities at once; None draws 32 where there are more
            than 64 quantities.
        seed: of the draws.
        batch_size: samples per pass; None chooses by memory.
        progress: called as progress(done, total, text).

    Returns:
        Errors per quantity with contributions of layers.

    Raises:
        CaptureError: when the model cannot be captured.
        NumericalError: where a derivative is NaN or infinite.
        SubjectError: for inputs that do not fit.
        UnsupportedOperator: for E2, listing nodes without a rule.
        UsageError: for an unknown estimator, layer or pair.

    Example:
        >>> network = nn.Linear(2, 1, bias=False)
        >>> network.weight.data = torch.tensor([[0.3, 0.7]])
        >>> found = roundoff_error(network, torch.tensor([[1.0, 2.0]]), Precision(weights="t2"), estimator="E2")
        >>> found.error.tolist(), found.grade.value  # half spacings 1/16 and 1/8 times the inputs
        ([[0.3125]], 'bound')
    """
    if estimator not in _GRADES or (draws is not None and (draws < 2 or estimator != "E4")):
        raise UsageError(
            f"estimator={estimator!r} with draws={draws} cannot be used.",
            where="roundoff_error",
            advice="Use E2, E3, E3-probable, E4 or E5; at least two draws, with E4 only.",
        )
    if failure is not None and (estimator != "E3-probable" or not 0 < failure < 1):
        raise UsageError(
            f"failure={failure} with {estimator} cannot be used.",
            where="failure",
            advice="A probability in (0, 1), with estimator='E3-probable'.",
        )
    subject, x = prepared(model, x)
    assignment = Assignment.of(prepared_graph(subject), precision, layers)
    x = x.double()
    chosen = _Request(assignment, estimator, pairs, by_layer, partial_sums, failure, draws, seed)
    size = batch_size or chosen.samples_per_pass(x)
    parts: list[RoundoffError] = []
    for begin in range(0, len(x), size):
        part = x[begin : begin + size]
        parts.append(chosen.answer(part, slice(begin, begin + len(part)), len(x)))
        if progress is not None:
            progress(begin + len(part), len(x), "round-off")
    return _joined(parts)


@dataclass(frozen=True, eq=False)
class _Request:
    """Checked arguments."""

    assignment: Assignment
    estimator: str
    pairs: int | str | Tensor | None
    by_layer: bool
    partial_sums: bool
    failure: float | None
    draws: int | None
    seed: int

    @property
    def layers(self) -> tuple[str, ...]:
        return (self.assignment.graph.input, *self.assignment.sites)

    def quantities(self) -> int:
        count = self.assignment.graph[self.assignment.graph.output].spec.size_per_sample
        if isinstance(self.pairs, Tensor):
            return self.pairs.shape[1]
        if isinstance(self.pairs, int):
            return min(self.pairs, count - 1)
        return count

    def samples_per_pass(self, x: Tensor) -> int:
        """As many as keep activations, and cotangents of all quantities, within 256 MB."""
        activations = sum(node.spec.size_per_sample for node in self.assignment.graph.layers)
        copies = 4 if self.estimator in ("E2", "E5") or self._sampled else 2 + self.quantities()
        return max(1, min(len(x), _BYTES // (8 * copies * max(1, activations))))

    @property
    def _sampled(self) -> bool:
        return self.estimator == "E4" and (self.draws is not None or self.quantities() > _EXACT_SEEDS)

    def rivals(self, outputs: Tensor, rows: slice, total: int) -> Tensor | None:
        if self.pairs is None:
            return None
        count = outputs.shape[1]
        if isinstance(self.pairs, Tensor):
            top = outputs.argmax(1, keepdim=True)
            fits = self.pairs.dim() == 2 and len(self.pairs) == total and not self.pairs.is_floating_point()
            if not fits or not bool(((self.pairs >= 0) & (self.pairs < count)).all()):
                raise UsageError(
                    f"pairs of shape {tuple(self.pairs.shape)} do not name outputs of {total} samples.",
                    where="pairs",
                    advice=f"Give integers (B, P) between 0 and {count - 1}.",
                )
            rivals = self.pairs[rows]
            if bool((rivals == top).any()):
                raise UsageError(
                    "A rival is the top output itself.", where="pairs", advice="Leave the top output out of the rivals."
                )
            return rivals
        wanted = count - 1 if self.pairs == "all" else self.pairs
        if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1 or count < 2:
            raise UsageError(
                f"pairs={self.pairs!r} cannot be used with {count} outputs.",
                where="pairs",
                advice="Use None, 'all', a positive number, or (B, P) indices.",
            )
        order = outputs.scatter(1, outputs.argmax(1, keepdim=True), -torch.inf).argsort(1, descending=True)
        return order[:, : min(wanted, count - 1)]

    def answer(self, x: Tensor, rows: slice, total: int) -> RoundoffError:
        if self.estimator == "E2":
            return self._forward(x, rows, total)
        return self._known(x, rows, total) if self.estimator == "E5" else self._adjoint(x, rows, total)

    def _forward(self, x: Tensor, rows: slice, total: int) -> RoundoffError:
        outputs, bound = running_bound(self.assignment, x)
        rivals = self.rivals(checked_outputs(outputs), rows, total)

        def wanted(bound: Tensor) -> Tensor:
            return (
                bound if rivals is None else bound.gather(1, outputs.argmax(1, keepdim=True)) + bound.gather(1, rivals)
            )

        shares = None
        if self.by_layer:
            alone = [running_bound(self.assignment, x, active=lambda n, k=k: n == k).error for k in self.layers]
            shares = torch.stack([wanted(share) for share in alone], 2)
        return RoundoffError("E2", outputs, rivals, wanted(bound), self.layers, shares, {}, None, 0.0)

    def _known(self, x: Tensor, rows: slice, total: int) -> RoundoffError:
        change = known_change(self.assignment, x)
        rest = Assignment.of(
            self.assignment.graph, _unknown(self.assignment.precision), _each(self.assignment.layers, _unknown)
        )
        adjoint = Adjoint(rest, x, Model(statistical=True, partial_sums=self.partial_sums))
        outputs = checked_outputs(adjoint.taps.outputs)
        rivals = self.rivals(outputs, rows, total)
        moved = _differences(change, outputs, rivals)
        variance = torch.zeros_like(moved)
        if adjoint.additive or adjoint._operand_sources or adjoint._parameter_sources:
            found = adjoint.contributions(seeds_for(outputs, rivals))
            variance = torch.stack(list(found.values())).sum((0, 3))
        shares = None
        if self.by_layer:
            alone = [known_change(self.assignment, x, active=lambda n, k=k: n == k) for k in self.layers]
            shares = torch.stack([_differences(share, outputs, rivals) for share in alone], 2)
        error = (moved.square() + variance).sqrt()
        return RoundoffError("E5", outputs, rivals, error, self.layers, shares, {}, moved, 0.0)

    def _adjoint(self, x: Tensor, rows: slice, total: int) -> RoundoffError:
        statistical = self.estimator == "E4"
        model = Model(statistical, self.estimator == "E3-probable", self.failure, self.partial_sums)
        adjoint = Adjoint(self.assignment, x, model)
        outputs = checked_outputs(adjoint.taps.outputs)
        rivals = self.rivals(outputs, rows, total)
        if self._sampled:
            draws = self.draws or 32
            squares = [_differences(c, outputs, rivals).square() for c in random_changes(adjoint, draws, self.seed)]
            error = torch.stack(squares).mean(0).sqrt()
            return RoundoffError("E4", outputs, rivals, error, self.layers, None, {}, None, (2 * draws) ** -0.5)
        found = adjoint.contributions(seeds_for(outputs, rivals))
        total_shares = torch.stack(list(found.values())).sum(0)
        error = total_shares.sum(2)
        if statistical:
            error, total_shares = error.sqrt(), total_shares.sqrt()
        if bool(error.isnan().any()):
            raise NumericalError(
                "A predicted error is no number.", where=self.estimator, advice="Look for infinities in the formats."
            )
        kept = {part: shares.sqrt() if statistical else shares for part, shares in found.items()}
        shares = total_shares if self.by_layer else None
        return RoundoffError(
            self.estimator, outputs, rivals, error, self.layers, shares, kept if self.by_layer else {}, None, 0.0
        )


def first_order_coefficients(
    model: nn.Module | Subject,
    x: Tensor,
    *,
    pairs: int | Literal["all"] | Tensor | None = None,
    batch_size: int | None = None,
) -> RoundoffError:
    """C in |error| <= C 2^-t to first order, when everything is stored with t significand bits.

    E3 with |v| 2^-t for every stored value: exact values are not left out, so one C serves every t. Sums are exact.

    Args:
        model: a module or Subject that can be captured.
        x: (B, ...) floating point.
        pairs: as in `roundoff_error`.
        batch_size: samples per pass; None chooses by memory.

    Returns:
        `error` holds C; grade linearised.

    Raises:
        CaptureError: when the model cannot be captured.
        SubjectError: for inputs that do not fit.
        UsageError: for an unknown pair.

    Example:
        >>> network = nn.Linear(2, 1, bias=False)
        >>> network.weight.data = torch.tensor([[3.0, -1.0]])
        >>> first_order_coefficients(network, torch.tensor([[1.0, 2.0]])).error.tolist()  # weights, inputs, output
        [[11.0]]
    """
    unit = _Relative()
    return roundoff_error(
        model, x, Precision(unit, unit, unit, unit), estimator="E3", pairs=pairs, batch_size=batch_size
    )


@dataclass(frozen=True)
class _Relative:
    """Rounding of relative size one, to collect coefficients."""

    name: str = "relative"
    bits: int = 0
    unit_roundoff: float = 1.0

    def round(self, x: Tensor) -> Tensor:
        return x

    def error_bound(self, x: Tensor) -> Tensor:
        return x.abs()

    def error_variance(self, x: Tensor) -> Tensor:
        return x.square() / 3


_: type[Format] = _Relative


def _unknown(precision: Precision) -> Precision:
    """Only what cannot be known beforehand: stored activations and sums."""
    return Precision(activations=precision.activations, accumulation=precision.accumulation)


def _each(layers: Mapping[str, Precision], function) -> dict[str, Precision]:
    return {name: function(precision) for name, precision in layers.items()}


def _differences(values: Tensor, outputs: Tensor, rivals: Tensor | None) -> Tensor:
    """Of the outputs' values: their own, or those of the top output minus those of the rivals."""
    if rivals is None:
        return values
    return values.gather(1, outputs.argmax(1, keepdim=True)) - values.gather(1, rivals)


def _joined(parts: list[RoundoffError]) -> RoundoffError:
    def cat(pieces: list[Tensor | None]) -> Tensor | None:
        present = [piece for piece in pieces if piece is not None]
        return torch.cat(present) if len(present) == len(pieces) else None

    first = parts[0]
    outputs, error = cat([p.outputs for p in parts]), cat([p.error for p in parts])
    assert outputs is not None
    assert error is not None
    return RoundoffError(
        first.estimator,
        outputs,
        cat([p.rivals for p in parts]),
        error,
        first.layers,
        cat([p.contributions for p in parts]),
        {name: torch.cat([p.parts[name] for p in parts]) for name in first.parts},
        cat([p.change for p in parts]),
        first.standard_error,
    )
