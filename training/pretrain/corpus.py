"""The mini's picture set as a token folder, so that `train` takes it like any other data."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from stylear.checkpoint import load_vqgan

from ..data.captions import caption
from ..data.pictures import PictureSet
from ..inputs import tensors_sha256
from ..tokens import Example, write_index, write_shard

RAW = ("plain", "mono")  # drawings as their authors made them; every other style is ours
DEPTH_EVERY = 2  # of the pictures whose depth map was encoded, so many stand under it: prompts with one are long
MAPPED = 0.75  # the share of pictures under a map, where depth is what is to be learned
SHARD = 8192
CHUNK = 256


def write_corpus(data: Path, codes: Path, vqgan: Path, out: Path, seed: int = 0, mapped: float | None = None) -> None:
    """Write the pictures of the train split as a token folder: kinds, captions, codes, depth where there is one.

    `data`: the picture set; `codes`: the npz of the `tokens` stage; `vqgan`: the file that made them. Each picture
    has one of the caption's wordings. `mapped`: all pictures whose map was encoded, under it, and as many others as
    make them this share; None: all pictures, one in DEPTH_EVERY of those maps. Shards that are there already are made
    again: it takes a minute.
    """
    pictures, arrays = PictureSet(data), np.load(codes)
    depth_of = {int(row): i for i, row in enumerate(arrays["depth_rows"]) if mapped or i % DEPTH_EVERY == 0}
    all_codes, depth, rows = arrays["codes"], arrays["depth"], arrays["rows"]
    order, rng = np.arange(len(rows)), np.random.default_rng(seed)
    if mapped:
        under = np.isin(order, list(depth_of))
        others = rng.choice(order[~under], round(under.sum() * (1 / mapped - 1)), replace=False)
        order = np.concatenate([order[under], others])
    order = rng.permutation(order)

    def example(number: int) -> Example:
        row = int(rows[number])
        noun, style = pictures.concepts[pictures.concept[row]], pictures.styles[pictures.style[row]]
        buffer = io.BytesIO()
        Image.fromarray(pictures.pictures[row]).save(buffer, "PNG")
        place = depth_of.get(int(number))
        return Example(
            key=f"{row:06d}",
            kind="raw" if style in RAW else "stylised",
            caption=caption(noun, np.random.default_rng([seed, row])),
            codes=all_codes[number].astype(np.int64),
            encoded=buffer.getvalue(),
            condition="" if place is None else "depth",
            condition_codes=None if place is None else depth[place].astype(np.int64),
        )

    def batches(part: np.ndarray) -> Iterator[list[Example]]:
        for start in range(0, len(part), CHUNK):
            found = [example(number) for number in part[start : start + CHUNK]]
            bar.update(len(found))
            yield found

    out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(order), desc="corpus", unit="pic", mininterval=10) as bar:
        parts = [order[start : start + SHARD] for start in range(0, len(order), SHARD)]
        shards = [write_shard(out / f"tokens-{i:05d}.arrow", batches(part)) for i, part in enumerate(parts)]
    model, made_from = load_vqgan(vqgan), {"pictures": str(data), "model": {"vqgan": str(vqgan)}, "seed": seed}
    write_index(out, shards, codes=model.config.codes, vqgan=tensors_sha256(model), settings=made_from)
