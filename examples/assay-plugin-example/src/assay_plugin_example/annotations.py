"""The export format `annotations`: findings as workflow commands, which GitHub shows beside the code of a pull request.

Names and sentences come from models and data, that is from strangers: a line break in one must not begin a command of
its own.
"""

from pathlib import Path

from assay.render.text import clean
from assay.results import Audit, Finding, Status
from assay.results.atomic import write_atomic

_COMMANDS = {Status.PASS: "notice", Status.WARN: "warning", Status.FAIL: "error", Status.ERROR: "error"}


def export(audit: Audit, path: Path) -> list[Path]:
    """Write one line per finding, the worst first.

    Args:
        audit: what was found.
        path: the file.

    Returns:
        The file.
    """
    lines = "".join(f"{_line(finding)}\n" for finding in audit.findings)
    return [write_atomic(path, lines)]


def _line(finding: Finding) -> str:
    said = " ".join(part for part in (finding.sentence, finding.next_step) if part)
    return f"::{_COMMANDS[finding.status]} title={_property(finding.rule)}::{_escaped(said)}"


def _escaped(text: str) -> str:
    return clean(text).replace("%", "%25")  # `clean` leaves no line break


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
