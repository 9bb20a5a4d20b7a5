"""Builds each part of a model from the files that hold it, checked for missing keys, wrong shapes and NaN."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ..chameleon import Chameleon, ChameleonConfig, expand_norms
from ..encoder import EncoderConfig, ImageEncoder
from ..errors import BadCheckpoint, MissingPart
from ..lora import fold, from_peft, lora_targets
from ..resampler import Resampler, ResamplerConfig
from ..segment import Segmenter
from ..vocabulary import Vocabulary
from ..vqgan import VQGAN, VQGANConfig
from .parts import PARTS, find

TOKENIZERS = ("tokenizer.json", "text_tokenizer.json")  # Hugging Face's name, Meta's name


def load_base(
    place: str | Path,
    dtype: torch.dtype = torch.float32,
    lora: Mapping[str, Tensor] | None = None,
    tokenizer_place: str | Path | None = None,
) -> tuple[Chameleon, Vocabulary]:
    """The decoder and its vocabulary from a folder or file of Hugging Face's layout (Lumina-mGPT, Chameleon).

    `lora`: released layout, folded in at float32 before the cast to `dtype`. `tokenizer_place`: where a
    tokenizer is looked for if there is none beside the weights (the Omni base comes without; Meta's VQGAN
    folder has it too). Grouped q/k norms are expanded; VQGAN weights in the file are left out. MissingPart or
    BadCheckpoint if it fails.
    """
    found = find("base", place)
    folder = found.path.parent
    config = ChameleonConfig.from_json(folder / "config.json")
    with _naming(found.path):
        weights = expand_norms(found.read(), config)
        with torch.device("meta"):
            model = Chameleon(config)
        _check_shapes(model, weights, PARTS["base"].name)
        if lora:
            changed = [f"{target}.weight" for target in lora_targets(lora)]
            for name in weights.keys() & changed:
                weights[name] = weights[name].to(torch.promote_types(weights[name].dtype, dtype))
            weights = fold(weights, lora)
        _fill(model, {key: value.to(dtype) for key, value in weights.items()}, PARTS["base"].name)
    return model, Vocabulary.from_file(_tokenizer(folder, tokenizer_place))


def trained_size(place: str | Path) -> int | None:
    """Side in pixels of the pictures a base was trained on: {"stylear": {"size": 64}} in config.json."""
    ours = _json(find("base", place).path.parent / "config.json").get("stylear")
    size = ours.get("size") if isinstance(ours, dict) else None
    return size if isinstance(size, int) and size > 0 else None


def load_adapter(place: str | Path) -> tuple[dict[str, Tensor], Resampler]:
    """LoRA (as the released layout, whatever it was saved as) and resampler, float32, of a folder or file."""
    found = find("lora", place)
    with _naming(found.path):
        lora = {key: value.float() for key, value in found.read().items()}
        if any(".lora_" in key for key in lora):
            lora = from_peft(lora, _peft_scaling(found.path.parent / "adapter_config.json"))
        _check_finite(lora, PARTS["lora"].name)
    found = find("resampler", place)
    with _naming(found.path):
        weights = found.read()
        with torch.device("meta"):
            resampler = Resampler(ResamplerConfig.from_state_dict(weights))
        _check_shapes(resampler, weights, PARTS["resampler"].name)
        return lora, _fill(resampler, _float(weights), PARTS["resampler"].name)


def load_vqgan(place: str | Path) -> VQGAN:
    """The VQGAN, float32, from Meta's checkpoint or a safetensors layout; it has to have its decoder."""
    found = find("vqgan", place)
    if not any(key.startswith("decoder.") for key in found.keys):
        raise BadCheckpoint(
            f"{found.path} has only the VQGAN's encoder, so it cannot draw: {PARTS['vqgan'].get}."
        )
    with _naming(found.path):
        weights = found.read()
        with torch.device("meta"):
            vqgan = VQGAN(VQGANConfig.from_state_dict(weights))
        _check_shapes(vqgan, weights, PARTS["vqgan"].name)
        return _fill(vqgan, _float(weights), PARTS["vqgan"].name)


def load_image_encoder(place: str | Path) -> ImageEncoder:
    """The image encoder, float32, from Hugging Face's or open_clip's layout.

    Its config is the file's own (metadata key `stylear`, open_clip's JSON), or config.json or
    open_clip_config.json beside it where the width agrees; else it is inferred from the weights.
    """
    found = find("image_encoder", place)
    with _naming(found.path):
        weights = found.read()
        _check_finite(weights, PARTS["image_encoder"].name)
        return ImageEncoder.from_state_dict(
            weights, _encoder_config(found.file.metadata, found.path.parent, weights)
        )


def load_segmenter(place: str | Path) -> Segmenter:
    """SAM, float32, of any size."""
    found = find("segmenter", place)
    with _naming(found.path):
        weights = found.read()
        _check_finite(weights, PARTS["segmenter"].name)
        return Segmenter.from_state_dict(weights)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's path in front of a BadCheckpoint about what is in it."""
    try:
        yield
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{path}: {error}") from error


def _check_shapes(module: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    for key, wanted in module.state_dict().items():
        if key not in weights:
            raise BadCheckpoint(
                f"The {name} lacks {key}. Download the file again, or give the one that is meant."
            )
        if weights[key].shape != wanted.shape:
            raise BadCheckpoint(
                f"{key} is {list(weights[key].shape)} and the {name} has to have {list(wanted.shape)} there. "
                "Use weights that belong together; quantised ones are not read."
            )


def _check_finite(weights: Mapping[str, Tensor], name: str) -> None:
    for key, value in weights.items():
        if not value.is_floating_point() or not value.numel():
            continue
        value = value if value.element_size() > 1 else value.float()  # float8 has no minimum
        if not torch.isfinite(torch.stack(value.aminmax())).all():
            raise BadCheckpoint(f"The {name} has NaN or infinite numbers in {key}. Download the file again.")


def _fill(module: nn.Module, weights: Mapping[str, Tensor], name: str) -> nn.Module:
    """Put weights of the right shapes into a module of device meta, without a copy, ready for inference."""
    weights = {key: weights[key] for key in module.state_dict()}
    _check_finite(weights, name)
    module.load_state_dict(weights, assign=True)
    return module.requires_grad_(False).eval()


def _float(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.float() for key, value in weights.items()}


def _json(path: Path) -> dict:
    """A small JSON file's object; empty if there is none. BadCheckpoint if it is something else."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadCheckpoint(f"{path} is not JSON. Download it again. ({error})") from error
    if not isinstance(content, dict):
        raise BadCheckpoint(f"{path} is not a JSON object. Download it again.")
    return content


def _tokenizer(folder: Path, other: str | Path | None) -> Path:
    other = Path(other) if other else folder
    folders = [folder, other if other.is_dir() else other.parent]
    for path in (folder / name for folder in folders for name in TOKENIZERS):
        if path.is_file():
            return path
    raise MissingPart(
        f"No tokenizer was found beside the base model in {folder}: copy tokenizer.json of "
        f"Alpha-VLLM/Lumina-mGPT-7B-768 there.\nSearched: {', '.join(map(str, dict.fromkeys(folders)))}\n"
        f"Accepted: {', '.join(TOKENIZERS)}."
    )


def _peft_scaling(path: Path) -> float:
    """alpha / r of a PEFT adapter; BadCheckpoint for kinds of LoRA that the released layout cannot hold."""
    config = _json(path)
    if not config:
        raise MissingPart(
            f"There is no {path}, which says how strong a PEFT LoRA is. Put it beside the weights."
        )
    refused = [
        key for key in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save") if config.get(key)
    ]
    refused += ["bias"] if config.get("bias", "none") != "none" else []
    if refused:
        raise BadCheckpoint(f"This PEFT adapter uses {', '.join(refused)}. Train it as plain LoRA.")
    try:
        alpha, rank = float(config["lora_alpha"]), float(config["r"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadCheckpoint(f"{path} does not say lora_alpha and r. Save the adapter again.") from error
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _encoder_config(
    metadata: Mapping[str, str], folder: Path, weights: Mapping[str, Tensor]
) -> EncoderConfig | None:
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
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadCheckpoint(
            f"The image encoder's config cannot be read. Download it again. ({error!r})"
        ) from error
