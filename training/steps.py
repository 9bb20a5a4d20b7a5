"""What a training step works on: sample numbers to padded batches, and a batch to its loss."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

from stylear.encoder import EncoderConfig, ImageEncoder
from stylear.errors import BadInput
from stylear.vocabulary import STYLE_TOKENS, Vocabulary

from .hf_model import answer_hidden
from .recipe import Opening
from .sequences import IGNORED, Batch, PictureTokens, assemble, garbled
from .styled import StyledModel
from .tokens import Example, TokenSet
from .views import Views, view

CAPTION_LENGTH = 1000  # characters; a caption's rest is left out, so that one cannot fill the memory
PADDING = 1  # <pad>; nothing reads it, since attention is causal and padding comes last


class Order(Protocol):
    """Which picture each sample number is; `Mix` is one."""

    def indices(self, start: int, count: int) -> np.ndarray:
        """Pictures of samples start .. start + count - 1, int64 [count]."""


@dataclass(frozen=True)
class Listed:
    """Samples 0, 1, ... are these pictures, int64 [n], from the start again after the last."""

    pictures: np.ndarray

    def indices(self, start: int, count: int) -> np.ndarray:
        return self.pictures[np.arange(start, start + count) % len(self.pictures)]


@dataclass(frozen=True)
class Draws:
    """What is drawn anew for each sample.

    `noise`: gamma, the standard deviation of what is added to the style tokens (paper section 3.3); `context_drop`:
    chance that a sample has no prompt; `views`: how the style path's picture is changed; `pairs`: how many of each
    `batch` samples, counted from 0, come once more under the style of another; `misread`: each sample reads a share of
    its codes, drawn from 0 to this, as any code; `style_drop`: chance that a style token is zero; `opening`: in how
    many of the first steps only the first tokens of a picture are there.
    """

    seed: int = 0
    noise: float = 0.0
    context_drop: float = 0.0
    views: Views = Views()
    pairs: int = 0
    batch: int = 1
    misread: float = 0.0
    style_drop: float = 0.0
    opening: Opening = Opening()


@dataclass(frozen=True)
class Rows:
    """Samples for one forward pass: their sequences, style pictures and noise.

    pixels: float32 [B, 3, S, S] as the image encoder takes them, or None with features: float32 [B, N, C];
    noise: float32 [B, M, hidden], to be added to the style tokens; kept: bool [B, M], those that are not to be zero;
    again: int64 [K], the rows that the last K are once more, with the pixels or features of another sample.
    """

    batch: Batch
    pixels: Tensor | None
    features: Tensor | None
    noise: Tensor
    kept: Tensor
    again: Tensor

    def to(self, device: torch.device) -> "Rows":
        """The same on a device."""

        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device, non_blocking=True)

        batch = Batch(*map(move, vars(self.batch).values()))
        return Rows(batch, *map(move, (self.pixels, self.features, self.noise, self.kept, self.again)))


class Samples(Dataset):
    """The samples of a run by number; everything about one is a function of the seed and its number.

    So neither processes, nor micro-batches, nor a new start change what is trained on. Noise is drawn on the CPU for
    the same reason.
    """

    def __init__(
        self,
        tokens: TokenSet,
        order: Order,
        draws: Draws,
        vocabulary: Vocabulary,
        encoder: EncoderConfig,
        hidden: int,
        pad_to: int = 1,
        style_tokens: int = STYLE_TOKENS,
    ):
        """`hidden`: width of the style tokens; `pad_to`: sequences are padded to a multiple of it."""
        self.tokens, self.order, self.draws, self.vocabulary = tokens, order, draws, vocabulary
        self.hidden, self.pad_to, self.style_tokens = hidden, pad_to, style_tokens
        self.cached = tokens.features is not None and not draws.views.change
        with torch.device("meta"):
            self.encoder = ImageEncoder(encoder)  # for its preprocessing alone

    def __getitem__(self, numbers: Sequence[int]) -> Rows | BadInput:
        """Samples of some numbers of a step, and at the end again those that are contrasted.

        The picture that lends its style is read here too, wherever else it is trained on. A BadInput comes back as the
        value, so that a worker keeps its text.
        """
        lenders = self.contrasted(numbers[0] // self.draws.batch)
        again = [number for number in numbers if number in lenders]
        styles = [*numbers, *(lenders[number] for number in again)]
        first, last = min(styles), max(styles)
        try:
            indices = self.order.indices(first, last - first + 1)
            drawn = {number: self._sample(number, self.tokens[indices[number - first]]) for number in set(styles)}
        except BadInput as error:
            return error
        rows = [*numbers, *again]
        pictures = torch.stack([drawn[number][1] for number in styles])
        return Rows(
            _join([drawn[number][0] for number in rows], self.pad_to, self.style_tokens),
            None if self.cached else pictures,
            pictures if self.cached else None,
            torch.stack([drawn[number][2] for number in rows]),
            torch.stack([drawn[number][3] for number in rows]),
            torch.tensor([rows.index(number) for number in again], dtype=torch.int64),
        )

    def contrasted(self, step: int) -> dict[int, int]:
        """The samples of a step that come again, each with the sample that lends its style.

        `pairs` of those with a prompt, evenly spread, each with the next that has one, the last with the first.
        """
        pairs, batch = self.draws.pairs, self.draws.batch
        told = [n for n in range(step * batch, (step + 1) * batch) if pairs and not self._begin(n)[1]]
        count = min(pairs, len(told)) if len(told) > 1 else 0
        places = [i * len(told) // count for i in range(count)]
        return {told[place]: told[(place + 1) % len(told)] for place in places}

    def arranged(self, numbers: range) -> list[int]:
        """Numbers of a step in the order in which forward passes take them.

        The shortest sequences first, so that those of a pass need little padding, and those that are contrasted at
        even distances, so that passes have as many rows as each other.
        """
        indices = self.order.indices(numbers.start, len(numbers))
        lengths = (
            self._shown_length(numbers.start, self.tokens.lengths[indices]) + self.tokens.condition_lengths[indices]
        )
        rising = [numbers[i] for i in lengths.argsort(kind="stable")]
        lenders = self.contrasted(numbers.start // self.draws.batch)
        groups = [[number for number in rising if (number in lenders) == again] for again in (False, True)]
        placed = [((i + 0.5) / len(group), number) for group in groups for i, number in enumerate(group)]
        return [number for _, number in sorted(placed)]

    def predicted(self, numbers: range) -> int:
        """How many tokens of these samples of one step the loss counts, without reading them."""
        lengths = self.tokens.lengths[self.order.indices(numbers.start, len(numbers))]
        lengths = self._shown_length(numbers.start, lengths)
        return int(lengths.sum()) - sum(self._begin(number)[1] for number in numbers)

    def loader(self, parts: Iterator[Sequence[int]], workers: int) -> Iterator[Rows]:
        """The samples of each part in turn, read ahead by `workers` processes. Raises BadInput."""
        loader = iter(DataLoader(self, batch_size=None, sampler=parts, num_workers=workers))
        while True:
            try:
                rows = next(loader, None)
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise BadInput(
                    f"A process that reads ahead was ended, perhaps for want of memory: lower workers ({workers}) and "
                    "run the same command again. What was saved stays."
                ) from error
            if rows is None:
                return
            if isinstance(rows, BadInput):
                raise rows
            yield rows

    def _begin(self, number: int) -> tuple[np.random.Generator, bool]:
        """The sample's own generator, and whether its context is dropped."""
        rng = np.random.default_rng([self.draws.seed, number])
        return rng, bool(rng.random() < self.draws.context_drop)

    def _shown_length(self, number: int, tokens: np.ndarray) -> np.ndarray:
        """How many of a picture's `tokens` are there in the step of a sample."""
        opening = self.draws.opening
        return np.minimum(tokens, opening.tokens) if number < opening.steps * self.draws.batch else tokens

    def _sample(self, number: int, example: Example) -> tuple[Batch, Tensor, Tensor, Tensor]:
        rng, dropped = self._begin(number)
        noise = self.draws.noise * rng.standard_normal((self.style_tokens, self.hidden), dtype=np.float32)
        if self.cached:
            picture = torch.from_numpy(example.features).float()
        else:
            picture = self.encoder.preprocess(view(example.picture, self.draws.views, rng))
        prompt = None
        if not dropped:
            condition = None if example.condition_codes is None else torch.from_numpy(example.condition_codes)
            text = example.caption[:CAPTION_LENGTH]
            prompt = self.vocabulary.prompt(text, condition, style_tokens=self.style_tokens)
        answer = PictureTokens(example.codes[None], self.vocabulary)[[0]]
        answer = answer[:, : int(self._shown_length(number, np.array(answer.shape[1])))]
        batch = assemble([prompt], answer, len(prompt.ids) if prompt else 0)
        if self.draws.misread:
            batch = garbled(batch, self.vocabulary.code_ids, rng.uniform(0, self.draws.misread), rng)
        kept = np.ones(self.style_tokens, bool)
        if self.draws.style_drop:
            kept = rng.random(self.style_tokens) >= self.draws.style_drop
        return batch, picture, torch.from_numpy(noise), torch.from_numpy(kept)


def parts_of_steps(
    steps: range,
    batch: int,
    micro_batch: int,
    process: int,
    processes: int,
    order: Callable[[range], Sequence[int]] | None = None,
) -> Iterator[Sequence[int]]:
    """The sample numbers of each forward pass of one process: step t has t * batch to (t + 1) * batch - 1.

    A process takes its own contiguous share of the step, `micro_batch` samples at a time; `order` rearranges a share.
    """
    share = batch // processes
    for step in steps:
        first = step * batch + process * share
        numbers = range(first, first + share)
        numbers = order(numbers) if order else numbers
        for start in range(0, share, micro_batch):
            yield numbers[start : start + micro_batch]


def _join(batches: Sequence[Batch], pad_to: int, style_tokens: int) -> Batch:
    """Batches of one row each as one, padded at the end."""

    def padded(name: str, value: int) -> Tensor:
        return pad_sequence([getattr(batch, name)[0] for batch in batches], True, value)

    ids = padded("ids", PADDING)
    slots = [batch.style_slots[0] for batch in batches]
    slots = torch.stack([F.pad(row, (0, style_tokens - len(row)), value=-1) for row in slots])
    ids = F.pad(ids, (0, -ids.shape[1] % pad_to), value=PADDING)
    return Batch(ids, padded("answer", 0), padded("labels", IGNORED), slots)


class Step(nn.Module):
    """A StyledModel with its loss inside, so that wrappers for several devices see one forward pass.

    `chunk`: how many places have logits at a time; those of a whole 768 px picture would be 0.6 GB each. `relative`:
    the noise counts in units of the root mean square of each row's tokens, so that larger ones cannot drown it.
    """

    def __init__(self, styled: StyledModel, chunk: int = 512, relative: bool = False):
        super().__init__()
        self.styled, self.chunk, self.relative = styled, chunk, relative

    def forward(
        self, batch: Batch, features: Tensor, noise: Tensor, kept: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Each row's sum over its answer of the cross-entropy and of log(Z)^2 (Chameleon 2.1): float32 [B], [B].

        features: float [B, N, C] of the style pictures; noise: float [B, M, hidden]; kept: bool [B, M], the style
        tokens that are not to be zero.
        """
        base = self.styled.base.base_model.model
        style = self.styled.resampler(features)
        style = style + (noise * root_mean_square(style.detach()) if self.relative else noise)
        style = style if kept is None else style * kept[..., None]
        hidden = answer_hidden(base, batch, style).flatten(0, 1)
        parts = [
            checkpoint(_losses, base.lm_head, part, labels, use_reentrant=False, preserve_rng_state=False)
            for part, labels in zip(hidden.split(self.chunk), batch.labels.flatten().split(self.chunk), strict=True)
        ]
        cross_entropy, z = (torch.cat(values).view(batch.labels.shape).sum(1) for values in zip(*parts, strict=True))
        return cross_entropy, z


def root_mean_square(style: Tensor) -> Tensor:
    """Of each row's style tokens [B, M, hidden]: [B, 1, 1]."""
    return style.square().mean((1, 2), keepdim=True).sqrt()


def _losses(head: nn.Module, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and log(Z)^2 at each place, float32 [n], 0 where the label is to be ignored."""
    logits, counted = head(hidden).float(), labels != IGNORED
    normaliser = logits.logsumexp(-1)
    wanted = logits.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    return (normaliser - wanted) * counted, normaliser.square() * counted
