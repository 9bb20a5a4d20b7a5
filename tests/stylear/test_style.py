"""Style tokens follow the paper's formula, cannot be changed, and come back from disk as they were."""

import itertools
import json
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from stylear import style as style_module
from stylear.encoder import EncoderConfig, ImageEncoder
from stylear.errors import BadCheckpoint, BadInput, MissingPart
from stylear.images import open_image
from stylear.resampler import Resampler, ResamplerConfig
from stylear.style import MAX_SAVED, StyleTokens, blend, enhance, resample

DRAW = torch.Generator().manual_seed(0)
FEATURES, CONTENT = torch.randn(2, 9, 12, generator=DRAW)
TOKENS = torch.randn(4, 24, generator=DRAW)


@pytest.fixture(scope="module")
def resampler():
    torch.manual_seed(0)
    return Resampler(ResamplerConfig(features=12, width=32, depth=1, heads=1, tokens=4, output=24)).eval()


@pytest.fixture
def style():
    return StyleTokens(TOKENS, FEATURES)


@pytest.fixture(scope="module")
def released(golden):
    """The recorded run's resampler, and the features of its two pictures."""
    folder = golden / "tiny/laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    config = EncoderConfig.from_hf_config(json.loads((folder / "config.json").read_text()))
    encoder = ImageEncoder.from_state_dict(load_file(folder / "model.safetensors"), config)
    weights = torch.load(golden / "tiny/stylear_models/image_proj.pth", weights_only=True)
    resampler = Resampler(ResamplerConfig.from_state_dict(weights))
    resampler.load_state_dict(weights)
    pictures = [open_image(golden / "inputs" / name) for name in ("style.png", "subtract.png")]
    return resampler, *map(encoder.encode, pictures)


def test_golden_style_tokens_are_the_released_ones(golden, released):
    resampler, features, _ = released
    recorded = load_file(golden / "case_a_style.safetensors")["style_tokens"]
    torch.testing.assert_close(resample(resampler, features), recorded, atol=1e-5, rtol=0)


def test_golden_subtracted_style_tokens_are_the_released_ones(golden, released):
    recorded = load_file(golden / "case_b_style_subtract.safetensors")["style_tokens"][0]
    torch.testing.assert_close(enhance(*released), recorded, atol=1e-5, rtol=0)


def test_the_formula_mixes_the_whole_and_the_subtracted_style(resampler):
    with torch.no_grad():
        whole, cleaned = resampler(FEATURES[None])[0], resampler((FEATURES - 0.5 * CONTENT)[None])[0]
    mixed = enhance(resampler, FEATURES, CONTENT, alpha=0.25, beta=0.5)
    torch.testing.assert_close(mixed, 0.25 * whole + 0.75 * cleaned, atol=1e-5, rtol=0)
    assert mixed.shape == (4, 24) and mixed.dtype == torch.float32


def test_without_subtraction_the_formula_is_the_plain_style(resampler):
    plain = resample(resampler, FEATURES)[0]
    for settings in ({"alpha": 1.0}, {"beta": 0.0}):
        mixed = enhance(resampler, FEATURES, CONTENT, **settings)
        torch.testing.assert_close(mixed, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["alpha", "beta"])
@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), "much", 1e39, -1001, True, 10**400], ids=lambda value: str(value)[:12]
)
def test_weights_that_are_no_sensible_numbers_are_refused(resampler, name, value):
    with pytest.raises(BadInput, match=f"{name} is .* from -1000 to 1000"):
        enhance(resampler, FEATURES, CONTENT, **{name: value})


def test_features_of_another_encoder_are_refused_with_both_shapes(resampler):
    with pytest.raises(BadInput, match=r"\[9, 12\], content \[8, 12\]"):
        enhance(resampler, FEATURES, CONTENT[:8])
    with pytest.raises(BadInput, match=r"\[9, 5\], the resampler reads \[N, 12\]"):
        resample(resampler, FEATURES[:, :5])


def test_noise_is_gamma_times_the_seeds_normal_numbers(style):
    noise = torch.randn(4, 24, generator=torch.Generator().manual_seed(7))
    assert torch.equal(style.with_noise(0.3, 7).tokens, TOKENS + 0.3 * noise)


def test_noise_neither_reads_nor_moves_the_global_generator(style):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = style.with_noise(0.1, seed=2**64 - 1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(first.tokens, style.with_noise(0.1, seed=2**64 - 1).tokens)


def test_noise_makes_a_new_style_and_keeps_the_features(style):
    noisy = style.with_noise(np.float32(0.5), np.int64(3))
    assert not torch.equal(noisy.tokens, style.tokens) and torch.equal(style.tokens, TOKENS)
    assert torch.equal(noisy.features, FEATURES)
    assert torch.equal(style.with_noise(0, 3).tokens, TOKENS)


@pytest.mark.parametrize(
    "gamma", [-0.1, float("nan"), float("inf"), None, 1e39, False, 10**400], ids=lambda value: str(value)[:12]
)
def test_a_strength_of_noise_that_makes_no_sense_is_refused(style, gamma):
    with pytest.raises(BadInput, match="gamma"):
        style.with_noise(gamma, 0)


@pytest.mark.parametrize("seed", [-1, 2**64, 0.5, "1", None, torch.tensor(2.0), True])
def test_a_seed_that_is_none_is_refused(style, seed):
    with pytest.raises(BadInput, match="seed"):
        style.with_noise(0.1, seed)


def test_a_style_cannot_be_changed_from_outside():
    tokens, features = TOKENS.clone(), FEATURES.clone()
    style = StyleTokens(tokens, features)
    tokens.zero_()
    features.zero_()
    assert torch.equal(style.tokens, TOKENS) and torch.equal(style.features, FEATURES)
    with pytest.raises(AttributeError):
        style.tokens = tokens


def test_a_style_is_single_precision_and_outside_the_graph():
    style = StyleTokens(TOKENS.half().requires_grad_())
    assert style.tokens.dtype == torch.float32 and not style.tokens.requires_grad
    assert "[4, 24]" in repr(style) and "NoneType" in repr(style)


NOT_PLAIN = [
    TOKENS.to_sparse(),
    TOKENS.to("meta"),
    torch.quantize_per_tensor(TOKENS, 0.1, 0, torch.qint8),
    TOKENS.to(torch.complex64),
]


@pytest.mark.parametrize("tokens", [None, TOKENS[0], TOKENS[:0], TOKENS / 0, [[1.0]], *NOT_PLAIN])
def test_what_cannot_be_a_style_is_refused(tokens):
    with pytest.raises(BadInput, match="Style tokens"):
        StyleTokens(tokens)


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "picture", [PIXELS, torch.from_numpy(PIXELS), torch.from_numpy(PIXELS)[None] / 255, Image.fromarray(PIXELS)]
)
def test_the_reference_may_be_any_picture_and_is_kept_as_eight_bit_rgb(picture):
    kept = StyleTokens(TOKENS, picture=picture).picture
    assert kept.dtype == torch.uint8 and np.array_equal(kept, PIXELS)


@pytest.mark.parametrize("picture", ["x", 5, torch.zeros(3), torch.zeros(2, 5, 7, 3), torch.zeros(5, 7, 2)])
def test_a_reference_that_is_no_picture_is_refused(picture):
    with pytest.raises(BadInput, match="style picture"):
        StyleTokens(TOKENS, picture=picture)


def test_another_reading_of_a_style_shares_its_picture_and_features():
    style = StyleTokens(TOKENS, FEATURES, PIXELS)
    noisy = style.with_noise(0.1, 0)
    assert noisy.picture.data_ptr() == style.picture.data_ptr()
    assert noisy.features.data_ptr() == style.features.data_ptr()


def test_a_blend_is_the_weighted_mean_and_only_the_ratio_of_weights_counts(style):
    other = StyleTokens(TOKENS.flip(0), FEATURES, PIXELS)
    mixed = blend([style, other], [3, 1])
    torch.testing.assert_close(mixed.tokens, 0.75 * TOKENS + 0.25 * TOKENS.flip(0), atol=1e-6, rtol=0)
    assert torch.equal(blend([style, other], [0.75, 0.25]).tokens, mixed.tokens)
    assert torch.equal(blend([style, other]).tokens, blend([style, other], [7, 7]).tokens)
    assert mixed.features is None and mixed.picture is None


def test_the_order_of_the_styles_does_not_change_a_bit_of_the_blend():
    draw = torch.Generator().manual_seed(1)
    styles = [StyleTokens(10.0**scale * torch.randn(4, 24, generator=draw)) for scale in (-3, 0, 1, 4)]
    weights = [0.1, 0.7, 3.0, 1e-3]
    blends = [
        blend([styles[place] for place in order], [weights[place] for place in order]).tokens
        for order in itertools.permutations(range(4))
    ]
    assert all(torch.equal(one, blends[0]) for one in blends)


def test_a_style_that_alone_has_a_weight_is_the_blend_and_keeps_what_it_has(style):
    assert blend([style]) is style
    assert blend([StyleTokens(TOKENS.flip(0)), style], [0, 2]) is style


@pytest.mark.parametrize(
    ("tokens", "weights", "reason"),
    [
        ([], None, "Connect one style or several"),
        ([TOKENS, TOKENS], [1], "there are 2 of these and 1 in weights"),
        ([TOKENS, TOKENS], [0, 0], "All weights are 0"),
        ([TOKENS, TOKENS], [1, -1], "A weight is -1"),
        ([TOKENS, TOKENS], [1, float("nan")], "A weight is nan"),
        ([TOKENS, TOKENS[:, :5]], None, r"\[4, 24\] and \[4, 5\]"),
    ],
)
def test_what_cannot_be_blended_is_refused_with_the_reason(tokens, weights, reason):
    with pytest.raises(BadInput, match=reason):
        blend([StyleTokens(one) for one in tokens], weights)


@pytest.mark.parametrize("features", [None, FEATURES])
def test_a_saved_style_comes_back_bit_for_bit(tmp_path, features):
    StyleTokens(TOKENS, features).save(tmp_path / "neon.safetensors")
    loaded = StyleTokens.load(tmp_path / "neon.safetensors")
    assert torch.equal(loaded.tokens, TOKENS)
    assert loaded.features is None if features is None else torch.equal(loaded.features, features)
    assert [path.name for path in tmp_path.iterdir()] == ["neon.safetensors"]


def test_a_failed_save_leaves_the_older_file_whole(tmp_path, style, monkeypatch):
    path = tmp_path / "neon.safetensors"
    style.save(path)

    def full_disk(_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        style.with_noise(1.0, 0).save(path, overwrite=True)
    assert torch.equal(StyleTokens.load(path).tokens, TOKENS)
    assert [path.name for path in tmp_path.iterdir()] == ["neon.safetensors"]


def test_a_saved_style_is_not_written_over_unasked(tmp_path, style):
    path = tmp_path / "neon.safetensors"
    style.save(path)
    with pytest.raises(BadInput, match="there already"):
        style.with_noise(1.0, 0).save(path)
    assert torch.equal(StyleTokens.load(path).tokens, style.tokens)


def test_a_folder_that_is_not_there_is_named(tmp_path, style):
    with pytest.raises(BadInput, match="no folder .*absent"):
        style.save(tmp_path / "absent" / "neon.safetensors")


def test_a_style_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingPart, match="neon.safetensors"):
        StyleTokens.load(tmp_path / "neon.safetensors")


class Trap:
    """Makes a file, if it is ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_is_refused_and_not_executed(tmp_path):
    path = tmp_path / "neon.safetensors"
    path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(BadCheckpoint, match="not a saved style"):
        StyleTokens.load(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "tensors",
    [
        {"latents": TOKENS},
        {"tokens": TOKENS, "other": TOKENS.clone()},
        {"tokens": TOKENS[None].clone()},
        {"tokens": TOKENS / 0},
        {"features": FEATURES.clone()},
    ],
    ids=["other keys", "more keys", "three dimensions", "infinite", "no tokens"],
)
def test_another_safetensors_file_is_refused(tmp_path, tensors):
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(BadCheckpoint, match="other.safetensors"):
        StyleTokens.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize("kind", [None, "{", '"word"', '{"kind": "style tokens", "version": 99}'])
def test_a_style_file_of_another_version_is_refused(tmp_path, kind):
    save_file({"tokens": TOKENS}, tmp_path / "later.safetensors", None if kind is None else {"stylear": kind})
    with pytest.raises(BadCheckpoint, match="later.safetensors is not a saved style"):
        StyleTokens.load(tmp_path / "later.safetensors")


def test_a_truncated_style_file_is_refused(tmp_path, style):
    path = tmp_path / "neon.safetensors"
    style.save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BadCheckpoint, match="not a saved style"):
        StyleTokens.load(path)


def test_a_style_file_larger_than_any_style_is_refused_unread(tmp_path, style, monkeypatch):
    path = tmp_path / "neon.safetensors"
    style.save(path)
    with path.open("r+b") as file:
        file.truncate(MAX_SAVED + 1)
    monkeypatch.setattr(style_module, "safe_open", None)
    with pytest.raises(BadCheckpoint, match=f"a saved style has at most {MAX_SAVED}"):
        StyleTokens.load(path)
