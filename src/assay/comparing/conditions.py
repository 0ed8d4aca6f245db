"""Whether two runs may be compared, and what differs between them besides the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from assay.errors import UsageError
from assay.results import Audit, Provenance

_SHOWN = 6
_DECIDING = ("assay", "torch", "threads")


def common(before: Audit, after: Audit) -> list[str]:
    """Analyses that both runs have.

    Returns:
        Their names, in the order of the first run.

    Raises:
        UsageError: when there is none.
    """
    shared = [name for name in before.results if name in after.results]
    if not shared:
        there = [", ".join(run.results) or "none" for run in (before, after)]
        raise UsageError(
            "The runs have no analysis in common: nothing can be compared.",
            where=f"the first has {there[0]}; the second has {there[1]}",
            advice="Audit both models with the same analyses (--only), then compare again.",
        )
    return shared


def same_data(before: Audit, after: Audit, name: str) -> bool:
    """Whether an analysis had the same data set in both runs."""
    one, other = _origin(before, name), _origin(after, name)
    return one is not None and other is not None and bool(one.data_digest) and one.data_digest == other.data_digest


def warnings(before: Audit, after: Audit, shared: list[str]) -> tuple[str, ...]:
    """What a reader must know before believing that a difference comes from the model."""
    said = [*_analyses(before, after, shared)]
    if not all(same_data(before, after, name) for name in shared):
        said.append(
            f"The data differ ({_data(before)} and {_data(after)}): differences may come from the inputs, and are "
            "judged as between independent samples."
        )
    digests = [run.subject.get("model_digest") for run in (before, after)]
    if digests[0] and digests[0] == digests[1]:
        said.append("Both runs are of the same model and weights: differences come from settings, data or chance.")
    for key, what in (("class_names", "classes"), ("outputs", "number of outputs"), ("input_shape", "shape of inputs")):
        if before.subject.get(key) != after.subject.get(key):
            said.append(f"The {what} of the models differ.")
    for name in shared:
        said.extend(_settings(_origin(before, name), _origin(after, name), name))
    return tuple(dict.fromkeys(said))


def settings_differ(before: Audit, after: Audit, name: str) -> bool:
    """Whether an analysis had other settings in one run, its seed aside."""
    one, other = _origin(before, name), _origin(after, name)
    return one is None or other is None or any(True for _ in _changed(one.config, other.config))


def _origin(run: Audit, name: str) -> Provenance | None:
    return run.results[name].provenance


def _data(run: Audit) -> str:
    return str(run.subject.get("data") or "unknown data")


def _analyses(before: Audit, after: Audit, shared: list[str]) -> Iterator[str]:
    for run, which in ((before, "first"), (after, "second")):
        alone = [name for name in run.results if name not in shared]
        if alone:
            yield f"Only the {which} run has {', '.join(alone)}: not compared."


def _settings(one: Provenance | None, other: Provenance | None, name: str) -> Iterator[str]:
    if one is None or other is None:
        yield f"{name} does not say how it was made: settings and data cannot be compared."
        return
    changed = list(_changed(one.config, other.config))
    if changed:
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        told = "; ".join(f"{key} {_short(a)} and {_short(b)}" for key, a, b in changed[:_SHOWN])
        yield f"Settings of {name} differ: {told}{more}. Differences may come from them."
    if one.seed != other.seed:
        yield f"Seeds differ ({one.seed} and {other.seed})."
    versions = [key for key in _DECIDING if one.versions.get(key) != other.versions.get(key)]
    if versions:
        told = "; ".join(f"{key} {one.versions.get(key)} and {other.versions.get(key)}" for key in versions)
        yield f"Versions differ: {told}. Small differences may come from them."


def _changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in sorted({*one, *other} - {"seed", "workers", "executor"}):
        first, second = (_listed(config.get(key)) for config in (one, other))
        if first != second:
            yield key, first, second


def _listed(value: Any) -> Any:
    """Tuples come back from a run as lists."""
    return [_listed(each) for each in value] if isinstance(value, (list, tuple)) else value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:38]}…"
