"""Rule tables: one per domain, keyed by canonical operator, registered once and frozen after import."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from assay import plugins
from assay.errors import AssayError, PluginError
from assay.grade import Grade
from assay.graph import OPERATORS, Graph, Node, Operator, Sample

Function = Callable[..., Any]
F = TypeVar("F", bound=Function)
Element_co = TypeVar("Element_co", covariant=True)


@dataclass(frozen=True)
class Rule(Generic[F]):
    """How one domain treats one operator.

    Attributes:
        operator: canonical operator.
        function: pure function, its signature set by the domain.
        grade: reliability of the result when its inputs are exact.
        note: what the reader of a coverage table should know, such as the quadrature used.
        applies: whether it can treat the operator when the inputs at these positions vary.
    """

    operator: str
    function: F
    grade: Grade
    note: str = ""
    applies: Callable[[frozenset[int]], bool] = lambda varying: True


class RuleTable(Generic[F]):
    """Rules of one domain.

    Args:
        domain: name of the domain.
        derive: makes a rule for an operator that has none registered, from the operator's own traits (affine,
            elementwise); or None.
        conformance: tries a rule on one sample of its operator and returns what is wrong with it, one sentence each.
        lowered: operators that are rewritten into simpler ones before the walk, with what they become.

    Example:
        >>> table = RuleTable("sizes")
        >>> @table.rule("relu", grade=Grade.EXACT)
        ... def relu(size):
        ...     return size
        >>> table.lookup("relu").grade
        <Grade.EXACT: 'exact'>
    """

    def __init__(
        self,
        domain: str,
        derive: Callable[[Operator], Rule[F] | None] = lambda operator: None,
        conformance: Callable[[Rule[F], Operator, Sample], list[str]] = lambda rule, operator, sample: [],
        lowered: Mapping[str, str] | None = None,
    ) -> None:
        self.domain = domain
        self.derive = derive
        self.conformance = conformance
        self.lowered = dict(lowered or {})
        self._rules: dict[str, Rule[F]] = {}
        self._frozen = False

    def rule(
        self,
        *operators: str,
        grade: Grade,
        note: str = "",
        applies: Callable[[frozenset[int]], bool] = lambda varying: True,
    ) -> Callable[[F], F]:
        """Decorator that registers a function for these operators.

        Returns:
            A decorator.

        Raises:
            ValueError: for an unknown operator, a second rule for one operator, or a frozen table.
        """

        def register(function: F) -> F:
            for name in operators:
                if self._frozen or name in self._rules or name not in OPERATORS:
                    state = (
                        "frozen" if self._frozen else "registered twice" if name in self._rules else "not an operator"
                    )
                    raise ValueError(f"rule {self.domain}/{name}: {state}")
                self._rules[name] = Rule(name, function, grade, note, applies)
            return function

        return register

    def freeze(self) -> None:
        """Let other packages add rules (entry points ``assay.rules.DOMAIN``), then refuse changes.

        An entry point names a function that takes the table. One that fails adds nothing; `plugins.problems` says why.
        """
        for plugin in plugins.installed(f"{plugins.RULES}{self.domain}"):
            before = dict(self._rules)
            try:
                plugin.load()(self)
            except PluginError:
                self._rules = before
            except Exception as error:
                self._rules = before
                plugin.refusal(f"{type(error).__name__}: {error}")
            else:
                plugins.credit(plugin, self._rules.keys() - before.keys())
        self._frozen = True

    def lookup(self, operator: str, varying: frozenset[int] | None = None) -> Rule[F] | None:
        """The rule for an operator: registered, else derived from its traits, else None.

        With `varying`, only a rule that can treat the operator when the inputs at these positions vary.

        Returns:
            The rule, or None.
        """
        for rule in (self._rules.get(operator), self.derive(OPERATORS[operator])):
            if rule is not None and (varying is None or rule.applies(varying)):
                return rule
        return None

    def __iter__(self) -> Iterable[Rule[F]]:
        return iter(self._rules.values())


class Domain(Protocol[Element_co]):
    """What a forward walk needs of a domain."""

    def apply(self, node: Node, operands: Sequence[Any], live: frozenset[str], batch: int) -> Element_co:
        """Element of a node from its operands (elements or tensors); `live` names what later nodes still read."""
        ...

    def freeze(self, node: Node, operands: Sequence[Any], batch: int) -> Tensor:
        """Value of an integer or boolean node, at the domain's typical point; every number after it is approximate."""
        ...

    def release(self, name: str) -> None:
        """The element of this node is read no more."""
        ...


def unsupported(graph: Graph, table: RuleTable[Any]) -> list[Node]:
    """Nodes that depend on the input and have no rule in this domain.

    Returns:
        In the order of the graph.

    Example:
        >>> import torch
        >>> from assay.graph import capture
        >>> graph = capture(torch.nn.ReLU(), torch.zeros(2, 3))
        >>> [node.op for node in unsupported(graph, RuleTable("nothing"))]
        ['relu']
    """
    return [node for node in graph.layers if table.lookup(node.op, varying_positions(graph, node)) is None]


def varying_positions(graph: Graph, node: Node) -> frozenset[int]:
    """Positions of a node's inputs that depend on the graph's input."""
    return frozenset(i for i, name in enumerate(node.inputs) if name in graph.dependent)


def coverage(tables: Sequence[RuleTable[Any]]) -> list[Mapping[str, str]]:
    """Operator x domain matrix, one record per operator: its family, and per domain the grade or an empty string.

    Returns:
        In the order of the operator table.

    Example:
        >>> table = RuleTable("sizes")
        >>> @table.rule("relu", grade=Grade.EXACT)
        ... def relu(size):
        ...     return size
        >>> next(row for row in coverage([table]) if row["operator"] == "relu")
        {'family': 'activation', 'operator': 'relu', 'sizes': 'exact'}
    """
    records = []
    for operator in OPERATORS.values():
        record = {"family": operator.family, "operator": operator.name}
        for table in tables:
            rule = table.lookup(operator.name)
            described = "" if rule is None else rule.grade.value + (f" ({rule.note})" if rule.note else "")
            record[table.domain] = described or table.lowered.get(operator.name, "")
        records.append(record)
    return records


def check_rule(table: RuleTable[Any], operator: str, *, seed: int = 0) -> None:
    """Conformance test of one rule: tries it on every sample of its operator.

    Anyone who adds a rule calls this in their tests.

    Args:
        table: the domain's rule table.
        operator: canonical operator.
        seed: seed of the sample inputs.

    Raises:
        AssertionError: listing everything that is wrong.
        AssayError: if the domain has no rule for the operator.

    Example:
        >>> from assay.moments.rules import TABLE
        >>> check_rule(TABLE, "relu")  # raises where the rule is wrong
    """
    rule = table.lookup(operator)
    if rule is None:
        raise AssayError(
            f"The domain {table.domain} has no rule for {operator}.", where=operator, advice="Register one first."
        )
    row = OPERATORS[operator]
    generator = torch.Generator().manual_seed(seed)
    wrong = [
        f"sample {index}: {sentence}"
        for index, sample in enumerate(row.samples(generator))
        for sentence in table.conformance(rule, row, sample)
    ]
    assert not wrong, f"rule {table.domain}/{operator}:\n" + "\n".join(wrong)
