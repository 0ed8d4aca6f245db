"""The errors that docs/errors.md explains are raised by the code, word for word."""

import ast
import re
from collections.abc import Iterator

import pytest
from tests.support.documents import DOCS

import assay.errors

SOURCE = DOCS.parent / "src" / "assay"
ERRORS = {name for name in vars(assay.errors) if isinstance(getattr(assay.errors, name), type)}
ANYTHING = "\0"
QUOTED = re.findall(r"^### `(.+)`$", (DOCS / "errors.md").read_text(encoding="utf-8"), flags=re.MULTILINE)


def template(node: ast.expr) -> str:
    """The text of an expression, with what is filled in at run time as one character."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return ANYTHING


def messages() -> Iterator[str]:
    """What errors say: the first argument of every call of a class of assay.errors, and of their own constructors."""
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ERRORS or name == "__init__" or name.endswith("_error"):
                yield template(node.args[0])


MESSAGES = set(messages())


def said(quoted: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in quoted.split("..."))
    return any(re.fullmatch(pattern, message) for message in MESSAGES)


@pytest.mark.parametrize("quoted", QUOTED)
def test_the_code_says_what_the_page_explains(quoted: str):
    assert said(quoted), f"no error of the code reads {quoted!r}"


def test_the_page_explains_enough():
    assert len(QUOTED) > 40
    assert len(set(QUOTED)) == len(QUOTED)


@pytest.mark.parametrize(
    "invented", ["There is no cake.", "The model returns NaN or infinity on the dates.", "The data"]
)
def test_an_invented_message_is_not_found(invented: str):
    assert not said(invented)
