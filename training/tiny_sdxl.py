"""Writes a tiny random Stable Diffusion XL and IP-Adapter, file for file as the real ones lie on disk."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from .instantstyle import quiet

WIDTH = 16  # of each text encoder, of the image encoder and of the UNet's second block
CONTEXT = 2 * WIDTH  # what the UNet attends to: both text encoders side by side
STYLE_TOKENS = 4  # ip-adapter_sdxl makes four of a picture
START, END = "<|startoftext|>", "<|endoftext|>"


def write_tiny_sdxl(folder: Path, seed: int = 0) -> None:
    """Write `folder`/sdxl (diffusers' layout) and `folder`/ip_adapter (h94/IP-Adapter's), 7 MB of random weights.

    The UNet has the blocks of the released SDXL, narrow, so the IP-Adapter has the 140 key and value matrices of
    the released ip-adapter_sdxl under the same names. The same seed gives the same weights; the global generator
    stays as it was. Each of the two folders appears whole; one that is there is replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / ".tiny_sdxl"
    shutil.rmtree(draft, ignore_errors=True)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        layers = _write_sdxl(draft / "sdxl")
        _write_ip_adapter(draft / "ip_adapter" / "sdxl_models", layers)
    for name in ("sdxl", "ip_adapter"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (draft / name).replace(folder / name)
    draft.rmdir()


def _write_sdxl(folder: Path) -> dict[str, int]:
    """Write every part of the pipeline; returns the width of each attention of the UNet by the adapter's number."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(WIDTH // 2, WIDTH, 2 * WIDTH),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(1, 2, 4),  # diffusers' name for the number of heads
        norm_num_groups=8,
        cross_attention_dim=CONTEXT,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,  # six sizes, and the second encoder's whole-text vector
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.13025,
        sample_size=64,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )
    vocabulary = _vocabulary()
    text = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=vocabulary[START],
        eos_token_id=vocabulary[END],
    )
    parts = {
        "text_encoder": CLIPTextModel(text),
        "text_encoder_2": CLIPTextModelWithProjection(text),
        "unet": unet,
        "vae": vae,
        "scheduler": scheduler,
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    _write_tokenizer(folder / "tokenizer", vocabulary, END)
    _write_tokenizer(folder / "tokenizer_2", vocabulary, "!")
    index = {name: (type(part).__module__.partition(".")[0], type(part).__name__) for name, part in parts.items()}
    index |= dict.fromkeys(("tokenizer", "tokenizer_2"), ("transformers", "CLIPTokenizer"))
    kind = {"_class_name": StableDiffusionXLPipeline.__name__, "force_zeros_for_empty_prompt": True}
    _write_json(folder / "model_index.json", kind | index)
    return {
        number: unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        for number, name in enumerate(unet.attn_processors)
        if ".attn2." in name
    }


def _write_ip_adapter(folder: Path, layers: dict[int, int]) -> None:
    """The released layout: weights by the number of their layer among all of the UNet's, and the image encoder."""
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    weights: dict[str, Tensor] = {
        "image_proj.proj.weight": torch.randn(STYLE_TOKENS * CONTEXT, WIDTH),
        "image_proj.proj.bias": torch.zeros(STYLE_TOKENS * CONTEXT),
        "image_proj.norm.weight": torch.ones(CONTEXT),
        "image_proj.norm.bias": torch.zeros(CONTEXT),
    }
    for number, width in layers.items():
        for half in "kv":
            weights[f"ip_adapter.{number}.to_{half}_ip.weight"] = torch.randn(width, CONTEXT)
    halves = {key: value.half() for key, value in weights.items()}  # as released
    save_file(halves, folder / "ip-adapter_sdxl.safetensors")


def _vocabulary() -> dict[str, int]:
    """CLIP's vocabulary without its merges: each byte, alone and as the end of a word, then start and end."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    names = [*characters, *(f"{character}</w>" for character in characters), START, END]
    return {name: i for i, name in enumerate(names)}


def _write_tokenizer(folder: Path, vocabulary: dict[str, int], padding: str) -> None:
    folder.mkdir()
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": padding}
    _write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    _write_json(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    _write_json(folder / "tokenizer_config.json", config | special)


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
