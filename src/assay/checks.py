"""Checks that a model and its data can be used and fit each other: one clear error instead of a wrong number."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from assay.errors import SubjectError

if TYPE_CHECKING:
    from assay.preprocess import Preprocessing
    from assay.subject import Data, Subject


def check_module(model: nn.Module) -> None:
    """Refuse what is not a usable module: other types, NaN or infinite parameters, meta tensors.

    Raises:
        SubjectError: with the parameter's name.
    """
    if not isinstance(model, nn.Module):
        raise SubjectError(
            f"A model must be a torch.nn.Module, got {type(model).__name__}.",
            where="model",
            advice="Pass the module itself; wrap a plain function in a small nn.Module.",
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta or is_lazy(tensor):
            raise SubjectError("The model has parameters without data.", where=name, advice="Load its weights first.")
        if not tensor.dtype.is_floating_point:
            continue
        # Buffers may hold -inf on purpose: attention masks do.
        bad = ~torch.isfinite(tensor) if isinstance(tensor, nn.Parameter) else torch.isnan(tensor)
        if bool(bad.any()):
            raise SubjectError(
                "The model has NaN or infinite values in its parameters.", where=name, advice="Check the weights file."
            )


def checked_data(data: Data, preprocessing: Preprocessing, dtype: torch.dtype) -> Data:
    """Data in the model's dtype, after checking that they are non-empty, finite and inside the bounds.

    Returns:
        The same data, inputs detached and in `dtype`.

    Raises:
        SubjectError: with the first offending sample.
    """
    inputs = data.inputs
    if not isinstance(inputs, Tensor) or not (data.targets is None or isinstance(data.targets, Tensor)):
        raise SubjectError(
            "Inputs and targets must be torch tensors.", where=data.name, advice="Convert arrays with torch.as_tensor."
        )
    if inputs.dim() < 2:
        raise SubjectError(
            f"Inputs must be a batch (N, ...), got shape {tuple(inputs.shape)}.",
            where=data.name,
            advice="Add the batch axis: one row per sample.",
        )
    if inputs.shape[0] == 0 or inputs.numel() == 0:
        raise SubjectError("The data are empty.", where=data.name, advice="Give at least one sample.")
    if not inputs.dtype.is_floating_point:
        raise SubjectError(
            f"Inputs must be floating point, got {inputs.dtype}.",
            where=data.name,
            advice="Convert them, for example pictures to [0, 1] by dividing by 255.",
        )
    finite = torch.isfinite(inputs.reshape(len(inputs), -1)).all(1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise SubjectError(
            "The data hold NaN or infinite values.", where=f"{data.name}, sample {row}", advice="Clean or drop it."
        )
    if preprocessing.bounds is not None:
        low, high = preprocessing.bounds
        slack = 1e-4 * (high - low)
        if float(inputs.min()) < low - slack or float(inputs.max()) > high + slack:
            raise SubjectError(
                f"The data range from {float(inputs.min()):.4g} to {float(inputs.max()):.4g}, outside the bounds "
                f"[{low:.4g}, {high:.4g}].",
                where=data.name,
                advice="Give the true bounds (--bounds LOW HIGH) or rescale the data.",
            )
    if data.targets is not None and len(data.targets) != len(inputs):
        raise SubjectError(
            f"There are {len(inputs)} inputs and {len(data.targets)} targets.",
            where=data.name,
            advice="Give one target per input.",
        )
    targets = data.targets
    if targets is not None and targets.dtype.is_floating_point and not bool(torch.isfinite(targets).all()):
        raise SubjectError("The targets hold NaN or infinite values.", where=data.name, advice="Clean or drop them.")
    return replace(data, inputs=inputs.detach().to(dtype))


def check_fit(subject: Subject) -> None:
    """Run the model on two samples: shape of the output, finiteness, independence of samples, labels in range.

    Raises:
        SubjectError: saying which of these failed.
    """
    x = subject.example[:2].clone()
    if len(x) == 1:  # a second sample, different from the first, shows whether samples influence each other
        x = torch.cat([x, 0.5 * x + 0.25 * subject.preprocessing.value_range])
    before = x.clone()
    try:
        together = _run(subject.model, x)
    except SubjectError:
        raise
    except Exception as error:
        raise SubjectError(
            f"The model does not accept inputs of shape {tuple(x.shape[1:])}: {_first_line(error)}",
            where=subject.name,
            advice="Check resize/crop, the channel count and the preprocessing against what the model expects.",
        ) from error
    if not isinstance(together, Tensor) or together.dim() != 2 or together.shape[0] != len(x):
        shape = tuple(together.shape) if isinstance(together, Tensor) else type(together).__name__
        raise SubjectError(
            f"The model must return one tensor (batch, outputs), got {shape}.",
            where=subject.name,
            advice="Wrap it so that it returns the logits or regression outputs as one matrix.",
        )
    if not bool(torch.isfinite(together).all()):
        raise SubjectError(
            "The model returns NaN or infinity on the data.",
            where=subject.name,
            advice="Check weights and preprocessing.",
        )
    if not torch.equal(x, before):
        raise SubjectError(
            "The model overwrites its input.",
            where=subject.name,
            advice="Set inplace=False in the layers that see the input first.",
        )
    _check_samples_are_independent(subject, x, together)
    _check_labels(subject, together.shape[1])


def _check_samples_are_independent(subject: Subject, x: Tensor, together: Tensor) -> None:
    size = float(together.abs().max()) + 1e-12

    def agree(first: Tensor, second: Tensor) -> bool:
        return first.shape == second.shape and torch.allclose(first, second, rtol=1e-3, atol=1e-3 * size)

    try:
        alone = _run(subject.model, x[:1].clone())
        if agree(alone, together[:1]):
            return
        repeated = agree(_run(subject.model, x.clone()), together)
    except Exception:  # batch statistics of a single value are refused by torch itself
        repeated = True
    if not repeated:
        raise SubjectError(
            "The model's output is random: two runs on the same batch differ, also in evaluation mode.",
            where=subject.name,
            advice="Switch its noise or dropout off, or fix it to one draw.",
        )
    raise SubjectError(
        "The model's output for one sample changes with the other samples of the batch, or it takes no single sample.",
        where=subject.name,
        advice="Batch statistics are in use (batch norm without running statistics?); freeze them.",
    )


def _run(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def _check_labels(subject: Subject, outputs: int) -> None:
    data = subject.data
    if subject.class_names and subject.task == "classification" and len(subject.class_names) > outputs:
        raise SubjectError(
            f"There are {len(subject.class_names)} class names and {outputs} outputs.",
            where=subject.name,
            advice="Give one class name per output of the model.",
        )
    if data is None or data.targets is None:
        return
    labels = data.targets
    if subject.task == "regression":
        if labels.numel() != len(labels) * outputs:
            raise SubjectError(
                f"The targets have shape {tuple(labels.shape)}, and the model has {outputs} outputs.",
                where=data.name,
                advice="Give one target value per output of the model.",
            )
        return
    if labels.dim() != 1 or labels.dtype.is_floating_point:
        raise SubjectError(
            f"Labels must be integers of shape (N,), got {labels.dtype} of shape {tuple(labels.shape)}.",
            where=data.name,
            advice="For regression targets say --task regression.",
        )
    if int(labels.min()) < 0 or int(labels.max()) >= outputs:
        raise SubjectError(
            f"Labels run from {int(labels.min())} to {int(labels.max())}, but the model has {outputs} outputs.",
            where=data.name,
            advice="Map the labels to 0..K-1 in the order of the model's outputs.",
        )


def is_lazy(tensor: Tensor) -> bool:
    """Whether a parameter of a lazy module has no shape yet."""
    return isinstance(tensor, (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
