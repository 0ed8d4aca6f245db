"""What a filtering sweep will cost, before it runs."""

from __future__ import annotations

from assay.errors import AssayError
from assay.filtering.analysis import job_of
from assay.filtering.config import FilteringConfig
from assay.filtering.estimate import estimated
from assay.subject import Subject
from assay.sweep.progress import duration

MEASURED_FROM = 2e11
"""Operations from which a plan is worth some seconds of measuring."""


def plan(subject: Subject, config: FilteringConfig) -> str:
    """Networks, samples and operations in plain words."""
    try:
        job = job_of(subject, config)
        networks, operations = job.extent()
        time = ""
        if operations > MEASURED_FROM:
            found = estimated(job, config.workers)
            time = f", {duration(found.seconds)} as measured on a few of them"
            if found.high > found.low:
                time += f" ({duration(found.low)} to {duration(found.high)}, by how many cells pass the screen)"
    except AssayError as error:
        return f"cannot run: {error.what}"
    return (
        f"{len(job.units)} units × {config.n} thresholds of {len(config.filters)} filters: {networks:,} different "
        f"filtered networks on {len(job.x):,} inputs{_attack(config)}; about {operations / 1e9:,.0f} billion operations"
        f"{time}"
    )


def too_long(subject: Subject, config: FilteringConfig) -> str:
    """Why an audit of everything leaves filtering out; empty when it does not.

    Returns:
        One sentence, or nothing.
    """
    try:
        _, operations = job_of(subject, config).extent()
    except AssayError:
        return ""  # running it says why
    if operations <= config.budget * 1e9:
        return ""
    return (
        f"Filtering would take about {operations / 1e9:,.0f} billion operations, more than the {config.budget:,.0f} "
        "that an audit of everything spends on it. Run it by name (--only filtering), with fewer --filtering.inputs or "
        "--filtering.n, or raise --filtering.budget."
    )


def _attack(config: FilteringConfig) -> str:
    if config.attack == "none":
        return ""
    anew = {"static": "", "adaptive": ", each attacked anew", "both": ", and attacked anew"}.get(
        config.mode, ", and attacked anew where that may matter"
    )
    return f", clean and under {config.attack}{anew}"
