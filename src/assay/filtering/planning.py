"""What a filtering sweep will cost, before it runs."""

from __future__ import annotations

from assay.effort import Estimate
from assay.errors import AssayError
from assay.filtering.analysis import job_of
from assay.filtering.config import FilteringConfig
from assay.filtering.effort import budget, fitted, operations
from assay.filtering.engines.choose import BATCH_BYTES
from assay.filtering.estimate import estimated
from assay.filtering.job import FilteringJob
from assay.subject import Subject
from assay.sweep.progress import duration

MEASURED_FROM = 2e11
"""Operations from which a plan is worth some seconds of measuring."""
PROCESS_BYTES = 4e8
"""Of a process of its own: the libraries and the job."""


def plan(subject: Subject, config: FilteringConfig) -> Estimate:
    """Networks, samples and operations, in plain words and in numbers; a long sweep's time is measured."""
    seconds = None
    try:
        config, _ = fitted(config, subject)
        job = job_of(subject, config)
        networks, needed = job.extent()
        time = ""
        if needed > MEASURED_FROM:
            found = estimated(job, config.workers)
            seconds = (found.low, found.seconds, found.high)
            time = f", {duration(found.seconds)} as measured on a few of them"
            if found.high > found.low:
                time += f" ({duration(found.low)} to {duration(found.high)}, by how many cells pass the screen)"
    except AssayError as error:
        return Estimate(f"cannot run: {error.what}", runs=False)
    text = (
        f"{len(job.units)} units × {config.n} thresholds of {len(config.filters)} filters: {networks:,} different "
        f"filtered networks on {len(job.x):,} inputs{_attack(config)}; about {needed / 1e9:,.0f} billion operations"
        f"{time}"
    )
    splits = 1 if job.attack is None else 2 if config.mode in ("static", "adaptive") else 3
    recorded = float(networks * len(job.x) * splits)
    disk = recorded + (0 if job.attack is None else job.x.numel() * job.x.element_size())
    memory = (config.workers if config.workers > 1 else 0) * PROCESS_BYTES + _batch_bytes(job)
    return Estimate(text, needed, memory, disk, seconds)


def _batch_bytes(job: FilteringJob) -> float:
    """Weights of one variant, and activations of one batch, of every process."""
    weights = sum(parameter.numel() for parameter in job.subject.model.parameters())
    return job.config.workers * (8.0 * weights + 2.0 * BATCH_BYTES) + job.x.numel() * job.x.element_size()


def too_long(subject: Subject, config: FilteringConfig) -> str:
    """Why an audit of everything leaves filtering out; empty when it does not.

    Returns:
        One sentence, or nothing.
    """
    config, _ = fitted(config, subject)
    try:
        needed = operations(config, subject)
    except AssayError:
        return ""  # running it says why
    if needed <= budget(config):
        return ""
    return (
        f"Filtering would take about {needed / 1e9:,.0f} billion operations even with few inputs and thresholds, more "
        f"than the {budget(config) / 1e9:,.0f} that an audit of everything spends on it. Run it by name (--only "
        "filtering), or raise --filtering.budget."
    )


def _attack(config: FilteringConfig) -> str:
    if config.attack == "none":
        return ""
    anew = {"static": "", "adaptive": ", each attacked anew", "both": ", and attacked anew"}.get(
        config.mode, ", and attacked anew where that may matter"
    )
    return f", clean and under {config.attack}{anew}"
