"""Ask whether tracks of numbers have kinks, as outputs of networks with ReLU or max pooling do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from assay.cli import streams
from assay.cli.options import OUTPUT

if TYPE_CHECKING:
    from rich.text import Text

    from assay.smoothness.evidence.result import Forensics, TrackEvidence

TRACKS = Group("Tracks", sort_key=0)
TEST = Group("Test", sort_key=1)
KINKS = 1
SHOWN = 40


def run(
    tracks: Annotated[Path, Parameter(help="FILE.csv with one track per column, FILE.npz or FILE.npy.")],
    /,
    *,
    reference: Annotated[
        Path | None,
        Parameter(
            group=TRACKS,
            help="Folder of tracks without kinks, with the same sampling, noise and treatment: calibrates p-values.",
        ),
    ] = None,
    rate: Annotated[float | None, Parameter(group=TRACKS, help="Samples per unit of time, instead of times.")] = None,
    time: Annotated[
        str | None, Parameter(group=TRACKS, help="Column or array of times; recognised by usual names.")
    ] = None,
    level: Annotated[float, Parameter(group=TEST, help="Level of the test.")] = 0.05,
    combination: Annotated[
        Literal["joint", "bonferroni", "harmonic"],
        Parameter(group=TEST, help="How several tracks become one p-value."),
    ] = "joint",
    replicates: Annotated[int, Parameter(group=TEST, help="Smooth tracks drawn where no references are given.")] = 99,
    seed: Annotated[int, Parameter(group=TEST, help="Seed of the draws.")] = 0,
    fail_on_kinks: Annotated[bool, Parameter(group=OUTPUT, help="Exit with 1 when kinks are found.")] = False,
    json: Annotated[bool, Parameter(group=OUTPUT, help="Print one JSON document instead of text.")] = False,
) -> int:
    """Examine tracks; exit 0 whatever the verdict unless --fail-on-kinks is given."""
    from assay.smoothness.evidence.tracks import read_folder, read_tracks
    from assay.smoothness.evidence.verdict import forensics

    read = read_tracks(tracks, rate=rate, time=time)
    known = None if reference is None else read_folder(reference, rate=rate, time=time)
    found = forensics(
        read, reference=known, level=level, combination=combination, replicates=replicates, seed=seed
    )  # fmt: skip
    if json:
        from json import dumps

        head = {"format": "assay-forensics", "version": 1, "source": str(tracks), "timed": read.timed}
        print(dumps(head | found.to_dict(), indent=2))
    else:
        _print(found, str(tracks), read.timed)
    return KINKS if fail_on_kinks and found.verdict == "kinks" else 0


def _print(found: Forensics, source: str, timed: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from assay.render.text import clean

    console = streams.output()
    unit = "time" if timed else "sample"
    for each in found.tracks[:SHOWN] if len(found.tracks) > 1 else found.tracks:
        console.print(Text(clean(each.name), style="bold") + Text(f": {each.verdict}", style=_style(each.verdict)))
        facts = Table.grid(padding=(0, 2))
        for label, content in _facts(each, unit):
            facts.add_row(Text(f"  {label}"), Text(clean(content)))
        console.print(facts)
    if len(found.tracks) > SHOWN:
        console.print(Text(f"... and {len(found.tracks) - SHOWN} more tracks (all of them with --json)"))
    console.print()
    for caveat in found.caveats:
        console.print(Text(clean(f"note: {caveat}")))
    if found.rule:
        console.print(Text(clean(f"together: {found.rule}")))
    console.print(_conclusion(found, source))


def _facts(each: TrackEvidence, unit: str) -> list[tuple[str, str]]:
    facts = []
    if each.energy is not None:
        measured = each.energy
        facts = [
            ("kink share", f"{measured.share:.3f} ({measured.low:.3f} to {measured.high:.3f})"),
            (
                "kink energy",
                f"{measured.energy:.3g} ({measured.energy_low:.3g} to {measured.energy_high:.3g}) per {unit}^3, "
                "density times mean squared slope jump",
            ),
            ("noise", f"deviation {measured.noise:.3g}; scales used up to {measured.reach:.3g} ({unit})"),
        ]
    if not math.isnan(each.p_value):
        facts.append(("p-value", f"{each.p_value:.3g} (Holm over the tracks: {each.adjusted:.3g})"))
    if not math.isnan(each.power):
        facts.append(("power", f"{each.power:.0%} against kinks that make a quarter of the curvature"))
    if each.reason:
        facts.append(("refused", each.reason))
    if each.caveats:
        facts.append(("found", ", ".join(caveat.name for caveat in each.caveats)))
    return facts


def _conclusion(found: Forensics, source: str) -> Text:
    from rich.text import Text

    from assay.render.text import clean

    told = (
        f" (p = {found.p_value:.3g}, {found.method}, level {found.level:g})" if found.p_value == found.p_value else ""
    )
    why = f": {found.reason}" if found.reason else ""
    return Text(clean(f"{source}: "), style="bold") + Text(clean(found.verdict + told + why), _style(found.verdict))


def _style(verdict: str) -> str:
    return {"kinks": "bold red", "refused": "bold yellow"}.get(verdict, "bold green")
