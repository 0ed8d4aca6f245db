"""How the boundary bends at the nearest points, beside other points of it."""

from __future__ import annotations

import math
from typing import Any

import torch

from assay.boundary.sections.section import Context
from assay.boundary.shape import Curvature
from assay.boundary.shape import curvature as curvature_of
from assay.boundary.subspaces import Asymmetry, asymmetry, profile
from assay.grade import Grade
from assay.results import Column, Figure, Finding, Quantity, Section, Status, Table

_COLUMNS = (
    Column("input", "input"),
    Column("mean", "mean curvature", "", Grade.SAMPLED, "Positive: the boundary bends towards the input."),
    Column("error", "standard error", "", Grade.SAMPLED),
    Column("largest", "largest", "", Grade.SAMPLED, "Largest principal curvature."),
    Column("smallest", "smallest", "", Grade.SAMPLED, "Smallest (most negative) principal curvature."),
    Column(
        "check", "R κ max", "", Grade.SAMPLED, "Distance times the largest curvature: at most 1 at a nearest point."
    ),
)
_KINDS = {
    "nearest": "nearest to inputs",
    "between": "on ways to other inputs",
    "random": "in random directions",
}


def curvature(context: Context) -> Section:
    """Mean curvature of every input, principal curvatures of some, the control, and how far the scale matters."""
    config, field = context.config, context.field
    rows = context.spread(config.inputs)
    few = context.spread(config.spectrum_inputs)
    scale = context.scale
    compared = asymmetry(
        field, context.points.take(rows), estimator=config.estimator, scale=scale, probes=config.probes,
        seed=config.seed,
    )  # fmt: skip
    spectra = None
    if len(few):
        spectra = curvature_of(
            field, context.points.take(few), top=config.top, estimator=config.estimator, scale=scale,
            probes=config.probes, directions=False, seed=config.seed,
        )  # fmt: skip
    stated = _stated(spectra, scale)
    tables = {"bends": _bend_table(compared, stated)}
    figures = [_histogram(compared, stated)]
    summary = _summary(compared, stated)
    findings = [_sign(compared, stated)]
    warnings: tuple[str, ...] = ()
    if spectra is not None:
        tables["curvature"] = _table(context, few, spectra, stated)
        figures += _profile(context, few, spectra, stated)
        findings += [_nearest(context, few, spectra), *_plateau(spectra)]
        warnings = tuple(dict.fromkeys(spectra.notes))
    return Section(tables, tuple(figures), tuple(findings), summary, warnings)


def _stated(spectra: Curvature | None, scale: float | None) -> str:
    """How the numbers were made, for captions."""
    name = "exact Hessian products" if spectra is None else {
        "exact": "exact Hessian products",
        "frames": "random orthonormal frames",
        "gaussian": "Gaussian smoothing",
        "difference": "differences of gradients",
        "softplus": f"softplus in the place of ReLU (sharpness {spectra.sharpness})",
    }.get(spectra.estimator, spectra.estimator)  # fmt: skip
    return name if scale is None else f"{name} at scale {scale:.3g}"


def _bend_table(compared: Asymmetry, stated: str) -> Table:
    columns = (
        Column("where", "where"),
        Column("points", "points", "count"),
        Column("mean", "mean curvature", "", Grade.SAMPLED, "Average over the points."),
        Column("low", "from", "", Grade.SAMPLED, "95 % interval over the points."),
        Column("high", "to", "", Grade.SAMPLED, "95 % interval over the points."),
        Column("negative", "negative", "share", Grade.SAMPLED, "Share of points whose mean curvature is negative."),
        Column("negative_low", "from", "share", Grade.SAMPLED, "95 % Wilson interval."),
        Column("negative_high", "to", "share", Grade.SAMPLED, "95 % Wilson interval."),
    )
    records = [
        {
            "where": _KINDS[name], "points": bend.count, "mean": bend.average, "low": bend.low, "high": bend.high,
            "negative": bend.negative, "negative_low": bend.negative_low, "negative_high": bend.negative_high,
        }
        for name, bend in compared.rows().items()
    ]  # fmt: skip
    return Table.from_records(
        "bends",
        "Mean curvature, and what it is elsewhere on the boundary",
        columns,
        records,
        f"By {stated}. Negative: the other class protrudes towards the input. The lower rows are the control: what is "
        "true at nearest points only is no property of the boundary at large.",
    )


def _table(context: Context, rows: torch.Tensor, spectra: Curvature, stated: str) -> Table:
    check = spectra.second_order_check() if spectra.principal.shape[1] else None
    records: list[dict[str, Any]] = []
    for place, row in enumerate(rows.tolist()):
        record: dict[str, Any] = {
            "input": context.name(row),
            "mean": float(spectra.mean[place]),
            "error": float(spectra.mean_error[place]),
        }
        if check is not None:
            record |= {
                "largest": float(spectra.principal[place, 0]),
                "smallest": float(spectra.principal[place, -1]),
                "check": float(check.value[place]),
            }
        records.append(record)
    caption = f"By {stated}, {spectra.dimension} principal curvatures each, of which {spectra.principal.shape[1]} were "
    return Table.from_records("curvature", "Principal curvatures", _COLUMNS, records, caption + "computed.")


def _histogram(compared: Asymmetry, stated: str) -> Figure:
    series = [
        {"label": label, "values": bend.mean[torch.isfinite(bend.mean)].tolist()}
        for (_, label), bend in zip(_KINDS.items(), compared.rows().values(), strict=True)
    ]
    return Figure(
        "histogram",
        "Mean curvature of the boundary",
        f"By {stated}. Left of 0 the boundary bends away from the input. Boundary points that are not nearest to any "
        "input show whether that is a property of the boundary or of nearest points.",
        {"series": series, "x_label": "mean curvature"},
    )


def _profile(context: Context, rows: torch.Tensor, spectra: Curvature, stated: str) -> list[Figure]:
    if spectra.principal.shape[1] < 2:
        return []
    found = profile(context.field, spectra)
    count = len(found.average)
    place = list(range(1, count + 1))
    labels = place if found.complete else [*place[: count // 2], *(i - count for i in place[count // 2 :])]
    return [
        Figure(
            "lines",
            "Curvature profile",
            f"Principal curvatures in descending order, mean over {len(rows)} inputs with its 95 % interval, by "
            f"{stated}. "
            + ("" if found.complete else f"The largest and the smallest {count // 2}; those between are not computed. ")
            + "A flat middle: most directions do not bend at all.",
            {
                "x": labels if found.complete else place,
                "series": [
                    {
                        "label": "mean over inputs",
                        "y": found.average.tolist(),
                        "low": found.low.tolist(),
                        "high": found.high.tolist(),
                    }
                ],
                "x_label": "rank",
                "y_label": "principal curvature",
            },
        )
    ]


def _summary(compared: Asymmetry, stated: str) -> dict[str, Quantity]:
    near = compared.nearest
    return {
        "mean_curvature": Quantity(
            near.average, Grade.SAMPLED, "", f"mean curvature at nearest points, by {stated}", near.low, near.high,
            "95 % over inputs", confidence=0.95,
        ),
        "negative_share": Quantity(
            near.negative, Grade.SAMPLED, "share", "inputs with a negative mean curvature", near.negative_low,
            near.negative_high, "95 % Wilson", confidence=0.95,
        ),
    }  # fmt: skip


def _sign(compared: Asymmetry, stated: str) -> Finding:
    near, control = compared.nearest, compared.between
    if near.count == 0 or math.isnan(near.average):
        return Finding("boundary.asymmetry", Status.WARN, "No mean curvature could be measured.")
    if near.average == 0 == control.average:
        return Finding("boundary.asymmetry", Status.PASS, "The boundary is flat: the network is linear.")
    bent = "away from" if near.negative_low > 0.5 else "towards" if near.negative_high < 0.5 else "neither to nor from"
    return Finding(
        "boundary.asymmetry",
        Status.PASS,
        f"At {near.negative:.0%} [{near.negative_low:.0%}, {near.negative_high:.0%}] of {near.count} nearest points "
        f"the mean curvature is negative (by {stated}): the boundary bends {bent} the inputs. Between inputs it is "
        f"negative at {control.negative:.0%}, so this "
        + (
            "belongs to nearest points and not to the boundary at large."
            if control.negative_low <= 0.5 <= control.negative_high
            else "holds elsewhere on the boundary too."
            if (control.negative > 0.5) == (near.negative > 0.5)
            else "turns round elsewhere on the boundary."
        ),
    )


def _nearest(context: Context, rows: torch.Tensor, spectra: Curvature) -> Finding:
    check = spectra.second_order_check()
    wrong = check.violated.nonzero()[:, 0].tolist()
    largest = float(torch.nan_to_num(check.value, nan=-math.inf).max())
    if not wrong:
        return Finding(
            "boundary.second_order",
            Status.PASS,
            f"Distance times largest curvature stays at {largest:.2g} or less on {len(rows)} inputs, below 1 as at a "
            "nearest point.",
        )
    return Finding(
        "boundary.second_order",
        Status.WARN,
        f"For {len(wrong)} of {len(rows)} inputs distance times largest curvature exceeds 1 (up to {largest:.2g}): "
        "their points are not the nearest, or the scale is too small to mean a curvature.",
        place=context.name(int(rows[wrong[0]])),
        next_step="Take these distances as upper limits only; on a piecewise linear network try a larger scale.",
    )


def _plateau(spectra: Curvature) -> list[Finding]:
    swept = spectra.plateau
    if swept is None:
        return []
    if swept.found:
        return [
            Finding(
                "boundary.scale",
                Status.PASS,
                f"Mean curvature does not depend on the scale between {swept.low:.3g} and {swept.high:.3g}: "
                f"{swept.value:.3g}.",
            )
        ]
    return [
        Finding(
            "boundary.scale",
            Status.PASS,
            f"There is no scale at which mean curvature settles: from {float(swept.mean[0]):.3g} at "
            f"{float(swept.scales[0]):.3g} to {float(swept.mean[-1]):.3g} at {float(swept.scales[-1]):.3g}. Only its "
            "sign and comparisons at one scale mean something.",
        )
    ]
