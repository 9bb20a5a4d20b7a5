"""ComfyUI's own page in Chromium: loads graphs, runs them, and says what a person would see."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from comfy_server import ComfyServer

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
PATIENCE = 600_000  # milliseconds: a busy machine is slow
READY = (
    "() => window.app?.extensionManager && document.querySelector('#graph-canvas')"
    " && !document.querySelector('#splash-loader')"
)
PLACE = """
const place = async (graph, layout) => {
  await app.loadApiJson(graph, 'workflow.json');
  for (const [id, [x, y, width, height]] of Object.entries(layout.nodes)) {
    const node = app.graph.getNodeById(Number(id));
    node.pos = [x, y];
    node.setSize([width, Math.max(height, node.computeSize()[1])]);
    node.title = layout.titles[id] ?? node.title;
    node.mode = layout.muted?.includes(id) ? 2 : 0;
    for (const widget of node.widgets ?? [])
      if (widget.name === 'control_after_generate' && layout.fixed) widget.value = 'fixed';
  }
};
"""
LAY_OUT = f"""
async ([graph, layout]) => {{
  {PLACE}
  await place(graph, layout);
  const [text, x, y, width, height] = layout.note;
  const note = LiteGraph.createNode('MarkdownNote');
  app.graph.add(note);
  note.pos = [x, y];
  note.setSize([width, height]);
  note.title = 'What to adjust';
  note.widgets[0].value = text;
  const workflow = app.graph.serialize();
  workflow.groups = (layout.groups ?? []).map(([title, ...bounding], i) =>
    ({{ id: i + 1, title, bounding, color: '#3f789e', font_size: 24, flags: {{}} }}));
  workflow.extra = {{}}; // no view: the page then shows the whole graph
  return JSON.stringify(workflow);
}}
"""
WRAP = f"""
async ([graph, layout, ids]) => {{
  {PLACE}
  await place(graph, layout);
  const {{ node }} = app.graph.convertToSubgraph(new Set(ids.map(id => app.graph.getNodeById(Number(id)))));
  for (const other of [...app.graph.nodes]) if (other !== node) app.graph.remove(other);
  return JSON.stringify(app.graph.serialize());
}}
"""


@contextmanager
def browser() -> Iterator:
    """A headless Chromium of the system's, through Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS, timeout=PATIENCE)
        yield chromium
        chromium.close()


class Page:
    """One tab on the server's page. `errors` collects what went wrong in it."""

    def __init__(self, chromium, server: ComfyServer) -> None:
        self.server = server
        self.errors: list[str] = []
        self.tab = chromium.new_page(viewport={"width": 2400, "height": 1200})
        self.tab.set_default_timeout(PATIENCE)
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.renderer("classic")

    def renderer(self, name: str) -> None:
        """Show nodes on the classic canvas, or with the newer Vue components ("vue"); reloads the page."""
        self.server.post("/settings", {"Comfy.VueNodes.Enabled": name == "vue", "Comfy.Minimap.Visible": False})
        self.tab.goto(self.server.url)
        self.tab.wait_for_function(READY)

    def lay_out(self, graph: dict, layout: dict) -> dict:
        """An API-format graph as the UI-format workflow that the page makes of it, placed by `layout`."""
        return json.loads(self.tab.evaluate(LAY_OUT, [graph, layout]))

    def wrap(self, graph: dict, layout: dict, ids: list[str]) -> dict:
        """The nodes `ids` of an API-format graph as one subgraph node, alone in a UI-format workflow."""
        return json.loads(self.tab.evaluate(WRAP, [graph, layout, ids]))

    def insert(self, name: str) -> None:
        """Search for a node or a blueprint and put it on the canvas."""
        there = self.tab.evaluate("() => app.graph.nodes.length")
        self.tab.evaluate("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
        self.tab.wait_for_timeout(500)
        self.tab.keyboard.type(name)
        self.tab.wait_for_timeout(1500)
        self.tab.keyboard.press("Enter")
        self.tab.wait_for_function("there => app.graph.nodes.length > there", arg=there)
        self.tab.mouse.move(1000, 300)
        for _ in range(10):  # it follows the pointer until a click puts it down, and the search may still be closing
            if self.tab.evaluate("() => app.canvas.state.ghostNodeId == null"):
                return
            self.tab.mouse.click(1000, 300)
            self.tab.wait_for_timeout(500)
        raise AssertionError(f"{name} was not put down")

    def drop(self, picture: bytes) -> None:
        """Drop a PNG on the canvas."""
        self.tab.evaluate(
            "bytes => app.handleFile(new File([new Uint8Array(bytes)], 'picture.png', { type: 'image/png' }))",
            list(picture),
        )
        self.tab.wait_for_timeout(1500)

    def open(self, workflow: dict) -> None:
        """Load a UI-format workflow and fit it into the view."""
        self.tab.evaluate("workflow => app.loadGraphData(workflow, true, true, 'workflow.json')", workflow)
        self.tab.wait_for_timeout(500)
        self.fit()

    def fit(self) -> None:
        """Show the whole graph."""
        self.tab.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.tab.wait_for_timeout(1500)

    def open_template(self, pack: str, name: str) -> None:
        """Open a workflow as the template dialog does."""
        self.tab.goto(f"{self.server.url}/?template={name}&source={pack}")
        self.tab.wait_for_function(READY)
        self.tab.wait_for_function("() => app.graph.nodes.length > 2")

    def graph(self) -> dict:
        """What is open, in API format."""
        return self.tab.evaluate("async () => (await app.graphToPrompt()).output")

    def missing_nodes(self) -> list[str]:
        """Types of nodes that the page does not know, or shows in red."""
        return self.tab.evaluate(
            "() => app.graph.nodes.filter(n => n.has_errors || !LiteGraph.registered_node_types[n.type])"
            ".map(n => n.type)"
        )

    def overlaps(self) -> list[list[str]]:
        """Pairs of titles of nodes that lie over one another, by the sizes the page gives them."""
        return self.tab.evaluate("""() => {
          const boxes = app.graph.nodes.map(n => {
            const shown = document.querySelector(`[data-node-id="${n.id}"]`)?.getBoundingClientRect();
            const scale = app.canvas.ds.scale;
            const [width, height] = shown ? [shown.width / scale, shown.height / scale] : n.size;
            return [n.title, n.pos[0], n.pos[1] - (shown ? 0 : 30), width, height + (shown ? 0 : 30)];
          });
          return boxes.flatMap(([a, x, y, w, h], i) => boxes.slice(i + 1)
            .filter(([, u, v, s, t]) => x < u + s && u < x + w && y < v + t && v < y + h)
            .map(([b]) => [a, b]));
        }""")

    def run(self) -> dict:
        """Press Run and wait for the end; the history entry."""
        before = set(self.server.get("/history"))
        self.tab.evaluate("() => app.queuePrompt(0, 1)")
        while not (new := set(self.server.get("/history")) - before):
            self.tab.wait_for_timeout(200)
        entry = self.server.finish(new.pop())
        self.tab.wait_for_timeout(1500)
        return entry

    def screenshot(self, path: Path) -> None:
        """Keep what is seen."""
        self.tab.screenshot(path=str(path))
