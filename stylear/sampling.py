"""The sampling loop: a prompt's embeddings become picture codes in reading order, several of them in each pass."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from .chameleon import Chameleon
from .checks import whole
from .drawing import Noise, SamplingSettings, draw, draw_surely, guide, margin
from .errors import BadCheckpoint, BadInput, Cancelled
from .graphs import Passes
from .memory import check_room
from .outlook import Outlook
from .pace import Windows, clock_of
from .vocabulary import LATENTS_PER_GRID, Prompt, Vocabulary

_UNKNOWN = -1  # a code that is neither drawn nor guessed; read as a line end


def embed_prompt(model: Chameleon, prompt: Prompt, style: Tensor) -> Tensor:
    """Embeddings [n, hidden] of a prompt, `style` [M, hidden] at its style slots; BadInput if M differs."""
    wanted = [len(prompt.style_slots), model.config.hidden_size]
    if list(style.shape) != wanted:
        raise BadInput(
            f"The style tokens are {list(style.shape)} and this model takes {wanted}: encode the reference with it."
        )
    device = model.lm_head.weight.device
    embeddings = model.embed(torch.tensor(prompt.ids, device=device)).clone()
    embeddings[list(prompt.style_slots)] = style.to(embeddings)
    return embeddings


def codes_in(grid: tuple[int, int]) -> int:
    """How many codes a picture of `grid` (height, width) has."""
    return LATENTS_PER_GRID**2 * grid[0] * grid[1]


def check_window(window: int, grid: tuple[int, int], name: str = "window") -> int:
    """How many codes a pass may draw of a picture of `grid`, as int; BadInput, calling it `name`, below 1 and above
    what it has."""
    return whole(name, window, 1, codes_in(grid), ", the codes of this picture")


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
    window: int | Windows = 1,
    plain: Tensor | None = None,
    negative: Tensor | None = None,
) -> Tensor:
    """Draw one picture for each of `seeds`; codes int64 [len(seeds), 2 * grid height, 2 * grid width].

    `prompt_embeddings`: [n, hidden], shared by all pictures; `plain` and `negative`: the same prompt in an empty style
    and in one to keep away from, where guidance reads them (`SamplingSettings.weights`). `grid`: (height, width) in
    grid steps of two latents. `window`: how many codes a pass draws, 1 to all of the picture's, or what chooses; all
    but the first come after guesses and stand up to the first wrong one, so in float32 any window gives the same
    picture. Pictures that are finished are no longer computed once they are half of those that are.
    `progress(done, total)` counts the codes of the picture that is furthest behind; `on_row(row, codes)` gets codes
    [len(seeds), row + 1, width] when rows are complete up to `row`; `cancelled()` is asked before every pass and ends
    the call with Cancelled.
    BadInput for a grid without tokens or longer than the model's positions, for a window larger than the picture, for
    no seeds, and for more pictures than the device has memory for.

    Unlike the released code, which lets the model begin the picture and choose its size, both are forced here
    and so are the ends of rows: their tokens are read by the model but not drawn.
    Source: inference_solver.py of the released StyleAR; windows as in Wiggers and Hoogeboom 2020 (arXiv 2002.09928).
    """
    height, width = _latent_size(vocabulary, model, grid)
    if not seeds:
        raise BadInput("There is no seed: pass one for each picture.")
    windows = window if isinstance(window, Windows) else Windows({check_window(window, grid): 1.0})
    prompts = {"styled": prompt_embeddings, "plain": plain, "negative": negative, "nothing": prompt_embeddings[:0]}
    run = _Run(model, vocabulary, prompts, grid, seeds, settings, windows)
    row = 0
    while run.done < height * width:
        if cancelled and cancelled():
            raise Cancelled("Sampling was stopped.")
        run.advance()
        if progress:
            progress(run.done, height * width)
        if on_row and run.done // width > row:
            row = run.done // width
            on_row(row - 1, run.codes()[:, :row])
    return run.codes()


class _Run:
    """The pictures of one call: what is drawn of them, what is guessed ahead, and the cache of what was read.

    A picture's `body` is its codes and line ends in reading order, as indices into the codes and, behind them, the
    new line. The first `places[picture]` codes are drawn; those behind are guesses, up to `refined[picture]` made anew
    by a pass that drew there: a wrong one further on does not tell how good guesses in a window are. `live` are the
    pictures that the cache has rows for: as many for each of the readings that guidance weighs, one reading behind the
    other.
    """

    def __init__(
        self,
        model: Chameleon,
        vocabulary: Vocabulary,
        prompts: Mapping[str, Tensor | None],
        grid: tuple[int, int],
        seeds: Sequence[int],
        settings: SamplingSettings,
        windows: Windows,
    ):
        """`prompts`: embeddings [n, hidden] of each reading by its name in `SamplingSettings.weights`."""
        device = prompts["nothing"].device
        self.model, self.settings, self.windows = model, settings, windows
        readings = settings.weights(prompts["negative"] is not None)
        self.weights = tuple(readings.values())
        self.height, self.width = (LATENTS_PER_GRID * side for side in grid)
        self.total = self.height * self.width
        self.places, self.live, self.refined = [0] * len(seeds), list(range(len(seeds))), [0] * len(seeds)
        codes = len(vocabulary.code_ids)
        self.body = [([_UNKNOWN] * self.width + [codes]) * self.height for _ in seeds]
        self.alphabet = [*vocabulary.code_ids.tolist(), vocabulary.new_line]
        opening = model.embed(torch.tensor(vocabulary.image_opening(*grid), device=device))
        self.starts = [torch.cat((prompts[name], opening)) for name in readings]
        self.head = model.head(vocabulary.code_ids)
        self.begun = [len(start) for start in self.starts]
        self.rows, self.slots = len(seeds) * len(self.begun), max(self.begun) + self._at(self.total - 1)
        check_room(model, self.rows, self.slots, len(seeds), codes, self.width, min(windows.most, self.total))
        self.clock = clock_of(device)
        self.noise, self.outlook, reach = None, None, 2 * min(windows.most, self.total) + 1
        if settings.top_k > 1:
            self.noise = Noise(seeds, codes, settings.temperature, reach, device)
        if windows.most > 1:
            self.outlook = Outlook(len(seeds), codes, self.width, self.width + reach, device)

    @property
    def done(self) -> int:
        """Codes drawn of the picture that is furthest behind."""
        return min(self.places)

    def codes(self) -> Tensor:
        """What is drawn and guessed, int64 [pictures, height, width]."""
        body = torch.tensor(self.body, device=self.head.device)
        return body.view(-1, self.height, self.width + 1)[:, :, :-1].contiguous()

    @torch.inference_mode()
    def advance(self) -> None:
        """Draw at least one code of each unfinished picture, and at most the window."""
        window, begun, start = min(self.windows.best(), self.total), self.done, self.clock()
        hidden = self._read(min(window, self.total - begun)) if begun else self._prefill()
        self._settle(hidden, self.windows.ahead(window))
        if 0 < begun <= self.total - window:
            self.windows.took(window, self.clock() - start)
        self._drop_finished()

    def _at(self, place: int) -> int:
        """Where in the body a code is."""
        return place + place // self.width

    def _tokens(self, body: list[int]) -> list[int]:
        """The tokens that part of a body is read as."""
        return [self.alphabet[code] for code in body]

    def _prefill(self) -> Tensor:
        """Read what all pictures begin with once; hidden [rows, 1, hidden] of its last place.

        Each reading has one row for each picture. The one of nothing begins with the opening, at position 0 and
        without a prompt (released code).
        """
        images = len(self.places)
        self.cache = self.model.new_cache(self.rows, self.slots)
        hidden = []
        for index, start in enumerate(self.starts):
            rows = range(index * images, (index + 1) * images)
            hidden.append(self.model(start[None], self.cache, rows[:1])[:, -1:].expand(images, -1, -1))
            self.cache.share(rows[0], rows)
        self.passes = Passes(self.model, self.cache)
        return torch.cat(hidden)

    def _read(self, count: int) -> Tensor:
        """Read the last drawn code of each picture and guesses behind it; hidden [rows, count, hidden].

        Those are the places that the next `count` codes are drawn from. A picture near its end reads some of its
        drawn codes again, so that all read equally many.
        """
        places, bodies = [self.places[picture] for picture in self.live], [self.body[picture] for picture in self.live]
        last, guidance = self._at(self.total - 1), len(self.begun)
        firsts = [self._at(place - 1) for place in places]
        ends = [self._at(min(place + count, self.total) - 1) for place in places]
        length = max(end - first for first, end in zip(firsts, ends, strict=True))
        firsts = [min(first, last - length) for first in firsts]
        read = [self._tokens(body[first : first + length]) for first, body in zip(firsts, bodies, strict=True)]
        self.cache.lengths = [begun + first for begun in self.begun for first in firsts]
        hidden = self.passes(self.model.embed(torch.tensor(read * guidance, device=self.head.device)))
        behind = [
            [min(self._at(place + ahead) - 1 - first, length - 1) for ahead in range(count)]
            for place, first in zip(places, firsts, strict=True)
        ]
        if all(offsets == list(range(length)) for offsets in behind):
            return hidden
        behind = torch.tensor(behind * guidance, device=hidden.device)[..., None]
        return hidden.gather(1, behind.expand(-1, -1, hidden.shape[-1]))

    def _settle(self, hidden: Tensor, ahead: int) -> None:
        """Draw from hidden states [rows, count, hidden] of every picture's next places, and guess `ahead` more.

        What is drawn stands up to the first code that is not the guess it was read behind; those behind are guessed.
        """
        count, top_k = hidden.shape[1], self.settings.top_k
        logits = self.model.logits(hidden, self.head)
        if self.done == 0 and not torch.isfinite(logits).all():
            raise BadCheckpoint(
                "The model's logits are not finite: load it in float32 or bfloat16, or check its files."
            )
        guided, noise = guide(logits, self.weights), self._noise(count + ahead)
        now = None if noise is None else noise[:, :count]
        if hidden.dtype == torch.float32:
            drawn, doubt = draw_surely(guided, now, top_k, margin(logits, self.weights, hidden.shape[-1]))
        else:
            drawn = draw(guided, now, top_k)
            doubt = torch.zeros_like(drawn)
        found = [drawn, doubt]
        if self.outlook is not None:
            expected = self.outlook.expect(self.live, [self.places[picture] for picture in self.live], guided, ahead)
            found.append((expected if noise is None else expected.add_(noise)).max(-1).indices)  # faster than argmax
        self._commit(torch.cat(found, dim=1).tolist(), count)

    def _commit(self, found: list[list[int]], count: int) -> None:
        """Take over, of each live picture, the codes of its next `count` places, as many marks of doubt, and guesses.

        One row of ints for each picture; the guesses may be more, or none, for which the codes are then taken.
        """
        for picture, values in zip(self.live, found, strict=True):
            drawn, doubt, guesses = values[:count], values[count : 2 * count], values[2 * count :] or values[:count]
            body, first, standing = self.body[picture], self.places[picture], True
            refined, self.refined[picture] = self.refined[picture], first + count
            for place, code in enumerate(guesses[: self.total - first], start=first):
                at = self._at(place)
                if standing:
                    code = self._draw_again(picture, place) if doubt[place - first] else drawn[place - first]
                    right = body[at] == code
                    self.places[picture] += 1
                    if right or (body[at] != _UNKNOWN and (count == 1 or place < refined)):
                        self.windows.tell(place - first, right)
                    standing = place + 1 < first + count and right
                body[at] = code

    def _drop_finished(self) -> None:
        """Give up the rows of finished pictures once they are half of all, so that rows move seldom."""
        kept = [index for index, picture in enumerate(self.live) if self.places[picture] < self.total]
        if kept and 2 * len(kept) <= len(self.live):
            images = len(self.live)
            self.cache.keep([part * images + index for part in range(len(self.begun)) for index in kept])
            self.live = [self.live[index] for index in kept]

    def _draw_again(self, picture: int, place: int) -> int:
        """A code from one reading of all before it, whose sums are the same whatever was read at once before."""
        tokens = self._tokens(self.body[picture][: self._at(place)])
        before = self.model.embed(torch.tensor(tokens, dtype=torch.int64, device=self.head.device))
        hidden = []
        for start in self.starts:
            read = torch.cat((start, before))[None]
            hidden.append(self.model(read, self.model.new_cache(1, read.shape[1]))[:, -1:])
        guided = guide(self.model.logits(torch.cat(hidden), self.head), self.weights)
        noise = None
        if self.noise is not None:
            noise = self.noise.at(picture, place, 1)
        return int(draw(guided[0], noise, self.settings.top_k))

    def _noise(self, count: int) -> Tensor | None:
        """Noise [live, count, codes] of the next places of pictures in the cache; None for the likeliest codes."""
        if self.noise is None:
            return None
        for picture in self.live:
            self.noise.reach(picture, min(self.places[picture] + count, self.total))
        return torch.stack([self.noise.at(picture, self.places[picture], count) for picture in self.live])


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
