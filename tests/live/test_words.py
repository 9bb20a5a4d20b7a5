"""What a person reads about the nodes on ComfyUI's page: help pages with their pictures, and other languages."""

import shutil

import pytest
from browser import READY, Page, browser
from comfy_server import PACK, ROOT

PAGES = sorted(file.stem for file in (ROOT / "web" / "docs").glob("*.md"))
LANGUAGES = ("en", "zh", "ja", "ko", "fr", "de", "es")

pytest.importorskip("playwright")
needs_chromium = pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium")

PLACE = """
name => {
  app.graph.clear();
  const node = LiteGraph.createNode(name);
  node.pos = [500, 150];
  app.graph.add(node);
  Object.assign(app.canvas.ds, { scale: 1, offset: [0, 0] });
  app.canvas.setDirty(true, true);
}
"""
TITLE = 600, 135  # where the placed node's title is
SHOWN = """
() => {
  const node = app.graph.nodes[0];
  return [node.title, ...node.inputs.map(input => input.label ?? input.localized_name ?? input.name),
          ...node.outputs.map(output => output.label ?? output.localized_name ?? output.name)];
}
"""

PICTURES = "() => [...document.querySelectorAll('img[src*=\\'/docs/images/\\']')].map(image => image.naturalWidth)"


@pytest.fixture(scope="module")
def page(server):
    """A tab that shows an empty graph."""
    with browser() as chromium:
        tab = Page(chromium, server)
        yield tab
        server.post("/settings", {"Comfy.Locale": "en"})


@pytest.mark.parametrize("name", PAGES)
def test_a_help_page_and_its_pictures_are_served_where_the_page_asks_for_them(server, name):
    text = server.get(f"/extensions/{PACK}/docs/{name}.md").decode()
    assert text.startswith("# ")
    for line in text.splitlines():
        if line.startswith("!["):
            picture = line.partition("](")[2].rstrip(")")
            assert server.get(f"/extensions/{PACK}/docs/{picture}").startswith(b"\x89PNG")


def test_the_words_of_every_language_are_served(server):
    words = server.get("/i18n")
    for language in LANGUAGES:
        assert set(PAGES) <= set(words[language]["nodeDefs"])


@needs_chromium
def test_the_help_page_of_a_node_opens_beside_it_with_its_pictures(page, tmp_path):
    page.tab.evaluate(PLACE, "ARSample")
    page.tab.wait_for_timeout(1000)
    page.tab.mouse.click(*TITLE)
    page.tab.get_by_test_id("info-button").first.click()
    page.tab.get_by_role("heading", name="What to adjust").first.wait_for()
    page.tab.wait_for_timeout(1500)
    widths = page.tab.evaluate(PICTURES)
    page.screenshot(tmp_path / "help.png")
    assert len(widths) >= 2 and all(widths)


@needs_chromium
@pytest.mark.parametrize("language", ["zh", "fr"])
def test_a_node_is_shown_in_the_language_chosen_on_the_page(page, server, language, tmp_path):
    server.post("/settings", {"Comfy.Locale": language})
    page.tab.goto(server.url)
    page.tab.wait_for_function(READY)
    page.tab.evaluate(PLACE, "ARSample")
    page.tab.wait_for_timeout(1000)
    page.screenshot(tmp_path / f"words.{language}.png")
    words = server.get("/i18n")[language]["nodeDefs"]["ARSample"]
    shown = page.tab.evaluate(SHOWN)
    assert shown[0] == words["display_name"]
    assert {entry["name"] for entry in words["inputs"].values()} <= set(shown)
    assert words["outputs"]["0"]["name"] in shown
