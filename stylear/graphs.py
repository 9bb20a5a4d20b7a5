"""Forward passes replayed as CUDA graphs, which spares the launches; plain passes wherever that cannot be."""

import logging
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .chameleon import Cache, Chameleon
from .plain import Plain

BUCKET = 256  # slots; a graph looks at a whole number of these, so that a picture needs few graphs


@dataclass(frozen=True)
class _Captured:
    graph: "torch.cuda.CUDAGraph"
    embeddings: Tensor
    positions: Tensor
    hidden: Tensor


class Passes:
    """Passes over all rows of one cache, each (rows, tokens, slots looked at) captured once while the cache lives.

    `reason`: why passes are plain, empty while they are replayed.
    """

    def __init__(self, model: Chameleon, cache: Cache):
        self._model, self._cache, self._captured = model, cache, {}
        self._read = Plain(model).read if Plain.suits(model) else partial(model.read, decoder=model.compiled)
        self._pool = torch.cuda.graph_pool_handle() if cache.kept.is_cuda else None
        self.reason = "" if cache.kept.is_cuda else f"{cache.kept.device.type} has no CUDA graphs"

    def __call__(self, embeddings: Tensor) -> Tensor:
        """As the model's forward for `embeddings` [rows, n, hidden]; its result lasts until the next call."""
        if self.reason:
            return self._model(embeddings, self._cache, read=self._read)
        cache, n = self._cache, embeddings.shape[1]
        total = slots_in_buckets(max(cache.lengths) + n, len(cache.places))
        lengths = torch.tensor(cache.lengths).pin_memory().to(embeddings.device, non_blocking=True)
        positions = lengths[:, None] + cache.places[:n]
        key = (*embeddings.shape[:2], total)
        if key not in self._captured:
            try:
                self._captured[key] = self._capture(embeddings, positions, total)
            except RuntimeError as error:
                self.reason = str(error).splitlines()[0]
                logging.getLogger(__name__).warning("Sampling goes on without CUDA graphs: %s", self.reason)
                return self._model(embeddings, cache)
        captured = self._captured[key]
        captured.embeddings.copy_(embeddings)
        captured.positions.copy_(positions)
        captured.graph.replay()
        cache.lengths = [length + n for length in cache.lengths]
        return captured.hidden

    def _capture(self, embeddings: Tensor, positions: Tensor, total: int) -> _Captured:
        """Record one pass; what it writes into the cache while it warms up is what the replay writes again."""
        inputs = (embeddings.clone(), positions.clone())
        rows = range(len(positions))

        def read() -> Tensor:
            return self._read(inputs[0], self._cache, rows, inputs[1], total)

        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            read()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            hidden = read()
        return _Captured(graph, *inputs, hidden)


def slots_in_buckets(needed: int, slots: int) -> int:
    """`needed` slots as whole buckets, but no more than there are."""
    return min(slots, -(-needed // BUCKET) * BUCKET)
