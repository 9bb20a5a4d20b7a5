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
from ..loop import Schedule, can_compile, fit
from ..sequences import Batch, PictureTokens, answer_loss, assemble
from .text import mini_tokenizer

PLAIN, STYLED, DEPTH = range(3)
PROMPT_LENGTH = {PLAIN: 28, STYLED: 64, DEPTH: 344}


@dataclass(frozen=True)
class BaseSettings:
    """Shape and recipe; of every `depth_every` steps one has a depth map in its prompt, with half the batch."""

    hidden: int = 192
    layers: int = 6
    heads: int = 3
    intermediate: int = 512
    positions: int = 2048
    context_drop: float = 0.1
    depth_every: int = 8
    z_loss: float = 1e-5
    schedule: Schedule = field(
        default_factory=lambda: Schedule(steps=2600, batch=32, learning_rate=2e-3, warmup=200, weight_decay=0.05)
    )


class CaptionedCodes:
    """Batches of (prompt, picture tokens) from the encoded picture set, of the concepts that are taught."""

    def __init__(self, data: Path, codes: Path, vocabulary: Vocabulary):
        self.vocabulary, self.pictures = vocabulary, PictureSet(data)
        arrays = np.load(codes)
        taught = self.pictures.taught(arrays["rows"])
        with_depth = taught[arrays["depth_rows"]]
        self.rows, self.depth = arrays["rows"][taught], arrays["depth"][with_depth]
        self.depth_rows = (np.cumsum(taught) - 1)[arrays["depth_rows"][with_depth]]
        self.tokens = PictureTokens(arrays["codes"][taught], vocabulary)

    def batch(self, kind: int, count: int, drop: float, rng: np.random.Generator) -> tuple[Batch, np.ndarray]:
        """A batch of one kind of prompt and the picture-set indices it was made of."""
        if kind == DEPTH:
            maps = rng.integers(len(self.depth_rows), size=count)
            chosen = self.depth_rows[maps]
        else:
            chosen = rng.integers(len(self.rows), size=count)
        indices, prompts = self.rows[chosen], []
        for i, index in enumerate(indices):
            text = caption(self.pictures.concepts[self.pictures.concept[index]], rng)
            if rng.random() < drop:
                prompts.append(None)
            elif kind == PLAIN:
                prompts.append(Prompt(self.vocabulary.text_prompt(text, SIZE, SIZE), ()))
            else:
                condition = torch.from_numpy(self.depth[maps[i]].astype(np.int64)) if kind == DEPTH else None
                prompts.append(self.vocabulary.prompt(text, condition))
        return assemble(prompts, self.tokens[chosen], PROMPT_LENGTH[kind]), indices


def kind_of(step: int, depth_every: int) -> int:
    """Which kind of prompt a step trains: mostly StyleAR's template with empty style slots, a third the plain one."""
    if depth_every and step % depth_every == depth_every - 1:
        return DEPTH
    return PLAIN if step % 3 == 0 else STYLED


def train_base(data: Path, codes: Path, out: Path, settings: BaseSettings | None = None) -> None:
    """Train and write `out`/{config.json,tokenizer.json,model.safetensors}; resumes from `out`/state.pt."""
    settings = settings or BaseSettings()
    torch.manual_seed(settings.schedule.seed)
    tokenizer = mini_tokenizer()
    vocabulary = Vocabulary(tokenizer)
    source = CaptionedCodes(data, codes, vocabulary)
    s = settings
    model = build_chameleon(vocabulary.size, s.hidden, s.layers, s.heads, s.intermediate, s.positions)

    def objective(ids: Tensor, answer: Tensor, labels: Tensor, slots: Tensor) -> Tensor:
        batch = Batch(ids, answer, labels, slots)
        with torch.autocast("cpu", torch.bfloat16):
            logits = answer_logits(model, batch)
        return answer_loss(logits, batch.labels, s.z_loss)

    if can_compile():
        objective = torch.compile(objective, dynamic=False)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([s.schedule.seed, step])
        kind = kind_of(step, s.depth_every)
        count = s.schedule.batch // (2 if kind == DEPTH else 1)
        batch, _ = source.batch(kind, count, s.context_drop, rng)
        return objective(batch.ids, batch.answer, batch.labels, batch.style_slots), {}

    fit("base", model, model.parameters(), loss_of, s.schedule, out)
    save_base(model, tokenizer, out, SIZE)
