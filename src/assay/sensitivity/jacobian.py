"""The Jacobian of a model at a batch of inputs: as an operator, as rows, and its Frobenius norm.

Samples do not interact, so the Jacobian of a batch is block-diagonal: one product serves every sample at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from assay.errors import NumericalError, SubjectError
from assay.probe import Probe


@dataclass(frozen=True, eq=False)
class JacobianOperator:
    """J(x) of every sample of a batch, acting on flat vectors: (B, n) forward, (B, K) transposed.

    One forward product is a JVP, one transposed product a VJP; the graph of the VJP is built once and kept while the
    operator lives (memory: the activations of one pass over the batch).

    Attributes:
        probe: the model as a function.
        x: (B, ...) where to differentiate.
    """

    probe: Probe
    x: Tensor

    @cached_property
    def _linearised(self) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        with _derivative_errors():
            return self.probe.vjp(self.x)

    @property
    def outputs(self) -> Tensor:
        """f(x), (B, K)."""
        return self._linearised[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, K, n)."""
        return len(self.x), self.outputs.shape[1], self.x[0].numel()

    def forward(self, v: Tensor) -> Tensor:
        """J v for v (B, n); returns (B, K)."""
        with _derivative_errors():
            product = self.probe.jvp(self.x, v.reshape(self.x.shape).to(self.x.dtype))[1]
        return _finite(product, "Jacobian-vector product")

    def transpose(self, u: Tensor) -> Tensor:
        """J^T u for u (B, K); returns (B, n)."""
        outputs, pullback = self._linearised
        with _derivative_errors():
            product = pullback(u.to(outputs.dtype)).reshape(len(u), -1)
        return _finite(product, "vector-Jacobian product")

    def select(self, rows: Tensor) -> JacobianOperator:
        """The operator of some of the samples; `rows` holds their indices."""
        return JacobianOperator(self.probe, self.x[rows])

    def rows(self) -> Tensor:
        """The dense Jacobian (B, K, n) by K VJPs. Exact up to rounding; needs B K n numbers."""
        batch, outputs, inputs = self.shape
        dense = self.x.new_empty(batch, outputs, inputs)
        for k in range(outputs):
            cotangent = torch.zeros_like(self.outputs)
            cotangent[:, k] = 1
            dense[:, k] = self.transpose(cotangent)
        return dense


def check_connected(probe: Probe, x: Tensor) -> None:
    """Refuse a model whose output moves though autograd knows of no path from the input, such as behind a detach.

    For a Jacobian that is zero, which then is no derivative. One pass with a graph and one with other inputs.

    Args:
        probe: the model as a function.
        x: (B, ...) inputs, of which the first is looked at.

    Raises:
        SubjectError: where the outputs change with the input all the same.
    """
    point = x[:1].detach().clone().requires_grad_()
    with torch.enable_grad():
        outputs = probe.function(point)
        found = torch.autograd.grad(outputs.sum(), point, allow_unused=True)[0] if outputs.requires_grad else None
    if found is not None:
        return
    noise = torch.randn(point.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(x.dtype)
    with torch.no_grad():
        moved = probe(point + noise * point.abs().amax().clamp(min=1))
    if not torch.equal(moved, outputs.detach()):
        raise SubjectError(
            "The outputs change with the input, but no differentiable path leads there: 0 would be wrong.",
            where="Jacobian",
            advice="Look for detach(), .data, torch.no_grad() or comparisons in forward().",
        )


def frobenius_squared_sampled(
    operator: JacobianOperator, samples: int, seed: int, *, basis: Tensor | None = None, captured: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """||J||_F^2 of every sample by random signs (Hutchinson 1990), with its standard error; `samples` VJPs.

    What a known orthonormal basis U of left vectors captures, ||U^T J||_F^2, is added exactly and only the rest is
    sampled (the idea of Hutch++, Meyer, Musco, Musco and Woodruff 2021), which removes most of the variance.

    Args:
        operator: the Jacobian.
        samples: number of sign vectors, at least 2.
        seed: of the sign vectors; they are the same for every sample of a batch.
        basis: (B, k, K) rows orthonormal or zero, or None.
        captured: (B,) ||U^T J||_F^2, or None.

    Returns:
        (B,) estimate and (B,) standard error, float64; grade `sampled`.
    """
    batch, outputs, _ = operator.shape
    generator = torch.Generator().manual_seed(seed)
    draws = []
    for _ in range(samples):
        signs = (
            (torch.randint(0, 2, (outputs,), generator=generator) * 2 - 1).to(operator.x.dtype).expand(batch, outputs)
        )
        if basis is not None:
            signs = signs - torch.einsum("bko,bk->bo", basis, torch.einsum("bko,bo->bk", basis, signs))
        draws.append(operator.transpose(signs).double().square().sum(1))
    stacked = torch.stack(draws)
    mean = stacked.mean(0)
    if captured is not None:
        mean = mean + captured.double()
    return mean, stacked.std(0) / samples**0.5


def _finite(product: Tensor, name: str) -> Tensor:
    if not bool(torch.isfinite(product).all()):
        row = int((~torch.isfinite(product)).reshape(len(product), -1).any(1).nonzero()[0])
        raise NumericalError(
            f"A {name} is NaN or infinite.",
            where=f"sample {row} of a pass",
            advice="The model overflows or is not differentiable there; try it in double precision (model.double()).",
        )
    return product


class _derivative_errors:  # noqa: N801 - reads as a statement: with _derivative_errors()
    """Turn a failing derivative into one clear error; memory exhaustion and our own errors pass."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (RuntimeError, NotImplementedError)) and not isinstance(error, torch.OutOfMemoryError):
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise SubjectError(
                f"The model cannot be differentiated with respect to its input: {first}",
                where="Jacobian",
                advice="Every operation between input and output must be differentiable in torch; "
                "method='rows' needs first derivatives in reverse mode only.",
            ) from error
