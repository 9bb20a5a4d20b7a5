"""The workflows as they lie on the page: large enough to read when they open, and no wire behind a note."""

import json
import math
from itertools import combinations

import pytest
from bench import ROOT

NAMES = sorted(file.stem for file in (ROOT / "workflows").glob("*.json"))
CANVAS, FILLED = (1600, 900), 0.75  # pixels, and the part of them in which the page shows a template that opens
MARGIN = 10  # what it leaves around the nodes
READABLE = 0.6  # the page's classic nodes show no text when zoomed out further
TITLE, SLOT, WIDGET = 30, 20, 24  # heights that the page gives them


def read(name: str) -> dict:
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def box(node: dict) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a node with its title."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE, x + width, y + height


def end(node: dict, slot: int, side: str) -> tuple[float, float]:
    """Where a wire meets a node; that of a widget meets it about where the widget is."""
    (x, y), (width, _) = node["pos"], node["size"]
    if side == "outputs":
        return x + width, y + SLOT * (slot + 0.7)
    shown = [item for item in node["inputs"] if "widget" not in item]
    item = node["inputs"][slot]
    if "widget" not in item:
        return x, y + SLOT * (shown.index(item) + 0.7)
    widgets = [other for other in node["inputs"] if "widget" in other]
    return x, y + SLOT * len(shown) + WIDGET * (widgets.index(item) + 0.5)


def wire(start: tuple[float, float], stop: tuple[float, float]) -> list[tuple[float, float]]:
    """Points along the curve that the page draws from one socket to another."""
    pull = math.dist(start, stop) / 4
    bend = (start, (start[0] + pull, start[1]), (stop[0] - pull, stop[1]), stop)
    weights = [
        ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3) for t in (step / 100 for step in range(101))
    ]
    return [tuple(sum(w * p[axis] for w, p in zip(row, bend, strict=True)) for axis in (0, 1)) for row in weights]


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_opens_whole_and_large_enough_to_read(name):
    workflow = read(name)
    assert "ds" not in workflow["extra"], "it says a view of its own, so the page would not show the whole"
    boxes = [box(node) for node in workflow["nodes"]]
    for axis in (0, 1):
        extent = max(one[axis + 2] for one in boxes) - min(one[axis] for one in boxes) + 2 * MARGIN
        assert CANVAS[axis] * FILLED / extent >= READABLE, f"{extent} pixels in direction {axis}"


@pytest.mark.parametrize("name", NAMES)
def test_no_node_or_note_lies_over_another(name):
    for one, other in combinations(read(name)["nodes"], 2):
        a, b = box(one), box(other)
        assert any(a[axis + 2] <= b[axis] or b[axis + 2] <= a[axis] for axis in (0, 1)), (one["id"], other["id"])


@pytest.mark.parametrize("name", NAMES)
def test_no_wire_runs_behind_a_note_or_a_node_that_it_does_not_join(name):
    workflow = read(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for _, source, out, target, slot, _ in workflow["links"]:
        points = wire(end(nodes[source], out, "outputs"), end(nodes[target], slot, "inputs"))
        for other in nodes.keys() - {source, target}:
            left, top, right, bottom = box(nodes[other])
            assert not [1 for x, y in points if left < x < right and top < y < bottom], (source, target, other)
