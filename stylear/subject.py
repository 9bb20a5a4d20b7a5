"""What the bench measures: a model on disk, or a decoder of random weights and a released shape."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .chameleon import Chameleon
from .chameleon_config import ChameleonConfig
from .checkpoint import Place, find, is_merged, load_adapter, load_base
from .checks import whole
from .errors import BadInput
from .images import open_image
from .memory import HALVE, check_weights
from .pipeline import MINI, MINI_REMEDY, StyleAR
from .sampling import embed_prompt
from .vocabulary import LATENTS_PER_GRID

PROMPT = 100  # tokens of the prompt of a named shape
RANK = 4  # of the released LoRA
MAX_SIDE = 1024  # codes; no model has positions for so many, which `sample` tells
_SPREAD = 0.02  # of random weights, as transformers begins a Chameleon with (initializer_range)
REMEDY = "Leave it out with --no-reference."


@dataclass(frozen=True)
class Shape:
    """A decoder of random weights, its picture in grid steps (height, width) and its number of codes."""

    config: ChameleonConfig
    grid: tuple[int, int]
    codes: int


SHAPES = {
    "7b": Shape(ChameleonConfig(65536, 4096, 11008, 32, 32, 32, max_position_embeddings=10240), (24, 24), 8192),
    "mid": Shape(ChameleonConfig(4096, 512, 1408, 8, 8, 8), (8, 8), 2048),
    "mini": Shape(ChameleonConfig(2148, 256, 704, 6, 4, 4), (8, 8), 1024),
}


@dataclass(frozen=True)
class Subject:
    """What is measured: a decoder, what `sample` reads first, and what the reference is made of, if it is measured."""

    name: str
    base: Chameleon
    vocabulary: object
    prompt: Tensor
    grid: tuple[int, int]
    weights: Mapping[str, Tensor]
    lora: Mapping[str, Tensor]


@dataclass(frozen=True)
class PlainTokens:
    """The tokens that `sample` asks a vocabulary for, for shapes that have no tokenizer."""

    code_ids: Tensor
    new_line: int = 0
    image_start: int = 1

    def image_opening(self, height: int, width: int) -> list[int]:
        """Any three tokens do where weights are random."""
        return [self.image_start, 2, 3]


def random_subject(name: str, device: torch.device, dtype: torch.dtype) -> Subject:
    """A subject of a named shape, made on the device.

    Its weights are random as transformers would draw them; its LoRA is random and changes nothing. BadInput if they do
    not fit.
    """
    shape = SHAPES[name]
    with torch.device("meta"):
        base = Chameleon(shape.config).requires_grad_(False).to(dtype)
    check_weights(f"A decoder of shape {name}", base.parameters(), dtype, device, HALVE)
    base = base.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for key, weight in base.named_parameters():
        if "norm" in key:
            weight.fill_(key.endswith("weight"))
        else:
            weight.normal_(std=_SPREAD, generator=generator)
    base.lay_out()
    weights = base.state_dict()
    lora = {}
    for layer in range(shape.config.num_hidden_layers):
        for part in [*(f"self_attn.{name}_proj" for name in "qkvo"), "mlp.down_proj"]:
            lora |= _random_lora(f"model.layers.{layer}.{part}", weights, generator)
    lora |= _random_lora("lm_head", weights, generator)
    tokens = PlainTokens(torch.arange(4, 4 + shape.codes))
    prompt = torch.randn(PROMPT, shape.config.hidden_size, device=device, generator=generator).to(dtype)
    return Subject(name, base, tokens, prompt, shape.grid, weights, lora)


def loaded_subject(
    base: str,
    parts: Mapping[str, str | None],
    device: torch.device | str | None,
    dtype: torch.dtype | str | None,
    reference: bool = True,
) -> Subject:
    """A model on disk (see `StyleAR.load`) with a picture of a cat in the style of the mini's first reference.

    `reference`: whether with the weights in float32 that the released loop is made of; BadInput if they do not fit.
    """
    model = StyleAR.load(base, **parts, device=device, dtype=dtype)
    base = Place(MINI, MINI_REMEDY) if base == "mini" else Place(Path(base))
    device = model.base.lm_head.weight.device
    weights, lora = {}, {}
    if reference:
        check_weights("The released loop", model.base.parameters(), torch.float32, device, REMEDY)
        tokenizer = find("vqgan", Place.of(parts["vqgan"] or base.folder)).path
        weights = load_base(base, torch.float32, tokenizer_place=tokenizer)[0].state_dict()
        lora, _ = load_adapter(Place.of(parts["adapter"] or base.folder), is_merged(base))
    style = model.encode_style(open_image(min((MINI / "references").glob("*.png"))))
    prompt = model.vocabulary.prompt("a cat", style_tokens=model.resampler.config.tokens)
    return Subject(
        name=str(base.path.name),
        base=model.base,
        vocabulary=model.vocabulary,
        prompt=embed_prompt(model.base, prompt, style.tokens),
        grid=(model.size // model.grid,) * 2,
        weights={key: value.to(device) for key, value in weights.items()},
        lora={key: value.to(device) for key, value in lora.items()},
    )


def square(name: str, side: int) -> tuple[int, int]:
    """Grid steps of a picture of `side` codes on each side; BadInput, calling it `name`, for an odd number or none."""
    half, odd = divmod(whole(name, side, LATENTS_PER_GRID, MAX_SIDE), LATENTS_PER_GRID)
    if odd:
        raise BadInput(f"{name} is {side}; codes come in pairs of rows and columns: give an even number.")
    return half, half


def _random_lora(name: str, weights: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """A LoRA that changes nothing, so that folding it in is no work: its product is 0."""
    weight = weights[f"{name}.weight"]
    a = torch.randn(weight.shape[1], RANK, device=weight.device, generator=generator)
    return {f"{name}_lora.A": a, f"{name}_lora.B": a.new_zeros(RANK, weight.shape[0])}
