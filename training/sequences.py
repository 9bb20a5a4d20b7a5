"""Prompts and pictures as token sequences for the language model's loss."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylear.vocabulary import Prompt, Vocabulary

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """Sequences padded at the end, and where in them the answer (the picture) is.

    ids int64 [B, T]; answer int64 [B, n], the places whose outputs predict the picture; labels int64 [B, n];
    style_slots int64 [B, M], the places of the style tokens, or -1 in rows without a prompt.
    """

    ids: Tensor
    answer: Tensor
    labels: Tensor
    style_slots: Tensor


class PictureTokens:
    """Codes int [N, h, w] of many pictures as the token rows that answer a prompt."""

    def __init__(self, codes: np.ndarray, vocabulary: Vocabulary):
        self.codes, self.vocabulary = codes, vocabulary
        self.ids_of = vocabulary.code_ids.numpy()

    def __getitem__(self, chosen: Sequence[int]) -> Tensor:
        """Tokens int64 [B, n]: picture start, sizes, rows with new lines, picture end, end of turn."""
        v, codes = self.vocabulary, self.ids_of[self.codes[chosen].astype(np.int64)]
        count, height, width = codes.shape
        body = np.concatenate([codes, np.full((count, height, 1), v.new_line)], axis=2).reshape(count, -1)
        opening = np.tile(v.image_opening(height // 2, width // 2), (count, 1))
        closing = np.tile([v.image_end, v.end_of_turn], (count, 1))
        return torch.from_numpy(np.concatenate([opening, body, closing], axis=1))


def assemble(prompts: Sequence[Prompt | None], pictures: Tensor, pad_to: int) -> Batch:
    """Join prompts and pictures [B, n] into a Batch with prompts of at most `pad_to` tokens.

    None stands for a dropped context: the sequence then begins with the picture's start, as the unconditional row
    of guidance does (Lumina-mGPT's training; released sampler), and its start token is not predicted.
    """
    count, length = pictures.shape
    slots = max((len(p.style_slots) for p in prompts if p), default=0)
    ids = torch.ones(count, pad_to + length, dtype=torch.int64)
    answer = torch.zeros(count, length, dtype=torch.int64)
    labels, places = pictures.clone(), torch.full((count, slots), -1)
    for i, prompt in enumerate(prompts):
        lead = len(prompt.ids) if prompt else 0
        if lead > pad_to:
            raise ValueError(f"A prompt of {lead} tokens does not fit {pad_to}.")
        if prompt:
            ids[i, :lead] = torch.tensor(prompt.ids)
            if prompt.style_slots:
                places[i] = torch.tensor(prompt.style_slots)
        else:
            labels[i, 0] = IGNORED
        ids[i, lead : lead + length] = pictures[i]
        answer[i] = torch.arange(lead - 1, lead - 1 + length).clamp(min=0)
    return Batch(ids, answer, labels, places)


def misread(batch: Batch, codes: Tensor, shares: np.ndarray, rng: np.random.Generator) -> Batch:
    """The batch with some picture codes read wrong: in row b a share shares[b] is another code of the same picture.

    Rows behind those that have a share are the first ones' pictures again and read as they are, so that prompts can be
    compared. What is predicted stays right. A model that samples reads its own mistakes; one that never saw any drifts
    away from its prompt. codes: bool [V], which tokens are picture codes.
    """
    count, (rows, length) = len(shares), batch.labels.shape
    elsewhere = rng.permuted(np.tile(np.arange(length), (count, 1)), axis=1)
    chosen = rng.random((count, length)) < shares[:, None]
    again = np.arange(rows) % count
    elsewhere, chosen = torch.from_numpy(elsewhere[again]), torch.from_numpy(chosen[again])
    is_code = codes[batch.labels.clamp(min=0)]
    wrong, places = (chosen & is_code & is_code.gather(1, elsewhere)).nonzero(as_tuple=True)
    ids = batch.ids.clone()
    ids[wrong, batch.answer[wrong, places] + 1] = batch.labels[wrong, elsewhere[wrong, places]]
    return replace(batch, ids=ids)


def garbled(batch: Batch, codes: Tensor, share: float, rng: np.random.Generator) -> Batch:
    """A batch in which a share of the picture codes is read as any code; what is predicted stays right.

    The prompt and the style tokens then have to say what the codes before no longer do. codes: int64 [n], the tokens
    that are picture codes.
    """
    shape = tuple(batch.labels.shape)
    chosen = torch.from_numpy(rng.random(shape) < share) & torch.isin(batch.labels, codes)
    wrong = codes[torch.from_numpy(rng.integers(len(codes), size=shape))]
    rows, places = chosen.nonzero(as_tuple=True)
    ids = batch.ids.clone()
    ids[rows, batch.answer[rows, places] + 1] = wrong[rows, places]
    return replace(batch, ids=ids)


def answer_loss(logits: Tensor, labels: Tensor, z_loss: float = 0.0) -> Tensor:
    """Mean cross-entropy of float logits [B, n, V] against labels [B, n], plus `z_loss` x log(Z)^2 (Chameleon 2.1)."""
    logits, labels = logits.float().flatten(0, 1), labels.flatten()
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORED)
    if not z_loss:
        return loss
    counted = (labels != IGNORED).float()
    return loss + z_loss * (logits.logsumexp(-1).square() * counted).sum() / counted.sum()


def contrast_loss(logits: Tensor, labels: Tensor, pairs: int, sharpness: float) -> Tensor:
    """How badly the right prompt is told from a wrong one: the last `pairs` rows are the first ones' pictures again.

    softplus(-sharpness (log p(picture | right) - log p(picture | wrong))), the mean over pairs. In a picture's
    hundreds of nats its subject is only a few, and what both rows share cancels, so this teaches a small model to
    read its prompt in a fraction of the steps. In the spirit of condition contrastive alignment (Chen et al. 2024,
    arXiv 2410.09347), without a reference model.
    """
    wanted = labels.clamp(min=0)[..., None]
    likelihood = logits.float().log_softmax(-1).gather(2, wanted)[..., 0] * (labels != IGNORED)
    likelihood = likelihood.sum(1)
    return F.softplus(-sharpness * (likelihood[:pairs] - likelihood[-pairs:])).mean()
