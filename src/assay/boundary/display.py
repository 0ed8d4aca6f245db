"""How boundary points, paths and slices are displayed: each as a small `Result`."""

from __future__ import annotations

from torch import Tensor

from assay.boundary.paths.certificate import SegmentCertificate
from assay.boundary.paths.connection import Connection
from assay.boundary.paths.slices import ClassSlice
from assay.boundary.points import BoundaryPoint
from assay.grade import Grade
from assay.results import Column, Figure, Result, result_of
from assay.results.build import array, band, bars, count, line, lines, maps, per_input, rows_of, share, table

_PATHS = 6  # drawn
_DISTANCE = "An upper limit: a search finds a point, and the nearest may be nearer."


@result_of.register
def _(shown: BoundaryPoint, rows: int | None) -> Result:
    columns = [
        rows_of(len(shown)),
        (Column("label", "decision"), shown.label),
        (Column("rival", "class behind the boundary"), shown.rival),
        (Column("distance", "distance", "", Grade.SAMPLED, _DISTANCE), shown.distance),
        (
            Column("cosine", "cosine", "", Grade.EXACT, "Between the way and the normal; 1 at a nearest point."),
            shown.cosine,
        ),
        (Column("residual", "residual", "", Grade.EXACT, "Difference of the two logits there."), shown.residual),
        (Column("found", "found"), shown.found),
    ]
    drawn = {"input": shown.x, "boundary point": shown.point, "difference": shown.point - shown.x}
    pictures, arrays = maps("Inputs and the nearest boundary points found", "Only the first inputs are shown.", drawn)
    return Result(
        "boundary_point",
        "Boundary points",
        "How far is each decision from changing, and to what?",
        {
            "inputs": count(len(shown), "inputs"),
            "found": share(shown.found, "with a boundary point"),
            "distance": band(shown.distance, f"distance ({shown.norm})", Grade.SAMPLED),
            "cosine": band(shown.cosine, "cosine with the normal", Grade.EXACT),
        },
        {"inputs": table("inputs", "Inputs", columns, rows)},
        arrays,
        (
            per_input("Distance to the decision boundary", _DISTANCE, "distance", {"distance": shown.distance}),
            pictures,
        ),
    )


@result_of.register
def _(shown: SegmentCertificate, rows: int | None) -> Result:
    columns = [
        rows_of(len(shown.status)),
        (Column("status", "status"), list(shown.status)),
        (Column("label", "class"), shown.label),
        (Column("margin", "margin at least", "", Grade.BOUND, "Over the whole segment."), shown.margin),
        (Column("counterexample", "left at", "share of the segment", Grade.BOUND), shown.counterexample),
        (Column("boxes", "pieces bounded"), shown.boxes),
    ]
    warnings = ("No bounds for: " + ", ".join(shown.unsupported) + ".",) if shown.unsupported else ()
    return Result(
        "certificate",
        "Certificates of segments",
        "Does the class win at every point of these segments?",
        {
            "segments": count(len(shown.status), "segments"),
            "certified": share(shown.certified, "certified", Grade.BOUND),
            "margin": band(shown.margin, "margin at least", Grade.BOUND, over="segments"),
        },
        {"segments": table("segments", "Segments", columns, rows)},
        figures=(_statuses(shown.status, "Certificates", "A proof either way, or none."),),
        warnings=warnings,
    )


def _statuses(status: tuple[str, ...], title: str, caption: str) -> Figure:
    names = sorted(set(status))
    return bars(title, caption, "count", names, {"": [status.count(name) for name in names]})


@result_of.register
def _(shown: Connection, rows: int | None) -> Result:
    columns = [
        rows_of(len(shown.status)),
        (Column("status", "status"), list(shown.status)),
        (Column("reason", "why not"), list(shown.reason)),
        (Column("label", "class"), shown.label),
        (Column("anchors", "anchors"), shown.anchors),
        (Column("length_ratio", "length", "of the straight way", Grade.SAMPLED), shown.length_ratio),
        (Column("min_margin", "smallest margin", "", Grade.SAMPLED, "On the samples of the path."), shown.min_margin),
        (Column("straight", "straight way stays"), shown.straight),
    ]
    figures = [_statuses(shown.status, "Paths", "Inconclusive means that none was found, not that there is none.")]
    figures += _from_the_side(shown)
    return Result(
        "connection",
        "Paths inside a class region",
        "Are the two points of each pair connected inside the region of their class?",
        {
            "pairs": count(len(shown.status), "pairs"),
            "connected": share(shown.connected, "connected", Grade.SAMPLED),
            "straight": share(shown.straight, "by the straight way", Grade.SAMPLED),
            "length": band(shown.length_ratio, "length over the straight way's", Grade.SAMPLED, over="pairs"),
        },
        {"pairs": table("pairs", "Pairs", columns, rows)},
        figures=tuple(figures),
    )


def _from_the_side(shown: Connection) -> list[Figure]:
    """How far the paths stray from the straight way, along it, at the anchors."""
    rows = [row for row, path in enumerate(shown.path) if len(path)][:_PATHS]
    bent = [row for row in rows if len(shown.path[row]) > 2]
    if not bent:
        return []
    series = []
    for row in bent:
        along, aside = _seen_from_the_side(shown.path[row])
        series.append({"label": f"pair {row}", "x": along.tolist(), "y": aside.tolist()})
    caption = (
        "Anchors of the first paths that are not straight: their distance from the straight way, and where along it."
    )
    labels = {"x_label": "place along the straight way", "y_label": "distance from it, in its length"}
    return [Figure("scatter", "Paths seen from the side", caption, {"series": series, **labels})]


def _seen_from_the_side(path: Tensor) -> tuple[Tensor, Tensor]:
    points = (path - path[0]).flatten(1).detach().double().cpu()
    way = points[-1]
    length = way.square().sum().clamp(min=1e-300)
    along = points @ way / length
    return along, (points - along[:, None] * way).norm(dim=1) / length.sqrt()


@result_of.register
def _(shown: ClassSlice, rows: int | None) -> Result:
    classes, area = shown.label.unique(return_counts=True)
    columns = [
        (Column("class", "class"), classes),
        (Column("area", "area", "share", Grade.SAMPLED, "Of the square."), area.double() / shown.label.numel()),
    ]
    drawn, highest = array(shown.label).astype(int), int(classes.max())
    panel = {
        "array": "label",
        "extent": list(shown.extent),
        "points": [
            {"x": float(x), "y": float(y), "label": f"point {index}"}
            for index, (x, y) in enumerate(shown.points.tolist())
        ],
        "title": "",
        "x_label": "distance along the first direction",
        "y_label": "along the second",
    }
    names = [f"class {index}" for index in range(highest + 1)] if highest < 1000 else []
    figure = Figure(
        "regions",
        "Classes in a plane",
        "The class that the network gives to each point of a plane through the marked points.",
        {"panels": [panel], "names": names},
    )
    middle = len(shown.margin) // 2
    across = lines(
        "Margin along the middle row",
        "Largest logit minus the second largest; it is 0 where the class changes.",
        shown.first,
        [line("margin", shown.margin[middle])],
        "distance along the first direction",
        "margin",
    )
    return Result(
        "slice",
        "A slice through the input space",
        "Which classes lie in this plane?",
        {
            "points": count(shown.label.numel(), "points of the grid"),
            "classes": count(len(classes), "classes"),
            "margin": band(shown.margin, "margin", Grade.EXACT, over="the grid"),
        },
        {"classes": table("classes", "Classes", columns, rows)},
        {"label": drawn},
        (figure, across),
    )
