"""Largest singular value and vectors by Golub-Kahan-Lanczos bidiagonalisation, batched, with full re-orthogonalisation.

Golub and Kahan 1965; the one-sided projection and the stopping rule follow from the identities in the comments. The
value is a *lower* estimate that grows with every step: never print it as a guaranteed upper bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from assay.errors import UsageError
from assay.results import Displayed

BREAKDOWN = 50.0  # remainders below this many unit round-offs are noise: the Krylov space is exhausted


class Operator(Protocol):
    """A batch of linear maps R^n -> R^K, one per sample."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, K, n)."""
        ...

    def forward(self, v: Tensor) -> Tensor:
        """A v: (B, n) -> (B, K)."""
        ...

    def transpose(self, u: Tensor) -> Tensor:
        """A^T u: (B, K) -> (B, n)."""
        ...

    def select(self, rows: Tensor) -> Operator:
        """The maps of some samples."""
        ...


@dataclass(frozen=True)
class LargestSingular(Displayed):
    """Largest singular triplet of every sample.

    Attributes:
        value: (B,) float64; a lower estimate, exact up to rounding where `exhausted`.
        left: (B, K) unit vectors; zero for a zero map.
        right: (B, n) unit vectors; zero for a zero map.
        iterations: (B,) bidiagonalisation steps used.
        residual: (B,) ||A v - value u|| / value (A^T u = value v holds by construction): some singular value lies
            within residual x value of `value`.
        exhausted: (B,) the Krylov space became invariant or filled the whole space.
        basis: (B, k, K) left Krylov vectors, zero rows where a sample used fewer.
        captured: (B,) ||basis A||_F^2, part of the squared Frobenius norm.
    """

    value: Tensor
    left: Tensor
    right: Tensor
    iterations: Tensor
    residual: Tensor
    exhausted: Tensor
    basis: Tensor
    captured: Tensor

    def upper(self, failure: float = 1e-6) -> Tensor:
        """Value that the true norm exceeds with at most this probability over the choice of the start vector.

        Kuczynski and Wozniakowski 1992: k Lanczos steps on A A^T from a start uniform on the sphere of R^K leave a
        relative error above e in the largest eigenvalue with probability at most 1.648 sqrt(K) exp(-sqrt(e) (2k - 1)).
        The subspace used here contains A A^T times theirs, so its value is at least theirs. A probability statement
        about the seed, not a certificate.

        Returns:
            (B,) float64; the value itself where exhausted, infinity where k is too small for a statement.
        """
        outputs = self.left.shape[1]
        steps = (2 * self.iterations - 1).clamp(min=1).double()
        error = (math.log(max(1.648 * math.sqrt(outputs) / failure, 1.0)) / steps).square()
        raised = torch.where(error < 1, self.value / (1 - error).clamp(min=1e-300).sqrt(), math.inf)
        return torch.where(self.exhausted | (self.value == 0), self.value, raised)


@dataclass
class _State:
    """The samples still at work. Every tensor has them as its first axis."""

    operator: Operator
    rows: Tensor  # their place in the whole batch
    right: Tensor  # (b, steps + 1, n) orthonormal v_0, v_1, ...
    left: Tensor  # (b, steps, K) orthonormal u_0, u_1, ...
    alpha: Tensor  # (b, steps) diagonal of the bidiagonal matrix
    beta: Tensor  # (b, steps) its superdiagonal
    previous: Tensor  # (b, 2) the last two values, for stagnation
    finished: Tensor  # (b,)

    def compress(self) -> _State:
        """Drop finished samples."""
        keep = (~self.finished).nonzero()[:, 0]
        parts = (self.rows, self.right, self.left, self.alpha, self.beta, self.previous, self.finished)
        return _State(self.operator.select(keep), *(part[keep] for part in parts))


def largest_singular(
    operator: Operator,
    *,
    dtype: torch.dtype = torch.float64,
    tolerance: float = 1e-5,
    max_steps: int = 100,
    seed: int = 0,
) -> LargestSingular:
    """Largest singular value of every map of a batch, with vectors; stops for each sample on its own.

    Start v_0 = A^T r / ||A^T r|| with r Gaussian in R^K from a seed that depends on K only, so that a batch gives what
    single samples give. After k steps A^T U_k = V_(k+1) B^T with B the k x (k+1) bidiagonal matrix, so sigma_max(B) =
    ||U_k^T A|| <= ||A||, and A v - sigma u = alpha_k q_k u_k for the Ritz pair. Stops when that residual is at most
    `tolerance` x sigma, when sigma has not grown by more than rounding twice in a row, or when the space is exhausted.

    Cost: k + 1 forward and k + 1 transposed products; storage k (n + K) numbers per sample for k steps.

    Args:
        operator: the maps.
        dtype: of the Krylov vectors (the small problems are always solved in double precision).
        tolerance: relative residual at which a sample is done; the value's error is typically its square.
        max_steps: steps after which a sample stops anyway; see `LargestSingular.residual`.
        seed: changes r.

    Returns:
        Value, vectors, steps and residual of every map.

    Raises:
        UsageError: for a tolerance or number of steps that is not positive.

    Example:
        >>> from assay.probe import Probe
        >>> from assay.sensitivity.jacobian import JacobianOperator
        >>> layer = torch.nn.Linear(2, 2, bias=False)
        >>> layer.weight.data = torch.diag(torch.tensor([1.0, 2.0]))
        >>> largest_singular(JacobianOperator(Probe(layer), torch.zeros(1, 2))).value
        tensor([2.0000], dtype=torch.float64)
    """
    if not tolerance > 0 or max_steps < 1:
        raise UsageError(
            f"tolerance must be positive and max_steps at least 1, got {tolerance} and {max_steps}.",
            where="largest_singular",
            advice="Leave them at their defaults.",
        )
    batch, outputs, inputs = operator.shape
    dimension = min(outputs, inputs)
    steps = min(max_steps, dimension)
    round_off = torch.finfo(dtype).eps
    tolerance = max(tolerance, BREAKDOWN * round_off)
    found = LargestSingular(
        value=torch.zeros(batch, dtype=torch.float64),
        left=torch.zeros(batch, outputs, dtype=dtype),
        right=torch.zeros(batch, inputs, dtype=dtype),
        iterations=torch.zeros(batch, dtype=torch.int64),
        residual=torch.zeros(batch, dtype=torch.float64),
        exhausted=torch.ones(batch, dtype=torch.bool),
        basis=torch.zeros(batch, steps, outputs, dtype=dtype),
        captured=torch.zeros(batch, dtype=torch.float64),
    )
    start = start_vector(outputs, seed).to(dtype)
    first = operator.transpose(start.expand(batch, outputs)).to(dtype)
    length = _length(first)
    state = _State(
        operator,
        torch.arange(batch),
        torch.empty(batch, steps + 1, inputs, dtype=dtype),
        torch.empty(batch, steps, outputs, dtype=dtype),
        torch.zeros(batch, steps, dtype=torch.float64),
        torch.zeros(batch, steps, dtype=torch.float64),
        torch.zeros(batch, 2, dtype=torch.float64),
        finished=length == 0,  # A^T r = 0 for a random r: a zero map, whose value, vectors and residual are zero
    )
    state.right[:, 0] = first / _safe(length)[:, None]
    for step in range(steps + 1):
        if int(state.finished.sum()) * 2 >= len(state.finished):
            if bool(state.finished.all()):
                break
            state = state.compress()
        product = _orthogonal(state.operator.forward(state.right[:, step]).to(dtype), state.left[:, :step])
        alpha = _length(product).double()
        if step > 0:
            _finish(found, state, step, alpha, tolerance, round_off, last=step == steps)
        if step == steps:
            break
        scale = torch.maximum(state.alpha.amax(1), state.beta.amax(1)).maximum(alpha)
        state.left[:, step] = product / _safe(alpha.to(dtype))[:, None]
        state.alpha[:, step] = alpha
        remainder = state.operator.transpose(state.left[:, step]).to(dtype)
        remainder = _orthogonal(remainder, state.right[:, : step + 1])
        beta = _length(remainder).double()
        state.beta[:, step] = beta
        state.right[:, step + 1] = remainder / _safe(beta.to(dtype))[:, None]
        ended = beta <= BREAKDOWN * round_off * scale  # always where v_0 .. v_step already span R^n
        if bool(ended.any()):
            state.beta[ended, step] = 0
            state.right[ended, step + 1] = 0
        full = torch.ones_like(ended) if step + 1 == dimension else ended
        if bool(full.any()):  # u_0 .. u_step span R^K, or the space is invariant: the projected norm is the norm
            _finish(found, state, step + 1, torch.zeros_like(alpha), tolerance, round_off, only=full)
    return found


def start_vector(size: int, seed: int = 0) -> Tensor:
    """The Gaussian start r of R^size: from the seed and the size alone, the same for every sample."""
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed * 1_000_003 + size))


def _finish(
    found: LargestSingular,
    state: _State,
    count: int,
    alpha: Tensor,
    tolerance: float,
    round_off: float,
    *,
    last: bool = False,
    only: Tensor | None = None,
) -> None:
    """Solve the count x (count + 1) problem; record `only` these samples, else the converged ones (all when `last`)."""
    band = torch.diag_embed(state.alpha[:, :count])
    band = torch.cat([band, torch.zeros(len(band), count, 1, dtype=band.dtype)], 2)
    band = band + torch.diag_embed(state.beta[:, :count], 1)[:, :count, :]
    top = band.flatten(1).abs().amax(1).clamp(min=1e-300)
    scaled = band / top[:, None, None]  # squares neither overflow nor underflow
    weights = torch.linalg.eigh(scaled @ scaled.mT)
    left = weights.eigenvectors[:, :, -1]
    right = torch.einsum("bij,bi->bj", scaled, left)
    ratio = right.norm(dim=1)
    right = right / ratio.clamp(min=1e-300)[:, None]
    value = ratio * top
    residual = alpha * right[:, -1].abs() / value.clamp(min=1e-300)
    stagnant = ((value[:, None] - state.previous) <= 4 * round_off * value[:, None]).all(1) & (count > 2)
    if only is None:
        state.previous = torch.stack([value, state.previous[:, 0]], 1)
    spent = alpha <= BREAKDOWN * round_off * value
    done = only if only is not None else (residual <= tolerance) | stagnant | spent
    if last:
        done = torch.ones_like(done)
    done = done & ~state.finished
    if not bool(done.any()):
        return
    rows = state.rows[done]
    found.value[rows] = value[done]
    found.residual[rows] = residual[done]
    found.iterations[rows] = count
    found.exhausted[rows] = spent[done] if only is None else True
    found.left[rows] = _unit(torch.einsum("bko,bk->bo", state.left[done, :count], left[done].to(state.left.dtype)))
    found.right[rows] = _unit(
        torch.einsum("bkn,bk->bn", state.right[done, : count + 1], right[done].to(state.right.dtype))
    )
    found.basis[rows, :count] = state.left[done, :count]
    found.captured[rows] = band[done].square().sum((1, 2))
    state.finished = state.finished | done


def _orthogonal(vector: Tensor, basis: Tensor) -> Tensor:
    """Remove the components along an orthonormal basis (b, k, n): twice is enough (Kahan; Parlett 1980)."""
    for _ in range(2 if basis.shape[1] else 0):
        vector = vector - torch.einsum("bkn,bk->bn", basis, torch.einsum("bkn,bn->bk", basis, vector))
    return vector


def _length(vector: Tensor) -> Tensor:
    peak = _safe(vector.abs().amax(1))  # squares of very small or large elements neither vanish nor overflow
    return (vector / peak[:, None]).norm(dim=1) * peak


def _safe(length: Tensor) -> Tensor:
    return torch.where(length == 0, torch.ones_like(length), length)


def _unit(vector: Tensor) -> Tensor:
    return vector / _safe(_length(vector))[:, None]
