"""Every result object shows itself: one line, a notebook fragment, figures, and a data frame with all rows."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterator
from types import UnionType
from typing import Any, get_args, get_origin

import html5lib
import numpy
import pytest
import torch
from tests.support.displays import MAKERS, network, pictures, rows, subject

import assay
from assay.errors import UsageError
from assay.filtering import Labelled
from assay.grade import Grade
from assay.moments import Decision
from assay.results import Column, Displayed, Figure, Quantity, Result, Table, result_of
from assay.results.build import BARS, band, maps, per_input, share
from assay.results.displayed import ROWS

PARTS = ("attacks", "boundary", "certified", "filtering", "moments", "norms", "sensitivity", "smoothness")
NO_RESULTS = {
    "Estimate": "what something will cost, one sentence",
    "Data": "an input, described by the Subject that holds it",
    "Field": "a classifier, not a result",
    "FilteringJob": "work to be done",
    "Graph": "drawn by `assay.graph.draw_svg`",
    "Metric": "a setting",
    "NormCost": "two numbers, the plan of a computation",
    "Subject": "an input",
    "Target": "a classifier, not a result",
    "Unit": "a name for weights",
    "Convolved": "a covariance, not a result",
}


def fragment(text: str) -> Any:
    """The fragment as a tree; a parse error fails the test."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    return parser.parseFragment(text)


def classes() -> set[type]:
    """Every class in assay that displays itself."""
    for module in pkgutil.walk_packages(assay.__path__, "assay."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    waiting, found = [Displayed], set()
    while waiting:
        below = [each for each in waiting.pop().__subclasses__() if each.__module__.startswith("assay.")]
        found |= set(below)
        waiting += below
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_shows_itself(name: str):
    shown = MAKERS[name]()
    line = repr(shown)
    assert line.startswith(f"{type(shown).__name__}(")
    assert len(line) < 500
    assert "\n" not in line
    assert "tensor(" not in line
    full = shown.result()
    assert full.figures
    assert full.summary
    assert len(shown.to_frame()) > 0
    if name not in ("FilteringResult", "Audit"):  # these cut their tables when they are shown
        assert all(len(table.rows) <= 2 for table in shown.result(2).tables.values())


DRAWN = ("Moments", "SensitivityMap", "Plan", "Ladder", "BoundaryPoint", "Connection", "Detection", "Labelled", "Smp")


@pytest.mark.parametrize(
    "name", [name if name in DRAWN else pytest.param(name, marks=pytest.mark.slow) for name in MAKERS]
)
def test_draws_itself(name: str):
    page = MAKERS[name]()._repr_html_()
    assert len(page) < 120_000
    tree = fragment(page)
    assert not tree.findall(".//script")
    assert not re.search(r'(?:src|href|action)="(?!#|data:image/png)', page)
    assert not re.search(r" on[a-z]+=", page)
    assert "could not be drawn" not in page
    for table in tree.findall(".//tbody"):
        assert len(table.findall("tr")) <= ROWS


def test_plots_are_figures_of_matplotlib():
    from matplotlib.figure import Figure as Drawing

    assert all(isinstance(MAKERS["Detection"]().plot(index), Drawing) for index in (0, 1))


def test_every_displayed_class_is_shown_here():
    made = {name.rpartition(".")[2] for name in MAKERS}
    assert {each.__name__ for each in classes()} - made == set()


def returned(function: Any) -> Iterator[type]:
    """The classes in the annotation of what a function returns."""
    annotation = inspect.signature(function).return_annotation
    names = {**vars(importlib.import_module(function.__module__)), **vars(typing)}
    waiting = [eval(annotation, names) if isinstance(annotation, str) else annotation]
    while waiting:
        found = waiting.pop()
        if get_origin(found) is not None or isinstance(found, UnionType):
            waiting += get_args(found)
        elif isinstance(found, type):
            yield found


def test_public_functions_return_objects_that_show_themselves():
    silent = set()
    for part in PARTS:
        package = importlib.import_module(f"assay.{part}")
        for name in package.__all__:
            function = getattr(package, name)
            if inspect.isfunction(function):
                silent |= {
                    f"{part}.{name} returns {each.__name__}"
                    for each in returned(function)
                    if dataclasses.is_dataclass(each)
                    and not issubclass(each, Displayed | Result)
                    and each.__name__ not in NO_RESULTS
                }
    assert not silent


def test_large_batches_are_summarised():
    many = 20_000
    decision = MAKERS["Decision"]()
    flip = torch.linspace(0, 1, many, dtype=torch.float64)
    large = Decision(
        flip, torch.full((many, 10), 0.1), torch.zeros(many).long(), flip / 100, Grade.SAMPLED, decision.moments
    )
    page = large._repr_html_()
    assert len(page) < 40_000
    assert f"First {ROWS} of {many:,} rows" in page
    assert len(large.to_frame()) == many
    assert repr(large).startswith(f"Decision({many} inputs, P(flip): 0.5 ")


def test_names_cannot_act():
    hostile = "</script><img src=x onerror=alert(1)>\u202e"
    each = numpy.array([0.5])
    shown = Labelled((hostile,), each, each, each, ("fragile",))
    tree = fragment(shown._repr_html_())
    assert not tree.findall(".//img")
    assert len(tree.findall(".//style")) == 1
    assert "img src" in "".join(tree.itertext())


def test_a_class_may_say_it_itself_and_one_without_words_is_told():
    class Silent(Displayed):
        pass

    with pytest.raises(TypeError, match="Silent"):
        Silent().result()
    assert repr(Silent()) == "<Silent that cannot be described: TypeError>"

    @dataclasses.dataclass
    class Told(Displayed):
        values: torch.Tensor

    @result_of.register
    def _(shown: Told, rows: int | None) -> Result:
        return Result("told", "Told", "", {"middle": band(shown.values, "middle", Grade.EXACT)})

    assert repr(Told(torch.tensor([1.0, 2.0, 4.0]))) == "Told(middle: 2 [1, 4] exact)"


def test_missing_figures_are_named():
    result = MAKERS["Decision"]().result()
    with pytest.raises(UsageError, match="0: How easily decisions flip"):
        result.plot(9)


def test_bands_leave_out_what_is_missing_and_keep_what_is_infinite():
    found = band([float("nan"), 1.0, 2.0, float("inf")], "noise", Grade.CLOSED_FORM)
    assert (found.value, found.low, found.high) == (2.0, 1.0, float("inf"))
    assert band([3.0], "one", Grade.EXACT) == Quantity(3.0, Grade.EXACT, "", "one")
    assert numpy.isnan(share([], "none").value)


def test_few_inputs_are_bars_and_many_a_histogram():
    few = per_input("t", "", "x", {"x": torch.ones(BARS)})
    many = per_input("t", "", "x", {"x": torch.ones(BARS + 1)})
    assert (few.kind, many.kind) == ("bars", "histogram")
    gap = per_input("t", "", "x", {"x": torch.tensor([1.0, float("inf")])})
    assert gap.data["series"][0]["values"] == [1.0, None]


def test_maps_of_pictures_and_of_rows():
    figure, arrays = maps("t", "", {"map": pictures(2)})
    assert figure.kind == "heatmaps"
    assert arrays["map"].shape == (2, 8, 8)
    figure, arrays = maps("t", "", {"map": rows()})
    assert (figure.kind, arrays) == ("lines", {})


def test_results_tables_and_figures_are_short_too():
    table = Table("inputs", "Inputs", (Column("n"),), tuple((n,) for n in range(300)))
    result = Result("name", "Title", "", {"n": Quantity(3, Grade.EXACT, label="inputs")}, {"inputs": table})
    assert repr(result) == "Result('name': 3 inputs)"
    assert repr(table) == "Table('inputs', 300 rows x 1 columns)"
    assert repr(Figure("bars", "A title", "", {"labels": []})) == "Figure(bars: 'A title')"
    assert len(fragment(table._repr_html_()).findall(".//tbody/tr")) == ROWS
    assert len(result.to_frame()) == 300


@pytest.mark.slow
@pytest.mark.models("torchvision")
def test_photo_networks_show_themselves_too():
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    model, x = squeezenet1_1().eval(), torch.rand(2, 3, 64, 64)
    shown = [
        assay.moments.propagate(model, x, 1e-4, method="linearize"),
        assay.sensitivity.condition_numbers(model, x),
        assay.boundary.boundary_point(model, x),
        assay.sensitivity.layer_norms(model, example=x),
    ]
    for each in shown:
        page = each._repr_html_()
        fragment(page)
        assert len(page) < 200_000
        assert "could not be drawn" not in page
        assert len(repr(each)) < 500


def test_what_is_shown_touches_nothing():
    before = {name: value.clone() for name, value in network().state_dict().items()}
    MAKERS["Moments"]()._repr_html_()
    assert all(torch.equal(before[name], value) for name, value in network().state_dict().items())
    assert subject().model.training is False


def test_what_holds_tensors_is_described_by_shapes():
    held = MAKERS["Connection"]().checks
    assert repr(held).startswith(f"PathChecks(sampled: {len(held.sampled)}, ")
    assert repr(assay.covariance.Diagonal(torch.ones(2, 3))) == "Diagonal(variance: 2 x 3)"
    assert repr(subject()).startswith("Subject('demo', ")
    assert "tensor" not in repr(subject().data)
    assert len(repr(subject().graph)) < 200
