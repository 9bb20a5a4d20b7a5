"""Turns the picture set into code indices once, so that the language model trains on tokens alone."""

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from stylear.checkpoint import load_vqgan

from ..data.pictures import PictureSet, depth_of
from ..loop import can_compile, training_device, write_atomically
from .vqgan import to_pixels

DEPTH_EVERY = 4  # one picture in so many also has its depth map encoded


def encode_pictures(data: Path, vqgan: Path, out: Path, batch: int = 64, device: torch.device | None = None) -> None:
    """Write `out`/codes.npz: rows int64 [N] (train split), codes int16 [N, h, w], and depth maps of every fourth row.

    depth_rows int64 [M] are places in `rows`; depth int16 [M, h, w].
    """
    pictures, model, device = PictureSet(data), load_vqgan(vqgan), device or training_device()
    model.eval().to(device, memory_format=torch.channels_last)
    rows = pictures.where("train")
    encode = torch.compile(model.encode) if can_compile(device) else model.encode

    def run(images: list[np.ndarray], label: str) -> np.ndarray:
        found = []
        with torch.inference_mode():
            for start in tqdm(range(0, len(images), batch), desc=label, unit="batch", mininterval=10):
                part = np.stack([images[i] for i in range(start, min(start + batch, len(images)))])
                padded = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
                found.append(encode(to_pixels(padded).to(device))[: len(part)].cpu().numpy().astype(np.int16))
        return np.concatenate(found)

    class Depth:
        def __len__(self):
            return len(range(0, len(rows), DEPTH_EVERY))

        def __getitem__(self, i):
            return depth_of(pictures.masks[rows[i * DEPTH_EVERY]] / 255)[..., None].repeat(3, 2)

    class Plain:
        def __len__(self):
            return len(rows)

        def __getitem__(self, i):
            return pictures.pictures[rows[i]]

    arrays = {
        "rows": rows,
        "codes": run(Plain(), "codes"),
        "depth_rows": np.arange(0, len(rows), DEPTH_EVERY),
        "depth": run(Depth(), "depth"),
    }
    write_atomically(out / "codes.npz", lambda path: np.savez(path, **arrays))
