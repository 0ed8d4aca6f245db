"""An SVG drawing of a graph: small, without colours of its own, so that the page it stands in decides them."""

from __future__ import annotations

from html import escape

from assay.graph.ir import BatchSize, Graph, Node
from assay.graph.layout import Edge, Layout, layout
from assay.graph.operators import OPERATORS

_WIDTH, _WIDTH_OF_MANY = 160, 136
_FIRST, _NEXT = 31, 17
_GAP, _CROSSING, _TIGHT = 12, 22, 2
_MARGIN, _GUTTER, _PITCH = 6, 14, 5
_CHARACTER = 6.6
_DETAILED = 600
"""Up to this many nodes, a box says its module too; beyond, only its title does."""


def draw_svg(graph: Graph) -> str:
    """Draw what a graph computes, top to bottom, with a lane for every branch.

    Each node is a ``<g class="node" data-node="NAME">`` with a title (place, operator, shape), a box and its label;
    connections are one path in ``<g class="edge">``. There are no styles and no colours but `currentColor`: a page may
    style the classes.

    Args:
        graph: a captured graph.

    Returns:
        The SVG file, the same for the same graph; 200 to 280 bytes per node.

    Example:
        >>> import torch
        >>> from assay.graph import capture, draw_svg
        >>> graph = capture(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()), torch.zeros(2, 3))
        >>> draw_svg(graph).count('class="node"')
        3
    """
    page = _Page(graph, layout(graph))
    edges = "".join(map(page.edge, page.plan.edges))
    nodes = "".join(map(page.cell, page.plan.cells))
    size = f'viewBox="0 0 {page.width} {page.height}" width="{page.width}" height="{page.height}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
        f'<g class="edge" fill="none" stroke="currentColor"><path d="{edges}"/></g>'
        f'<g font-size="11" font-family="system-ui,sans-serif" fill="currentColor">{nodes}</g></svg>'
    )


class _Page:
    """Coordinates: x of each lane, y of each row."""

    def __init__(self, graph: Graph, plan: Layout) -> None:
        self.graph = graph
        self.plan = plan
        self.box = _WIDTH if len(plan.tracks) <= 2 else _WIDTH_OF_MANY
        self.room = int((self.box - 10) / _CHARACTER)
        self.first = _FIRST if len(graph.layers) <= _DETAILED else _NEXT
        self.left: list[int] = []
        x = _MARGIN
        for tracks in plan.tracks:
            self.left.append(x)
            x += self.box + _GUTTER + _PITCH * tracks
        self.width = x - _GUTTER + _MARGIN
        crossed = {plan.row[edge.target] for edge in plan.edges if plan.lane[edge.source] != plan.lane[edge.target]}
        heights = [0] * (1 + max(plan.row.values()))
        for name, row in plan.row.items():
            heights[row] = max(heights[row], self._height(name))
        self.gap = [_CROSSING if row in crossed else _GAP for row in range(len(heights))]
        self.top: list[int] = []
        y = _MARGIN - self.gap[0]
        for gap, height in zip(self.gap, heights, strict=True):
            self.top.append(y + gap)
            y += gap + height
        self.height = y + _MARGIN

    def _height(self, cell: str) -> int:
        return self.first + (len(self.plan.cells[cell]) - 1) * (_TIGHT + _NEXT)

    def _corner(self, cell: str) -> tuple[int, int]:
        return self.left[self.plan.lane[cell]], self.top[self.plan.row[cell]]

    def cell(self, name: str) -> str:
        """The boxes of one cell: the first node with its module, what follows it in brief."""
        x, y = self._corner(name)
        first, *following = self.plan.cells[name]
        boxes = [self._box(first, x, y, self.first)]
        y += self.first + _TIGHT
        for node in following:
            boxes.append(self._box(node, x, y, _NEXT))
            y += _NEXT + _TIGHT
        return "".join(boxes)

    def _box(self, node: Node, x: int, y: int, height: int) -> str:
        shape = _shape(node)
        title = escape(f"{node.place} {shape}".strip(), quote=False)
        label = _short(_label(self.graph, node), self.room)
        same = node.op == "batch_norm" or (node.op in OPERATORS and OPERATORS[node.op].family == "activation")
        wide = len(label) + len(shape) + 0.3 * (label + shape).count("×")
        if not same and wide < self.room:
            label = f"{label} {shape}"
        lines = f'<text x="{x + 6}" y="{y + 12}">{escape(label, quote=False)}</text>'
        if height > _NEXT:
            path = escape(_tail(node.module_path or node.name, self.room), quote=False)
            lines += f'<text x="{x + 6}" y="{y + 25}" opacity=".65">{path}</text>'
        box = f'<rect x="{x}" y="{y}" width="{self.box}" height="{height}" rx="4" fill="none" stroke="currentColor"/>'
        return f'<g class="node" data-node="{escape(node.name)}"><title>{title}</title>{box}{lines}</g>'

    def edge(self, edge: Edge) -> str:
        """Path of one connection."""
        x, y = self._corner(edge.source)
        to_x, to_y = self._corner(edge.target)
        bottom = y + self._height(edge.source)
        gap = self.gap[self.plan.row[edge.target]]
        middle = to_x + self.box // 2
        if edge.track is None:
            centre = x + self.box // 2
            if centre == middle:
                return f"M{centre} {bottom}V{to_y}"
            bend = to_y - gap
            return f"M{centre} {bottom}V{bend}C{centre} {to_y} {middle} {bend} {middle} {to_y}"
        side = x + self.box
        track = side + 6 + _PITCH * edge.track
        start = f"M{side} {bottom - 8}H{track - 3}q3 0 3 3"
        if x == to_x:
            return f"{start}V{to_y + 5}q0 3-3 3H{side}"
        level = to_y - gap // 2
        turn = 3 if middle > track else -3
        return f"{start}V{level - 3}q0 3 {turn} 3H{middle - turn}q{turn} 0 {turn} 3V{to_y}"


def _label(graph: Graph, node: Node) -> str:
    """Operator with its window: ``conv 3×3 /2``, where /2 is the stride."""
    if node.op == "opaque":
        return node.label.removeprefix("aten.").removesuffix(".default")
    window: tuple[object, ...] = tuple(node.attributes.get("kernel_size", ()))
    if node.op in ("conv", "conv_transpose") and node.inputs[1] is not None:
        window = graph[node.inputs[1]].spec.shape[2:]
    if not window:
        return node.op
    stride = node.attributes.get("stride", ())
    steps = [step for step in (stride if isinstance(stride, tuple) else (stride,)) if step != 1]
    return f"{node.op} {'×'.join(map(str, window))}" + (f" /{steps[0]}" if steps else "")


def _shape(node: Node) -> str:
    """Shape without the batch axis."""
    sizes = node.spec.shape[1:] if node.spec.shape[:1] == (BatchSize(),) else node.spec.shape
    return "×".join(map(str, sizes))


def _short(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


def _tail(path: str, room: int) -> str:
    """The end of a module path, whole names if they fit: the front is what neighbours share."""
    if len(path) <= room:
        return path
    end = path[1 - room :]
    whole = end[end.find(".") + 1 :]
    return "…" + (whole if len(whole) > room // 2 else end)
