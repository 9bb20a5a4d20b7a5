"""StyleAR's own stage: a frozen base learns, through LoRA and resampler, to follow a picture's style tokens."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import ChameleonForConditionalGeneration

from stylear.encoder import ImageEncoder
from stylear.lora import from_peft
from stylear.resampler import Resampler, ResamplerConfig
from stylear.vocabulary import STYLE_TOKENS, Vocabulary

from .hf_model import answer_logits, load_base
from .loop import Schedule, can_compile, fit, write_atomically
from .pretrain.base import DEPTH, STYLED, CaptionedCodes
from .pretrain.clip import load_encoder, normalised
from .sequences import Batch, answer_loss

TARGETS = r".*\.(q_proj|k_proj|v_proj|o_proj|down_proj)|lm_head"  # the released LoRA's modules


@dataclass(frozen=True)
class AdapterSettings:
    """The recipe. `noise` is gamma, the Gaussian noise on the style tokens (paper section 3.3); rank is unscaled."""

    rank: int = 16
    noise: float = 0.1
    context_drop: float = 0.1
    depth_every: int = 8
    z_loss: float = 1e-5
    resampler_width: int = 192
    resampler_depth: int = 2
    resampler_heads: int = 3
    schedule: Schedule = field(default_factory=lambda: Schedule(steps=1200, batch=32, learning_rate=2e-3, warmup=50))


class StyledModel(nn.Module):
    """The frozen base under PEFT, the trainable resampler and the frozen image encoder."""

    def __init__(self, base: ChameleonForConditionalGeneration, encoder: ImageEncoder, settings: AdapterSettings):
        super().__init__()
        lora = LoraConfig(r=settings.rank, lora_alpha=settings.rank, target_modules=TARGETS, bias="none")
        self.base = get_peft_model(base, lora)
        self.encoder = encoder
        hidden = base.config.hidden_size
        self.resampler = Resampler(
            ResamplerConfig(
                encoder.config.width,
                settings.resampler_width,
                settings.resampler_depth,
                settings.resampler_heads,
                STYLE_TOKENS,
                hidden,
            )
        )

    def forward(self, batch: Batch, pictures: Tensor, noise: Tensor) -> Tensor:
        """Logits [B, n, V]: `pictures`, float [B, 3, S, S] as the encoder takes them, are the style references."""
        with torch.no_grad():
            features = self.encoder(pictures)
        style = self.resampler(features) + noise
        return answer_logits(self.base.base_model.model, batch, style)


def train_adapter(
    data: Path, codes: Path, base: Path, clip: Path, out: Path, settings: AdapterSettings | None = None
) -> None:
    """Train with each target as its own reference; write `out`/model.safetensors (LoRA) and image_proj.safetensors.

    `base`: folder of the frozen base; `clip`: the image encoder's file. Resumes from `out`/state.pt.
    """
    s = settings or AdapterSettings()
    torch.manual_seed(s.schedule.seed)
    vocabulary = Vocabulary.from_file(base / "tokenizer.json")
    source = CaptionedCodes(data, codes, vocabulary)
    model = StyledModel(load_base(base)[0], load_encoder(clip), s)
    hidden = model.resampler.config.output

    def objective(
        ids: Tensor, answer: Tensor, labels: Tensor, slots: Tensor, pictures: Tensor, noise: Tensor
    ) -> Tensor:
        batch = Batch(ids, answer, labels, slots)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch, pictures, noise)
        return answer_loss(logits, batch.labels, s.z_loss)

    if can_compile():
        objective = torch.compile(objective, dynamic=False)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([s.schedule.seed, 7, step])
        kind = DEPTH if s.depth_every and step % s.depth_every == s.depth_every - 1 else STYLED
        count = s.schedule.batch // (2 if kind == DEPTH else 1)
        batch, indices = source.batch(kind, count, s.context_drop, rng)
        pictures = normalised(np.stack([source.pictures.pictures[i] for i in indices]))
        noise = s.noise * torch.randn(count, STYLE_TOKENS, hidden)
        return objective(batch.ids, batch.answer, batch.labels, batch.style_slots, pictures, noise), {}

    fit("adapter", model, model.parameters(), loss_of, s.schedule, out)
    trained = get_peft_model_state_dict(model.base, save_embedding_layers=False)
    lora = {k: v.half().contiguous() for k, v in from_peft(trained).items()}
    write_atomically(out / "model.safetensors", lambda path: save_file(lora, path))
    resampler = {k: v.half().contiguous() for k, v in model.resampler.state_dict().items()}
    write_atomically(out / "image_proj.safetensors", lambda path: save_file(resampler, path))
