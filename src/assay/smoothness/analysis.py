"""The smoothness analysis: kinks that activations and pools put into the outputs along paths, in one Result."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from assay.errors import CaptureError, NumericalError, SubjectError, UnsupportedOperator, UsageError
from assay.progress import Progress
from assay.results import Result, Section
from assay.results.section import joined
from assay.smoothness.config import SmoothnessConfig
from assay.smoothness.effort import fitted, movements
from assay.smoothness.measure import smp
from assay.smoothness.network import Network
from assay.smoothness.paths import Line, Path, Transform
from assay.smoothness.paths.transform import Kind
from assay.smoothness.sections import PARTS
from assay.smoothness.sections.kinks import kinks
from assay.smoothness.sections.section import Context, Journey
from assay.subject import Subject


def analyse(subject: Subject, config: SmoothnessConfig | None = None, *, progress: Progress | None = None) -> Result:
    """Kinks of the outputs along paths through the data, by layer; predicted, and with remedies; data indices.

    Args:
        subject: a captured network with data, a regression or a classification network.
        config: settings; defaults when None.
        progress: called as progress(done, total, text) while working.

    Returns:
        Result ``smoothness`` with tables ``paths``, ``layers`` and those of the parts in `config.parts`.

    Raises:
        SubjectError: without data, with fewer than two inputs, or when no path can be made.
        NumericalError: where outputs are not finite.
    """
    if subject.data is None or len(subject.data) < 2:
        raise SubjectError(
            "The smoothness analysis needs at least two inputs.", where=subject.name, advice="Give them with --data."
        )
    config, notes = fitted(config or SmoothnessConfig(), subject)
    kinds = movements(config, subject)
    if not kinds:
        raise SubjectError(
            "These inputs are no pictures, and only pictures can be moved.",
            where="movements",
            advice="Use straight lines between inputs: movements = line.",
        )
    left_out = [kind for kind in config.movements if kind not in kinds]
    if left_out and "movements" in config.model_fields_set:
        notes = (*notes, f"Left out, because the inputs are no pictures: {', '.join(left_out)}.")
    parts = [(name, PARTS[name]) for name in PARTS if name in config.parts]
    total = len(kinds) + len(parts)

    def told(done: int, text: str) -> None:
        if progress is not None:
            progress(done, total, text)

    network, unseen = _captured(subject)
    if network is None:
        parts, notes = [], (*notes, unseen)
    context = _context(subject, config, kinds, network, told)
    sections = [kinks(context)]
    for done, (name, part) in enumerate(parts):
        told(len(kinds) + done, name)
        try:
            sections.append(part(context))
        except (CaptureError, NumericalError, SubjectError, UnsupportedOperator, UsageError) as error:
            sections.append(Section(warnings=(f"The part on {name} was left out: {error.what}",)))
    told(total, "done")
    return joined(
        "smoothness",
        "Kinks of the outputs",
        "How far from smooth are the outputs when an input moves, which layers put the kinks there, and what would "
        "help?",
        sections,
        notes,
    )


def _captured(subject: Subject) -> tuple[Network | None, str]:
    """The network, or None and what is less known without it."""
    try:
        return Network.of(subject), ""
    except (CaptureError, UnsupportedOperator) as error:
        return None, (
            f"The network was looked at from outside only ({error.what}), so kinks are estimated from samples, and not "
            "told apart by layer."
        )


def _context(
    subject: Subject,
    config: SmoothnessConfig,
    kinds: tuple[str, ...],
    network: Network | None,
    told: Callable[[int, str], None],
) -> Context:
    data = subject.data
    assert data is not None
    count = min(config.paths, len(data) - 1)
    rows = torch.linspace(0, len(data) - 1, count + 1, dtype=torch.float64).round().long()
    inputs = data.inputs[rows]
    outputs = _followed(subject, inputs, config.outputs)
    if network is not None:
        network = network.following(outputs)
    journeys: list[Journey] = []
    for done, kind in enumerate(kinds):
        told(done, kind)
        for place in range(count):
            name, path = _path(kind, config, inputs, rows, place)
            found = (
                smp(network, path, estimator="event", samples=config.samples, batch_size=config.batch_size)
                if network is not None
                else smp(subject, path, estimator="sampled", outputs=outputs, batch_size=config.batch_size)
            )
            journeys.append(Journey(name, kind, path, found))
    return Context(subject, config, network, outputs, tuple(journeys))


def _path(kind: str, config: SmoothnessConfig, inputs: Tensor, rows: Tensor, place: int) -> tuple[str, Path]:
    first, second = inputs[place].double(), inputs[place + 1].double()
    if kind == "line":
        return f"input {int(rows[place])} to input {int(rows[place + 1])}", Line(first, second)
    amount = {"translate": config.shift, "rotate": config.angle, "scale": config.zoom, "brightness": config.gain}[kind]
    return f"input {int(rows[place])}, {kind}", Transform(first, cast("Kind", kind), amount)


def _followed(subject: Subject, inputs: Tensor, most: int) -> tuple[int, ...]:
    """The outputs to follow: all, or those that move most between these inputs."""
    if subject.output_count <= most:
        return tuple(range(subject.output_count))
    values = subject.probe(inputs).double()
    moved = (values[1:] - values[:-1]).abs().sum(0)
    return tuple(sorted(moved.argsort(descending=True, stable=True)[:most].tolist()))
