"""Colours of the report: legible in light, dark and on paper, and told apart with every kind of sight."""

import re
from itertools import combinations

import numpy
import pytest

from assay.render import theme
from assay.render.environment import asset

# Simulation of dichromatic sight in linear RGB (Machado, Oliveira and Fernandes 2009, table 1, severity 1).
SIGHT = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900),
    ),
}  # fmt: skip
LUMINANCE = numpy.array((0.2126, 0.7152, 0.0722))
XYZ = numpy.array(
    ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
)
MODES = ("light", "dark", "paper")


def linear(colour: str) -> numpy.ndarray:
    """Linear red, green and blue of a colour like #abc or #aabbcc."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    value = numpy.array([int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)])
    return numpy.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast of two colours."""
    low, high = sorted(float(LUMINANCE @ linear(colour)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def lightness_and_hue(colour: str, sight: str) -> numpy.ndarray:
    """CIELAB (D65) of a colour as someone of this sight sees it."""
    seen = numpy.clip(numpy.array(SIGHT[sight]) @ linear(colour), 0, 1)
    ratio = XYZ @ seen / numpy.array((0.95047, 1.0, 1.08883))
    x, y, z = numpy.where(ratio > 216 / 24389, numpy.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return numpy.array((116 * y - 16, 500 * (x - y), 200 * (y - z)))


def variables() -> dict[str, dict[str, str]]:
    """Colours of the style sheet by mode; a mode that leaves one out has that of the light one."""
    css = asset("report.css")
    blocks = re.findall(r"(@media ([^{]*)\{\s*)?:root \{([^}]*)\}", css)
    found = {media.strip() or "light": dict(re.findall(r"--([\w-]+):\s*(#\w+)", body)) for _, media, body in blocks}
    light = found["light"]
    paper = found["print"] | found["print and (prefers-color-scheme: dark)"]
    return {"light": light, "dark": light | found["(prefers-color-scheme: dark)"], "paper": light | paper}


@pytest.mark.parametrize("mode", MODES)
def test_words_have_contrast(mode: str):
    colours = variables()[mode]
    pairs = [(ink, back) for ink in ("ink", "muted", "link") for back in ("page", "card", "sunken")]
    pairs += [(kind, f"{kind}-soft") for kind in ("pass", "warn", "fail", "error")]
    pairs += [("fig-ink", "card"), ("fig-muted", "card"), ("ink", "mark"), ("ink", "warn-soft"), ("ink", "sunken")]
    weak = {pair: contrast(*(colours[name] for name in pair)) for pair in pairs}
    assert {pair: round(ratio, 2) for pair, ratio in weak.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("mode", MODES)
def test_lines_and_marks_stand_out_from_the_card(mode: str):
    colours = variables()[mode]
    names = [f"fig-s{index}" for index in range(6)] + ["pass", "warn", "fail", "error", "focus"]
    assert {
        name: contrast(colours[name], colours["card"]) for name in names if contrast(colours[name], colours["card"]) < 3
    } == {}


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("mode", MODES)
def test_series_are_told_apart(mode: str, sight: str):
    colours = variables()[mode]
    seen = [lightness_and_hue(colours[f"fig-s{index}"], sight) for index in range(6)]
    distances = {pair: float(numpy.linalg.norm(seen[pair[0]] - seen[pair[1]])) for pair in combinations(range(6), 2)}
    assert min(distances.values()) >= 20, distances


def test_the_simulation_tells_what_it_should():
    def apart(one: str, other: str, sight: str) -> float:
        return float(numpy.linalg.norm(lightness_and_hue(one, sight) - lightness_and_hue(other, sight)))

    assert apart("#00a000", "#b08000", "normal") > 60
    assert apart("#00a000", "#b08000", "deuteranopia") < 20
    assert apart("#2468b4", "#0c7a70", "tritanopia") < apart("#2468b4", "#0c7a70", "normal") / 2


def test_figures_and_style_sheet_have_the_same_colours():
    light = variables()["light"]
    assert tuple(light[f"fig-s{index}"] for index in range(6)) == theme.SERIES
    assert (light["fig-ink"], light["fig-muted"]) == (theme.INK, theme.MUTED)
    assert {name: colour for name, colour in variables()["paper"].items() if light[name] != colour} == {
        "page": "#fff", "sunken": "#f6f7f8",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["rising", "signed"])
@pytest.mark.parametrize("sight", SIGHT)
def test_the_colours_of_the_graph_keep_their_order(name: str, sight: str):
    listed = re.search(rf"const {name} = \[([^\]]*)\]", asset("report.js"))
    assert listed
    seen = [lightness_and_hue(colour, sight) for colour in re.findall(r"#\w{6}", listed.group(1))]
    lightness = [colour[0] for colour in seen]
    if name == "rising":
        assert lightness == sorted(lightness)
    else:  # lighter towards zero, and the ends differ in hue
        middle = len(lightness) // 2
        assert lightness[: middle + 1] == sorted(lightness[: middle + 1])
        assert lightness[middle:] == sorted(lightness[middle:], reverse=True)
        assert numpy.linalg.norm(seen[0] - seen[-1]) > 40
