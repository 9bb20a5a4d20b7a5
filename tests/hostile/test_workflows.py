"""Workflows of strangers: the API twins of our own, edited, run by a host that checks nothing."""

import json

import pytest
from comfy_pack import ROOT
from hypothesis import strategies as st

from .graphs import Graphs
from .harness import hostile, outcome
from .strategies import NAMES, edited, odd_values

TWINS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "tests" / "api_workflows").glob("*.json"))}
LINKS = [[str(node), output] for node in range(1, 9) for output in (0, 1)]


def small(graph: dict) -> dict:
    """A graph that draws one picture where it drew several."""
    for body in graph.values():
        if "batch_size" in body["inputs"]:
            body["inputs"] |= {"batch_size": 1, "width": 8, "height": 8, "window": "1"}
    return graph


SMALL = {name: small(graph) for name, graph in TWINS.items()}


def check_graph(graphs: Graphs, graph: object) -> None:
    """A workflow runs to its end or to a documented error, and the model's folder is as it was."""
    before = {path: path.stat().st_mtime_ns for path in graphs.folder.rglob("*")}
    outcome(graphs.run, graph, errors=(graphs.errors.StyleARError,))
    assert {path: path.stat().st_mtime_ns for path in graphs.folder.rglob("*")} == before


@pytest.fixture
def graphs(nodes, models):
    return Graphs(nodes, models)


def test_the_twins_run_as_they_are(graphs):
    for graph in SMALL.values():
        graphs.run(graph)


def test_an_edited_workflow_runs_or_says_what_is_wrong(graphs):
    values = odd_values | st.sampled_from(LINKS) | st.sampled_from(NAMES)

    @hostile(200, name=st.sampled_from(list(SMALL)), data=st.data())
    def run(name, data):
        check_graph(graphs, data.draw(edited(SMALL[name], values)))

    run()
