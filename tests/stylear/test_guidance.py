"""Prompt and style are guided separately, by the docstring's formula; one scale for both is the released."""

import itertools

import pytest
import tiny
import torch
from test_window import random_model
from tiny_tokenizer import tiny_tokenizer_json

from stylear import BadInput, StyleAR, sampling
from stylear.drawing import SamplingSettings, guide
from stylear.sampling import embed_prompt, sample
from stylear.vocabulary import Vocabulary

GRID = (2, 2)
APART = SamplingSettings(2.0, 12, style_cfg=5.0)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(tiny_tokenizer_json(codes=24, grids=4))


@pytest.fixture(scope="module")
def decoder(vocabulary):
    return random_model(vocabulary, 0)


@pytest.fixture(scope="module")
def prompts(decoder, vocabulary) -> dict[str, torch.Tensor]:
    """The prompt in three styles."""
    generator = torch.Generator().manual_seed(1)
    template = vocabulary.prompt("a ship")
    names = ("styled", "plain", "negative")
    return {name: embed_prompt(decoder, template, torch.randn(16, 32, generator=generator)) for name in names}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> StyleAR:
    return StyleAR.load(tiny.write_bundle(tmp_path_factory.mktemp("bundle") / "model"), device="cpu")


@pytest.fixture(scope="module")
def style(model):
    return model.encode_style(torch.rand(20, 24, 3, generator=torch.Generator().manual_seed(0)))


def readings(decoder, vocabulary, prompts, codes) -> dict[str, torch.Tensor]:
    """The logits [h * w, k] of every code of a finished picture behind each prompt and behind none."""
    picture = decoder.embed(torch.tensor(vocabulary.image_ids(codes)))
    height, width = codes.shape
    places = [2 + row * (width + 1) + column for row in range(height) for column in range(width)]
    found = {}
    for name, prefix in {**prompts, "nothing": picture[:0]}.items():
        embeddings = torch.cat((prefix, picture))[None]
        hidden = decoder(embeddings, decoder.new_cache(1, embeddings.shape[1]))[0, len(prefix) :]
        found[name] = decoder.logits(hidden[places])[:, vocabulary.code_ids]
    return found


@pytest.mark.parametrize(("cfg", "style_cfg"), [(2.0, 5.0), (4.0, 1.5), (1.0, 3.0), (3.0, 0.0), (0.0, 2.0)])
def test_greedy_codes_are_the_likeliest_by_the_formula_of_three_readings(decoder, vocabulary, prompts, cfg, style_cfg):
    settings = SamplingSettings(cfg, top_k=1, style_cfg=style_cfg)
    codes = sample(decoder, vocabulary, prompts["styled"], GRID, [0], settings, plain=prompts["plain"])[0]
    read = readings(decoder, vocabulary, prompts, codes)
    guided = read["nothing"] + cfg * (read["plain"] - read["nothing"]) + style_cfg * (read["styled"] - read["plain"])
    assert len(codes.unique()) > 3 and torch.equal(guided.argmax(-1), codes.flatten())


@pytest.mark.parametrize(("cfg", "style_cfg"), [(2.0, 5.0), (4.0, None), (1.0, 3.0), (0.0, 2.0)])
def test_a_negative_style_takes_the_place_of_the_plain_prompt_that_the_style_departs_from(
    decoder, vocabulary, prompts, cfg, style_cfg
):
    settings = SamplingSettings(cfg, top_k=1, style_cfg=style_cfg)
    others = {name: prompts[name] for name in ("plain", "negative")}
    codes = sample(decoder, vocabulary, prompts["styled"], GRID, [0], settings, **others, window=8)[0]
    read, scale = readings(decoder, vocabulary, prompts, codes), cfg if style_cfg is None else style_cfg
    guided = read["nothing"] + cfg * (read["plain"] - read["nothing"]) + scale * (read["styled"] - read["negative"])
    assert len(codes.unique()) > 3 and torch.equal(guided.argmax(-1), codes.flatten())


def test_a_negative_style_that_is_empty_changes_nothing_and_one_that_is_the_style_leaves_the_plain_prompt(model, style):
    far, empty = style.with_noise(2.0, 0), style.with_tokens(model.empty_style())
    assert torch.equal(model.generate("a cat", far, negative=empty, top_k=1), model.generate("a cat", far, top_k=1))
    undone = model.generate("a cat", far, negative=far, top_k=1)
    assert torch.equal(undone, model.generate("a cat", empty, top_k=1))


def test_the_weights_of_the_readings_add_up_to_1():
    for cfg, style_cfg, negative in itertools.product((0, 1, 4.0), (None, 0, 1, 6.5), (False, True)):
        assert sum(SamplingSettings(cfg, style_cfg=style_cfg).weights(negative).values()) == 1


def rows_read(monkeypatch, call) -> int:
    """How many readings of each picture are in the cache of a call."""
    seen, init = [], sampling._Run.__init__
    monkeypatch.setattr(sampling._Run, "__init__", lambda run, *a: init(run, *a) or seen.append(len(run.begun)))
    call()
    monkeypatch.undo()
    return seen[0]


def test_one_scale_for_both_is_bit_for_bit_the_released_guidance_with_its_two_readings(
    decoder, vocabulary, prompts, monkeypatch
):
    asked = (decoder, vocabulary, prompts["styled"], GRID, [3, 4])
    for cfg in (1.0, 3.0):
        both, released = SamplingSettings(cfg, 12, style_cfg=cfg), SamplingSettings(cfg, 12)
        assert both.weights() == released.weights() == ({"styled": 1.0} if cfg == 1 else {"styled": 3, "nothing": -2})
        assert torch.equal(sample(*asked, both, plain=prompts["plain"]), sample(*asked, released))
        assert rows_read(monkeypatch, lambda s=both: sample(*asked, s, plain=prompts["plain"])) == len(both.weights())
    conditional, nothing = torch.randn(2, 1, 7, generator=torch.Generator().manual_seed(0))
    released = guide(torch.cat((conditional, nothing)), tuple(SamplingSettings(4.0).weights().values()))
    assert torch.equal(released, torch.lerp(nothing, conditional, 4.0))


@pytest.mark.parametrize("window", [3, 8, 16])
def test_with_two_scales_too_any_window_draws_the_same_picture(decoder, vocabulary, prompts, window):
    asked = (decoder, vocabulary, prompts["styled"], GRID, [0, 1], APART)
    several = sample(*asked, window=window, plain=prompts["plain"])
    assert torch.equal(several, sample(*asked, plain=prompts["plain"]))


def test_with_two_scales_too_a_picture_is_the_same_alone_and_in_a_batch(decoder, vocabulary, prompts):
    start, plain = prompts["styled"], prompts["plain"]
    batch = sample(decoder, vocabulary, start, GRID, range(4), APART, plain=plain, window=4)
    for seed, codes in enumerate(batch):
        assert torch.equal(sample(decoder, vocabulary, start, GRID, [seed], APART, plain=plain)[0], codes)


def test_a_style_scale_of_its_own_changes_the_picture_and_the_scale_of_the_prompt_does_not(model, style):
    released = model.generate("a cat", style, cfg=3.0)
    assert torch.equal(model.generate("a cat", style, cfg=3.0, style_cfg=3.0), released)
    assert not torch.equal(model.generate("a cat", style, cfg=3.0, style_cfg=9.0), released)


def test_without_any_guidance_of_the_style_its_tokens_do_not_matter(model, style):
    first, second = (model.generate("a cat", one, style_cfg=0) for one in (style, style.with_noise(1.0, 0)))
    assert torch.equal(first, second)


def test_the_empty_style_is_that_of_a_white_sheet(model):
    white = model.encode_style(torch.ones(9, 9, 3)).tokens
    torch.testing.assert_close(model.empty_style(), white, atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [-1, float("nan"), 1001, "much", True])
def test_a_style_scale_that_makes_no_sense_is_refused_by_its_name(model, style, value):
    with pytest.raises(BadInput, match="style_cfg is"):
        model.generate("a cat", style, style_cfg=value)


def test_the_strength_scales_how_far_a_style_is_from_the_empty_one(model, style):
    empty = model.empty_style()
    assert model.strengthen(style, 1) is style
    assert torch.equal(model.strengthen(style, 0).tokens, empty)
    tripled = model.strengthen(style, 3.0).tokens
    torch.testing.assert_close(tripled - empty, 3 * (style.tokens - empty), atol=1e-5, rtol=1e-5)
    assert model.strengthen(style, 3.0).features is style.features


def test_pictures_are_drawn_in_the_strengthened_style(model, style):
    far = style.with_noise(2.0, 0)
    asked = model.generate("a cat", far, style_strength=0.3)
    assert torch.equal(asked, model.generate("a cat", model.strengthen(far, 0.3)))
    assert not torch.equal(asked, model.generate("a cat", far))


@pytest.mark.parametrize("value", [-0.1, float("nan"), 1001, None, True])
def test_a_strength_that_makes_no_sense_is_refused_by_its_name(model, style, value):
    with pytest.raises(BadInput, match="style_strength is"):
        model.generate("a cat", style, style_strength=value)
