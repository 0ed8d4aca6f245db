"""Say what an audit would cost before it runs: operations, time, memory, disk; nothing is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from assay.cli import job, request, streams
from assay.cli.options import OUTPUT, Effort, Loading, Model, Settling
from assay.cli.settings import flags_of
from assay.cli.verbs.audit import ONLY
from assay.config import AuditConfig, configuration

if TYPE_CHECKING:
    from assay.forecast import Forecast, Step

    Settings = AuditConfig
else:
    Settings = flags_of(configuration())


def run(
    model: Model,
    /,
    *,
    only: Annotated[tuple[str, ...], ONLY] = (),
    effort: Effort = Effort(),
    settling: Settling = Settling(),
    loading: Loading = Loading(),
    json: Annotated[bool, Parameter(group=OUTPUT, help="Print one JSON document instead of text.")] = False,
    settings: Annotated[Settings, Parameter(name="*")] = Settings(),
) -> int:
    """Forecast an audit with these options."""
    config = request.settings_of(settings, settling, effort)
    request.require_data(model, loading)
    names = request.names_of(only)
    job.check_names(names)
    with streams.result_only():
        from assay.forecast import forecast

        subject = loading.load(model)
        found = forecast(subject, job.with_processes(config, subject, names), names)
    if json:
        from json import dumps

        print(dumps(found.to_dict(), indent=2))
    else:
        _print(found)
    return 0


def _print(found: Forecast) -> None:
    from rich import box
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from assay.render.text import clean

    console = streams.output()
    console.print(Text(f"What an audit of {clean(found.subject)} would cost (an estimate; nothing was written):"))
    for step in found.steps:
        console.print(
            Padding(Text(f"{step.name}: ", style="bold") + Text(clean(step.text)), (0, 0, 0, 2), expand=False)
        )
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("", "operations", "time", "from ... to", "memory"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for step in found.steps:
        table.add_row(step.name, *_cells(step))
    low, middle, high = found.seconds
    total = (_time(middle), f"{_time(low)} ... {_time(high)}", _size(found.memory))
    table.add_row(Text("all of it", style="bold"), "", *total)
    console.print(table)
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    console.print(
        Text(
            f"Times follow from {found.speed / 1e9:,.3g} billion operations per second, measured now in short forward "
            f"passes on {threads}; other work on the machine makes it longer. Memory includes {_size(found.base)} of "
            f"libraries, model and data. The run directory would take about {_size(found.disk)}."
        )
    )


def _cells(step: Step) -> tuple[str, ...]:
    if not step.runs or step.seconds is None:
        return ("unknown" if step.runs else "does not run", "", "", "")
    low, middle, high = step.seconds
    span = f"{_time(low)} ... {_time(high)}"
    return f"{(step.operations or 0) / 1e9:,.0f} G", _time(middle), span, _size(step.memory or 0.0)


def _time(seconds: float) -> str:
    from assay.sweep.progress import duration

    return duration(seconds)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count / 1e6, 0.1):.1f} MB"
