"""Rules about decisions: the noise they stand, their confidence, and the Gaussian attack."""

from __future__ import annotations

import math

from assay.moments.decisions import Decisions
from assay.moments.evidence import Evidence
from assay.results import Finding, Status


def decision_findings(evidence: Evidence, decisions: Decisions) -> list[Finding]:
    """Every rule's outcome, passes too."""
    found = [_standing(evidence, decisions), _confidence(evidence, decisions)]
    return [*found, _attack(decisions)] if decisions.attack is not None else found


def _standing(evidence: Evidence, decisions: Decisions) -> Finding:
    standing = decisions.standing
    column = len(standing.flip) // 2
    shares = standing.share[:, column]
    flip, count = standing.flip[column], len(shares)
    middle = float(shares.sort().values[(count - 1) // 2])
    worst = int(shares.argmin())
    place = f"input {int(evidence.rows[worst])}"
    least = float(shares[worst])
    if not math.isfinite(least):
        sentence = f"No decision flips with probability {flip:.3g} up to noise of {standing.highest:g} of the range."
        return Finding("moments.noise_stood", Status.PASS, sentence)
    half = (
        f"Half of the decisions flip with probability {flip:.3g} or more from noise of {middle:.2g} of the range on"
        if math.isfinite(middle)
        else f"Fewer than half of the decisions flip with probability {flip:.3g} up to noise of {standing.highest:g} "
        "of the range"
    )
    sentence = f"{half}; the least stable, {place}, from {least:.2g} on ({standing.grade.label})."
    smallest = evidence.config.sigmas[0]
    weak = int((shares < smallest).sum())
    if middle >= smallest:
        return Finding("moments.noise_stood", Status.PASS, sentence, place)
    return Finding(
        "moments.noise_stood",
        Status.WARN,
        sentence + f" {weak} of {count} do not stand the smallest level, {smallest:g}.",
        place,
        "Train with noise, or look at smaller levels with --moments.sigmas.",
    )


def _confidence(evidence: Evidence, decisions: Decisions) -> Finding:
    level = evidence.levels[-1]
    clean, expected = float(decisions.clean.mean()), float(decisions.expected[-1].mean())
    stays = float(level.argmax[:, 0].mean())
    sentence = (
        f"Noise of {level.share:g} of the range lowers the softmax of the decision from {clean:.1%} to {expected:.1%} "
        f"on average, while the decision stays with probability {stays:.1%} ({level.grade.label})."
    )
    return Finding("moments.confidence", Status.PASS, sentence)


def _attack(decisions: Decisions) -> Finding:
    found = decisions.attack
    assert found is not None
    rates = {row.noise: row for row in found.rates}
    chosen, equal = rates["attack"], rates["isotropic, equal energy"]
    sentence = (
        f"Noise whose mean and deviation are chosen within {decisions.attack_bound:g} of the range fools "
        f"{chosen.rate:.0%} of the time ({chosen.low:.0%} to {chosen.high:.0%}, {len(decisions.attacked)} inputs); "
        f"isotropic noise of equal energy {equal.rate:.1%}, the chosen mean alone {rates['mean alone'].rate:.0%}, the "
        f"chosen deviations alone {rates['spread alone'].rate:.1%}."
    )
    return Finding("moments.gaussian_attack", Status.PASS, sentence)
