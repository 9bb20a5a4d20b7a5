"""Style presets: a style and a thumbnail of its reference in one small file, which may come from a stranger."""

import base64
import json
import re
from io import BytesIO
from os import PathLike
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open

from .checkpoint import save_weights
from .errors import BadCheckpoint, BadInput
from .files import check_new, new_file
from .images import Picture, decode_png, to_rgb
from .style import KIND, StyleTokens, check_style

SUFFIX = ".safetensors"
MAX_FILE = 4 * 2**20  # bytes; the released model's tokens take a sixteenth of it
MAX_THUMBNAIL = 64 * 2**10  # characters of base64
MAX_NAME = 60
_SIDES = (128, 96, 64, 32)  # pixels of a thumbnail's longer side, the first that fits
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names that are devices on Windows
_REFUSED = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')


def preset_path(folder: str | PathLike, name: str) -> Path:
    """Where the preset `name` lies in `folder`: directly in it, whatever the name; BadInput for one that cannot be."""
    plain = name.strip().removesuffix(SUFFIX) if isinstance(name, str) else ""
    if not 1 <= len(plain) <= MAX_NAME or plain[0] == "." or plain[-1] in ". ":
        raise BadInput(
            f"The preset's name has to be 1 to {MAX_NAME} characters without a dot at either end. Give another name."
        )
    if _RESERVED.fullmatch(plain):
        raise BadInput(f"A preset cannot be called {plain!r}, a device's name on Windows. Give another name.")
    if _REFUSED.search(plain) or not plain.isprintable():
        raise BadInput(f"A preset cannot be called {plain!r}. Use letters, digits, spaces, - and _, which always do.")
    return Path(folder) / f"{plain}{SUFFIX}"


def save_preset(
    style: StyleTokens, path: str | PathLike, thumbnail: Picture | None = None, overwrite: bool = False
) -> bool:
    """Write a style's tokens with a thumbnail, by default of its reference; the file appears whole or not at all.

    True if it was written. Without `overwrite` a preset that is there already is left as it is: False if its tokens are
    the same and its thumbnail too, or there is none to write; else BadInput. Features are not kept, so subtract content
    before. `StyleTokens.load` reads the file too. Raises BadInput.
    """
    check_style(style)
    path = Path(path)
    picture = style.picture if thumbnail is None else thumbnail
    shown = None if picture is None else _encode(picture)
    if path.is_file() and not overwrite:
        if _holds(path, style, shown):
            return False
        raise BadInput(
            f"{path} is there already, with another style or thumbnail. Give another name or set overwrite on."
        )
    check_new(path, overwrite)
    metadata = {"stylear": json.dumps(KIND)} | ({} if shown is None else {"thumbnail": shown})
    with new_file(path, overwrite) as draft:
        save_weights({"tokens": style.tokens}, draft, metadata)
    return True


def load_preset(path: str | PathLike, shape: tuple[int, int] | None = None) -> tuple[StyleTokens, Image.Image | None]:
    """A preset's style and its thumbnail, RGB, or None if it has none; nothing in the file is executed.

    shape: [M, C] that the model takes. Raises MissingPart if there is no file, BadCheckpoint if it is larger than
    MAX_FILE, nothing that StyleTokens.load takes, of tokens that are not of `shape`, or if its thumbnail is longer than
    MAX_THUMBNAIL or not a small PNG.
    """
    path = Path(path)
    if path.is_file() and path.stat().st_size > MAX_FILE:
        raise BadCheckpoint(f"{path.name} has {path.stat().st_size} bytes; a preset has at most {MAX_FILE}.")
    style = StyleTokens.load(path)
    found = list(style.tokens.shape)
    if shape is not None and found != list(shape):
        raise BadCheckpoint(f"{path.name} holds tokens {found} and this model takes {list(shape)}. Use its own model.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("thumbnail")
        return style, None if text is None else _decode(text)
    except (SafetensorError, ValueError) as error:
        raise BadCheckpoint(
            f"The thumbnail of {path.name} is not a PNG of at most {max(_SIDES)} pixels a side, in {MAX_THUMBNAIL} "
            "characters. Ask for another file."
        ) from error


def _holds(path: Path, style: StyleTokens, shown: str | None) -> bool:
    """Whether a file is a preset of the same tokens and the same thumbnail, which None leaves open."""
    try:
        found, thumbnail = load_preset(path)
    except BadCheckpoint:
        return False
    return torch.equal(found.tokens, style.tokens) and (shown is None or thumbnail == _decode(shown))


def _encode(picture: Picture) -> str:
    """A picture as base64 of a PNG of at most MAX_THUMBNAIL characters."""
    image = to_rgb(picture, name="thumbnail")
    for side in _SIDES:
        image.thumbnail((side, side))
        data = BytesIO()
        image.save(data, format="PNG")
        text = base64.b64encode(data.getvalue()).decode()
        if len(text) <= MAX_THUMBNAIL:
            break
    return text


def _decode(text: str) -> Image.Image:
    if len(text) > MAX_THUMBNAIL:
        raise BadInput(f"It has {len(text)} characters, and {MAX_THUMBNAIL} are allowed.")
    return decode_png(base64.b64decode(text, validate=True), most=max(_SIDES), name="thumbnail")
