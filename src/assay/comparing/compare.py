"""Two audits in, one result out: quantities, checks and layers that differ, in tables, findings and pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from assay._version import __version__
from assay.comparing import checks, conditions, layers
from assay.comparing.figures import figures
from assay.comparing.quantities import Difference, Verdict, differences
from assay.errors import UsageError
from assay.grade import Grade, combine
from assay.results import Audit, Column, Finding, Provenance, Quantity, Result, Status, Table
from assay.results.paths import statistic

NAME = "compare"
LEVEL = 0.95
SMALLEST = 1e-3
RESAMPLES = 9999


def compare(
    before: Audit,
    after: Audit,
    *,
    level: float = LEVEL,
    smallest: float = SMALLEST,
    resamples: int = RESAMPLES,
) -> Result:
    """What got better or worse from one run to another.

    Every quantity that both summaries have is compared. Where both runs hold its values for the same inputs, the
    difference is judged by paired permutation and bootstrap; for other inputs by the unpaired ones; else by the
    intervals of confidence of both. The false discovery rate over all differences tested is controlled (Benjamini,
    Hochberg 1995). A difference is better or worse where the analysis says which way a model is better.

    Args:
        before: the first run.
        after: the second run.
        level: of intervals; 1 - level of the differences called real may be chance.
        smallest: relative differences below this count as none.
        resamples: bootstrap and permutation draws; at least 999.

    Returns:
        Result ``compare`` with tables ``quantities``, ``findings``, ``layer_changes`` and ``layers``.

    Raises:
        UsageError: for runs without an analysis in common, or settings out of range.

    Example:
        >>> from assay.results import Audit, Quantity, Result
        >>> def run(value):
        ...     accuracy = Quantity(
        ...         value,
        ...         Grade.SAMPLED,
        ...         label="accuracy",
        ...         better="higher",
        ...         low=value - 0.02,
        ...         high=value + 0.02,
        ...         confidence=0.95,
        ...     )
        ...     return Audit({}, {"a": Result("a", "A", "", {"accuracy": accuracy})})
        >>> compare(run(0.9), run(0.8)).findings[0].status.value
        'warn'
    """
    _check(level, smallest, resamples)
    shared = conditions.common(before, after)
    found = differences(before, after, shared, level=level, smallest=smallest, resamples=resamples)
    changed = checks.changed(before, after, shared)
    cells, note = layers.cells(before, after, shared)
    tables = {"quantities": _table(found, level)}
    if changed:
        tables["findings"] = checks.table(changed)
    if any(cell.size > 0 for cell in cells):
        tables["layer_changes"] = layers.changes_table(cells)
    ratios = layers.ratio_table(cells)
    if ratios is not None:
        tables["layers"] = ratios
    return Result(
        name=NAME,
        title="Before and after",
        question=f"What is better or worse in {_name(after)} than in {_name(before)}?",
        summary=_summary(found),
        tables=tables,
        figures=figures(before, after, found),
        findings=_findings(found, changed, shared),
        warnings=(
            *conditions.warnings(before, after, shared),
            *([note] if note else []),
            _about_chance(found, level),
        ),
        provenance=_provenance(before, after, {"level": level, "smallest": smallest, "resamples": resamples}),
    )


def joined(before: Audit, after: Audit, result: Result) -> Audit:
    """A run that holds a comparison, with the graph of the second model.

    Args:
        before: the first run.
        after: the second run.
        result: what `compare` found.

    Returns:
        A run to save, show or check.

    Example:
        >>> from assay.results import Audit, Quantity
        >>> def run(name, kappa):
        ...     result = Result("sensitivity", "", "", {"kappa": Quantity(kappa, Grade.LINEARISED)})
        ...     return Audit({"name": name}, {"sensitivity": result})
        >>> both = run("net", 12.0), run("net, 8 bits", 13.0)
        >>> joined(*both, compare(*both)).subject["name"]
        'net → net, 8 bits'
    """
    subject = {
        "name": f"{_name(before)} → {_name(after)}",
        "data": " → ".join(dict.fromkeys(str(run.subject.get("data") or "unknown") for run in (before, after))),
        "before": _told(before),
        "after": _told(after),
    }
    for key in ("class_names", "outputs", "input_shape", "task", "preprocessing", "samples"):
        if before.subject.get(key) is not None and before.subject.get(key) == after.subject.get(key):
            subject[key] = after.subject[key]
    return Audit(subject, {result.name: result}, {}, after.graph_svg, after.nodes)


def worse(result: Result) -> int:
    """How many quantities of a comparison got worse."""
    return int(result.summary["worse"].value)


def _check(level: float, smallest: float, resamples: int) -> None:
    if not 0.5 <= level < 1:
        raise UsageError(f"The level must lie between 0.5 and 1, not {level:g}.", where="level", advice="Try 0.95.")
    if not 0 <= smallest < 1:
        raise UsageError(f"It must lie between 0 and 1, not {smallest:g}.", where="smallest", advice="Try 0.001.")
    if resamples < 999:
        raise UsageError(f"{resamples} resamples are too few.", where="resamples", advice="Take 999 or more.")


def _name(run: Audit) -> str:
    return str(run.subject.get("name") or "the model")


def _told(run: Audit) -> str:
    digest = str(run.subject.get("model_digest") or "")
    return f"{_name(run)}, digest {digest[:16]}" if digest else _name(run)


def _identity(run: Audit) -> dict[str, Any]:
    keys = ("name", "model_digest", "data", "data_digest")
    return {key: run.subject[key] for key in keys if run.subject.get(key)}


def _table(found: Sequence[Difference], level: float) -> Table:
    columns = (
        Column("analysis", "analysis"),
        Column("quantity", "quantity"),
        Column("label", "what it is"),
        Column("verdict", "verdict"),
        Column("before", "before"),
        Column("after", "after"),
        Column("change", "change", "share", None, "Difference over the size of the value before."),
        Column(
            "difference",
            "difference",
            "",
            Grade.SAMPLED,
            "After minus before; of the same inputs, their mean or median change.",
        ),
        Column("low", "from", "", Grade.SAMPLED, f"{level:.0%} interval of the difference."),
        Column("high", "to", "", Grade.SAMPLED, f"{level:.0%} interval of the difference."),
        Column("p", "p", "", Grade.SAMPLED, "Of no difference, two-sided."),
        Column("adjusted", "p, adjusted", "", Grade.SAMPLED, "For the number of differences tested."),
        Column("better", "better is", "", None, "Which way a model is better, as the analysis says."),
        Column("unit", "unit"),
        Column("grade", "grade", "", None, "Of the values; the looser of both."),
        Column("method", "judged by"),
    )
    order = list(Verdict)
    ranked = sorted(found, key=lambda each: order.index(each.verdict))
    return Table.from_records("quantities", "Quantities", columns, [_record(each) for each in ranked])


def _record(each: Difference) -> dict[str, Any]:
    record: dict[str, Any] = {
        "analysis": each.analysis,
        "quantity": each.key,
        "label": each.label,
        "verdict": each.verdict.value,
        "before": each.before.value,
        "after": each.after.value,
        "change": each.change,
        "better": each.after.better or "neither",
        "unit": each.after.unit,
        "grade": combine((each.before.grade, each.after.grade)).label,
        "method": each.note,
    }
    seen = each.evidence
    if seen is None:
        return record
    return record | {
        "difference": seen.difference,
        "low": seen.low,
        "high": seen.high,
        "p": seen.p_value,
        "adjusted": each.adjusted,
        "method": "; ".join(part for part in (seen.method, each.note) if part),
    }


def _summary(found: Sequence[Difference]) -> dict[str, Quantity]:
    def counted(*verdicts: Verdict) -> float:
        return float(sum(each.verdict in verdicts for each in found))

    tested = [each.adjusted for each in found if each.evidence is not None]
    summary = {
        "worse": Quantity(counted(Verdict.WORSE), Grade.STATISTICAL, "", "quantities worse", better="lower"),
        "better": Quantity(counted(Verdict.BETTER), Grade.STATISTICAL, "", "quantities better", better="higher"),
        "changed": Quantity(
            counted(Verdict.CHANGED), Grade.STATISTICAL, "", "quantities changed, neither better nor worse"
        ),
        "tested": Quantity(float(len(tested)), Grade.EXACT, "", "differences tested"),
        "not_judged": Quantity(counted(Verdict.NOT_JUDGED), Grade.EXACT, "", "differences without an interval"),
    }
    if tested:
        least = statistic(tested, "min")
        summary["smallest_p"] = Quantity(least, Grade.SAMPLED, "", "smallest p-value, adjusted")
    return summary


def _findings(
    found: Sequence[Difference], changed: Sequence[checks.Check], shared: Sequence[str]
) -> tuple[Finding, ...]:
    findings = [_finding(each) for each in found if each.verdict is Verdict.WORSE]
    if not findings:
        tested = sum(each.evidence is not None for each in found)
        said = (
            f"None of the {tested} quantities tested is worse than before ({', '.join(shared)})."
            if tested
            else "No quantity could be tested: the runs hold neither values nor intervals to judge by."
        )
        next_step = "" if tested else "Audit both models anew with this version."
        findings = [Finding("compare.worse", Status.PASS if tested else Status.WARN, said, next_step=next_step)]
    findings += [_finding(each) for each in found if each.verdict is Verdict.BETTER]
    worsened = [each for each in changed if each.change in ("appeared", "worse")]
    gone = [each for each in changed if each.change in ("disappeared", "milder")]
    if worsened:
        told = "; ".join(f"{each.rule} ({each.after.value if each.after else ''})" for each in worsened[:6])
        findings.append(
            Finding(
                "compare.checks",
                Status.WARN,
                f"{len(worsened)} checks come out worse than before: {told}.",
                next_step="Read them in the second report; a threshold can be crossed by chance.",
            )
        )
    else:
        told = f" {len(gone)} come out better: {'; '.join(each.rule for each in gone[:6])}." if gone else ""
        findings.append(Finding("compare.checks", Status.PASS, f"No check comes out worse than before.{told}"))
    return tuple(findings)


def _finding(each: Difference) -> Finding:
    seen = each.evidence
    assert seen is not None
    worse = each.verdict is Verdict.WORSE
    change = "" if each.change is None else f" ({each.change:+.1%})"
    unit = f" {each.after.unit}" if each.after.unit else ""
    return Finding(
        f"compare.{each.analysis}.{each.key}",
        Status.WARN if worse else Status.PASS,
        f"{each.verdict.value.capitalize()}: {each.label} went from {each.before.value:.4g} to "
        f"{each.after.value:.4g}{unit}{change}; difference {seen.difference:+.3g} [{seen.low:+.3g}, {seen.high:+.3g}], "
        f"adjusted p {each.adjusted:.2g}, {seen.method}; {combine((each.before.grade, each.after.grade)).label}.",
        f"{each.analysis}.{each.key}",
        "See which inputs and layers changed most; keep the earlier model if this was not meant." if worse else "",
    )


def _about_chance(found: Sequence[Difference], level: float) -> str:
    tested = sum(each.evidence is not None for each in found)
    left = len(found) - tested
    return (
        f"{tested} differences were tested; of those called real at most {1 - level:.0%} are expected to be chance "
        f"(Benjamini-Hochberg). {left} have no interval or other ground to be judged on."
    )


def _provenance(before: Audit, after: Audit, config: dict[str, Any]) -> Provenance:
    def both(key: str) -> str:
        texts = [str(run.subject.get(key) or "") for run in (before, after)]
        return hashlib.sha256("|".join(texts).encode()).hexdigest()

    return Provenance(
        analysis=NAME,
        model=f"{_name(before)} → {_name(after)}",
        model_digest=both("model_digest"),
        data=str(after.subject.get("data") or ""),
        data_digest=both("data_digest"),
        config=config | {"before": _identity(before), "after": _identity(after)},
        seed=0,
        versions={"assay": __version__},
    )
