"""The sampling loop: a prompt's embeddings become picture codes, one after the other, in reading order."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .chameleon import Cache, Chameleon
from .checks import MAX_SETTING, SEEDS, number, whole
from .errors import BadCheckpoint, BadInput, Cancelled
from .vocabulary import LATENTS_PER_GRID, Prompt, Vocabulary

MIN_TEMPERATURE = 0.001
MAX_TOP_K = 2**31 - 1


@dataclass(frozen=True)
class SamplingSettings:
    """How the next code is chosen; the defaults are those of the released scripts.

    `cfg`: guidance scale, 0 to 1000; 1 is none and halves the work. `top_k`: how many of the likeliest codes
    may be drawn, from 1 (greedy) up; more than there are means all. `temperature`: 0.001 to 1000.
    BadInput outside.
    """

    cfg: float = 4.0
    top_k: int = 2000
    temperature: float = 1.0

    def __post_init__(self):
        likeliest = ": for the likeliest code every time set top_k to 1"
        checked = {
            "cfg": number("cfg", self.cfg, 0, MAX_SETTING),
            "top_k": whole("top_k", self.top_k, 1, MAX_TOP_K),
            "temperature": number("temperature", self.temperature, MIN_TEMPERATURE, MAX_SETTING, likeliest),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def embed_prompt(model: Chameleon, prompt: Prompt, style: Tensor) -> Tensor:
    """Embeddings [n, hidden] of a prompt, `style` [M, hidden] at its style slots; BadInput if M differs."""
    wanted = [len(prompt.style_slots), model.config.hidden_size]
    if list(style.shape) != wanted:
        raise BadInput(f"The style tokens are {list(style.shape)} and the prompt and model take {wanted}.")
    device = model.lm_head.weight.device
    embeddings = model.embed(torch.tensor(prompt.ids, device=device)).clone()
    embeddings[list(prompt.style_slots)] = style.to(embeddings)
    return embeddings


@torch.no_grad()
def sample(
    model: Chameleon,
    vocabulary: Vocabulary,
    prompt_embeddings: Tensor,
    grid: tuple[int, int],
    seeds: Sequence[int],
    settings: SamplingSettings,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    on_row: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Draw one picture for each of `seeds`; codes int64 [len(seeds), 2 * grid height, 2 * grid width].

    `prompt_embeddings`: [n, hidden], shared by all pictures. `grid`: (height, width) in grid steps of two
    latents. `progress(done, total)` counts the codes of a picture; `on_row(row, codes)` gets codes
    [len(seeds), row + 1, width] when a row of latents is complete; `cancelled()` is asked before every pass
    and ends the call with Cancelled. BadInput for a grid without tokens or longer than the model's positions,
    and for no seeds.

    Every picture draws from a CPU generator of its own seed, so neither batch nor device changes its noise.
    Unlike the released code, which lets the model begin the picture and choose its size, both are forced here
    and so are the ends of rows: their tokens are read by the model but not drawn.
    Source: inference_solver.py of the released StyleAR.
    """
    height, width = _latent_size(vocabulary, model, grid)
    if not seeds:
        raise BadInput("There is no seed: pass one for each picture.")
    images, device = len(seeds), prompt_embeddings.device
    generators = [torch.Generator().manual_seed(int(seed) % SEEDS) for seed in seeds]
    code_ids = vocabulary.code_ids.to(device)
    head = model.head(code_ids)
    new_line = model.embed(torch.tensor([vocabulary.new_line], device=device)).expand(images, 1, -1)
    codes = torch.zeros(images, height * width, dtype=torch.int64, device=device)

    _stop_if(cancelled)
    opening = model.embed(torch.tensor(vocabulary.image_opening(*grid), device=device))
    guided = settings.cfg != 1
    hidden, cache = _prefill(model, prompt_embeddings, opening, images, height * (width + 1), guided)
    for place in range(height * width):
        if place:
            _stop_if(cancelled)
            read = model.embed(code_ids[codes[:, place - 1 : place]])
            if place % width == 0:
                read = torch.cat((read, new_line), dim=1)
            hidden = model(torch.cat((read, read)) if guided else read, cache)[:, -1]
        logits = guide(model.logits(hidden, head), settings.cfg)
        if place == 0 and not torch.isfinite(logits).all():
            raise BadCheckpoint(
                "The model's logits are not finite: load it in float32 or bfloat16, or check its files."
            )
        codes[:, place] = draw(logits, settings, generators)
        if progress:
            progress(place + 1, height * width)
        row, column = divmod(place, width)
        if on_row and column == width - 1:
            on_row(row, codes.view(images, height, width)[:, : row + 1].clone())
    return codes.view(images, height, width)


def guide(logits: Tensor, cfg: float) -> Tensor:
    """Classifier-free guidance u + cfg (c - u) of [2 n, k], conditional rows first; cfg 1: [n, k] as is."""
    if cfg == 1:
        return logits
    conditional, unconditional = logits.chunk(2)
    return unconditional + cfg * (conditional - unconditional)


def keep_top(logits: Tensor, top_k: int) -> Tensor:
    """Logits [n, k] with all but the `top_k` largest at -inf; those equal to the smallest kept stay too."""
    if top_k >= logits.shape[-1]:
        return logits
    threshold = logits.topk(top_k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < threshold, -math.inf)


def draw(logits: Tensor, settings: SamplingSettings, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw a code for each row of guided logits [n, k], int64 [n]: top-k, temperature, softmax, one draw.

    argmax p / E with E exponential is a draw from p, and what torch.multinomial does; taking E from a
    generator of the picture's own makes the picture its seed's.
    """
    if settings.top_k == 1:
        return logits.argmax(dim=-1)
    noise = torch.stack([exponential(logits.shape[-1], generator) for generator in generators])
    kept = keep_top(logits, settings.top_k)
    kept = (kept - kept.amax(dim=-1, keepdim=True)) / settings.temperature
    return (kept.softmax(dim=-1) / noise.to(logits.device)).argmax(dim=-1)


def exponential(count: int, generator: torch.Generator) -> Tensor:
    """Exponential noise float32 [count], never 0."""
    noise = torch.empty(count).exponential_(generator=generator)
    return noise.clamp_min_(torch.finfo(torch.float32).tiny)


def _latent_size(vocabulary: Vocabulary, model: Chameleon, grid: tuple[int, int]) -> tuple[int, int]:
    """Height and width in latents of a picture of `grid` (height, width); BadInput if it cannot be."""
    opening = vocabulary.image_opening(*grid)
    height, width = (LATENTS_PER_GRID * side for side in grid)
    tokens, limit = len(opening) + height * (width + 1), model.config.max_position_embeddings
    if tokens > limit:
        raise BadInput(
            f"A picture of {grid[1]} x {grid[0]} grid steps takes {tokens} tokens and the model has "
            f"positions for {limit}: ask for a smaller one."
        )
    return height, width


def _prefill(
    model: Chameleon, prompt: Tensor, opening: Tensor, images: int, body: int, guided: bool
) -> tuple[Tensor, Cache]:
    """Read the prompt and the picture's opening once for all; hidden [rows, hidden] of the last place, cache.

    The first `images` rows are conditional. With guidance as many unconditional ones follow, which begin with
    the opening, at position 0 and without a prompt (released code).
    """
    cache = model.new_cache(images * (1 + guided), len(prompt) + len(opening) + body)
    starts = [torch.cat((prompt, opening)), opening][: 1 + guided]
    hidden = []
    for index, start in enumerate(starts):
        rows = range(index * images, (index + 1) * images)
        hidden.append(model(start[None], cache, rows[:1])[:, -1].expand(images, -1))
        cache.share(rows[0], rows)
    return torch.cat(hidden), cache


def _stop_if(cancelled: Callable[[], bool] | None) -> None:
    if cancelled and cancelled():
        raise Cancelled("Sampling was stopped.")
