"""How evidence of kinks in tracks is displayed: as a small `Result`."""

from __future__ import annotations

import math

from assay.grade import Grade
from assay.results import Column, Quantity, Result, result_of
from assay.results.build import BARS, bars, count, line, lines, table
from assay.smoothness.evidence.result import Forensics


@result_of.register
def _(shown: Forensics, rows: int | None) -> Result:
    tracks = shown.tracks
    energies = [track.energy for track in tracks]
    columns = [
        (Column("track", "track"), [track.name for track in tracks]),
        (Column("verdict", "verdict"), [track.verdict for track in tracks]),
        (Column("share", "kink share", "share", shown.grade), [each and each.share for each in energies]),
        (Column("low", "from", "share", shown.grade, "95 % interval."), [each and each.low for each in energies]),
        (Column("high", "to", "share", shown.grade, "95 % interval."), [each and each.high for each in energies]),
        (Column("p_value", "p-value", "", shown.grade, "Not corrected."), [track.p_value for track in tracks]),
        (Column("adjusted", "adjusted", "", shown.grade, "Holm, over the tracks."), [one.adjusted for one in tracks]),
        (Column("reason", "why refused"), [track.reason for track in tracks]),
    ]
    low, high = shown.interval
    interval = "95 %" if len(tracks) == 1 else "range over tracks"
    known = [(track.name, track.energy) for track in tracks if track.energy is not None][: 2 * BARS]
    figures = []
    if known:
        figures.append(
            bars(
                "Kink share of every track",
                "0: smooth motion alone; 1: kinks alone. 95 % intervals.",
                "kink share",
                [name for name, _ in known],
                {"share": [energy.share for _, energy in known]},
                low=[energy.low for _, energy in known],
                high=[energy.high for _, energy in known],
            )
        )
        name, energy = known[0]
        positive = [level if level > 0 else math.nan for level in energy.levels]
        caption = "Mean squared third difference by scale: kinks rise more slowly with the scale than smooth motion."
        figures.append(
            lines(
                f"Scales of {name}",
                caption,
                list(energy.strides),
                [line("third differences", positive)],
                "scale, in samples",
                "mean square",
                x_log=True,
                y_log=True,
            )
        )
    else:
        caption = shown.reason or "Nothing was measured."
        figures.append(bars("Tracks", caption, "tracks", [shown.verdict], {"": [len(tracks)]}))
    return Result(
        "forensics",
        f"Kinks in tracks: {shown.verdict}",
        shown.reason or shown.rule or "Have these tracks kinks, as a network's outputs have?",
        {
            "tracks": count(len(tracks), "tracks"),
            "share": Quantity(
                shown.statistic, shown.grade, "share", f"kink share ({shown.verdict})", low, high, interval
            ),
            "p_value": Quantity(shown.p_value, Grade.STATISTICAL, "", "p-value of no kinks"),
        },
        {"tracks": table("tracks", "Tracks", columns, rows)},
        figures=tuple(figures),
        warnings=shown.caveats,
    )
