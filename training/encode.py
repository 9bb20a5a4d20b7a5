"""Curated records to examples: the crop, the VQGAN's codes, the style picture, a condition, features."""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from stylear.condition import choose_crop, cover, crop_sizes, to_pixels
from stylear.depth_model import depth_from_photo, load_depth_model
from stylear.errors import BadCheckpoint, BadInput
from stylear.images import centre_crop, limit_aspect, open_image
from stylear.pipeline import RELEASED_STEPS
from stylear.vocabulary import LATENTS_PER_GRID, Vocabulary

from .config import FrozenPaths, Settings
from .curated import Record
from .curation.files import list_files
from .inputs import tensors_sha256
from .parts import Parts
from .sheets import to_image
from .tokens import KINDS, Example, decode

MAP_SUFFIXES = (".png", ".webp", ".jpg", ".tif")


class EncodeSettings(Settings):
    """What a picture becomes, by which model."""

    model: FrozenPaths = Field(FrozenPaths(), description="the base, for its size and words, VQGAN and image encoder")
    size: int | None = Field(None, ge=1, description="crops have this side's area in pixels; null: as the base's")
    style_pixels: int | None = Field(
        None, ge=1, description="shorter side of the kept style picture; null: as the image encoder reads it"
    )
    features: bool = Field(False, description="also keep the image encoder's features of it, float16")
    condition: Literal["none", "depth", "segmentation"] = Field("none", description="picture given beside the prompt")
    condition_share: float = Field(0.5, ge=0, le=1, description="share of the pictures that get one, chosen by key")
    maps: Path | None = Field(None, description="folder of such pictures, KEY.png; those without one get none")
    depth_model: Path | None = Field(None, description="Depth Anything V2 folder, instead of maps")
    seed: int = Field(0, ge=0, description="of the choice of pictures that get a condition")
    batch: int = Field(8, ge=1, description="pictures that the VQGAN sees at once")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of the VQGAN's encoder")


@dataclass(frozen=True)
class Prepared:
    """A picture cropped and ready for the models.

    image: uint8 [H, W, 3]; encoded: the style picture, lossless WebP; pixels: of it, as the image encoder reads them,
    or None; condition: uint8 [H, W, 3] or None.
    """

    record: Record
    image: np.ndarray
    encoded: bytes
    pixels: Tensor | None
    condition: np.ndarray | None


@dataclass(frozen=True)
class Refused:
    """A record that cannot be used, and why."""

    key: str
    reason: str


class Tokenizer:
    """Pictures to Examples: the crop, the style picture, the condition and the codes.

    Attributes: `made_of`, what the result depends on beside the settings and the pictures; `feature_shape`, [N, C] of
    the features, or None where they are not kept.
    """

    def __init__(self, settings: EncodeSettings, device: torch.device):
        """Load the parts; MissingPart or BadCheckpoint where that fails, or the tokenizer knows other codes."""
        self.settings, self.device = settings, device
        parts = Parts(settings.model)
        vocabulary, self.vqgan = Vocabulary.from_file(parts.tokenizer()), parts.vqgan()
        codes, encoder = self.vqgan.config.codes, parts.image_encoder()
        if codes != len(vocabulary.code_ids):
            raise BadCheckpoint(
                f"The VQGAN has {codes} codes and the tokenizer {len(vocabulary.code_ids)}. Use parts that belong "
                "together."
            )
        step = LATENTS_PER_GRID * self.vqgan.downsampling
        longest = step * vocabulary.max_grid
        size = settings.size or parts.size() or min(longest, RELEASED_STEPS * step)
        if size // step > vocabulary.max_grid:
            raise BadInput(f"size is {size} and the base has words for sides of up to {longest} px. Make it smaller.")
        self.sizes = [crop for crop in crop_sizes(size, step) if max(crop) <= longest]
        self.style_pixels = settings.style_pixels or encoder.config.image_size
        shape = [encoder.config.tokens, encoder.config.width]
        self.depth = load_depth_model(settings.depth_model) if settings.depth_model else None
        self.feature_shape = shape if settings.features else None
        self.encoder = encoder if settings.features else None
        self.made_of = {
            "size": size,
            "longest_side": longest,
            "style_pixels": self.style_pixels,
            "codes": codes,
            "vqgan": tensors_sha256(self.vqgan),
            "image_encoder": tensors_sha256(self.encoder) if self.encoder else None,
            "depth_model": tensors_sha256(self.depth) if self.depth else None,
        }
        for part in (self.vqgan, self.encoder, self.depth):
            if part is not None:
                part.to(device)

    def prepare(self, record: Record) -> Prepared | Refused:
        """Everything that needs no model; what is wrong with a record or its map comes back as Refused."""
        try:
            if record.kind not in KINDS:
                raise BadInput(f"The kind is {record.kind!r} and has to be {' or '.join(KINDS)}.")
            if not isinstance(record.caption, str) or not record.caption.strip():
                raise BadInput("The caption is empty.")
            whole = limit_aspect(decode(record.picture, "picture"))
            crop = choose_crop(whole.size, self.sizes)
            image = _cut(whole, crop)
            style = _shrunk(image, self.style_pixels)
            condition = self._map(record.key, whole.size, crop) if self._chosen(record.key) else None
        except BadInput as error:
            return Refused(record.key, " ".join(str(error).split()))
        return Prepared(
            record,
            np.asarray(image),
            _encoded(style),
            self.encoder.preprocess(style) if self.encoder else None,
            None if condition is None else np.asarray(condition),
        )

    def examples(self, prepared: Sequence[Prepared]) -> list[Example]:
        """The same pictures in the same order, with their codes, features and conditions' codes."""
        maps = [self._depth(one) if self.depth else one.condition for one in prepared]
        codes = self.codes([one.image for one in prepared])
        found = iter(self.codes([one for one in maps if one is not None]))
        features = self._features([one.pixels for one in prepared]) if self.encoder else [None] * len(prepared)
        return [
            Example(
                one.record.key,
                one.record.kind,
                one.record.caption,
                code,
                one.encoded,
                feature,
                *(("", None) if given is None else (self.settings.condition, next(found))),
            )
            for one, code, feature, given in zip(prepared, codes, features, maps, strict=True)
        ]

    @torch.inference_mode()
    def codes(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """VQGAN codes int64 [h, w] of pictures uint8 [H, W, 3], those of one size in batches."""
        found: list[np.ndarray] = [np.empty(0)] * len(images)
        half = torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16")
        for places in _alike([image.shape for image in images], self.settings.batch):
            pixels = torch.from_numpy(np.stack([images[place] for place in places])).to(self.device)
            pixels = (pixels.double() / 255 * 2 - 1).float().permute(0, 3, 1, 2).contiguous()  # as `to_pixels`
            with half:
                latents = self.vqgan.latents(pixels)
            codes = self.vqgan.quantize.nearest(latents.permute(0, 2, 3, 1).float()).cpu().numpy()
            for place, code in zip(places, codes, strict=True):
                found[place] = code
        return found

    @torch.inference_mode()
    def _features(self, pixels: Sequence[Tensor]) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        for start in range(0, len(pixels), self.settings.batch):
            batch = torch.stack(list(pixels[start : start + self.settings.batch])).to(self.device)
            found += list(self.encoder(batch).half().cpu().numpy())
        return found

    def _chosen(self, key: str) -> bool:
        """Whether a picture gets a condition: by its key and the seed alone."""
        s = self.settings
        drawn = int.from_bytes(hashlib.sha256(f"{s.seed} {key}".encode()).digest()[:8], "big")
        return s.condition != "none" and drawn < s.condition_share * 2**64

    def _map(self, key: str, size: tuple[int, int], crop: tuple[int, int]) -> Image.Image | None:
        """The map of a picture of `size` from the folder, cut as the picture is; None if there is none."""
        folder = self.settings.maps
        paths = (folder / f"{key}{suffix}" for suffix in MAP_SUFFIXES) if folder else ()
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            return None
        whole = limit_aspect(open_image(path))
        if abs(whole.width * size[1] - whole.height * size[0]) > sum(size):  # more than rounding makes
            raise BadInput(f"{path} is {whole.width} x {whole.height} and its picture {size[0]} x {size[1]}.")
        return _cut(whole, crop, self.settings.condition)

    def _depth(self, one: Prepared) -> np.ndarray | None:
        """The depth of the crop, uint8 [H, W, 3], where the picture is to have one."""
        if not self._chosen(one.record.key):
            return None
        return np.asarray(depth_from_photo(one.image, self.depth).convert("RGB"))


def maps_sha256(folder: Path) -> str:
    """The SHA-256 over names, sizes and times of the last change of the maps in a folder.

    There may be as many maps as pictures, so they are not read: a copy counts as another input unless it kept the
    times, as `cp -p` and `rsync -t` do.
    """
    digest = hashlib.sha256()
    for name, _ in list_files(folder):
        path = folder / os.fsdecode(name)
        if path.parent == folder and path.suffix in MAP_SUFFIXES and path.is_file():
            state = path.stat()
            digest.update(name + f"\0{state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def check_condition(settings: EncodeSettings) -> None:
    """BadInput for a condition without its source, or a source that is not there."""
    sources = [name for name in ("maps", "depth_model") if getattr(settings, name)]
    allowed = {"none": [[]], "depth": [["maps"], ["depth_model"]], "segmentation": [["maps"]]}[settings.condition]
    if sources not in allowed:
        wanted = " or ".join(name for names in allowed for name in names) or "neither maps nor depth_model"
        raise BadInput(f"condition is {settings.condition}: set {wanted}, and not {' and '.join(sources) or 'none'}.")
    if settings.maps and not settings.maps.is_dir():
        raise BadInput(f"There is no folder of maps {settings.maps}. Check the path.")


def _cut(image: Image.Image, crop: tuple[int, int], kind: str = "depth") -> Image.Image:
    """The middle of a picture or map at the size `crop`, over white, mode RGB, as `condition_pixels` makes it."""
    image = centre_crop(cover(image, crop, kind), *crop)
    return to_image(to_pixels(image)[0]) if image.has_transparency_data else image.convert("RGB")


def _shrunk(image: Image.Image, short: int) -> Image.Image:
    """A picture whose shorter side is at most `short`, resized as the image encoder does."""
    side = min(image.size)
    if side <= short:
        return image
    return image.resize([short * length // side for length in image.size], Image.Resampling.BICUBIC)


def _encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=True, quality=50, method=1)
    return file.getvalue()


def _alike(shapes: Sequence[tuple[int, ...]], most: int) -> Iterator[list[int]]:
    """The places of equal shapes together, at most so many at once."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, shape in enumerate(shapes):
        places.setdefault(shape, []).append(place)
    for together in places.values():
        for start in range(0, len(together), most):
            yield together[start : start + most]
