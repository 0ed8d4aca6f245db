"""What an audit becomes in MLflow: metrics, parameters and tags with names and lengths that every server takes."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from assay._version import __version__
from assay.render.cells import readable, unusual
from assay.render.tables import compact
from assay.results import Audit, Status

KEY_LENGTH = 250
PARAMETER_LENGTH = 6000
TAG_LENGTH = 5000
SHOWN_FINDINGS = 20
REST = "the rest is in audit.json"

_ILLEGAL = re.compile(r"[^A-Za-z0-9_. \-]")


@dataclass(frozen=True)
class Fields:
    """Metrics, parameters and tags of a run, and its description in Markdown."""

    metrics: Mapping[str, float]
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    description: str


def collect(audit: Audit) -> Fields:
    """What is logged for an audit, apart from files.

    Metrics: `analysis/quantity` for every summary quantity, with `.low` and `.high` for its interval, and
    `findings/pass` to `findings/error`, the numbers of findings. MLflow stores infinity as the largest float, so
    numbers that are not finite are no metrics; the tag `assay.not_finite` has them.

    Parameters: `model`, `data`, and the settings, `analysis.setting`. Tags: digests, versions, status, grades, units.

    Returns:
        The fields.
    """
    names = _Names()
    metrics: dict[str, float] = {}
    unlike: dict[str, str] = {}
    tags: dict[str, str] = {}
    for analysis, result in audit.results.items():
        grades, units = {}, {}
        for key, item in result.summary.items():
            name = names.legal(analysis, key)
            grades[key] = item.grade.value
            if item.unit:
                units[key] = item.unit
            for ending, value in (("", item.value), (".low", item.low), (".high", item.high)):
                if value is None:
                    continue
                if math.isfinite(value):
                    metrics[name + ending] = float(value)
                else:
                    unlike[name + ending] = unusual(float(value))
        tags |= {names.legal(f"assay.{kind}.{analysis}"): _json(what) for kind, what in
                 (("grades", grades), ("units", units)) if what}  # fmt: skip
    for status in Status:
        metrics[f"findings/{status.value}"] = float(sum(one.status is status for one in audit.findings))
    parameters, cut = _parameters(audit)
    tags |= _about(audit)
    if unlike:
        tags["assay.not_finite"] = _json(unlike)
    if cut:
        tags["assay.shortened"] = _json(dict.fromkeys(cut, "in audit.json"))
    return Fields(metrics, parameters, {key: _cut(text, TAG_LENGTH) for key, text in tags.items()}, _description(audit))


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as texts by dotted names; lists stay together as JSON.

    Yields:
        Name and text.

    >>> list(flat({"seed": 0, "noise": {"level": 0.1}, "sizes": [1, 2]}))
    [('seed', '0'), ('noise.level', '0.1'), ('sizes', '[1, 2]')]
    """
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else compact(value)


class _Names:
    """Names that MLflow takes, each given once."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def legal(self, *parts: str) -> str:
        """Parts joined by a slash; other characters than letters, digits and `_-. ` become underscores.

        A part that is empty or begins with a dot gets an underscore in front, since MLflow reads names as paths.

        Returns:
            The name.
        """
        name = "/".join(re.sub(r"^(?=\.)|^$", "_", _ILLEGAL.sub("_", part)) for part in parts)
        if len(name) > KEY_LENGTH - len(".high") or name in self._given:
            digest = hashlib.sha256("/".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:8]
            name = f"{name[: KEY_LENGTH - 20]}-{digest}"
        self._given.add(name)
        return name


def _parameters(audit: Audit) -> tuple[dict[str, str], list[str]]:
    """Parameters, and the names of those whose text was cut."""
    names, parameters, cut = _Names(), {}, []
    given = [("model", str(audit.subject.get("name", ""))), ("data", str(audit.subject.get("data", "")))]
    for analysis, result in audit.results.items():
        if result.provenance is not None:
            given += flat(result.provenance.config, f"{analysis}.")
    for key, text in given:
        name, text = names.legal(key), readable(text)
        parameters[name] = _cut(text, PARAMETER_LENGTH)
        if parameters[name] != text:
            cut.append(name)
    return parameters, cut


def _about(audit: Audit) -> dict[str, str]:
    """Tags of the whole audit."""
    versions: dict[str, str] = {}
    trusted: list[str] = []
    for result in audit.results.values():
        if result.provenance is not None:
            versions |= result.provenance.versions
            trusted += [each for each in result.provenance.trusted if each not in trusted]
    tags = {
        "assay.version": __version__,
        "assay.status": audit.status.value,
        "assay.model_digest": str(audit.subject.get("model_digest", "")),
        "assay.data_digest": str(audit.subject.get("data_digest", "")),
        "assay.versions": _json(versions),
        "assay.left_out": _json(audit.left_out) if audit.left_out else "",
        "assay.trusted": compact(trusted) if trusted else "",
        "mlflow.source.name": f"assay {__version__}",
    }
    return {key: readable(text) for key, text in tags.items() if text}


def _description(audit: Audit) -> str:
    """The findings that are no passes as a Markdown list; text of the run cannot become markup."""
    found = [finding for finding in audit.findings if finding.status is not Status.PASS]
    lines = [f"assay: {audit.status.value}, {len(found)} of {len(audit.findings)} findings are not passes", ""]
    lines += [f"- {one.status.value}: {_escaped(one.sentence)}" for one in found[:SHOWN_FINDINGS]]
    if len(found) > SHOWN_FINDINGS:
        lines.append(f"- and {len(found) - SHOWN_FINDINGS} more in report.html")
    return _cut("\n".join(lines), TAG_LENGTH)


def _escaped(sentence: str) -> str:
    return re.sub(r"([\\`*_\[\]<>#|!&])", r"\\\1", " ".join(readable(sentence).split()))


def _json(mapping: Mapping[str, str]) -> str:
    """A mapping as JSON that fits into a tag: as many entries as there is room for."""
    entries = {readable(str(key)): readable(str(value)) for key, value in mapping.items()}
    text = json.dumps(entries, ensure_ascii=False)
    while len(text) > TAG_LENGTH:
        kept = list(entries.items())[: max(len(entries) - 1 - len(entries) // 10, 0)]
        entries = dict(kept) | {"...": REST}
        text = json.dumps(entries, ensure_ascii=False)
        if not kept:
            break
    return text


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
