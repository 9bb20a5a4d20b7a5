"""The picture set is split as it says, and its captions name content alone."""

import numpy as np
import pytest

from training.data.captions import article, caption, styled_caption
from training.data.pictures import (
    HELD_OUT_FAMILIES,
    HELD_OUT_STYLES,
    PictureSet,
    build_pictures,
    depth_of,
    drawing_of,
    plan,
    read_concepts,
    read_words,
)
from training.data.renderers import STYLES


def test_what_is_held_out_is_never_trained_on(icons):
    concepts, styles, rows = plan(icons)
    train = {(row.concept, row.style) for row in rows if row.split == "train"}
    pairs = {(row.concept, row.style) for row in rows if row.split == "pair"}
    assert pairs and not train & pairs
    for row in rows:
        if row.split == "train":
            assert styles[row.style] not in HELD_OUT_STYLES and row.family not in HELD_OUT_FAMILIES


def test_no_picture_of_a_held_out_concept_is_in_a_split_of_another_name(icons):
    concepts, _, rows = plan(icons, repeats=3)
    held_out = [row for row in rows if concepts[row.concept] not in read_words()]
    assert {row.split for row in held_out} == {"concept"} and {concepts[row.concept] for row in held_out} == {"dolphin"}
    assert not {row.family for row in held_out} & set(HELD_OUT_FAMILIES)
    assert len(held_out) == len({(row.icon, row.style) for row in held_out}) == len(STYLES) + 1
    assert held_out == [row for row in rows if row.split == "concept"]


def test_two_hundred_words_are_taught_and_sixty_more_are_held_out():
    taught, concepts = read_words(), read_concepts()
    assert len(taught) == len(set(taught)) == 200 and set(taught) <= set(concepts)
    assert len(concepts) == 260
    names = [name for shown in concepts.values() for name in shown]
    assert len(names) == len(set(names))


def test_families_of_one_colour_are_a_style_of_their_own(icons):
    _, styles, rows = plan(icons)
    assert all((styles[row.style] == "mono") == (row.family == "noto-mono") for row in rows)


def test_two_drawings_of_one_word_are_one_concept_and_unlisted_ones_are_left_out(icons):
    concepts, _, rows = plan(icons)
    assert {concepts[row.concept] for row in rows} == {"cat", "rocket", "apple", "dolphin"}


def test_held_out_styles_and_families_exist():
    assert set(HELD_OUT_STYLES) <= set(STYLES)


def test_the_same_seed_builds_the_same_pictures_and_an_index_that_fits(icons, tmp_path, monkeypatch):
    monkeypatch.setattr("training.data.pictures.STYLES", {name: STYLES[name] for name in ("plain", "neon", "knit")})
    for name in ("a", "b"):
        build_pictures(icons, tmp_path / name, workers=1)
    first, second = PictureSet(tmp_path / "a"), PictureSet(tmp_path / "b")
    assert np.array_equal(first.pictures, second.pictures) and np.array_equal(first.masks, second.masks)
    assert len(first.pictures) == len(first.concept) == len(first.split)
    assert first.masks.max() == 255 and first.pictures.std() > 5
    assert set(first.split[first.where("style")]) <= {"style"}
    assert first.taught == read_words() and first.concepts[: len(first.taught)] == first.taught
    assert {first.concepts[i] for i in first.concept[first.where("concept")]} == {"dolphin"}


def test_drawings_that_change_while_pictures_are_made_are_noticed(icons, tmp_path, monkeypatch):
    stamps = iter(("one", "two"))
    monkeypatch.setattr("training.data.pictures._stamp", lambda folder: next(stamps))
    monkeypatch.setattr("training.data.pictures.STYLES", {"plain": STYLES["plain"]})
    with pytest.raises(RuntimeError, match="changed while pictures were made"):
        build_pictures(icons, tmp_path, workers=1)
    assert not (tmp_path / "pictures.json").exists()


def test_a_drawing_keeps_its_alpha_and_stands_on_white():
    rgba = np.zeros((128, 128, 4), np.uint8)
    rgba[40:90, 40:90] = (255, 0, 0, 255)
    drawing = drawing_of(rgba, 0.1, np.random.default_rng(0))
    assert (drawing.rgb[0, 0] == 255).all() and drawing.alpha[0, 0] == 0
    assert (drawing.rgb[64, 64] == (255, 0, 0)).all() and drawing.alpha[64, 64] == 1


def test_depth_is_nearest_inside_and_nothing_outside():
    alpha = np.zeros((64, 64), np.float32)
    alpha[16:48, 16:48] = 1
    depth = depth_of(alpha)
    assert depth[0, 0] == 0 and depth[32, 32] == 255 > depth[17, 17] > 0
    assert depth_of(np.zeros((8, 8), np.float32)).max() == 0


def test_captions_name_the_thing_and_only_styled_ones_the_style():
    rng = np.random.default_rng(0)
    plain = {caption("umbrella", rng) for _ in range(100)}
    assert len(plain) > 4 and all("umbrella" in text for text in plain)
    assert "an umbrella" in plain and article("unicorn") == "a"
    assert styled_caption("cat", "stained_glass", rng).endswith("in stained glass style")


def test_test_rows_are_held_out_pictures_of_different_concepts_in_rounds_of_styles(icons, tmp_path, monkeypatch):
    few = {name: STYLES[name] for name in ("plain", "neon", "toon", "knit", "starry")}
    monkeypatch.setattr("training.data.pictures.STYLES", few)
    monkeypatch.setattr("training.data.pictures.HELD_OUT_PAIRS", 1.0)
    build_pictures(icons, tmp_path, workers=1)
    pictures = PictureSet(tmp_path)
    rows = pictures.test_rows(pairs=2, unseen=2)
    assert [str(split) for split in pictures.split[rows]] == ["pair"] * 8 + ["style"] * 4
    assert len({(pictures.concept[row], pictures.style[row]) for row in rows}) == 12
    first = [set(pictures.style[rows[start:end]]) for start, end in ((0, 4), (4, 8), (8, 10), (10, 12))]
    assert [len(styles) for styles in first] == [4, 4, 2, 2]
    assert not set(pictures.family[rows]) & set(HELD_OUT_FAMILIES)
    assert np.array_equal(rows, pictures.test_rows(pairs=2, unseen=2))


def test_pictures_by_held_out_families_are_of_held_out_pairs(icons, tmp_path, monkeypatch):
    few = {name: STYLES[name] for name in ("plain", "neon", "toon")}
    monkeypatch.setattr("training.data.pictures.STYLES", few)
    monkeypatch.setattr("training.data.pictures.HELD_OUT_PAIRS", 0.5)
    build_pictures(icons, tmp_path, workers=1)
    pictures = PictureSet(tmp_path)
    rows = pictures.test_rows(families=9)
    pairs = {(pictures.concept[row], pictures.style[row]) for row in pictures.where("pair")}
    family = rows[pictures.split[rows] == "family"]
    assert len(family) and all((pictures.concept[row], pictures.style[row]) in pairs for row in family)
    every = {(pictures.concept[row], pictures.style[row]) for row in pictures.where("family")}
    assert every - pairs, "or nothing was left out"
