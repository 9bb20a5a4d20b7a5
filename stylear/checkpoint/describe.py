"""Says in words what a file or folder of weights is, without reading the weights."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..encoder import to_own_keys
from ..errors import BadCheckpoint, MissingPart
from ..files import to_path
from ..lora import from_peft, lora_rank, lora_targets
from ..resampler import ResamplerConfig
from ..shapes import count, sizes
from ..vqgan import VQGANConfig
from .files import WeightFile, open_weights, weight_files
from .parts import PARTS, parts_in


def describe(path: str | Path) -> list[str]:
    """Lines about a weight file, an index of shards, or all of them in a folder and those directly below.

    Raises MissingPart if there is nothing there, BadCheckpoint if a given file is damaged.
    """
    path = to_path(path)
    if not path.is_dir():
        return _lines(open_weights(path))
    lines = []
    for folder in [path, *sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))]:
        files, refused = weight_files(folder)
        lines += [line for file in files for line in _lines(file)] + [
            f"not read: {error}" for error in refused.values()
        ]
    if not lines:
        raise MissingPart(f"There are no weights in {path}. Give another folder, or a file.")
    return lines


def _lines(file: WeightFile) -> list[str]:
    parts = {kind: found.like() for kind, found in parts_in(file).items()}
    if not parts:
        return [f"{file.path}: no part of StyleAR: first key {next(iter(file.like), 'none')}; {_size(file.like)}"]
    return [f"{file.path}: {PARTS[kind].name}: {_summary(kind, like)}; {_size(like)}" for kind, like in parts.items()]


def _size(like: Mapping[str, Tensor]) -> str:
    parameters = Counter()
    for value in like.values():
        parameters[str(value.dtype).removeprefix("torch.")] += value.numel()
    return f"{sum(parameters.values()):,} parameters, {', '.join(sorted(parameters)) or 'no dtype'}"


def _summary(kind: str, like: dict[str, Tensor]) -> str:
    try:
        return _SUMMARIES[kind](like)
    except BadCheckpoint as error:
        return f"incomplete ({error})"


def _base(like: dict[str, Tensor]) -> str:
    name = PARTS["base"].name
    vocabulary, hidden = sizes(like, "model.embed_tokens.weight", 2, name)
    _, head = sizes(like, "model.layers.0.self_attn.q_norm.weight", 2, name)
    layers = count(r"model\.layers\.(\d+)\.", like)
    return f"{layers} layers, hidden {hidden}, {hidden // head} heads, {vocabulary} tokens"


def _lora(like: dict[str, Tensor]) -> str:
    peft = any(".lora_" in key for key in like)
    lora = from_peft(like) if peft else like
    return f"rank {lora_rank(lora)} on {len(lora_targets(lora))} layers, {'PEFT' if peft else 'released'} layout"


def _resampler(like: dict[str, Tensor]) -> str:
    config = ResamplerConfig.from_state_dict(like)
    return f"features of {config.features} to {config.tokens} tokens of {config.output}, depth {config.depth}"


def _vqgan(like: dict[str, Tensor]) -> str:
    config = VQGANConfig.from_state_dict(like)
    decoder = "" if any(key.startswith("decoder.") for key in like) else ", without its decoder"
    return f"{config.codes} codes, one for {config.downsampling} x {config.downsampling} pixels{decoder}"


def _image_encoder(like: dict[str, Tensor]) -> str:
    own, name = to_own_keys(like), PARTS["image_encoder"].name
    tokens, width = sizes(own, "positional_embedding", 2, name)
    patch = sizes(own, "conv1.weight", 4, name)[-1]
    layers = count(r"blocks\.(\d+)\.", own)
    return f"ViT of {layers} layers, width {width}, patch {patch}, {tokens} features"


def _segmenter(like: dict[str, Tensor]) -> str:
    name = PARTS["segmenter"].name
    width, _, patch, _ = sizes(like, "image_encoder.patch_embed.proj.weight", 4, name)
    side = sizes(like, "image_encoder.pos_embed", 4, name)[1] * patch
    layers = count(r"image_encoder\.blocks\.(\d+)\.", like)
    return f"ViT of {layers} layers, width {width}, pictures of {side} pixels"


_SUMMARIES = {
    "base": _base,
    "lora": _lora,
    "resampler": _resampler,
    "vqgan": _vqgan,
    "image_encoder": _image_encoder,
    "segmenter": _segmenter,
}
