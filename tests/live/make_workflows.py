"""Makes workflows/*.json from the API graphs of tests/api_workflows, with a real ComfyUI and its own page.

    COMFYUI_DIR=... python tests/live/make_workflows.py [NAME ...] [--thumbnails] [--screenshots FOLDER]

Run it after a node's inputs or an API graph have changed. It also makes the blueprint in subgraphs/. --thumbnails also
runs each workflow with the bundled mini and keeps its picture as workflows/NAME.jpg: run it after the mini has changed.
--screenshots keeps how both renderers show each workflow after it ran.
"""

import argparse
import io
import json
import re
import uuid
from pathlib import Path

from browser import Page, browser
from comfy_server import BLUEPRINT, GRAPHS, ROOT, ComfyServer, active, checkout
from PIL import Image

WORKFLOWS = ROOT / "workflows"
LAYOUT = Path(__file__).parent / "layout.json"
THUMBNAIL = (512, 512)
CHAIN = ["1", "3", "4", "5", "6"]  # of no_leak: all but the reference before it, and what looks at its results
SHOWN = [
    *(["6", name] for name in ("prompt", "seed", "control_after_generate", "batch_size", "width", "height", "cfg")),
    *(["4", name] for name in ("alpha", "beta")),
    *(["5", "gamma"], ["1", "model"]),
]
INSIDE, OUTSIDE = -10, -20  # the ids of what stands for the sockets in and out, within a subgraph
ABOUT = {
    "BlueprintDescription": (
        "Draws what the prompt says in the look of the reference, without what the reference shows: StyleAR's whole "
        "chain in one node."
    ),
    "BlueprintSearchAliases": ["stylear", "style reference", "style transfer", "no leak"],
}


def make_workflow(page: Page, name: str, graph: dict, layout: dict) -> dict:
    """One UI-format workflow: the page loads the graph, `layout` says where its nodes and notes are."""
    workflow = page.lay_out(graph, layout)
    workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"ComfyUI-StyleAR/workflows/{name}"))
    return workflow


def make_blueprint(page: Page, graph: dict, layout: dict) -> dict:
    """The chain from reference to picture as one subgraph node, which shows what one turns most."""
    workflow = page.wrap(graph, layout, CHAIN)
    (node,), (subgraph,) = workflow["nodes"], workflow["definitions"]["subgraphs"]
    keep_sockets(node, subgraph)
    node |= {"title": BLUEPRINT.stem, "pos": [0, 0], "size": [380, 560]}
    node["properties"]["proxyWidgets"] = SHOWN
    subgraph |= {"name": BLUEPRINT.stem, "category": "StyleAR", "description": ABOUT["BlueprintDescription"]}
    for one in (node["inputs"][0], subgraph["inputs"][0]):
        one["label"] = "reference"
    whole = {"id": str(uuid.uuid4()), **workflow, "extra": ABOUT}
    text, name = json.dumps(whole), f"ComfyUI-StyleAR/subgraphs/{BLUEPRINT.stem}"
    ids = dict.fromkeys(re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", text))
    for number, one in enumerate(ids):  # the page drew them
        text = text.replace(one, str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{number}")))
    return json.loads(text)


def keep_sockets(node: dict, subgraph: dict) -> None:
    """Leave the reference as the only socket in, for SHOWN says which widgets show, and put the picture out first."""
    promoted = {slot for slot, item in enumerate(node["inputs"]) if "widget" in item}
    links = subgraph["links"]
    gone = {link["id"] for link in links if link["origin_id"] == INSIDE and link["origin_slot"] in promoted}
    for one in (node, subgraph):
        one["inputs"] = [item for slot, item in enumerate(one["inputs"]) if slot not in promoted]
        one["outputs"].reverse()
    subgraph["links"] = [link for link in links if link["id"] not in gone]
    for link in subgraph["links"]:
        if link["target_id"] == OUTSIDE:
            link["target_slot"] = len(node["outputs"]) - 1 - link["target_slot"]
    for item in (item for inner in subgraph["nodes"] for item in inner.get("inputs", ())):
        item["link"] = None if item["link"] in gone else item["link"]
    node["widgets_values"] = []
    del node["widgets_values_named"]


def write(path: Path, workflow: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def thumbnail(pictures: list[bytes]) -> Image.Image:
    """The saved pictures in a square, enlarged pixel by pixel where they are small."""
    images = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
    across = round(len(images) ** 0.5)
    width, height = images[0].size
    sheet = Image.new("RGB", (across * width, -(-len(images) // across) * height), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (index % across * width, index // across * height))
    scale = min(THUMBNAIL[0] / sheet.width, THUMBNAIL[1] / sheet.height)
    kind = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return sheet.resize((round(sheet.width * scale), round(sheet.height * scale)), kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these workflows, and no blueprint (all)")
    parser.add_argument("--thumbnails", action="store_true", help="run each workflow and keep its picture")
    parser.add_argument("--screenshots", type=Path, help="a folder for pictures of the page")
    options = parser.parse_args()
    layouts = json.loads(LAYOUT.read_text(encoding="utf-8"))
    graphs = {name: json.loads((GRAPHS / f"{name}.json").read_text("utf-8")) for name in options.names or layouts}
    with ComfyServer(checkout()) as server, browser() as chromium:
        page = Page(chromium, server)
        for name, graph in graphs.items():
            write(WORKFLOWS / f"{name}.json", make_workflow(page, name, graph, layouts[name]))
        if not options.names:
            write(BLUEPRINT, make_blueprint(page, graphs["no_leak"], layouts["no_leak"]))
        for name in graphs if options.thumbnails else ():
            pictures = server.pictures(server.run(active(name)))
            thumbnail(pictures).save(WORKFLOWS / f"{name}.jpg", quality=90)
        if options.screenshots:
            options.screenshots.mkdir(parents=True, exist_ok=True)
            for renderer in ("classic", "vue"):
                page.renderer(renderer)
                for name in graphs:
                    page.open(json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8")))
                    page.run()
                    page.screenshot(options.screenshots / f"{name}.{renderer}.png")


if __name__ == "__main__":
    main()
