"""How scores, classes and comparisons are displayed: each as a small `Result`. A sweep displays its report."""

from __future__ import annotations

from collections.abc import Sequence

from assay.filtering.comparison import Comparison, Labelled
from assay.filtering.criticality import Criticalities, Criticality
from assay.filtering.early import Decision
from assay.filtering.held_out import Gain
from assay.filtering.merging import DistinctMasks
from assay.filtering.retraining.result import Retraining
from assay.filtering.scores import UnitScores
from assay.filtering.variants import Variants
from assay.grade import Grade
from assay.results import Column, Figure, Quantity, Result, Table, result_of
from assay.results.build import BARS, array, band, bars, count, line, lines, table

_BELOW = "Performance under filtering less what is left of the weights: below 0 fragile, above 0 antifragile."


@result_of.register
def _(shown: UnitScores, rows: int | None) -> Result:
    kept = [row for row in shown.rows if row.reference == "compressed"]
    columns = [
        (Column("filter", "filter"), [row.filter for row in shown.rows]),
        (Column("split", "data"), [row.split for row in shown.rows]),
        (Column("reference", "compared with"), [row.reference for row in shown.rows]),
        (Column("score", "score", "", Grade.SAMPLED), [row.score for row in shown.rows]),
        (Column("low", "from", "", Grade.SAMPLED), [row.low for row in shown.rows]),
        (Column("high", "to", "", Grade.SAMPLED), [row.high for row in shown.rows]),
        (Column("label", "class"), [row.label for row in shown.rows]),
    ]
    mean = [row for row in kept if row.filter == "mean"]
    summary = {"scores": count(len(shown.rows), "scores")}
    summary |= {
        row.split: Quantity(row.score, Grade.SAMPLED, "", f"{row.split} ({row.label})", row.low, row.high)
        for row in mean
    }
    drawn = kept[:BARS] or list(shown.rows)[:BARS]
    return Result(
        "scores",
        "Scores of one unit",
        "Is this unit fragile, robust or antifragile?",
        summary,
        {"scores": table("scores", "Scores", columns, rows)},
        figures=(
            bars(
                "Scores by filter and data",
                f"Against what is left. {_BELOW}",
                "score",
                [f"{row.filter}, {row.split}" for row in drawn],
                {"score": [row.score for row in drawn]},
                low=[row.low for row in drawn],
                high=[row.high for row in drawn],
            ),
        ),
        warnings=shown.warnings,
    )


@result_of.register
def _(shown: Labelled, rows: int | None) -> Result:
    columns = [
        (Column("unit", "unit"), list(shown.names)),
        (Column("score", "score", "", Grade.SAMPLED), shown.scores),
        (Column("low", "from", "", Grade.SAMPLED), shown.low),
        (Column("high", "to", "", Grade.SAMPLED), shown.high),
        (Column("label", "class"), list(shown.labels)),
    ]
    summary = {"units": count(len(shown.names), "units")}
    summary |= {label: count(shown.labels.count(label), label) for label in sorted(set(shown.labels))}
    return Result(
        "labelled",
        "Classes of units",
        "Which units are fragile, robust or antifragile?",
        summary,
        {"units": table("units", "Units", columns, rows)},
        figures=(_unit_scores(shown.names, shown.scores, shown.low, shown.high),),
    )


def _unit_scores(names: Sequence[str], scores: object, low: object, high: object) -> Figure:
    if len(names) <= 2 * BARS:
        return bars("Scores of units", _BELOW, "score", names, {"score": scores}, low=low, high=high)
    drawn = [line("score", scores, "points", low, high)]
    return lines("Scores of units", _BELOW, range(len(names)), drawn, "unit", "score")


@result_of.register
def _(shown: Comparison, rows: int | None) -> Result:
    pairs, units = shown.pair_records(), shown.unit_records()
    kept = [sum(each.count == places for each in shown.units) for places in range(1, len(shown.networks) + 1)]
    return Result(
        "comparison",
        "Classes of units in several networks",
        shown.agreement,
        {
            "networks": count(len(shown.networks), "networks"),
            "units": count(len(shown.units), "units matched"),
            "in_all": count(len(shown.in_all), "with one class in all"),
            "alpha": Quantity(shown.alpha, Grade.SAMPLED, "", "agreement beyond chance"),
        },
        {
            "pairs": _records("pairs", "Pairs of networks", pairs, rows),
            "units": _records("units", "Units", units, rows),
        },
        figures=(
            bars(
                "How many networks agree",
                "Units by the number of networks that give them their most frequent class.",
                "units",
                [f"{places} of {len(shown.networks)}" for places in range(1, len(shown.networks) + 1)],
                {"units": kept},
            ),
        ),
    )


def _records(name: str, title: str, records: Sequence[dict], rows: int | None) -> Table:
    keys = list(dict.fromkeys(key for record in records for key in record))
    return table(name, title, [(Column(key), [record.get(key) for record in records]) for key in keys], rows)


@result_of.register
def _(shown: Decision, rows: int | None) -> Result:
    columns = [(Column("class"), [shown.label]), (Column("score", "", "", shown.grade), [shown.score])]
    columns += [(Column("used", "samples visited"), [shown.used]), (Column("samples"), [shown.samples])]
    return Result(
        "decision",
        f"Class: {shown.label}",
        "Which class, and how many samples did it take?",
        {
            "score": Quantity(shown.score, shown.grade, "", f"score ({shown.label})", shown.low, shown.high),
            "used": count(shown.used, "samples visited"),
            "samples": count(shown.samples, "samples"),
        },
        {"decision": table("decision", "Decision", columns, rows)},
        figures=(
            bars("Score", _BELOW, "score", [shown.label], {"score": [shown.score]}, low=[shown.low], high=[shown.high]),
        ),
    )


@result_of.register
def _(shown: Gain, rows: int | None) -> Result:
    columns = [
        (Column("samples"), ["chosen on", "held out"]),
        (Column("performance", "", "", Grade.SAMPLED), [shown.chosen, shown.held_out]),
    ]
    return Result(
        "gain",
        f"Best threshold: {shown.filter}, stress {shown.stress:.2g}",
        "Does removing some of the weights help, also on samples it was not chosen by?",
        {
            "held_out": Quantity(
                shown.held_out, Grade.SAMPLED, "", "performance on held-out samples", shown.low, shown.high
            ),
            "chosen": Quantity(shown.chosen, Grade.SAMPLED, "", "where it was chosen"),
        },
        {"gain": table("gain", "Performance", columns, rows)},
        figures=(
            bars(
                "Performance of the best threshold",
                "Above 1 the filtered network does better. The first is the best of many, and so too good.",
                "performance",
                ["chosen on", "held out"],
                {"performance": [shown.chosen, shown.held_out]},
                low=[shown.chosen, shown.low],
                high=[shown.chosen, shown.high],
            ),
        ),
    )


@result_of.register
def _(shown: DistinctMasks, rows: int | None) -> Result:
    names = list(shown.rows)
    densities = {name: array(shown.density(name)) for name in names}
    thresholds = len(next(iter(densities.values()))) if names else 0
    columns = [(Column("threshold"), range(thresholds))]
    columns += [(Column(name, f"left by {name}", "share", Grade.EXACT), densities[name]) for name in names]
    caption = "Share of the weights that each filter leaves, over its thresholds."
    drawn = [line(name, densities[name]) for name in names]
    return Result(
        "masks",
        "Filters of one tensor",
        "How many different filtered tensors are there?",
        {
            "weights": count(shown.weight.numel(), "weights"),
            "filters": count(sum(len(each) for each in shown.rows.values()), "filters and thresholds"),
            "distinct": count(len(shown), "different tensors"),
        },
        {"density": table("density", "What is left", columns, rows)},
        figures=(lines("What filters leave", caption, range(thresholds), drawn, "threshold", "share left"),),
    )


@result_of.register
def _(shown: Variants, rows: int | None) -> Result:
    longest = max((len(each) for each in shown.density.values()), default=0)
    drawn = [
        line(name, [*array(each).tolist(), *[float("nan")] * (longest - len(each))])
        for name, each in shown.density.items()
    ]
    columns = [
        (Column("filter"), list(shown.rows)),
        (
            Column("variants", "different variants"),
            [len(set(array(each).tolist()) - {-1}) for each in shown.rows.values()],
        ),
        (
            Column("left", "left on average", "share", Grade.EXACT),
            [float(array(each).mean()) for each in shown.density.values()],
        ),
    ]
    return Result(
        "variants",
        f"Changed networks of {shown.name}",
        "How many different networks do the filters make?",
        {"units": count(len(shown.units), "units"), "variants": count(len(shown), "variants")},
        {"filters": table("filters", "Filters", columns, rows)},
        figures=(lines("What filters leave", "", range(longest), drawn, "threshold or draw", "share left"),),
    )


@result_of.register
def _(shown: Criticality, rows: int | None) -> Result:
    return _critical([shown], rows)


@result_of.register
def _(shown: Criticalities, rows: int | None) -> Result:
    return _critical(shown, rows)


def _critical(found: Sequence[Criticality], rows: int | None) -> Result:
    columns = [
        (Column("unit", "unit"), [row.unit for row in found]),
        (Column("weights", "weights"), [row.weights for row in found]),
        (
            Column("rise", "rise of the loss", "", Grade.SAMPLED, "By the worst change found."),
            [row.rise for row in found],
        ),
        (Column("drop", "loss of accuracy", "share", Grade.SAMPLED), [row.drop for row in found]),
        (Column("norm", "relative change", "", Grade.EXACT), [row.norm for row in found]),
    ]
    rises = [row.rise for row in found]
    summary = {
        "units": count(len(found), "units"),
        "rise": band(rises, "rise of the loss", Grade.SAMPLED, over="units"),
    }
    if found:
        worst = max(found, key=lambda row: row.rise)
        summary["most"] = Quantity(worst.rise, Grade.SAMPLED, "", f"most critical: {worst.unit}")
    names = [row.unit for row in found]
    if len(found) <= 2 * BARS:
        figure = bars(
            "Robust criticality", "Rise of the loss under the worst change found.", "rise", names, {"rise": rises}
        )
    else:
        caption = "Rise of the loss under the worst change found."
        figure = lines("Robust criticality", caption, range(len(found)), [line("rise", rises)], "unit", "rise")
    tables = {"units": table("units", "Units", columns, rows)}
    return Result(
        "criticality", "Robust criticality", "Which units must not be changed?", summary, tables, figures=(figure,)
    )


@result_of.register
def _(shown: Retraining, rows: int | None) -> Result:
    arms, measures = ["before", *shown.arms], shown.measures
    runs, differences = shown.run_records(), shown.difference_records()
    series = {}
    for measure in measures:
        each = [shown.accuracy(arm, measure) for arm in arms]
        series[measure] = [sum(values) / len(values) for values in each]
    summary = {
        "arms": count(len(shown.arms), "arms"),
        "seeds": count(len(shown.seeds), "seeds"),
        "chosen": count(len(shown.chosen), f"of {len(shown.units)} units retrained"),
    }
    if "selective" in shown.arms:
        for measure in measures:
            against = shown.difference("selective", "before", measure)
            summary[f"gain_{measure}"] = Quantity(
                against.mean,
                Grade.SAMPLED,
                "share",
                f"gain in {measure} accuracy",
                against.low,
                against.high,
                f"{against.level:.0%} over seeds",
            )
    return Result(
        "retraining",
        f"Selective retraining ({shown.select})",
        shown.summary,
        summary,
        {
            "differences": _records("differences", "Differences between arms", differences, rows),
            "runs": _records("runs", "Every arm under every seed", runs, rows),
        },
        figures=(bars("Accuracy by arm", "Mean over seeds, on the test samples.", "accuracy", arms, series),),
        warnings=shown.warnings,
    )
