"""The picture set: every concept drawn by several hands and rendered in every style, with masks and splits."""

import json
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from stylear.files import new_file

from .renderers import STYLES, render
from .renderers.toolkit import Drawing

SIZE = 64
HELD_OUT_STYLES = (
    "knit",
    "gold_relief",
    "starry",
    "blue_pen",
    "forest_duo",
    "low_poly",
    "newsprint",
    "chalkboard",
)
HELD_OUT_FAMILIES = ("streamline-emojis", "fxemoji")
HELD_OUT_PAIRS = 0.1
CONFIGS = Path(__file__).parents[1] / "configs"
CONCEPTS = CONFIGS / "concepts.txt"
WORDS = CONFIGS / "mini_words.txt"


@dataclass(frozen=True)
class Row:
    """One picture to render. `split` is train, or what it is held out for: pair, style, family or concept."""

    concept: int
    style: int
    family: str
    icon: int
    split: str


def read_concepts(path: Path = CONCEPTS) -> dict[str, list[str]]:
    """Caption word to the Unicode names that show it, from a `word = name; name` file with # comments."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.split("=", 1) for line in lines if line)
    return {word.strip(): [name.strip() for name in names.split(";")] for word, names in pairs}


def read_words(path: Path = WORDS) -> list[str]:
    """The words the mini is taught, one a line, with # comments; the other concepts are held out."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def plan(icons: Path, seed: int = 0, repeats: int = 1) -> tuple[list[str], list[str], list[Row]]:
    """Concepts, the taught ones first and in the order of `read_words`; styles; one Row per picture, in a fixed order.

    Colour families are rendered in every style; families of one colour only as they are (style `mono`).
    A (concept, style) pair held out is never in the train split, whatever the family. A concept held out is in no
    split but `concept`, and is drawn by the families that are trained on alone.
    """
    index = json.loads((icons / "icons.json").read_text(encoding="utf-8"))
    names_of, taught = read_concepts(), read_words()
    concepts, styles = [*taught, *(word for word in names_of if word not in taught)], [*STYLES, "mono"]
    concept_of = {name: i for i, word in enumerate(concepts) for name in names_of[word]}
    held = np.random.default_rng(seed).random((len(taught), len(styles))) < HELD_OUT_PAIRS
    rows = []
    for icon, entry in enumerate(index["rows"]):
        concept = concept_of.get(index["concepts"][entry["concept"]]["name"])
        family = entry["family"]
        if concept is None or (concept >= len(taught) and family in HELD_OUT_FAMILIES):
            continue
        colour = index["families"][family]["colour"]
        for style in range(len(styles)):
            if (styles[style] == "mono") == colour:
                continue
            if concept >= len(taught):
                split = "concept"
            elif styles[style] in HELD_OUT_STYLES:
                split = "style"
            elif family in HELD_OUT_FAMILIES:
                split = "family"
            else:
                split = "pair" if held[concept, style] else "train"
            copies = repeats if split == "train" else 1
            rows += [Row(concept, style, family, icon, split)] * copies
    return concepts, styles, rows


def drawing_of(rgba: np.ndarray, margin: float, rng: np.random.Generator) -> Drawing:
    """An icon, uint8 [H,W,4], made a little smaller and moved a little, over white."""
    side = rgba.shape[0]
    scale = rng.uniform(1 - margin, 1.0)
    slack = side * (1 - scale)
    shift = slack / 2 + rng.uniform(-0.5, 0.5, 2) * slack
    move = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    rgb, alpha = rgba[..., :3].astype(np.float32), rgba[..., 3:].astype(np.float32) / 255
    stack = np.concatenate([rgb * alpha, alpha], axis=2)
    stack = cv2.warpAffine(stack, move, (side, side), flags=cv2.INTER_AREA)
    alpha = np.clip(stack[..., 3], 0, 1)
    over = stack[..., :3] + 255 * (1 - alpha[..., None])
    return Drawing(np.clip(np.rint(over), 0, 255).astype(np.uint8), alpha)


def depth_of(alpha: np.ndarray) -> np.ndarray:
    """Pseudo-depth of a drawing from its mask, uint8 [H,W]: a dome that is nearer, so brighter, the further inside."""
    inside = (alpha > 0.5).astype(np.uint8)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    dome = np.sqrt(distance / max(float(distance.max()), 1.0))
    return np.rint(255 * alpha * (0.35 + 0.65 * dome)).astype(np.uint8)


def _render(styles: list[str], icons_file: Path, seed: int, task: tuple[int, Row]) -> tuple[np.ndarray, np.ndarray]:
    number, row = task
    cv2.setNumThreads(1)
    rgba = np.load(icons_file, mmap_mode="r")[row.icon]
    rng = np.random.default_rng([seed, number])
    drawing = drawing_of(rgba, 0.12, rng)
    name = styles[row.style]
    picture = render("plain" if name == "mono" else name, drawing, rng)
    small = partial(cv2.resize, dsize=(SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return small(picture), np.rint(255 * small(drawing.alpha)).astype(np.uint8)


def _stamp(icons: Path) -> str:
    return json.loads((icons / "icons.json").read_text(encoding="utf-8"))["stamp"]


def build_pictures(icons: Path, out: Path, *, seed: int = 0, repeats: int = 1, workers: int = 2) -> None:
    """Render the set into `out`: pictures.npy uint8 [N,64,64,3], masks.npy uint8 [N,64,64], pictures.json.

    The JSON is written last: without it the set is not complete.
    """
    stamp = _stamp(icons)
    concepts, styles, rows = plan(icons, seed, repeats)
    taught = len(read_words())
    out.mkdir(parents=True, exist_ok=True)
    (out / "pictures.json").unlink(missing_ok=True)
    pictures = np.lib.format.open_memmap(out / "pictures.npy", "w+", np.uint8, (len(rows), SIZE, SIZE, 3))
    masks = np.lib.format.open_memmap(out / "masks.npy", "w+", np.uint8, (len(rows), SIZE, SIZE))
    job = partial(_render, styles, icons / "icons.npy", seed)
    with ProcessPoolExecutor(workers) if workers > 1 else nullcontext() as pool:
        done = pool.map(job, enumerate(rows), chunksize=256) if pool else map(job, enumerate(rows))
        for i, (picture, mask) in enumerate(tqdm(done, total=len(rows), desc="pictures", unit="pic")):
            pictures[i], masks[i] = picture, mask
    pictures.flush()
    masks.flush()
    if _stamp(icons) != stamp:
        raise RuntimeError(f"The drawings in {icons} changed while pictures were made of them: run this stage again.")
    record = {
        "concepts": concepts[:taught],
        "held_out": concepts[taught:],
        "styles": styles,
        "seed": seed,
        "rows": [list(asdict(row).values()) for row in rows],
    }
    with new_file(out / "pictures.json", overwrite=True) as draft:
        draft.write_text(json.dumps(record), encoding="utf-8")


class PictureSet:
    """A rendered set opened for reading; nothing but the index is held in memory.

    `concept`, `style` int64 [N]; `split` str [N]; `concepts`, `styles` the names, `taught` the first of the concepts:
    those that are not held out.
    """

    def __init__(self, folder: Path):
        record = json.loads((folder / "pictures.json").read_text(encoding="utf-8"))
        self.taught, self.styles = record["concepts"], record["styles"]
        self.concepts = self.taught + record["held_out"]
        concept, style, family, _, split = zip(*record["rows"], strict=True)
        self.concept, self.style = np.array(concept), np.array(style)
        self.family, self.split = np.array(family), np.array(split)
        self.pictures = np.load(folder / "pictures.npy", mmap_mode="r")
        self.masks = np.load(folder / "masks.npy", mmap_mode="r")

    def where(self, *splits: str) -> np.ndarray:
        """Indices of the pictures of the named splits."""
        return np.flatnonzero(np.isin(self.split, splits))

    def test_rows(self, pairs: int = 3, unseen: int = 8, families: int = 0) -> np.ndarray:
        """Indices of the pictures that a model is measured with, of as many concepts of each style as asked for.

        `pairs` of each trained style, from the pairs held out, then `unseen` of each style that is never trained, drawn
        by families that are, then `families` of each trained style, from the pairs held out and drawn by families that
        are never trained. In rounds: one of each style, then another of each.
        """
        rng, found = np.random.default_rng(0), {"pair": [], "style": [], "family": []}
        pair = self.concept * len(self.styles) + self.style
        for split, most in (("pair", pairs), ("style", unseen), ("family", families)):
            among = self.where(split)
            if split == "family":
                among = among[np.isin(pair[among], pair[self.where("pair")])]
            else:
                among = among[~np.isin(self.family[among], HELD_OUT_FAMILIES)]
            among = rng.permutation(among)
            for style in rng.permutation(np.unique(self.style[among])):
                own = among[self.style[among] == style]
                first = np.unique(self.concept[own], return_index=True)[1]
                found[split] += enumerate(own[rng.permutation(first)][:most])
        rounds = [sorted(one, key=lambda turn: turn[0]) for one in found.values()]
        return np.array([row for one in rounds for _, row in one], np.int64)
