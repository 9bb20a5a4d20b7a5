"""Complete random checkpoints, tiny and in every layout that is loaded: in memory or in a folder."""

import json
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_tokenizer import tiny_tokenizer_json
from torch import Tensor, nn

from stylear.chameleon import Chameleon
from stylear.chameleon_config import ChameleonConfig
from stylear.encoder import EncoderConfig, ImageEncoder
from stylear.lora import to_peft
from stylear.resampler import Resampler, ResamplerConfig
from stylear.segment import _modeling
from stylear.vocabulary import Vocabulary
from stylear.vqgan import VQGAN, VQGANConfig

CODES, GRIDS, HIDDEN, SIZE = 24, 6, 32, 16
TOKENIZER = tiny_tokenizer_json(codes=CODES, grids=GRIDS)
VQGAN_CONFIG = VQGANConfig(
    channels=32, multipliers=(1, 1, 1), blocks=1, latent_channels=8, code_channels=8, codes=CODES
)
CLIP_CONFIG = EncoderConfig(width=24, layers=3, heads=2, mlp=40, patch=8, image_size=16)
RESAMPLER_CONFIG = ResamplerConfig(features=24, width=16, depth=1, heads=1, output=HIDDEN)
BASE_CONFIG = {
    "model_type": "chameleon",
    "vocab_size": Vocabulary(TOKENIZER).size,
    "hidden_size": HIDDEN,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 600,
}
OPEN_CLIP_CONFIG = {
    "vision_cfg": {
        "width": 24,
        "layers": 3,
        "head_width": 12,
        "mlp_ratio": 40 / 24,
        "patch_size": 8,
        "image_size": 16,
    }
}
HF_CLIP_CONFIG = {
    "vision_config": {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "patch_size": 8,
        "image_size": 16,
        "hidden_act": "gelu",
    }
}


def randomised(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """The module's state dict with every weight drawn anew, norms around 1."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: ("norm" in key and key.endswith("weight")) + 0.3 * torch.randn(value.shape, generator=generator)
        for key, value in module.state_dict().items()
    }


def base_state() -> dict[str, Tensor]:
    """A decoder as Lumina-mGPT keeps it: one row of q/k norm for all heads."""
    state = randomised(Chameleon(ChameleonConfig.from_dict(BASE_CONFIG)), 1)
    return {key: value[:1].clone() if "_norm." in key else value for key, value in state.items()}


def lora_state(rank: int = 2) -> dict[str, Tensor]:
    """A LoRA in the released layout on the released modules."""
    generator, state = torch.Generator().manual_seed(2), {}
    shapes = {"lm_head.lm_head": (HIDDEN, BASE_CONFIG["vocab_size"])}
    for layer in range(2):
        shapes |= {f"model.layers.{layer}.self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes[f"model.layers.{layer}.mlp.down_proj"] = (40, HIDDEN)
    for name, (inner, outer) in shapes.items():
        state[f"{name}_lora.A"] = 0.3 * torch.randn(inner, rank, generator=generator)
        state[f"{name}_lora.B"] = 0.3 * torch.randn(rank, outer, generator=generator)
    return state


def resampler_state() -> dict[str, Tensor]:
    """A resampler under the released flat keys."""
    return randomised(Resampler(RESAMPLER_CONFIG), 3)


def vqgan_state() -> dict[str, Tensor]:
    """A VQGAN under the released keys, with the discriminator's leftovers that training leaves."""
    return randomised(VQGAN(VQGAN_CONFIG), 4) | {"loss.discriminator.weight": torch.zeros(2)}


def open_clip_state() -> dict[str, Tensor]:
    """An open_clip model: vision tower with last layer and norm, and something of a text tower."""
    state = {}
    for key, value in randomised(ImageEncoder(CLIP_CONFIG), 5).items():
        state["visual." + key.replace("blocks.", "transformer.resblocks.").replace("in_proj.", "in_proj_")] = value
    last = {key.replace(".1.", ".2."): value.clone() for key, value in state.items() if ".resblocks.1." in key}
    return state | last | {"visual.ln_post.weight": torch.ones(24), "token_embedding.weight": torch.zeros(4, 24)}


def hugging_face_clip_state() -> dict[str, Tensor]:
    """The same vision tower as `open_clip_state` under Hugging Face's keys."""
    names = {
        "class_embedding": "embeddings.class_embedding",
        "conv1.": "embeddings.patch_embedding.",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_pre.": "pre_layrnorm.",
        "transformer.resblocks.": "encoder.layers.",
        ".ln_1.": ".layer_norm1.",
        ".ln_2.": ".layer_norm2.",
        ".attn.out_proj.": ".self_attn.out_proj.",
        ".mlp.c_fc.": ".mlp.fc1.",
        ".mlp.c_proj.": ".mlp.fc2.",
    }
    state = {"vision_model.embeddings.position_ids": torch.arange(5)[None]}
    for key, value in open_clip_state().items():
        if not key.startswith("visual.") or "ln_post" in key:
            continue
        key = key.removeprefix("visual.")
        for old, new in names.items():
            key = key.replace(old, new)
        if ".attn.in_proj_" in key:
            layer, kind = key.split(".attn.in_proj_")
            for name, part in zip("qkv", value.chunk(3), strict=True):
                state[f"vision_model.{layer}.self_attn.{name}_proj.{kind}"] = part.clone()
        else:
            state[f"vision_model.{key}"] = value
    return state


def sam_state() -> dict[str, Tensor]:
    """A SAM of segment_anything's own classes, for pictures of 32 pixels."""
    modeling = _modeling()
    sam = modeling.Sam(
        modeling.ImageEncoderViT(
            img_size=32,
            patch_size=8,
            embed_dim=16,
            depth=2,
            num_heads=2,
            out_chans=16,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=2,
            global_attn_indexes=(1,),
        ),
        modeling.PromptEncoder(16, (4, 4), (32, 32), 4),
        modeling.MaskDecoder(
            transformer_dim=16, transformer=modeling.TwoWayTransformer(2, 16, 8, 16), iou_head_hidden_dim=16
        ),
    )
    return randomised(sam, 6)


def write_base(folder: Path, shards: int = 1, tokenizer: str | None = "tokenizer.json", **config) -> Path:
    """The base in Hugging Face's layout, whole or in shards; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    state = base_state()
    (folder / "config.json").write_text(json.dumps(BASE_CONFIG | config))
    if tokenizer:
        (folder / tokenizer).write_text(TOKENIZER)
    if shards == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    places = {key: f"model-{index % shards + 1:05d}-of-{shards:05d}.safetensors" for index, key in enumerate(state)}
    for name in set(places.values()):
        save_file({key: value for key, value in state.items() if places[key] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def write_adapter(folder: Path, released: bool = True) -> Path:
    """LoRA and resampler as released, one a pickle; or PEFT's layout beside safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    if released:
        save_file(lora_state(), folder / "model.safetensors")
        torch.save(resampler_state(), folder / "image_proj.pth")
    else:
        halves = {key: value.clone() for key, value in to_peft(lora_state()).items()}
        save_file(halves, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 2, "bias": "none"}))
        save_file(resampler_state(), folder / "image_proj.safetensors")
    return folder


def write_official(folder: Path, shards: int = 2) -> dict[str, Path]:
    """What a user of the released code has on disk; returns the arguments of StyleAR.load."""
    places = {
        "base": write_base(folder / "Lumina-mGPT-7B-768", shards),
        "adapter": write_adapter(folder / "stylear_models"),
        "vqgan": folder / "tokenizer",
        "image_encoder": folder / "CLIP-ViT-H-14",
    }
    places["vqgan"].mkdir()
    torch.save({"state_dict": vqgan_state(), "epoch": 3}, places["vqgan"] / "vqgan.ckpt")
    (places["vqgan"] / "vqgan.yaml").write_text("model: {}\n")
    places["image_encoder"].mkdir()
    save_file(hugging_face_clip_state(), places["image_encoder"] / "model.safetensors")
    (places["image_encoder"] / "config.json").write_text(json.dumps(HF_CLIP_CONFIG))
    return places


def write_bundle(folder: Path, segmenter: bool = True) -> Path:
    """Every part in a folder of its own, as the mini is bundled, in float16; returns the folder."""
    write_base(folder / "base", stylear={"size": SIZE})
    for part in ("adapter", "vqgan", "image_encoder", *(["segmenter"] if segmenter else [])):
        (folder / part).mkdir()
    half = partial(map_values, lambda value: value.half())
    save_file(half(lora_state()), folder / "adapter" / "model.safetensors")
    save_file(half(resampler_state()), folder / "adapter" / "image_proj.safetensors")
    save_file(half(vqgan_state()), folder / "vqgan" / "vqgan.safetensors")
    metadata = {"stylear": json.dumps(OPEN_CLIP_CONFIG)}
    save_file(half(open_clip_state()), folder / "image_encoder" / "open_clip.safetensors", metadata=metadata)
    if segmenter:
        save_file(half(sam_state()), folder / "segmenter" / "sam.safetensors")
    return folder


def double(file: Path) -> None:
    """Write a safetensors file anew with every weight twice as large."""
    state = load_file(file)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file({key: 2 * value for key, value in state.items()}, file, metadata)


def map_values(function, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same keys, each value through the function."""
    return {key: function(value) for key, value in state.items()}
