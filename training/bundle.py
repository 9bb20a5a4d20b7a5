"""Puts the trained parts together as the mini model that ships, with reference pictures to begin with."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from .data.pictures import drawing_of, plan
from .data.renderers import render
from .loop import write_atomically

PARTS = {
    "base": ("base", ("config.json", "tokenizer.json", "model.safetensors")),
    "adapter": ("adapter", ("model.safetensors", "image_proj.safetensors")),
    "vqgan": ("vqgan", ("vqgan.safetensors",)),
    "image_encoder": ("clip", ("open_clip.safetensors",)),
    "segmenter": ("sam", ("sam.safetensors",)),
}
REFERENCES = {
    "neon": "bell",
    "watercolour": "pear",
    "stained_glass": "mushroom",
    "linocut": "owl",
    "blueprint": "trophy",
    "oil": "lemon",
    "pixel32": "ghost",
    "crosshatch": "snail",
}
LIMIT = 60_000_000  # bytes


def bundle(work: Path, out: Path) -> None:
    """Copy every part from `work` into `out` and render the references; ValueError above 60 MB."""
    for name, (stage, files) in PARTS.items():
        for file in files:
            source = work / stage / file
            write_atomically(out / name / file, lambda path, source=source: shutil.copyfile(source, path))
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
