"""The parts of a StyleAR model: how each is recognised by its keys and shapes, and where it is looked for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import BadCheckpoint, MissingPart
from .files import WeightFile, open_weights, weight_files


@dataclass(frozen=True)
class Part:
    """A part's name for people, the files that may hold it, and how to get one."""

    name: str
    files: str
    get: str


PARTS = {
    "base": Part(
        "base model (a Chameleon decoder)",
        "model.safetensors, or model-0000X-of-0000Y.safetensors with model.safetensors.index.json, beside "
        "config.json and tokenizer.json",
        "download Alpha-VLLM/Lumina-mGPT-7B-768 (for depth: Lumina-mGPT-7B-768-Omni) from Hugging Face",
    ),
    "lora": Part(
        "adapter's LoRA",
        "model.safetensors as released (A, B), or PEFT's adapter_model.safetensors with adapter_config.json",
        "download model.safetensors of Ani2017/StyleAR (for depth, of its Depth_condition), Hugging Face",
    ),
    "resampler": Part(
        "adapter's style resampler",
        "image_proj.safetensors or image_proj.pth",
        "download image_proj.pth of Ani2017/StyleAR (for depth, of its Depth_condition), Hugging Face",
    ),
    "vqgan": Part(
        "VQGAN picture tokenizer",
        "vqgan.ckpt as Meta released it, or a safetensors file with encoder and decoder",
        "download model.safetensors of leloy/Anole-7b-v0.1-vqvae-hf, or tokenizer/vqgan.ckpt of "
        "GAIR/Anole-7b-v0.1, from Hugging Face",
    ),
    "image_encoder": Part(
        "image encoder (CLIP ViT)",
        "model.safetensors of Hugging Face's CLIP, or an open_clip file",
        "download laion/CLIP-ViT-H-14-laion2B-s32B-b79K from Hugging Face (IP-Adapter uses the same file)",
    ),
    "segmenter": Part(
        "segmenter (SAM)",
        "sam_vit_b, sam_vit_l or sam_vit_h as .pth or .safetensors",
        "download sam_vit_b_01ec64.pth from the segment-anything page of Meta, or give a mask instead",
    ),
}

_LORA = re.compile(
    r"(model\.layers\.\d+\..+|lm_head\.lm_head)_lora\.[AB]"
    r"|(base_model\.model\.)?(model\.layers\.\d+\..+|lm_head)\.lora_[AB](\.default)?\.weight"
)
_VQGAN_PREFIXES = ("", "vqmodel.", "model.vqmodel.")
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
            found["vqgan"] = {key.removeprefix(prefix): key for key in keys if key.startswith(prefix)}
    vision = [key for key in keys if key.split(".")[-1] == "class_embedding"]
    if len(vision) == 1:
        prefix = vision[0].removesuffix("class_embedding").removesuffix("embeddings.")
        found["image_encoder"] = {key: key for key in keys if key.startswith(prefix)}
    if has("image_encoder.patch_embed.proj.weight", "mask_decoder.mask_tokens.weight"):
        found["segmenter"] = {key: key for key in keys if key.startswith(_SAM)}
    return {kind: Found(file, own) for kind, own in found.items()}


def find(kind: str, place: str | Path) -> Found:
    """The part `kind` in a file, in a folder, or in one directly below it.

    Of an adapter's two files one may be given. Safetensors go before pickles. Raises MissingPart
    with the folders searched, the files accepted and how to get them; BadCheckpoint where two files would do,
    or the given file is damaged.
    """
    part, place = PARTS[kind], Path(place)
    if place.is_file():
        found = parts_in(open_weights(place))
        if kind in found:
            return found[kind]
        if not found.keys() & {"lora", "resampler"} or kind not in ("lora", "resampler"):
            held = ", ".join(PARTS[other].name for other in found) or "nothing that StyleAR knows"
            raise MissingPart(
                f"No {part.name} in {place}, which holds {held}. Give another file or folder.\n"
                f"Accepted: {part.files}.\nTo get one: {part.get}."
            )
        levels = [[place.parent]]
    elif place.is_dir():
        levels = [[place], sorted(p for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))]
    else:
        raise MissingPart(
            f"No {part.name}: there is no file or folder {place}. Check the path.\n"
            f"Accepted: {part.files}.\nTo get one: {part.get}."
        )
    refused = []
    for level in levels:
        hits = []
        for folder in level:
            files, unread = weight_files(folder)
            hits += [found[kind] for found in map(parts_in, files) if kind in found]
            refused += unread
        if hits:
            return _only(kind, hits)
    folders = "".join(f"\nSearched: {folder}" for level in levels for folder in level)
    unread = "".join(f"\nNot read: {str(error).splitlines()[0]}" for error in refused)
    raise MissingPart(
        f"No {part.name} was found in {levels[0][0]}: {part.get}, and put it there.{folders}\n"
        f"Accepted: {part.files}; known by what is in them, whatever their names.{unread}"
    )


def holds(kind: str, place: str | Path) -> bool:
    """Whether `find` finds the part there."""
    try:
        find(kind, place)
    except MissingPart:
        return False
    return True


def _only(kind: str, hits: list[Found]) -> Found:
    best = [hit for hit in hits if not hit.file.is_pickle] or hits
    if len(best) > 1:
        paths = " and ".join(str(hit.path) for hit in best)
        raise BadCheckpoint(f"The {PARTS[kind].name} could be {paths}. Give the one that is meant.")
    return best[0]
