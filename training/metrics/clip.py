"""CLIP as a judge: texts and pictures as unit vectors of one space, from any common layout on disk."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from stylear.checkpoint import open_weights
from stylear.checkpoint.files import read_json
from stylear.errors import BadCheckpoint, MissingPart
from stylear.pipeline import MINI
from stylear.vocabulary import Vocabulary

from ..inputs import files_at
from ..pretrain.clip import build_clip, text_ids
from ..pretrain.text import mini_tokenizer
from .vision import CLIP_MEAN, CLIP_STD, fill, read_weights, to_pixels, unit_vectors

LAYOUTS = (
    "a Hugging Face CLIP folder (config.json, model.safetensors, tokenizer files), an open_clip folder "
    "(open_clip_config.json, open_clip_model.safetensors), or the name mini"
)


@dataclass(frozen=True)
class ClipScore:
    """A CLIP with both towers. `name` says which, for tables."""

    name: str
    encode_texts: Callable[[Sequence[str]], Tensor]
    encode_images: Callable[[Sequence[Image.Image]], Tensor]

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts as float32 [n, d], rows of length 1, on the CPU; a text too long is cut as CLIP does."""
        return unit_vectors(self.encode_texts, list(texts))

    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures as float32 [n, d], rows of length 1, on the CPU."""
        return unit_vectors(self.encode_images, list(images))

    @classmethod
    def load(cls, path: str, device: str | torch.device = "cpu") -> "ClipScore":
        """Load from local files: "mini" for the bundled model, else a folder or a file in it, of LAYOUTS.

        Raises MissingPart or BadCheckpoint, saying what was looked for.
        """
        place, folder = _place(path)
        own = place / "open_clip.safetensors" if place.is_dir() else place
        if own.is_file() and own.suffix == ".safetensors" and (config := _own_config(own)):
            return cls(*_load_mini(own, config, device, "mini" if path == "mini" else str(path)))
        if place.exists() and _is_open_clip(place, folder):
            return cls(*_load_open_clip(folder, device))
        if place.exists() and (folder / "config.json").is_file():
            return cls(*_load_hugging_face(folder, device))
        raise _missing(place)


def clip_files(path: str) -> list[Path]:
    """The files that `ClipScore.load` reads a CLIP from, its tokenizer among them; MissingPart if it is not there."""
    place, folder = _place(path)
    if not place.exists():
        raise _missing(place)
    return [*files_at(place), *(file for file in [_tokenizer(folder)] if file.is_file())]


def _place(path: str) -> tuple[Path, Path]:
    """Where a CLIP is looked for, and that folder or the one its file is in."""
    place = MINI / "image_encoder" / "open_clip.safetensors" if path == "mini" else Path(path)
    return place, place if place.is_dir() else place.parent


def _missing(place: Path) -> MissingPart:
    return MissingPart(f"There is no CLIP at {place}. Give {LAYOUTS}.")


def _tokenizer(folder: Path) -> Path:
    """Where the tokenizer of an encoder in `folder` is, if `pretrain` wrote both."""
    return folder.parent / "base" / "tokenizer.json"


def _own_config(path: Path) -> dict | None:
    """The model's configuration where the weights of both towers carry it, as this project's do."""
    file = open_weights(path)
    both = {"token_embedding.weight", "visual.proj"} <= file.like.keys()
    return json.loads(file.metadata.get("stylear", "{}")).get("model_cfg") if both else None


def _is_open_clip(place: Path, folder: Path) -> bool:
    """Published folders may hold both layouts: a file given decides by its name, else whichever has its weights."""
    if not (folder / "open_clip_config.json").is_file():
        return False
    if place.is_file():
        return place.name.startswith("open_clip")
    return any(folder.glob("open_clip_*model.*")) or not (folder / "config.json").is_file()


def _load_mini(path: Path, config: dict, device: str | torch.device, name: str) -> tuple:
    """An encoder as `pretrain clip` writes it; its text goes through the mini's own tokenizer."""
    tokenizer = _tokenizer(path.parent)
    vocabulary = Vocabulary.from_file(tokenizer) if tokenizer.is_file() else Vocabulary(mini_tokenizer())
    wanted = config["text_cfg"]["vocab_size"]
    if vocabulary.size != wanted:
        raise BadCheckpoint(
            f"{path} reads {wanted} tokens and the tokenizer has {vocabulary.size}. Use both of one pretraining."
        )
    model = build_clip(config)
    buffers = {key: value for key, value in model.state_dict().items() if key == "attn_mask"}
    model = fill(model, read_weights(path) | buffers, path).to(device)
    vision = config["vision_cfg"]
    size = vision["image_size"]

    def encode_images(images: Sequence[Image.Image]) -> Tensor:
        pixels = torch.stack([to_pixels(image, size, CLIP_MEAN, CLIP_STD) for image in images])
        return model.encode_image(pixels.to(device))

    told = _told(name, vision["width"], vision["layers"], vision["patch_size"], size)
    return told, lambda texts: model.encode_text(text_ids(list(texts), vocabulary).to(device)), encode_images


def _load_open_clip(folder: Path, device: str | torch.device) -> tuple:
    config = read_json(folder / "open_clip_config.json").get("model_cfg", {})
    text, vision = config.get("text_cfg", {}), config.get("vision_cfg", {})
    if "hf_model_name" in text:
        raise BadCheckpoint(f"{folder}: its text tower is not in open_clip's own code. Give another CLIP.")
    source = f"local-dir:{folder}"
    try:
        model, preprocess = open_clip.create_model_from_pretrained(source, device=device)
        tokenize = open_clip.get_tokenizer(source)
    except (RuntimeError, ValueError, OSError, KeyError, TypeError) as error:
        raise BadCheckpoint(f"{folder} is no whole open_clip model. Download it again. ({error})") from error
    model.requires_grad_(False).eval()

    def encode_images(images: Sequence[Image.Image]) -> Tensor:
        return model.encode_image(torch.stack([preprocess(image.convert("RGB")) for image in images]).to(device))

    told = _told(folder.name, *(vision.get(key) for key in ("width", "layers", "patch_size", "image_size")))
    return told, lambda texts: model.encode_text(tokenize(list(texts)).to(device)), encode_images


def _load_hugging_face(folder: Path, device: str | torch.device) -> tuple:
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "clip":
        raise BadCheckpoint(f"{folder} holds a {kind} model. Give a CLIP with both towers: {LAYOUTS}.")
    try:
        model, report = CLIPModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        tokenize = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (RuntimeError, ValueError, OSError, KeyError, TypeError) as error:
        raise BadCheckpoint(f"{folder} is no whole CLIP. Download it again. ({error})") from error
    if report["missing_keys"]:
        raise BadCheckpoint(f"{folder} lacks {min(report['missing_keys'])}. Give a CLIP with both towers.")
    model.to(device).requires_grad_(False).eval()
    vision, limit = model.config.vision_config, model.config.text_config.max_position_embeddings
    preprocessor = folder / "preprocessor_config.json"
    norms = read_json(preprocessor) if preprocessor.is_file() else {}
    mean, std = norms.get("image_mean", CLIP_MEAN), norms.get("image_std", CLIP_STD)

    def encode_texts(texts: Sequence[str]) -> Tensor:
        ids = tokenize(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt").to(device)
        pooled = model.text_model(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]).pooler_output
        return model.text_projection(pooled)

    def encode_images(images: Sequence[Image.Image]) -> Tensor:
        pixels = torch.stack([to_pixels(image, vision.image_size, mean, std) for image in images])
        return model.visual_projection(model.vision_model(pixels.to(device)).pooler_output)

    told = _told(folder.name, vision.hidden_size, vision.num_hidden_layers, vision.patch_size, vision.image_size)
    return told, encode_texts, encode_images


def _told(name: str, width: int, layers: int, patch: int, size: int) -> str:
    return f"{name}: CLIP ViT, width {width}, {layers} layers, patch {patch}, {size} px"
