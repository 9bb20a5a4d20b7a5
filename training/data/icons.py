"""The drawing corpus: the drawings of freely licensed emoji families, as RGBA pictures with true alpha."""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image, ImageDraw, ImageFont

from stylear.errors import BadInput, MissingPart
from stylear.files import new_file

from ..processes import pool
from . import concepts
from .packages import Package, fetch, read_file, read_files

INK = "#1a1a1a"  # what single-colour families are drawn with
PACKAGES = Path(__file__).parent / "packages.json"
MARGIN = 0.06  # empty border of a font glyph, as a part of the picture's side
LAYOUT = 2  # raised when the pictures change although packages.json does not
SHORTCODES = ("cldr", "github", "joypixels", "iamcal", "emojibase")


@dataclass(frozen=True)
class Icons:
    """The corpus on disk.

    pixels: uint8 [N, size, size, 4], read-only memory map; straight (not premultiplied) RGBA, colour 0 where
    alpha is 0. The alpha of a family with `colour` false covers the ink alone, not what the lines enclose.
    rows: N dictionaries {concept, family}.
    concepts: {key: {name, group, keywords}}; the key is the code point in hexadecimal.
    families: {family: {package, version, licence, author, colour, attribution}}.
    """

    pixels: np.ndarray
    rows: list[dict[str, str]]
    concepts: dict[str, dict]
    families: dict[str, dict]


def open_icons(folder: str | os.PathLike) -> Icons:
    """Opens what `build_icons` wrote. Raises MissingPart when `folder` does not hold it."""
    table, pixels = Path(folder) / "icons.json", Path(folder) / "icons.npy"
    if not table.exists() or not pixels.exists():
        raise MissingPart(f"No drawings in {folder}: build them with `python -m training pretrain icons`.")
    text = json.loads(table.read_text(encoding="utf-8"))
    return Icons(np.load(pixels, mmap_mode="r"), text["rows"], text["concepts"], text["families"])


def main(out: str | os.PathLike, downloads: str | os.PathLike | None = None, size: int = 128) -> str:
    """Builds the corpus in `out` and returns a sentence saying what the reader now has."""
    build_icons(out, downloads or Path(out) / "downloads", size)
    icons = open_icons(out)
    shown = {row["concept"] for row in icons.rows}
    return (
        f"{Path(out) / 'icons.npy'} now holds {len(icons.rows)} drawings of {len(shown)} concepts"
        f" from {len(icons.families)} families, {size} pixels wide."
    )


def build_icons(
    out_dir: str | os.PathLike,
    downloads: str | os.PathLike,
    size: int = 128,
    progress: Callable[[int, int, str], None] | None = None,
    workers: int = 2,
) -> Path:
    """Rasterises all families into `out_dir`/icons.npy and icons.json and returns the folder.

    `downloads` keeps the packages named in packages.json; those already there are checked and not fetched.
    One file per family is kept until all are drawn, so an interrupted run goes on where it stopped, and a
    finished one is left alone. `progress(done, of, family)` is called after each family.
    Raises MissingPart when a package cannot be fetched, BadInput when one is not the pinned one or `size` is
    below 8. Do not rebuild a folder that another process reads: the rows change their numbers.
    """
    if size < 8:
        raise BadInput(f"Drawings of {size} pixels are too small: ask for at least 8.")
    out, store, pins, stamp = Path(out_dir), Path(downloads), _pins(), stamp_of(size)
    if _is_built(out, stamp):
        return out
    table, drawings = _plan(pins, store)
    parts = out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    files = {family: parts / f"{family}-{stamp}.npz" for family in pins["families"]}
    jobs = {family: (pins["families"][family], store, drawings[family], size) for family in files}
    todo = [family for family in files if not files[family].exists()]
    with pool(workers) as processes:
        running = {processes.submit(_draw_family, files[family], *jobs[family]): family for family in todo}
        for done, future in enumerate(as_completed(running), len(files) - len(todo) + 1):
            future.result()
            if progress:
                progress(done, len(files), running[future])
    _merge(out, files, stamp, size, table, pins["families"])
    shutil.rmtree(parts)
    return out


def stamp_of(size: int) -> str:
    """What tells drawings of these packages, this size and this layout from others."""
    return sha256(json.dumps([LAYOUT, size, _pins()], sort_keys=True).encode()).hexdigest()[:16]


def packages() -> list[Package]:
    """All packages that the drawings, their names and keywords come from."""
    pins = _pins()
    return [_package(pin) for group in ("families", "texts") for pin in pins[group].values()]


def _pins() -> dict:
    return json.loads(PACKAGES.read_text(encoding="utf-8"))


def _is_built(out: Path, stamp: str) -> bool:
    table = out / "icons.json"
    return (out / "icons.npy").exists() and table.exists() and json.loads(table.read_text())["stamp"] == stamp


def _plan(pins: dict, store: Path) -> tuple[dict[str, dict], dict[str, dict[str, str]]]:
    """Returns the table of concepts and, for each family, {key: name of the drawing inside its package}."""
    archives = {family: fetch(_package(pin), store) for family, pin in pins["families"].items()}
    names, tags = (fetch(_package(pins["texts"][part]), store) for part in ("names", "keywords"))
    emoji = json.loads(read_file(names, "data-by-emoji.json"))
    lists = {"en/data.json", *(f"en/shortcodes/{name}.json" for name in SHORTCODES)}
    texts = {path: json.loads(text) for path, text in read_files(tags, lists.__contains__).items()}
    table = concepts.concept_table(emoji, texts["en/data.json"])

    sets, codes = {}, {}
    for family, pin in pins["families"].items():
        if pin["kind"] == "iconify":
            files = read_files(archives[family], {"icons.json", "chars.json"}.__contains__)
            sets[family] = json.loads(files["icons.json"])
            codes[family] = json.loads(files.get("chars.json", b"{}"))
    spellings = [concepts.cldr_spelling(emoji)]
    spellings += [concepts.iconify_spelling(sets[family], codes[family]) for family in sets if codes[family]]
    spellings += [concepts.unicode_spelling(table)]
    spellings += [concepts.shortcode_spelling(texts[f"en/shortcodes/{name}.json"]) for name in SHORTCODES]

    drawings = {}
    for family, pin in pins["families"].items():
        wanted = table if pin["colour"] else concepts.without_colour_names(table)
        if pin["kind"] == "webp":
            paths = read_files(archives[family], lambda path: path.endswith(".webp"))
            drawings[family] = concepts.match_codes(wanted, {Path(path).stem: path for path in paths})
        elif pin["kind"] == "font":
            font = ImageFont.truetype(io.BytesIO(read_file(archives[family], pin["file"])), 16)
            characters = {key: chr(int(key, 16)) for key in wanted}
            drawings[family] = {key: char for key, char in characters.items() if _has_glyph(font, char)}
        elif codes[family]:
            drawings[family] = concepts.match_codes(wanted, codes[family])
        else:
            own = {concepts.squeeze(name): key for name, key in pin.get("names", {}).items()}
            drawings[family] = concepts.match_names(wanted, _names(sets[family]), [own, *spellings])
    return table, drawings


def _package(pin: dict) -> Package:
    return Package(pin["package"], pin["version"], pin["integrity"])


def _names(icons: dict) -> list[str]:
    plain = [name for name, alias in icons.get("aliases", {}).items() if set(alias) == {"parent"}]
    return [*icons["icons"], *plain]


def _has_glyph(font: ImageFont.FreeTypeFont, character: str) -> bool:
    missing = font.getmask("\U0010fffe")
    glyph = font.getmask(character)
    return glyph.getbbox() is not None and (glyph.size != missing.size or bytes(glyph) != bytes(missing))


def _draw_family(part: Path, pin: dict, store: Path, drawings: dict[str, str], size: int) -> None:
    """Writes one family's pictures, uint8 [n, size, size, 4], and n keys, without empty and repeated ones."""
    archive = fetch(_package(pin), store)
    keys, pictures, seen = [], [], set()
    for key, picture in _draw(archive, pin, drawings, size):
        pixels = np.array(picture.convert("RGBA"))
        pixels[pixels[..., 3] == 0] = 0
        digest = sha256(pixels.tobytes()).digest()
        if pixels[..., 3].max() < 128 or digest in seen:
            continue
        seen.add(digest)
        keys.append(key)
        pictures.append(pixels)
    with new_file(part, overwrite=True) as draft:
        np.savez(draft, keys=np.array(keys), pixels=np.stack(pictures))


def _draw(archive: Path, pin: dict, drawings: dict[str, str], size: int) -> Iterator[tuple[str, Image.Image]]:
    if pin["kind"] == "webp":
        files = read_files(archive, set(drawings.values()).__contains__)
        for key, path in drawings.items():
            yield key, draw_bitmap(files[path], size)
    elif pin["kind"] == "font":
        font = ImageFont.truetype(io.BytesIO(read_file(archive, pin["file"])), 2 * size)
        for key, character in drawings.items():
            yield key, draw_glyph(font, character, size)
    else:
        icons = json.loads(read_file(archive, "icons.json"))
        for key, name in drawings.items():
            yield key, draw_svg(svg_of(icons, name), size)


def svg_of(icons: dict, name: str) -> str:
    """Returns the drawing `name` of an icon set in the Iconify JSON format as a square SVG document."""
    icon = icons["icons"].get(name) or icons["icons"][icons["aliases"][name]["parent"]]
    left, top, width, height = (
        icon.get(field, icons.get(field, default))
        for field, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    side = max(width, height)
    box = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
    body = icon["body"].replace("currentColor", INK)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} viewBox="{box}">{body}</svg>'


def draw_svg(svg: str, size: int) -> Image.Image:
    """Rasterises a square SVG document to RGBA, `size` pixels wide, without any font of the machine."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    return Image.open(io.BytesIO(png)).convert("RGBA")


def draw_bitmap(file: bytes, size: int) -> Image.Image:
    """Decodes a picture file and resizes it to RGBA, `size` pixels wide, with colours weighted by alpha."""
    picture = Image.open(io.BytesIO(file)).convert("RGBA")
    kernel = Image.Resampling.BOX if picture.width >= 2 * size else Image.Resampling.LANCZOS
    return picture.resize((size, size), kernel)


def draw_glyph(font: ImageFont.FreeTypeFont, character: str, size: int) -> Image.Image:
    """Draws one glyph in INK on a transparent square, fitted into it up to MARGIN."""
    left, top, right, bottom = font.getbbox(character)
    ink = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(ink).text((-left, -top), character, font=font, fill=255)
    ink = ink.crop(ink.getbbox())  # the font's own box reaches to the pen's start
    scale = size * (1 - 2 * MARGIN) / max(ink.size)
    ink = ink.resize([max(1, round(side * scale)) for side in ink.size], Image.Resampling.LANCZOS)
    alpha = Image.new("L", (size, size))
    alpha.paste(ink, ((size - ink.width) // 2, (size - ink.height) // 2))
    picture = Image.new("RGBA", (size, size), INK)
    picture.putalpha(alpha)
    return picture


def _merge(out: Path, files: dict[str, Path], stamp: str, size: int, table: dict, families: dict) -> None:
    """Joins the families' files in the order of packages.json; the table is written last."""
    keys = {}
    for family, file in files.items():
        with np.load(file) as part:
            keys[family] = part["keys"].tolist()
    rows = [{"concept": key, "family": family} for family in files for key in keys[family]]
    with new_file(out / "icons.npy", overwrite=True) as draft:
        pixels = np.lib.format.open_memmap(draft, "w+", np.uint8, (len(rows), size, size, 4))
        start = 0
        for file in files.values():
            with np.load(file) as part:
                pixels[start : start + len(part["keys"])] = part["pixels"]
                start += len(part["keys"])
        pixels.flush()
        (out / "icons.json").unlink(missing_ok=True)
    shown = {row["concept"] for row in rows}
    told = ("package", "version", "licence", "author", "colour", "attribution")
    text = {
        "stamp": stamp,
        "size": size,
        "families": {family: {field: pin[field] for field in told} for family, pin in families.items()},
        "concepts": {key: entry for key, entry in table.items() if key in shown},
        "rows": rows,
    }
    with new_file(out / "icons.json", overwrite=True) as draft:
        draft.write_text(json.dumps(text, ensure_ascii=False, indent=1), encoding="utf-8")
