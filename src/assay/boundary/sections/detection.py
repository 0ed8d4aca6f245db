"""Whether the bend of the boundary gives tampered inputs away, beside what simpler measures see, and who evades it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from assay.attacks import pgd
from assay.boundary.detection import CAVEAT, STATISTICS, Detector, Evaluation, Evasion, Tampered, evade, evaluate
from assay.boundary.sections.section import Context
from assay.errors import AssayError
from assay.grade import Grade
from assay.results import Column, Figure, Finding, Quantity, Section, Status, Table

_OVERSHOOT = 1.02
"""A perturbation that just reaches the boundary crosses it by this factor."""
_FEWEST = 40
_ATTACKED = 12
_STEPS = 15
EVADED = 0.5
"""Share of attacked inputs past the detector from which relying on it is a warning."""
STATISTIC = "kappa_at_boundary"
NEAREST = "nearest boundary"

_COLUMNS = (
    Column("set", "tampered with by"),
    Column("statistic", "statistic"),
    Column("baseline", "baseline"),
    Column("samples", "samples", "count"),
    Column("area", "AUC", "", Grade.SAMPLED, "Area under the ROC curve against held-out clean inputs; 0.5 is chance."),
    Column("low", "from", "", Grade.SAMPLED, "95 % interval."),
    Column("high", "to", "", Grade.SAMPLED, "95 % interval."),
    Column("flagged", "flagged", "share", Grade.SAMPLED, "Above the threshold calibrated on clean inputs."),
    Column("recovered", "class recovered", "share", Grade.SAMPLED, "Inputs whose class before was named."),
)


def detection(context: Context) -> Section:
    """A detector calibrated on half of the inputs and tried on perturbations of the other half."""
    rows = context.spread(len(context.inputs))
    if len(rows) < _FEWEST:
        return Section(warnings=(f"A detector needs {_FEWEST} inputs with boundary points, there are {len(rows)}.",))
    config, field = context.config, context.field
    clean, held = rows[::2], rows[1::2]
    detector = Detector(
        STATISTIC, false_positive_rate=config.false_positive_rate, scale=config.scale, probes=config.probes,
        seed=config.seed, bounds=context.bounds, batch_size=config.batch_size,
    ).fit(field, context.inputs[clean])  # fmt: skip
    found = evaluate(detector, context.inputs[held], _sets(context, held))
    adaptive, notes = _adaptive(context, detector, held[:_ATTACKED])
    return Section(
        tables={"detection": _table(found, adaptive)},
        figures=(_figure(found, context),),
        findings=_findings(found, adaptive, config.false_positive_rate),
        summary=_summary(found),
        warnings=(CAVEAT, *notes),
    )


def _sets(context: Context, rows: Tensor) -> dict[str, Tampered]:
    """Held-out inputs pushed across the boundary by several lengths, attacked, and with benign noise of that length."""
    x, points = context.inputs[rows], context.points.take(rows)
    way = points.point - x
    sets = {}
    for size in context.config.attack_sizes:
        pushed = x + _OVERSHOOT * size * way
        if context.bounds is not None:
            pushed = pushed.clamp(*context.bounds)
        changed = context.field.label(pushed) != points.label
        if bool(changed.any()):
            sets[f"{NEAREST}, {size:g} times"] = Tampered(pushed, points.label, NEAREST, size)
    epsilon = context.config.attack_sizes[-1] * float(points.distance.median())
    attacked = pgd(context.field.target, x, points.label, epsilon=epsilon, norm="l2", bounds=context.bounds)
    if bool((context.field.label(attacked) != points.label).any()):
        sets[f"projected gradients, length {epsilon:.3g}"] = Tampered(attacked, points.label, "pgd-l2", epsilon)
    drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(context.config.seed), dtype=torch.float64)
    length = way.flatten(1).double().norm(dim=1) / drawn.flatten(1).norm(dim=1)
    noisy = x + (length.reshape(-1, *[1] * (x.dim() - 1)) * drawn).to(x.dtype)
    sets["benign noise of that length"] = Tampered(noisy, None, "noise", 1.0)
    return sets


def _adaptive(context: Context, detector: Detector, rows: Tensor) -> tuple[Evasion | None, tuple[str, ...]]:
    """An attacker who knows the detector, with the budget of the largest size."""
    points = context.points.take(rows)
    epsilon = _OVERSHOOT * context.config.attack_sizes[-1] * float(points.distance.median())
    try:
        return evade(
            detector,
            context.inputs[rows],
            points.label,
            epsilon=epsilon,
            steps=_STEPS,
            bounds=context.bounds,
            seed=context.config.seed,
        ), ()
    except AssayError as error:
        return None, (f"The attack on the detector was left out: {error.what}",)


def _table(found: list[Evaluation], adaptive: Evasion | None) -> Table:
    records: list[dict[str, Any]] = []
    for row in found:
        record: dict[str, Any] = {
            "set": "nothing (held-out clean inputs)" if row.set == "clean" else row.set,
            "statistic": row.statistic.replace("_", " "),
            "baseline": "yes" if row.statistic in STATISTICS and STATISTICS[row.statistic].baseline else "",
            "samples": row.samples,
            "flagged": row.flagged.value,
        }
        if row.area is not None:
            record |= {"area": row.area.value, "low": row.area.low, "high": row.area.high}
        if row.recovered is not None:
            record["recovered"] = row.recovered.value
        records.append(record)
    if adaptive is not None:
        records.append(
            {
                "set": f"an attacker who knows the detector, changes up to {adaptive.epsilon:.3g}",
                "statistic": STATISTIC.replace("_", " "),
                "samples": len(adaptive.x),
                "flagged": float(adaptive.flagged[adaptive.misclassified].double().mean())
                if bool(adaptive.misclassified.any())
                else None,
            }
        )
    return Table.from_records(
        "detection",
        "Telling tampered inputs from clean ones",
        _COLUMNS,
        records,
        "Inputs moved to the nearest other class and beyond, by multiples of their distance; inputs attacked by "
        "projected gradients; noise of the same length is the control. Half of the inputs set the "
        "threshold, the other half is tried.",
    )


def _figure(found: list[Evaluation], context: Context) -> Figure:
    found = [row for row in found if row.attack == NEAREST]
    sizes = [size for size in context.config.attack_sizes if any(row.size == size and not row.benign for row in found)]
    series = []
    for name, statistic in STATISTICS.items():
        areas = {row.size: row.area for row in found if row.statistic == name and not row.benign}
        values = [area.value if (area := areas.get(size)) is not None else None for size in sizes]
        series.append(
            {"label": name.replace("_", " "), "y": values, **({"style": "dashed"} if statistic.baseline else {})}
        )
    return Figure(
        "lines",
        "How well tampered inputs are told from clean ones",
        "Area under the ROC curve: 1 is perfect, 0.5 is chance. Dashed: baselines that need no curvature.",
        {"x": sizes, "series": series, "x_label": "perturbation / distance to the boundary", "y_label": "AUC"},
    )


def _summary(found: list[Evaluation]) -> dict[str, Quantity]:
    summary = {}
    for row in found:
        if row.statistic == STATISTIC and row.attack == NEAREST and row.area is not None:
            summary[f"auc_{row.size:g}".replace(".", "_")] = Quantity(
                row.area.value, Grade.SAMPLED, "", f"AUC of curvature at {row.size:g} times the distance", row.area.low,
                row.area.high, "95 %", better="higher", confidence=0.95,
            )  # fmt: skip
    return summary


def _findings(found: list[Evaluation], adaptive: Evasion | None, rate: float) -> tuple[Finding, ...]:
    rules = [*_best(found), _false_alarms(found, rate)]
    if adaptive is not None:
        evaded = adaptive.success.value > EVADED
        rules.append(
            Finding(
                "boundary.evasion",
                Status.WARN if evaded else Status.PASS,
                f"An attacker who knows the detector gets {adaptive.success.value:.0%} [{adaptive.success.low:.0%}, "
                f"{adaptive.success.high:.0%}] of {len(adaptive.x)} inputs misclassified and not flagged with changes "
                f"of {adaptive.epsilon:.3g} (one who does not: {adaptive.oblivious.value:.0%}). {CAVEAT}",
                next_step="Do not rely on detection against an attacker; train robustly or certify distances."
                if evaded
                else "",
            )
        )
    return tuple(rules)


def _best(found: list[Evaluation]) -> list[Finding]:
    """Curvature against the best baseline, size by size."""
    found = [row for row in found if row.attack == NEAREST]
    parts, wins, sizes = [], 0, 0
    for size in sorted({row.size for row in found if not row.benign}):
        rows = {row.statistic: row for row in found if row.size == size and not row.benign and row.area is not None}
        if STATISTIC not in rows:
            continue
        own = rows[STATISTIC].area
        bases = {name: row.area for name, row in rows.items() if STATISTICS[name].baseline and row.area is not None}
        if own is None or not bases:
            continue
        name = max(bases, key=lambda each: bases[each].value)
        sizes += 1
        wins += own.value > bases[name].value
        parts.append(f"{size:g} times: {own.value:.2f} [{own.low:.2f}, {own.high:.2f}] against {bases[name].value:.2f}")
    if not parts:
        return []
    useful = wins > 0
    return [
        Finding(
            "boundary.detection",
            Status.PASS if useful else Status.WARN,
            "Area under the ROC curve of curvature, against the better of logit gap and distance: "
            + "; ".join(parts)
            + (f". Curvature is ahead at {wins} of {sizes} sizes." if useful else ". Curvature is nowhere ahead."),
            next_step="" if useful else "Use the logit gap on this network; curvature adds nothing to it here.",
        )
    ]


def _false_alarms(found: list[Evaluation], rate: float) -> Finding:
    row = next(row for row in found if row.set == "clean" and row.statistic == STATISTIC)
    noise = next((row for row in found if row.attack == "noise" and row.statistic == STATISTIC), None)
    too_many = row.flagged.low > rate
    beside = "" if noise is None else f" and {noise.flagged.value:.0%} of inputs with benign noise"
    return Finding(
        "boundary.false_alarms",
        Status.WARN if too_many else Status.PASS,
        f"The detector flags {row.flagged.value:.1%} [{row.flagged.low:.1%}, {row.flagged.high:.1%}] of {row.samples} "
        f"held-out clean inputs{beside}; it was set to {rate:.0%}.",
        next_step="Calibrate on more clean inputs." if too_many else "",
    )
