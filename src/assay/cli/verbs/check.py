"""Check the numbers of a run against rules, for continuous integration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from assay.cli import streams
from assay.cli.options import OUTPUT
from assay.errors import UsageError

if TYPE_CHECKING:
    from assay.requiring.listing import Entry
    from assay.results import Outcome

RULES = Group("Rules", sort_key=0)
_EXAMPLE = "sensitivity.bits.max <= 8"


def run(
    directory: Annotated[Path, Parameter(help="Run directory that an audit or a comparison wrote.")],
    /,
    *,
    require: Annotated[
        tuple[Path, ...],
        Parameter(group=RULES, help='FILE.toml with require = ["...", ...] or tables [[rule]].', consume_multiple=1),
    ] = (),
    rule: Annotated[tuple[str, ...], Parameter(group=RULES, help=f"One rule, such as '{_EXAMPLE}'.")] = (),
    list_: Annotated[
        bool, Parameter(name="--list", group=RULES, help="Print every path that a rule could name, with its value.")
    ] = False,
    junit: Annotated[Path | None, Parameter(group=OUTPUT, help="Write the outcomes as JUnit XML.")] = None,
    markdown: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Write the outcomes as Markdown, for a pull-request comment.")
    ] = None,
    json: Annotated[bool, Parameter(group=OUTPUT, help="Print one JSON document instead of text.")] = False,
) -> int:
    """Check a run; exit 0 when every rule is met or only warns, 1 when one fails."""
    from assay.requiring import check, listing, parse_rule, read_rules
    from assay.store import open_run

    audit = open_run(directory)
    if list_:
        _print_entries(listing(audit), json)
        return 0
    rules = (*(each for file in require for each in read_rules(file)), *(parse_rule(text) for text in rule))
    if not rules:
        raise UsageError(
            "There is nothing to check.",
            where="--require",
            advice=f"Give a file of rules, or --rule '{_EXAMPLE}'. --list shows what a rule can name.",
        )
    outcomes = check(audit, rules)
    from assay.results import Status
    from assay.results.atomic import write_atomic

    name = str(audit.subject.get("name") or directory)
    if junit is not None:
        from assay.render.junit import render_check

        write_atomic(junit, render_check(outcomes, f"assay check {name}"))
    if markdown is not None:
        from assay.render import markdown as page

        write_atomic(markdown, page.render_check(outcomes, f"assay check of {name}"))
    failed = any(outcome.status in (Status.FAIL, Status.ERROR) for outcome in outcomes)
    if json:
        _print_json({"passed": not failed, "outcomes": [asdict(outcome) for outcome in outcomes]})
    else:
        _print_outcomes(outcomes)
    return int(failed)


def _print_json(content: dict[str, Any]) -> None:
    from json import dumps

    from assay.render.json import strict

    print(dumps(strict({"format": "assay-check", "version": 1} | content), indent=2, allow_nan=False))


def _print_outcomes(outcomes: Sequence[Outcome]) -> None:
    from rich.table import Table as Grid
    from rich.text import Text

    from assay.render.terminal import STYLES
    from assay.render.text import clean, plural

    console = streams.output()
    grid = Grid(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column(width=5)
    grid.add_column(overflow="fold")
    for outcome in outcomes:
        told = Text(clean(outcome.name), style="bold")
        if outcome.name != outcome.rule:
            told.append(f"\n{clean(outcome.rule)}", style="dim")
        told.append(f"\n{clean(outcome.sentence)}", style="not bold")
        if outcome.because:
            told.append(f"\n{clean(outcome.because)}", style="not bold dim")
        grid.add_row(Text(outcome.status.value.upper(), style=STYLES[outcome.status]), told)
    console.print(grid)
    met = sum(outcome.status.severity == 0 for outcome in outcomes)
    console.print(Text(f"{met} of {plural(len(outcomes), 'rule')} met"))


def _print_entries(entries: Sequence[Entry], json: bool) -> None:
    if json:
        _print_json({"paths": [asdict(entry) for entry in entries]})
        return
    from rich.text import Text

    from assay.render.text import clean, number

    console = streams.output()
    for entry in entries:
        if entry.value is not None:
            shown = f"{number(entry.value)}{f' {entry.unit}' if entry.unit else ''}"
        else:
            unit = f" {entry.unit}" if entry.unit else ""
            shown = f"{entry.count} values, {number(entry.low)} to {number(entry.high)}{unit}"
        missing = f", {entry.missing} missing" if entry.missing else ""
        grade = f"  [{entry.grade.label}]" if entry.grade else ""
        line = Text(clean(entry.path), style="bold") + Text(f"  {shown}{missing}{grade}", style="")
        console.print(line, soft_wrap=True)
