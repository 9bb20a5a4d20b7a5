"""Sampling draws the released code's pictures, each from its own seed, and stops and refuses as promised."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny_tokenizer import tiny_tokenizer_json

from stylear import drawing, sampling
from stylear.chameleon import Chameleon, expand_norms
from stylear.chameleon_config import ChameleonConfig
from stylear.drawing import Noise, SamplingSettings, draw, guide, keep_top
from stylear.errors import BadCheckpoint, BadInput, Cancelled
from stylear.lora import fold
from stylear.resampler import Resampler, ResamplerConfig
from stylear.sampling import embed_prompt, sample
from stylear.vocabulary import Prompt, Vocabulary

CODES = 24
GRID = (2, 3)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(tiny_tokenizer_json(codes=CODES, grids=4))


@pytest.fixture(scope="module")
def model(vocabulary) -> Chameleon:
    """A random decoder whose next code depends strongly on what it has read."""
    config = ChameleonConfig(
        vocab_size=vocabulary.size,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    generator = torch.Generator().manual_seed(0)
    model = Chameleon(config).requires_grad_(False)
    for name, weight in model.named_parameters():
        weight.copy_(("norm" in name) + 0.4 * torch.randn(weight.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def start(model, vocabulary) -> torch.Tensor:
    style = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))
    return embed_prompt(model, vocabulary.prompt("a ship"), style)


def reading(model, start, vocabulary, codes, guided_by=None):
    """Guided logits [h * w, k] for every code of a finished picture, read at once without a cache between."""
    picture = model.embed(torch.tensor(vocabulary.image_ids(codes)))
    height, width = codes.shape
    places = [2 + row * (width + 1) + column for row in range(height) for column in range(width)]
    rows = []
    for prefix in (start, start[:0]):
        embeddings = torch.cat((prefix, picture))[None]
        hidden = model(embeddings, model.new_cache(1, embeddings.shape[1]))[0]
        rows.append(model.logits(hidden[len(prefix) :][places])[:, vocabulary.code_ids])
    conditional, unconditional = rows
    return conditional if guided_by is None else unconditional + guided_by * (conditional - unconditional)


@pytest.mark.parametrize("cfg", [0.0, 0.5, 3.0])
def test_greedy_codes_are_the_likeliest_of_a_plain_reading(model, vocabulary, start, cfg):
    codes = sample(model, vocabulary, start, GRID, [0], SamplingSettings(cfg=cfg, top_k=1))[0]
    assert codes.shape == (4, 6) and codes.dtype == torch.int64
    assert len(codes.unique()) > 3
    assert torch.equal(reading(model, start, vocabulary, codes, cfg).argmax(-1), codes.flatten())


def test_without_guidance_only_the_conditional_row_is_read(model, vocabulary, start, monkeypatch):
    rows = []
    monkeypatch.setattr(
        Chameleon,
        "new_cache",
        lambda self, *shape, new=Chameleon.new_cache: rows.append(shape[0]) or new(self, *shape),
    )
    codes = sample(model, vocabulary, start, GRID, [0], SamplingSettings(cfg=1, top_k=1))[0]
    sample(model, vocabulary, start, GRID, [0], SamplingSettings(cfg=2, top_k=1))
    assert rows == [1, 2]
    assert torch.equal(reading(model, start, vocabulary, codes).argmax(-1), codes.flatten())


def test_the_style_tokens_change_the_picture(model, vocabulary, start):
    other = embed_prompt(model, vocabulary.prompt("a ship"), torch.zeros(16, 32))
    settings = SamplingSettings(top_k=1)
    first, second = (sample(model, vocabulary, prompt, GRID, [0], settings) for prompt in (start, other))
    assert not torch.equal(first, second)


def test_the_same_seed_draws_the_same_picture_and_another_seed_another(model, vocabulary, start):
    settings = SamplingSettings(cfg=2.0)
    first, again, other = (sample(model, vocabulary, start, GRID, [seed], settings) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_picture_of_a_batch_is_the_picture_of_its_seed_alone(model, vocabulary, start):
    settings = SamplingSettings(cfg=2.0, top_k=12)
    batch = sample(model, vocabulary, start, GRID, [5, 6, 7], settings)
    for seed, codes in zip((5, 6, 7), batch, strict=True):
        assert torch.equal(sample(model, vocabulary, start, GRID, [seed], settings)[0], codes)


def test_sampling_leaves_the_global_random_state_alone(model, vocabulary, start):
    before = torch.get_rng_state()
    sample(model, vocabulary, start, (1, 1), [5], SamplingSettings())
    assert torch.equal(before, torch.get_rng_state())


def test_every_seed_comfyui_may_send_is_accepted(model, vocabulary, start):
    last = 2**64 - 1
    batch = sample(model, vocabulary, start, (1, 1), [last, last + 1], SamplingSettings(cfg=1))
    assert torch.equal(batch[1:], sample(model, vocabulary, start, (1, 1), [0], SamplingSettings(cfg=1)))


def test_a_portrait_is_taller_than_wide(model, vocabulary, start):
    assert sample(model, vocabulary, start, (3, 1), [0], SamplingSettings()).shape == (1, 6, 2)


def test_progress_counts_every_code_once(model, vocabulary, start):
    seen = []
    sample(model, vocabulary, start, GRID, [0], SamplingSettings(), progress=lambda *step: seen.append(step))
    assert seen == [(done, 24) for done in range(1, 25)]


def test_complete_rows_are_handed_out_as_they_will_stay(model, vocabulary, start):
    rows = {}
    codes = sample(model, vocabulary, start, GRID, [0, 1], SamplingSettings(), on_row=rows.__setitem__)
    assert list(rows) == [0, 1, 2, 3]
    assert all(torch.equal(so_far, codes[:, : row + 1]) for row, so_far in rows.items())


def test_a_preview_cannot_change_the_picture(model, vocabulary, start):
    settings = SamplingSettings()
    plain = sample(model, vocabulary, start, GRID, [0], settings)
    assert torch.equal(
        plain, sample(model, vocabulary, start, GRID, [0], settings, on_row=lambda _, so_far: so_far.zero_())
    )


@pytest.mark.parametrize("asked", [0, 1, 9])
def test_a_cancel_ends_the_call_before_another_code(model, vocabulary, start, asked):
    done = []
    with pytest.raises(Cancelled):
        sample(
            *(model, vocabulary, start, GRID, [0], SamplingSettings()),
            progress=lambda count, _: done.append(count),
            cancelled=lambda: len(done) >= asked,
        )
    assert len(done) == asked


@pytest.mark.parametrize("grid", [(0, 1), (1, 0), (-1, 1), (5, 1), (1, 5)])
def test_a_size_without_a_token_is_refused_with_the_limit(model, vocabulary, start, grid):
    with pytest.raises(BadInput, match="1 to 4 grid steps"):
        sample(model, vocabulary, start, grid, [0], SamplingSettings())


def test_a_picture_longer_than_the_models_positions_is_refused_with_the_limit(model, vocabulary, start):
    with pytest.raises(BadInput, match="4 x 4 grid steps takes 75 tokens .* 64"):
        sample(model, vocabulary, start, (4, 4), [0], SamplingSettings())


def test_no_seed_is_refused(model, vocabulary, start):
    with pytest.raises(BadInput, match="seed"):
        sample(model, vocabulary, start, GRID, [], SamplingSettings())


def test_logits_that_are_not_numbers_are_reported_and_not_drawn_from(model, vocabulary, start):
    with pytest.raises(BadCheckpoint, match="not finite"):
        sample(model, vocabulary, start * math.nan, GRID, [0], SamplingSettings())


@pytest.mark.parametrize("shape", [(15, 32), (16, 31), (1, 16, 32)])
def test_style_tokens_of_another_model_are_refused_with_both_shapes(model, vocabulary, shape):
    with pytest.raises(BadInput, match=r"\[16, 32\]"):
        embed_prompt(model, vocabulary.prompt("a ship"), torch.zeros(shape))


def test_style_tokens_stand_at_their_places_and_nowhere_else(model, vocabulary):
    prompt = vocabulary.prompt("a * star")
    style = torch.randn(16, 32, generator=torch.Generator().manual_seed(2))
    embeddings, slots = embed_prompt(model, prompt, style), list(prompt.style_slots)
    assert torch.equal(embeddings[slots], style)
    others = [place for place in range(len(prompt.ids)) if place not in slots]
    assert torch.equal(embeddings[others], model.embed(torch.tensor(prompt.ids))[others])


@pytest.mark.parametrize("name", ["cfg", "top_k", "temperature"])
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, -1, 1e9 + 0.5, "3", None, True, 10**400],
    ids=lambda value: str(value)[:12],
)
def test_settings_that_are_no_sensible_numbers_are_refused_by_name(name, value):
    with pytest.raises(BadInput, match=name):
        SamplingSettings(**{name: value})


@pytest.mark.parametrize("settings", [{"top_k": 0}, {"top_k": 1.5}, {"temperature": 0}, {"temperature": 1e-9}])
def test_settings_just_outside_their_range_are_refused(settings):
    with pytest.raises(BadInput, match=next(iter(settings))):
        SamplingSettings(**settings)


def test_the_defaults_are_those_of_the_released_scripts():
    assert SamplingSettings() == SamplingSettings(cfg=4.0, top_k=2000, temperature=1.0)


def noise_of(seeds, codes: int, temperature: float = 1.0) -> torch.Tensor:
    """The noise [n, codes] of the first place of a picture of each seed."""
    noise = Noise(list(seeds), codes, temperature, 1, torch.device("cpu"))
    for picture in range(len(seeds)):
        noise.reach(picture, 1)
    return torch.cat([noise.at(picture, 0, 1) for picture in range(len(seeds))])


def test_top_k_beyond_the_vocabulary_keeps_everything():
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    for top_k in (3, 4, 10**12):
        assert torch.equal(keep_top(logits, top_k), logits)


def test_codes_as_likely_as_the_last_kept_stay():
    kept = keep_top(torch.tensor([[3.0, 1.0, 2.0, 2.0, 0.0]]), 2)
    assert torch.equal(kept.isfinite(), torch.tensor([[True, False, True, True, False]]))


@pytest.mark.parametrize("temperature", [0.001, 1000.0])
@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_extreme_temperatures_and_logits_still_draw_kept_codes_only(temperature, scale):
    logits = scale * torch.tensor([[0.0, 3.0, -5.0, 2.0]]).expand(50, -1)
    drawn = draw(logits, noise_of(range(50), 4, temperature), top_k=2)
    assert set(drawn.tolist()) == ({1} if temperature < 1 or scale > 1 else {1, 3})


def test_one_logit_row_draws_by_its_law():
    """A chi-square test at p = 0.001 with 4 degrees of freedom, after guidance, top-k and temperature."""
    logits = torch.tensor([0.0, 1.0, 0.5, -0.5, 2.0, -3.0])
    settings = SamplingSettings(cfg=2.0, top_k=5, temperature=1.5)
    guided = guide(torch.stack((logits, torch.zeros(6))), tuple(settings.weights().values()))
    draws = 4000
    drawn = draw(guided.expand(draws, -1), noise_of(range(draws), 6, settings.temperature), settings.top_k)
    law = (2 * logits[:5] / 1.5).softmax(0)
    counts = drawn.bincount(minlength=6)
    assert counts[5] == 0
    assert ((counts[:5] - draws * law).square() / (draws * law)).sum() < 18.47


def test_a_draw_is_torch_multinomials_with_the_same_generator():
    logits = torch.randn(1, 100, generator=torch.Generator().manual_seed(3))
    for seed in range(20):
        expected = torch.multinomial(logits.softmax(-1), 1, generator=torch.Generator().manual_seed(seed))
        drawn = draw(logits, noise_of([seed], 100), 2000)
        assert int(drawn) == int(expected)


def test_noise_is_never_zero_so_that_no_dropped_code_can_win(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self, **_: self.zero_())
    assert (drawing.exponential(4, torch.Generator()) > 0).all()
    assert draw(torch.tensor([[0.0, 5.0, 1.0]]), noise_of([0], 3), top_k=2).tolist() == [1]


@pytest.fixture(scope="session")
def released(golden) -> SimpleNamespace:
    """The recorded tiny checkpoint: vocabulary, and a decoder for each LoRA."""
    base = golden / "tiny/Alpha-VLLM/Lumina-mGPT-7B-768"
    config = ChameleonConfig.from_json(base / "config.json")
    weights = expand_norms(load_file(base / "model.safetensors"), config)
    models = {}
    for name in ("stylear_models", "stylear_models/Depth_condition"):
        models[name] = Chameleon(config).requires_grad_(False)
        models[name].load_state_dict(fold(weights, load_file(golden / "tiny" / name / "model.safetensors")))
    return SimpleNamespace(vocabulary=Vocabulary.from_file(base / "tokenizer.json"), models=models)


def split(generated: list[int], released) -> tuple[tuple[int, int], torch.Tensor]:
    """Grid and codes [h, w] of a recorded answer."""
    height, width = (token - released.vocabulary.grid_id(1) + 1 for token in generated[1:3])
    new_line, end = released.vocabulary.new_line, released.vocabulary.image_end
    body = [token - 4 for token in generated[3 : generated.index(end)] if token != new_line]
    return (height, width), torch.tensor(body).view(2 * height, 2 * width)


def recording(golden, name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    return json.loads((golden / f"{name}.json").read_text()), load_file(golden / f"{name}.safetensors")


def recorded_prompt(recorded: dict) -> Prompt:
    return Prompt(tuple(recorded["prompt_ids"]), tuple(recorded["style_index"]))


CASES = ["case_a_style", "case_b_style_subtract", "case_c_style_depth", "case_d_forced_128x128"]


@pytest.mark.parametrize("case", CASES)
def test_golden_greedy_codes_are_the_released_ones(golden, released, case):
    recorded, tensors = recording(golden, case)
    grid, expected = split(recorded["generated_ids"], released)
    model = released.models[recorded["lora"]]
    start = embed_prompt(model, recorded_prompt(recorded), tensors["style_tokens"][0])
    settings = SamplingSettings(cfg=recorded["cfg"], top_k=1)
    assert torch.equal(sample(model, released.vocabulary, start, grid, [0], settings)[0], expected)


@pytest.mark.parametrize("case", CASES[:3])
def test_golden_logits_after_guidance_and_top_k_are_within_1e_4(golden, released, case):
    recorded, tensors = recording(golden, case)
    codes = released.vocabulary.code_ids
    for step in recorded["full_steps"]:
        at = f"step{step:03d}"
        if f"{at}.after_cfg" not in tensors or step == recorded["newline_step"]:
            continue
        rows = torch.stack([tensors[f"{at}.{name}"][codes] for name in ("cond", "uncond")])
        guided = guide(rows, (recorded["cfg"], 1 - recorded["cfg"]))
        torch.testing.assert_close(guided[0], tensors[f"{at}.after_cfg"][codes], atol=1e-4, rtol=0)
        torch.testing.assert_close(guided[0], tensors[f"{at}.after_mask"][codes], atol=1e-4, rtol=0)
        kept, expected = keep_top(guided, recorded["image_top_k"])[0], tensors[f"{at}.after_topk"][codes]
        torch.testing.assert_close(kept, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", CASES[:3])
def test_golden_steps_of_the_loop_see_the_released_logits(golden, released, case, monkeypatch):
    """The cached two-row logits of each recorded code, as sample() itself computes them."""
    recorded, tensors = recording(golden, case)
    grid, _ = split(recorded["generated_ids"], released)
    model = released.models[recorded["lora"]]
    seen = []
    monkeypatch.setattr(sampling, "guide", lambda logits, weights: seen.append(logits) or guide(logits, weights))
    start = embed_prompt(model, recorded_prompt(recorded), tensors["style_tokens"][0])
    sample(model, released.vocabulary, start, grid, [0], SamplingSettings(cfg=recorded["cfg"], top_k=1))
    codes = [step for step in range(3, recorded["eos_image_step"]) if (step - 2) % (2 * grid[1] + 1)]
    compared = 0
    for logits, step in zip(seen, codes, strict=True):
        for row, name in enumerate(("cond", "uncond")):
            if f"step{step:03d}.{name}" in tensors:
                expected = tensors[f"step{step:03d}.{name}"][released.vocabulary.code_ids]
                torch.testing.assert_close(logits[row, 0], expected, atol=1e-4, rtol=0)
                compared += 1
    assert compared == 6


EXTRA = [
    *("cfg1_greedy", "cfg3_greedy", "topk1_sampled", "depth_and_subtract_greedy"),
    *("sampled_noise0.3_seed1234", "sampled_noise0_seed7_topk50_T0.8", "sampled_sub_noise0.1_seed99"),
]


@pytest.mark.parametrize("name", EXTRA)
def test_golden_extra_codes_are_the_released_ones(golden, released, name, monkeypatch):
    """Settings other than the defaults; sampled cases get the very noise that torch.multinomial drew."""
    recorded = {case["name"]: case for case in json.loads((golden / "extra_cases.json").read_text())["cases"]}[name]
    arguments = {"cfg": 4.0, "greedy": True, "image_top_k": 2000, "noise": 0.0, "temperature": 1.0, "seed": 0}
    arguments |= recorded["args"]
    grid, expected = split(recorded["generated_ids"], released)
    model, vocabulary = released.models[recorded["lora"]], released.vocabulary
    official = torch.Generator().manual_seed(arguments["seed"])
    style = extra_style(golden, recorded) + arguments["noise"] * torch.randn(16, 64, generator=official)
    for _ in range(3):
        torch.empty(vocabulary.size).exponential_(generator=official)
    drawn = []

    def released_noise(count: int, _: torch.Generator) -> torch.Tensor:
        if drawn and len(drawn) % (2 * grid[1]) == 0:
            torch.empty(vocabulary.size).exponential_(generator=official)  # the new line's
        drawn.append(torch.empty(vocabulary.size).exponential_(generator=official)[vocabulary.code_ids])
        return drawn[-1]

    monkeypatch.setattr(drawing, "exponential", released_noise)
    top_k = 1 if arguments["greedy"] else arguments["image_top_k"]
    settings = SamplingSettings(arguments["cfg"], top_k, arguments["temperature"])
    condition = None
    if recorded.get("cond_images"):
        condition = load_file(golden / "components.safetensors")["encode.depth_codes"].long()
    start = embed_prompt(model, vocabulary.prompt(recorded["prompt"], condition), style)
    assert torch.equal(sample(model, vocabulary, start, grid, [0], settings)[0], expected)
    assert len(drawn) == (0 if top_k == 1 else expected.numel())


def extra_style(golden, recorded: dict) -> torch.Tensor:
    """Style tokens [16, 64] of an extra case before noise; depth with subtraction has none recorded."""
    if recorded["name"] != "depth_and_subtract_greedy":
        same = "case_b_style_subtract" if len(recorded["clip_images"]) == 2 else "case_a_style"
        return recording(golden, same)[1]["style_tokens"][0]
    weights = torch.load(golden / "tiny/stylear_models/Depth_condition/image_proj.pth", weights_only=True)
    resampler = Resampler(ResamplerConfig.from_state_dict(weights)).requires_grad_(False)
    resampler.load_state_dict(weights)
    features = recording(golden, "case_b_style_subtract")[1]["clip_hidden_penultimate"]
    whole, content = features[:1], features[1:]
    return (0.2 * resampler(whole) + 0.8 * resampler(whole - 0.8 * content))[0]
