"""Rebuilds the recorded official run (tests/golden) in its original layout: `unpack(source, target)`.

The two large random weight files are kept as what they are: a seed, a mean and a scale per tensor, and the
last-bit differences to the recorded numbers, so that 26 MB travel as 0.9 MB and come back bit for bit
(tests/golden/README.md).
"""

import json
import lzma
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from safetensors.torch import load_file, save_file


def normals(draws: np.ndarray) -> np.ndarray:
    """float32 [count] as torch.randn makes them on a CPU of uint32 [count]: Box-Muller in blocks of 16.

    numpy's RandomState is frozen, torch's generator is not promised to be; hence this, within 3 last-place
    units.
    """
    uniform = (draws & 0xFFFFFF).astype(np.float64) / 2**24
    first, second = uniform.reshape(-1, 2, 8).swapaxes(0, 1)
    radius = np.sqrt(np.float32(-2) * np.log1p(-first).astype(np.float32))
    angle = (np.float32(2 * np.pi) * second.astype(np.float32)).astype(np.float64)
    parts = [radius * np.cos(angle).astype(np.float32), radius * np.sin(angle).astype(np.float32)]
    return np.stack(parts, 1).reshape(-1)


def seeded_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The float32 weights of a `.seeded.xz` file: mean + scale * normals, moved by the stored steps."""
    raw = lzma.decompress(path.read_bytes())
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    recipe = json.loads(header["__metadata__"]["recipe"])
    stored = load_arrays(raw)
    end = max(offset + stored[key].size for key, (offset, _, _) in recipe["draws"].items())
    draws = np.random.RandomState(recipe["seed"]).randint(0, 2**32, size=end, dtype=np.uint32)
    weights = {}
    for key, array in stored.items():
        if "@" in key:
            continue
        if key in recipe["draws"]:
            offset, mean, scale = recipe["draws"][key]
            drawn = np.float32(mean) + np.float32(scale) * normals(draws[offset : offset + array.size])
            array = step_last_bits(drawn, array.reshape(-1)).reshape(array.shape)
            if key + "@index" in stored:
                array.reshape(-1)[stored[key + "@index"]] = stored[key + "@value"]
        weights[key] = torch.from_numpy(np.array(array))
    return weights


def step_last_bits(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """float32 `values` moved by a whole number of representable floats each."""
    bits = values.view(np.int32).astype(np.int64)
    ordered = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits) + steps
    return np.where(ordered < 0, -ordered | 0x80000000, ordered).astype(np.uint32).view(np.float32)


def unpack(source: Path, target: Path) -> Path:
    """Writes the tree of `source` to `target` as the official code had it, with pickles; returns it."""
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        original = place.with_suffix("").with_suffix("") if path.name.endswith(".seeded.xz") else place.with_suffix("")
        if path.name.endswith(".ckpt.seeded.xz"):
            torch.save({"state_dict": seeded_state_dict(path)}, original)
        elif path.name.endswith(".seeded.xz"):
            save_file(seeded_state_dict(path), original, metadata={"format": "pt"})
        elif path.suffix == ".xz":
            original.write_bytes(lzma.decompress(path.read_bytes()))
        elif path.name.endswith(".pth.safetensors"):
            torch.save(load_file(path), original)
        else:
            shutil.copyfile(path, place)
    return target
