"""A small set of drawings in the layout that `pretrain icons` writes."""

import json

import numpy as np
import pytest

NAMES = ["cat", "rocket", "red apple", "green apple", "volleyball", "dolphin"]
FAMILIES = {"noto": True, "fxemoji": True, "noto-mono": False}


@pytest.fixture(scope="session")
def icons(tmp_path_factory):
    """Six concepts by three hands, drawn as discs."""
    folder = tmp_path_factory.mktemp("icons")
    rows = [{"concept": str(i), "family": family} for family in FAMILIES for i in range(len(NAMES))]
    y, x = np.mgrid[:128, :128]
    disc = ((x - 64) ** 2 + (y - 64) ** 2 < 50**2) * np.uint8(255)
    pictures = np.zeros((len(rows), 128, 128, 4), np.uint8)
    for i, picture in enumerate(pictures):
        picture[..., :3] = (40 * (i % 5), 90, 200)
        picture[..., 3] = disc
    np.save(folder / "icons.npy", pictures)
    record = {
        "stamp": "s",
        "rows": rows,
        "concepts": {str(i): {"name": name} for i, name in enumerate(NAMES)},
        "families": {
            name: {
                "colour": colour,
                "attribution": f"{name} by a hand",
                "package": name,
                "version": "1",
            }
            for name, colour in FAMILIES.items()
        },
    }
    (folder / "icons.json").write_text(json.dumps(record))
    return folder
