"""Write docs/boundary_results.md from what `benchmarks/bench_boundary_study.py` stored.

    python tools/make_boundary_page.py STUDY.json [MORE.json ...] [--out PAGE]

What stands above the mark in the page is written by hand and stays.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cyclopts

PAGE = Path(__file__).resolve().parents[1] / "docs" / "boundary_results.md"
KINDS = ("image-image", "image-perturbed", "image-noise", "perturbed-perturbed")


def main(*studies: Path, out: Path = PAGE) -> None:
    """Tables of every network, after the claims written by hand.

    Args:
        studies: stored results; later ones replace earlier ones of the same name.
        out: the page.
    """
    found: dict[str, Any] = {}
    for file in studies:
        found |= json.loads(file.read_text(encoding="utf-8"))
    parts = [distances(found), curvatures(found), profiles(found), paths(found), subspaces(found), areas(found)]
    parts += [combined(found), recovered(found), evaded(found)]
    text = out.read_text(encoding="utf-8") if out.exists() else MARK
    before = text[: text.index(MARK)] if MARK in text else text
    out.write_text(before + MARK + "\n\n" + "\n\n".join(parts) + "\n", encoding="utf-8")


MARK = "<!-- from here on written by tools/make_boundary_page.py -->"


def table(title: str, note: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A section with one Markdown table."""
    lines = [f"## {title}", "", note, "", _line(columns), _line(["---"] * len(columns))]
    return "\n".join([*lines, *(_line(row) for row in rows)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def share(value: float) -> str:
    """A share as a percentage."""
    return f"{value:.0%}"


def distances(found: dict[str, Any]) -> str:
    """How far the boundary is."""
    rows = []
    for name, one in found.items():
        d = one["distances"]
        rows.append(
            [
                name,
                str(one["pictures"]),
                share(d["deepfool_success"]),
                f"{d['deepfool_median']:.3f}",
                f"{d['median']:.3f}",
                f"{d['refined_over_deepfool']:.3f}",
                share(d["relative"]),
                f"{d['cosine_median']:.4f}",
                share(d["pair_valid"]),
            ]
        )
    return table(
        "Distances",
        "Rightly classified test pictures, values in [0, 1], no box. Medians.",
        (
            "network",
            "pictures",
            "DeepFool succeeds",
            "DeepFool",
            "nearest found",
            "ratio",
            "of the norm",
            "cosine",
            "pair valid",
        ),
        rows,
    )


def curvatures(found: dict[str, Any]) -> str:
    """Mean curvature at nearest points and at control points."""
    rows = []
    for name, one in found.items():
        for label in ("stated", "control"):
            if label not in one.get("curvature", {}):
                continue
            block = one["curvature"][label]
            scale = "exact" if block["scale"] is None else f"{block['scale']:.3g}"
            cells = [name, scale]
            for kind in ("nearest", "between", "random"):
                each = block[kind]
                cells.append(
                    f"{each['mean']:.4f} [{each['low']:.4f}, {each['high']:.4f}]; {each['negative']:.0%} "
                    f"[{each['negative_low']:.0%}, {each['negative_high']:.0%}]"
                )
            rows.append(cells)
    return table(
        "Mean curvature, and its controls",
        "Mean over points with its 95 % interval; share of points where it is negative, with its Wilson interval. The "
        "control columns are boundary points that are not nearest to a picture.",
        ("network", "scale", "nearest points", "between pictures", "random directions"),
        rows,
    )


def profiles(found: dict[str, Any]) -> str:
    """Principal curvatures."""
    rows = []
    for name, one in found.items():
        p = one.get("curvature", {}).get("principal")
        if p is None:
            continue
        checks = [value for value in p["second_order"] if value == value]
        rows.append(
            [
                name,
                p["estimator"],
                ", ".join(f"{value:.2g}" for value in p["top"][:3]),
                ", ".join(f"{value:.2g}" for value in p["bottom"][-3:]),
                "" if p["small_share"] != p["small_share"] else share(p["small_share"]),
                f"{max(checks):.2f}" if checks else "",
            ]
        )
    return table(
        "Principal curvatures",
        "Averages over ten inputs (two for photos) of the three largest and the three smallest; share of directions "
        "with less than a tenth of the point's |curvature|, where all are known; largest R kappa_max.",
        ("network", "estimator", "largest", "smallest", "nearly flat", "R kappa_max"),
        rows,
    )


def paths(found: dict[str, Any]) -> str:
    """Paths between pairs."""
    rows = []
    for name, one in found.items():
        for kind in KINDS:
            each = one.get("paths", {}).get(kind)
            if each is None:
                continue
            rows.append(
                [
                    name,
                    kind,
                    str(each["pairs"]),
                    share(each["straight"]),
                    f"{share(each['connected'])} (from {share(each['low'])})",
                    str(each["certified"]),
                    f"{each['length_median']:.3f} / {each['length_max']:.3f}",
                    f"{each['anchors']:.1f}",
                ]
            )
    return table(
        "Paths inside a class region",
        "Share of pairs with a path (lower end of the Wilson interval), paths proven segment by segment, length over "
        "the straight distance (median / largest), anchors.",
        ("network", "pairs", "number", "straight", "path found", "certified", "length", "anchors"),
        rows,
    )


def subspaces(found: dict[str, Any]) -> str:
    """Shared directions, noise in them, distances in random subspaces."""
    rows = []
    for name, one in found.items():
        s = one.get("subspaces")
        if s is None:
            continue
        at = s["sizes"].index(min(s["sizes"], key=lambda size: abs(size - 0.4)))
        rates = s["rates"]
        low, high = s["curved_less_gradient"][1:]
        rows.append(
            [
                name,
                ", ".join(f"{value:.0f}" for value in s["relative_curvature"]),
                f"{s['relative_curvature_last']:.2f}",
                *(share(rates[kind][at]) for kind in ("curved", "flat", "gradient", "random", "full")),
                f"{s['curved_less_gradient'][0]:+.0%} [{low:+.0%}, {high:+.0%}]",
                f"{share(s['curved_gradient_overlap'])} ({share(s['chance_overlap'])})",
                ", ".join(f"{float(beta):.2f}" for beta in s["semi_random"].values()),
            ]
        )
    return table(
        "Shared curved directions, and the control",
        "Curvature along shared directions over that along random ones on unseen points (first five, mean of the last "
        "fifty); decisions flipped by noise of 0.4 input norms in subspaces of one dimension; curved less gradient, "
        "and their overlap (by chance); distance in random subspaces of 25, 100 and 400 dimensions over the flat law.",
        (
            "network",
            "shared",
            "last",
            "curved",
            "flat",
            "gradient",
            "random",
            "full",
            "curved - gradient",
            "overlap",
            "semi-random",
        ),
        rows,
    )


def areas(found: dict[str, Any]) -> str:
    """Areas of single statistics."""
    rows = []
    for name, one in found.items():
        if "detection" not in one:
            continue
        every = one["detection"]["every"]
        for title in dict.fromkeys(row["set"] for row in every if row["set"] != "clean"):
            by = {row["statistic"]: row for row in every if row["set"] == title and row["auc"] is not None}
            own = by["kappa_at_boundary"]
            rows.append(
                [
                    name,
                    title,
                    str(own["samples"]),
                    f"{own['auc']:.3f} [{own['low']:.3f}, {own['high']:.3f}]",
                    *(
                        f"{by[kind]['auc']:.3f}"
                        for kind in ("kappa_at_sample", "drift", "smoothed_margin", "logit_gap", "distance")
                    ),
                ]
            )
    return table(
        "Detection",
        "Area under the ROC curve against clean pictures, single statistics; for noise, 0.5 is what a detector of "
        "tampering should have.",
        (
            "network",
            "set",
            "samples",
            "curvature at the boundary",
            "at the sample",
            "drift",
            "smoothed margin",
            "logit gap",
            "distance",
        ),
        rows,
    )


def combined(found: dict[str, Any]) -> str:
    """Areas of combinations."""
    rows = []
    for name, one in found.items():
        every = one.get("detection", {}).get("every", [])
        for kind in ("combination, clean only", "combination, knows DeepFool x 2"):
            for row in every:
                if row["statistic"] != kind or row["auc"] is None:
                    continue
                lead = row["lead"]
                rows.append(
                    [
                        name,
                        row["set"],
                        kind.removeprefix("combination, "),
                        f"{row['auc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
                        "" if lead is None else f"{lead[0]:+.3f} [{lead[1]:+.3f}, {lead[2]:+.3f}]",
                        row["best_single"].replace("_", " "),
                    ]
                )
    return table(
        "Combinations",
        "Calibrated combinations of all statistics; `lead` is over the single statistic that is best on that very set, "
        "chosen with hindsight (DeLong's interval).",
        ("network", "set", "learned from", "AUC", "lead", "best single"),
        rows,
    )


def recovered(found: dict[str, Any]) -> str:
    """Recovered labels."""
    rows = []
    for name, one in found.items():
        for title, rules in one.get("detection", {}).get("recovery", {}).items():
            rows.append(
                [
                    name,
                    title,
                    *(
                        share(rules[rule])
                        for rule in ("smoothed_runner_up", "nearest_class", "runner_up_logit", "class_curvature")
                    ),
                ]
            )
    return table(
        "Recovery of labels",
        "Share of tampered pictures whose class before was named.",
        ("network", "set", "smoothed runner-up (default)", "nearest class", "runner-up", "class curvature (paper)"),
        rows,
    )


def evaded(found: dict[str, Any]) -> str:
    """The adaptive attacker."""
    rows = []
    for name, one in found.items():
        e = one.get("detection", {}).get("evasion")
        if e is not None:
            rows.append(
                [
                    name,
                    f"{e['epsilon']:.3g}",
                    str(e["inputs"]),
                    share(e["oblivious_misclassified"]),
                    share(e["oblivious"]),
                    f"{share(e['success'])} [{share(e['low'])}, {share(e['high'])}]",
                ]
            )
    return table(
        "The attacker who knows the detector",
        "Changes of twice the median distance: misclassified by plain projected gradients, of these not flagged, and "
        "misclassified and not flagged by the attacker who knows the detector.",
        ("network", "size", "pictures", "misclassified", "and not flagged", "knowing the detector"),
        rows,
    )


if __name__ == "__main__":
    cyclopts.run(main)
