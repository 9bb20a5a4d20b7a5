"""StyleAR loads from every layout, and turns what it is given into pictures or a clear refusal."""

import gc
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import stylear
from stylear import BadCheckpoint, BadInput, Cancelled, MissingPart, StyleAR, StyleTokens, pipeline
from stylear.pace import Pace
from stylear.segment import content_picture
from stylear.vqgan import VQGAN

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))
OTHER = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 16, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny.write_bundle(tmp_path_factory.mktemp("bundle") / "model")


@pytest.fixture(scope="module")
def model(bundle):
    return StyleAR.load(bundle, device="cpu")


@pytest.fixture(scope="module")
def style(model):
    return model.encode_style(PICTURE)


# -- loading ---------------------------------------------------------------------------------------


def test_importing_the_library_does_not_import_torch():
    code = "import stylear, sys; sys.exit('torch' in sys.modules or stylear.BadInput.__name__ != 'BadInput')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603


def test_the_library_has_what_it_names_and_nothing_else():
    assert all(getattr(stylear, name) for name in stylear.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = stylear.Nothing


def test_mini_is_the_bundled_folder(bundle, monkeypatch):
    monkeypatch.setattr(pipeline, "MINI", bundle)
    assert StyleAR.load("mini").size == tiny.SIZE


def test_a_weight_written_to_in_inference_mode_draws_another_picture_whatever_the_window(bundle, style):
    with torch.inference_mode():
        loaded = StyleAR.load(bundle, device="cpu")
        before = loaded.generate("a cat", style, window=8)
        for layer in loaded.base.model.layers:
            layer.mlp.down_proj.weight.mul_(-3)
        after = [loaded.generate("a cat", style, window=window) for window in (1, 8)]
    assert torch.equal(*after) and not torch.equal(before, after[1])


def test_the_released_files_and_the_bundle_are_the_same_model(bundle, model, tmp_path):
    places = tiny.write_official(tmp_path)
    released = StyleAR.load(**places, device="cpu")
    assert released.segmenter is None and released.size == tiny.GRIDS * 8
    with pytest.raises(MissingPart, match=r"without a segmenter .*stylear download.*segmenter=PATH"):
        released.segment(PICTURE)
    difference = released.encode_style(PICTURE).tokens - model.encode_style(PICTURE).tokens
    assert difference.abs().max() < 0.02  # the bundle is in float16


def test_parts_that_are_not_given_are_searched_for_beside_the_base_file(bundle, tmp_path):
    for path in bundle.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".safetensors"):
            name = f"{path.parent.name}.safetensors" if path.name == "model.safetensors" else path.name
            (tmp_path / name).write_bytes(path.read_bytes())
    loaded = StyleAR.load(tmp_path / "base.safetensors", device="cpu")
    assert loaded.segmenter is not None and loaded.size == tiny.SIZE


@pytest.mark.parametrize("part", ["base", "adapter", "vqgan", "image_encoder", "segmenter"])
def test_a_part_that_is_not_where_it_was_said_to_be_is_missing(bundle, tmp_path, part):
    with pytest.raises(MissingPart, match="nowhere"):
        StyleAR.load(**{"base": bundle, part: tmp_path / "nowhere"})


def test_parts_of_different_models_are_refused_with_both_numbers(model, monkeypatch):
    wrong = VQGAN(replace(tiny.VQGAN_CONFIG, codes=99))
    with pytest.raises(BadCheckpoint, match="the VQGAN has as codes 99 and the tokenizer 24"):
        StyleAR(model.base, model.vocabulary, model.resampler, wrong, model.image_encoder)
    monkeypatch.setattr(model.vocabulary, "size", 9999)
    with pytest.raises(BadCheckpoint, match=f"9999 and the base {tiny.BASE_CONFIG['vocab_size']}"):
        StyleAR(model.base, model.vocabulary, model.resampler, model.vqgan, model.image_encoder)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, None])
def test_the_base_takes_the_dtype_and_the_small_parts_stay_float32(bundle, dtype):
    info = StyleAR.load(bundle, dtype=dtype, device="cpu").info()
    dtypes = {name: part["dtype"] for name, part in info["parts"].items()}
    assert dtypes.pop("base") == ("float32" if dtype is None else "bfloat16")
    assert set(dtypes.values()) == {"float32"} and dtypes.keys() == {
        "resampler",
        "vqgan",
        "image_encoder",
        "segmenter",
    }


def test_on_cuda_the_base_is_bfloat16_by_default():
    assert pipeline.to_dtype(None, torch.device("cuda")) is torch.bfloat16
    assert pipeline.to_dtype(None, torch.device("mps")) is torch.float32


@pytest.mark.parametrize("arguments", [{"dtype": "int8"}, {"dtype": torch.int64}, {"device": ""}])
def test_a_dtype_or_device_that_is_none_is_refused(bundle, arguments):
    with pytest.raises(BadInput, match="Use"):
        StyleAR.load(bundle, **arguments)


@pytest.mark.parametrize("device", ["toaster", "meta", "xpu:99", "hpu:99", "cuda:99", "mps:99", "cpu:1", 99, object()])
def test_a_device_that_this_machine_lacks_is_refused(bundle, device):
    with pytest.raises(BadInput, match="no device .* Use cpu"):
        StyleAR.load(bundle, device=device)


@pytest.mark.parametrize("base", [None, 5, b"mini", ["mini"], ""])
def test_a_model_that_is_no_path_is_refused(base):
    with pytest.raises(BadInput, match="base"):
        StyleAR.load(base)


@pytest.mark.parametrize("cuda,mps,device", [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_the_best_device_is_taken(monkeypatch, cuda, mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pipeline.to_device(None).type == device


def test_info_says_what_is_loaded(model):
    info = model.info()
    assert (info["size"], info["grid"], info["largest"], info["style_tokens"]) == (
        16,
        8,
        48,
        [16, tiny.HIDDEN],
    )
    assert info["parts"]["base"]["parameters"] == sum(weight.numel() for weight in model.base.parameters())
    assert {part["device"] for part in info["parts"].values()} == {"cpu"}


# -- styles ----------------------------------------------------------------------------------------


def test_a_style_is_the_resampler_of_the_encoders_features(model, style):
    assert torch.equal(style.features, model.image_encoder.encode(PICTURE))
    with torch.no_grad():
        assert torch.equal(style.tokens, model.resampler(style.features[None])[0])


def test_nothing_outside_the_region_counts_for_the_style_and_a_rectangle_is_a_crop(model):
    box, mask = (3, 2, 17, 12), np.zeros((20, 24), np.uint8)
    mask[2:12, 3:17] = 255
    cut = model.encode_style(PICTURE.crop(box))
    for outside in ("black", "red"):
        framed = Image.new("RGB", PICTURE.size, outside)
        framed.paste(PICTURE.crop(box), box)
        style = model.encode_style(framed, mask)
        assert torch.equal(style.tokens, cut.tokens) and torch.equal(style.picture, cut.picture)
    mask[2:6, 3:6] = 0
    corner = model.encode_style(PICTURE, mask)
    assert not torch.equal(corner.tokens, cut.tokens) and corner.picture.shape == (10, 14, 3)
    assert len(corner.picture[:4, :3].flatten(0, 1).unique(dim=0)) == 1


def test_a_region_that_covers_all_is_no_region_and_an_empty_one_is_refused(model, style):
    assert torch.equal(model.encode_style(PICTURE, torch.ones(5, 5)).tokens, style.tokens)
    with pytest.raises(BadInput, match="region selects nothing"):
        model.encode_style(PICTURE, torch.zeros(5, 5))


def test_subtracting_a_content_picture_is_the_papers_formula(model, style):
    cleaned = model.subtract(style, OTHER, alpha=0.3, beta=0.6)
    content = model.image_encoder.encode(OTHER)
    with torch.no_grad():
        whole, rest = model.resampler(torch.stack([style.features, style.features - 0.6 * content]))
    torch.testing.assert_close(cleaned.tokens, 0.3 * whole + 0.7 * rest)
    assert torch.equal(cleaned.features, style.features)


@pytest.mark.parametrize("how", ["mask", "points", "box"])
def test_what_a_mask_points_or_a_box_select_is_subtracted(model, style, how):
    arguments = {"points": [(12, 10), (8, 6)]} if how == "points" else {"box": (4, 4, 20, 16)}
    mask = model.segment(PICTURE, **arguments)
    arguments = {"mask": mask} if how == "mask" else arguments
    expected = model.subtract(style, content_picture(PICTURE, mask))
    assert torch.equal(model.subtract(style, PICTURE, **arguments).tokens, expected.tokens)


def test_without_a_word_the_salient_object_of_the_styles_own_picture_is_subtracted(model, style):
    expected = model.subtract(style, PICTURE, mask=model.segment(PICTURE))
    assert torch.equal(model.subtract(style).tokens, expected.tokens)
    assert torch.equal(model.subtract(style.with_noise(0.5, 1)).tokens, expected.tokens)


def test_a_later_subtraction_starts_from_the_reference_again(model, style):
    left, right = (np.zeros((20, 24), bool) for _ in range(2))
    left[:, :12] = right[:, 12:] = True
    chained = model.subtract(model.subtract(style, mask=left).with_noise(0.5, 1), mask=right)
    assert torch.equal(chained.tokens, model.subtract(style, mask=right).tokens)
    assert "one mask or several points" in model.subtract.__doc__


def test_what_is_subtracted_can_be_seen_before(model, style):
    points = [(12, 10), (8, 6)]
    picture, mask = model.content_mask(style, points=points)
    assert np.array_equal(picture, PICTURE) and torch.equal(mask, model.segment(PICTURE, points))
    picture, mask = model.content_mask(style, OTHER)
    assert np.array_equal(picture, OTHER) and mask is None
    half = np.arange(24)[None] < np.full((20, 1), 12)
    assert torch.equal(model.content_mask(style, mask=half)[1], torch.from_numpy(half).float())
    assert model.content_mask(style, mask=half[:10])[1].shape == (20, 24)


def test_a_subtraction_shares_the_picture_with_the_style_it_came_from(model, style):
    assert model.subtract(style, OTHER).picture.data_ptr() == style.picture.data_ptr()


def test_the_salient_object_is_what_the_segmenter_finds_unasked(model):
    assert torch.equal(model.segment(PICTURE), model.segmenter.mask(PICTURE))


def test_a_subtraction_without_what_it_needs_is_refused(model, style):
    with pytest.raises(BadInput, match="no picture to cut from"):
        model.subtract(StyleTokens(style.tokens, style.features))
    with pytest.raises(BadInput, match="Both a mask and points"):
        model.subtract(style, PICTURE, mask=np.ones((2, 2), dtype=bool), box=(0, 0, 1, 1))
    with pytest.raises(BadInput, match="preset or a blend"):
        model.subtract(StyleTokens(style.tokens), OTHER)
    with pytest.raises(BadInput, match="style is of type Image, not a style"):
        model.subtract(PICTURE, OTHER)
    with pytest.raises(BadInput, match="alpha"):
        model.subtract(style, OTHER, alpha=float("nan"))


# -- pictures --------------------------------------------------------------------------------------


def test_a_picture_is_float_and_has_the_trained_size_by_default(model, style):
    pictures = model.generate("a cat", style)
    assert pictures.dtype == torch.float32 and pictures.shape == (1, 16, 16, 3)
    assert 0 <= pictures.min() and pictures.max() <= 1


@pytest.mark.parametrize("pixels,taken", [(1, 8), (11, 8), (12, 16), (20, 24), (48, 48)])
def test_a_side_goes_to_the_nearest_multiple_of_the_grid(model, style, pixels, taken):
    assert model.generate("", style, width=pixels, height=8, top_k=1).shape == (1, 8, taken, 3)


def test_picture_k_of_a_batch_is_the_one_of_its_seed_alone(model, style):
    batch = model.generate("a cat", style, seed=5, batch_size=3)
    alone = torch.cat([model.generate("a cat", style, seed=seed) for seed in (5, 6, 7)])
    assert torch.equal(batch, alone)
    assert not torch.equal(batch[0], batch[1])


def test_prompt_style_condition_and_seed_each_change_the_picture(model, style):
    condition = model.encode_condition(OTHER)
    asked = {"prompt": "a cat", "style": style, "seed": 0}
    plain = model.generate(**asked)
    changes = {"prompt": "a dog", "style": style.with_noise(3.0, 1), "seed": 1, "condition": condition}
    for name, value in changes.items():
        assert not torch.equal(plain, model.generate(**asked | {name: value})), name
    assert torch.equal(plain, model.generate(**asked))


def test_a_saved_style_draws_the_same_picture(model, style, tmp_path):
    style.save(tmp_path / "style.safetensors")
    again = model.generate("a cat", StyleTokens.load(tmp_path / "style.safetensors"))
    assert torch.equal(again, model.generate("a cat", style))


def test_a_condition_is_the_vqgans_codes_of_the_maps_middle(model):
    codes = model.encode_condition(OTHER)
    assert codes.dtype == torch.int64 and codes.shape == (4, 2)  # 16 x 8 pixels: the shape nearest to 30 x 16
    assert 0 <= codes.min() and codes.max() < tiny.CODES


def test_a_condition_of_another_kind_stands_in_the_same_place_of_the_prompt(model, style):
    areas = np.zeros((30, 16, 3), np.uint8)
    areas[7:] = 255
    depth, segmentation = (model.encode_condition(areas, kind) for kind in ("depth", "segmentation"))
    assert depth.shape == segmentation.shape and not torch.equal(depth, segmentation)
    assert model.generate("a cat", style, condition=segmentation).isfinite().all()


def test_without_segment_anything_a_model_does_all_but_segment(model, style, tmp_path, monkeypatch):
    folder = tiny.write_bundle(tmp_path / "model")
    monkeypatch.setattr("stylear.segment.importlib.util.find_spec", lambda name: None)
    bare = StyleAR.load(folder, device="cpu")
    assert torch.equal(bare.generate("a cat", style), model.generate("a cat", style))
    with pytest.raises(MissingPart, match="pip install segment-anything, and load the model again"):
        bare.subtract(bare.encode_style(OTHER))
    monkeypatch.undo()
    with pytest.raises(MissingPart, match="was installed after this model was loaded: load it again"):
        bare.subtract(bare.encode_style(OTHER))


def test_progress_counts_codes_and_previews_grow_row_by_row_into_the_picture(model, style):
    counts, previews = [], []
    picture = model.generate(
        "a cat",
        style,
        batch_size=2,
        window=1,
        progress=lambda done, total: counts.append((done, total)),
        preview=previews.append,
    )
    assert counts == [(done, 16) for done in range(17)]
    assert [preview.shape for preview in previews] == [(2, 16, 16, 3)] * 4
    assert all((preview[:, 4 * rows :] == 0.5).all() for rows, preview in enumerate(previews, 1))
    assert torch.equal(previews[-1], picture)


def test_with_windows_progress_still_grows_to_the_end_and_rows_come_in_order(model, style):
    counts, previews = [], []
    for window in (5, 16, "auto"):
        counts.append([])
        picture = model.generate(
            *("a cat", style), window=window, progress=lambda *seen: counts[-1].append(seen), preview=previews.append
        )
        assert counts[-1] == sorted(set(counts[-1])) and counts[-1][-1] == (16, 16)
        assert torch.equal(previews[-1], picture)


def test_a_picture_is_exactly_the_same_with_any_window(model, style):
    pictures = [model.generate("a cat", style, window=window) for window in (1, 3, 16, "auto")]
    assert all(torch.equal(picture, pictures[0]) for picture in pictures)


def out_of_memory_above(limit, monkeypatch):
    """Make sampling fail, as PyTorch does on the CPU, for batches of more than `limit`; the batches asked for."""
    asked = []

    def short(base, vocabulary, start, grid, seeds, *others, draw=pipeline.sample):
        asked.append(list(seeds))
        if len(seeds) > limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")
        return draw(base, vocabulary, start, grid, seeds, *others)

    monkeypatch.setattr(pipeline, "sample", short)
    return asked


def test_a_batch_that_memory_runs_out_for_is_drawn_in_two_halves_and_is_the_same(model, style, monkeypatch):
    expected = model.generate("a cat", style, batch_size=3)
    asked = out_of_memory_above(2, monkeypatch)
    assert torch.equal(model.generate("a cat", style, batch_size=3), expected)
    assert asked == [[0, 1, 2], [0], [1, 2]]


@pytest.mark.parametrize("batch,calls", [(1, 1), (4, 2)])
def test_where_half_a_batch_does_not_fit_either_the_numbers_are_said(model, style, monkeypatch, batch, calls):
    asked = out_of_memory_above(0, monkeypatch)
    with pytest.raises(BadInput, match=rf"with {(batch + 1) // 2} pictures .* GiB are free.* 1 byte"):
        model.generate("a cat", style, batch_size=batch)
    assert len(asked) == calls


def test_a_batch_whose_keys_and_values_cannot_fit_is_refused_before_they_are_allocated(model, style, monkeypatch):
    monkeypatch.setattr("stylear.memory.free_bytes", lambda device: 1000)
    monkeypatch.setattr(type(model.base), "new_cache", None)
    with pytest.raises(BadInput, match=r"4 rows of \d+ tokens takes 0\.\d+ GiB and cpu has 0\.00 GiB free\. Ask for"):
        model.generate("a cat", style, batch_size=2, window=1)


def test_a_cancelled_call_leaves_nothing_of_its_cache(model, style, monkeypatch):
    caches, new = [], type(model.base).new_cache
    monkeypatch.setattr(type(model.base), "new_cache", lambda *a: caches.append(weakref.ref(cache := new(*a))) or cache)
    with pytest.raises(Cancelled):
        model.generate("a cat", style, window=1, cancelled=lambda: len(caches) > 0)
    gc.collect()
    assert len(caches) == 1 and caches[0]() is None


def test_a_preview_may_be_of_the_first_pictures_only(model, style):
    previews = []
    picture = model.generate("a cat", style, batch_size=3, preview=previews.append, previews=1)
    assert {preview.shape for preview in previews} == {(1, 16, 16, 3)}
    assert torch.equal(previews[-1], picture[:1])


def test_a_call_can_be_cancelled(model, style):
    asked = iter([False, False, True])
    with pytest.raises(Cancelled):
        model.generate("a cat", style, cancelled=lambda: next(asked))


def test_a_window_larger_than_the_picture_is_refused_with_both_numbers(model, style):
    with pytest.raises(BadInput, match="window is 17; .* from 1 to 16, the codes of this picture"):
        model.generate("a cat", style, window=17)
    with pytest.raises(BadInput, match="window is 5; .* from 1 to 4,"):
        model.generate("a cat", style, width=8, height=8, window=5)


def test_a_call_can_be_cancelled_while_its_passes_are_first_timed(model, style, monkeypatch):
    monkeypatch.setattr(model, "pace", Pace())
    monkeypatch.setattr(pipeline, "sample", None)
    asked = iter([False] * 3 + [True])
    with pytest.raises(Cancelled):
        model.generate("a cat", style, cancelled=lambda: next(asked))


def test_an_empty_prompt_works_and_a_star_in_a_prompt_is_a_character(model, style):
    empty, star = model.generate("", style), model.generate("*" * 20, style)
    assert empty.shape == star.shape and not torch.equal(empty, star)


def test_a_prompt_of_10000_words_is_refused_with_both_numbers(model, style):
    with pytest.raises(BadInput, match=r"is \d+ tokens longer than there is room for"):
        model.generate("word " * 10_000, style)


def test_a_picture_that_the_models_positions_do_not_hold_is_refused(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "model")
    tiny.write_base(tmp_path / "model" / "base", max_position_embeddings=100)
    model = StyleAR.load(tmp_path / "model", device="cpu")
    with pytest.raises(BadInput, match="48 x 48 takes 160 tokens and the model has 100 positions"):
        model.generate("a cat", model.encode_style(PICTURE), width=48, height=48)


@pytest.mark.parametrize(
    "name,value",
    [
        ("width", -1),
        ("width", 49),
        ("height", 20_000),
        ("height", 8.0),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", True),
        ("batch_size", 0),
        ("batch_size", 1000),
        ("cfg", float("nan")),
        ("cfg", float("inf")),
        ("temperature", 0),
        ("temperature", float("nan")),
        ("top_k", 0),
        ("window", 0),
        ("window", 17),
        ("window", -1),
        ("window", 2.0),
        ("window", "fast"),
        ("top_k", 10**400),
        ("cfg", 10**400),
        ("width", 10**400),
        ("previews", 0),
        ("prompt", 5),
        ("style", torch.zeros(16, 32)),
        ("condition", torch.zeros(4, 4)),
        ("condition", torch.full((4, 4), 10**6)),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_value_out_of_its_range_is_refused_by_its_name(model, style, name, value):
    asked = {"prompt": "a cat", "style": style, name: value}
    with pytest.raises(BadInput, match="(?i)" + {"condition": "condition|codes"}.get(name, name)):
        model.generate(**asked)


def test_style_tokens_of_another_model_are_refused_with_both_shapes(model):
    with pytest.raises(BadInput, match=r"\[16, 8\].*\[16, 32\]"):
        model.generate("a cat", StyleTokens(torch.zeros(16, 8)))


def test_a_side_of_0_is_the_models_own(model, style):
    assert model.picture_size() == model.picture_size(0, 0) == (model.size, model.size)
    assert model.picture_size(13, 12) == (16, 16) and model.picture_size(1, 11) == (8, 8)
    own = model.generate("a cat", style, width=0, height=0, top_k=1)
    assert torch.equal(own, model.generate("a cat", style, top_k=1))


def test_numpy_numbers_are_numbers(model, style):
    picture = model.generate("a cat", style, seed=np.int64(3), width=np.int32(16))
    assert torch.equal(picture, model.generate("a cat", style, seed=3, width=16))
