"""An audit as text for the terminal: verdict, summary with grades, findings, where the report is."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from assay.render import text, view
from assay.results import Audit, Finding, Result, Status

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

MAXIMUM_FINDINGS = 12
STYLES = {Status.PASS: "green", Status.WARN: "yellow", Status.FAIL: "bold red", Status.ERROR: "bold magenta"}


def to_text(audit: Audit, *, report: str | Path | None = None, width: int = 100, colour: bool = False) -> str:
    """What `print_audit` prints, as a text.

    Args:
        audit: what to show.
        report: where the HTML report is.
        width: columns of the terminal.
        colour: whether to keep ANSI colours.

    Returns:
        Lines of text.
    """
    from rich.console import Console

    buffer = StringIO()
    console = Console(
        file=buffer,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
    )
    print_audit(audit, console, report=report)
    return buffer.getvalue()


def print_audit(audit: Audit, console: Console, *, report: str | Path | None = None) -> None:
    """Print an audit. Names are cleaned and never read as markup or control sequences.

    Args:
        audit: what to show.
        console: where to print.
        report: where the HTML report is; its last line names it.
    """
    from rich.padding import Padding
    from rich.text import Text

    verdict = view.verdict(audit)
    facts = view.facts(audit.subject)
    known = dict(facts.rows)
    console.print(Text(text.short(str(audit.subject.get("name") or "model"), 80), style="bold"))
    about = [known[key] for key in ("Data", "Preprocessing") if key in known]
    if "Samples" in known:
        about.insert(1, f"{known['Samples']} samples")
    if about:
        console.print(Text(" · ".join(about), style="dim"))
    console.print(
        Text(verdict.headline, style=STYLES[verdict.status] if verdict.status else "bold"),
        Text(verdict.detail, style="dim"),
    )
    for notice in facts.notices:
        console.print(Text(f"Note: {notice}", style="yellow"))
    for result in audit.results.values():
        console.print()
        console.print(_heading(result))
        if result.summary:
            console.print(Padding(_summary(result), (0, 0, 0, 2)))
        for warning in result.warnings:
            console.print(Padding(Text(f"Note: {text.clean(warning)}", style="yellow"), (0, 0, 0, 2)))
    bad = [finding for finding in audit.findings if finding.status is not Status.PASS]
    if bad:
        console.print()
        console.print(Text("Findings", style="bold"))
    for finding in bad[:MAXIMUM_FINDINGS]:
        console.print(Padding(_finding(finding), (0, 0, 0, 2)))
    if len(bad) > MAXIMUM_FINDINGS:
        console.print(Text(f"  and {text.plural(len(bad) - MAXIMUM_FINDINGS, 'more finding')}", style="dim"))
    for name, reason in sorted(audit.left_out.items()):
        console.print(Text(f"Left out: {text.short(name)} ({text.clean(reason)})", style="dim"))
    if report is not None:
        console.print()
        console.print(Text("Report: ", style="bold") + Text(text.clean(str(report))), soft_wrap=True)


def _heading(result: Result) -> Text:
    from rich.text import Text

    heading = Text(text.short(result.title or result.name, 80), style="bold")
    if result.findings:
        heading.append(f"  {result.status.value.upper()}", style=STYLES[result.status])
    if result.provenance is not None and result.provenance.wall_seconds > 0:
        spent = f"  {result.provenance.wall_seconds:.1f} s"
        if result.provenance.peak_bytes > 0:
            spent += f", {text.size(result.provenance.peak_bytes)}"
        heading.append(spent, style="dim")
    return heading


def _summary(result: Result) -> Grid:
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(overflow="fold")
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column()
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for key, item in result.summary.items():
        value, interval = text.quantity(item)
        label = Text(text.short(item.label or key.replace("_", " "), 50))
        said = f"{interval} ({text.clean(item.interval)})" if interval and item.interval else interval
        grid.add_row(
            label,
            Text(value, style="bold"),
            Text(text.short(item.unit, 24), style="dim"),
            Text(item.grade.value.replace("_", " "), style="cyan"),
            Text(said, style="dim"),
        )
    return grid


def _finding(finding: Finding) -> Grid:
    from rich.table import Table as Grid
    from rich.text import Text

    shown = Text(text.clean(finding.sentence))
    if finding.place:
        shown.append(f"\nat {text.short(finding.place, 120)}", style="dim")
    if finding.next_step:
        shown.append(f"\n→ {text.clean(finding.next_step)}")
    grid = Grid(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column(width=5)
    grid.add_column(overflow="fold")
    grid.add_row(Text(finding.status.value.upper(), style=STYLES[finding.status]), shown)
    return grid
