"""What measurements at inputs share: checked inputs and outputs, chunks of bounded size, norms in safe arithmetic."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from assay.errors import SubjectError
from assay.subject import Subject, as_subject


def prepared(model: nn.Module | Subject, x: Tensor) -> tuple[Subject, Tensor]:
    """A Subject and the inputs in its dtype, after checking that the inputs can be differentiated at.

    Returns:
        The subject and x in the model's dtype.

    Raises:
        SubjectError: for inputs that are not a floating-point batch, hold NaN or infinity, or do not fit the model.
    """
    checked_inputs(x)
    tensors = model.model.parameters() if isinstance(model, Subject) else getattr(model, "parameters", tuple)()
    dtype = next((p.dtype for p in tensors if p.dtype.is_floating_point), x.dtype)
    x = x.detach().to(dtype)
    subject = as_subject(model, x[:2])
    expected = tuple(subject.example.shape[1:])
    if subject.example.numel() and tuple(x.shape[1:]) != expected:
        raise SubjectError(
            f"The inputs have shape {tuple(x.shape[1:])} per sample, the model's data have {expected}.",
            where="x",
            advice="Reshape them to the model's input shape.",
        )
    return subject, x


def checked_inputs(x: Tensor) -> None:
    """Refuse what cannot be differentiated at.

    Args:
        x: what should be a finite floating-point batch (B, ...).

    Raises:
        SubjectError: for anything else.
    """
    if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise SubjectError(
            f"Inputs must be a floating-point tensor (B, ...), got {kind}.",
            where="x",
            advice="Convert them, for example x.float(); a derivative with respect to integers does not exist.",
        )
    if x.dim() < 2 or x.numel() == 0:
        raise SubjectError(
            f"Inputs must be a non-empty batch (B, ...), got shape {tuple(x.shape)}.",
            where="x",
            advice="Add the batch axis: x[None] for one sample.",
        )
    finite = torch.isfinite(x.flatten(1)).all(1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise SubjectError("The inputs hold NaN or infinity.", where=f"x, sample {row}", advice="Clean or drop it.")


def checked_outputs(outputs: Tensor) -> Tensor:
    """Outputs (B, K) as they are, or an error for NaN and infinity.

    Returns:
        The outputs.

    Raises:
        SubjectError: with the first offending sample.
    """
    finite = torch.isfinite(outputs).all(1)
    if not bool(finite.all()):
        raise SubjectError(
            "The model returns NaN or infinity.",
            where=f"sample {int((~finite).nonzero()[0])}",
            advice="Check the weights and the scale of this input.",
        )
    return outputs


def rows_per_pass(x: Tensor, batch_size: int | None, *, gradients: bool) -> int:
    """Samples per pass: as asked, else as many as keep 4 MiB (16 MiB without gradients) of inputs, at most 512."""
    if batch_size is not None:
        return max(1, batch_size)
    budget = (4 if gradients else 16) * 2**20
    return max(1, min(512, budget // (x[0].numel() * x.element_size())))


def norms(batch: Tensor) -> Tensor:
    """Euclidean norm of every sample, (B,), in double precision."""
    flat = batch.flatten(1).double()
    peak = flat.abs().amax(1)
    peak = torch.where(peak == 0, 1.0, peak)  # squares of very small or large elements neither vanish nor overflow
    return (flat / peak[:, None]).norm(dim=1) * peak


def power_of_two_near(size: Tensor) -> Tensor:
    """A power of two within a factor 2 of every size, 1 for 0: dividing by it is exact and keeps squares in range."""
    limit = int(math.log2(torch.finfo(size.dtype).max)) - 3  # its reciprocal is a number too
    power = torch.ldexp(torch.ones_like(size), torch.frexp(size)[1].clamp(-limit, limit))
    return torch.where(size > 0, power, 1.0)
