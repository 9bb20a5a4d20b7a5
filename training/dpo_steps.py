"""What a DPO step computes: batches of pairs, log-probabilities of pictures, the loss, the frozen model's figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from stylear.encoder import ImageEncoder
from stylear.errors import BadInput
from stylear.images import open_image
from stylear.vocabulary import Vocabulary

from .loop import write_atomically
from .preferences import NOISE_SEEDS
from .sequences import IGNORED, Batch, PictureTokens, assemble

CHUNK = 64  # pairs in a file of the reference's log-probabilities


@dataclass(frozen=True)
class PairBatches:
    """Preference pairs (preferences.FEATURES) as batches for StyledModel.

    `features`: of each style picture by its SHA-256, float32 [N, C]; `tokens`, `width`: shape of the style tokens;
    `noise`: gamma on them; `seed`: of the run, which with the pair's case decides the noise.
    """

    pairs: Dataset
    vocabulary: Vocabulary
    features: Mapping[str, Tensor]
    tokens: int
    width: int
    noise: float
    seed: int

    def batch(self, chosen: Sequence[int]) -> tuple[Batch, Tensor, Tensor]:
        """Pairs by number as 2B rows, the B chosen pictures and then the B rejected: Batch, features, style noise.

        Only codes have a label, since only they are drawn: starts, sizes and ends of rows are forced by the sampler.
        The noise of a pair is that of the style tokens its pictures were drawn from, the same for both pictures and
        every time it comes up. So policy and reference differ in weights alone, both pictures were drawn from what
        they are now judged under, and the reference's log-probabilities can be computed once.
        """
        rows = [self.pairs[int(i)] for i in chosen]
        codes = np.array([row[name]["codes"] for name in ("chosen", "rejected") for row in rows])
        pictures = PictureTokens(codes, self.vocabulary)[range(len(codes))]
        prompts = [self.vocabulary.prompt(row["prompt"], style_tokens=self.tokens) for row in rows] * 2
        batch = assemble(prompts, pictures, max(len(prompt.ids) for prompt in prompts))
        drawn = torch.isin(batch.labels, self.vocabulary.code_ids)
        batch = replace(batch, labels=batch.labels.where(drawn, IGNORED))
        features = torch.stack([self.features[row["style_sha256"]] for row in rows] * 2)
        seeds = [NOISE_SEEDS + self.seed + row["case"] for row in rows]
        noise = [torch.randn(self.tokens, self.width, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return batch, features, self.noise * torch.stack(noise * 2)

    @property
    def codes(self) -> int:
        """How many codes a picture has."""
        return sum(len(row) for row in self.pairs[0]["chosen"]["codes"])

    def order(self, start: int, count: int) -> list[int]:
        """Pairs number start..start+count-1 of a run: every pair once in each pass, each pass in a new order."""
        total = len(self.pairs)
        orders = {n // total: None for n in range(start, start + count)}
        for one in orders:
            orders[one] = np.random.default_rng([self.seed, one]).permutation(total)
        return [int(orders[n // total][n % total]) for n in range(start, start + count)]


def style_features(pairs: Dataset, encoder: ImageEncoder) -> dict[str, Tensor]:
    """Features float32 [N, C], on the CPU, of the pairs' style pictures, by their SHA-256."""
    styles = dict(zip(pairs["style_sha256"], pairs["style"], strict=True))
    return {name: encoder.encode(open_image(path)) for name, path in styles.items()}


def log_probability(model: nn.Module, batch: tuple[Batch, Tensor, Tensor]) -> Tensor:
    """log p of a batch's pictures, float32 [2, B]: chosen, rejected; the sum over each picture's codes.

    `model`: a Step, or a wrapper of one.
    """
    rows, features, noise = batch
    place = next(model.parameters()).device
    rows = Batch(*(tensor.to(place) for tensor in (rows.ids, rows.answer, rows.labels, rows.style_slots)))
    cross_entropy, _ = model(rows, features.to(place), noise.to(place))
    return -cross_entropy.float().view(2, -1)


def dpo_loss(policy: Tensor, reference: Tensor, beta: float, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The loss of each pair, float [B], and the implicit rewards, float [2, B], of chosen and rejected.

    policy, reference: log p [2, B]. reward = beta (log p_policy - log p_reference); margin = chosen's - rejected's;
    loss = -(1 - smoothing) log sigmoid(margin) - smoothing log sigmoid(-margin).
    Rafailov et al. 2023 (arXiv 2305.18290), eq. 7; `smoothing`, the share of pairs believed to be the wrong way round:
    Mitchell 2023, conservative DPO.
    """
    rewards = beta * (policy - reference)
    margin = rewards[0] - rewards[1]
    return -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin), rewards


def reference_log_probability(
    model: nn.Module, data: PairBatches, folder: Path, accelerator: Accelerator, micro_batch: int
) -> Tensor:
    """log p of every pair under the model as it is now, the SFT adapter, float32 [2, pairs] on the CPU.

    Computed once: NNNNN.safetensors in `folder` holds CHUNK pairs, and files that are there are read. The processes
    share each chunk in equal parts, so that a sharded model's forward passes stay in step.
    """
    total, parts = len(data.pairs), []
    starts = range(0, total, CHUNK)
    quiet = not accelerator.is_main_process
    for number, start in enumerate(tqdm(starts, desc="reference", unit="chunk", disable=quiet)):
        file = folder / f"{number:05d}.safetensors"
        count = min(CHUNK, total - start)
        if not file.exists():
            found = _chunk(model, data, range(start, start + count), accelerator, micro_batch)
            if accelerator.is_main_process:
                kept = {"log_probability": found.contiguous()}
                write_atomically(file, lambda path, kept=kept: save_file(kept, path))
            accelerator.wait_for_everyone()
        parts.append(_read_chunk(file, count))
    return torch.cat(parts, dim=1)


@torch.no_grad()
def _chunk(
    model: nn.Module, data: PairBatches, chunk: Sequence[int], accelerator: Accelerator, micro_batch: int
) -> Tensor:
    world, rank = accelerator.num_processes, accelerator.process_index
    each = -(-len(chunk) // world)
    mine = [chunk[min(place, len(chunk) - 1)] for place in range(rank * each, (rank + 1) * each)]
    with accelerator.autocast():
        parts = [log_probability(model, data.batch(mine[i : i + micro_batch])) for i in range(0, each, micro_batch)]
    found = accelerator.gather(torch.cat(parts, dim=1).T.contiguous())
    return found[: len(chunk)].T.cpu()


def _read_chunk(file: Path, count: int) -> Tensor:
    remedy = f"The log-probabilities {file} are damaged: remove the file and run the command again."
    try:
        found = load_file(file)["log_probability"]
    except (OSError, SafetensorError, KeyError) as error:
        raise BadInput(remedy) from error
    if list(found.shape) != [2, count]:
        raise BadInput(remedy)
    return found
