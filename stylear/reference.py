"""The released sampler, plain and slow: what the fast one is measured and tested against."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict

import torch
from torch import Tensor, nn

from .chameleon_config import ChameleonConfig
from .drawing import SamplingSettings, guide, keep_top
from .lora import pairs
from .vocabulary import LATENTS_PER_GRID, Vocabulary


def reference_model(
    config: ChameleonConfig, weights: Mapping[str, Tensor], lora: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """transformers' Chameleon in float32 on the weights' device, with a LoRA (released layout) beside its weights."""
    from transformers import ChameleonConfig as TheirConfig
    from transformers import ChameleonForConditionalGeneration as TheirChameleon

    unused = {"base_channels": 32, "embed_dim": 4, "latent_channels": 4, "num_embeddings": 4, "num_res_blocks": 1}
    picture = {**unused, "channel_multiplier": [1]}
    theirs = TheirConfig(**asdict(config), vocabulary_map={"<image>": 1}, vq_config=picture)
    with torch.device("meta"):
        model = TheirChameleon(theirs).eval().requires_grad_(False)
    model.model.vqmodel = nn.Identity()
    fill_rotary(model, config.rope_theta)
    for name, (a, b) in pairs(lora).items() if lora else ():
        parent, _, child = name.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, child, _Beside(getattr(owner, child), a, b))
    kept = {key: value.float().contiguous() for key, value in weights.items()}
    model.load_state_dict(_renamed(kept, model), assign=True)
    return model.to(next(iter(kept.values())).device)


def fill_rotary(model: nn.Module, theta: float) -> None:
    """Compute the rotary frequencies of transformers' model, made under the meta device: no checkpoint has them.

    The one buffer of a decoder, or of each attention, by transformers' version.
    """
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name.endswith("inv_freq"):
                powers = torch.arange(0, 2 * len(buffer), 2).float() / (2 * len(buffer))
                setattr(module, name, 1.0 / theta**powers)


@torch.no_grad()
def reference_codes(
    model: nn.Module,
    vocabulary: Vocabulary,
    prompt_embeddings: Tensor,
    grid: tuple[int, int],
    seed: int,
    settings: SamplingSettings,
    passes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Codes int64 [h, w] of one picture as the released code draws it, with two caches and two passes a token.

    Every new line takes its two passes, and every choice is made among the whole vocabulary. The size is forced, and
    noise comes from a CPU generator of `seed`, as in `sample`, so that both draw the same picture. `passes`: how many
    tokens to stop after, for timing; the codes behind are 0. Source: inference_solver.py of the released StyleAR.
    """
    from transformers import DynamicCache

    device = prompt_embeddings.device
    height, width = (LATENTS_PER_GRID * side for side in grid)
    generator, embed = torch.Generator().manual_seed(seed), model.get_input_embeddings()
    opening = embed(torch.tensor(vocabulary.image_opening(*grid), device=device))
    read = [torch.cat((prompt_embeddings.float(), opening)), opening][: 1 + (settings.cfg != 1)]
    caches, weights = [DynamicCache() for _ in read], (settings.cfg, 1 - settings.cfg)[: len(read)]
    code_ids = vocabulary.code_ids.to(device)
    barred = torch.ones(model.lm_head(opening[:1]).shape[-1], dtype=torch.bool, device=device)
    barred[code_ids] = False
    codes = torch.zeros(height * width, dtype=torch.int64)
    tokens = height * (width + 1) - 1
    for token in range(min(tokens, passes or tokens)):
        rows = []
        for embeddings, cache in zip(read, caches, strict=True):
            hidden = model.model(inputs_embeds=embeddings[None], past_key_values=cache, use_cache=True)
            rows.append(model.lm_head(hidden.last_hidden_state[0, -1:]))
        row, column = divmod(token, width + 1)
        drawn = vocabulary.new_line
        if column < width:
            logits = guide(torch.cat(rows), weights).masked_fill(barred, -math.inf)
            law = (keep_top(logits, settings.top_k) / settings.temperature).softmax(-1)[0, code_ids].cpu()
            code = int(law.argmax() if settings.top_k == 1 else torch.multinomial(law, 1, generator=generator))
            codes[row * width + column] = code
            drawn = int(code_ids[code])
        read = [embed(torch.tensor([drawn], device=device))] * len(read)
        if progress:
            progress(token + 1, tokens)
    return codes.view(height, width)


class _Beside(nn.Module):
    """A linear layer with its LoRA computed beside it, as training leaves it."""

    def __init__(self, linear: nn.Linear, a: Tensor, b: Tensor):
        super().__init__()
        self.linear = linear
        self.register_buffer("a", a.float(), persistent=False)
        self.register_buffer("b", b.float(), persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden) + hidden @ self.a @ self.b


def _renamed(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Keys of layers that have a LoRA beside them, as these modules call them."""
    wrapped = [name for name, module in model.named_modules() if isinstance(module, _Beside)]
    names = {f"{name}.weight": f"{name}.linear.weight" for name in wrapped}
    return {names.get(key, key): value for key, value in weights.items()}
