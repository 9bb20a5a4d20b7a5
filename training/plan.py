"""How much memory a training takes, part by part and for each number of devices, from shapes alone."""

import math
from dataclasses import dataclass

import torch

from stylear.chameleon_config import ChameleonConfig
from stylear.checkpoint import find
from stylear.encoder import EncoderConfig, ImageEncoder, to_own_keys
from stylear.errors import BadInput, MissingPart

from .hf_model import from_config
from .parts import Parts
from .recipe import TrainSettings
from .styled import StyledModel
from .tokens import TokenSet
from .trainer import groups_of, styled_model

RELEASED = ChameleonConfig(65536, 4096, 11008, 32, 32, 32, 10240)  # Lumina-mGPT 7B 768
RELEASED_TOKENS = 2500  # of a 768 px picture and its prompt
PROMPT_TOKENS = 128  # room for the template and a caption, where the data says how long the pictures are
DEVICES = (1, 2, 4, 8)
FLOAT = 4


@dataclass(frozen=True)
class Shapes:
    """What the memory depends on.

    styled: the model on meta tensors; encoder: parameters of the image encoder, 0 where features are read from the
    data; tokens: of the longest sequence.
    """

    styled: StyledModel
    encoder: int
    tokens: int


def plan(settings: TrainSettings) -> str:
    """The memory plan as text: for each part and number of devices GiB (a small model: MiB) on each device.

    Weights are not read. Without a base or data, those of the released 7B model at 768 px are planned for.
    """
    shapes, told = shapes_of(settings)
    columns = [memory(shapes, settings, devices) for devices in DEVICES]
    unit, name = (2**30, "GiB") if sum(columns[0].values()) > 2**30 else (2**20, "MiB")
    lines = [f"Memory in {name} on each device, for {told}."]
    rows, told = _rows(settings), ", contrasted ones among them" if settings.contrast.looks else ""
    lines.append(f"{rows} rows of {shapes.tokens} tokens at a time{told}, {settings.precision}; FSDP from 2 on.")
    lines.append(f"{'devices':42}" + "".join(f"{devices:>9}" for devices in DEVICES))
    for part in columns[0]:
        lines.append(f"{part:42}" + "".join(f"{column[part] / unit:9.2f}" for column in columns))
    lines.append(f"{'sum':42}" + "".join(f"{sum(column.values()) / unit:9.2f}" for column in columns))
    lora, resampler, *base = (sum(w.numel() for w in group["params"]) for group in groups_of(shapes.styled))
    frozen = sum(weight.numel() for weight in shapes.styled.parameters() if not weight.requires_grad)
    told = f", {base[0]:,} of the base" if base else ""
    lines.append(f"Parameters: {frozen:,} frozen, {lora:,} LoRA, {resampler:,} resampler{told}.")
    return "\n".join(lines)


def shapes_of(settings: TrainSettings) -> tuple[Shapes, str]:
    """The shapes that settings lead to, and a line that says what they were taken from."""
    parts, told = Parts(settings.model), []
    try:
        folder = find("base", parts.base_place).path.parent
        base = ChameleonConfig.from_json(folder / "config.json")
        told.append(f"base {folder}")
    except MissingPart:
        base = RELEASED
        told.append("the released 7B base (no base at hand)")
    try:
        weights = to_own_keys(find("image_encoder", parts.place("image_encoder")).like())
    except MissingPart:
        with torch.device("meta"):
            weights = ImageEncoder(EncoderConfig()).state_dict()
    encoder, width = sum(weight.numel() for weight in weights.values()), weights["class_embedding"].numel()
    try:
        data = TokenSet(settings.data)
        tokens = int((data.lengths + data.condition_lengths).max()) + PROMPT_TOKENS
        if data.features is not None and not settings.views.change:
            encoder = 0
        told.append(f"data {settings.data}")
    except BadInput:
        tokens = RELEASED_TOKENS
        told.append("768 px pictures (no data at hand)")
    return Shapes(meta_model(base, width, settings), encoder, tokens), ", ".join(told)


def meta_model(base: ChameleonConfig, features: int, settings: TrainSettings) -> StyledModel:
    """The model that would train, on meta tensors, in the dtypes it would have."""
    with torch.device("meta"):
        model = from_config(base).requires_grad_(False)
        half = settings.precision == "bf16" and not settings.base_rate
        model = model.to(torch.bfloat16) if half else model
        return styled_model(model, features, settings)


def memory(shapes: Shapes, settings: TrainSettings, devices: int) -> dict[str, float]:
    """Bytes on each device by part. Estimates within some tens of percent where they are of activations."""
    styled = shapes.styled
    config = styled.base.base_model.model.config
    half = 2 if settings.precision == "bf16" else FLOAT
    frozen = sum(w.numel() * w.element_size() for w in styled.parameters() if not w.requires_grad)
    trained = sum(w.numel() for group in groups_of(styled) for w in group["params"])
    # One layer's forward keeps about 14 rows of the hidden size and 4 of the feed-forward's for its backward.
    rows = _rows(settings) * shapes.tokens
    layer = rows * (14 * config.hidden_size + 4 * config.intermediate_size) * half
    layers = config.num_hidden_layers
    kept = layers * rows * config.hidden_size * half + layer if settings.gradient_checkpointing else layers * layer
    layer_weights = sum(w.numel() for w in styled.base.base_model.model.model.layers[0].parameters()) * half
    ends = 2 * config.vocab_size * config.hidden_size * half
    resampler = sum(w.numel() for w in styled.resampler.parameters())
    gathered = (2 * layer_weights + ends + resampler * (2 * half + FLOAT)) if devices > 1 else 0
    return {
        "frozen base": frozen / devices,
        "image encoder (a copy on each)": shapes.encoder * FLOAT,
        "LoRA and resampler": trained * FLOAT / devices,
        "their gradients": trained * FLOAT / devices,
        "their AdamW averages": 2 * trained * FLOAT / devices,
        "gathered: layers, both ends, resampler": gathered,
        "activations": kept,
        "logits of a chunk": 3.5 * settings.loss_chunk * config.vocab_size * FLOAT,
    }


def _rows(settings: TrainSettings) -> int:
    """Rows of a forward pass: its pictures, and its share of those that are looked at again."""
    micro_batch, looks = settings.micro_batch, min(settings.contrast.looks, settings.batch)
    return micro_batch + math.ceil(micro_batch * looks / settings.batch)
