"""Is an operator what its row says: its value, the calls it stands for, what is affine, elementwise, smooth in it."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from assay.conformance import traits
from assay.errors import AssayError, CaptureError
from assay.graph import OPERATORS, Aten, Operator, Sample, capture
from assay.graph.from_export import bound_arguments
from assay.graph.operators.opaque import overload

Call = tuple[tuple[Any, ...], Mapping[str, Any]]


def check_operator(
    operator: Operator | str, *, calls: Mapping[str, Call] | None = None, captured: bool | None = None, seed: int = 0
) -> None:
    """Conformance test of one operator.

    On every sample: the value is finite, repeatable and leaves its inputs alone; it is affine, elementwise, smooth and
    piecewise linear exactly as the row says, proven numerically in float64; squares and transposes of its linear part
    are right. For every call that it stands for, it gives what torch gives; and a network with that call is captured,
    on two samples and on three, with the operator in its graph.

    Args:
        operator: a row, or the name of an installed one.
        calls: arguments (positional, by name) to try a call on, by its full name such as ``aten.conv2d.default``: for
            calls whose arguments do not follow from the samples.
        captured: whether to try capture; by default for elementwise operators, which keep the batch where it is.
        seed: seed of the samples.

    Raises:
        AssertionError: listing everything that is wrong.
        AssayError: when there is no such operator.

    Example:
        >>> check_operator("relu")
    """
    row = operator if isinstance(operator, Operator) else OPERATORS.get(operator)
    if row is None:
        raise AssayError(f"There is no operator {operator!r}.", where=str(operator), advice="Install its package.")
    samples = list(row.samples(torch.Generator().manual_seed(seed)))
    again = list(row.samples(torch.Generator().manual_seed(seed)))
    wrong = [] if samples else ["there is no sample to try it on"]
    for index, (sample, other) in enumerate(zip(samples, again, strict=True)):
        found = _value_faults(row, sample, other) or traits.faults(row, sample)
        wrong += [f"sample {index}: {sentence}" for sentence in found]
    for form in row.aten:
        wrong += [f"call {form.name}: {sentence}" for sentence in _call_faults(row, form, samples, calls or {})]
    if (row.elementwise if captured is None else captured) and OPERATORS.get(row.name) is row and not wrong:
        for form in row.aten:
            wrong += [f"call {form.name}: {sentence}" for sentence in _capture_faults(row, form, samples, calls or {})]
    assert not wrong, f"operator {row.name}:\n" + "\n".join(wrong)


def _value_faults(row: Operator, sample: Sample, again: Sample) -> list[str]:
    before = [None if one is None else one.clone() for one in sample.inputs]
    value = row.evaluate(*sample.inputs, **sample.attributes)
    if not isinstance(value, Tensor) or not value.numel():
        return ["its value is no tensor, or an empty one"]
    faults = []
    if value.dtype.is_floating_point and not bool(torch.isfinite(value).all()):
        faults.append("its value is not finite")
    if not torch.equal(value, row.evaluate(*again.inputs, **again.attributes)):
        faults.append("the same seed gives another value")
    if any(a is not None and not torch.equal(a, b) for a, b in zip(before, sample.inputs, strict=True)):  # type: ignore[arg-type]
        faults.append("it changes its inputs")
    if any(one is not None and one.dtype == torch.float32 for one in sample.inputs):
        faults.append("samples must be float64, or rounding hides what is wrong")
    return faults


def _calls_of(row: Operator, form: Aten, samples: list[Sample], given: Mapping[str, Call]) -> list[Call]:
    """Arguments to try a form on: those given, else those that follow from the samples."""
    if form.name in given:
        return [given[form.name]]
    found: list[Call] = []
    for sample in samples if form.convert is None else ():
        if all(sample.attributes.get(name, value) == value for name, value in form.fixed.items()):
            named = dict(zip(form.inputs, sample.inputs, strict=False))
            named |= {name: sample.attributes[name] for name in form.attributes if name in sample.attributes}
            found.append(((), {name: value for name, value in named.items() if value is not None}))
    return found


def _call_faults(row: Operator, form: Aten, samples: list[Sample], given: Mapping[str, Call]) -> list[str]:
    try:
        target = overload(form.name)
    except AttributeError:
        return ["torch has no such call; import the module that registers it"]
    calls = _calls_of(row, form, samples, given)
    if not calls:
        return ["its arguments do not follow from the samples: give `calls`"]
    faults = []
    for arguments, named in calls:
        try:
            truth = target(*arguments, **named)
        except (RuntimeError, TypeError) as error:
            faults.append(f"it cannot be called as the samples say ({str(error).splitlines()[0]}): give `calls`")
            continue
        truth = truth[0] if isinstance(truth, (tuple, list)) else truth
        call = SimpleNamespace(target=target, args=arguments, kwargs=named)
        inputs, attributes = form.bind(bound_arguments(call), tuple(truth.shape))
        tensors = [torch.tensor(one) if isinstance(one, (bool, int, float)) else one for one in inputs]
        ours = row.evaluate(*tensors, **attributes)
        if ours.shape != truth.shape or not torch.allclose(ours, truth.to(ours.dtype), rtol=1e-10, atol=1e-10):
            faults.append("the operator's value is not the call's")
    return faults


class _Called(nn.Module):
    """One call, its first tensor the batch."""

    def __init__(self, target: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        super().__init__()
        self.target = target
        self.slot: int | str = 0 if arguments else next(iter(named))
        self.arguments, self.named = arguments[1:], {k: v for k, v in named.items() if k != self.slot}

    def forward(self, x: Tensor) -> Tensor:
        """The call's value, one row per sample."""
        first = (x, *self.arguments) if self.slot == 0 else ()
        named = self.named if self.slot == 0 else {self.slot: x, **self.named}
        value = self.target(*first, **named)
        return (value[0] if isinstance(value, (tuple, list)) else value).flatten(1)


def _capture_faults(row: Operator, form: Aten, samples: list[Sample], given: Mapping[str, Call]) -> list[str]:
    faults = []
    for arguments, named in _calls_of(row, form, samples, given):
        x = arguments[0] if arguments else next(iter(named.values()))
        try:
            graph = capture(_Called(overload(form.name), arguments, named), x)
        except CaptureError as error:
            faults.append(f"a network with it is not captured: {error.what}")
            continue
        if all(node.op != row.name for node in graph):
            faults.append(f"capture makes {[node.label for node in graph.layers]} of it")
    return faults
