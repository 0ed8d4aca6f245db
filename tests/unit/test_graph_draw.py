"""The drawing of a graph: small, deterministic, escaped, fit for the report, no two boxes on one place."""

import itertools
import re
from xml.etree import ElementTree

import pytest
import torch

from assay.graph import BatchSize, Graph, Node, TensorSpec, draw_svg
from assay.graph.layout import layout
from assay.render import svg

SPEC = TensorSpec((BatchSize(), 64, 56, 56), torch.float32)


def graph(*calls: tuple[str, str, tuple[str, ...]]) -> Graph:
    """A graph from (name, operator, inputs); the first name read is the input."""
    nodes = [Node("x", "input", (), {}, SPEC)]
    nodes += [Node(name, op, inputs, {}, SPEC, f"stage.{name}") for name, op, inputs in calls]
    return Graph(tuple(nodes), "x", nodes[-1].name)


def residual(blocks: int) -> Graph:
    """Residual blocks of seven nodes, every second with a layer in the shortcut."""
    calls: list[tuple[str, str, tuple[str, ...]]] = []
    last = "x"
    for b in range(blocks):
        names = [f"layer{b}_{kind}" for kind in ("conv1", "bn1", "relu1", "conv2", "bn2")]
        operators = ("conv", "batch_norm", "relu", "conv", "batch_norm")
        calls += [
            (n, op, (s, *(("w",) if op == "conv" else ())))
            for n, op, s in zip(names, operators, [last, *names], strict=False)
        ]
        shortcut = last
        if b % 2:
            shortcut = f"layer{b}_downsample"
            calls.append((shortcut, "conv", (last, "w")))
        calls += [(f"layer{b}_add", "add", (names[-1], shortcut)), (f"layer{b}_relu", "relu", (f"layer{b}_add",))]
        last = f"layer{b}_relu"
    plain = graph(*calls)
    weight = Node("w", "parameter", (), {}, TensorSpec((64, 64, 3, 3), torch.float32))
    return Graph((weight, *plain.nodes), "x", last, {"w": torch.zeros(1)})


BRANCHES = graph(
    ("stem", "conv_transpose", ("x", "x")),
    ("a1", "max_pool", ("stem",)),
    ("a2", "softmax", ("a1",)),
    ("a3", "softmax", ("a2",)),
    ("b1", "softmax", ("stem",)),
    ("c1", "identity", ("stem",)),
    ("d1", "softmax", ("stem",)),
    ("d2", "gelu", ("d1",)),
    ("join", "cat", ("a3", "b1", "c1", "d2")),
    ("skip", "add", ("join", "stem")),
    ("twice", "mul", ("skip", "skip")),
    ("end", "sub", ("twice", "d1")),
)
GRAPHS = {"chain": graph(("y", "relu", ("x",))), "branches": BRANCHES, "residual": residual(8)}


def boxes(text: str) -> dict[str, tuple[float, float, float, float]]:
    root = ElementTree.fromstring(text)
    found = {}
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        if group.get("class") == "node":
            rect = group.find("{http://www.w3.org/2000/svg}rect")
            assert rect is not None
            found[group.get("data-node", "")] = tuple(
                float(rect.get(key, "nan")) for key in ("x", "y", "width", "height")
            )
    return found


@pytest.mark.parametrize("name", GRAPHS)
def test_every_layer_has_one_box_below_what_it_reads(name: str):
    drawn = GRAPHS[name]
    found = boxes(draw_svg(drawn))
    assert set(found) == {"x", *(node.name for node in drawn.layers)}
    for node in drawn.layers:
        for source in node.inputs:
            if source in found:
                assert found[source][1] + found[source][3] <= found[node.name][1]


@pytest.mark.parametrize("name", GRAPHS)
def test_boxes_lie_apart_and_inside(name: str):
    text = draw_svg(GRAPHS[name])
    found = boxes(text)
    width, height = (float(v) for v in re.search(r'viewBox="0 0 (\S+) (\S+)"', text).groups())  # type: ignore[union-attr]
    for x, y, w, h in found.values():
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height
    for (ax, ay, aw, ah), (bx, by, bw, bh) in itertools.combinations(found.values(), 2):
        assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay


@pytest.mark.parametrize("name", GRAPHS)
def test_every_connection_is_drawn_through_identities(name: str):
    drawn = GRAPHS[name]
    plan = layout(drawn)
    cell_of = {node.name: cell for cell, nodes in plan.cells.items() for node in nodes}
    stands = {node.name: node.inputs[0] if node.op == "identity" else node.name for node in drawn}
    expected = {
        (cell_of[stands[source]], cell_of[node.name])
        for node in drawn.layers
        for source in node.inputs
        if source is not None and stands[source] in cell_of
    }
    inner = {(name, name) for name in plan.cells}
    assert {(edge.source, edge.target) for edge in plan.edges} == expected - inner
    assert all(plan.row[edge.source] < plan.row[edge.target] for edge in plan.edges)


@pytest.mark.parametrize("name", GRAPHS)
def test_straight_connections_cross_no_box(name: str):
    plan = layout(GRAPHS[name])
    at = {(plan.lane[cell], plan.row[cell]) for cell in plan.cells}
    for edge in plan.edges:
        if edge.track is None:
            passed = {(plan.lane[edge.source], row) for row in range(plan.row[edge.source] + 1, plan.row[edge.target])}
            assert not passed & at


def test_connections_on_one_track_never_overlap():
    plan = layout(residual(20))
    spans: dict[tuple[int, int], list[tuple[int, int, str]]] = {}
    for edge in plan.edges:
        if edge.track is not None:
            spans.setdefault((plan.lane[edge.source], edge.track), []).append(
                (plan.row[edge.source], plan.row[edge.target], edge.source)
            )
    assert spans
    for rows in spans.values():
        for (s1, t1, n1), (s2, t2, n2) in itertools.combinations(rows, 2):
            assert n1 == n2 or t1 < s2 or t2 < s1


def test_branches_take_lanes_and_a_chain_takes_one():
    assert set(layout(residual(1)).lane.values()) == {0}
    assert len(set(layout(BRANCHES).lane.values())) == 3
    assert set(layout(residual(2)).lane.values()) == {0, 1}


def test_norms_and_activations_sit_close_below_their_layer():
    cells = layout(residual(1)).cells
    assert [[node.op for node in nodes] for nodes in cells.values()] == [
        ["input"],
        ["conv", "batch_norm", "relu"],
        ["conv", "batch_norm"],
        ["add", "relu"],
    ]


@pytest.mark.parametrize("name", GRAPHS)
def test_the_report_shows_it_whole(name: str):
    drawn = GRAPHS[name]
    names = [node.name for node in drawn.layers]
    shown = svg.graph(draw_svg(drawn), names)
    assert not shown.note
    assert all(f'id="n{index}"' in shown.svg for index in range(len(names)))
    assert shown.svg.count("<rect") == len(names) + 1
    assert 'class="edge"' in shown.svg


def test_it_is_small_and_always_the_same():
    large = residual(133)
    assert len(large.layers) > 990
    text = draw_svg(large)
    assert len(text.encode()) <= 250_000
    assert text == draw_svg(residual(133))
    assert len(text.encode()) <= 260 * len(large.layers)


def test_colours_are_left_to_the_page():
    text = draw_svg(BRANCHES)
    assert "style" not in text
    assert set(re.findall(r'(?:fill|stroke)="([^"]*)"', text)) == {"none", "currentColor"}


def test_names_are_escaped():
    hostile = "<script>\"&'</script>"
    nodes = (Node("x", "input", (), {}, SPEC), Node(hostile, "relu", ("x",), {}, SPEC, hostile, hostile))
    text = draw_svg(Graph(nodes, "x", hostile))
    assert "<script" not in text
    assert hostile in boxes(text)


def test_labels_say_operator_window_module_and_shape():
    weight = Node("w", "parameter", (), {}, TensorSpec((8, 3, 3, 3), torch.float32))
    conv = Node(
        "c", "conv", ("x", "w"), {"stride": (2, 2)}, TensorSpec((BatchSize(), 8, 4, 4), torch.float32), "stem.conv"
    )
    other = Node(
        "o",
        "opaque",
        ("c",),
        {"target": "aten.cumsum.default"},
        TensorSpec((BatchSize(2), 8), torch.float32),
        "a." * 40,
    )
    image = Node("x", "input", (), {}, SPEC)
    text = draw_svg(Graph((weight, image, conv, other), "x", "o", {"w": torch.zeros(1)}))
    assert ">conv 3×3 /2 8×4×4</text>" in text
    assert ">stem.conv</text>" in text
    assert "<title>stem.conv (conv) 8×4×4</title>" in text
    assert ">cumsum 2B×8</text>" in text
    assert "<title>" + "a." * 40 + " (aten.cumsum.default) 2B×8</title>" in text
    assert max(map(len, re.findall(r">([^<]*)</text>", text))) < 26
