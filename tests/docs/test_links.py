"""Links within the documentation lead somewhere: pages, headings, pictures; and every page can be reached."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.documents import DOCS

PROJECT = DOCS.parent
BUILT = {"_build", "gallery", "api"}
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if not BUILT & set(page.relative_to(DOCS).parts)]
OTHERS = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
GENERATED = {"gallery/index"}  # written when the documentation is built


def prose(page: Path) -> str:
    """The text of a page without blocks and pieces of code."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "code", text)


def links(page: Path) -> Iterator[str]:
    """Targets of links and pictures that are not elsewhere on the net."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.+)$", text, flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).replace(" ", "-")
        found.add(slug)
    return found


def name_of(page: Path) -> str:
    return page.relative_to(PROJECT).as_posix()


@pytest.mark.parametrize("page", [*PAGES, *(page for page in OTHERS if page.exists())], ids=name_of)
def test_links_lead_somewhere(page: Path):
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)}: {target} does not exist"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{name_of(page)}: {target} has no such heading"


def listed(page: Path) -> Iterator[Path | str]:
    """Pages in the tables of contents of a page."""
    for body in re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in body.splitlines():
            entry = line.strip()
            if not entry or entry.startswith(":"):
                continue
            if "*" in entry:
                yield from sorted(page.parent.glob(f"{entry}.md"))
            else:
                yield entry if entry in GENERATED else (page.parent / f"{entry}.md").resolve()


def test_every_page_is_in_a_table_of_contents():
    reached, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or isinstance(page, str):
            continue
        assert page.exists(), f"a table of contents names {page}, which does not exist"
        reached.add(page)
        waiting.extend(listed(page))
    assert set(PAGES) <= reached, f"not reached: {sorted(set(PAGES) - reached)}"


def test_a_wrong_link_and_a_missing_heading_are_seen(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "# The `first` heading\n\n[a](other.md) `[b](c.md)`\n\n```text\n[d](e.md)\n```\n![f](#the-first-heading)\n"
    )
    assert list(links(page)) == ["other.md", "#the-first-heading"]
    assert anchors(page) == {"the-first-heading"}
