"""How flips, shared directions and curvature in subspaces are displayed: each as a small `Result`."""

from __future__ import annotations

from assay.boundary.subspaces.asymmetry import Asymmetry
from assay.boundary.subspaces.estimated import FlipEstimate
from assay.boundary.subspaces.nearest import RestrictedPoints
from assay.boundary.subspaces.noise import SubspaceNoise
from assay.boundary.subspaces.profile import Profile
from assay.boundary.subspaces.relative import RelativeCurvature
from assay.boundary.subspaces.sampled import SampledFlips
from assay.boundary.subspaces.semi_random import SemiRandom
from assay.boundary.subspaces.shared import SharedDirections
from assay.grade import Grade
from assay.results import Column, Figure, Quantity, Result, result_of
from assay.results.build import array, band, bars, count, line, lines, maps, per_input, rows_of, share, table

_INTERVAL = "95 % over inputs"


@result_of.register
def _(shown: SampledFlips, rows: int | None) -> Result:
    columns = [
        rows_of(len(shown.rate)),
        (Column("label", "decision"), shown.label),
        (Column("rate", "flip rate", "share", shown.grade), shown.rate),
        (Column("low", "from", "share", shown.grade, "95 % Wilson interval."), shown.low),
        (Column("high", "to", "share", shown.grade, "95 % Wilson interval."), shown.high),
        (Column("pair", "to the rival", "share", shown.grade), shown.pair),
    ]
    caption = f"Share of {shown.samples:,} draws of noise whose decision is another one."
    return Result(
        "flips",
        "Flips by noise",
        "How often does noise change each decision?",
        {
            "inputs": count(len(shown.rate), "inputs"),
            "samples": count(shown.samples, "draws per input"),
            "rate": band(shown.rate, "flip rate", shown.grade),
        },
        {"inputs": table("inputs", "Inputs", columns, rows)},
        figures=(per_input("Flips by noise", caption, "flip rate", {"flip rate": shown.rate}),),
    )


@result_of.register
def _(shown: FlipEstimate, rows: int | None) -> Result:
    columns = [
        rows_of(len(shown.probability)),
        (Column("noise", "noise deviation", "", Grade.EXACT), shown.noise),
        (Column("probability", "P(flip)", "", shown.grade), shown.probability),
        (Column("low", "from", "", shown.grade, "Curvature two standard errors lower."), shown.low),
        (Column("high", "to", "", shown.grade, "Curvature two standard errors higher."), shown.high),
        (Column("flat", "without curvature", "", shown.grade), shown.flat),
    ]
    series = {"with curvature": shown.probability, "flat boundary": shown.flat}
    summary = {
        "inputs": count(len(shown.probability), "inputs"),
        "probability": band(shown.probability, "P(flip)", shown.grade),
        "flat": band(shown.flat, "for a flat boundary", shown.grade),
    }
    if shown.sampled is not None:
        columns.append((Column("sampled", "sampled", "share", Grade.SAMPLED), shown.sampled.pair))
        series["sampled"] = shown.sampled.pair
        summary["sampled"] = band(shown.sampled.pair, "sampled", Grade.SAMPLED)
    caption = "Probability that noise crosses the boundary to the rival."
    return Result(
        "flip_estimate",
        f"Flips from the shape of the boundary ({shown.method})",
        "How probably does noise cross the boundary, given how it bends?",
        summary,
        {"inputs": table("inputs", "Inputs", columns, rows)},
        figures=(per_input("P(flip) by the boundary's shape", caption, "P(flip)", series),),
        warnings=shown.curvature.notes,
    )


@result_of.register
def _(shown: Asymmetry, rows: int | None) -> Result:
    kinds = shown.rows()
    bends = list(kinds.values())
    columns = [
        (Column("where", "where"), list(kinds)),
        (Column("points", "points"), [bend.count for bend in bends]),
        (Column("mean", "mean curvature", "", shown.grade), [bend.average for bend in bends]),
        (Column("low", "from", "", shown.grade, _INTERVAL), [bend.low for bend in bends]),
        (Column("high", "to", "", shown.grade, _INTERVAL), [bend.high for bend in bends]),
        (Column("negative", "negative", "share", shown.grade), [bend.negative for bend in bends]),
    ]
    summary = {"points": count(bends[0].count, "nearest points")}
    summary |= {
        name: Quantity(bend.average, shown.grade, "", f"mean curvature, {name}", bend.low, bend.high, _INTERVAL)
        for name, bend in kinds.items()
    }
    return Result(
        "asymmetry",
        "Does the boundary bend away from inputs?",
        "Is the boundary's curvature near inputs another than elsewhere on it?",
        summary,
        {"kinds": table("kinds", "Where", columns, rows)},
        figures=(
            bars(
                "Mean curvature by kind of point",
                "Average over the points with 95 % interval. Positive: bends towards the input.",
                "mean curvature",
                list(kinds),
                {"mean": [bend.average for bend in bends]},
                low=[bend.low for bend in bends],
                high=[bend.high for bend in bends],
            ),
        ),
    )


@result_of.register
def _(shown: RelativeCurvature, rows: int | None) -> Result:
    total = len(shown.mean)
    columns = [
        (Column("direction", "direction"), range(total)),
        (Column("mean", "relative curvature", "", shown.grade), shown.mean),
        (Column("low", "from", "", shown.grade, _INTERVAL), shown.low),
        (Column("high", "to", "", shown.grade, _INTERVAL), shown.high),
    ]
    drawn = [line("relative curvature", shown.mean, low=shown.low, high=shown.high)]
    drawn.append(line("random directions", [1.0] * total, "dashed"))
    caption = "Absolute curvature along each direction over that along random ones, with 95 % interval over points."
    return Result(
        "relative",
        "Relative curvature",
        "Is the boundary more curved along these directions than along random ones?",
        {
            "directions": count(total, "directions"),
            "points": count(len(shown.ratio), "points"),
            "first": Quantity(
                float(shown.mean[0]),
                shown.grade,
                "",
                "along the first",
                float(shown.low[0]),
                float(shown.high[0]),
                _INTERVAL,
            ),
        },
        {"directions": table("directions", "Directions", columns, rows)},
        figures=(lines("Relative curvature", caption, range(total), drawn, "direction", "relative curvature"),),
    )


@result_of.register
def _(shown: SharedDirections, rows: int | None) -> Result:
    total = len(shown.singular_values)
    columns = [
        (Column("direction", "direction"), range(total)),
        (Column("value", "singular value", "", shown.grade), shown.singular_values),
        (
            Column("points", "points it is curved at", "share", shown.grade),
            shown.singular_values.square() / shown.points,
        ),
    ]
    drawn = [line("curved directions", shown.singular_values)]
    caption = f"Of the stacked principal directions of {shown.points} points; a sharp fall means few shared directions."
    values = lines("Singular values", caption, range(total), drawn, "direction", "singular value")
    pictures, arrays = maps(
        "The directions shared most", "Orthonormal, most shared first.", {"vector": shown.directions}, "direction"
    )
    return Result(
        "shared",
        "Shared curved directions",
        "Do boundaries near different inputs bend along the same directions?",
        {
            "directions": count(total, "directions"),
            "points": count(shown.points, "points"),
            "first": Quantity(
                float(shown.singular_values[0] ** 2 / shown.points), shown.grade, "share", "points that share the first"
            ),
        },
        {"directions": table("directions", "Directions", columns, rows)},
        arrays,
        (values, pictures),
    )


@result_of.register
def _(shown: SemiRandom, rows: int | None) -> Result:
    columns = [
        (Column("dimension", "dimension"), shown.dimensions),
        (Column("mean", "relative distance", "", shown.grade, "Over sqrt(d / m) times the distance."), shown.mean),
        (Column("low", "from", "", shown.grade, _INTERVAL), shown.low),
        (Column("high", "to", "", shown.grade, _INTERVAL), shown.high),
        (Column("expected", "flat boundary", "", Grade.CLOSED_FORM), shown.expected),
        (Column("found", "found", "share", Grade.EXACT), shown.found),
    ]
    drawn = [
        line("measured", shown.mean, low=shown.low, high=shown.high),
        line("flat boundary", shown.expected, "dashed"),
    ]
    caption = "Distance within random subspaces, relative to the law for a flat boundary; 95 % interval over inputs."
    return Result(
        "semi_random",
        "Distances within random subspaces",
        "How much farther is the boundary in a random subspace?",
        {
            "inputs": count(len(shown.distance), "inputs"),
            "dimensions": count(len(shown.dimensions), "dimensions"),
            "mean": band(shown.mean, "relative distance", shown.grade, over="dimensions"),
        },
        {"dimensions": table("dimensions", "Dimensions", columns, rows)},
        figures=(
            lines(
                "Distances within subspaces",
                caption,
                shown.dimensions,
                drawn,
                "dimension",
                "relative distance",
                x_log=True,
            ),
        ),
    )


@result_of.register
def _(shown: SubspaceNoise, rows: int | None) -> Result:
    cells = [(subspace, size) for subspace in range(len(shown.names)) for size in range(len(shown.sizes))]
    columns = [
        (Column("subspace", "subspace"), [shown.names[subspace] for subspace, _ in cells]),
        (Column("dimension", "dimension"), [int(shown.dimensions[subspace]) for subspace, _ in cells]),
        (Column("size", "size of the noise"), [float(shown.sizes[size]) for _, size in cells]),
        (Column("rate", "flip rate", "share", shown.grade), [float(shown.rate[cell]) for cell in cells]),
        (Column("low", "from", "share", shown.grade), [float(shown.low[cell]) for cell in cells]),
        (Column("high", "to", "share", shown.grade), [float(shown.high[cell]) for cell in cells]),
    ]
    drawn = [
        line(name, shown.rate[row], low=shown.low[row], high=shown.high[row]) for row, name in enumerate(shown.names)
    ]
    overlap = {
        "array": "overlap",
        "row_labels": list(shown.names),
        "column_labels": list(shown.names),
        "x_label": "in",
        "y_label": "share of",
        "percent": True,
    }
    unit = "in norms of the input" if shown.relative else "in units of the data"
    return Result(
        "subspace_noise",
        "Noise in subspaces",
        "In which subspaces does noise change decisions most?",
        {
            "subspaces": count(len(shown.names), "subspaces"),
            "inputs": count(shown.per_input.shape[2], "inputs"),
            "draws": count(shown.draws, "draws per input and size"),
        },
        {"rates": table("rates", "Flip rates", columns, rows)},
        {"overlap": array(shown.overlap)},
        (
            lines(
                "Flips by subspace",
                f"Share of draws whose decision changed, with {shown.level:.0%} Wilson intervals.",
                shown.sizes,
                drawn,
                f"size of the noise, {unit}",
                "flip rate",
            ),
            Figure("matrix", "Overlap of the subspaces", "Share of the smaller one inside the larger.", overlap),
        ),
    )


@result_of.register
def _(shown: RestrictedPoints, rows: int | None) -> Result:
    columns = [rows_of(len(shown.found)), (Column("distance", "distance", "", Grade.SAMPLED), shown.distance)]
    return Result(
        "restricted",
        "Boundary points within subspaces",
        "How far is the boundary within each subspace?",
        {
            "inputs": count(len(shown.found), "inputs"),
            "found": share(shown.found, "with a boundary point"),
            "distance": band(shown.distance, "distance", Grade.SAMPLED),
        },
        {"inputs": table("inputs", "Inputs", columns, rows)},
        figures=(per_input("Distance within the subspace", "Euclidean.", "distance", {"distance": shown.distance}),),
    )


@result_of.register
def _(shown: Profile, rows: int | None) -> Result:
    total = len(shown.average)
    columns = [
        (Column("rank", "rank"), range(total)),
        (Column("average", "principal curvature", "", shown.grade, "Mean over inputs."), shown.average),
        (Column("low", "from", "", shown.grade, _INTERVAL), shown.low),
        (Column("high", "to", "", shown.grade, _INTERVAL), shown.high),
    ]
    summary = {
        "inputs": count(len(shown.mean), "inputs"),
        "principal": count(total, "principal curvatures"),
    }
    labels = {"mean": "mean curvature", "small": "nearly flat directions"}
    for name in (name for name in labels if name in shown.summary):
        value, low, high = shown.summary[name]
        summary[name] = Quantity(value, shown.grade, "", labels[name], low, high, _INTERVAL)
    summary["negative"] = Quantity(shown.negative_share, Grade.SAMPLED, "share", "inputs with negative mean curvature")
    drawn = [line("mean over inputs", shown.average, low=shown.low, high=shown.high)]
    caption = "The i-th largest principal curvature, mean over inputs with 95 % interval."
    return Result(
        "profile",
        "Profile of principal curvatures",
        "In how many directions is the boundary curved, and which way?",
        summary,
        {"ranks": table("ranks", "Principal curvatures", columns, rows)},
        figures=(
            lines("Sorted principal curvatures", caption, range(total), drawn, "rank", "curvature"),
            per_input("Mean curvature", "Of every input.", "mean curvature", {"mean": shown.mean}),
        ),
        warnings=shown.curvature.notes,
    )
