"""Tables about decisions: the noise they stand, and the Gaussian attack."""

from __future__ import annotations

import math

from assay.grade import Grade
from assay.moments.decisions import Decisions
from assay.moments.evidence import Evidence
from assay.results import Column, Table


def standing_table(evidence: Evidence, decisions: Decisions) -> Table:
    """One row per input: its confidence with and without noise, and the noise that flips it."""
    standing, last = decisions.standing, evidence.levels[-1]
    at = f"noise {last.share:g}"
    columns = [
        Column("input", "input", "", None, "row in the data"),
        Column("decision", "decision"),
        Column("clean", "p without noise", "", Grade.EXACT, "softmax of the decision without noise"),
        Column("expected", f"p at {at}", "", last.grade, "expected softmax of the decision"),
        Column("stays", f"P(stays) at {at}", "", last.grade, "probability that the decision is still the largest"),
    ]
    for flip in standing.flip:
        columns.append(
            Column(
                f"noise_{flip:g}",
                f"noise for P(flip) = {flip:.3g}",
                "of range",
                standing.grade,
                f"deviation of the noise at which the decision flips that often; empty: not up to {standing.highest:g}",
            )
        )
    records = []
    for i, row in enumerate(evidence.rows.tolist()):
        record: dict[str, object] = {
            "input": row,
            "decision": evidence.subject.output_name(int(evidence.outputs[i, 0])),
            "clean": float(decisions.clean[i]),
            "expected": float(decisions.expected[-1][i]),
            "stays": float(last.argmax[i, 0]),
        }
        for column, flip in enumerate(standing.flip):
            share = float(standing.share[i, column])
            record[f"noise_{flip:g}"] = share if math.isfinite(share) else None
        records.append(record)
    found = (
        "Every level was propagated."
        if standing.searched
        else "Moments were interpolated between the noise levels of the report."
    )
    caption = f"Isotropic noise, looked for up to {standing.highest:g} of the value range. {found}"
    return Table.from_records("standing", "Noise that each decision stands", columns, records, caption)


def attack_table(decisions: Decisions) -> Table | None:
    """One row per kind of noise, or None without an attack."""
    found = decisions.attack
    if found is None:
        return None
    columns = [
        Column("noise", "noise"),
        Column("rate", "fooling rate", "", Grade.SAMPLED, "share of noisy inputs whose decision changed"),
        Column("low", "from", "", Grade.SAMPLED, "lower end of the 95 % Wilson interval, for these inputs"),
        Column("high", "to", "", Grade.SAMPLED, "upper end"),
        Column("trials", "trials", "", None, "inputs times draws; a fixed change needs one draw"),
    ]
    records = [
        {"noise": row.noise, "rate": row.rate, "low": row.low, "high": row.high, "trials": row.trials}
        for row in found.rates
    ]
    caption = (
        f"Mean and deviation of the noise of every input element were chosen in a box of {decisions.attack_bound:g} "
        f"of the value range, on the analytic moments, for {len(decisions.attacked)} inputs."
    )
    return Table.from_records("attack", "Gaussian attack", columns, records, caption)
