"""Colours and sizes of figures. Each colour stands for a CSS variable: an inlined figure follows dark and light."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, Literal

from assay.render.text import clean

INK = "#1c2733"
MUTED = "#5b6776"
GRID = "#dde3ea"
SERIES = ("#2468b4", "#d9601a", "#14483f", "#b97fb5", "#7a3d10", "#8c9a6e")
"""Any two stay at least 20 units of CIELAB apart with normal sight, deuteranopia, protanopia and tritanopia."""

VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid"} | {colour: f"s{index}" for index, colour in enumerate(SERIES)}
"""CSS variable (``--fig-NAME``) that replaces each colour in an inlined figure."""

SEQUENTIAL = "viridis"
DIVERGING = "RdBu_r"

WIDTH, HEIGHT = 5.3, 3.3  # inches; an SVG has 72 units an inch, so a figure is 382 units wide
WIDE = 9.2

SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "assay",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.size": 10,
    "font.family": ["DejaVu Sans"],
    "axes.labelsize": 10,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.7,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
    "text.color": INK,
}


def colour(index: int) -> str:
    """Colour of the series at a position."""
    return SERIES[index % len(SERIES)]


def dashes(index: int) -> Literal["-", "--", ":"]:
    """Line style of the series at a position: past the last colour the style changes."""
    return ("-", "--", ":")[index // len(SERIES) % 3]


def readable(background: Sequence[float]) -> Literal["#ffffff", "#000000"]:
    """White or black, whichever has the higher contrast (WCAG 2) on a background of red, green and blue in [0, 1]."""
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in background[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.179 else "#ffffff"


def wrapped(text: str) -> str:
    """A title over at most two lines."""
    return "\n".join(textwrap.wrap(clean(text, 130), 70)[:2])
