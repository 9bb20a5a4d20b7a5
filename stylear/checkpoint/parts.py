"""The parts of a StyleAR model: how each is recognised by its keys and shapes, and where it is looked for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from ..errors import BadCheckpoint, MissingPart, StyleARError
from ..files import to_path
from .files import WeightFile, open_weights, weight_files


@dataclass(frozen=True)
class Part:
    """A part's name for people, the files that may hold it, how to get one, and what its files are called.

    `called`: a word in its file's name, by which one that cannot be read is known, of a part that may be absent.
    """

    name: str
    files: str
    get: str
    called: str = ""


PARTS = {
    "base": Part(
        "base model (a Chameleon decoder)",
        "model.safetensors, or model-0000X-of-0000Y.safetensors with model.safetensors.index.json, beside "
        "config.json and tokenizer.json",
        "run python -m stylear download FOLDER (--depth for depth maps), or get Alpha-VLLM/Lumina-mGPT-7B-768 (for "
        "depth: Lumina-mGPT-7B-768-Omni) from Hugging Face",
    ),
    "lora": Part(
        "adapter's LoRA",
        "model.safetensors as released (A, B), or PEFT's adapter_model.safetensors with adapter_config.json",
        "run python -m stylear download FOLDER (--depth for depth maps), or get model.safetensors of Ani2017/StyleAR "
        "(for depth, of its Depth_condition) from Hugging Face",
    ),
    "resampler": Part(
        "adapter's style resampler",
        "image_proj.safetensors or image_proj.pth",
        "run python -m stylear download FOLDER (--depth for depth maps), or get image_proj.pth of Ani2017/StyleAR (for "
        "depth, of its Depth_condition) from Hugging Face",
    ),
    "vqgan": Part(
        "VQGAN picture tokenizer",
        "vqgan.ckpt as Meta released it, or a safetensors file with encoder and decoder",
        "run python -m stylear download FOLDER, or get model.safetensors of leloy/Anole-7b-v0.1-vqvae-hf, or "
        "tokenizer/vqgan.ckpt of GAIR/Anole-7b-v0.1, from Hugging Face",
    ),
    "image_encoder": Part(
        "image encoder (CLIP ViT)",
        "model.safetensors of Hugging Face's CLIP, or an open_clip file",
        "run python -m stylear download FOLDER, or get laion/CLIP-ViT-H-14-laion2B-s32B-b79K from Hugging Face "
        "(IP-Adapter uses the same file)",
    ),
    "segmenter": Part(
        "segmenter (SAM)",
        "sam_vit_b, sam_vit_l or sam_vit_h as .pth or .safetensors",
        "run python -m stylear download FOLDER, or get sam_vit_b_01ec64.pth from the segment-anything page of Meta, or "
        "give a mask instead",
        "sam",
    ),
}

_LORA = re.compile(
    r"(model\.layers\.\d+\..+|lm_head\.lm_head)_lora\.[AB]"
    r"|(base_model\.model\.)?(model\.layers\.\d+\..+|lm_head)\.lora_[AB](\.default)?\.weight"
)
_VQGAN_PREFIXES = ("", "vqmodel.", "model.vqmodel.")
_VQGAN = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")
_RESAMPLER = ("latents", "proj_in.", "layers.", "proj_out.", "norm_out.")
_SAM = ("image_encoder.", "prompt_encoder.", "mask_decoder.")


@dataclass(frozen=True)
class Found:
    """A part in a weight file: for each key the part's own code uses, the key in the file."""

    file: WeightFile
    keys: Mapping[str, str]

    @property
    def path(self) -> Path:
        """The file, or the index of its shards."""
        return self.file.path

    def like(self) -> dict[str, Tensor]:
        """The part's shapes, as tensors without memory."""
        return {own: self.file.like[key] for own, key in self.keys.items()}

    def read(self) -> dict[str, Tensor]:
        """The part's tensors, on the CPU."""
        tensors = self.file.read(self.keys.values())
        return {own: tensors[key] for own, key in self.keys.items()}


def parts_in(file: WeightFile) -> dict[str, Found]:
    """Every part that a weight file holds; one file may hold several."""
    keys, found = list(file.like), {}

    def has(*names: str) -> bool:
        return all(name in file.like for name in names)

    lora = [key for key in keys if _LORA.fullmatch(key)]
    if lora:
        found["lora"] = {key: key for key in lora}
    head_norm = file.like.get("model.layers.0.self_attn.q_norm.weight")
    if has("model.embed_tokens.weight", "lm_head.weight") and head_norm is not None and head_norm.ndim == 2:
        own = [key for key in keys if key.startswith(("model.", "lm_head.")) and key not in lora]
        found["base"] = {key: key for key in own if not key.startswith("model.vqmodel.")}
    if has("latents", "proj_in.weight", "layers.0.0.to_q.weight"):
        found["resampler"] = {key: key for key in keys if key.startswith(_RESAMPLER)}
    for prefix in _VQGAN_PREFIXES:
        if has(prefix + "quantize.embedding.weight", prefix + "encoder.conv_in.weight"):
            own = tuple(prefix + name for name in _VQGAN)
            found["vqgan"] = {key.removeprefix(prefix): key for key in keys if key.startswith(own)}
    vision = [key for key in keys if key.split(".")[-1] == "class_embedding"]
    if len(vision) == 1:
        prefix = vision[0].removesuffix("class_embedding").removesuffix("embeddings.")
        found["image_encoder"] = {key: key for key in keys if key.startswith(prefix)}
    if has("image_encoder.patch_embed.proj.weight", "mask_decoder.mask_tokens.weight"):
        found["segmenter"] = {key: key for key in keys if key.startswith(_SAM)}
    return {kind: Found(file, own) for kind, own in found.items()}


@dataclass(frozen=True)
class Place:
    """A file or folder to find parts in, of which each file is looked into once, when it is first wanted.

    `remedy`: what to do where something is missing; by default each part's own advice, to get that part.
    """

    path: Path
    remedy: str = ""
    _seen: dict[Path, tuple[list[WeightFile], dict[Path, StyleARError]]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, place: "str | Path | Place") -> "Place":
        """The place at a path; a place stays what it is."""
        return place if isinstance(place, Place) else cls(to_path(place))

    @property
    def folder(self) -> "Place":
        """The place itself, or the folder that its file is in."""
        return replace(self, path=self.path.parent) if self.path.is_file() else self

    def look(self, path: Path) -> tuple[list[WeightFile], dict[Path, StyleARError]]:
        """The weights that a file or folder is or holds, and why others in the folder were refused."""
        if path not in self._seen:
            self._seen[path] = weight_files(path) if path.is_dir() else ([open_weights(path)], {})
        return self._seen[path]

    def levels(self) -> list[list[Path]]:
        """Where a part is looked for in a folder, if it is one: it, then those directly below."""
        if not self.path.is_dir():
            return []
        below = sorted(path for path in self.path.iterdir() if path.is_dir() and not path.name.startswith("."))
        return [[self.path], below]


def find(kind: str, place: str | Path | Place) -> Found:
    """The part `kind` in a file, in a folder, or in one directly below it.

    Of an adapter's two files one may be given. Safetensors go before pickles. Raises MissingPart
    with the folders searched, the files accepted and how to get them; BadCheckpoint where two files would do,
    or the given file is damaged.
    """
    part, place = PARTS[kind], Place.of(place)
    path, remedy = place.path, place.remedy or f"{part.get}, and put it there"
    if path.is_file():
        found = parts_in(place.look(path)[0][0])
        if kind in found:
            return found[kind]
        if not found.keys() & {"lora", "resampler"} or kind not in ("lora", "resampler"):
            held = ", ".join(PARTS[other].name for other in found) or "nothing that StyleAR knows"
            raise MissingPart(
                f"No {part.name} in {path}, which holds {held}. Give another file or folder.\n"
                f"Accepted: {part.files}.\nTo get one: {part.get}."
            )
        levels = [[path.parent]]
    elif path.is_dir():
        levels = place.levels()
    else:
        raise MissingPart(
            f"No {part.name}: there is no file or folder {path}: "
            f"{place.remedy or f'check the path, or {part.get}'}.\nAccepted: {part.files}."
        )
    for level in levels:
        files = [file for folder in level for file in place.look(folder)[0]]
        hits = [found[kind] for found in map(parts_in, files) if kind in found]
        if hits:
            return _only(kind, hits)
    refused = [error for level in levels for folder in level for error in place.look(folder)[1].values()]
    reason, *others = [str(error).splitlines()[0] for error in refused] or [""]
    raise MissingPart(
        f"{reason} No {part.name} was found in {levels[0][0]}: {remedy}.".lstrip()
        + "".join(f"\nSearched: {folder}" for level in levels for folder in level)
        + f"\nAccepted: {part.files}; known by what is in them, whatever their names."
        + "".join(f"\nNot read: {other}" for other in others)
    )


def holds(kind: str, place: str | Path | Place) -> bool:
    """Whether the part is in a folder or in one directly below it.

    BadCheckpoint if it is not and a file was refused that may be the part: it is called so, or its folder holds no
    other weights.
    """
    place = Place.of(place)
    looked = [place.look(folder) for level in place.levels() for folder in level]
    if any(kind in parts_in(file) for files, _ in looked for file in files):
        return True
    part = PARTS[kind]
    for files, refused in looked:
        for path, error in refused.items():
            if not files or part.called in re.findall(r"[^\W_]+", path.name.lower()):
                reason = str(error).splitlines()[0]
                raise BadCheckpoint(f"{reason} It may be the {part.name}, which no other file here is.")
    return False


def _only(kind: str, hits: list[Found]) -> Found:
    best = [hit for hit in hits if not hit.file.is_pickle] or hits
    if len(best) > 1:
        paths = " and ".join(str(hit.path) for hit in best)
        raise BadCheckpoint(f"The {PARTS[kind].name} could be {paths}. Give the one that is meant.")
    return best[0]
