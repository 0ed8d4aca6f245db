"""How guarantees are displayed: each as a small `Result`."""

from __future__ import annotations

import torch

from assay.certified.ball import CertifiedBall
from assay.certified.global_bound import LipschitzBound
from assay.certified.radius import CertifiedRadius
from assay.grade import Grade
from assay.results import Column, Quantity, Result, result_of
from assay.results.build import band, bars, count, line, lines, per_input, rows_of, share, table


@result_of.register
def _(shown: CertifiedBall, rows: int | None) -> Result:
    columns = [
        rows_of(len(shown.radius)),
        (Column("radius", "radius", "", Grade.EXACT), shown.radius),
        (Column("change", "largest output change", "", shown.grade), shown.change),
        (
            Column("lipschitz", "Lipschitz constant", "", shown.grade, "Between any two points of the ball."),
            shown.lipschitz,
        ),
        (Column("output", "widest output"), shown.spread.argmax(1)),
        (Column("spread", "its change at most", "", shown.grade), shown.spread.max(1).values),
    ]
    summary = {
        "inputs": count(len(shown.radius), "inputs"),
        "lipschitz": band(shown.lipschitz, "Lipschitz constant in the ball", shown.grade),
        "change": band(shown.change, "largest output change", shown.grade),
        "global": Quantity(shown.global_value, Grade.BOUND, "", "Lipschitz constant everywhere"),
    }
    figure = per_input(
        "Lipschitz constants around inputs",
        "Guaranteed for all changes up to the radius.",
        "output change per input change",
        {"in the ball": shown.lipschitz},
    )
    return Result(
        "ball",
        "Certified balls",
        "How far can outputs move at most when the input moves within a ball?",
        summary,
        {"inputs": table("inputs", "Inputs", columns, rows)},
        figures=(figure,),
    )


@result_of.register
def _(shown: CertifiedRadius, rows: int | None) -> Result:
    columns = [
        rows_of(len(shown.radius)),
        (Column("label", "decision"), shown.label),
        (Column("radius", "certified radius", "", shown.grade, "No smaller change alters the decision."), shown.radius),
        (Column("margin", "margin", "", Grade.EXACT, "Over the next output."), shown.margin),
        (Column("balls", "balls"), shown.balls),
        (Column("why", "why there is none"), list(shown.why)),
    ]
    return Result(
        "radius",
        "Certified radii",
        "How large may a change be at least, before the decision can change?",
        {
            "inputs": count(len(shown.radius), "inputs"),
            "certified": share(shown.radius > 0, "with a radius above 0"),
            "radius": band(shown.radius, "certified radius", shown.grade),
        },
        {"inputs": table("inputs", "Inputs", columns, rows)},
        figures=(
            per_input(
                "Certified radii",
                "Euclidean, in the units of the data; no smaller change alters the decision.",
                "radius",
                {"radius": shown.radius},
            ),
        ),
    )


@result_of.register
def _(shown: LipschitzBound, rows: int | None) -> Result:
    values = {name: value for name, value in shown.tried.items() if isinstance(value, float)}
    tried = [
        (Column("method", "method"), list(shown.tried)),
        (Column("value", "bound", "", Grade.BOUND), [values.get(name) for name in shown.tried]),
        (Column("why", "why there is none"), [each if isinstance(each, str) else "" for each in shown.tried.values()]),
    ]
    layers = [
        (Column("node", "node", node=True), [layer.node for layer in shown.layers]),
        (Column("place", "place"), [layer.place for layer in shown.layers]),
        (Column("gain", "norm of the node", "", Grade.BOUND), [layer.gain for layer in shown.layers]),
        (Column("bound", "bound up to here", "", Grade.BOUND), [layer.bound for layer in shown.layers]),
    ]
    bounds = torch.tensor([layer.bound for layer in shown.layers])
    figures = [
        lines(
            "The bound on its way through the network",
            "Output change per unit of input change, at most, after each node.",
            range(len(bounds)),
            [line("bound", torch.where(bounds > 0, bounds, torch.nan))],
            "node",
            "bound",
            y_log=True,
        )
    ]
    if values:
        figures.append(
            bars(
                "Methods",
                "Each is guaranteed; the smallest counts.",
                "bound",
                list(values),
                {"bound": list(values.values())},
                log=True,
            )
        )
    return Result(
        "lipschitz",
        "Lipschitz bound",
        "How far can outputs move at most, for any two inputs?",
        {
            "value": Quantity(shown.value, shown.grade, "", f"output change per input change ({shown.norm}-norm)"),
            "layers": count(len(shown.layers), "layers"),
        },
        {
            "layers": table("layers", "Layer by layer", layers, rows),
            "methods": table("methods", "Methods", tried, rows, f"Found by {shown.method}."),
        },
        figures=tuple(figures),
    )
