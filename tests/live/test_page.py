"""The pack as a person sees it: ComfyUI's page in Chromium, with both of its node renderers."""

import json
import shutil

import pytest
from browser import Page, browser
from comfy_server import GRAPHS, PACK, ROOT

NAMES = sorted(file.stem for file in GRAPHS.glob("*.json"))

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
def test_a_workflow_opens_whole_and_is_the_graph_that_the_api_tests_run(page, name):
    page.open(workflow(name))
    assert page.missing_nodes() == []
    assert page.overlaps() == []
    twin = json.loads((GRAPHS / f"{name}.json").read_text(encoding="utf-8"))
    opened = page.graph()
    assert {k: v["class_type"] for k, v in opened.items()} == {k: v["class_type"] for k, v in twin.items()}
    for node, body in twin.items():
        shown = opened[node]["inputs"]
        assert {name: shown.get(name) for name in body["inputs"]} == body["inputs"]


def test_a_workflow_runs_at_the_press_of_run_right_after_installing(page):
    page.open_template(PACK, "style_only")
    assert page.missing_nodes() == []
    entry = page.run()
    assert entry["status"]["status_str"] == "success"


def test_an_error_shows_its_remedy(page):
    broken = workflow("style_only")
    sampler = next(node for node in broken["nodes"] if node["type"] == "ARSample")
    sampler["widgets_values"][0] = "word " * 10_000
    page.open(broken)
    entry = page.run()
    assert entry["status"]["status_str"] == "error"
    page.tab.get_by_text("View details").first.click()
    page.tab.get_by_text("shorten it").first.wait_for(timeout=10_000)
