"""Put the tables and the figure of `benchmarks/bench_filtering_networks.py` into docs/filtering_results.md.

    python tools/make_filtering_page.py [--results FOLDER] [--page FILE]

The page has places of the form <!-- begin NAME --> ... <!-- end NAME -->; what stands between is replaced by what NAME
makes of the results. No number of the page is typed by hand.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import cyclopts
from scipy.stats import spearmanr

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "out" / "filtering_networks"
PAGE = PROJECT / "docs" / "filtering_results.md"
FIGURE = "images/filtering_results.png"
CLASSES = ("fragile", "robust", "antifragile", "undecided")
COLOURS = {"fragile": "#c0392b", "robust": "#7f8c8d", "antifragile": "#2471a3", "undecided": "#d4ac0d"}
SIGNS = {
    "fragile": "F",
    "robust": "R",
    "antifragile": "A",
    "undecided": "?",
    "no-op": "no-op",
    "degenerate": "one value",
}
SPLITS = ("clean", "adversarial", "difference")
MADE: dict[str, Callable[[Results], str]] = {}

Cell = dict[str, Any]


class Results:
    """Everything the benchmark wrote, in the order of its plan."""

    def __init__(self, folder: Path) -> None:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        found = {name: folder / f"{name}.json" for name in plan}
        self.sweeps: list[dict[str, Any]] = [
            json.loads(file.read_text(encoding="utf-8")) for file in found.values() if file.exists()
        ]
        self.comparisons: list[dict[str, Any]] = json.loads((folder / "comparisons.json").read_text(encoding="utf-8"))

    @property
    def main(self) -> list[dict[str, Any]]:
        """One sweep of every network and data set: the last epoch of the first seed."""
        return [sweep for sweep in self.sweeps if sweep["main"]]


def cells(sweep: dict[str, Any], **wanted: str) -> list[Cell]:
    """Scores in the order of the units, those that have all the values asked for."""
    return [cell for cell in sweep["cells"] if all(cell[name] == value for name, value in wanted.items())]


def per_unit(sweep: dict[str, Any], split: str, attack: str = "static", reference: str = "compressed") -> list[Cell]:
    """The mean over the filters, of every unit."""
    return cells(sweep, filter="mean", split=split, attack=attack, reference=reference)


def made(function: Callable[[Results], str]) -> Callable[[Results], str]:
    """Register what fills a place of the page."""
    MADE[function.__name__] = function
    return function


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def signed(value: float) -> str:
    """A score to three digits, with its sign."""
    return f"{value:+.3f}"


@made
def networks(results: Results) -> str:
    """What was swept, and at what cost."""
    columns = ("network", "data", "inputs", "clean", "epsilon", "attacked", "units", "filtered networks", "CPU minutes")
    return table(
        columns,
        (
            (
                sweep["title"], sweep["data"], f"{sweep['images']} of {'x'.join(map(str, sweep['shape']))}",
                f"{sweep['clean']:.1%}", f"{sweep['epsilon']:.4f}", f"{sweep['adversarial']:.1%}",
                str(len(sweep["units"])), f"{sweep['networks']:,} + {sweep['attacked_anew']:,}",
                "" if sweep["seconds"] is None else f"{sweep['seconds'] / 60:.1f}",
            )
            for sweep in results.sweeps
        ),
    )  # fmt: skip


@made
def training(results: Results) -> str:
    """How the networks were trained."""
    rows = []
    for sweep in results.sweeps:
        facts = sweep["facts"]
        if facts:
            rows.append(
                (
                    sweep["title"], sweep["data"], facts["images"], facts["epoch"], facts["rate"],
                    f"{float(facts['loss']):.2f}", f"{float(facts['test_accuracy']):.1%} of {facts['tested']}",
                )
            )  # fmt: skip
    return table(("network", "data", "training pictures", "epochs", "rate", "training loss", "test accuracy"), rows)


@made
def classes(results: Results) -> str:
    """Counts of classes."""
    columns = ("network, data", "score", "reference", *CLASSES, "median width of interval")
    rows = []
    for sweep in results.main:
        for split, reference in (*((split, "compressed") for split in SPLITS), ("adversarial", "unfiltered")):
            found = per_unit(sweep, split, reference=reference)
            count = Counter(cell["label"] for cell in found)
            width = median(cell["high"] - cell["low"] for cell in found)
            rows.append((named(sweep), split, reference, *(str(count[label]) for label in CLASSES), f"{width:.3f}"))
    return table(columns, rows)


def reattacked(sweep: dict[str, Any]) -> tuple[list[Cell], list[Cell]]:
    """Differences of the cells that were attacked anew: with the static attack, and with the adaptive one."""
    groups = [
        {
            (cell["unit"], cell["filter"]): cell
            for cell in cells(sweep, attack=attack, split="difference", reference="compressed")
            if cell["filter"] != "mean"
        }
        for attack in ("static", "adaptive")
    ]
    both = [key for key in groups[0] if key in groups[1]]
    return [groups[0][key] for key in both], [groups[1][key] for key in both]


@made
def adaptive(results: Results) -> str:
    """What becomes of cells that look antifragile once the attack is made anew through every filtered network."""
    columns = (
        "network, data", "cells", "attacked anew: static S_diff above", "stay above tau", "fall below -tau",
        "median shift", "antifragile by interval: static", "adaptive",
    )  # fmt: skip
    rows = []
    for sweep in results.main:
        tau, (static, anew) = sweep["tau"], reattacked(sweep)
        shift = [after["score"] - before["score"] for before, after in zip(static, anew, strict=True)]
        rows.append(
            (
                named(sweep), str(len(sweep["units"]) * (len(sweep["filters"]) - 1)),
                f"{len(anew)}: {sweep['screen']:g}",
                str(sum(cell["score"] > tau for cell in anew)), str(sum(cell["score"] < -tau for cell in anew)),
                signed(median(shift)) if shift else "",
                *(str(sum(cell["label"] == "antifragile" for cell in group)) for group in (static, anew)),
            )
        )  # fmt: skip
    return table(columns, rows)


@made
def summary(results: Results) -> str:
    """The sentences of the page that hold numbers."""
    sweeps = results.main
    total = len(sweeps)
    static, anew = ([cell for sweep in sweeps for cell in reattacked(sweep)[which]] for which in (0, 1))
    tau = sweeps[0]["tau"]
    antifragile = [sum(cell["label"] == "antifragile" for cell in group) for group in (static, anew)]
    attacked = [cell["label"] for sweep in sweeps for cell in per_unit(sweep, "adversarial")]
    alone = [cell["label"] for sweep in sweeps for cell in per_unit(sweep, "adversarial", reference="unfiltered")]
    robust = sum(cell["label"] == "robust" for sweep in sweeps for split in SPLITS for cell in per_unit(sweep, split))
    firsts = [per_unit(sweep, "clean")[0]["label"] for sweep in sweeps]
    gains = [gain for sweep in sweeps for gain in sweep["gains"]]
    rank = {split: [with_depth(sweep, split)[0] for sweep in sweeps] for split in SPLITS}
    above, below = (sum(sign * cell["score"] > tau for cell in anew) for sign in (1, -1))
    chosen, held = (median(gain[name] for gain in gains) for name in ("chosen", "held_out"))
    lines = [
        f"- **The attack decides.** Of {len(static)} cells that look antifragile by S_diff under the static attack and "
        f"were attacked anew, {above} stay above {tau:g} and {below} fall below -{tau:g}; by their intervals, "
        f"{antifragile[0]} were antifragile before and {antifragile[1]} are afterwards.",
        "- **Early layers carry the clean performance.** The rank correlation of S_clean with depth is "
        f"{span(rank['clean'])} over the {total} sweeps, and the first layer is fragile in "
        f"{firsts.count('fragile')} of them. For S_adv (static) it is {span(rank['adversarial'])}, for S_diff "
        f"{span(rank['difference'])}.",
        f"- **The reference decides, too.** Against what is left of the unit, {attacked.count('antifragile')} of "
        f"{len(attacked)} units are antifragile under the static attack; against the unfiltered network "
        f"{alone.count('antifragile')} are, and {alone.count('fragile')} are fragile.",
        f"- **Single thresholds.** {sum(gain['chosen'] > 1 for gain in gains)} of {len(gains)} units have a threshold "
        f"that beats the unfiltered network under the static attack on the half it was chosen on, with p = "
        f"{chosen:.2f} in the middle; on the other half it is {held:.2f}, and the interval lies above 1 for "
        f"{sum(gain['antifragile'] for gain in gains)}.",
        f"- **Robust** in the strict sense (the whole interval within {tau:g}) are {robust} of "
        f"{len(attacked) * len(SPLITS)} unit scores: so few pictures cannot show that something does not matter.",
    ]
    kinds = dict.fromkeys(group["kind"] for group in results.comparisons)
    for kind in kinds:
        found = [group for group in results.comparisons if group["kind"] == kind]
        ranges = [
            f"{span([pair['spearman'] for group in found for pair in group['splits'][split]['pairs']])} ({split})"
            for split in SPLITS
        ]
        lines.append(f"- **{kind.capitalize()}**: rank correlations of unit scores are {', '.join(ranges)}.")
    return "\n".join(lines)


def span(values: Sequence[float]) -> str:
    """Smallest and largest of some correlations."""
    low, high = f"{min(values):+.2f}", f"{max(values):+.2f}"
    return low if low == high else f"{low} to {high}"


def named(sweep: dict[str, Any]) -> str:
    """Network and data."""
    return f"{sweep['title']}, {sweep['data']}"


def with_depth(sweep: dict[str, Any], split: str) -> tuple[float, float]:
    """Rank correlation of scores with the order of the units, and the probability of one so large by chance."""
    found = spearmanr(range(len(sweep["units"])), [cell["score"] for cell in per_unit(sweep, split)])
    return float(found.statistic), float(found.pvalue)


@made
def depth(results: Results) -> str:
    """Whether early units are fragile and late ones robust."""
    columns = (
        "network, data",
        "split",
        "rank correlation with depth",
        "p",
        "first unit",
        "last unit",
        "lowest",
        "highest",
    )
    rows = []
    for sweep in results.main:
        for split in SPLITS:
            found = per_unit(sweep, split)
            correlation, probability = with_depth(sweep, split)
            ordered = sorted(found, key=lambda cell: cell["score"])
            rows.append(
                (
                    named(sweep), split, f"{correlation:+.2f}", f"{probability:.2g}",
                    shown(found[0]), shown(found[-1]),
                    *(", ".join(f"`{cell['unit']}`" for cell in few) for few in (ordered[:2], ordered[:-3:-1])),
                )
            )  # fmt: skip
    return table(columns, rows)


@made
def comparisons(results: Results) -> str:
    """Agreement of scores and classes between the sweeps of a group."""
    columns = (
        "what differs", "network", "sweeps", "units", *(f"rank correlation, {split}" for split in SPLITS),
        "one class in all: clean", "adversarial", "agreement beyond chance: clean", "adversarial",
    )  # fmt: skip
    rows = []
    for group in results.comparisons:
        splits = group["splits"]
        few = [splits["clean"], splits["adversarial"]]
        rows.append(
            (
                group["kind"], group["what"], str(len(group["networks"])), str(splits["clean"]["units"]),
                *(ranks(splits[split]["pairs"]) for split in SPLITS),
                *(str(split["in_all"]) for split in few),
                *("" if split["alpha"] is None else f"{split['alpha']:+.2f}" for split in few),
            )
        )  # fmt: skip
    return table(columns, rows)


def ranks(pairs: Sequence[dict[str, Any]]) -> str:
    """Rank correlations of all pairs; a star where the interval holds no zero."""
    return ", ".join(
        f"{pair['spearman']:.2f}" + ("*" if pair["spearman_low"] > 0 or pair["spearman_high"] < 0 else "")
        for pair in pairs
    )


@made
def held_out(results: Results) -> str:
    """Units for which some threshold makes the network better under attack, chosen on one half, tested on the other."""
    columns = (
        "network, data", "attack", "units", "p > 1 where chosen", "p > 1 held out", "interval above 1",
        "median p chosen", "median p held out",
    )  # fmt: skip
    rows = []
    for sweep in results.main:
        gains = sweep["gains"]
        rows.append(
            (
                named(sweep), "static", str(len(gains)),
                str(sum(gain["chosen"] > 1 for gain in gains)), str(sum(gain["held_out"] > 1 for gain in gains)),
                str(sum(gain["antifragile"] for gain in gains)), f"{median(gain['chosen'] for gain in gains):.2f}",
                f"{median(gain['held_out'] for gain in gains):.2f}",
            )
        )  # fmt: skip
    return table(columns, rows)


def shown(cell: Cell) -> str:
    """A score with its class."""
    return f"{signed(cell['score'])} {SIGNS[cell['label']]}"


@made
def units(results: Results) -> str:
    """Every unit of every network, folded away."""
    parts = []
    for sweep in results.main:
        anew = {cell["unit"]: cell for cell in per_unit(sweep, "adversarial", "adaptive")}
        columns = {split: per_unit(sweep, split) for split in SPLITS}
        rows = []
        for clean, attacked, difference in zip(*columns.values(), strict=True):
            unit = clean["unit"]
            interval = f"{signed(attacked['low'])} to {signed(attacked['high'])}"
            again = shown(anew[unit]) if unit in anew else ""
            rows.append((f"`{unit}`", shown(clean), shown(attacked), interval, shown(difference), again))
        titles = ("unit", "S_clean", "S_adv static", "95 %", "S_diff static", "S_adv adaptive")
        summary = f"{named(sweep)}: {len(rows)} units"
        parts.append(f"<details><summary>{summary}</summary>\n\n{table(titles, rows)}\n\n</details>")
    return "\n\n".join(parts)


@made
def figure(results: Results) -> str:
    """Draw the scores of all units; the place holds the link to the picture."""
    return f"![Scores of every unit in order of depth, by network]({FIGURE})"


def draw(results: Results, file: Path) -> None:
    """One panel per network: units in the order of the network, adversarial score with interval, coloured by class."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sweeps = results.main
    rows = -(-len(sweeps) // 2)
    canvas, axes = pyplot.subplots(rows, 2, figsize=(11, 2.3 * rows), squeeze=False, layout="constrained")
    for axis, sweep in zip(axes.flat, sweeps, strict=False):
        axis.axhspan(-sweep["tau"], sweep["tau"], color="0.9")
        clean = [cell["score"] for cell in per_unit(sweep, "clean")]
        axis.plot(range(len(clean)), clean, "_", color="0.55", label="clean")
        for index, cell in enumerate(per_unit(sweep, "adversarial")):
            colour = COLOURS.get(cell["label"], "0.5")
            axis.plot([index, index], [cell["low"], cell["high"]], color=colour, linewidth=1)
            axis.plot(index, cell["score"], "o", color=colour, markersize=3.5)
        axis.set_title(named(sweep), fontsize=9)
        axis.tick_params(labelsize=7)
    for axis in axes.flat[len(sweeps) :]:
        axis.axis("off")
    for label, colour in COLOURS.items():
        axes.flat[0].plot([], [], "o", color=colour, markersize=3.5, label=label)
    canvas.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    canvas.supylabel("score, mean over filters", fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(file, dpi=100)
    pyplot.close(canvas)


def filled(page: str, results: Results) -> str:
    """The page with every place filled anew.

    Returns:
        The page.

    Raises:
        KeyError: for a place whose name is not known.
    """

    def replaced(match: re.Match[str]) -> str:
        return f"<!-- begin {match[1]} -->\n\n{MADE[match[1]](results)}\n\n<!-- end {match[1]} -->"

    return re.sub(r"<!-- begin (\w+) -->.*?<!-- end \1 -->", replaced, page, flags=re.DOTALL)


def main(*, results: Path = RESULTS, page: Path = PAGE) -> None:
    """Fill the page.

    Args:
        results: folder the benchmark wrote to.
        page: the page.
    """
    found = Results(results)
    draw(found, page.parent / FIGURE)
    page.write_text(filled(page.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    cyclopts.run(main)
