"""Classes of units, as a choice of what to retrain needs them: one per unit, also where an interval leaves it open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from assay.attacks import Attack, attack_of
from assay.errors import UsageError
from assay.filtering.retraining.arms import LABELS
from assay.filtering.retraining.splits import Splits
from assay.filtering.scores import label_of
from assay.filtering.units import Choice, Granularity

SCORE = {"filter": "mean", "split": "adversarial", "reference": "compressed"}


def filtered(
    splits: Splits,
    attack: str | Attack,
    epsilon: float | None,
    include: Choice | Sequence[Choice],
    granularity: Granularity,
) -> Any:
    """A filtering analysis of the validation samples, attacked once (static).

    Args:
        splits: model and samples.
        attack: as `retrain` takes it.
        epsilon: its size.
        include: units.
        granularity: of the units.

    Returns:
        A filtering result.
    """
    from assay.filtering.analysis import analyse

    own = attack_of(attack, epsilon=epsilon)

    def fixed(model: Any, x: Tensor, y: Tensor) -> Tensor:
        """The user's attack with its size filled in, and no keyword by which another could be searched."""
        return own(model, x, y)

    named = isinstance(attack, str)
    return analyse(
        splits.subject,
        (splits.validation.x, splits.validation.y),
        include=include,
        attack=attack if named else fixed,
        bounds=splits.bounds,
        epsilon=epsilon if named else "auto",
        mode="static",
        granularity=granularity,
        inputs=len(splits.validation.y),
    )


def classes_of(labels: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Classes by unit, and what those that are undecided count as.

    Args:
        labels: a filtering result, whose score (adversarial, compressed reference, mean over filters) says on which
            side of the limits an undecided unit lies; or a mapping from unit names to classes, which says nothing.

    Returns:
        The classes; and for undecided units with a score, the class of the score itself, whatever its interval.

    Raises:
        UsageError: for anything else.
    """
    if isinstance(labels, Mapping):
        return dict(labels), {}
    if not callable(getattr(labels, "labels", None)):
        raise UsageError(
            f"Labels must be a mapping from unit names to classes, got {type(labels).__name__}.",
            where="labels",
            advice=f"Give one of {', '.join(LABELS)} per unit, or a filtering result.",
        )
    classes = dict(labels.labels(**SCORE))
    scores = {unit: labels.score(unit, **SCORE).score for unit, word in classes.items() if word == "undecided"}
    return classes, {unit: label_of(score, score, labels.config.tau) for unit, score in scores.items()}
