"""How often noise flips decisions: from distance and curvature, checked by sampling; and in which directions."""

from __future__ import annotations

import numpy as np
import torch

from assay.boundary.sections.section import Context
from assay.boundary.subspaces import flip_probability_of, semi_random, shared_directions, subspace_noise
from assay.grade import Grade
from assay.results import Column, Figure, Finding, Quantity, Section, Status, Table

SIZES = (0.1, 0.2, 0.4)
"""Norms of the noise in subspaces, over the norm of the input."""
LARGEST = 3_072
"""Elements up to which curved directions of many inputs are affordable."""
_SHARED = 40
_DRAWS = 4
_CLOSE = 2.0  # predicted over sampled rate that still counts as agreeing
_NAMES = {
    "curved": "most curved, shared",
    "flat": "flattest, shared",
    "gradient": "boundary normals (control)",
    "random": "random (control)",
    "full": "all directions",
}


def noise(context: Context) -> Section:
    """Flip probabilities against sampling, and noise in curved, flat, gradient and random subspaces."""
    flips = _flips(context)
    parts = [flips, _subspaces(context)]
    return Section(
        tables={name: table for part in parts for name, table in part.tables.items()},
        figures=tuple(figure for part in parts for figure in part.figures),
        findings=tuple(finding for part in parts for finding in part.findings),
        summary={name: value for part in parts for name, value in part.summary.items()},
        warnings=tuple(warning for part in parts for warning in part.warnings),
    )


def _flips(context: Context) -> Section:
    config, field = context.config, context.field
    rows = context.spread(max(1, config.spectrum_inputs))
    points = context.points.take(rows)
    records, predicted, sampled = [], [], []
    for level in config.noise_levels:
        sd = level * points.distance
        found = flip_probability_of(
            field, points, sd, estimator=config.estimator, samples=config.noise_draws, seed=config.seed
        )
        assert found.sampled is not None
        known = torch.isfinite(found.probability)
        both = found.probability[known], found.sampled.pair[known]
        predicted.append(found.probability)
        sampled.append(found.sampled.pair)
        count = max(1, int(known.sum()))
        error = (both[1] * (1 - both[1]) / config.noise_draws).sum().sqrt() / count
        records.append(
            {
                "level": level,
                "inputs": int(known.sum()),
                "predicted": float(both[0].mean()),
                "flat": float(found.flat[known].mean()),
                "sampled": float(both[1].mean()),
                "error": float(error),
                "any": float(found.sampled.rate[known].mean()),
            }
        )
    table = Table.from_records(
        "flips",
        "Flips by noise: predicted from the boundary's shape, and sampled",
        (
            Column("level", "noise", "distances", None, "Standard deviation over the distance to the boundary."),
            Column("inputs", "inputs", "count"),
            Column("predicted", "predicted", "share", Grade.CLOSED_FORM, "From distance and curvature."),
            Column("flat", "as if flat", "share", Grade.CLOSED_FORM, "From the distance alone."),
            Column("sampled", "sampled", "share", Grade.SAMPLED, "Draws across the boundary to the nearest class."),
            Column("error", "standard error", "share", Grade.SAMPLED),
            Column("any", "any class", "share", Grade.SAMPLED, "Draws decided otherwise, to whichever class."),
        ),
        records,
        f"Mean over {len(rows)} inputs, {config.noise_draws} draws each. The prediction takes the boundary for a "
        "paraboloid with the curvature measured, so sampling is a check of that curvature.",
    )
    return Section({"flips": table}, (_scatter(predicted, sampled, config.noise_levels),), (_agreement(records),))


def _scatter(predicted: list[torch.Tensor], sampled: list[torch.Tensor], levels: tuple[float, ...]) -> Figure:
    series = [
        {
            "label": f"noise {level:g} distances",
            "x": torch.nan_to_num(one, nan=-1.0).tolist(),
            "y": other.tolist(),
        }
        for level, one, other in zip(levels, predicted, sampled, strict=True)
    ]
    for each in series:
        kept = [(a, b) for a, b in zip(each["x"], each["y"], strict=True) if a >= 0]
        each["x"], each["y"] = [a for a, _ in kept], [b for _, b in kept]
    return Figure(
        "scatter",
        "Flip probability: predicted from curvature, and sampled",
        "One point per input and noise. On the diagonal the measured curvature explains how often noise flips the "
        "decision to the nearest class.",
        {"series": series, "x_label": "predicted", "y_label": "sampled", "diagonal": True},
    )


def _agreement(records: list[dict[str, float]]) -> Finding:
    worst = max(records, key=lambda r: abs(np.log(max(r["predicted"], 1e-12) / max(r["sampled"], 1e-12))))
    ratio = worst["predicted"] / max(worst["sampled"], 1e-12)
    fine = 1 / _CLOSE <= ratio <= _CLOSE
    return Finding(
        "boundary.flips",
        Status.PASS if fine else Status.WARN,
        f"Noise of {worst['level']:g} distances flips {worst['sampled']:.2%} of draws to the nearest class (sampled, "
        f"standard error {worst['error']:.2%}); distance and curvature predict {worst['predicted']:.2%}, distance "
        f"alone {worst['flat']:.2%}.",
        next_step="" if fine else "Trust the sampled rate: the boundary is no paraboloid at this size of noise.",
    )


def _subspaces(context: Context) -> Section:
    config, field = context.config, context.field
    size = context.inputs[0].numel()
    rows = context.spread(config.inputs)
    if len(rows) < 8 or not 16 <= size <= LARGEST:
        return Section(
            warnings=(f"Shared directions need 8 inputs with boundary points and 16 to {LARGEST:,} elements.",)
        )
    made, tried = rows[::2][:_SHARED], rows[1::2]
    shared = shared_directions(
        field, context.points.take(made), estimator=config.estimator, scale=context.scale, seed=config.seed
    )
    found = subspace_noise(field, context.inputs[tried], shared, SIZES, draws=_DRAWS, seed=config.seed)
    records = [
        {
            "subspace": _NAMES.get(name, name), "dimension": int(found.dimensions[place]),
            "size": float(found.sizes[at]), "rate": float(found.rate[place, at]), "low": float(found.low[place, at]),
            "high": float(found.high[place, at]),
        }
        for place, name in enumerate(found.names)
        for at in range(len(SIZES))
    ]  # fmt: skip
    law = semi_random(field, context.inputs[tried[:20]], [max(1, size // 8), max(2, size // 2)], seed=config.seed)
    table = Table.from_records(
        "subspaces",
        "Flips by noise in subspaces",
        (
            Column("subspace", "subspace"),
            Column("dimension", "dimension"),
            Column("size", "noise", "input norms", None, "Norm of the noise over the norm of the input."),
            Column("rate", "flipped", "share", Grade.SAMPLED),
            Column("low", "from", "share", Grade.SAMPLED, "95 % interval."),
            Column("high", "to", "share", Grade.SAMPLED, "95 % interval."),
        ),
        records,
        f"Directions from {len(made)} inputs, noise on {len(tried)} others. The span of the boundary normals is the "
        "control: as far as it flips as often, first-order sensitivity explains what curved directions do.",
    )
    curves = [
        {"label": _NAMES.get(name, name), "y": found.rate[place].tolist()} for place, name in enumerate(found.names)
    ]
    figure = Figure(
        "lines",
        "Noise in curved, flat and other directions",
        "Share of inputs whose decision noise of a given norm changes. Directions are shared: found on some inputs, "
        "tried on others.",
        {"x": list(SIZES), "series": curves, "x_label": "noise / norm of the input", "y_label": "flipped"},
    )
    summary = {
        "semi_random": Quantity(
            float(law.mean[-1]), Grade.SAMPLED, "",
            f"distance within random {int(law.dimensions[-1])}-dimensional subspaces over the law of flat boundaries",
            float(law.low[-1]), float(law.high[-1]), "95 % over inputs",
        )
    }  # fmt: skip
    return Section({"subspaces": table}, (figure,), (_curved(found),), summary)


def _curved(found: object) -> Finding:
    from assay.boundary.subspaces import SubspaceNoise

    assert isinstance(found, SubspaceNoise)
    rate = {name: float(found.rate[place, -1]) for place, name in enumerate(found.names)}
    difference, low, high = (float(each[-1]) for each in found.difference("curved", "gradient"))
    place = found.names.index("curved"), found.names.index("gradient")
    shared = float(found.overlap[place])
    more = "more often than" if low > 0 else "less often than" if high < 0 else "no differently from"
    return Finding(
        "boundary.curved_directions",
        Status.PASS,
        f"Noise of {float(found.sizes[-1]):g} input norms flips {rate['curved']:.1%} of decisions in shared curved "
        f"directions, {rate['flat']:.1%} in flat ones, {rate['random']:.1%} in random ones of the same dimension; in "
        f"the span of normals {rate['gradient']:.1%}: curved directions flip {more} first-order ones (difference "
        f"{difference:+.1%} [{low:+.1%}, {high:+.1%}]), with which they share {shared:.0%} (by chance "
        f"{float(found.chance[place]):.0%}).",
    )
