"""Condition numbers in other norms than the Euclidean one: output by output, and in the largest element."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.errors import NumericalError, UsageError
from assay.inputs import checked_outputs, prepared, rows_per_pass
from assay.sensitivity.jacobian import JacobianOperator, check_connected
from assay.subject import Subject

_OUTPUTS = 1024  # most outputs whose rows are formed


def componentwise_condition(
    model: nn.Module | Subject, x: Tensor, *, relative: bool = True, batch_size: int | None = None
) -> Tensor:
    """sum_k |J_ik| |x_k| / |f_i|: relative change of each output when every input element changes relatively by eps.

    First order (grade `linearised`): the right number for rounding the input, where |d x_k| <= u |x_k|. Cost: K VJPs.

    Args:
        model: a module or Subject.
        x: (B, ...) inputs.
        relative: False for sum_k |J_ik| |x_k|, in output units.
        batch_size: samples per pass.

    Returns:
        (B, K) float64.

    Raises:
        NumericalError: where an output is 0 and the relative number does not exist, or a derivative is not finite.
        SubjectError: for inputs or a model that cannot be used.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, -1.0]]))
        >>> componentwise_condition(layer, torch.tensor([[1.0, 1.0]]))
        tensor([[2.]], dtype=torch.float64)
    """
    outputs, weighted, _, _ = _row_sums(model, x, batch_size)
    if not relative:
        return weighted
    zero = (outputs == 0).nonzero()
    if len(zero):
        raise NumericalError(
            f"{len(zero)} outputs are 0: a relative change does not exist there.",
            where=f"sample {int(zero[0, 0])}, output {int(zero[0, 1])}",
            advice="Ask for relative=False.",
        )
    return weighted / outputs.abs()


def infinity_condition(
    model: nn.Module | Subject, x: Tensor, *, relative: bool = True, batch_size: int | None = None
) -> Tensor:
    """||J||_inf ||x||_inf / ||f||_inf: the local condition number in the norm of the largest element.

    First order (grade `linearised`), exact otherwise: ||J||_inf is the largest row sum of |J|. Cost: K VJPs.

    Args:
        model: a module or Subject.
        x: (B, ...) inputs.
        relative: False for ||J||_inf.
        batch_size: samples per pass.

    Returns:
        (B,) float64; 0 at x = 0.

    Raises:
        NumericalError: where f(x) = 0, or a derivative is not finite.
        SubjectError: for inputs or a model that cannot be used.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> model.weight.data = torch.diag(torch.tensor([1.0, 2.0]))
        >>> infinity_condition(model, torch.tensor([[1.0, 0.0]]))
        tensor([2.], dtype=torch.float64)
    """
    outputs, _, plain, largest = _row_sums(model, x, batch_size)
    norm = plain.amax(1)
    if not relative:
        return norm
    size = outputs.abs().amax(1)
    if bool((size == 0).any()):
        raise NumericalError(
            "f(x) = 0: a relative output change does not exist there.",
            where=f"sample {int((size == 0).nonzero()[0])}",
            advice="Ask for relative=False.",
        )
    return norm * largest / size


def _row_sums(model: nn.Module | Subject, x: Tensor, batch_size: int | None) -> tuple[Tensor, ...]:
    """Outputs (B, K), sum_k |J_ik| |x_k| (B, K), sum_k |J_ik| (B, K), max |x| (B,)."""
    subject, x = prepared(model, x)
    parts = []
    for piece in x.split(rows_per_pass(x, batch_size, gradients=True)):
        operator = JacobianOperator(subject.probe, piece)
        outputs = checked_outputs(operator.outputs)
        if outputs.shape[1] > _OUTPUTS:
            raise UsageError(
                f"The model has {outputs.shape[1]} outputs; rows are formed for at most {_OUTPUTS}.",
                where="componentwise condition",
                advice="Wrap the model so that it returns the outputs of interest.",
            )
        rows = operator.rows().abs().double()
        if not bool(rows.any()):
            check_connected(subject.probe, piece)
        size = piece.flatten(1).abs().double()
        parts.append((outputs.double(), (rows * size[:, None]).sum(2), rows.sum(2), size.amax(1)))
    return tuple(torch.cat(found) for found in zip(*parts, strict=True))
