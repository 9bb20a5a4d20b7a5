"""Preference pairs: which (style, prompt) cases there are, what is drawn for them, and which pictures are paired."""

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from stylear import StyleAR
from stylear.errors import BadInput
from training.judges import JudgeSettings, Scores, Verdict
from training.metrics.cells import Reference as Style
from training.metrics.inputs import Prompt
from training.preferences import (
    Case,
    SampleSettings,
    build_pairs,
    choose,
    decode,
    draw_codes,
    judge_cases,
    load_pairs,
    pairs_sheet,
    read_cases,
    read_samples,
    reference_of,
    sample_cases,
    samples_file,
    save_pairs,
    scores_file,
)

SETTINGS = SampleSettings(per_prompt=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return StyleAR.load(tiny.write_bundle(tmp_path_factory.mktemp("model")), device="cpu")


@pytest.fixture
def case(tmp_path):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "style.png")
    return Case(2, Style("style", tmp_path / "style.png"), "hash", Prompt("a cat", "a cat"))


class FakeJudge:
    """Prefers the picture it is shown first, then the second ...; the last one's answer cannot be read."""

    name = "fake"

    def __call__(self, reference, prompt, pictures):
        last = len(pictures) - 1
        return [Verdict(None if i == last else Scores(-float(i), 0.0, 0.0), "said") for i in range(len(pictures))]


def inputs(folder, styles=3, prompts=("a cat", "a house", "a red boat")):
    (folder / "styles").mkdir()
    for i in range(styles):
        Image.new("RGB", (16, 16), (80 * i, 0, 0)).save(folder / "styles" / f"{i}.png")
    (folder / "prompts.txt").write_text("\n".join(prompts))
    return folder / "styles", folder / "prompts.txt"


def test_all_combinations_of_style_and_prompt_come_once(tmp_path):
    cases = read_cases(*inputs(tmp_path), count=None, seed=1)
    assert len({(case.style.name, case.prompt.text) for case in cases}) == len(cases) == 9
    assert [case.number for case in cases] == list(range(9))


def test_fewer_cases_are_the_first_of_more(tmp_path):
    places = inputs(tmp_path)
    assert read_cases(*places, count=4, seed=1) == read_cases(*places, count=None, seed=1)[:4]


def test_no_two_pictures_of_a_run_share_a_seed(tmp_path):
    cases = read_cases(*inputs(tmp_path), count=None, seed=1)
    seeds = [seed for case in cases for seed in (*case.seeds(7, 4), case.noise_seed(7))]
    assert len(set(seeds)) == len(seeds)


def test_the_codes_kept_are_those_of_the_picture_the_engine_draws(model, case):
    seeds = case.seeds(5, 3)
    codes = draw_codes(model, case, seeds, SETTINGS, 0.3, noise_seed=11)
    style = model.encode_style(Image.open(case.style.picture)).with_noise(0.3, 11)
    drawn = model.generate("a cat", style, seed=seeds[0], batch_size=3)
    ours = np.stack([np.asarray(picture) for picture in decode(model.vqgan, codes)])
    assert np.abs(drawn.numpy() * 255 - ours).max() <= 0.5 + 1e-3


def test_a_prompt_that_leaves_no_room_for_the_picture_is_refused(model, case):
    long = Case(0, case.style, "hash", Prompt("cat " * 600, "cat"))
    with pytest.raises(BadInput, match="shorten it"):
        draw_codes(model, long, [0], SETTINGS, 0.0, 0)


def test_samples_come_back_as_they_were_drawn(model, case, tmp_path):
    sample_cases([case], tmp_path / "samples", model, SETTINGS, 0.1, seed=5)
    codes, seeds = read_samples(tmp_path / "samples", case)
    assert seeds == [11, 12, 13]
    assert codes.equal(draw_codes(model, case, seeds, SETTINGS, 0.1, case.noise_seed(5)))


@pytest.mark.parametrize("reader", [read_samples, lambda folder, case: build_pairs([case], folder, folder, None, 0)])
def test_a_damaged_file_is_named(reader, case, tmp_path):
    for file in (samples_file(tmp_path, case), scores_file(tmp_path, case)):
        file.write_bytes(b"{}")
    with pytest.raises(BadInput, match="00002.* damaged: remove the file"):
        reader(tmp_path, case)


@pytest.mark.parametrize(
    ("totals", "pair"),
    [
        ([0.2, 0.9, 0.1, 0.5], (1, 2)),
        ([0.2, None, 0.1, 0.5], (3, 2)),
        ([0.5, 0.5, 0.5], None),
        ([0.5, None, None], None),
        ([None, None], None),
    ],
)
def test_best_and_worst_are_paired_and_ties_and_unread_answers_are_not(totals, pair):
    assert choose(totals, 0.0) == pair


def test_a_pair_nearer_than_the_margin_is_dropped():
    assert choose([0.25, 0.5], 0.25) == (1, 0)
    assert choose([0.25, 0.5], 0.26) is None


def pairs_of(model, case, folder):
    sample_cases([case], folder / "samples", model, SETTINGS, 0.1, seed=5)
    judge_cases([case], folder / "samples", folder / "scores", FakeJudge(), model.vqgan, None)
    return build_pairs([case], folder / "samples", folder / "scores", JudgeSettings(prompt=2), 0.0)


def test_a_pair_says_what_was_drawn_from_what_and_what_the_judge_thought(model, case, tmp_path):
    rows, counts = pairs_of(model, case, tmp_path)
    save_pairs(rows, tmp_path / "pairs")
    (pair,) = load_pairs(tmp_path / "pairs")
    codes, seeds = read_samples(tmp_path / "samples", case)
    assert pair["chosen"]["codes"] == codes[0].tolist()
    assert pair["rejected"]["codes"] == codes[1].tolist()
    assert [pair[name]["seed"] for name in ("chosen", "rejected")] == seeds[:2]
    assert [pair[name]["score"] for name in ("chosen", "rejected")] == [0.0, -2.0]
    assert (pair["prompt"], pair["style"], pair["case"]) == ("a cat", str(case.style.picture), 2)
    assert counts == {"cases": 1, "pairs": 1, "without a clear best": 0, "answers not read": 1}


def test_pairs_half_written_by_a_run_that_was_killed_are_written_anew(model, case, tmp_path):
    rows, _ = pairs_of(model, case, tmp_path)
    (tmp_path / ".pairs").mkdir()
    (tmp_path / ".pairs" / "half").write_bytes(b"x")
    save_pairs(rows, tmp_path / "pairs")
    save_pairs(rows, tmp_path / "pairs")
    assert len(load_pairs(tmp_path / "pairs")) == 1
    assert not (tmp_path / "pairs" / "half").exists()


def test_damaged_pairs_are_refused(model, case, tmp_path):
    save_pairs(pairs_of(model, case, tmp_path)[0], tmp_path / "pairs")
    next((tmp_path / "pairs").glob("*.arrow")).write_bytes(b"x")
    with pytest.raises(BadInput, match="are damaged"):
        load_pairs(tmp_path / "pairs")


def test_the_sheet_of_pairs_is_a_picture(model, case, tmp_path):
    save_pairs(pairs_of(model, case, tmp_path)[0], tmp_path / "pairs")
    pairs_sheet(load_pairs(tmp_path / "pairs"), model.vqgan, tmp_path / "pairs.png", side=32)
    with Image.open(tmp_path / "pairs.png") as sheet:
        assert sheet.width > 3 * 32


class FakeSegmenter:
    def mask(self, picture):
        mask = torch.zeros(picture.height, picture.width)
        mask[8:] = 1
        return mask


def test_a_caption_makes_cutting_out_unnecessary(case):
    told = Style("style", case.style.picture, "a face")
    assert reference_of(told, FakeSegmenter()).content is None


def test_without_a_caption_the_object_is_cut_out_on_white(case):
    content = reference_of(case.style, FakeSegmenter()).content
    assert content.getpixel((0, 0)) == (255, 255, 255)


def test_a_reference_without_an_object_has_no_content(case):
    class Blind:
        def mask(self, picture):
            raise BadInput("Nothing was found.")

    assert reference_of(case.style, Blind()).content is None
