"""The pack as a person sees it: ComfyUI's page in Chromium, with both of its node renderers."""

import json
import shutil

import pytest
from browser import Page, browser
from comfy_server import BLUEPRINT, GRAPHS, PACK, ROOT, active

NAMES = sorted(file.stem for file in GRAPHS.glob("*.json"))

CONNECT = """
() => {
  const [chain] = app.graph.nodes;
  const reference = LiteGraph.createNode('LoadImage'), save = LiteGraph.createNode('SaveImage');
  for (const node of [reference, save]) app.graph.add(node);
  reference.widgets.find(widget => widget.name === 'image').value = 'stylear_neon.png';
  chain.widgets.find(widget => widget.name === 'prompt').value = 'a rocket';
  reference.pos = [chain.pos[0] - 400, chain.pos[1]];
  save.pos = [chain.pos[0] + 500, chain.pos[1]];
  reference.connect(0, chain, chain.inputs.findIndex(input => input.type === 'IMAGE'));
  chain.connect(chain.outputs.findIndex(output => output.type === 'IMAGE'), save, 0);
}
"""

pytest.importorskip("playwright")
pytestmark = pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium")


@pytest.fixture(scope="module", params=["classic", "vue"])
def page(request, server):
    """A tab in one of the two renderers."""
    with browser() as chromium:
        tab = Page(chromium, server)
        tab.renderer(request.param)
        yield tab
        assert [error for error in tab.errors if "Failed to fetch" not in error] == []


def workflow(name: str) -> dict:
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_opens_whole_and_is_the_graph_that_the_api_tests_run(page, name, tmp_path):
    page.open(workflow(name))
    page.screenshot(tmp_path / "page.png")  # to look at: pytest keeps the folders of its last runs
    assert page.missing_nodes() == []
    assert page.overlaps() == []
    twin, opened = active(name), page.graph()
    assert {k: v["class_type"] for k, v in opened.items()} == {k: v["class_type"] for k, v in twin.items()}
    for node, body in twin.items():
        shown = opened[node]["inputs"]
        assert {name: shown.get(name) for name in body["inputs"]} == body["inputs"]


def test_a_workflow_runs_at_the_press_of_run_right_after_installing(page):
    page.open_template(PACK, "first_picture")
    assert page.missing_nodes() == []
    entry = page.run()
    assert entry["status"]["status_str"] == "success"


def test_a_style_that_was_kept_is_told_on_the_node_that_kept_it(page):
    page.open(workflow("style_preset"))
    assert page.run()["status"]["status_str"] == "success"
    page.tab.wait_for_function(
        "() => app.graph.nodes.some(n => n.widgets?.some(w => `${w.value}`.includes('as my style.safetensors')))"
    )


def test_a_picture_dropped_on_the_page_brings_its_graph_back(page, server):
    page.open(workflow("first_picture"))
    drawn, (picture, *_) = page.graph(), server.pictures(page.run())
    page.open(workflow("blend"))
    page.drop(picture)
    opened = page.graph()
    del drawn["5"]["inputs"]["seed"], opened["5"]["inputs"]["seed"]  # the page drew another after the run
    assert opened == drawn


def test_the_blueprint_is_inserted_from_the_search_and_runs(page, server, tmp_path):
    page.open({"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "version": 0.4})
    page.insert(BLUEPRINT.stem)
    page.tab.evaluate(CONNECT)
    page.fit()
    assert page.missing_nodes() == []
    entry = page.run()
    page.screenshot(tmp_path / "page.png")
    assert entry["status"]["status_str"] == "success"
    assert len(server.pictures(entry)) == 4


def test_an_error_shows_its_remedy(page):
    broken = workflow("first_picture")
    sampler = next(node for node in broken["nodes"] if node["type"] == "ARSample")
    sampler["widgets_values"][0] = "word " * 10_000
    page.open(broken)
    entry = page.run()
    assert entry["status"]["status_str"] == "error"
    page.tab.get_by_text("View details").first.click()
    page.tab.get_by_text("shorten it").first.wait_for()
