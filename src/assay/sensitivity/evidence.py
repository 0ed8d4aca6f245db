"""What the sensitivity analysis gathers before putting it into words: predictions and measurements side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from assay.errors import NumericalError, SubjectError
from assay.inputs import checked_outputs, norms, rows_per_pass
from assay.progress import Progress
from assay.sensitivity.condition import ConditionNumbers, condition_numbers
from assay.sensitivity.config import SensitivityConfig
from assay.sensitivity.measured import AdversarialResponse, RandomResponse, adversarial_response, random_response
from assay.subject import Subject


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything computed about B inputs; arrays are float64 numpy with one row per input, one column per size.

    Attributes:
        subject: the model and data.
        config: the settings.
        positions: (B,) where each input stands in the data.
        inputs: (B, ...) the inputs.
        labels: target class of each input (else the predicted one), or None for regression.
        labels_are_targets: whether `labels` came with the data.
        predicted: predicted class of each input, or None for regression.
        numbers: the linear prediction.
        noise: random directions.
        attack: the worst found.
        warnings: what was left out, and why.
    """

    subject: Subject
    config: SensitivityConfig
    positions: list[int]
    inputs: Tensor
    labels: list[int] | None
    labels_are_targets: bool
    predicted: list[int] | None
    numbers: ConditionNumbers
    noise: RandomResponse
    attack: AdversarialResponse
    warnings: tuple[str, ...]

    @cached_property
    def kappa(self) -> np.ndarray:
        """(B,) worst-case condition numbers."""
        return self.numbers.worst.numpy()

    @cached_property
    def kappa_rms(self) -> np.ndarray:
        """(B,) mean-square condition numbers."""
        return self.numbers.rms.numpy()

    @cached_property
    def bits_lost(self) -> np.ndarray:
        """log2 kappa of the inputs with kappa > 0: bits of relative input precision lost on the way, at worst."""
        return np.log2(self.kappa[self.kappa > 0])

    @cached_property
    def over_attack(self) -> np.ndarray:
        """(B, S) kappa / attack."""
        return ratio(self.kappa[:, None], self.attack.amplification.numpy())

    @cached_property
    def over_noise(self) -> np.ndarray:
        """(B, S) kappa_rms / RMS response to random directions."""
        return ratio(self.kappa_rms[:, None], self.noise.rms.numpy())

    @cached_property
    def understatement(self) -> np.ndarray:
        """(B, S) attack / largest response among the random directions."""
        return ratio(self.attack.amplification.numpy(), self.noise.maximum.numpy())

    @cached_property
    def agreeing(self) -> np.ndarray:
        """(B, S) whether kappa / attack is within the configured distance of 1."""
        return np.abs(self.over_attack - 1) <= self.config.agreement

    @property
    def most_fragile(self) -> int:
        """Row with the largest kappa."""
        return int(np.argmax(self.kappa))

    def name(self, row: int) -> str:
        """An input for people: its place in the data and its class."""
        place = f"input {self.positions[row]}"
        return place if self.labels is None else f"{place} ({self.subject.output_name(self.labels[row])})"


def collect(subject: Subject, config: SensitivityConfig, progress: Progress | None = None) -> Evidence:
    """Choose inputs, compute the predictions, measure beside them.

    Returns:
        The evidence, without inputs that have no relative change.

    Raises:
        SubjectError: when there are no data, or inputs or model cannot be used.
        NumericalError: when no input has a relative condition number, or a derivative is not finite.
    """
    if subject.data is None:
        raise SubjectError(
            "The sensitivity analysis needs inputs, and this subject has none.",
            where=subject.name,
            advice="Load data with the model: --data, or Subject.from_model(model, data).",
        )
    count = min(config.inputs, len(subject.data))
    chosen = torch.linspace(0, len(subject.data) - 1, count, dtype=torch.float64).round().long()
    x = subject.data.inputs[chosen]
    step = rows_per_pass(x, config.batch_size, gradients=False)
    outputs = checked_outputs(torch.cat([subject.probe(x[first : first + step]) for first in range(0, count, step)]))
    usable = (norms(x) > 0) & (norms(outputs) > 0)
    notes = []
    if not bool(usable.any()):
        raise NumericalError(
            "Every input or output is exactly zero: no relative change exists.",
            where=subject.data.name,
            advice="Use condition_number(..., relative=False), which gives absolute norms.",
        )
    if not bool(usable.all()):
        left = chosen[~usable].tolist()
        notes.append(
            f"{len(left)} of {count} inputs were left out, because x or f(x) is exactly zero and has no relative "
            f"change: {', '.join(map(str, left[:10]))}{', ...' if len(left) > 10 else ''}."
        )
        chosen, x, outputs = chosen[usable], x[usable], outputs[usable]
    total = 3 * len(x)

    def stage(offset: int) -> Progress:
        report = progress or (lambda done, total, text: None)
        return lambda done, _, text: report(offset + done, total, text)

    numbers = condition_numbers(
        subject,
        x,
        method=config.method,
        tolerance=config.tolerance,
        max_steps=config.max_steps,
        samples=config.frobenius_samples,
        seed=config.seed,
        batch_size=config.batch_size,
        progress=stage(0),
    )
    noise = random_response(
        subject,
        x,
        config.relative_sizes,
        directions=config.random_directions,
        seed=config.seed,
        batch_size=config.batch_size,
        progress=stage(len(x)),
    )
    attack = adversarial_response(
        subject,
        x,
        config.relative_sizes,
        right=numbers.right,
        steps=config.attack_steps,
        random_starts=config.attack_random_starts,
        clamp=subject.preprocessing.bounds if config.respect_bounds else None,
        seed=config.seed,
        batch_size=config.batch_size,
        progress=stage(2 * len(x)),
    )
    # No direction found at random can beat the attack: the attack is the best of everything that was tried.
    attack = (
        attack if config.respect_bounds else replace(attack, amplification=attack.amplification.maximum(noise.maximum))
    )
    predicted = outputs.argmax(1).tolist() if subject.task == "classification" else None
    targets = subject.data.targets if subject.task == "classification" else None
    return Evidence(
        subject=subject,
        config=config,
        positions=chosen.tolist(),
        inputs=x,
        labels=predicted if targets is None else targets[chosen].tolist(),
        labels_are_targets=targets is not None,
        predicted=predicted,
        numbers=numbers,
        noise=noise,
        attack=attack,
        warnings=(*notes, *_cautions(numbers, x.dtype, config)),
    )


def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Quotient; 1 where both are zero (they agree), infinity where only the divisor is."""
    top, bottom = np.broadcast_arrays(top, bottom)
    safe = np.where(bottom == 0, 1.0, bottom)
    return np.where(bottom == 0, np.where(top == 0, 1.0, np.inf), top / safe)


def finite(value: float) -> float | None:
    """A number fit for a table cell or JSON: None for infinity."""
    return float(value) if np.isfinite(value) else None


def percentiles(values: np.ndarray) -> tuple[float, float, float]:
    """5th percentile, median and 95th percentile of the finite values; zeros when there are none."""
    kept = values[np.isfinite(values)]
    low, middle, high = np.percentile(kept, (5, 50, 95)) if kept.size else (0.0, 0.0, 0.0)
    return float(low), float(middle), float(high)


def _cautions(numbers: ConditionNumbers, dtype: torch.dtype, config: SensitivityConfig) -> list[str]:
    notes = []
    noise = torch.finfo(dtype).eps / config.relative_sizes[0]
    if noise > 1e-3:
        notes.append(
            f"Changes of relative size {config.relative_sizes[0]:g} are close to the rounding of {dtype} ({noise:.0%} "
            "of the change): responses measured at that size are unreliable; use a larger size or double precision."
        )
    if numbers.method == "lanczos":
        raised = float((numbers.upper_norm / numbers.jacobian_norm.clamp(min=1e-300)).max())
        limit = (
            f"at most {raised - 1:.1%} too low" if np.isfinite(raised) else "without a useful limit on how much too low"
        )
        notes.append(
            f"Jacobian norms are Lanczos estimates from below, up to {int(numbers.iterations.max())} steps: {limit}, "
            "except with probability 1e-6 over the choice of seed."
        )
        late = int((numbers.residual > max(config.tolerance, 1e-4)).sum())
        if late:
            notes.append(
                f"{late} inputs did not reach the tolerance in {config.max_steps} Lanczos steps; raise max_steps."
            )
    return notes
