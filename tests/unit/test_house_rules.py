"""The rules of the house, read off the source: who may import whom, what may be imported at start, what is documented.

docs/architecture.md says why.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "assay"

# Each floor may import the floors before it, and itself; parts on one floor do not know each other.
FLOORS = (
    {"_version", "brief", "errors", "grade", "plugins"},
    {"gaussian"},
    {"graph", "covariance"},
    {"interpret"},
)
GROUND = FLOORS[0]
BASE = frozenset().union(*FLOORS) | {"_lazy"}
ANALYSES = {"moments", "sensitivity", "filtering", "boundary", "smoothness"}
# The stations after the analyses; data flows one way, so no analysis looks at what becomes of its results.
DOWNSTREAM = {"store", "render", "comparing", "requiring", "audit", "cli"}
# What these may import besides themselves: leaves, and what several analyses build on, between the floors and them.
ONLY = {
    "results": GROUND,
    "render": GROUND | {"results"},
    "comparing": GROUND | {"results"},
    "requiring": GROUND | {"results"},
    "inputs": GROUND | {"subject"},
    "norms": BASE | {"subject", "results"},
    "certified": BASE | {"subject", "inputs", "norms", "results"},
}
# Result.save(), .plot() and .report() are shorthands: inside functions, and only there, a result may reach downstream.
LATE = {"results": {"render", "store"}}

HEAVY = {
    "matplotlib",
    "mlflow",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pandas",
    "pyarrow",
    "ray",
    "sklearn",
    "timm",
    "torchao",
    "torchvision",
}
LONGEST_FILE = 500
FACADE_LINES = 60

FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(file: Path) -> str:
    """Path below the package, for test ids and messages."""
    return file.relative_to(PACKAGE).as_posix()


def part_of(file: Path) -> str:
    """The folder or module directly below the package that a file belongs to; "" for the package's own __init__."""
    first = file.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imported_modules(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Absolute dotted names that a tree imports, with line numbers; `package` is the package that the file lies in.

    `from a import b` counts as `a.b`, because b may be a module.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = (*base, *(node.module.split(".") if node.module else ()))
            yield from ((".".join((*stem, alias.name)), node.lineno) for alias in node.names)


def imported_parts(file: Path) -> Iterator[tuple[str, int]]:
    """The parts of assay that a file imports, anywhere in it; "" for a name of the package's own __init__.

    Left out: what `LATE` lets the file import inside functions.
    """
    package = ("assay", *file.relative_to(PACKAGE).parent.parts)
    tree = parse(file)
    at_start = set(imports_at_start(tree, package))
    known = {entry.stem for entry in PACKAGE.iterdir()}
    for module, line in imported_modules(tree, package):
        head, *rest = module.split(".")
        if head == "assay" and rest:
            part = rest[0] if len(rest) > 1 or rest[0] in known else ""
            if part not in LATE.get(part_of(file), ()) or (module, line) in at_start:
                yield part, line
        elif head == "assay":
            yield "", line


def broken_rule(part: str, imported: str) -> str:
    """The rule that one part of assay breaks by importing another; "" if it may."""
    if part == imported or {part, imported} <= GROUND or part in {"cli", "__main__", ""}:
        return ""
    for number, floor in enumerate(FLOORS):
        if part in floor:
            below = set().union(*FLOORS[:number])
            return "" if imported in below else "the ground floors import only the floors below them"
    if part in ONLY:
        return "" if imported in ONLY[part] else f"{part} imports only {', '.join(sorted(ONLY[part]))}"
    if part in ANALYSES and imported in ANALYSES | DOWNSTREAM:
        return "analyses know neither each other nor what becomes of their results"
    return "the command line and the package's own __init__ are the top floor" if imported in {"cli", ""} else ""


def imports_at_start(tree: ast.Module, package: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Modules imported when the file itself is imported: not those inside functions or under `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported_modules(node, package)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
        else:
            waiting.extend(ast.iter_child_nodes(node))


def undocumented(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Public functions, classes and methods without a docstring; overloads and property setters need none."""
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    waiting: list[tuple[str, ast.AST]] = [("", tree)]
    while waiting:
        prefix, parent = waiting.pop()
        for child in ast.iter_child_nodes(parent):
            if isinstance(child, ast.If | ast.Try | ast.With):
                waiting.append((prefix, child))
            if not isinstance(child, definitions) or child.name.startswith("_"):
                continue
            if isinstance(child, ast.ClassDef):
                waiting.append((f"{prefix}{child.name}.", child))
            decorators = {ast.unparse(decorator).rsplit(".", 1)[-1] for decorator in child.decorator_list}
            if not decorators & {"overload", "setter", "deleter"} and not ast.get_docstring(child):
                yield prefix + child.name, child.lineno


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_down(file: Path):
    pairs = [(imported, line, broken_rule(part_of(file), imported)) for imported, line in imported_parts(file)]
    found = [f"line {line} imports {imported or 'assay itself'}: {rule}" for imported, line, rule in pairs if rule]
    assert not found, f"{name_of(file)}: {'; '.join(found)}"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_heavy_libraries_wait_until_they_are_needed(file: Path):
    at_start = imports_at_start(parse(file), ("assay", *file.relative_to(PACKAGE).parent.parts))
    found = [f"line {line}: {module}" for module, line in at_start if module.split(".")[0] in HEAVY]
    assert not found, f"{name_of(file)} imports at module level what belongs inside a function: {'; '.join(found)}"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_files_stay_short(file: Path):
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{name_of(file)} has {lines} lines: split it by idea"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_public_names_have_docstrings(file: Path):
    found = [f"line {line}: {name}" for name, line in undocumented(parse(file))]
    assert not found, f"{name_of(file)} has public names without a docstring: {'; '.join(found)}"


def test_every_folder_says_what_it_is():
    folders = sorted({file.parent for file in FILES})
    silent = [
        (folder / "__init__.py").relative_to(PACKAGE).as_posix()
        for folder in folders
        if not (folder / "__init__.py").is_file() or not ast.get_docstring(parse(folder / "__init__.py"))
    ]
    assert not silent, f"missing, or without a docstring: {', '.join(silent)}"


def test_facade_is_short():
    lines = len((PACKAGE / "__init__.py").read_text(encoding="utf-8").splitlines())
    assert lines < FACADE_LINES, f"src/assay/__init__.py has {lines} lines: public names only"


def test_importing_assay_does_not_import_torch():
    code = "import sys; import assay; print(assay.__file__); print(*sorted({n.split('.')[0] for n in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PACKAGE.parent, timeout=300
    )
    assert done.returncode == 0, done.stderr
    file, modules = done.stdout.splitlines()
    assert Path(file).resolve() == PACKAGE / "__init__.py"
    assert not (HEAVY | {"torch", "scipy"}) & set(modules.split())


# The checks above pass on a file that breaks no rule; these show that they see one that does.


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import assay.render.html", ["assay.render.html"]),
        ("from .. import store", ["assay.store"]),
        ("from ..render import html as page", ["assay.render.html"]),
        ("from . import rules", ["assay.moments.rules"]),
        ("from .rules.dense import relu, tanh", ["assay.moments.rules.dense.relu", "assay.moments.rules.dense.tanh"]),
        ("def f():\n    from assay.boundary import Detector", ["assay.boundary.Detector"]),
        ("import numpy as np", ["numpy"]),
    ],
)
def test_imports_are_resolved(source: str, expected: list[str]):
    assert [module for module, _ in imported_modules(ast.parse(source), ("assay", "moments"))] == expected


def test_imports_at_start_are_told_from_later_ones():
    source = """
import pandas
try:
    import pyarrow.parquet
except ImportError:
    pass
if TYPE_CHECKING:
    import matplotlib
else:
    import ray
class A:
    import timm
    def method(self):
        import mlflow
"""
    found = {module for module, _ in imports_at_start(ast.parse(source), ("assay",))}
    assert found == {"pandas", "pyarrow.parquet", "ray", "timm"}


def test_missing_docstrings_are_seen():
    source = '''
def bare(): ...
def documented():
    """Say."""
    def inner(): ...
def _private(): ...
class Thing:
    """Say."""
    def method(self): ...
    @value.setter
    def value(self, new): ...
class _Hidden:
    def method(self): ...
'''
    assert {name for name, _ in undocumented(ast.parse(source))} == {"bare", "Thing.method"}


@pytest.mark.parametrize(
    ("part", "imported"),
    [
        ("errors", "gaussian"),
        ("gaussian", "graph"),
        ("graph", "covariance"),
        ("graph", "subject"),
        ("interpret", "moments"),
        ("results", "store"),
        ("render", "store"),
        ("moments", "sensitivity"),
        ("boundary", "render"),
        ("smoothness", "audit"),
        ("certified", "sensitivity"),
        ("norms", "certified"),
        ("inputs", "attacks"),
        ("store", "cli"),
        ("subject", ""),
    ],
)
def test_imports_that_break_a_rule(part: str, imported: str):
    assert broken_rule(part, imported)


@pytest.mark.parametrize(
    ("part", "imported"),
    [
        ("errors", "grade"),
        ("graph", "errors"),
        ("interpret", "covariance"),
        ("render", "results"),
        ("moments", "interpret"),
        ("filtering", "subject"),
        ("certified", "norms"),
        ("boundary", "certified"),
        ("sensitivity", "inputs"),
        ("store", "results"),
        ("audit", "boundary"),
        ("cli", "audit"),
        ("gaussian", "gaussian"),
    ],
)
def test_imports_that_break_none(part: str, imported: str):
    assert broken_rule(part, imported) == ""


def test_results_reach_downstream_only_inside_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "results" / "model.py"
    file.parent.mkdir()
    file.write_text(
        "from assay.store import a\ndef save():\n    from assay.store import a\n    from assay import moments\n"
    )
    (tmp_path / "moments").mkdir()
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    assert list(imported_parts(file)) == [("store", 1), ("moments", 4)]
