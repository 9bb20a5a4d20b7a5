"""What training computes its loss on is what the engine draws from."""

import numpy as np
import pytest
import torch
from tiny_tokenizer import tiny_tokenizer_json

from stylear.chameleon import Chameleon
from stylear.chameleon_config import ChameleonConfig
from stylear.checkpoint import trained_size, trained_words
from stylear.sampling import embed_prompt
from stylear.vocabulary import Vocabulary
from training.hf_model import answer_logits, build_chameleon, load_base, save_base
from training.sequences import IGNORED, PictureTokens, answer_loss, assemble, contrast_loss, misread


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(tiny_tokenizer_json())


@pytest.fixture(scope="module")
def model(vocabulary):
    torch.manual_seed(0)
    return build_chameleon(vocabulary.size, 32, 2, 2, 48, 1024).eval()


@pytest.fixture
def pictures(vocabulary):
    codes = np.random.default_rng(0).integers(0, 1024, (3, 4, 6)).astype(np.int16)
    return PictureTokens(codes, vocabulary)


def test_a_picture_answers_as_the_engine_lays_it_out(vocabulary, pictures):
    tokens = pictures[[2]][0].tolist()
    assert tokens[:-1] == vocabulary.image_ids(torch.from_numpy(pictures.codes[2].astype(np.int64)))
    assert tokens[-1] == vocabulary.end_of_turn


def test_the_loss_of_a_batch_is_the_cross_entropy_of_the_engines_logits(vocabulary, model, pictures):
    prompts = [vocabulary.prompt("a cat"), None, vocabulary.prompt("the palm tree")]
    batch = assemble(prompts, pictures[[0, 1, 2]], 400)
    style = torch.randn(3, 16, 32)
    with torch.no_grad():
        ours = answer_loss(answer_logits(model, batch, style), batch.labels)
        engine = Chameleon(ChameleonConfig.from_dict(model.config.to_dict()))
        engine.load_state_dict({k: v for k, v in model.state_dict().items() if ".vqmodel." not in k})
        logits, labels = [], []
        for prompt, picture, tokens in zip(prompts, pictures[[0, 1, 2]], style, strict=True):
            lead = engine.embed(picture[:0]) if prompt is None else embed_prompt(engine, prompt, tokens)
            read = torch.cat([lead, engine.embed(picture)])
            out = engine.logits(engine(read[None], engine.new_cache(1, len(read))))[0]
            first = 1 if prompt is None else 0  # nothing stands before a dropped context's start
            logits.append(out[len(lead) - 1 + first : -1])
            labels.append(picture[first:])
    expected = torch.nn.functional.cross_entropy(torch.cat(logits), torch.cat(labels))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_a_dropped_context_begins_with_the_picture_and_does_not_predict_its_start(vocabulary, pictures):
    batch = assemble([None], pictures[[0]], 16)
    assert batch.ids[0, 0] == vocabulary.image_start
    assert batch.labels[0, 0] == IGNORED and (batch.labels[0, 1:] != IGNORED).all()


def test_only_the_style_slots_of_rows_with_a_prompt_are_overwritten(vocabulary, model, pictures):
    batch = assemble([vocabulary.prompt("a * b"), None], pictures[[0, 1]], 400)
    with torch.no_grad():
        plain = answer_logits(model, batch)
        styled = answer_logits(model, batch, torch.randn(2, 16, 32))
    assert not torch.allclose(plain[0], styled[0])
    torch.testing.assert_close(plain[1], styled[1])


def test_a_prompt_longer_than_its_place_is_refused(vocabulary, pictures):
    with pytest.raises(ValueError, match="does not fit 20"):
        assemble([vocabulary.prompt("a cat")], pictures[[0]], 20)


def test_the_z_loss_adds_the_square_of_the_log_normaliser():
    logits, labels = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]]), torch.tensor([[0, IGNORED]])
    z = torch.logsumexp(logits[0, 0], 0)
    torch.testing.assert_close(answer_loss(logits, labels, 0.5), (z - 2) + 0.5 * z**2)


def test_a_saved_base_comes_back_as_it_was(tmp_path, vocabulary, model):
    save_base(model, tiny_tokenizer_json(), tmp_path, 64, ["cat"])
    assert trained_size(tmp_path) == 64 and trained_words(tmp_path) == ("cat",)
    again, _ = load_base(tmp_path)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight.half().float())


def test_the_contrast_is_small_where_the_right_prompt_makes_its_picture_likelier():
    labels = torch.tensor([[0, IGNORED], [1, 0], [0, IGNORED]])
    logits = torch.zeros(3, 2, 2)
    logits[0, 0] = torch.tensor([4.0, -4.0])
    told = logits[0, 0].log_softmax(0)[0] - logits[2, 0].log_softmax(0)[0]
    expected = torch.nn.functional.softplus(-0.5 * told)
    torch.testing.assert_close(contrast_loss(logits, labels, 1, 0.5), expected)
    assert contrast_loss(logits.flip(0), labels.flip(0), 1, 0.5) > expected


def test_codes_read_wrong_are_others_of_the_same_picture_and_nothing_else_changes(vocabulary, pictures):
    batch = assemble([vocabulary.prompt("a cat"), None, vocabulary.prompt("the palm tree")], pictures[[0, 1, 2]], 400)
    codes = torch.isin(torch.arange(vocabulary.size), vocabulary.code_ids)
    rng = np.random.default_rng(0)
    read = misread(batch, codes, np.array([1.0, 1.0, 0.0]), rng)
    assert torch.equal(read.labels, batch.labels) and torch.equal(read.answer, batch.answer)
    assert torch.equal(read.ids[2], batch.ids[2])
    changed = read.ids != batch.ids
    assert codes[batch.ids[changed]].all()
    for row in (0, 1):
        assert changed[row].sum() > 12  # of 24
        assert set(read.ids[row, changed[row]].tolist()) <= set(batch.labels[row].tolist())


def test_a_share_of_the_codes_is_read_wrong(vocabulary):
    codes = np.random.default_rng(0).integers(0, 1024, (8, 16, 16))
    batch = assemble([None] * 8, PictureTokens(codes, vocabulary)[range(8)], 4)
    mask = torch.isin(torch.arange(vocabulary.size), vocabulary.code_ids)
    read = misread(batch, mask, np.full(8, 0.25), np.random.default_rng(0))
    share = (read.ids != batch.ids).sum().item() / (8 * 256)
    assert 0.18 < share < 0.28


def test_a_picture_that_comes_again_is_misread_at_the_same_places(vocabulary, pictures):
    prompts = [vocabulary.prompt("a cat"), None, vocabulary.prompt("the palm tree")]
    batch = assemble(prompts, pictures[[0, 1, 0]], 400)
    mask = torch.isin(torch.arange(vocabulary.size), vocabulary.code_ids)
    read = misread(batch, mask, np.array([0.5, 0.5]), np.random.default_rng(0))
    places = batch.answer[:, 1:] + 1
    first, _, again = read.ids.gather(1, places)
    assert torch.equal(first, again) and not torch.equal(first, batch.labels[0, 1:])
