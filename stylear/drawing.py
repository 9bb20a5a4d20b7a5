"""The law of the next code, and the draw from it with noise that belongs to the code's place in its picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import MAX_SETTING, SEEDS, number, whole

MIN_TEMPERATURE = 0.001
MAX_TOP_K = 2**31 - 1
_WIDE = 512  # hidden states, above which sums in float32 are off by more
_TIE = 2.0**-16  # of the largest logit: what float32 sums may differ by when as many tokens are read at once or fewer


@dataclass(frozen=True)
class SamplingSettings:
    """How the next code is chosen; the defaults are those of the released scripts.

    `cfg`: guidance scale, 0 to 1000; 1 is none and halves the work. `top_k`: how many of the likeliest codes
    may be drawn, from 1 (greedy) up; more than there are means all. `temperature`: 0.001 to 1000. `style_cfg`: the
    style's own guidance scale, 0 to 1000; None, as released, is the same as cfg. BadInput outside.
    """

    cfg: float = 4.0
    top_k: int = 2000
    temperature: float = 1.0
    style_cfg: float | None = None

    def __post_init__(self):
        likeliest = ": for the likeliest code every time set top_k to 1"
        checked = {
            "cfg": number("cfg", self.cfg, 0, MAX_SETTING),
            "top_k": whole("top_k", self.top_k, 1, MAX_TOP_K),
            "temperature": number("temperature", self.temperature, MIN_TEMPERATURE, MAX_SETTING, likeliest),
        }
        if self.style_cfg is not None:
            checked["style_cfg"] = number("style_cfg", self.style_cfg, 0, MAX_SETTING)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def weights(self, negative: bool = False) -> dict[str, float]:
        """How much each reading of a picture counts in the guided logits; one that does not count is left out.

        guided = nothing + cfg (plain - nothing) + style_cfg (styled - plain), where `nothing` reads the picture
        alone, `plain` behind the prompt with an empty style and `styled` behind the prompt with the style. With a
        `negative` style the last bracket is (styled - negative): away from the same prompt in that style, so a negative
        that is the style itself leaves none of it, and one that is empty changes nothing. With one scale for both and
        no negative, plain cancels: the released nothing + cfg (styled - nothing). The weights add up to 1.
        """
        style_cfg = self.cfg if self.style_cfg is None else self.style_cfg
        weights = {
            "styled": style_cfg,
            "plain": self.cfg if negative else self.cfg - style_cfg,
            "negative": -style_cfg if negative else 0.0,
            "nothing": 1 - self.cfg,
        }
        return {name: weight for name, weight in weights.items() if weight}


class Noise:
    """Each picture's own noise for each of its codes, of which only the last `room` places are kept.

    A code is argmax(logits / T - log E) with E exponential, which is a draw from softmax(logits / T), or times T:
    argmax(logits + noise). Every E comes from a CPU generator of the picture's seed, place after place, so a
    place's noise is the same in any batch, on any device and however often the place is looked at.
    """

    def __init__(self, seeds: list[int], codes: int, temperature: float, room: int, device: torch.device):
        self._generators = [torch.Generator().manual_seed(int(seed) % SEEDS) for seed in seeds]
        self._drawn = [0] * len(seeds)
        self._temperature, self._room = temperature, room
        self._kept = torch.zeros(len(seeds), room, codes, device=device)

    def reach(self, picture: int, end: int) -> None:
        """Draw the noise of a picture's places up to `end`, at most `room` new ones."""
        places = range(self._drawn[picture], end)
        if places:
            codes, generator = self._kept.shape[2], self._generators[picture]
            drawn = torch.stack([exponential(codes, generator) for _ in places])
            noise, begin = drawn.log_().mul_(-self._temperature), places.start % self._room
            over = max(0, begin + len(places) - self._room)
            self._kept[picture, begin : begin + len(places)] = noise[: len(places) - over]
            self._kept[picture, :over] = noise[len(places) - over :]
            self._drawn[picture] = end

    def at(self, picture: int, first: int, count: int) -> Tensor:
        """Noise float32 [count, codes] of a picture's places from `first` on, among its last `room` drawn."""
        kept, begin = self._kept[picture], first % self._room
        if begin + count <= self._room:
            return kept[begin : begin + count]
        return torch.cat((kept[begin:], kept[: begin + count - self._room]))


def exponential(count: int, generator: torch.Generator) -> Tensor:
    """Exponential noise float32 [count], never 0."""
    noise = torch.empty(count).exponential_(generator=generator)
    return noise.clamp_min_(torch.finfo(torch.float32).tiny)


def guide(logits: Tensor, weights: Sequence[float]) -> Tensor:
    """Classifier-free guidance: the weighted sum [n, ...] of as many readings [n, ...] one behind the other.

    The weights add up to 1, see `SamplingSettings.weights`; (cfg, 1 - cfg) is the released u + cfg (c - u).
    """
    if len(weights) == 1:
        return logits
    readings = logits.chunk(len(weights))
    if len(weights) == 2:
        return torch.lerp(readings[1], readings[0], weights[0])
    return sum(weight * reading for weight, reading in zip(weights, readings, strict=True))


def keep_top(logits: Tensor, top_k: int) -> Tensor:
    """Logits [..., k] with all but the `top_k` largest at -inf; those equal to the smallest kept stay too."""
    if top_k >= logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < _largest(logits, top_k).amin(dim=-1, keepdim=True), -math.inf)


def draw(logits: Tensor, noise: Tensor | None, top_k: int) -> Tensor:
    """The codes int64 [...] of guided logits [..., k] with `noise` of that shape, or None for the likeliest."""
    kept = keep_top(logits, top_k)
    return (kept if noise is None else kept + noise).argmax(dim=-1)


def draw_surely(logits: Tensor, noise: Tensor | None, top_k: int, margin: Tensor) -> tuple[Tensor, Tensor]:
    """As `draw`, with a bool [...] for codes that logits at most `margin` off could change.

    Of codes that may or may not be among the `top_k`, as the last and the first left out may where they are close, all
    stand to be drawn, and one that is drawn is in doubt.
    """
    kept, close = logits, 2 * margin
    if 1 < top_k < logits.shape[-1]:
        left_out, least = _largest(logits, top_k + 1).topk(2, dim=-1, largest=False).values.split(1, dim=-1)
        kept = logits.masked_fill(logits < least - close, -math.inf)
    scores = kept if noise is None else kept + noise
    best, codes = scores.max(dim=-1, keepdim=True)
    second = scores.scatter(-1, codes, -math.inf).amax(dim=-1, keepdim=True)
    doubt = second > best - close
    if kept is not logits:
        doubt |= logits.gather(-1, codes) <= left_out + close
    return codes[..., 0], doubt[..., 0]


def margin(logits: Tensor, weights: Sequence[float], width: int = _WIDE) -> Tensor:
    """How far guided logits may be off for the sums of float32, from the unguided ones; a scalar tensor.

    width: hidden states of the decoder.
    """
    return logits.abs().amax() * (_TIE * max(1.0, width / _WIDE) * sum(map(abs, weights)))


def _largest(logits: Tensor, count: int) -> Tensor:
    """The `count` largest of logits [..., k], in no order: [..., count]."""
    return logits.topk(count, dim=-1, sorted=False).values
