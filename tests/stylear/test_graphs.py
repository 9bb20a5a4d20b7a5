"""Replayed passes are chosen by length, read what plain passes read, and step aside with a reason."""

import logging

import pytest
import torch

from stylear import graphs
from stylear.chameleon import Chameleon
from stylear.chameleon_config import ChameleonConfig
from stylear.graphs import Passes, slots_in_buckets


@pytest.fixture
def model() -> Chameleon:
    torch.manual_seed(0)
    return Chameleon(ChameleonConfig(50, 48, 40, 2, 6, 6)).requires_grad_(False)


def test_slots_are_whole_buckets_up_to_what_there_is():
    assert [slots_in_buckets(needed, 600) for needed in (1, 256, 257, 513, 600)] == [256, 256, 512, 600, 600]


def test_without_cuda_passes_are_plain_and_say_why(model):
    cache, other = model.new_cache(2, 8), model.new_cache(2, 8)
    passes, embeddings = Passes(model, cache), model.embed(torch.tensor([[1, 2], [3, 4]]))
    torch.testing.assert_close(passes(embeddings), model(embeddings, other), atol=1e-5, rtol=1e-5)
    assert passes.reason == "cpu has no CUDA graphs" and cache.lengths == other.lengths == [2, 2]


def test_a_pass_that_looks_at_a_whole_bucket_reads_what_a_plain_one_reads(model):
    cache, other = model.new_cache(2, 40), model.new_cache(2, 40)
    first, then = model.embed(torch.tensor([[1, 2], [3, 4]])), model.embed(torch.tensor([[5], [6]]))
    for one in (cache, other):
        one.kept.fill_(9.0)  # what a longer call might have left
        model(first, one)
    read = model.read(then, cache, range(2), torch.tensor([[2], [2]]), 40)
    torch.testing.assert_close(read, model(then, other), atol=1e-5, rtol=1e-5)


def test_a_capture_that_fails_leaves_the_plain_pass_and_its_reason(model, monkeypatch, caplog):
    cache, other = model.new_cache(2, 8), model.new_cache(2, 8)
    passes, embeddings = Passes(model, cache), model.embed(torch.tensor([[1, 2], [3, 4]]))
    passes.reason = ""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)

    def fail(*_):
        raise RuntimeError("operation not permitted\nmore")

    monkeypatch.setattr(Passes, "_capture", fail)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(passes(embeddings), model(embeddings, other))
    assert passes.reason == "operation not permitted" and "without CUDA graphs: operation" in caplog.text


def test_a_captured_pass_is_replayed_for_its_rows_and_length_with_its_own_inputs(model, monkeypatch):
    """A stand-in for a graph, which does at replay what was recorded."""
    cache, other = model.new_cache(2, 600), model.new_cache(2, 600)
    passes, captured = Passes(model, cache), []
    passes.reason = ""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)

    class Recorded:
        def __init__(self, embeddings, positions, total):
            self.inputs, self.total, self.hidden = (embeddings.clone(), positions.clone()), total, embeddings.clone()

        def replay(self):
            self.hidden.copy_(model.read(self.inputs[0], cache, range(len(self.inputs[0])), self.inputs[1], self.total))

    def capture(self, embeddings, positions, total):
        captured.append((*embeddings.shape[:2], total))
        graph = Recorded(embeddings, positions, total)
        return graphs._Captured(graph, *graph.inputs, graph.hidden)

    monkeypatch.setattr(Passes, "_capture", capture)
    for ids in ([[1, 2], [3, 4]], [[5, 6], [7, 8]], [[9], [1]]):
        embeddings = model.embed(torch.tensor(ids))
        torch.testing.assert_close(passes(embeddings), model(embeddings, other), atol=1e-5, rtol=1e-5)
    for one in (cache, other):
        one.keep([1])
    for ids in ([[4]], [[8]]):
        embeddings = model.embed(torch.tensor(ids))
        torch.testing.assert_close(passes(embeddings), model(embeddings, other), atol=1e-5, rtol=1e-5)
    assert captured == [(2, 2, 256), (2, 1, 256), (1, 1, 256)] and cache.lengths == other.lengths
