"""Every example of the documentation runs and prints what its page shows; long ones belong to the slow tests.

tests/support/documents.py says how a page is read.
"""

from pathlib import Path

import pytest
from tests.support.documents import DOCS, Block, blocks, commands, needs, run_page

RUNS = {"python", "console"}


def examples(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language in RUNS]


def name_of(page: Path) -> str:
    return page.relative_to(DOCS.parent).as_posix()


BUILT = ("_build", "gallery", "api")
PAGES = [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))]
PAGES = [page for page in PAGES if not set(BUILT) & set(page.relative_to(DOCS.parent).parts) and examples(page)]
QUICK = [page for page in PAGES if any(not block.mark for block in examples(page))]
SLOW = [
    pytest.param(page, marks=pytest.mark.models(*needs(page)) if needs(page) else ())
    for page in PAGES
    if any(block.mark == "slow" for block in examples(page))
]


@pytest.mark.parametrize("page", QUICK, ids=name_of)
def test_quick_examples(page: Path, tmp_path: Path):
    assert run_page(page, tmp_path, slow=False) > 0


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=name_of)
def test_all_examples(page: Path, tmp_path: Path):
    assert run_page(page, tmp_path, slow=True) > 0


def write(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


def test_blocks_of_a_page(tmp_path: Path):
    page = write(
        tmp_path,
        "A\n\n<!-- slow -->\n```python\na = 1\n```\n\n<!-- setup\nb = 2\n-->\n\n"
        "```toml c.toml\nd = 3\n```\n\n```{note}\ne\n```\n",
    )
    found = [(block.language, block.name, block.text, block.mark, block.line) for block in blocks(page)]
    assert found == [
        ("python", "", "a = 1\n", "slow", 5),
        ("setup", "", "b = 2\n", "", 9),
        ("toml", "c.toml", "d = 3\n", "", 13),
        ("{note}", "", "e\n", "", 17),
    ]


def test_commands_with_their_output_and_continued_lines(tmp_path: Path):
    page = write(tmp_path, "```console\n$ assay one \\\n    --two 2\nout\n$ ls\n[exit 1]\n```\n")
    assert list(commands(blocks(page)[0])) == [(2, "assay one      --two 2", "out"), (5, "ls", "[exit 1]")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\nprint(1)\n```\n```text\n2\n```\n", "page.md:5 shows"),
        ("```python\nassert False\n```\n", ""),
        ("```console\n$ assay nonsense\n```\n", "exit code 2"),
        ("```console\n$ assay --version\n9.9.9\n```\n", "shows"),
        ("```console\n$ rm -r everything\n```\n", "cannot run 'rm'"),
        ("<!-- setup\nassert False\n-->\n", ""),
    ],
)
def test_what_is_wrong_in_a_page_is_found(tmp_path: Path, text: str, message: str):
    with pytest.raises(AssertionError, match=message):
        run_page(write(tmp_path, text), tmp_path, slow=False)


def test_what_is_right_in_a_page_passes(tmp_path: Path):
    text = (
        "<!-- setup\nx = 2\n-->\n```python\nprint(x, 'and', 3)\n```\n```text\n2 ... 3\n```\n"
        "<!-- slow -->\n```python\nassert 0\n```\n"
        "<!-- not run: it needs a network -->\n```console\n$ curl x\n```\n"
        "```toml a.toml\ny = 1\n```\n```console\n$ cat a.toml\ny = 1\n$ assay nonsense\n[exit 2]\n```\n"
    )
    assert run_page(write(tmp_path, text), tmp_path, slow=False) == 4
    assert (tmp_path / "a.toml").read_text() == "y = 1\n"
