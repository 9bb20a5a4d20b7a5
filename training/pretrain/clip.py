"""Trains the mini's image encoder: an open_clip model on captions that name content and style."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file
from torch import Tensor

from stylear.vocabulary import Vocabulary

from ..data.captions import caption, styled_caption
from ..data.pictures import SIZE, PictureSet
from ..loop import Schedule, can_compile, fit, training_device, write_atomically
from .text import mini_tokenizer

CONTEXT = 24


@dataclass(frozen=True)
class CLIPSettings:
    """`styled` is the share of captions that name the style.

    Every second batch is of one style alone: else pictures are told apart by it, and what they show is hardly read.
    """

    styled: float = 0.7
    schedule: Schedule = field(
        default_factory=lambda: Schedule(
            steps=1500, batch=128, learning_rate=2e-3, warmup=50, weight_decay=0.05, muon=True
        )
    )


def mini_config(vocabulary: Vocabulary) -> dict:
    """The open_clip model configuration of the mini's encoder."""
    return {
        "embed_dim": 64,
        "vision_cfg": {"image_size": SIZE, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
        "text_cfg": {
            "context_length": CONTEXT, "vocab_size": vocabulary.size, "width": 128, "heads": 4, "layers": 3,
            "pool_type": "eos", "eos_id": vocabulary.end_of_turn,
        },
    }  # fmt: skip


def build_clip(config: dict) -> CLIP:
    """An open_clip model of a configuration, weights random."""
    vision, text = CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])
    return CLIP(config["embed_dim"], vision, text, output_dict=True)


def normalised(pictures: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] to CLIP's float [B, 3, H, W]."""
    pixels = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return (pixels - mean) / std


def text_ids(texts: list[str], vocabulary: Vocabulary) -> Tensor:
    """Captions as int64 [B, context]: start, text, end, padding."""
    ids = torch.ones(len(texts), CONTEXT, dtype=torch.int64)
    for row, text in zip(ids, texts, strict=True):
        line = [vocabulary.bos, *vocabulary.encode(text)[: CONTEXT - 2], vocabulary.end_of_turn]
        row[: len(line)] = torch.tensor(line)
    return ids


def moved(pixels: Tensor) -> Tensor:
    """Each picture flipped or not and shifted by up to four pixels."""
    padded = F.pad(pixels, (4, 4, 4, 4), mode="replicate")
    y, x = torch.randint(9, (2,)).tolist()
    pixels = padded[:, :, y : y + SIZE, x : x + SIZE]
    return torch.where(torch.rand(len(pixels), 1, 1, 1) < 0.5, pixels.flip(3), pixels)


def train_clip(data: Path, out: Path, settings: CLIPSettings | None = None, device: torch.device | None = None) -> None:
    """Train on the picture set in `data` and write `out`/open_clip.safetensors; resumes from `out`/state.pt."""
    settings, device = settings or CLIPSettings(), device or training_device()
    torch.manual_seed(settings.schedule.seed)
    pictures = PictureSet(data)
    train, test = pictures.where("train"), pictures.where("pair")[::10]
    vocabulary = Vocabulary(mini_tokenizer())
    config = mini_config(vocabulary)
    model = build_clip(config).to(device)
    features = torch.compile(model.forward) if can_compile(device) else model.forward

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([settings.schedule.seed, step])
        among = train
        if step % 2:
            among = train[pictures.style[train] == rng.choice(pictures.style[train])]
        chosen = np.sort(rng.choice(among, settings.schedule.batch, replace=len(among) < settings.schedule.batch))
        texts = []
        for i in chosen:
            noun, style = pictures.concepts[pictures.concept[i]], pictures.styles[pictures.style[i]]
            texts.append(styled_caption(noun, style, rng) if rng.random() < settings.styled else caption(noun, rng))
        images, captions = moved(normalised(pictures.pictures[chosen])), text_ids(texts, vocabulary)
        with torch.autocast(device.type, torch.bfloat16):
            made = features(images.to(device), captions.to(device))
        logits = (
            made["logit_scale"].float().clamp(max=100)
            * made["image_features"].float()
            @ made["text_features"].float().T
        )
        same = torch.arange(len(logits), device=device)
        accuracy = (logits.argmax(1) == same).float().mean().item()
        return (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2, {"match": accuracy}

    def evaluate(step: int) -> dict[str, float]:
        rng = np.random.default_rng(0)
        with torch.no_grad():
            image = model.encode_image(normalised(pictures.pictures[test]).to(device), normalize=True)
            nouns, styles = (
                model.encode_text(text_ids(texts, vocabulary).to(device), normalize=True)
                for texts in (
                    [f"a {noun}" for noun in pictures.taught],
                    [styled_caption("picture", style, rng) for style in pictures.styles],
                )
            )
        right = (image @ nouns.T).argmax(1).cpu().numpy() == pictures.concept[test]
        right_style = (image @ styles.T).argmax(1).cpu().numpy() == pictures.style[test]
        return {"content": right.mean(), "style": right_style.mean()}

    fit("clip", model, model.parameters(), loss_of, settings.schedule, out, evaluate)
    product = {k: v.half().contiguous() for k, v in model.state_dict().items() if k != "attn_mask"}
    metadata = {"stylear": json.dumps({"model_cfg": config})}
    write_atomically(out / "open_clip.safetensors", lambda path: save_file(product, path, metadata))
