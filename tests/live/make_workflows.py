"""Makes workflows/*.json from the API graphs of tests/api_workflows, with a real ComfyUI and its own page.

    COMFYUI_DIR=... python tests/live/make_workflows.py [--thumbnails] [--screenshots FOLDER]

Run it after a node's inputs or an API graph have changed. --thumbnails also runs each workflow with the
bundled mini and keeps its picture as workflows/NAME.jpg; --screenshots keeps how both renderers show it.
"""

import argparse
import io
import json
import uuid
from pathlib import Path

from browser import Page, browser
from comfy_server import GRAPHS, ROOT, ComfyServer, checkout
from PIL import Image

WORKFLOWS = ROOT / "workflows"
LAYOUT = Path(__file__).parent / "layout.json"
THUMBNAIL = (512, 512)


def make_workflow(page: Page, name: str, graph: dict, layout: dict) -> dict:
    """One UI-format workflow: the page loads the graph, `layout` says where its nodes and notes are."""
    workflow = page.lay_out(graph, layout)
    workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"ComfyUI-StyleAR/workflows/{name}"))
    return workflow


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
    parser.add_argument("--thumbnails", action="store_true", help="run each workflow and keep its picture")
    parser.add_argument("--screenshots", type=Path, help="a folder for pictures of the page")
    options = parser.parse_args()
    layouts = json.loads(LAYOUT.read_text(encoding="utf-8"))
    with ComfyServer(checkout()) as server, browser() as chromium:
        page = Page(chromium, server)
        for file in sorted(GRAPHS.glob("*.json")):
            graph = json.loads(file.read_text(encoding="utf-8"))
            workflow = make_workflow(page, file.stem, graph, layouts[file.stem])
            text = json.dumps(workflow, indent=1, ensure_ascii=False)
            (WORKFLOWS / file.name).write_text(text + "\n", encoding="utf-8")
        for file in sorted(GRAPHS.glob("*.json")) if options.thumbnails else ():
            pictures = server.pictures(server.run(json.loads(file.read_text(encoding="utf-8"))))
            thumbnail(pictures).save(WORKFLOWS / f"{file.stem}.jpg", quality=90)
        if options.screenshots:
            options.screenshots.mkdir(parents=True, exist_ok=True)
            for file in sorted(WORKFLOWS.glob("*.json")):
                for renderer in ("classic", "vue"):
                    page.renderer(renderer)
                    page.open(json.loads(file.read_text(encoding="utf-8")))
                    page.run()
                    page.screenshot(options.screenshots / f"{file.stem}.{renderer}.png")


if __name__ == "__main__":
    main()
