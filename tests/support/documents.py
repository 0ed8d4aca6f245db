"""The examples in the documentation: found in its pages, run in order in a folder of their own, compared with the page.

A page is a story: its Python blocks share one namespace, its commands one folder. What runs:

- ```` ```python ```` is executed; a ```` ```text ```` block right after it shows what it prints;
- ```` ```console ```` holds commands after `$ ` and what each prints; a last `[exit 1]` is the code;
- ```` ```toml name.toml ```` (or any language with a file name after it) writes that file.

Printed text is compared word by word; `...` stands for anything. Comments right before a block say what is special of
it: `<!-- slow -->` (only `make test-all` runs it), `<!-- not run: REASON -->`, and `<!-- setup` with Python in it up to
`-->` is run where it stands and is not shown. Examples in the README are slow ones without saying so. A first line
`<!-- needs: PACKAGE ... -->` names what else must be installed.
"""

import contextlib
import doctest
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"

_FENCE = re.compile(
    r"^```(?P<language>[\w{}:-]*)[ \t]*(?P<name>\S*)[ \t]*\n(?P<text>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL
)
_SETUP = re.compile(r"^<!-- setup\n(?P<text>.*?)^-->[ \t]*$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (slow|not run: [^>]+?) -->\s*\Z")
_CHECKER = doctest.OutputChecker()
_LENIENT = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """One block of a page.

    Attributes:
        page: the file.
        line: where its text begins, from 1.
        language: python, console, text, a name of something else, or setup.
        name: of the file it is written to; usually empty.
        text: what is inside.
        mark: "slow", "not run: ...", or nothing.
    """

    page: Path
    line: int
    language: str
    name: str
    text: str
    mark: str

    @property
    def place(self) -> str:
        """Page and line, for messages."""
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All blocks of a page in order, hidden set-up included."""
    text = page.read_text(encoding="utf-8")
    usual = "slow" if page.name == "README.md" else ""
    found = []
    for match in sorted((*_FENCE.finditer(text), *_SETUP.finditer(text)), key=lambda match: match.start()):
        named = match.groupdict()
        mark = _MARK.search(text[: match.start()])
        line = text.count("\n", 0, match.start("text")) + 1
        language = named.get("language", "setup")
        found.append(Block(page, line, language, named.get("name", ""), match["text"], mark[1] if mark else usual))
    return found


def needs(page: Path) -> list[str]:
    """Packages without which the examples of a page cannot run: `<!-- needs: NAME NAME -->` on its first line."""
    first = page.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("<!-- needs:").removesuffix("-->").split() if first.startswith("<!-- needs:") else []


def run_page(page: Path, folder: Path, *, slow: bool) -> int:
    """Run the examples of a page.

    Args:
        page: the file.
        folder: where they run; usually empty.
        slow: also those marked slow.

    Returns:
        How many blocks ran.

    Raises:
        AssertionError: when one fails or prints something else than the page shows.
    """
    names: dict[str, Any] = {"__name__": "__docs__"}
    ran, printed = 0, None
    with contextlib.chdir(folder), _import_path():
        for block in blocks(page):
            if block.mark.startswith("not run") or (block.mark == "slow" and not slow):
                printed = None
                continue
            if block.language == "text" and printed is not None:
                _compare(block.text, printed, block.place)
                printed = None
                continue
            printed = None
            if block.language in ("python", "setup"):
                printed = _python(block, names)
            elif block.language == "console":
                for line, command, shown in commands(block):
                    _console(f"{page.name}:{line}", command, shown)
            elif block.name and not block.language.startswith("{"):
                Path(block.name).write_text(block.text, encoding="utf-8")
            else:
                continue
            ran += 1
    return ran


@contextlib.contextmanager
def _import_path() -> Iterator[None]:
    """Whatever a page adds to the import path is taken away again."""
    before = sys.path[:]
    try:
        yield
    finally:
        sys.path[:] = before


def commands(block: Block) -> Iterator[tuple[int, str, str]]:
    """The commands of a console block.

    Yields:
        Line in the page, the command, and what is shown below it.
    """
    started = list(re.finditer(r"^\$ (?P<command>(?:.*\\\n)*.*)$", block.text, re.MULTILINE))
    ends = [match.start() for match in started[1:]] + [len(block.text)]
    assert started, f"{block.place}: a console block needs a line that begins with '$ '"
    for match, end in zip(started, ends, strict=True):
        line = block.line + block.text.count("\n", 0, match.start())
        yield line, match["command"].replace("\\\n", " "), block.text[match.end() : end].strip("\n")


def _python(block: Block, names: dict[str, Any]) -> str:
    """Execute a block; a traceback names the page's own line."""
    out = io.StringIO()
    code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
    with contextlib.redirect_stdout(out):
        exec(code, names)
    return out.getvalue()


def _console(place: str, command: str, shown: str) -> None:
    """Run one command line: `assay ...` in this process, anything else that Python can do by itself as well."""
    words = shlex.split(command, comments=True)
    wanted = re.search(r"^\[exit (\d+)\]$", shown, re.MULTILINE)
    shown = re.sub(r"^\[exit \d+\]$", "", shown, flags=re.MULTILINE).strip("\n")
    out = io.StringIO()
    if words[0] == "assay":
        code = _assay(words[1:], out)
    elif words[0] == "cat":
        out.write("".join(Path(name).read_text(encoding="utf-8") for name in words[1:]))
        code = 0
    elif words[0] == "ls":
        out.write("\n".join(sorted(entry.name for entry in Path(words[1] if words[1:] else ".").iterdir())))
        code = 0
    else:
        raise AssertionError(f"{place}: these tests cannot run {words[0]!r}; mark the block `not run: REASON`")
    assert code == int(wanted[1] if wanted else 0), f"{place}: exit code {code}\n{out.getvalue()}"
    if shown:
        _compare(shown, out.getvalue(), place)


def _assay(arguments: list[str], out: io.StringIO) -> int:
    from assay.cli import main

    before = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR")}
    os.environ.update(COLUMNS="120", NO_COLOR="1")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            return main(arguments)
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _compare(shown: str, printed: str, place: str) -> None:
    wanted = shown if shown.endswith("\n") else shown + "\n"
    if wanted.strip() and not _CHECKER.check_output(wanted, printed, _LENIENT):
        raise AssertionError(f"{place} shows\n{wanted}\nbut this is printed:\n{printed}")
