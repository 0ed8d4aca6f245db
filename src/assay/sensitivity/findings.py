"""Rules of the sensitivity analysis: what the numbers mean, in plain words."""

from __future__ import annotations

import numpy as np

from assay.results import Finding, Status
from assay.sensitivity.evidence import Evidence, percentiles
from assay.sensitivity.tables import exceeded_share, largest_excess


def findings(evidence: Evidence) -> tuple[Finding, ...]:
    """Every rule's outcome, passes too."""
    return (
        _ill_conditioned(evidence),
        _most_fragile(evidence),
        _flat(evidence),
        _prediction(evidence),
        _noise(evidence),
        _not_a_bound(evidence),
        _sampling_alone(evidence),
    )


def _ill_conditioned(evidence: Evidence) -> Finding:
    limit = evidence.config.ill_conditioned_above
    bad = int((evidence.kappa > limit).sum())
    low, middle, high = percentiles(evidence.kappa)
    typical = (
        f"the median condition number is {middle:.3g} (5th to 95th percentile {low:.3g} to {high:.3g}, first order)"
    )
    if not bad:
        return Finding(
            "sensitivity.ill_conditioned",
            Status.PASS,
            f"No input has a condition number above {limit:g}; {typical}.",
            next_step="",
        )
    return Finding(
        "sensitivity.ill_conditioned",
        Status.WARN,
        f"{bad} of {len(evidence.kappa)} inputs have a condition number above {limit:g}: a relative input change of "
        f"{1 / limit:.2g} could change the whole output, to first order; {typical}.",
        place=evidence.name(evidence.most_fragile),
        next_step="Look at these inputs in the table; consider training with noise or a Jacobian penalty, and keep "
        "more bits "
        "than log2 of the condition number when lowering precision.",
    )


def _most_fragile(evidence: Evidence) -> Finding:
    row = evidence.most_fragile
    kappa = float(evidence.kappa[row])
    middle = percentiles(evidence.kappa)[1]
    times = f", {kappa / middle:.2g} times the median" if middle > 0 else ""
    share = float(evidence.numbers.output_norm[row] / evidence.numbers.output_norm.median())
    cause = (
        f" Its output is small, {share:.2g} of the median norm, which by itself raises the number."
        if share < 0.5
        else ""
    )
    cost = f" It loses {np.log2(kappa):.1f} bits of relative precision at worst." if kappa > 1 else ""
    return Finding(
        "sensitivity.most_fragile_input",
        Status.PASS,
        f"The most fragile input is {evidence.name(row)}: a small relative change in the worst direction becomes "
        f"{kappa:.3g} times larger at the output (first order){times}.{cause}{cost}",
        place=evidence.name(row),
        next_step="Compare its worst direction with its neighbours of the same class: a direction that carries no "
        "meaning "
        "points to a feature the network should not use.",
    )


def _flat(evidence: Evidence) -> Finding:
    responding = evidence.attack.amplification.numpy().max(1) > 0
    flat = (evidence.kappa == 0) & responding
    if not flat.any():
        return Finding(
            "sensitivity.zero_derivative", Status.PASS, "Wherever the output responds, its derivative is not zero."
        )
    return Finding(
        "sensitivity.zero_derivative",
        Status.FAIL,
        f"The derivative is exactly zero at {int(flat.sum())} of {len(flat)} inputs where the output does respond to "
        "a change: "
        "derivatives do not describe this model there.",
        place=evidence.name(int(np.argmax(flat))),
        next_step="Look for rounding, argmax, thresholds or detached tensors between input and output.",
    )


def _prediction(evidence: Evidence) -> Finding:
    config = evidence.config
    size, share = config.relative_sizes[0], float(evidence.agreeing[:, 0].mean())
    good = share >= config.agreement_share
    return Finding(
        "sensitivity.prediction",
        Status.PASS if good else Status.WARN,
        f"At relative size {size:g} the attack met the predicted worst response within {config.agreement:.0%} for "
        f"{share:.0%} "
        f"of {len(evidence.kappa)} inputs (median predicted / measured "
        f"{percentiles(evidence.over_attack[:, 0])[1]:.3f}, "
        "measured by gradient ascent).",
        place=f"relative size {size:g}",
        next_step=""
        if good
        else "The network is not linear at this size: trust the measured columns, or analyse smaller changes.",
    )


def _noise(evidence: Evidence) -> Finding:
    config = evidence.config
    low, middle, high = percentiles(evidence.over_noise[:, 0])
    good = abs(middle - 1) <= config.noise_agreement
    return Finding(
        "sensitivity.noise_prediction",
        Status.PASS if good else Status.WARN,
        f"The mean-square condition number over the measured response to {config.random_directions} random "
        "directions is "
        f"{middle:.3f} at the median (5th to 95th percentile {low:.3f} to {high:.3f}) at relative size "
        f"{config.relative_sizes[0]:g}.",
        place=f"relative size {config.relative_sizes[0]:g}",
        next_step="" if good else "Responses to noise are not linear at this size; use the measured noise columns.",
    )


def _not_a_bound(evidence: Evidence) -> Finding:
    sizes = evidence.config.relative_sizes
    excess = [largest_excess(evidence, column) for column in range(len(sizes))]
    column = int(np.argmax(excess))
    row = int(np.argmin(evidence.over_attack[:, column]))
    over = excess[column] > evidence.config.excess_above
    measured = (
        f"an attack went up to {excess[column]:.2f} times the prediction at relative size {sizes[column]:g}, and "
        "above it for "
        f"{exceeded_share(evidence, column):.0%} of inputs"
        if excess[column] > 1.001
        else f"here no attack exceeded it up to relative size {sizes[-1]:g}"
    )
    return Finding(
        "sensitivity.not_a_bound",
        Status.WARN if over else Status.PASS,
        f"The condition number is the limit for small changes and not an upper bound at a finite size: {measured} "
        "(measured).",
        place=evidence.name(row) if excess[column] > 1.001 else "",
        next_step=f"For changes of relative size {sizes[column]:g} use the measured attack, or a guaranteed bound "
        "from operator norms."
        if over
        else "",
    )


def _sampling_alone(evidence: Evidence) -> Finding:
    column = 0
    low, middle, high = percentiles(evidence.understatement[:, column])
    over = middle > evidence.config.understatement_above
    return Finding(
        "sensitivity.sampling_alone",
        Status.WARN if over else Status.PASS,
        "Sampling alone would understate the worst case: the largest response among "
        f"{evidence.config.random_directions} random "
        f"directions is {middle:.2g} times too small at the median (5th to 95th percentile {low:.2g} to {high:.2g}) "
        "at relative "
        f"size {evidence.config.relative_sizes[column]:g} (measured).",
        place=f"relative size {evidence.config.relative_sizes[column]:g}",
        next_step="Judge robustness by the condition number or the attack, not by tests with random noise."
        if over
        else "",
    )
