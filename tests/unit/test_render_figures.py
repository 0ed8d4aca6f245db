"""Figures: every kind draws, nothing global changes, the bytes repeat, the inlined form is small and inert."""

import subprocess
import sys
from xml.etree import ElementTree

import matplotlib
import matplotlib.colors
import numpy
import pytest
from tests.support import synthetic

from assay.render import figures, svg, theme
from assay.render.thin import Notes, line_points, picture
from assay.results import Figure

AUDIT = synthetic.audit(12)
STRANGE = {"font.size": 31, "axes.facecolor": "black", "svg.fonttype": "path", "lines.linewidth": 9} | {
    "axes.labelpad": 40,
    "xtick.major.pad": 20,
    "grid.linestyle": ":",
    "image.origin": "lower",
    "legend.shadow": True,
}
EVERY = [(r.arrays, f) for r in AUDIT.results.values() for f in r.figures]


def inline(figure: Figure, arrays=None, notes: Notes | None = None) -> str:
    drawing = figures.draw(figure, arrays or {}, title=False, notes=notes or Notes(compact=True))
    return svg.figure(figures.to_svg(drawing), "p-", figure.title)


def lines(count: int, **more) -> Figure:
    x = numpy.linspace(0.1, 10, count)
    data = {"x": x.tolist(), "series": [{"label": "a", "y": numpy.sin(x).tolist()}], "x_label": "x", "y_label": "y"}
    return Figure("lines", "Many", "", data | more)


def test_all_kinds_are_covered():
    assert {f.kind for _, f in EVERY} == {"lines", "scatter", "bars", "histogram", "heatmaps", "matrix", "regions"}


@pytest.mark.parametrize(("arrays", "figure"), EVERY, ids=lambda x: getattr(x, "title", ""))
def test_every_kind_draws_the_same_bytes_without_touching_settings(arrays, figure):
    usual = inline(figure, arrays)
    with matplotlib.rc_context(STRANGE):
        before = dict(matplotlib.rcParams)
        strange = inline(figure, arrays)
        assert dict(matplotlib.rcParams) == before
    assert strange == usual
    root = ElementTree.fromstring(usual)
    assert root.get("aria-label") == figure.title
    for element in root.iter():
        assert "style" not in element.attrib
        assert not {"script", "style", "metadata", "use", "foreignObject"} & {element.tag}
    assert len(usual) < 60_000


def test_drawing_leaves_pyplot_alone():
    code = (
        "import sys; from tests.support import synthetic; a = synthetic.audit(12);"
        "[r.plot(i) for r in a.results.values() for i in range(len(r.figures))];"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_plot_has_its_title():
    drawing = AUDIT.results["moments"].plot(0)
    assert drawing.get_suptitle() == "Flip probability against noise"


def test_bands_points_and_dots_are_drawn():
    drawn = inline(EVERY[0][1], EVERY[0][0])
    assert drawn.count("fill-opacity") >= 1  # the band
    assert 'stroke-linecap="round"' in drawn  # the points
    assert "stroke-dasharray" in drawn  # the dashed line


def test_colours_follow_the_page():
    drawn = inline(lines(5))
    assert f"var(--fig-s0,{theme.SERIES[0]})" in drawn
    assert "var(--fig-muted," in drawn


def test_long_lines_are_thinned_but_keep_their_peak():
    y = numpy.zeros(50_000)
    y[31_234] = 7.0
    keep = line_points(numpy.arange(50_000.0), y, Notes(compact=True))
    assert 31_234 in keep
    assert len(keep) <= 602
    notes = Notes(compact=True)
    assert len(inline(lines(50_000), notes=notes)) < 20_000
    assert "of 50,000 points" in notes.sentences[0]


def test_scatter_is_thinned_and_says_so():
    points = numpy.random.default_rng(0).random(40_000).tolist()
    figure = Figure(
        "scatter", "s", "", {"series": [{"label": "a", "x": points, "y": points}], "x_label": "", "y_label": ""}
    )
    notes = Notes(compact=True)
    assert len(inline(figure, notes=notes)) < 40_000
    assert notes.sentences == ["Shows 1,500 of 40,000 points, evenly chosen."]
    full = figures.draw(figure, {}, notes=(whole := Notes()))
    assert len(full.axes[0].lines[0].get_xdata()) == 40_000
    assert whole.sentences == []


def test_what_is_not_finite_is_left_out_and_counted():
    values = [1.0, None, float("nan"), float("inf"), 2.0]
    notes = Notes(compact=True)
    inline(
        Figure("histogram", "h", "", {"series": [{"label": "a", "values": values}], "x_label": "", "bins": 4}),
        notes=notes,
    )
    assert notes.sentences == ["3 values are not finite and not shown."]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("lines", {"x": [], "series": [], "x_label": "", "y_label": ""}),
        ("lines", {"x": [0, 1], "series": [{"label": "a", "y": [None, None]}], "x_log": True, "y_log": True}),
        ("lines", {"x": ["a", "b"], "series": [{"label": "a", "y": [1, 2], "style": "points"}]}),
        ("scatter", {"series": [{"label": "a", "x": [], "y": []}], "log": True, "diagonal": True}),
        ("scatter", {"series": [{"label": "a", "x": [-1, 1], "y": [0, 1]}], "log": True, "diagonal": True}),
        ("bars", {"labels": [], "series": [{"label": "a", "values": []}], "horizontal": True}),
        ("bars", {"labels": ["a", "b"], "series": [{"label": "a", "values": [0.0, 1e9]}], "x_log": True}),
        ("bars", {"labels": ["a"], "series": [{"label": "a", "values": [0.0]}], "horizontal": True, "x_log": True}),
        ("bars", {"labels": [f"l{i}" for i in range(900)], "series": [{"label": "a", "values": list(range(900))}]}),
        ("histogram", {"series": [{"label": "a", "values": []}], "x_label": "", "bins": 5}),
        ("histogram", {"series": [{"label": "a", "values": [3.0] * 9}], "x_label": "", "bins": 10**9}),
        ("heatmaps", {"panels": [{"array": "nan", "title": "t", "diverging": True}], "columns": 1}),
        ("heatmaps", {"panels": [{"array": "thin", "title": "t"}] * 50, "columns": 50}),
        ("matrix", {"array": "big", "row_labels": [str(i) for i in range(300)], "column_labels": [], "percent": True}),
        ("matrix", {"array": "nan", "row_labels": ["a"], "column_labels": ["b"], "percent": False}),
        ("regions", {"panels": [{"array": "one", "extent": [0, 1, 0, 1]}], "names": []}),
        ("regions", {"panels": [{"array": "two", "extent": [0, 1, 0, 1], "points": [{"x": 9, "y": 9}]}] * 9}),
    ],
)
def test_edge_cases_draw(kind, data):
    arrays = {"nan": numpy.full((3, 3), numpy.nan), "thin": numpy.ones((1, 700)), "big": numpy.eye(300)}
    arrays |= {"one": numpy.zeros((2, 3), int), "two": numpy.arange(30).reshape(5, 6)}
    assert len(inline(Figure(kind, "edge", "", data), arrays)) < 120_000


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("pie", {}),
        ("lines", {"x": [1, 2], "series": [{"label": "a", "y": [1]}]}),
        ("lines", {}),
        ("heatmaps", {"panels": []}),
        ("heatmaps", {"panels": [{"array": "absent"}]}),
        ("heatmaps", {"panels": [{"array": "four"}]}),
        ("matrix", {"array": "text"}),
        ("regions", {"panels": []}),
        ("regions", {"panels": [{"array": "four", "extent": [0, 1, 0, 1]}]}),
        ("bars", {"labels": ["a"], "series": [{"label": "s", "values": [1, 2]}]}),
    ],
)
def test_data_that_do_not_fit_name_the_figure(kind, data):
    arrays = {"four": numpy.ones((2, 2, 2, 2)), "text": numpy.array([["a"]])}
    with pytest.raises(ValueError, match="'The title'"):
        figures.draw(Figure(kind, "The title", "", data), arrays)


@pytest.mark.parametrize("label", ["_hidden", "$x^{$", "a < b & c", "\x00\x1b", "\u202e", "日本語", "x" * 5000, ""])
def test_labels_are_only_text(label):
    data = {
        "x": [1, 2],
        "series": [{"label": label, "y": [1, 2]}, {"label": label, "y": [2, 1]}],
        "x_label": label,
        "y_label": label,
    }
    drawn = inline(Figure("lines", label, "", data))
    ElementTree.fromstring(drawn)
    if label == "_hidden":
        assert drawn.count("_hidden</text>") >= 3
    if label == "$x^{$":
        assert "$x^{$" in drawn


def test_pictures_are_averaged_to_the_size_shown():
    image = numpy.arange(300 * 200, dtype=float).reshape(300, 200)
    small = picture(image, 100, Notes(compact=True))
    assert small.shape == (100, 66)
    numpy.testing.assert_allclose(small[0, 0], image[:3, :3].mean())
    assert picture(image, 100, Notes()).shape == (300, 200)
    assert picture(numpy.full((4, 4, 3), 255, numpy.uint8), 8, Notes()).max() == 1.0


def test_numbers_in_a_matrix_are_legible():
    drawing = figures.draw(
        Figure(
            "matrix", "m", "", {"array": "a", "row_labels": list("abcdefghij"), "column_labels": list("abcdefghij")}
        ),
        {"a": numpy.linspace(0, 1, 100).reshape(10, 10)},
    )
    image = drawing.axes[0].images[0]
    for text, colour in zip(drawing.axes[0].texts, image.cmap(image.norm(numpy.linspace(0, 1, 100))), strict=True):
        pair = [_luminance(matplotlib.colors.to_rgb(text.get_color())), _luminance(colour)]
        assert (max(pair) + 0.05) / (min(pair) + 0.05) >= 4.5


def _luminance(colour) -> float:
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_bars_on_a_logarithmic_axis_are_there():
    data = {
        "labels": ["a", "b"],
        "series": [{"label": "v", "values": [1000.0, 2.0]}],
        "horizontal": True,
        "x_log": True,
    }
    drawing = figures.draw(Figure("bars", "t", "c", data), {})
    drawing.canvas.draw()
    long, short = (patch.get_window_extent() for patch in drawing.axes[0].patches)
    assert numpy.isfinite([*long.bounds, *short.bounds]).all()
    assert long.x1 > short.x1 > drawing.axes[0].bbox.x0
