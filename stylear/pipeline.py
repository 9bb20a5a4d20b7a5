"""StyleAR in one object: reference picture to style tokens, prompt and style tokens to pictures."""

import math
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from .chameleon import Chameleon
from .checkpoint import (
    Place,
    find,
    holds,
    is_merged,
    load_adapter,
    load_base,
    load_image_encoder,
    load_segmenter,
    load_vqgan,
    trained_size,
    trained_words,
)
from .checks import SEEDS, whole
from .condition import condition_pixels
from .drawing import SamplingSettings
from .encoder import ImageEncoder
from .errors import BadCheckpoint, BadInput
from .files import to_path
from .images import Picture, is_plain
from .memory import free_bytes, gib, out_of_memory
from .pace import Pace, Windows
from .preview import Growing
from .quantize import quantize as reduce
from .reader import StyleReader
from .resampler import Resampler
from .sampling import codes_in, embed_prompt, sample
from .segment import Segmenter, can_segment
from .style import StyleTokens, check_style
from .vocabulary import LATENTS_PER_GRID, Vocabulary
from .vqgan import VQGAN
from .words import untaught

MINI = Path(__file__).parent / "mini"
MINI_REMEDY = "the mini that comes with StyleAR is incomplete: install StyleAR again"
RELEASED_STEPS = 24  # grid steps of a side at which the released models were trained: 768 px
MAX_BATCH = 256
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class StyleAR(StyleReader):
    """A whole model; a part works where its weights are, so each may be moved between calls.

    Attributes: `base` (Chameleon, LoRA folded in), `vocabulary`, `resampler`, `vqgan`, `image_encoder`,
    `segmenter` (or None), `size` (the side in pixels it was trained at), `grid` (pixels that a side is a
    multiple of), `words` (that it was taught and is bound to; empty for a model that is not).
    """

    def __init__(
        self,
        base: Chameleon,
        vocabulary: Vocabulary,
        resampler: Resampler,
        vqgan: VQGAN,
        image_encoder: ImageEncoder,
        segmenter: Segmenter | None = None,
        size: int | None = None,
        words: Sequence[str] = (),
    ):
        """Tie parts together; BadCheckpoint with both numbers if they do not fit. Most want `load`."""
        self.base, self.vocabulary, self.resampler = base, vocabulary, resampler
        self.vqgan, self.image_encoder, self.segmenter = vqgan, image_encoder, segmenter
        self.pace, self.quantized, self.words = Pace(), None, tuple(words)
        self.grid = LATENTS_PER_GRID * vqgan.downsampling
        self.size = size or self.grid * min(RELEASED_STEPS, vocabulary.max_grid)
        largest = self.grid * vocabulary.max_grid
        if not self.grid <= self.size <= largest:
            raise BadCheckpoint(
                f"The base says it draws {self.size} pixels and has tokens for {self.grid} to {largest}: "
                "use the config.json that belongs to the weights."
            )
        made, read = resampler.config.output, resampler.config.features
        _agree("the adapter makes tokens of width", made, "the base reads", base.config.hidden_size)
        _agree("the adapter reads features of width", read, "the encoder makes", image_encoder.config.width)
        _agree("the VQGAN has as codes", vqgan.config.codes, "the tokenizer", len(vocabulary.code_ids))
        if vocabulary.size > base.config.vocab_size:
            _agree("the tokenizer has as tokens", vocabulary.size, "the base", base.config.vocab_size)

    @classmethod
    @torch.inference_mode(False)  # so that PyTorch tells when a weight is written to, wherever this is called
    def load(
        cls,
        base: str | PathLike,
        adapter: str | PathLike | None = None,
        vqgan: str | PathLike | None = None,
        image_encoder: str | PathLike | None = None,
        segmenter: str | PathLike | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        quantize: str | None = None,
        compile: bool = False,
    ) -> "StyleAR":
        """Load a model: "mini" for the bundled one, or a folder or file for each part.

        A file is known by what is in it. A part that is not given is looked for in the folder `base` and
        those directly below it; only the segmenter may be absent, and is left out if segment_anything is not
        installed. `dtype` of the base: float32, bfloat16 or float16 (torch's, or the name), by default bfloat16 on
        CUDA and float32 elsewhere; the smaller parts stay float32, as released. `device`: by default CUDA, then MPS,
        then the CPU. `quantize`: "int8" or "int4" keeps the base's matrices in so many bits, for less memory.
        `compile`: let torch.compile rewrite the base's passes, which takes a compiler and minutes; without one they
        stay as they are and a warning says so.
        Raises MissingPart with the part, where it was looked for and how to get it, or BadCheckpoint.
        """
        given = {"adapter": adapter, "vqgan": vqgan, "image_encoder": image_encoder, "segmenter": segmenter}
        _check_paths(base=base, **{name: place for name, place in given.items() if place is not None})
        base = Place(MINI, MINI_REMEDY) if base == "mini" else Place(Path(base))
        device = to_device(device)
        dtype = to_dtype(dtype, device)
        size, words = trained_size(base), trained_words(base)
        beside = base.folder
        adapter, vqgan, image_encoder = (Place.of(one or beside) for one in (adapter, vqgan, image_encoder))
        found = beside if not segmenter and holds("segmenter", beside) else None
        segmenter = segmenter or (found if can_segment() else None)
        lora, resampler = load_adapter(adapter, is_merged(base))
        decoder, vocabulary = load_base(base, dtype, lora, tokenizer_place=find("vqgan", vqgan).path)
        parts = [decoder, resampler, load_vqgan(vqgan), load_image_encoder(image_encoder)]
        if segmenter:
            parts.append(load_segmenter(segmenter))
        if quantize is not None:
            reduce(decoder, quantize)
        decoder, resampler, *others = (part.to(device) for part in parts)
        decoder.lay_out()
        if compile:
            decoder.compile_passes()
        model = cls(decoder, vocabulary, resampler, *others, size=size, words=words)
        model.quantized, model.segmenter_left = quantize, bool(found and not segmenter)
        return model

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules by name: base, resampler, vqgan, image_encoder and, if there is one, segmenter."""
        names = ("base", "resampler", "vqgan", "image_encoder", "segmenter")
        return {name: module for name in names if (module := getattr(self, name)) is not None}

    def info(self) -> dict:
        """What is loaded: sizes in pixels and, for each part, its parameters, dtype and device."""
        return {
            "size": self.size,
            "grid": self.grid,
            "largest": self.grid * self.vocabulary.max_grid,
            "quantize": self.quantized,
            "style_tokens": [self.resampler.config.tokens, self.resampler.config.output],
            "parts": {
                name: {
                    "parameters": sum(weight.numel() for weight in module.parameters()),
                    "dtype": str(next(module.parameters()).dtype).removeprefix("torch."),
                    "device": str(next(module.parameters()).device),
                }
                for name, module in self.parts.items()
            },
        }

    def untaught(self, prompt: str) -> str | None:
        """What to say of a prompt without any of the words that this model was taught; None if it can draw it."""
        return untaught(prompt, self.words)

    @torch.no_grad()
    def encode_condition(self, image: Picture, kind: str = "depth") -> Tensor:
        """A map as codes for `generate`, int64 [h, w], cropped to the best shape.

        kind: one of `condition.KINDS`. The prompt does not say which it is, so the picture follows a map of the kind
        that the adapter was trained with: depth, near = white, for the released one and the mini. Raises BadInput.
        """
        pixels = condition_pixels(image, self.size, self.grid, kind)
        return self.vqgan.encode(pixels.to(_place(self.vqgan)))[0].cpu()

    @torch.no_grad()
    def generate(
        self,
        prompt: str,
        style: StyleTokens,
        condition: Tensor | None = None,
        width: int | None = None,
        height: int | None = None,
        seed: int = 0,
        batch_size: int = 1,
        cfg: float = 4.0,
        top_k: int = 2000,
        temperature: float = 1.0,
        window: int | str = "auto",
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        preview: Callable[[Tensor], None] | None = None,
        previews: int = MAX_BATCH,
        style_cfg: float | None = None,
        style_strength: float = 1.0,
        negative: StyleTokens | None = None,
    ) -> Tensor:
        """Pictures of `prompt` in `style`: float32 [batch_size, H, W, 3] in 0..1, on the CPU.

        width, height: pixels, see `picture_size`.
        Picture k is drawn from seed + k and is the same in any batch. cfg: guidance, 1 is none; style_cfg: the
        style's own, by default cfg; top_k: 1 is greedy; see `SamplingSettings`. `condition`: from `encode_condition`.
        window: how many codes a pass draws, 1 to all of a picture's, or "auto" for what is fastest here; in float32
        it never changes the picture. style_strength: see `strengthen`. negative: a style to push away from, see
        `SamplingSettings.weights`.
        `progress(done, total)` begins with none done, before "auto" times a few passes at first use;
        `cancelled()` -> bool ends the call with Cancelled; `preview(pictures)` gets float32 [B, H, W, 3]
        after each row of codes, grey where nothing is yet, of the batch's first `previews` pictures; the last one
        is the result, those before show nearly what it will be (see `preview`).
        Raises BadInput for a value out of its range and for a prompt that is too long.
        """
        settings = SamplingSettings(cfg, top_k, temperature, style_cfg)
        readings = settings.weights(negative is not None)
        check_style(style)
        if negative is not None:
            check_style(negative, "negative")
        if not isinstance(prompt, str):
            raise BadInput(f"The prompt is a {type(prompt).__name__}. Pass a string, which may be empty.")
        across, down = (side // self.grid for side in self.picture_size(width, height))
        grid = down, across
        first = whole("seed", seed, 0, SEEDS - 1)
        previews = whole("previews", previews, 1, MAX_BATCH)
        seeds = range(first, first + whole("batch_size", batch_size, 1, MAX_BATCH))
        template = self.vocabulary.prompt(
            prompt,
            condition,
            style_tokens=self.resampler.config.tokens,
            max_length=self._room(grid, condition),
        )

        def styled(tokens: Tensor) -> Tensor:
            return embed_prompt(self.base, template, tokens)

        start = styled(self.strengthen(style, style_strength).tokens)
        plain = styled(self.empty_style()) if "plain" in readings else None
        away = None if negative is None else styled(negative.tokens)

        def codes_of(seeds: Sequence[int]) -> Tensor:
            rows, growing = LATENTS_PER_GRID * grid[0], Growing(self._draw, LATENTS_PER_GRID * grid[0])

            def show(row: int, codes: Tensor) -> None:
                if row + 1 < rows:
                    preview(growing.grow(codes[:previews]))

            if progress:
                progress(0, codes_in(grid))
            windows = self._windows(window, grid, len(seeds) * len(readings), cancelled)
            on_row = show if preview else None
            asked = (self.base, self.vocabulary, start, grid, seeds, settings, progress, cancelled, on_row, windows)
            return sample(*asked, plain, away)

        pictures = self._draw(self._in_memory(codes_of, seeds))
        if preview:
            preview(pictures[:previews])
        return pictures

    def _windows(
        self, window: int | str, grid: tuple[int, int], rows: int, cancelled: Callable[[], bool] | None
    ) -> int | Windows:
        """What `sample` takes for a window that may be "auto"; costs are measured where none are known."""
        if isinstance(window, str) and window != "auto":
            raise BadInput(f'window is {window!r}. Use a whole number or "auto".')
        if window != "auto":
            return window
        return self.pace.windows(self.base, len(self.vocabulary.code_ids), rows, codes_in(grid), cancelled)

    def _in_memory(self, codes_of: Callable[[Sequence[int]], Tensor], seeds: Sequence[int]) -> Tensor:
        """Codes of all seeds at once or, if memory runs out, of one half and then the other; BadInput if it still does.

        The pictures are the same, for none depends on the others of its batch.
        """
        for parts in ([seeds], [seeds[: len(seeds) // 2], seeds[len(seeds) // 2 :]]):
            try:
                return torch.cat([codes_of(part) for part in parts if part])
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                said = (str(error) or "MemoryError").splitlines()[0]
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if len(seeds) == 1:
                break
        free = free_bytes(_place(self.base))
        raise BadInput(
            f"Memory ran out with {max(map(len, parts))} pictures at once, where {'?' if free is None else gib(free)} "
            f"GiB are free. Ask for fewer or smaller ones. ({said})"
        )

    def picture_size(self, width: int | None = None, height: int | None = None) -> tuple[int, int]:
        """(width, height) in pixels that a picture asked for in these has; BadInput for a side the model has not.

        Each is the nearest multiple of `grid`, halves up, one at least; None or 0 is `size`, the model's own.
        """
        largest = self.grid * self.vocabulary.max_grid

        def rounded(name: str, asked: int | None) -> int:
            side = 0 if asked is None else whole(name, asked, 0, largest, ", as every side with this model")
            return self.grid * max(1, math.floor((side or self.size) / self.grid + 0.5))

        return rounded("width", width), rounded("height", height)

    def _room(self, grid: tuple[int, int], condition: Tensor | None) -> int:
        """How many tokens a prompt may take: the positions the picture leaves, and the condition's on top.

        Rotary positions have no end, and the released depth model reads its map beyond the configured ones.
        """
        limit, taken = self.base.config.max_position_embeddings, _tokens(*grid)
        if taken >= limit:
            width, height = grid[1] * self.grid, grid[0] * self.grid
            raise BadInput(
                f"A picture of {width} x {height} takes {taken} tokens and the model has {limit} positions. "
                "Ask for a smaller one."
            )
        if condition is None:
            return limit - taken
        if not (
            isinstance(condition, Tensor)
            and condition.dtype == torch.int64
            and condition.ndim == 2
            and is_plain(condition)
        ):
            raise BadInput("The condition is not what encode_condition returns. Encode the map with it.")
        return limit - taken + _tokens(*(side // LATENTS_PER_GRID for side in condition.shape))

    def _draw(self, codes: Tensor) -> Tensor:
        """Pictures float32 [B, H, W, 3] in 0..1, on the CPU, of codes int64 [B, h, w]."""
        place = _place(self.vqgan)
        pictures = torch.cat([self.vqgan.decode(one[None].to(place)).float().cpu() for one in codes])
        return ((pictures.clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).contiguous()


def _tokens(height: int, width: int) -> int:
    """Tokens of a picture of so many grid steps: start, two sizes, rows that end in a new line, end."""
    return 4 + LATENTS_PER_GRID * height * (LATENTS_PER_GRID * width + 1)


def _place(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def to_device(device: torch.device | str | None) -> torch.device:
    """A device by its name, None for the best there is; BadInput for one that is not there."""
    if device is None:
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        return torch.device(next(name for name in there if there[name]))
    try:
        found = torch.device(device)
        if found.type == "cpu" and found.index:
            raise RuntimeError("PyTorch calls all cores together cpu")
        torch.zeros(1, device=found).item()  # only use tells: a name may stand for a device that is not there
    except (RuntimeError, TypeError, AssertionError, ImportError) as error:
        raise BadInput(f"There is no device {device!r} for this PyTorch. Use cpu, cuda or mps.") from error
    return found


def to_dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """A dtype of weights by its name, None for what suits the device; BadInput for another than DTYPES."""
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype = DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if dtype not in DTYPES.values():
        raise BadInput(f"dtype is {dtype!r}. Use one of {', '.join(DTYPES)}.")
    return dtype


def _check_paths(**places: str | PathLike) -> None:
    for name, place in places.items():
        to_path(place, name)


def _agree(what: str, ours: int, other: str, theirs: int) -> None:
    if ours != theirs:
        raise BadCheckpoint(f"Use parts that belong together: {what} {ours} and {other} {theirs}.")
