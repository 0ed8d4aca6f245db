"""SVG made safe and small for inlining: allowed elements and attributes only, no style, no outside reference."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from assay.render import theme
from assay.render.text import clean

MAXIMUM_GRAPH_BYTES = 4_000_000
MAXIMUM_INLINE_BYTES = 520_000

_SHAPES = frozenset(
    re.findall(r"\w+", "svg g path rect line polyline polygon circle ellipse text tspan defs clipPath marker")
)
_PRESENTATION = frozenset(
    re.findall(
        r"[\w-]+",
        "fill fill-opacity fill-rule stroke stroke-width stroke-opacity stroke-dasharray stroke-dashoffset "
        "stroke-linejoin stroke-linecap stroke-miterlimit opacity font-size font-weight font-style text-anchor "
        "dominant-baseline image-rendering clip-path clip-rule marker-start marker-end",
    )
)
_GEOMETRY = frozenset(
    re.findall(
        r"\w+",
        "x y x1 y1 x2 y2 cx cy r rx ry dx dy width height d points transform viewBox preserveAspectRatio refX refY "
        "markerWidth markerHeight markerUnits orient",
    )
)
_MEASURES = frozenset(re.findall(r"\w+", "x y x1 y1 x2 y2 cx cy r rx ry width height refX refY"))
_PLAIN_VALUE = re.compile(r"[\w#.,%()+\- \n]*")
_MEASURE = re.compile(r"-?[\d.]+(?:e-?\d+)?(?:px|pt|%)?")
_LOCAL = re.compile(r"url\(#([\w-]+)\)")
_PNG = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=\s]+")
_DECIMAL = re.compile(r"-?\d*\.\d+(?:e-?\d+)?")
_HREF = ("href", "{http://www.w3.org/1999/xlink}href")


@dataclass(frozen=True)
class Graph:
    """A drawing of the graph fit for the report.

    Attributes:
        svg: inline SVG; empty when there is none or it was refused.
        note: why there is none; empty otherwise.
        places: which of the nodes it shows, by their place in the layer table.
    """

    svg: str = ""
    note: str = ""
    places: frozenset[int] = frozenset()


def figure(text: str, prefix: str, label: str) -> str:
    """Inline form of an SVG that matplotlib wrote. The element with the id `prefix` and "caption" describes it.

    Args:
        text: the SVG file.
        prefix: makes the ids unique in the page.
        label: accessible name.

    Returns:
        An ``<svg>`` element.
    """
    root = ElementTree.fromstring(text)
    _collapse_markers(root)
    box = root.get("viewBox", "0 0 1 1")
    body = "".join(_write(child, prefix, _figure_element) for child in root)
    return (
        f'<svg class="drawing" viewBox="{html.escape(box)}" role="img" aria-label="{html.escape(clean(label, 300))}" '
        f'aria-describedby="{prefix}caption" stroke-linejoin="round">{body}</svg>'
    )


def graph(text: str, nodes: Sequence[str]) -> Graph:
    """Inline form of the drawing of a graph, which may come from a run directory of unknown origin.

    Each ``<g class="node" data-node="NAME">`` becomes a link to the row of that node, and a target for links from it.

    Args:
        text: the SVG file.
        nodes: node names in the order of the layer table.

    Returns:
        The drawing, or a note saying why there is none.
    """
    if not text.strip():
        return Graph()
    if len(text) > MAXIMUM_GRAPH_BYTES:
        return Graph(note=too_large(len(nodes)))
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return Graph(note="The drawing of the graph is not shown: it is not a plain SVG drawing.")
    index = {name: place for place, name in enumerate(nodes)}
    try:
        root = ElementTree.fromstring(text.encode("utf-8", "replace"))
        width, height = _dimensions(root)
        body = "".join(_write(child, "g-", lambda e, p: _graph_element(e, p, index)) for child in root)
    except (ElementTree.ParseError, ValueError, RecursionError):
        return Graph(note="The drawing of the graph is not shown: it is not a well-formed SVG drawing.")
    if len(body) > MAXIMUM_INLINE_BYTES:
        return Graph(note=too_large(len(nodes)))
    view = html.escape(root.get("viewBox") or f"0 0 {width:g} {height:g}")
    if not _PLAIN_VALUE.fullmatch(view):
        return Graph(note="The drawing of the graph is not shown: its size is not given in numbers.")
    size = f'viewBox="{view}" width="{width:g}" height="{height:g}"'
    head = f'<svg class="graph" {size} role="group" aria-label="Graph of the model">'
    places = frozenset(int(place) for place in re.findall(r' id="n(\d+)"', body))
    return Graph(f"{head}{body}</svg>", places=places)


def too_large(count: int) -> str:
    """What to say of a drawing that has no room on the page."""
    return f"The drawing of {count:,} layers is too large for this page; it is kept with the run."


Rule = Callable[[Element, str], "tuple[str, Mapping[str, str], str, str] | None"]


def _write(element: Element, prefix: str, rule: Rule) -> str:
    """One element and what is inside it; the rule gives tag, attributes, and text before and after the children."""
    made = rule(element, prefix)
    if made is None:
        return ""
    tag, attributes, before, after = made
    inside = "".join(_write(child, prefix, rule) + _words(child.tail, tag) for child in element)
    body = before + _words(element.text, tag) + inside + after
    if tag == "g" and not attributes:
        return body
    if not body and tag in ("g", "defs", "text"):
        return ""
    listed = "".join(f' {name}="{html.escape(value)}"' for name, value in attributes.items())
    return f"<{tag}{listed}>{body}</{tag}>" if body else f"<{tag}{listed}/>"


def _words(text: str | None, tag: str) -> str:
    return html.escape(clean(text, 200)) if text and text.strip() and tag in ("text", "tspan", "a", "title") else ""


def _figure_element(element: Element, prefix: str) -> tuple[str, Mapping[str, str], str, str] | None:
    tag = _tag(element)
    if tag == "image":
        source = next((element.get(name, "") for name in _HREF if element.get(name)), "")
        attributes = {name: value for name, value in _attributes(element, prefix).items() if name != "id"}
        return ("image", attributes | {"href": re.sub(r"\s", "", source)}, "", "") if _PNG.fullmatch(source) else None
    if tag not in _SHAPES or (tag == "path" and not element.get("d")):
        return None
    attributes = _attributes(element, prefix)
    if tag != "clipPath":
        attributes.pop("id", None)
    for name in ("fill", "stroke"):
        variable = theme.VARIABLES.get(attributes.get(name, "").lower())
        if variable is not None:
            attributes[name] = f"var(--fig-{variable},{attributes[name]})"
    return tag, attributes, "", ""


def _graph_element(
    element: Element, prefix: str, index: Mapping[str, int]
) -> tuple[str, Mapping[str, str], str, str] | None:
    tag = _tag(element)
    if tag == "title":
        return "title", {}, "", ""
    if tag not in _SHAPES - {"clipPath"}:
        return None
    # colours come from the page's style sheet, which knows dark and light
    attributes = {name: value for name, value in _attributes(element, prefix).items() if name not in ("fill", "stroke")}
    kind = element.get("class", "")
    if re.fullmatch(r"[\w -]{1,80}", kind):
        attributes["class"] = kind
    name = element.get("data-node")
    if tag == "g" and name is not None and "node" in kind.split():
        place = index.get(name)
        if place is None:
            return tag, attributes, "", ""
        attributes |= {"id": f"n{place}"}
        return tag, attributes, f'<a href="#r{place}" tabindex="-1">', "</a>"
    return tag, attributes, "", ""


def _attributes(element: Element, prefix: str) -> dict[str, str]:
    """Allowed attributes, with the style attribute taken apart into presentation attributes."""
    found = dict(element.attrib)
    for declaration in found.pop("style", "").split(";"):
        name, _, value = declaration.partition(":")
        found.setdefault(name.strip(), value.strip())
    if "font" in found:  # shorthand: only the size matters, the family is the page's
        pixels = re.search(r"([\d.]+)px", found["font"])
        if pixels:
            found.setdefault("font-size", pixels.group(1))
    kept: dict[str, str] = {}
    for name, value in found.items():
        if name == "id" and re.fullmatch(r"[\w-]{1,80}", value):
            kept["id"] = prefix + value
        elif name in ("clip-path", "marker-start", "marker-end"):
            local = _LOCAL.fullmatch(value)
            if local:
                kept[name] = f"url(#{prefix}{local.group(1)})"
        elif name in _MEASURES and not _MEASURE.fullmatch(value):
            continue
        elif name in _PRESENTATION | _GEOMETRY and _PLAIN_VALUE.fullmatch(value) and "url" not in value.lower():
            kept[name] = _small(name, value)
    if kept.get("transform", "") in ("", "rotate(0)") or re.match(
        r"rotate\(-?0(?:\.0+)?[ ,)]|translate\(0 0\)$", kept["transform"]
    ):
        kept.pop("transform", None)
    return kept


def _small(name: str, value: str) -> str:
    if name in ("d", "points"):
        value = _DECIMAL.sub(lambda m: _rounded(m.group(), 1), value)
        value = re.sub(r"\s*([A-Za-z])\s*", r"\1", " ".join(value.split()))
        return re.sub(r"(?<=L)([^A-Za-z]+)(?:L([^A-Za-z]+))+", lambda m: m.group().replace("L", " "), value)
    if name in ("x", "y", "x1", "y1", "x2", "y2", "width", "height", "font-size"):
        return _DECIMAL.sub(lambda m: _rounded(m.group(), 1), value.removesuffix("px"))
    return _DECIMAL.sub(lambda m: _rounded(m.group(), 5), value)


def _rounded(text: str, decimals: int) -> str:
    shown = f"{float(text):.{decimals}f}".rstrip("0").rstrip(".")
    return "0" if shown in ("-0", "") else shown


def _collapse_markers(root: Element) -> None:
    """Put used shapes in place. Round markers become one path of dots: ten bytes a point instead of a hundred."""
    shapes = {e.get("id", ""): e for e in root.iter() if _tag(e) == "path" and e.get("id") and e.get("d")}
    for parent in list(root.iter()):
        dots: dict[str, list[str]] = {}
        looks: dict[str, dict[str, str]] = {}
        for place, use in enumerate(list(parent)):
            if _tag(use) != "use":
                continue
            name = next((use.get(key, "") for key in _HREF if use.get(key)), "").removeprefix("#")
            shape = shapes.get(name)
            parent.remove(use)
            if shape is None:
                parent.insert(place, Element("g"))
                continue
            look = _attributes(shape, "") | _attributes(use, "")
            x, y = (_rounded(use.get(side, "0"), 1) for side in "xy")
            radius = re.match(r"M -?0(?:\.0+)? (-?[\d.]+)\s+C", shape.get("d", ""))
            if radius is None:  # an area or a square, drawn once
                kept = {key: value for key, value in look.items() if key not in ("x", "y", "id", "transform")}
                parent.insert(place, Element("path", kept | {"transform": f"translate({x} {y})"}))
                continue
            look["radius"] = radius.group(1)
            style = f"{name} {look.get('fill')} {look.get('fill-opacity')} {look.get('opacity')}"
            dots.setdefault(style, []).append(f"M{x} {y}h0")
            looks[style] = look
            parent.insert(place, Element("g"))
        for style, parts in dots.items():
            look = looks[style]
            path = ElementTree.SubElement(parent, "path", {"d": "".join(parts), "stroke": look.get("fill", theme.INK)})
            path.set("stroke-linecap", "round")
            path.set("stroke-width", _rounded(str(2 * abs(float(look["radius"]))), 2))
            opacity = look.get("fill-opacity") or look.get("opacity") or "1"
            if opacity != "1":
                path.set("stroke-opacity", opacity)
    for parent in list(root.iter()):  # shapes that nothing refers to any more
        if _tag(parent) == "defs":
            for child in list(parent):
                if _tag(child) != "clipPath":
                    parent.remove(child)


def _dimensions(root: Element) -> tuple[float, float]:
    box = [float(part) for part in root.get("viewBox", "").replace(",", " ").split()]
    if len(box) == 4:
        width, height = box[2], box[3]
    else:
        width, height = (
            float(root.get(name, "").removesuffix("px").removesuffix("pt")) for name in ("width", "height")
        )
    if _tag(root) != "svg" or not (0 < width < 1e6 and 0 < height < 1e6):
        raise ValueError("not an SVG of a usable size")
    return width, height


def _tag(element: Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
