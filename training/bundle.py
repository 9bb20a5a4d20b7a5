"""Puts the trained parts together as the mini model that ships, with reference pictures to begin with."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stylear.checkpoint import Place, load_adapter

from .data.pictures import drawing_of, plan
from .data.renderers import render
from .export import source_record
from .loop import write_atomically
from .styled import write_adapter

PARTS = {
    "base": ("base", ("config.json", "tokenizer.json", "model.safetensors")),
    "vqgan": ("vqgan", ("vqgan.safetensors",)),
    "image_encoder": ("clip", ("open_clip.safetensors",)),
    "segmenter": ("sam", ("sam.safetensors",)),
}
REFERENCES = {
    "neon": "mushroom",
    "underwater": "snail",
    "watercolour": "pear",
    "stained_glass": "bell",
    "linocut": "owl",
    "blueprint": "trophy",
    "oil": "lemon",
    "pixel16": "ghost",
}
RECORD = ("rank", "targets", "noise", "data", "steps", "pictures", "init")  # of what the adapter says about its making
LIMIT = 60_000_000  # bytes
NOTICE = """{what} drawings of these sets. All were
changed: rasterised, and rendered anew in the drawing styles of training/data/renderers. Names and keywords are from
Unicode (unicode-emoji-json and emojibase-data, MIT).

{families}

Licences: Apache-2.0 as in LICENSE. CC-BY-4.0: Creative Commons Attribution 4.0 International. OFL-1.1: SIL Open Font
License 1.1. MIT: Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction, including without
limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the
Software, and to permit persons to whom the Software is furnished to do so, subject to the following conditions: the
above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT
LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL
THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN
THE SOFTWARE.
"""


def bundle(work: Path, out: Path) -> None:
    """Copy every part from `work` into `out` and render the references; ValueError above 60 MB."""
    for name, (stage, files) in PARTS.items():
        for file in files:
            source = work / stage / file
            write_atomically(out / name / file, lambda path, source=source: shutil.copyfile(source, path))
    adapter = work / "adapter" / "adapter"
    lora, resampler = load_adapter(adapter)
    made = {name: value for name, value in source_record(Place(adapter)).items() if name in RECORD}
    record = {"base": "mini", **made, "command": "python -m training pretrain adapter"}
    write_adapter(out / "adapter", lora, resampler.state_dict(), record, torch.float16)
    write_notice("The mini's weights were trained on, and its references are made from,", work, out)
    concepts, styles, rows = plan(work / "icons")
    icons = np.load(work / "icons" / "icons.npy", mmap_mode="r")
    for style, concept in REFERENCES.items():
        row = next(r for r in rows if r.family == "noto" and (concepts[r.concept], styles[r.style]) == (concept, style))
        rng = np.random.default_rng(1)
        picture = Image.fromarray(render(style, drawing_of(icons[row.icon], 0.12, rng), rng))
        write_atomically(out / "references" / f"{style}.png", lambda path, p=picture: p.save(path, format="PNG"))
    total = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    if total > LIMIT:
        raise ValueError(f"The bundle has {total / 1e6:.1f} MB and may have {LIMIT / 1e6:.0f}.")


def write_notice(what: str, work: Path, out: Path) -> None:
    """Write `out`/NOTICE: `what` comes from which drawings, by whom, under which licence."""
    families = json.loads((work / "icons" / "icons.json").read_text(encoding="utf-8"))["families"].values()
    lines = [f"- {f['attribution']} ({f['package']} {f['version']})" for f in families]
    notice = NOTICE.format(what=what, families="\n".join(lines))
    write_atomically(out / "NOTICE", lambda path: path.write_text(notice, encoding="utf-8"))
