"""The boundary analysis: where decisions flip, how the boundary bends, and what that gives away, in one Result."""

from __future__ import annotations

import torch

from assay.boundary.config import BoundaryConfig
from assay.boundary.effort import fitted
from assay.boundary.field import Field
from assay.boundary.points import boundary_point
from assay.boundary.sections import PARTS
from assay.boundary.sections.distances import distances
from assay.boundary.sections.section import Context
from assay.errors import CaptureError, NumericalError, SubjectError, UnsupportedOperator, UsageError
from assay.progress import Progress
from assay.results import Result, Section
from assay.results.section import joined
from assay.subject import Subject


def analyse(subject: Subject, config: BoundaryConfig | None = None, *, progress: Progress | None = None) -> Result:
    """Distances to the decision boundary, its curvature, flips by noise, paths inside regions, and a detector.

    Needs `Subject.probe` only; guaranteed distances and certified paths also need a captured model.

    Args:
        subject: a classifier with data.
        config: settings; defaults when None.
        progress: called as progress(done, total, text) while working.

    Returns:
        Result ``boundary`` with table ``inputs`` and those of the parts in `config.parts`.

    Raises:
        SubjectError: without data, for a regression network, or for a model or data that cannot be used.
        NumericalError: where logits or gradients are not finite.
    """
    if subject.data is None:
        raise SubjectError("The boundary analysis needs data.", where=subject.name, advice="Give inputs with --data.")
    if subject.task != "classification" or subject.output_count < 2:
        raise SubjectError(
            "A regression network has no decision boundary.", where=subject.name, advice="Leave the analysis out."
        )
    config, notes = fitted(config or BoundaryConfig(), subject)
    parts = [(name, PARTS[name]) for name in PARTS if name in config.parts]
    total = len(parts) + 2

    def told(done: int, text: str) -> None:
        if progress is not None:
            progress(done, total, text)

    notes = (*notes, *_uncaptured(subject))
    told(0, "boundary points")
    context = _context(subject, config)
    told(1, "distances")
    sections = [distances(context)]
    if not bool(context.points.found.any()):
        parts, notes = [], (*notes, "No boundary point was found, so nothing else could be looked at.")
    for done, (name, part) in enumerate(parts):
        told(2 + done, name)
        try:
            sections.append(part(context))
        except (NumericalError, SubjectError, UnsupportedOperator, UsageError) as error:
            sections.append(Section(warnings=(f"The part on {name} was left out: {error.what}",)))
    told(total, "done")
    return joined(
        "boundary",
        "The decision boundary",
        "How far is each decision from flipping, how does the boundary bend there, and does an input look tampered "
        "with?",
        sections,
        notes,
    )


def _uncaptured(subject: Subject) -> tuple[str, ...]:
    """What is less sure without a graph."""
    try:
        subject.graph  # noqa: B018  (captured or not is the question)
    except CaptureError as error:
        return (
            f"The model was not captured ({error.what}), so nothing is certified, and whether it is smooth was tried "
            "at a few points only.",
        )
    return ()


def _context(subject: Subject, config: BoundaryConfig) -> Context:
    data = subject.data
    assert data is not None
    field = Field(subject, batch_size=config.batch_size)
    count = min(config.inputs, len(data))
    rows = torch.linspace(0, len(data) - 1, count, dtype=torch.float64).round().long()
    x = field.prepared(data.inputs[rows])
    targets = data.targets
    labels = targets[rows].long() if targets is not None and not targets.dtype.is_floating_point else None
    bounds = field.bounds if config.respect_bounds else None
    return Context(subject, config, field, x, rows, labels, boundary_point(field, x, bounds=bounds))
