"""What is trained on is what the engine draws from, and a sample is the same wherever and whenever it is read."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import tiny_tokens
import torch
from torch.nn import functional as F

from stylear import StyleAR
from stylear.checkpoint import load_image_encoder
from stylear.errors import BadInput
from stylear.sampling import embed_prompt
from stylear.vocabulary import Vocabulary
from training.hf_model import load_base
from training.recipe import Opening
from training.sequences import IGNORED, answer_loss
from training.steps import Draws, Listed, Samples, Step, answer_hidden, parts_of_steps
from training.styled import StyledModel
from training.tokens import TokenSet
from training.views import Views


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("steps")
    tiny.write_bundle(folder / "model", segmenter=False)
    tiny_tokens.write_tokens(folder / "tokens")
    return folder


@pytest.fixture(scope="module")
def step(root):
    return Step(StyledModel.from_adapter(load_base(root / "model" / "base")[0], root / "model" / "adapter"), 16)


def samples(root, draws=None, tokens="tokens", **more) -> Samples:
    data = TokenSet(root / tokens)
    order = Listed(np.arange(len(data)))
    vocabulary = Vocabulary(tiny.TOKENIZER)
    return Samples(data, order, draws or Draws(), vocabulary, tiny.CLIP_CONFIG, tiny.HIDDEN, **more)


def test_without_noise_the_loss_is_the_cross_entropy_of_the_engines_logits(root, step):
    model = StyleAR.load(root / "model", dtype="float32", device="cpu")
    chosen, numbers = samples(root, Draws(seed=2, context_drop=0.3)), range(0, 8)
    rows = chosen[numbers]
    encoder = load_image_encoder(root / "model" / "image_encoder")
    with torch.no_grad():
        ours, _ = step(rows.batch, encoder(rows.pixels), rows.noise)
    expected, seen = [], set()
    for number in numbers:
        example, dropped = chosen.tokens[number], chosen._begin(number)[1]
        seen |= {"dropped" if dropped else example.condition, example.codes.shape}
        picture = [*model.vocabulary.image_ids(torch.from_numpy(example.codes)), model.vocabulary.end_of_turn]
        lead = model.base.embed(torch.tensor(picture[:0], dtype=torch.int64))
        if not dropped:
            condition = None if example.condition_codes is None else torch.from_numpy(example.condition_codes)
            prompt = model.vocabulary.prompt(example.caption, condition)
            lead = embed_prompt(model.base, prompt, model.encode_style(example.picture).tokens)
        read = torch.cat([lead, model.base.embed(torch.tensor(picture))])
        with torch.no_grad():
            out = model.base.logits(model.base(read[None], model.base.new_cache(1, len(read))))[0]
        first = 1 if dropped else 0  # nothing stands before a dropped context's start
        logits = out[len(lead) - 1 + first : -1]
        expected.append(F.cross_entropy(logits, torch.tensor(picture[first:]), reduction="sum"))
    assert seen == {"dropped", "depth", "", (4, 6), (4, 4)}
    count = chosen.predicted(numbers)
    assert float(ours.sum() / count) == pytest.approx(float(sum(expected) / count), abs=1e-4)


def test_losses_in_chunks_are_those_of_all_logits_at_once_and_so_are_their_gradients(root, step):
    rows = samples(root)[range(3)]
    features, weights = torch.randn(3, 5, 24), [w for w in step.parameters() if w.requires_grad]
    cross_entropy, z = step(rows.batch, features, rows.noise)
    count = (rows.batch.labels != IGNORED).sum()
    chunked = (cross_entropy.sum() + 0.1 * z.sum()) / count
    whole = answer_loss(step.styled(rows.batch, features), rows.batch.labels, 0.1)
    torch.testing.assert_close(chunked, whole)
    for one, other in zip(torch.autograd.grad(chunked, weights), torch.autograd.grad(whole, weights), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_only_a_chunk_of_logits_is_kept_at_a_time(root, step):
    rows, seen = samples(root)[range(3)], []
    handle = step.styled.base.base_model.model.lm_head.register_forward_hook(lambda *call: seen.append(len(call[2])))
    step(rows.batch, torch.randn(3, 5, 24), rows.noise)
    handle.remove()
    assert max(seen) == 16 and sum(seen) == rows.batch.labels.numel()


def test_style_tokens_go_to_their_slots_alone_and_nowhere_in_rows_without_a_prompt(root, step):
    rows = samples(root, Draws(seed=2, context_drop=0.3))[range(8)]
    base = step.styled.base.base_model.model
    with torch.no_grad():
        one, other = (answer_hidden(base, rows.batch, torch.randn(8, 16, 32)) for _ in range(2))
    differs = (one - other).abs().amax((1, 2)) > 1e-6
    assert torch.equal(differs, (rows.batch.style_slots >= 0).any(1))


def test_a_sample_is_the_same_in_any_batch_and_any_process(root):
    chosen = samples(root, Draws(seed=1, noise=0.1, context_drop=0.3, views=Views(shuffle=2, flip=0.5)))
    together = chosen[range(2, 8)]
    for place, number in enumerate(range(2, 8)):
        alone = chosen[range(number, number + 1)]
        length = alone.batch.ids.shape[1]
        assert torch.equal(alone.batch.ids[0], together.batch.ids[place, :length])
        assert torch.equal(alone.noise[0], together.noise[place])
        assert torch.equal(alone.pixels[0], together.pixels[place])


def test_another_seed_or_number_draws_other_noise_of_the_asked_strength(root):
    noise = samples(root, Draws(seed=1, noise=0.1))[range(16)].noise
    assert noise.std().item() == pytest.approx(0.1, rel=0.05)
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, samples(root, Draws(seed=2, noise=0.1))[range(16)].noise)


def test_the_tokens_that_count_are_known_without_reading_the_samples(root):
    chosen = samples(root, Draws(seed=3, context_drop=0.5))
    assert chosen.predicted(range(1, 14)) == int((chosen[range(1, 14)].batch.labels != IGNORED).sum())


def test_the_asked_share_of_contexts_is_dropped(root):
    chosen = samples(root, Draws(context_drop=0.1))
    assert np.mean([chosen._begin(number)[1] for number in range(4000)]) == pytest.approx(0.1, abs=0.015)


@pytest.mark.parametrize("processes,micro_batch", [(1, 12), (2, 4), (3, 3), (4, 1)])
def test_processes_and_micro_batches_share_each_steps_samples_in_order(processes, micro_batch):
    shares = [list(parts_of_steps(range(5, 7), 12, micro_batch, process, processes)) for process in range(processes)]
    assert all(len(part) <= micro_batch for share in shares for part in share)
    by_step = len(shares[0]) // 2
    for step in range(2):
        parts = [part for share in shares for part in share[step * by_step : (step + 1) * by_step]]
        assert [number for part in parts for number in part] == list(range((5 + step) * 12, (6 + step) * 12))


def test_what_shares_a_forward_pass_is_of_like_length(root):
    chosen = samples(root)
    numbers = chosen.arranged(range(3, 15))
    lengths = [chosen[[number]].batch.ids.shape[1] for number in numbers]
    assert sorted(numbers) == list(range(3, 15)) and numbers != sorted(numbers)
    parts = list(parts_of_steps(range(1), 12, 4, 0, 1, chosen.arranged))
    assert [len(part) for part in parts] == [4, 4, 4]
    assert max(lengths[:4]) <= max(lengths[4:8]) <= max(lengths[8:])


def test_contrasted_samples_are_some_of_a_step_that_have_a_prompt_each_with_another_that_has_one(root):
    chosen = samples(root, Draws(seed=1, context_drop=0.3, pairs=4, batch=12))
    for step in range(5):
        told = [n for n in range(12 * step, 12 * step + 12) if not chosen._begin(n)[1]]
        found = chosen.contrasted(step)
        assert len(found) == 4 and {*found, *found.values()} <= {*told}
        assert all(number != lender for number, lender in found.items())
    assert {n // 6 % 2 for n in chosen.contrasted(0)} == {0, 1}  # both of two processes have some


def test_of_a_step_with_one_prompt_or_none_nothing_is_contrasted(root):
    chosen = samples(root, Draws(seed=1, context_drop=0.6, pairs=4, batch=3))
    counts = {sum(not chosen._begin(3 * step + n)[1] for n in range(3)): chosen.contrasted(step) for step in range(99)}
    assert {told: len(found) for told, found in counts.items()} == {0: 0, 1: 0, 2: 2, 3: 3}


def test_a_contrasted_sample_comes_again_under_the_style_of_one_that_may_be_in_another_pass(root):
    chosen = samples(root, Draws(seed=1, noise=0.1, pairs=2, batch=4, views=Views(flip=0.5)))
    number, lender = next(iter(chosen.contrasted(1).items()))
    rows, lent = chosen[[number]], chosen[[lender]]
    assert rows.again.tolist() == [0] and len(rows.batch.ids) == len(rows.noise) == 2
    assert all(torch.equal(value[0], value[1]) for value in (*vars(rows.batch).values(), rows.noise))
    assert torch.equal(rows.pixels[1], lent.pixels[0]) and not torch.equal(rows.pixels[0], lent.pixels[0])


def test_passes_have_equal_shares_of_the_contrasted_samples(root):
    chosen = samples(root, Draws(seed=1, pairs=4, batch=16))
    parts = list(parts_of_steps(range(2), 16, 8, 0, 1, chosen.arranged))
    assert [len(chosen[part].again) for part in parts] == [2, 2, 2, 2]


def test_the_order_of_samples_in_a_batch_changes_none_of_them(root):
    chosen = samples(root, Draws(seed=1, noise=0.1))
    mixed = chosen[[5, 2, 4]]
    assert torch.equal(mixed.noise[1], chosen[[2]].noise[0]) and torch.equal(mixed.pixels[0], chosen[[5]].pixels[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_refused_by_name(root, tmp_path, workers, monkeypatch):
    whole = tiny_tokens.example
    damage = {"encoded": b"no picture"}
    monkeypatch.setattr(tiny_tokens, "example", lambda n, *a: replace(whole(n, *a), **(damage if n == 2 else {})))
    tiny_tokens.write_tokens(tmp_path / "tokens", 4)
    loader = samples(tmp_path).loader(iter([range(0, 2), range(2, 4)]), workers)
    assert len(next(loader).noise) == 2
    with pytest.raises(BadInput, match=r"^The style picture of 0002 cannot be read"):
        next(loader)


def test_cached_features_are_used_unless_the_picture_is_changed(root):
    tiny_tokens.write_tokens(root / "cached", 4, features=True)
    chosen = samples(root, tokens="cached")
    cached = chosen[range(2)]
    assert cached.pixels is None
    assert torch.equal(cached.features[1], torch.from_numpy(chosen.tokens[1].features).float())
    changed = samples(root, Draws(views=Views(flip=1.0)), tokens="cached")[range(2)]
    assert changed.features is None and changed.pixels.shape == (2, 3, 16, 16)


def test_padding_to_a_multiple_changes_no_loss(root, step):
    features = torch.randn(3, 5, 24)
    with torch.no_grad():
        rows, padded = (samples(root, pad_to=pad)[range(3)] for pad in (1, 64))
        one, other = (step(r.batch, features, r.noise)[0] for r in (rows, padded))
    assert padded.batch.ids.shape[1] % 64 == 0
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_an_endless_caption_is_cut(root, tmp_path, monkeypatch):
    whole = tiny_tokens.example
    monkeypatch.setattr(tiny_tokens, "example", lambda *a: replace(whole(*a), caption="S" * 100_000))
    tiny_tokens.write_tokens(tmp_path / "tokens", 1)
    assert samples(tmp_path)[range(1)].batch.ids.shape[1] < 1500


def test_a_sample_reads_codes_wrong_in_a_share_of_its_own_and_predicts_its_own(root):
    plain, chosen = samples(root, Draws(seed=1)), samples(root, Draws(seed=1, misread=1.0))
    count = len(chosen.tokens)
    rows, before = chosen[range(count)], plain[range(count)]
    assert torch.equal(rows.batch.labels, before.batch.labels) and torch.equal(rows.noise, before.noise)
    codes = torch.isin(before.batch.labels, chosen.vocabulary.code_ids)
    read = [one.batch.ids.gather(1, one.batch.answer + 1) for one in (rows, before)]
    changed = read[0] != read[1]
    assert not (changed & ~codes).any() and torch.isin(read[0][codes], chosen.vocabulary.code_ids).all()
    shares = changed.sum(1) / codes.sum(1)
    assert shares.min() < 0.25 and shares.max() > 0.6 and len(shares.unique()) > count // 2
    places = torch.zeros_like(before.batch.ids, dtype=torch.bool).scatter(1, before.batch.answer + 1, codes)
    assert torch.equal(rows.batch.ids[~places], before.batch.ids[~places])
    few = samples(root, Draws(seed=1, misread=0.3))[range(count)].batch
    changed = few.ids.gather(1, few.answer + 1) != read[1]
    assert 0 < (changed.sum(1) / codes.sum(1)).max() < 0.45


def test_what_is_read_wrong_does_not_depend_on_micro_batches(root):
    chosen = samples(root, Draws(seed=1, misread=0.7))
    whole = chosen[range(4)].batch
    for number in range(4):
        alone = chosen[[number]].batch
        length = alone.ids.shape[1]
        assert torch.equal(alone.ids[0], whole.ids[number, :length])


def test_the_first_steps_show_the_first_tokens_of_a_picture_as_later_steps_do(root):
    whole, chosen = (
        samples(root, Draws(seed=1, batch=2)),
        samples(root, Draws(seed=1, batch=2, opening=Opening(steps=2, tokens=9))),
    )
    for number in range(6):
        cut, full = chosen[[number]].batch, whole[[number]].batch
        count = 9 if number < 4 else full.labels.shape[1]
        assert torch.equal(cut.labels, full.labels[:, :count]) and torch.equal(cut.answer, full.answer[:, :count])
        assert torch.equal(cut.ids, full.ids[:, : int(full.answer[0, count - 1]) + 2])
        assert chosen.predicted(range(number, number + 1)) == int((cut.labels != IGNORED).sum())
    lengths = np.minimum(chosen.tokens.lengths, 9) + chosen.tokens.condition_lengths
    assert [lengths[number] for number in chosen.arranged(range(2))] == sorted(lengths[:2])


def test_the_asked_share_of_style_tokens_is_zero_and_those_of_a_sample_are_always_the_same(root, step):
    chosen = samples(root, Draws(seed=1, style_drop=0.3))
    rows = chosen[range(64)]
    assert 1 - rows.kept.float().mean() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(chosen[[5]].kept[0], rows.kept[5]) and samples(root, Draws(seed=1))[range(4)].kept.all()
    rows, seen = chosen[range(3)], []
    handle = step.styled.base.base_model.model.model.register_forward_pre_hook(
        lambda _, args, given: seen.append(given["inputs_embeds"]), with_kwargs=True
    )
    step(rows.batch, torch.randn(3, 5, 24), rows.noise, rows.kept)
    handle.remove()
    for row, slots, kept in zip(seen[0], rows.batch.style_slots, rows.kept, strict=True):
        assert torch.equal(row[slots].abs().amax(1) > 0, kept)


def test_relative_noise_grows_with_the_tokens(root, step):
    rows, features = samples(root, Draws(seed=1, noise=0.5))[range(3)], torch.randn(3, 5, 24)

    def lost(scale, relative):
        """How much the noise changes the loss where the tokens are so many times as large."""
        norm, tried = step.styled.resampler.norm_out, Step(step.styled, 16, relative)
        kept = norm.weight.clone(), norm.bias.clone()
        with torch.no_grad():
            norm.weight.mul_(scale), norm.bias.mul_(scale)
            plain, noisy = (tried(rows.batch, features, noise)[0] for noise in (0 * rows.noise, rows.noise))
            norm.weight.copy_(kept[0]), norm.bias.copy_(kept[1])
        return float((noisy - plain).abs().mean())

    assert lost(1e4, relative=False) < 0.1 * lost(1e4, relative=True)
