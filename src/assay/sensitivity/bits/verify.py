"""What a choice of formats really does: the quantised network is run, and compared with the exact one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from assay.grade import Grade
from assay.results import Displayed
from assay.sensitivity.bits.problem import Problem


@dataclass(frozen=True)
class Verified(Displayed):
    """Measured on real runs of the quantised network.

    Attributes:
        agreement: share of samples whose largest output is the exact network's; None with a single output.
        relative_error: root of sum ||f_q - f||^2 over sum ||f||^2.
        error: root mean square of ||f_q - f|| per sample.
        accuracy: share of right labels of the quantised network; None without labels.
        exact_accuracy: the same of the exact network.
        samples: how many inputs.
    """

    agreement: float | None
    relative_error: float
    error: float
    accuracy: float | None
    exact_accuracy: float | None
    samples: int

    @property
    def grade(self) -> Grade:
        """Measured on samples."""
        return Grade.SAMPLED

    def to_dict(self) -> dict[str, float | int | None]:
        """JSON-serialisable."""
        return asdict(self)


def compare(quantised: Tensor, exact: Tensor, targets: Tensor | None = None) -> Verified:
    """Compare outputs of the quantised and the exact network.

    Args:
        quantised: (B, K).
        exact: (B, K).
        targets: (B,) labels, or None.

    Returns:
        The comparison.

    Example:
        >>> import torch
        >>> compare(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]])).relative_error
        0.5
    """
    difference = (quantised.double() - exact.double()).square().sum()
    size = exact.double().square().sum()
    decided = exact.shape[1] > 1
    labelled = decided and targets is not None and not targets.dtype.is_floating_point and targets.dim() == 1
    return Verified(
        agreement=_share(quantised, exact.argmax(1)) if decided else None,
        relative_error=float((difference / size).sqrt()) if float(size) > 0 else float("nan"),
        error=float((difference / len(exact)).sqrt()),
        accuracy=_share(quantised, targets) if labelled and targets is not None else None,
        exact_accuracy=_share(exact, targets) if labelled and targets is not None else None,
        samples=len(exact),
    )


def verify(problem: Problem, options: Sequence[int], x: Tensor, exact: Tensor, targets: Tensor | None) -> Verified:
    """Run a choice for real on inputs x and compare with the exact outputs."""
    return compare(problem.outputs(options, x), exact, targets)


def _share(outputs: Tensor, labels: Tensor) -> float:
    return float((outputs.argmax(1) == labels).double().mean())
