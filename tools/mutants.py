"""Mutants of parts of the source: which there are, a random sample of them, and their text. `mutation.py` runs them."""

from __future__ import annotations

import ast
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "gaussian": (
        ("src/assay/gaussian",),
        ("tests/unit/test_gaussian_*.py", "tests/properties/test_gaussian_laws.py"),
    ),
    "covariance": (
        ("src/assay/covariance",),
        ("tests/unit/test_covariance*.py", "tests/unit/test_rules_conformance.py", "tests/unit/test_moments_split.py"),
    ),
    "interpret": (
        ("src/assay/interpret",),
        ("tests/unit/test_interpret*.py", "tests/unit/test_rules_conformance.py"),
    ),
    "smoothness": (
        ("src/assay/smoothness/estimators", "src/assay/smoothness/switches.py"),
        ("tests/unit/test_smoothness_exact*.py", "tests/unit/test_smoothness_sampled.py",
         "tests/unit/test_smoothness_measure*.py"),
    ),
}  # fmt: skip
# On floating-point tensors these always raise an error: they would only flatter the score.
POINTLESS = ("BitAnd", "BitOr", "BitXor", "LShift", "RShift")


@dataclass(frozen=True)
class Mutant:
    """One change: a replacement `operator`, at its `occurrence`-th place of a file."""

    path: str
    operator: str
    occurrence: int
    line: int
    column: int
    where: str
    inside: bool  # of a function: then no module has to be imported anew
    lines: tuple[int, ...]  # of the statement around it
    before: str
    after: str


def drawn(part: str, count: int, seed: int) -> list[Mutant]:
    """A random sample of places of a part, with one random change for each place."""
    places: dict[tuple[str, int, int], list[Mutant]] = defaultdict(list)
    for path in sources(part):
        for mutant in mutants_of(path):
            places[mutant.path, mutant.line, mutant.column].append(mutant)
    keys = sorted(places)
    chance = random.Random(f"{part} {seed}")
    chosen = chance.sample(keys, min(count, len(keys)))  # in random order: a run cut short is a sample too
    print(f"{part}: {len(keys)} places, {sum(map(len, places.values()))} mutants; {len(chosen)} drawn", flush=True)
    return [with_text(chance.choice(places[key])) for key in chosen]


def sources(part: str) -> list[str]:
    """The files of a part."""
    found = [file for name in PARTS[part][0] for file in (sorted(Path(name).glob("*.py")) or [Path(name)])]
    return [file.as_posix() for file in found]


def mutants_of(path: str) -> Iterator[Mutant]:
    """All changes of a file that can matter: not in annotations, and no bit operations on floats."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    text = Path(path).read_text(encoding="utf-8")
    tree, parsed = ast.parse(text), get_ast(text)
    nodes = list(ast_nodes(parsed))
    for name in sorted(operator_names()):
        kind = get_operator(name)
        if kind.arguments() or name.endswith("no_op") or pointless(name.rsplit("/", 1)[-1]):
            continue
        operator = kind()
        positions = [found for node in nodes for found in operator.mutation_positions(node)]
        for occurrence, ((line, column), (last, _)) in enumerate(positions):
            around = surroundings(tree, line, column, last)
            if around is not None:
                where, inside, lines = around
                yield Mutant(path, name, occurrence, line, column, where, inside, lines, "", "")


def pointless(name: str) -> bool:
    """Whether a replacement is by an operation that floats do not have, or by an identity."""
    kind, _, change = name.partition("_")
    if kind == "ReplaceBinaryOperator":
        return change.split("_")[-1] in POINTLESS
    if kind == "ReplaceComparisonOperator":
        old, _, new = change.partition("_")
        return new.startswith("Is") != old.startswith("Is")
    return name.endswith("Invert") or "_Invert" in name


def surroundings(tree: ast.Module, line: int, column: int, last: int) -> tuple[str, bool, tuple[int, ...]] | None:
    """Name of the definition around a place, whether it is inside a function's body, and the lines of its statement."""
    names: list[str] = []
    inside, lines = False, tuple(range(line, last + 1))
    node: ast.AST = tree
    while True:
        step = next((c for c in ast.iter_child_nodes(node) if covers(c, line, column)), None)
        if step is None:
            return ".".join(names) or "<module>", inside, lines
        if isinstance(node, ast.AnnAssign) and step is node.annotation:
            return None
        if isinstance(node, ast.arg) or (isinstance(node, ast.FunctionDef) and step is node.returns):
            return None
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            body = node.body if isinstance(node.body, list) else [node.body]
            inside |= step in body
        if isinstance(step, (ast.FunctionDef, ast.ClassDef)):
            names.append(step.name)
        if isinstance(step, ast.stmt):
            body = getattr(step, "body", None)
            end = body[0].lineno - 1 if body else step.end_lineno or step.lineno
            lines = tuple(range(step.lineno, max(step.lineno, end) + 1))
        node = step


def covers(node: ast.AST, line: int, column: int) -> bool:
    """Whether a node's text includes a place; a definition includes its decorators."""
    if not hasattr(node, "lineno"):
        return isinstance(node, ast.arguments) and any(
            covers(child, line, column) for child in ast.iter_child_nodes(node)
        )
    first = min([(node.lineno, node.col_offset), *((d.lineno, 0) for d in getattr(node, "decorator_list", ()))])  # pyright: ignore
    return first <= (line, column) < (node.end_lineno, node.end_col_offset)  # pyright: ignore


def mutated(mutant: Mutant) -> str:
    """The text of the file with the change."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    text = Path(mutant.path).read_text(encoding="utf-8")
    changed = mutate_code(text, get_operator(mutant.operator)(), mutant.occurrence)
    if changed is None:
        raise SystemExit(f"{mutant.path} has changed since the mutants were drawn: {mutant.operator}")
    return changed


def with_text(mutant: Mutant) -> Mutant:
    """The mutant with its first changed line, before and after."""
    old, new = Path(mutant.path).read_text(encoding="utf-8").splitlines(), mutated(mutant).splitlines()
    pair = next(((a.strip(), b.strip()) for a, b in zip(old, new, strict=False) if a != b), ("", ""))
    return Mutant(**{**asdict(mutant), "lines": mutant.lines, "before": pair[0], "after": pair[1]})
