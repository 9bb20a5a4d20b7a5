"""The model that trains: a frozen base under PEFT's LoRA and a trainable resampler; read from and written to files."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import ChameleonForConditionalGeneration

from stylear.checkpoint import load_adapter, save_weights
from stylear.lora import from_peft, lora_rank, to_peft
from stylear.resampler import Resampler

from .hf_model import answer_logits
from .loop import write_atomically
from .sequences import Batch

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj", "lm_head")  # the released LoRA's modules
RANK = 4  # the released LoRA's


class StyledModel(nn.Module):
    """A Chameleon and a resampler; of the base only the LoRA trains, of the resampler everything.

    `rank`: the LoRA's; it is not scaled (alpha = rank), as released.
    """

    def __init__(
        self,
        base: ChameleonForConditionalGeneration,
        resampler: Resampler,
        rank: int = RANK,
        targets: tuple[str, ...] = TARGETS,
    ):
        super().__init__()
        lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=_pattern(targets), bias="none")
        with warnings.catch_warnings():  # PEFT asks by the name that transformers gives up
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing. is deprecated", FutureWarning)
            self.base = get_peft_model(base, lora)
        self.resampler = resampler.requires_grad_(True)

    def forget_activations(self) -> None:
        """Have each layer's activations computed again on the way back instead of kept: less memory, more time."""
        base = self.base.base_model.model
        enable = getattr(base, "activation_checkpointing_enable", None)  # its name since transformers 5
        (enable or base.gradient_checkpointing_enable)({"use_reentrant": False})

    def forward(self, batch: Batch, features: Tensor | None, noise: Tensor | float = 0.0) -> Tensor:
        """Logits [B, n, V] at the answer's places.

        `features`: float [B, N, C] of the style pictures, or None for empty style slots. `noise`: added to the style
        tokens, float [B, 16, hidden] (paper section 3.3).
        """
        style = None if features is None else self.resampler(features) + noise
        return answer_logits(self.base.base_model.model, batch, style)

    def adapter(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The trained weights in the released layout: LoRA (`model.safetensors`) and resampler (`image_proj`)."""
        lora = from_peft(get_peft_model_state_dict(self.base, save_embedding_layers=False))
        return lora, self.resampler.state_dict()

    def load_lora(self, lora: Mapping[str, Tensor]) -> None:
        """Take over a LoRA of the released layout, of this model's rank and targets."""
        set_peft_model_state_dict(self.base, to_peft(dict(lora)))

    @classmethod
    def from_adapter(cls, base: ChameleonForConditionalGeneration, adapter: Path) -> "StyledModel":
        """The base with an adapter that is there already (any layout `load_adapter` reads), ready to train on."""
        lora, resampler = load_adapter(adapter)
        targets = tuple(name for name in TARGETS if any(f"{name}_lora." in key for key in lora))
        model = cls(base, resampler.train(), lora_rank(lora), targets)
        model.load_lora(lora)
        return model


def mixed(weights: Mapping[str, Tensor], others: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Each weight with a share of the other of its name: a point on the line from `weights` (0) to `others` (1).

    Between a model and what it became by training on, such points often keep what the first could do and have most of
    what was learned (weight averaging of a fine-tuned model, as WiSE-FT). A LoRA's two factors are mixed each by
    itself, as everything else, so the rank stays.
    """
    return {name: weight.lerp(others[name].to(weight), share) for name, weight in weights.items()}


def _pattern(targets: tuple[str, ...]) -> str:
    return rf"(.*\.)?({'|'.join(targets)})"


def write_adapter(
    folder: Path,
    lora: Mapping[str, Tensor],
    resampler: Mapping[str, Tensor],
    metadata: Mapping[str, object],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write `folder`/{model.safetensors, image_proj.safetensors}, the released two files, as LoadStyleAR takes them.

    `metadata` (base, rank, noise, data hash, command, ...) goes into both headers as JSON under `stylear`.
    """
    header = {"format": "pt", "stylear": json.dumps(dict(metadata))}
    for name, weights in (("model", lora), ("image_proj", resampler)):
        plain = {key: value.detach().to("cpu", dtype).contiguous() for key, value in weights.items()}
        write_atomically(folder / f"{name}.safetensors", lambda path, plain=plain: save_weights(plain, path, header))
