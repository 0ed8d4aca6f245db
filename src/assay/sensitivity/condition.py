"""Local condition number of a network at an input: worst case (spectral norm) and mean square (Frobenius norm).

kappa(x) = ||J(x)||_2 ||x|| / ||f(x)|| is Rice's (1966) condition number in the Euclidean norm: the limit for eps -> 0
of the largest relative output change per relative input change eps. kappa_rms(x) = ||J(x)||_F ||x|| / (sqrt(n)
||f(x)||) is the root mean square of the same ratio over directions uniform on the sphere. Both are first order (grade
`linearised`): neither is an upper bound for a change of finite size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from assay.errors import NumericalError, UsageError
from assay.grade import Grade
from assay.inputs import checked_outputs, norms, prepared, rows_per_pass
from assay.norms.golub_kahan import LargestSingular, largest_singular
from assay.progress import Progress
from assay.results import Displayed
from assay.sensitivity.jacobian import JacobianOperator, check_connected, frobenius_squared_sampled
from assay.subject import Subject

Kind = Literal["worst", "rms"]
Method = Literal["auto", "rows", "lanczos"]
ROWS_LIMIT = 64  # up to this many outputs the Jacobian's rows are affordable, and everything is exact


@dataclass(frozen=True, eq=False)
class ConditionNumbers(Displayed):
    """Local Jacobian norms and condition numbers of a batch. Norms are Euclidean; all but vectors are float64.

    Attributes:
        jacobian_norm: (B,) ||J||_2; by `lanczos` a lower estimate that converges from below (see `upper`).
        frobenius: (B,) ||J||_F, exact by `rows` and sampled by `lanczos`; None where it was not asked for.
        frobenius_error: (B,) standard error of `frobenius`; zero by `rows`.
        input_norm: (B,) ||x||, in the units of the data.
        output_norm: (B,) ||f(x)||.
        input_size: n, the number of elements of one input.
        left: (B, K) top left singular vectors: the output direction that moves most.
        right: (B, ...) top right singular vectors, of the input's shape: the input direction that moves it. The sign is
            arbitrary and fixed so that the largest element is positive. Zero for a zero Jacobian.
        iterations: (B,) Lanczos steps; 0 by `rows`.
        residual: (B,) relative residual of the singular triplet; 0 by `rows`.
        upper_norm: (B,) value that ||J||_2 exceeds with probability at most 1e-6 over the choice of seed
            (Kuczynski and Wozniakowski 1992); equals `jacobian_norm` where that is exact up to rounding.
        method: ``rows`` or ``lanczos``.
    """

    jacobian_norm: Tensor
    frobenius: Tensor | None
    frobenius_error: Tensor | None
    input_norm: Tensor
    output_norm: Tensor
    input_size: int
    left: Tensor
    right: Tensor
    iterations: Tensor
    residual: Tensor
    upper_norm: Tensor
    method: str

    @property
    def grade(self) -> Grade:
        """First order: right for small changes."""
        return Grade.LINEARISED

    @property
    def worst(self) -> Tensor:
        """kappa(x), (B,): worst relative output change per relative input change; 0 at x = 0.

        Raises:
            NumericalError: where f(x) = 0.
        """
        return self._relative(self.jacobian_norm)

    @property
    def rms(self) -> Tensor:
        """kappa_rms(x), (B,): root mean square of the same over random directions; 0 at x = 0.

        Raises:
            NumericalError: where f(x) = 0.
            UsageError: where the Frobenius norm was not asked for.
        """
        return self._relative(self.rms_norm)

    @property
    def rms_error(self) -> Tensor:
        """Standard error of `rms`, (B,); zero where the Frobenius norm is exact."""
        error = self.frobenius_error
        return self._relative(torch.zeros_like(self.input_norm) if error is None else error) / self.input_size**0.5

    @property
    def rms_norm(self) -> Tensor:
        """||J||_F / sqrt(n), (B,): root mean square output change per unit of input change.

        Raises:
            UsageError: where the Frobenius norm was not asked for.
        """
        if self.frobenius is None:
            raise UsageError(
                "The Frobenius norm was not computed.", where="kinds", advice="Ask for kinds=('worst', 'rms')."
            )
        return self.frobenius / self.input_size**0.5

    def _relative(self, norm: Tensor) -> Tensor:
        check_outputs_nonzero(self.output_norm)
        result = norm * (self.input_norm / self.output_norm)
        if not bool(torch.isfinite(result).all()):
            raise NumericalError(
                "A condition number overflows.",
                where=f"sample {int((~torch.isfinite(result)).nonzero()[0])}",
                advice="Ask for the absolute norm: relative=False.",
            )
        return result


def condition_number(
    model: nn.Module | Subject,
    x: Tensor,
    *,
    kind: Kind = "worst",
    relative: bool = True,
    method: Method = "auto",
    tolerance: float = 1e-5,
    max_steps: int = 100,
    samples: int = 64,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Local condition number of a model at every input of a batch.

    Grade `linearised`: the limit for small changes, not an upper bound at finite size. A batch gives what its samples
    give one by one, up to rounding. Cost and memory as in `condition_numbers`.

    Args:
        model: a module (B, ...) -> (B, K), or a Subject; used in evaluation mode and left untouched.
        x: (B, ...) floating point, in the units of the data.
        kind: ``worst`` for ||J||_2 ||x|| / ||f||; ``rms`` for ||J||_F ||x|| / (sqrt(n) ||f||).
        relative: False for the absolute ||J||_2 or ||J||_F / sqrt(n), output change per unit of input change.
        method: see `condition_numbers`.
        tolerance: relative residual at which Lanczos stops.
        max_steps: most Lanczos steps.
        samples: sign vectors for the Frobenius norm of models with more than 64 outputs.
        seed: of the Lanczos start and the sign vectors.
        batch_size: samples per pass; None chooses by memory.
        progress: called as progress(done, total, text).

    Returns:
        (B,) float64. At x = 0 the relative number is 0: the only change of relative size eps is none.

    Raises:
        NumericalError: where f(x) = 0, for which no relative change exists, or where a derivative is NaN or infinite.
        SubjectError: for inputs or a model that cannot be used.
        UsageError: for an unknown kind or method.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 2, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        >>> condition_number(layer, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor([1., 3.], dtype=torch.float64)
    """
    if kind not in ("worst", "rms"):
        raise UsageError(f"Unknown kind {kind!r}.", where="condition_number", advice="Use 'worst' or 'rms'.")
    found = condition_numbers(
        model,
        x,
        kinds=(kind,),
        method=method,
        tolerance=tolerance,
        max_steps=max_steps,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    if relative:
        return found.worst if kind == "worst" else found.rms
    return found.jacobian_norm if kind == "worst" else found.rms_norm


def condition_numbers(
    model: nn.Module | Subject,
    x: Tensor,
    *,
    kinds: Sequence[Kind] = ("worst", "rms"),
    method: Method = "auto",
    tolerance: float = 1e-5,
    max_steps: int = 100,
    samples: int = 64,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> ConditionNumbers:
    """Both condition numbers with what they are made of: norms, singular vectors, steps and residuals.

    Two ways to the same numbers. ``rows`` forms the K rows of J by K VJPs and takes the largest eigenvalue of J J^T:
    exact up to rounding; K VJPs and K n numbers per input. ``lanczos`` never forms J: k steps cost k + 1 JVPs and k + 1
    VJPs and k (n + K) numbers per input, and give a lower estimate that converges from below; the Frobenius norm is
    then sampled with `samples` VJPs beyond what the Lanczos vectors hold. ``auto`` takes rows up to 64 outputs.

    Args:
        model: a module or Subject.
        x: (B, ...) floating point, in the units of the data.
        kinds: what is needed; without ``rms`` Lanczos does not sample the Frobenius norm.
        method: ``auto``, ``rows`` or ``lanczos``.
        tolerance: relative residual at which Lanczos stops; the relative error of the value is typically its square.
        max_steps: most Lanczos steps; `residual` says what was reached.
        samples: sign vectors for the sampled Frobenius norm, at least 2.
        seed: of the Lanczos start and the sign vectors.
        batch_size: samples per pass; None chooses by memory.
        progress: called as progress(done, total, text) after every pass.

    Returns:
        Norms, condition numbers and vectors of the batch; grade `linearised`.

    Raises:
        NumericalError: where a derivative is NaN or infinite.
        SubjectError: for inputs or a model that cannot be used.
        UsageError: for an unknown method or too few samples.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> model.weight.data = torch.diag(torch.tensor([1.0, 2.0]))
        >>> found = condition_numbers(model, torch.tensor([[1.0, 0.0]]))
        >>> found.worst, found.right.abs()
        (tensor([2.], dtype=torch.float64), tensor([[0., 1.]]))
    """
    if method not in ("auto", "rows", "lanczos"):
        raise UsageError(f"Unknown method {method!r}.", where="condition number", advice="Use auto, rows or lanczos.")
    if samples < 2:
        raise UsageError(f"samples must be at least 2, got {samples}.", where="condition number", advice="Try 64.")
    subject, x = prepared(model, x)
    size = rows_per_pass(x, batch_size, gradients=True)
    parts = []
    for begin in range(0, len(x), size):
        operator = JacobianOperator(subject.probe, x[begin : begin + size])
        checked_outputs(operator.outputs)
        if method == "rows" or (method == "auto" and operator.shape[1] <= ROWS_LIMIT):
            part = _by_rows(operator)
        else:
            dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
            found = largest_singular(operator, dtype=dtype, tolerance=tolerance, max_steps=max_steps, seed=seed)
            part = _by_lanczos(operator, found, samples if "rms" in kinds else 0, seed)
        parts.append(part)
        if progress is not None:
            progress(min(begin + size, len(x)), len(x), "condition numbers")
    if not any(bool(part.jacobian_norm.any()) for part in parts):
        check_connected(subject.probe, x)
    joined: dict[str, Any] = {}
    for field in fields(ConditionNumbers):
        pieces = [getattr(part, field.name) for part in parts]
        joined[field.name] = torch.cat(pieces) if isinstance(pieces[0], Tensor) else pieces[0]
    return ConditionNumbers(**joined)


def check_outputs_nonzero(output_norm: Tensor) -> None:
    """Refuse relative numbers where f(x) = 0.

    Raises:
        NumericalError: naming the samples.
    """
    zero = (output_norm == 0).nonzero()[:, 0].tolist()
    if zero:
        more = ", ..." if len(zero) > 5 else ""
        raise NumericalError(
            f"f(x) = 0 for {len(zero)} of {len(output_norm)} inputs: a relative output change does not exist there.",
            where=f"samples {', '.join(map(str, zero[:5]))}{more}",
            advice="Ask for the absolute norm (relative=False, or .jacobian_norm), or leave these inputs out.",
        )


def _by_rows(operator: JacobianOperator) -> ConditionNumbers:
    dense = operator.rows()
    batch, outputs, inputs = dense.shape
    peak = dense.flatten(1).abs().amax(1).double()
    scaled = dense / torch.where(peak == 0, 1.0, peak)[:, None, None].to(dense.dtype)  # so that squares do not overflow
    narrow = scaled if outputs <= inputs else scaled.mT
    gram = torch.stack([row.double() @ row.double().mT for row in narrow])  # one sample in double precision at a time
    value, vectors = torch.linalg.eigh(gram)
    norm = value[:, -1].clamp(min=0).sqrt() * peak
    top = vectors[:, :, -1].to(dense.dtype)
    if outputs <= inputs:
        left, right = top, torch.einsum("bkn,bk->bn", scaled, top)
    else:
        left, right = torch.einsum("bkn,bn->bk", scaled, top), top
    zeros = torch.zeros(batch, dtype=torch.float64)
    return _assemble(
        operator,
        norm,
        gram.diagonal(dim1=1, dim2=2).sum(1).sqrt() * peak,
        zeros,
        left,
        right,
        zeros.long(),
        zeros,
        norm,
        "rows",
    )


def _by_lanczos(operator: JacobianOperator, found: LargestSingular, samples: int, seed: int) -> ConditionNumbers:
    frobenius = error = None
    if samples:
        squared, squared_error = frobenius_squared_sampled(
            operator, samples, seed + 1, basis=found.basis, captured=found.captured
        )
        frobenius = squared.sqrt()
        error = torch.where(squared > 0, squared_error / (2 * frobenius), 0.0)  # delta method
    return _assemble(
        operator,
        found.value,
        frobenius,
        error,
        found.left,
        found.right,
        found.iterations,
        found.residual,
        found.upper(),
        "lanczos",
    )


def _assemble(
    operator: JacobianOperator,
    norm: Tensor,
    frobenius: Tensor | None,
    frobenius_error: Tensor | None,
    left: Tensor,
    right: Tensor,
    iterations: Tensor,
    residual: Tensor,
    upper: Tensor,
    method: str,
) -> ConditionNumbers:
    sign = right.gather(1, right.abs().argmax(1, keepdim=True)).sign()
    sign = sign * (norm > 0)[:, None]
    return ConditionNumbers(
        jacobian_norm=norm,
        frobenius=frobenius,
        frobenius_error=frobenius_error,
        input_norm=norms(operator.x),
        output_norm=norms(operator.outputs),
        input_size=operator.shape[2],
        left=torch.nn.functional.normalize(left, dim=1) * sign,
        right=(torch.nn.functional.normalize(right, dim=1) * sign).reshape(operator.x.shape),
        iterations=iterations,
        residual=residual,
        upper_norm=upper,
        method=method,
    )
