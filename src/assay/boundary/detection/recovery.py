"""What a tampered sample was before: rules that name the original class, one entry each in `RULES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from assay.boundary.detection.view import View
from assay.errors import UsageError


def nearest_class(view: View) -> Tensor:
    """The class on the other side of the boundary next to the sample; the runner-up where none was found."""
    return view.boundary.rival.where(view.boundary.found, view.rival)


def runner_up_logit(view: View) -> Tensor:
    """The class with the second largest logit."""
    return view.rival


def smoothed_runner_up(view: View) -> Tensor:
    """The rival that leads after averaging logits over the sphere about the sample."""
    return view.around(view.look.smoothing).mean.scatter(1, view.own[:, None], -float("inf")).argmax(1)


def class_curvature(view: View) -> Tensor:
    """The rival whose level set at the sample bends most (Fawzi et al. 2018, algorithm 2). For large changes only."""
    bends = view.bends[0].nan_to_num(nan=-float("inf"))
    return view.candidates.gather(1, bends.argmax(1, keepdim=True))[:, 0]


RULES: Mapping[str, Callable[[View], Tensor]] = {
    "smoothed_runner_up": smoothed_runner_up,
    "nearest_class": nearest_class,
    "runner_up_logit": runner_up_logit,
    "class_curvature": class_curvature,
}
"""Rules by name. The first is the default."""


def recovered(view: View, rule: str) -> Tensor:
    """(B,) original classes by a rule, as if every sample were tampered with.

    Args:
        view: the samples.
        rule: a name in `RULES`.

    Returns:
        Classes, never the predicted one.

    Raises:
        UsageError: for a name that is none.
    """
    if rule not in RULES:
        raise UsageError(f"There is no rule {rule!r}.", where="rule", advice=f"Use one of {', '.join(RULES)}.")
    return RULES[rule](view)
