"""An audit in short: what a notebook shows of it. The whole is its report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.grade import Grade
from assay.results.build import table
from assay.results.finding import Status
from assay.results.table import Column

if TYPE_CHECKING:
    from assay.results.model import Audit, Quantity, Result

_KEY_FIGURES = 3  # of every analysis


def overview(audit: Audit, rows: int | None = None) -> Result:
    """Key figures, findings and times of all analyses.

    Args:
        audit: the audit.
        rows: most rows of a table; None for all.

    Returns:
        One result.

    >>> from assay.results import Audit, Quantity, Result
    >>> ran = Result("moments", "Moments", "", {"flip": Quantity(0.1, Grade.CLOSED_FORM, label="P(flip)")})
    >>> overview(Audit({"name": "demo"}, {"moments": ran}))
    Result('audit': 1 analyses, 0 findings to look at, moments, P(flip): 0.1 closed form)
    """
    from assay.results.model import Figure, Quantity, Result

    results = list(audit.results.values())
    open_findings = [finding for finding in audit.findings if finding.status is not Status.PASS]
    summary: dict[str, Quantity] = {
        "analyses": Quantity(len(results), Grade.EXACT, "", "analyses"),
        "findings": Quantity(len(open_findings), Grade.EXACT, "", "findings to look at"),
    }
    for name, result in audit.results.items():
        for key, item in list(result.summary.items())[:_KEY_FIGURES]:
            label = f"{name}, {item.label or key.replace('_', ' ')}"
            summary[f"{name}.{key}"] = Quantity(
                item.value, item.grade, item.unit, label, item.low, item.high, item.interval
            )
    columns = [
        (Column("analysis", "analysis"), [result.title or result.name for result in results]),
        (
            Column("outcome", "outcome"),
            [result.status.value if result.findings else "not judged" for result in results],
        ),
        (Column("findings", "findings"), [len(result.findings) for result in results]),
        (Column("tables", "tables"), [len(result.tables) for result in results]),
        (
            Column("seconds", "time", "s"),
            [result.provenance.wall_seconds if result.provenance else None for result in results],
        ),
    ]
    counts = [
        {"label": status.value, "values": [sum(f.status is status for f in result.findings) for result in results]}
        for status in Status
        if status is not Status.ERROR or any(finding.status is status for finding in open_findings)
    ]
    data = {
        "labels": [result.title or result.name for result in results],
        "series": counts,
        "x_label": "findings",
        "y_label": "",
        "horizontal": True,
    }
    return Result(
        "audit",
        f"Audit of {audit.subject.get('name') or 'a model'}",
        "What did the analyses find? results[name] has each of them, report(path) writes the page.",
        summary,
        {"analyses": table("analyses", "Analyses", columns, rows)},
        figures=(Figure("bars", "Findings by analysis", "How many checks passed, and how many did not.", data),),
        findings=audit.findings,
        warnings=tuple(f"{name} was left out: {reason}" for name, reason in sorted(audit.left_out.items())),
    )
