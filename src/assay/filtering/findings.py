"""Rules of the filtering analysis: what the scores mean, in plain words."""

from __future__ import annotations

from collections import Counter

from assay.filtering.recording import Split
from assay.filtering.result import FilteringResult
from assay.filtering.scores import FEW
from assay.results import Finding, Status

SHOWN = 5


def findings(found: FilteringResult) -> tuple[Finding, ...]:
    """Every rule's outcome, passes too."""
    split: Split = "clean" if found.baseline.adversarial is None else "adversarial"
    rules = [_fragile(found, split), _decided(found, split), _held_out(found, split), _no_op(found)]
    if split == "adversarial":
        rules += [_few(found), _transfer(found)]
    return tuple(rules)


def _named(units: list[str]) -> str:
    rest = f" and {len(units) - SHOWN} more" if len(units) > SHOWN else ""
    return ", ".join(units[:SHOWN]) + rest


def _on(found: FilteringResult, split: Split) -> str:
    if split == "clean":
        return "on clean data"
    size = "" if found.epsilon is None else f", epsilon {found.epsilon:.3g}"
    return f"under the attack {found.config.attack} ({found.attack}{size})"


def _fragile(found: FilteringResult, split: Split) -> Finding:
    labels = found.labels(split)
    counts = Counter(labels.values())
    fragile = sorted(
        (unit for unit, label in labels.items() if label == "fragile"),
        key=lambda unit: found.score(unit, split=split).score,
    )
    tally = ", ".join(f"{counts[name]} {name}" for name in ("fragile", "robust", "antifragile", "undecided", "no-op",
                                                            "degenerate") if counts[name])  # fmt: skip
    sentence = f"Of {len(labels)} units {tally} {_on(found, split)} (sampled on {len(found.baseline.clean)} inputs)."
    if not fragile:
        return Finding("filtering.fragile_units", Status.PASS, f"No unit is fragile. {sentence}")
    row = found.score(fragile[0], split=split)
    return Finding(
        "filtering.fragile_units",
        Status.WARN,
        f"{sentence} Fragile: {_named(fragile)}; the lowest score is {row.score:.3f} [{row.low:.3f}, {row.high:.3f}].",
        place=fragile[0],
        next_step="Leave these units alone when pruning or quantising, and protect them first; the label holds for "
        "this attack, this epsilon and these data.",
    )


def _decided(found: FilteringResult, split: Split) -> Finding:
    labels = found.labels(split)
    open_ones = [unit for unit, label in labels.items() if label == "undecided"]
    if not open_ones:
        return Finding("filtering.decided", Status.PASS, "Every unit has a class: no interval straddles a limit.")
    status = Status.WARN if 2 * len(open_ones) > len(labels) else Status.PASS
    widths = [found.score(unit, split=split).high - found.score(unit, split=split).low for unit in open_ones]
    width = sorted(widths)[len(widths) // 2]
    return Finding(
        "filtering.decided",
        status,
        f"{len(open_ones)} of {len(labels)} units are undecided: their intervals (median width {width:.3f}) straddle "
        f"a limit at ±{found.config.tau:g}. Undecided: {_named(open_ones)}.",
        next_step="Use more inputs: four times as many halve the width of an interval."
        if status is Status.WARN
        else "",
    )


def _held_out(found: FilteringResult, split: Split) -> Finding:
    gains = found.gains(split)
    better = sorted((unit for unit in gains if gains[unit].antifragile), key=lambda unit: -gains[unit].held_out)
    promised = sum(gain.chosen > 1 for gain in gains.values())
    if not better:
        return Finding(
            "filtering.gain",
            Status.PASS,
            f"No filter makes the network better on samples that did not choose it, {_on(found, split)}; on those that "
            f"did, {promised} of {len(gains)} units looked better.",
        )
    gain = gains[better[0]]
    return Finding(
        "filtering.gain",
        Status.PASS,
        f"{len(better)} of {len(gains)} units have a filter that makes the network better on held-out samples "
        f"{_on(found, split)} (chosen on the other half, where {promised} looked better): {_named(better)}. The "
        f"largest gain is {gain.held_out:.3f} times [{gain.low:.3f}, {gain.high:.3f}] the unfiltered performance, by "
        f"the {gain.filter} filter at stress {gain.stress:.2f}.",
        place=better[0],
        next_step="Check the gain with a stronger attack made anew on the filtered network before using it.",
    )


def _no_op(found: FilteringResult) -> Finding:
    nothing = [
        unit for unit in found.units if any(label.label in ("no-op", "degenerate") for label in _mean_rows(found, unit))
    ]
    if not nothing:
        return Finding("filtering.no_op", Status.PASS, "Every filter removed weights from every unit.")
    return Finding(
        "filtering.no_op",
        Status.WARN,
        f"In {len(nothing)} units filters change nothing (all weights zero, or all equal): {_named(nothing)}. They "
        "have no class, rather than the class robust.",
        place=nothing[0],
        next_step="Check whether these layers are used at all.",
    )


def _mean_rows(found: FilteringResult, unit: str):
    return [row for row in found.scores[found.attack, unit].rows if row.filter == "mean" and row.split == "clean"]


def _few(found: FilteringResult) -> Finding:
    attacked = found.baseline.adversarial
    assert attacked is not None
    if attacked.dtype != bool:
        return Finding("filtering.few_correct", Status.PASS, "Performance is not a count of correct samples.")
    right = int(attacked.sum())
    level = f"{right} of {len(attacked)} attacked inputs ({right / len(attacked):.1%}), clean "
    level += f"{found.baseline.clean.mean():.1%}"
    if right < FEW:
        return Finding(
            "filtering.few_correct",
            Status.WARN,
            f"The unfiltered network gets only {level}: adversarial scores are relative to this and noisy.",
            next_step="Use more inputs or a smaller epsilon.",
        )
    return Finding("filtering.few_correct", Status.PASS, f"The unfiltered network gets {level}.")


def _transfer(found: FilteringResult) -> Finding:
    """How many labels owe to an attack that was made for another network."""
    limit, cells, kept, fragile = found.config.tau, 0, 0, 0
    for unit in found.adaptive if found.static else ():
        for name in found.adaptive[unit]:
            if name not in found.config.filters or found.static[unit][name].adversarial is None:
                continue
            if found.score(unit, name, "difference", attack="static").score > limit:
                after = found.score(unit, name, "difference", attack="adaptive").score
                cells, kept, fragile = cells + 1, kept + (after > limit), fragile + (after < -limit)
    if not cells:
        adaptive_only = found.config.mode == "adaptive"
        sentence = (
            "Every filtered network was attacked anew."
            if adaptive_only
            else "No filter seems to help against the attack made on the unfiltered network."
            if found.config.mode != "static"
            else "The attack was made once, on the unfiltered network: a filter that seems to help may only break it."
        )
        status = Status.WARN if found.config.mode == "static" else Status.PASS
        step = "Run with mode screen or both to attack filtered networks anew." if status is Status.WARN else ""
        return Finding("filtering.transfer", status, sentence, next_step=step)
    status = Status.WARN if kept < cells else Status.PASS
    return Finding(
        "filtering.transfer",
        status,
        f"{cells} pairs of layer and filter seem antifragile (better off without some weights) when the attack is made "
        f"on the unfiltered network; attacked anew through the filter, {kept} still {_verb(kept, 'does', 'do')} and "
        f"{fragile} {_verb(fragile, 'turns', 'turn')} fragile.",
        next_step="Trust the adaptive column: a static attack that fails on a changed network is no robustness."
        if status is Status.WARN
        else "",
    )


def _verb(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
