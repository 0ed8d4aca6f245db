"""Rules as people write them: one text each, or a table of a TOML file with a name, a severity and a reason."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from assay.errors import UsageError
from assay.grade import Grade

Use = Literal["value", "low", "high"]
Severity = Literal["fail", "warn"]

OPERATORS = ("<=", ">=", "==", "!=", "<", ">")
_TEXT = re.compile(r"(.+?)\s*(<=|>=|==|!=|<|>)\s*([^\s<>=!\]\"']+)\s*", re.DOTALL)
_KEYS = {"path", "op", "value", "text", "name", "severity", "because", "grade", "use"}
_GRAMMAR = "Write it as: analysis.quantity[column=value].statistic <= number"


@dataclass(frozen=True)
class Rule:
    """One requirement.

    Attributes:
        path: ``analysis.quantity[column=value, ...].statistic``; see `assay.results.paths`.
        operator: one of `OPERATORS`.
        limit: what the number is compared with.
        name: for reports; the text when empty.
        severity: whether a number that does not meet it fails or only warns.
        because: why the rule is there.
        grades: grades the number may have; all when empty.
        use: compare the value, or an end of its interval.
    """

    path: str
    operator: str
    limit: float
    name: str = ""
    severity: Severity = "fail"
    because: str = ""
    grades: tuple[Grade, ...] = ()
    use: Use = "value"

    @property
    def text(self) -> str:
        """The rule as one line."""
        end = "" if self.use == "value" else f" ({self.use} end)"
        return f"{self.path}{end} {self.operator} {self.limit:g}"


def parse_rule(text: str) -> Rule:
    """A rule from one line.

    Args:
        text: ``PATH OPERATOR NUMBER``.

    Returns:
        The rule.

    Raises:
        UsageError: saying what cannot be read.

    Example:
        >>> parse_rule("moments.flip_probability.q95 < 0.01")
        Rule(path='moments.flip_probability.q95', operator='<', limit=0.01, ...)
    """
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise UsageError("This is no rule.", where=text[:200] or "an empty text", advice=f"{_GRAMMAR}.")
    path, operator, number = match.groups()
    if "." not in path:
        raise UsageError(
            "The path does not name an analysis.", where=text[:200], advice=f"{_GRAMMAR}; such as sensitivity.bits.max."
        )
    return Rule(path.strip(), operator, _number(number, text))


def read_rules(path: str | Path) -> tuple[Rule, ...]:
    """Rules from a TOML file: `require = ["...", ...]`, tables `[[rule]]`, or both.

    A table has `text`, or `path`, `op` and `value`; and may have `name`, `severity` (fail or warn), `because`, `grade`
    (the weakest that will do, or a list of those that do) and `use` (value, low or high).

    Args:
        path: the file.

    Returns:
        The rules in their order, those of `require` first.

    Raises:
        UsageError: for a missing file, bad TOML, an unknown key, or a file without rules.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        ...     _ = file.write('require = ["sensitivity.bits.max <= 8"]')
        ...     file.flush()
        ...     rules = read_rules(file.name)
        >>> [(rule.path, rule.limit) for rule in rules]
        [('sensitivity.bits.max', 8.0)]
    """
    import tomllib

    where = str(path)
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The rules cannot be read: {error}", where=where, advice="Check the path.") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"The rules are not valid TOML: {error}", where=where, advice="Mend that line; texts need quotes."
        ) from error
    unknown = sorted(content.keys() - {"require", "rule"})
    if unknown:
        raise UsageError(
            f"There is no key {unknown[0]!r}.", where=where, advice="Use require = [...] and tables [[rule]]."
        )
    lines, tables = content.get("require", []), content.get("rule", [])
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise UsageError("`require` is not a list of texts.", where=where, advice=f"{_GRAMMAR}.")
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError("`rule` is not a list of tables.", where=where, advice="Write [[rule]] above each.")
    rules = (
        *(parse_rule(line) for line in lines),
        *(_of_table(table, f"{where}, rule {number}") for number, table in enumerate(tables, 1)),
    )
    if not rules:
        raise UsageError(
            "The file holds no rule: nothing would be checked.", where=where, advice='Add require = ["..."].'
        )
    return rules


def _of_table(table: Mapping[str, Any], where: str) -> Rule:
    unknown = sorted(table.keys() - _KEYS)
    if unknown:
        raise UsageError(f"There is no key {unknown[0]!r}.", where=where, advice=f"Keys: {', '.join(sorted(_KEYS))}.")
    parts = [key for key in ("path", "op", "value") if key in table]
    if ("text" in table) == bool(parts) or (parts and len(parts) < 3):
        raise UsageError("Give either `text`, or `path`, `op` and `value`.", where=where, advice=f"{_GRAMMAR}.")
    if "text" in table:
        rule = parse_rule(_text(table, "text", where))
    else:
        operator, limit = _text(table, "op", where), table["value"]
        if operator not in OPERATORS:
            raise UsageError(f"{operator!r} is no operator.", where=where, advice=f"Operators: {', '.join(OPERATORS)}.")
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or math.isnan(limit):
            raise UsageError("`value` is not a number.", where=where, advice="Write it without quotes.")
        rule = parse_rule(f"{_text(table, 'path', where)} {operator} {limit!r}")
    return replace(
        rule,
        name=_text(table, "name", where, ""),
        because=_text(table, "because", where, ""),
        severity=cast(Severity, _choice(table, "severity", ("fail", "warn"), where)),
        use=cast(Use, _choice(table, "use", ("value", "low", "high"), where)),
        grades=_grades(table.get("grade", ()), where),
    )


def _text(table: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    found = table.get(key, default)
    if not isinstance(found, str):
        raise UsageError(f"`{key}` is not a text.", where=where, advice="Put it in quotes.")
    return found


def _choice(table: Mapping[str, Any], key: str, among: tuple[str, ...], where: str) -> str:
    found = table.get(key, among[0])
    if found not in among:
        raise UsageError(f"`{key}` is {found!r}.", where=where, advice=f"Choose from: {', '.join(among)}.")
    return found


def _grades(wanted: Any, where: str) -> tuple[Grade, ...]:
    """One name stands for itself and all stronger ones, a list for exactly those in it."""
    every = list(Grade)
    names = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(names, (list, tuple)) or any(name not in {grade.value for grade in every} for name in names):
        raise UsageError(f"`grade` is {wanted!r}.", where=where, advice=f"Grades, strongest first: {', '.join(every)}.")
    found = [Grade(name) for name in names]
    return tuple(every[: every.index(found[0]) + 1]) if isinstance(wanted, str) else tuple(found)


def _number(text: str, rule: str) -> float:
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if math.isnan(limit):
        raise UsageError(f"{text!r} is not a number to compare with.", where=rule[:200], advice=f"{_GRAMMAR}.")
    return limit
