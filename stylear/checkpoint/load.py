"""Builds each part of a model from the files that hold it, checked for missing keys, wrong shapes and NaN."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ..chameleon import Chameleon, expand_norms
from ..chameleon_config import ChameleonConfig
from ..encoder import EncoderConfig, ImageEncoder
from ..errors import BadCheckpoint, MissingPart
from ..lora import fold, from_peft, lora_targets
from ..memory import HALVE, check_weights
from ..resampler import Resampler, ResamplerConfig
from ..segment import Segmenter
from ..shapes import count
from ..vocabulary import Vocabulary
from ..vqgan import VQGAN, VQGANConfig
from .files import read_json
from .parts import PARTS, Found, Place, find

TOKENIZERS = ("tokenizer.json", "text_tokenizer.json")  # Hugging Face's name, Meta's name
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_COUNTERS = ("position_ids", "num_batches_tracked")


def load_base(
    place: str | Path | Place,
    dtype: torch.dtype = torch.float32,
    lora: Mapping[str, Tensor] | None = None,
    tokenizer_place: str | Path | None = None,
) -> tuple[Chameleon, Vocabulary]:
    """The decoder and its vocabulary from a folder or file of Hugging Face's layout (Lumina-mGPT, Chameleon).

    `lora`: released layout, folded in at float32 before the cast to `dtype`. `tokenizer_place`: where a
    tokenizer is looked for if there is none beside the weights (the Omni base comes without; Meta's VQGAN
    folder has it too). Grouped q/k norms are expanded; VQGAN weights in the file are left out. MissingPart or
    BadCheckpoint if it fails, BadInput if memory does not hold it.
    """
    place = Place.of(place)
    found = find("base", place)
    folder = found.path.parent
    config = ChameleonConfig.from_json(folder / "config.json")
    with _naming(found.path):
        layers = count(r"model\.layers\.(\d+)\.", found.keys)
        if layers != config.num_hidden_layers:
            raise BadCheckpoint(
                f"The base model has {layers} layers and its config.json says {config.num_hidden_layers}. "
                "Use the config.json that belongs to the weights, or download both again."
            )
        weights = expand_norms(_read(found), config)
        with torch.device("meta"):
            model = Chameleon(config)
        _check_shapes(model, weights, PARTS["base"].name)
        check_weights(f"The {PARTS['base'].name}", model.parameters(), dtype, advice=HALVE)
        if lora:
            weights = fold(weights, lora, dtype)
        weights = {key: weights.pop(key).to(dtype) for key in model.state_dict()}
        model.join(weights)
        _fill(model, weights, PARTS["base"].name)
    return model, Vocabulary.from_file(find_tokenizer(folder, tokenizer_place, place.remedy))


def trained_size(place: str | Path | Place) -> int | None:
    """Side in pixels of the pictures a base was trained on: {"stylear": {"size": 64}} in config.json."""
    size = _ours(place).get("size")
    return size if type(size) is int and size > 0 else None


def trained_words(place: str | Path | Place) -> tuple[str, ...]:
    """The words that a base was taught, {"stylear": {"words": ["cat"]}} in config.json; () if it is bound to none."""
    words = _ours(place).get("words")
    sound = isinstance(words, list) and all(isinstance(word, str) and word for word in words)
    return tuple(words) if sound else ()


def is_merged(place: str | Path | Place) -> bool:
    """Whether a base has its adapter's LoRA folded in already: {"stylear": {"merged": true}} in config.json."""
    return _ours(place).get("merged") is True


def _ours(place: str | Path | Place) -> dict:
    """What a base's config.json says for StyleAR alone."""
    ours = _json(find("base", place).path.parent / "config.json").get("stylear")
    return ours if isinstance(ours, dict) else {}


def load_adapter(place: str | Path | Place, merged: bool = False) -> tuple[dict[str, Tensor], Resampler]:
    """LoRA (as the released layout, whatever it was saved as) and resampler, float32, of a folder or file.

    `merged`: the base has the LoRA already, so there may be none here and none is returned.
    """
    place = Place.of(place)
    lora = {} if merged else _read_lora(place)
    if merged:
        _refuse_second(place)
    found = find("resampler", place)
    with _naming(found.path):
        weights = _read_small(found, PARTS["resampler"].name)
        with torch.device("meta"):
            resampler = Resampler(ResamplerConfig.from_state_dict(weights))
        _check_shapes(resampler, weights, PARTS["resampler"].name)
        return lora, _fill(resampler, _float(weights), PARTS["resampler"].name)


def _refuse_second(place: Place) -> None:
    """BadCheckpoint where a LoRA lies for a base that has one folded in."""
    try:
        found = find("lora", place)
    except MissingPart:
        return
    raise BadCheckpoint(
        f"The base has its LoRA merged in, and {found.path} holds one more. Give an adapter folder with the resampler "
        "alone, or the base that is not merged."
    )


def _read_lora(place: Place) -> dict[str, Tensor]:
    found = find("lora", place)
    with _naming(found.path):
        lora = _float(_read_small(found, PARTS["lora"].name))
        if any(".lora_" in key for key in lora):
            lora = from_peft(lora, _peft_scaling(found.path.parent / "adapter_config.json"))
        lora_targets(lora)  # refuses what is not a whole LoRA
        _check_finite(lora, PARTS["lora"].name)
        return lora


def load_vqgan(place: str | Path | Place) -> VQGAN:
    """The VQGAN, float32, from Meta's checkpoint or a safetensors layout; it has to have its decoder."""
    found = find("vqgan", place)
    if not any(key.startswith("decoder.") for key in found.keys):
        raise BadCheckpoint(f"{found.path} has only the VQGAN's encoder, so it cannot draw: {PARTS['vqgan'].get}.")
    with _naming(found.path):
        weights = _read_small(found, PARTS["vqgan"].name)
        with torch.device("meta"):
            vqgan = VQGAN(VQGANConfig.from_state_dict(weights))
        _check_shapes(vqgan, weights, PARTS["vqgan"].name)
        return _fill(vqgan, _float(weights), PARTS["vqgan"].name)


def load_image_encoder(place: str | Path | Place) -> ImageEncoder:
    """The image encoder, float32, from Hugging Face's or open_clip's layout.

    Its config is the file's own (metadata key `stylear`, open_clip's JSON), or config.json or
    open_clip_config.json beside it where the width agrees; else it is inferred from the weights.
    """
    found = find("image_encoder", place)
    with _naming(found.path):
        weights = _read_small(found, PARTS["image_encoder"].name)
        _check_finite(weights, PARTS["image_encoder"].name)
        return ImageEncoder.from_state_dict(weights, _encoder_config(found.file.metadata, found.path.parent, weights))


def load_segmenter(place: str | Path | Place) -> Segmenter:
    """SAM, float32, of any size."""
    found = find("segmenter", place)
    with _naming(found.path):
        weights = _read_small(found, PARTS["segmenter"].name)
        _check_finite(weights, PARTS["segmenter"].name)
        return Segmenter.from_state_dict(weights)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's path in front of a BadCheckpoint about what is in it."""
    try:
        yield
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{path}: {error}") from error


def _read(found: Found) -> dict[str, Tensor]:
    """The part's tensors; BadCheckpoint if one is not of a plain float dtype, but for counters no part uses."""
    for key in found.keys.values():
        dtype = found.file.like[key].dtype
        if dtype not in _FLOATS and not key.endswith(_COUNTERS):
            raise BadCheckpoint(
                f"{key} is {str(dtype).removeprefix('torch.')}: quantised weights are not read. Use the part as "
                "float32, bfloat16 or float16."
            )
    return found.read()


def _read_small(found: Found, name: str) -> dict[str, Tensor]:
    """The tensors of a part that is kept in float32; BadInput if memory does not hold it."""
    check_weights(f"The {name}", found.like().values(), torch.float32)
    return _read(found)


def _check_shapes(module: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    for key, wanted in module.state_dict().items():
        if key not in weights:
            raise BadCheckpoint(f"The {name} lacks {key}. Download the file again, or give the one that is meant.")
        if weights[key].shape != wanted.shape:
            raise BadCheckpoint(
                f"{key} is {list(weights[key].shape)} and the {name} has to have {list(wanted.shape)} there. "
                "Use weights that belong together."
            )


def _check_finite(weights: Mapping[str, Tensor], name: str) -> None:
    for key, value in weights.items():
        if not value.is_floating_point() or not value.numel():
            continue
        if not torch.isfinite(torch.stack(value.aminmax())).all():
            raise BadCheckpoint(f"The {name} has NaN or infinite numbers in {key}. Download the file again.")


def _fill(module: nn.Module, weights: Mapping[str, Tensor], name: str) -> nn.Module:
    """Put weights of the right shapes into a module of device meta, without a copy, ready for inference."""
    wanted = module.state_dict().keys() | dict(module.named_parameters())
    weights = {key: value for key, value in weights.items() if key in wanted}
    _check_finite(weights, name)
    module.load_state_dict(weights, assign=True)
    return module.requires_grad_(False).eval()


def _float(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.float() for key, value in weights.items()}


def _json(path: Path) -> dict:
    """A small JSON file's object; empty if there is none."""
    return read_json(path) if path.is_file() else {}


def find_tokenizer(folder: Path, other: str | Path | None = None, remedy: str = "") -> Path:
    """The tokenizer in a base's `folder`, else beside or in `other`; MissingPart, with `remedy`, if there is none."""
    other = Path(other) if other else folder
    folders = [folder, other if other.is_dir() else other.parent]
    for path in (folder / name for folder in folders for name in TOKENIZERS):
        if path.is_file():
            return path
    remedy = remedy or "copy tokenizer.json of Alpha-VLLM/Lumina-mGPT-7B-768 there"
    raise MissingPart(
        f"No tokenizer was found beside the base model in {folder}: {remedy}.\n"
        f"Searched: {', '.join(map(str, dict.fromkeys(folders)))}\n"
        f"Accepted: {', '.join(TOKENIZERS)}."
    )


def _peft_scaling(path: Path) -> float:
    """alpha / r of a PEFT adapter; BadCheckpoint for kinds of LoRA that the released layout cannot hold."""
    config = _json(path)
    if not config:
        raise MissingPart(f"There is no {path}, which says how strong a PEFT LoRA is. Put it beside the weights.")
    refused = [key for key in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save") if config.get(key)]
    refused += ["bias"] if config.get("bias", "none") != "none" else []
    if refused:
        raise BadCheckpoint(f"This PEFT adapter uses {', '.join(refused)}. Train it as plain LoRA.")
    try:
        alpha, rank = float(config["lora_alpha"]), float(config["r"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadCheckpoint(f"{path} does not say lora_alpha and r. Save the adapter again.") from error
    if not rank > 0:
        raise BadCheckpoint(f"{path} does not say lora_alpha and r above 0. Save the adapter again.")
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _encoder_config(metadata: Mapping[str, str], folder: Path, weights: Mapping[str, Tensor]) -> EncoderConfig | None:
    try:
        if "stylear" in metadata:
            return EncoderConfig.from_open_clip_config(json.loads(metadata["stylear"]))
        width = next(value for key, value in weights.items() if key.endswith("class_embedding")).numel()
        hugging_face, open_clip = _json(folder / "config.json"), _json(folder / "open_clip_config.json")
        configs = []
        if "vision_config" in hugging_face or "patch_size" in hugging_face:
            preprocessor = _json(folder / "preprocessor_config.json")
            configs.append(EncoderConfig.from_hf_config(hugging_face, preprocessor))
        if open_clip:
            configs.append(EncoderConfig.from_open_clip_config(open_clip))
        return next((config for config in configs if config.width == width), None)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise BadCheckpoint(f"The image encoder's config cannot be read. Download it again. ({error!r})") from error
