"""Transformers' Chameleon as the class that trains: built small, fed embeddings, saved in its own layout."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import ChameleonConfig, ChameleonForConditionalGeneration

from .loop import write_atomically
from .sequences import Batch


def build_chameleon(
    vocabulary_size: int, hidden: int, layers: int, heads: int, intermediate: int, positions: int
) -> ChameleonForConditionalGeneration:
    """A Chameleon with random weights and without the picture tokenizer, which is trained apart."""
    config = ChameleonConfig(
        vocab_size=vocabulary_size,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=positions,
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


def answer_logits(model: ChameleonForConditionalGeneration, batch: Batch, style: Tensor | None = None) -> Tensor:
    """Logits [B, n, V] at the answer's places; `style` [B, M, hidden] overwrites the style slots' embeddings.

    Goes through `model.model` and `lm_head`, because the class's own forward forbids picture tokens.
    """
    embeddings = model.get_input_embeddings()(batch.ids)
    if style is not None:
        rows = torch.arange(len(batch.ids))[:, None].expand_as(batch.style_slots)
        there = batch.style_slots >= 0
        embeddings = embeddings.index_put((rows[there], batch.style_slots[there]), style[there].to(embeddings.dtype))
    hidden = model.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    places = batch.answer[..., None].expand(-1, -1, hidden.shape[-1])
    return model.lm_head(hidden.gather(1, places))


def save_base(model: ChameleonForConditionalGeneration, tokenizer: str, folder: Path, size: int) -> None:
    """Write config.json, tokenizer.json and model.safetensors (float16) in Hugging Face's layout.

    `size`, the side in pixels of the training pictures, is what the engine draws by default.
    """
    weights = {k: v.half().contiguous() for k, v in model.state_dict().items() if ".vqmodel." not in k}
    write_atomically(folder / "model.safetensors", lambda path: save_file(weights, path, {"format": "pt"}))
    config = {
        k: v
        for k, v in model.config.to_dict().items()
        if k not in ("vq_config", "vocabulary_map", "transformers_version", "dtype")
    }
    config["stylear"] = {"size": size}
    config["architectures"] = ["ChameleonForConditionalGeneration"]
    write_atomically(folder / "config.json", lambda path: path.write_text(json.dumps(config, indent=1)))
    write_atomically(folder / "tokenizer.json", lambda path: path.write_text(tokenizer, encoding="utf-8"))


def load_base(folder: Path) -> ChameleonForConditionalGeneration:
    """A base saved by `save_base`, in float32, without its picture tokenizer."""
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = build_chameleon(
        values["vocab_size"], values["hidden_size"], values["num_hidden_layers"], values["num_attention_heads"],
        values["intermediate_size"], values["max_position_embeddings"],
    )  # fmt: skip
    weights = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    model.load_state_dict(weights)
    return model
