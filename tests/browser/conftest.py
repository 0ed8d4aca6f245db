"""One browser for all tests of the report, and one report."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import synthetic, synthetic_layers
from tests.support.devtools import Page, browser

from assay.render.html import write_report


@pytest.fixture(scope="session")
def page(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(chromium, tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(synthetic.audit(12), tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="session")
def large_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with pages of layers beside it, and without the drawing of the graph."""
    place = tmp_path_factory.mktemp("large") / "report.html"
    return write_report(synthetic_layers.audit(2500, figures=False), place)
