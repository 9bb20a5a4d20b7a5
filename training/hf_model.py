"""Transformers' Chameleon as the class that trains: built small, fed embeddings, saved in its own layout."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import ChameleonConfig, ChameleonForConditionalGeneration

from stylear.chameleon_config import ChameleonConfig as Shape
from stylear.checkpoint import Place
from stylear.checkpoint import load_base as read_base
from stylear.reference import fill_rotary
from stylear.vocabulary import Vocabulary

from .loop import write_atomically
from .sequences import Batch


def build_chameleon(
    vocabulary_size: int, hidden: int, layers: int, heads: int, intermediate: int, positions: int
) -> ChameleonForConditionalGeneration:
    """A Chameleon with random weights and without the picture tokenizer, which is trained apart."""
    return from_config(Shape(vocabulary_size, hidden, intermediate, layers, heads, heads, positions))


def from_config(shape: Shape) -> ChameleonForConditionalGeneration:
    """Transformers' model of a shape, its weights random (or meta, under that device), without the VQGAN."""
    config = ChameleonConfig(
        **asdict(shape),
        vocabulary_map={"<image>": 0},
        vq_config={
            "embed_dim": 8,
            "num_embeddings": 8,
            "base_channels": 32,
            "channel_multiplier": [1],
            "num_res_blocks": 1,
            "latent_channels": 8,
        },
    )
    model = ChameleonForConditionalGeneration(config)
    model.model.vqmodel = nn.Identity()
    return model


def answer_hidden(base: nn.Module, batch: Batch, style: Tensor | None = None) -> Tensor:
    """What the head turns into the answer's logits: [B, n, hidden].

    `style` [B, M, hidden] overwrites the style slots' embeddings; rows without a prompt write theirs to a place behind
    the sequence, which is then cut off. Goes through `base.model`, because the class's own forward forbids picture
    tokens.
    """
    embeddings = base.get_input_embeddings()(batch.ids)
    if style is not None:
        embeddings = F.pad(embeddings, (0, 0, 0, 1))
        slots = batch.style_slots.remainder(embeddings.shape[1])[..., None].expand(-1, -1, embeddings.shape[2])
        embeddings = embeddings.scatter(1, slots, style.to(embeddings.dtype))[:, :-1]
    hidden = base.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    return hidden.gather(1, batch.answer[..., None].expand(-1, -1, hidden.shape[-1]))


def answer_logits(model: ChameleonForConditionalGeneration, batch: Batch, style: Tensor | None = None) -> Tensor:
    """Logits [B, n, V] at the answer's places; `style` as in `answer_hidden`."""
    return model.lm_head(answer_hidden(model, batch, style))


def save_base(
    model: ChameleonForConditionalGeneration, tokenizer: str, folder: Path, size: int, words: Sequence[str] = ()
) -> None:
    """Write config.json, tokenizer.json and model.safetensors (float16) in Hugging Face's layout.

    `size`, the side in pixels of the training pictures, is what the engine draws by default; `words`, if prompts are
    made of these alone, are what it tells people that it knows.
    """
    weights = {k: v.half().contiguous() for k, v in model.state_dict().items() if ".vqmodel." not in k}
    write_atomically(folder / "model.safetensors", lambda path: save_file(weights, path, {"format": "pt"}))
    config = {
        k: v
        for k, v in model.config.to_dict().items()
        if k not in ("vq_config", "vocabulary_map", "transformers_version", "dtype")
    }
    config["stylear"] = {"size": size, **({"words": list(words)} if words else {})}
    config["architectures"] = ["ChameleonForConditionalGeneration"]
    text = json.dumps(config, indent=1)
    write_atomically(folder / "config.json", lambda path: path.write_text(text, encoding="utf-8"))
    write_atomically(folder / "tokenizer.json", lambda path: path.write_text(tokenizer, encoding="utf-8"))


def write_base(folder: Path, weights: Mapping[str, Tensor], config: Path, tokenizer: Path) -> None:
    """Write weights by transformers' names (float16) beside copies of the config.json and tokenizer they belong to."""
    half = {name: value.half().contiguous() for name, value in weights.items()}
    write_atomically(folder / "model.safetensors", lambda path: save_file(half, path, {"format": "pt"}))
    for name, source in (("config.json", config), ("tokenizer.json", tokenizer)):
        write_atomically(folder / name, lambda path, source=source: shutil.copyfile(source, path))


def load_base(
    place: Path | Place, dtype: torch.dtype = torch.float32, tokenizer_place: Path | None = None
) -> tuple[ChameleonForConditionalGeneration, Vocabulary]:
    """A base of any layout the engine reads, frozen, as transformers' class, and its vocabulary; errors as there."""
    ours, vocabulary = read_base(place, dtype, tokenizer_place=tokenizer_place)
    with torch.device("meta"):
        model = from_config(ours.config)
    model.load_state_dict(ours.state_dict(), assign=True)
    fill_rotary(model, ours.config.rope_theta)
    return model.requires_grad_(False), vocabulary
