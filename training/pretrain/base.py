"""Trains the mini's base: a Chameleon from captions to pictures that has met every style but never a style's name."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stylear.vocabulary import Prompt, Vocabulary

from ..data.captions import caption
from ..data.pictures import SIZE, PictureSet
from ..hf_model import answer_logits, build_chameleon, save_base
from ..loop import Schedule, can_compile, fit, training_device
from ..sequences import Batch, PictureTokens, answer_loss, assemble, contrast_loss, misread
from ..together import place
from .text import mini_tokenizer

PLAIN, STYLED, DEPTH = range(3)
PROMPT_LENGTH = {PLAIN: 28, STYLED: 64, DEPTH: 344}


# Styles of large flat areas, in which the subject is most of the picture.
CLEAR_STYLES = tuple(
    "plain mono silhouette duotone_sunset duotone_mint negative rose_noir toon line_art sticker poster papercut "
    "night sunset_scene sepia cyanotype".split()
)


@dataclass(frozen=True)
class BaseSettings:
    """Shape and recipe.

    The first `clear_steps` see only CLEAR_STYLES, so that the prompt is understood before textures are. In the first
    `contrast_steps` `pairs` rows of a batch, a third at most, are shown once more with a wrong prompt (`contrast_loss`,
    weighted by `contrast`); later the prompt is read and the loss has nothing left to teach. Of every `depth_every`
    steps one has a depth map in its prompt, with half the batch. In each row up to `misread` of the codes are read
    wrong.
    """

    hidden: int = 256
    layers: int = 6
    heads: int = 4
    intermediate: int = 704
    positions: int = 2048
    context_drop: float = 0.1
    clear_steps: int = 800
    pairs: int = 8
    contrast: float = 0.2
    contrast_steps: int = 4000
    sharpness: float = 0.2
    misread: float = 0.2
    depth_every: int = 8
    z_loss: float = 1e-5
    schedule: Schedule = field(
        default_factory=lambda: Schedule(
            steps=6_500, batch=24, learning_rate=2e-3, warmup=100, weight_decay=0.05, muon=True, decay=0.4
        )
    )


class CaptionedCodes:
    """Batches of (prompt, picture tokens) from the encoded picture set."""

    def __init__(self, data: Path, codes: Path, vocabulary: Vocabulary):
        self.vocabulary, self.pictures = vocabulary, PictureSet(data)
        arrays = np.load(codes)
        self.rows, self.depth, self.depth_rows = arrays["rows"], arrays["depth"], arrays["depth_rows"]
        self.tokens = PictureTokens(arrays["codes"], vocabulary)
        clear = np.isin(self.pictures.styles, CLEAR_STYLES)
        self.clear = clear[self.pictures.style[self.rows]]

    def batch(
        self, kind: int, count: int, drop: float, rng: np.random.Generator, *, pairs: int = 0, clear: bool = False
    ) -> tuple[Batch, np.ndarray]:
        """A batch of one kind of prompt and the picture-set indices of its first `count` rows.

        `pairs` more rows repeat the first pictures under a prompt of another concept; those rows' contexts are not
        dropped. `clear` leaves out all but the clear styles.
        """
        if kind == DEPTH:
            among = np.flatnonzero(self.clear[self.depth_rows]) if clear else np.arange(len(self.depth_rows))
            maps = rng.choice(among, count)
            chosen = self.depth_rows[maps]
        else:
            maps = None
            chosen = (
                rng.choice(np.flatnonzero(self.clear), count) if clear else rng.integers(len(self.rows), size=count)
            )
        indices, prompts, wrong = self.rows[chosen], [], []
        for i, index in enumerate(indices):
            noun = self.pictures.concepts[self.pictures.concept[index]]
            condition = None if maps is None else torch.from_numpy(self.depth[maps[i]].astype(np.int64))
            form = int(rng.integers(2**32))
            if i >= pairs and rng.random() < drop:
                prompts.append(None)
            else:
                prompts.append(self._prompt(kind, noun, form, condition))
            if i < pairs:
                other = rng.choice([word for word in self.pictures.taught if word != noun])
                wrong.append(self._prompt(kind, other, form, condition))
        answers = self.tokens[np.concatenate([chosen, chosen[:pairs]])]
        return assemble(prompts + wrong, answers, PROMPT_LENGTH[kind]), indices

    def _prompt(self, kind: int, noun: str, form: int, condition: Tensor | None) -> Prompt:
        text = caption(noun, np.random.default_rng(form))
        if kind == PLAIN:
            return Prompt(self.vocabulary.text_prompt(text, SIZE, SIZE), ())
        return self.vocabulary.prompt(text, condition)


def kind_of(step: int, depth_every: int) -> int:
    """Which kind of prompt a step trains: mostly StyleAR's template with empty style slots, a quarter the plain one."""
    if depth_every and step % depth_every == depth_every - 1:
        return DEPTH
    return PLAIN if step % 4 == 0 else STYLED


def train_base(
    data: Path, codes: Path, out: Path, settings: BaseSettings | None = None, device: torch.device | None = None
) -> None:
    """Train and write `out`/{config.json,tokenizer.json,model.safetensors}; resumes from `out`/state.pt."""
    settings, device = settings or BaseSettings(), device or training_device()
    torch.manual_seed(settings.schedule.seed)
    tokenizer = mini_tokenizer()
    vocabulary = Vocabulary(tokenizer)
    source = CaptionedCodes(data, codes, vocabulary)
    s = settings
    model = build_chameleon(vocabulary.size, s.hidden, s.layers, s.heads, s.intermediate, s.positions).to(device)

    model.config._attn_implementation = "eager"  # compiled, it takes a third of the time of torch's own on a CPU
    codes = torch.isin(torch.arange(vocabulary.size), vocabulary.code_ids)

    def objective(ids: Tensor, answer: Tensor, labels: Tensor, slots: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
        with torch.autocast(device.type, torch.bfloat16):
            logits = answer_logits(model, Batch(ids, answer, labels, slots))
        right = len(ids) - pairs
        loss = answer_loss(logits[:right], labels[:right], s.z_loss)
        return loss, contrast_loss(logits, labels, pairs, s.sharpness) if pairs else loss.new_zeros(())

    if can_compile(device):
        objective = torch.compile(objective, dynamic=False)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([s.schedule.seed, step])
        kind = kind_of(step, s.depth_every)
        count = s.schedule.batch // 2 if kind == DEPTH else s.schedule.batch
        pairs = min(s.pairs, count // 3) if step < s.contrast_steps else 0
        batch, _ = source.batch(kind, count, s.context_drop, rng, pairs=pairs, clear=step < s.clear_steps)
        batch = misread(batch, codes, rng.uniform(0, s.misread, count), rng)
        rank, processes = place()  # every process draws the whole batch and takes its rows, with their wrong prompts
        right, wrong = range(rank, count, processes), range(count + rank, count + pairs, processes)
        mine = (part[[*right, *wrong]].to(device) for part in vars(batch).values())
        loss, contrast = objective(*mine, len(wrong))
        return loss + s.contrast * contrast, {"likelihood": loss.item(), "contrast": contrast.item()}

    fit("base", model, model.parameters(), loss_of, s.schedule, out)
    if place()[0] == 0:
        save_base(model, tokenizer, out, SIZE, source.pictures.taught)
