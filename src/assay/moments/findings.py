"""Rules of the moments analysis: what the numbers mean, in plain words."""

from __future__ import annotations

from itertools import pairwise

from assay.grade import Grade
from assay.moments.decision_findings import decision_findings
from assay.moments.evidence import Evidence
from assay.moments.tables import agreement
from assay.results import Finding, Status


def findings(evidence: Evidence) -> tuple[Finding, ...]:
    """Every rule's outcome, passes too."""
    found = [_flip(evidence), _fragile(evidence)] if evidence.classifier else [_output_noise(evidence)]
    if evidence.decisions is not None:
        found += decision_findings(evidence, evidence.decisions)
    found.append(_trust(evidence))
    growth = _growth(evidence)
    return (*found, *([growth] if growth is not None else []), _approximated(evidence))


def _flip(evidence: Evidence) -> Finding:
    level = evidence.levels[-1]
    mean = float(level.flip.mean())
    limit = evidence.config.flip_above
    sentence = (
        f"Gaussian noise of {level.share:g} of the value range flips {mean:.1%} of decisions on average over "
        f"{len(evidence.rows)} "
        f"inputs ({level.grade.label}"
        + (f"; sampling says {float(level.sampled_flip.mean()):.1%}" if level.sampled_flip is not None else "")
        + ")."
    )
    if mean <= limit:
        return Finding("moments.flip_probability", Status.PASS, sentence)
    return Finding(
        "moments.flip_probability",
        Status.WARN,
        sentence + f" The limit is {limit:.0%}.",
        next_step="Train with noise of this size, or keep the noise below the level where the curve crosses the limit.",
    )


def _fragile(evidence: Evidence) -> Finding:
    level = evidence.levels[-1]
    worst = int(level.flip.argmax())
    decision = evidence.subject.output_name(int(evidence.outputs[worst, 0]))
    place = f"input {int(evidence.rows[worst])}"
    value = float(level.flip[worst])
    rival = ""
    if level.argmax.shape[1] > 1:
        index = int(evidence.outputs[worst, 1 + int(level.argmax[worst, 1:].argmax())])
        rival = f", most often to {evidence.subject.output_name(index)}"
    sentence = f"The least stable decision is {decision} on {place}: it flips with probability {value:.1%}{rival}."
    if value < 0.5:
        return Finding("moments.least_stable", Status.PASS, sentence, place)
    count = int((level.flip >= 0.5).sum())
    return Finding(
        "moments.least_stable",
        Status.WARN,
        sentence + f" {count} of {len(evidence.rows)} inputs flip more often than not.",
        place,
        "Look at these inputs first: they are ambiguous, mislabelled, or outside what the network was trained on.",
    )


def _output_noise(evidence: Evidence) -> Finding:
    level = evidence.levels[-1]
    noise = float(level.variance.clamp(min=0).sqrt().mean())
    spread = float(evidence.clean.std()) if evidence.clean.numel() > 1 else 0.0
    sentence = f"Noise of {level.share:g} of the range gives outputs a deviation of {noise:.3g} ({level.grade.label})"
    if spread > 0:
        sentence += f", {noise / spread:.1%} of the spread of the outputs over the data"
    if spread == 0 or noise <= 0.25 * spread:
        return Finding("moments.output_noise", Status.PASS, sentence + ".")
    return Finding(
        "moments.output_noise",
        Status.WARN,
        sentence + ".",
        next_step="Smooth the input, or train with noise of this size.",
    )


def _trust(evidence: Evidence) -> Finding:
    level = evidence.levels[-1]
    found = agreement(level, evidence.draws)
    if found is None:
        return Finding(
            "moments.agreement",
            Status.WARN,
            "The analytic numbers were not checked against sampling.",
            next_step="Give --moments.check a number of draws.",
        )
    low, high = evidence.config.variance_ratio_within
    sentence = (
        f"Against {evidence.draws} draws per input, the analytic mean is off by {found.error:.2g} output "
        f"deviations, of which sampling "
        f"noise alone makes {found.floor:.2g}; the analytic variance is {found.ratio:.2f} of the sampled one."
    )
    if found.net <= evidence.config.mean_error_above and low <= found.ratio <= high:
        return Finding("moments.agreement", Status.PASS, sentence)
    return Finding(
        "moments.agreement",
        Status.WARN,
        sentence,
        next_step="Trust the sampled numbers; a higher rank, method=exact or less noise brings both closer.",
    )


def _growth(evidence: Evidence) -> Finding | None:
    rows = [row for row in evidence.levels[-1].layers if row.relative == row.relative and row.relative > 0]
    if len(rows) < 2:
        return None
    steps = [(after.relative / before.relative, after) for before, after in pairwise(rows)]
    factor, place = max(steps, key=lambda step: step[0])
    sentence = (
        f"Noise per signal goes from {rows[0].relative:.2g} at the first layer to {rows[-1].relative:.2g} at the "
        f"output; it grows most, "
        f"{factor:.2g}-fold, at {place.place} ({place.grade.label})."
    )
    return Finding("moments.noise_growth", Status.PASS, sentence, place.place)


def _approximated(evidence: Evidence) -> Finding:
    level = evidence.levels[-1]
    if not level.layers:
        return Finding(
            "moments.coverage",
            Status.WARN,
            f"The model was not captured as a graph; moments are {level.grade.label}: {level.reason}.",
            next_step="Run `assay doctor` on the model for the reason and the source line.",
        )
    doubtful = [row for row in level.layers if row.grade in (Grade.LINEARISED, Grade.SAMPLED)]
    if not doubtful:
        return Finding(
            "moments.coverage", Status.PASS, f"All {len(level.layers)} layers have a rule; none was approximated."
        )
    return Finding(
        "moments.coverage",
        Status.WARN,
        f"{len(doubtful)} of {len(level.layers)} layers rest on an operator without a rule, first "
        f"{doubtful[0].place}; their numbers are "
        f"{doubtful[0].grade.label}.",
        doubtful[0].place,
        "Check the agreement with sampling above; --strict refuses such models.",
    )
