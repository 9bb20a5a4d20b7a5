"""`evaluate --model mini`: planted pictures give the planted figures, and a copy of the reference fails."""

import json
from shutil import copytree
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from stylear.errors import BadCheckpoint, BadInput, MissingPart
from stylear.pipeline import MINI
from training import __main__
from training.__main__ import main
from training.bars import cases, measure, report, scores
from training.bars.cases import Case
from training.bars.measure import Drawn, Seen
from training.bars.scores import Score, mean, ratio, share, wilson
from training.config import CONFIGS, describe, read_settings
from training.instruments import Instruments, read_sheet, write_sheet
from training.judge import Judge, Look, load_judge, save_judge

CONCEPTS, STYLES = ["cat", "dog", "owl", "axe"], ["oil", "neon", "knit"]


class Reader:
    """A judge that is always right about planted pictures: it reads their first pixel, (concept, style, style)."""

    concept_names, style_names = CONCEPTS, STYLES

    def look(self, pictures):
        sure = [np.log(np.where(np.eye(n)[pictures[:, 0, 0, k]] > 0, 0.9, 0.05)) for n, k in ((4, 0), (3, 1))]
        return Look(*sure, pictures[:, 0, 0, 2].astype(np.int64))


def planted(*read: tuple[int, int]) -> np.ndarray:
    pictures = np.zeros((len(read), 64, 64, 3), np.uint8)
    for picture, (concept, style) in zip(pictures, read, strict=True):
        picture[0, 0] = concept, style, style
    return pictures


@pytest.fixture
def tests() -> Instruments:
    """Four concepts in two trained styles and in one that is not, each with a square as its silhouette."""
    shown = [(concept, style) for style in range(3) for concept in range(4)]
    masks = np.zeros((12, 64, 64), np.uint8)
    masks[:, 16:48, 16:48] = 255
    concept, style = (np.array([one[k] for one in shown]) for k in (0, 1))
    return Instruments(Reader(), planted(*shown), masks, concept, style, style == 2)


def drawn(tests: Instruments, some: list[Case], pictures: np.ndarray) -> Drawn:
    real = Seen(tests.pictures, tests.judge.look(tests.pictures))
    return Drawn.of(tests, some, pictures, real, real)


def by_name(found: list[Score]) -> dict[str, Score]:
    return {score.name: score for score in found}


# --- which pictures ---------------------------------------------------------------------------------------------------


def test_every_reference_shows_another_concept_in_the_same_style(tests):
    pairs, unseen, depth = cases.plan(tests, 100, 100, 5)
    assert (len(pairs), len(unseen), len(depth)) == (8, 8, 5)
    for case in pairs + unseen + depth:
        assert tests.style[case.reference] == tests.style[case.target]
        assert tests.concept[case.reference] != tests.concept[case.target]
        assert tests.unseen[case.target] == (case.kind == "unseen")
    assert [(one.number, one.target) for one in depth] == [(one.number, one.target) for one in pairs[:5]]
    assert len({case.file for case in pairs + unseen + depth}) == 21


def test_a_style_of_one_concept_has_no_case(tests):
    tests.concept[:] = 0
    assert cases.plan(tests, 100, 100, 5) == ([], [], [])


class Painter:
    """A model that plants what it was asked for; it remembers every call."""

    def __init__(self):
        self.calls = []

    def encode_style(self, picture):
        return SimpleNamespace(with_noise=lambda gamma, seed: (int(picture[0, 0, 1]), gamma, seed))

    def encode_condition(self, depth):
        return depth.max()

    def generate(self, prompt, style, condition, seed, **sampling):
        self.calls.append((prompt, style, condition, seed, sampling))
        concept = CONCEPTS.index(prompt.split()[-1])
        return torch.from_numpy(planted((concept, style[0]))).float() / 255


def test_pictures_are_asked_for_as_planned_and_only_once(tests, tmp_path):
    pairs, _, depth = cases.plan(tests, 3, 0, 1)
    model = Painter()
    cases.draw(model, tests, pairs + depth, tmp_path, noise=0.1, cfg=4.0)
    pictures = cases.read(pairs + depth, tmp_path)
    wanted = [(tests.concept[case.target], tests.style[case.target]) for case in pairs + depth]
    assert np.array_equal(pictures, planted(*wanted))
    assert model.calls[1][0] == "a dog" and model.calls[2][0] == "an owl"
    assert [(style[1:], seed) for _, style, _, seed, _ in model.calls] == [((0.1, k), k) for k in (0, 1, 2, 0)]
    assert [condition for _, _, condition, _, _ in model.calls] == [None, None, None, 255]
    (tmp_path / pairs[1].file).unlink()
    cases.draw(model, tests, pairs + depth, tmp_path, noise=0.1, cfg=4.0)
    assert np.array_equal(cases.read(pairs + depth, tmp_path), pictures) and len(model.calls) == 5


# --- figures ----------------------------------------------------------------------------------------------------------


def test_planted_pictures_give_the_planted_shares(tests):
    pairs, _, _ = cases.plan(tests, 8, 0, 0)
    wanted = [(tests.concept[case.target], tests.style[case.target]) for case in pairs]
    wanted[0] = (wanted[0][0], 2)  # wrong style
    wanted[1] = (wanted[1][0] ^ 2, 2)  # wrong style, wrong concept, which is not the reference's
    found = by_name(measure.of_pairs(drawn(tests, pairs, planted(*wanted)), 200))
    assert found["prompt"].value == 7 / 8 and found["prompt"].passed
    assert found["style"].value == found["style, of its ceiling"].value == 6 / 8
    assert found["style, of its ceiling"].passed is False and found["style"].passed is None
    assert found["leak"].value == 0 and found["leak"].passed
    assert found["prompt"].real == found["prompt"].again == 1


def test_a_model_that_copies_the_reference_fails_for_leaking_and_for_the_prompt(tests):
    pairs, _, _ = cases.plan(tests, 8, 0, 0)
    found = by_name(measure.of_pairs(drawn(tests, pairs, tests.pictures[[case.reference for case in pairs]]), 200))
    assert found["leak"].value == 1 and found["leak"].verdict == "FAIL"
    assert found["prompt"].verdict == "FAIL" and found["style, of its ceiling"].verdict == "pass"


def test_only_a_concept_that_was_not_asked_for_can_leak():
    read, shown, asked = np.array([1, 1, 2]), np.array([1, 1, 3]), np.array([1, 2, 2])
    assert measure.leaks(read, shown, asked).tolist() == [True, False]


def test_chance_is_how_often_the_reference_of_another_picture_is_read():
    read, shown, asked = np.array([1, 2, 0]), np.array([1, 1, 2]), np.array([0, 2, 0])
    # read 1 among {1, 2}: once; read 2 among {1} (its own prompt is left out): never; read 0 among {1, 1}: never
    assert measure.leak_by_chance(read, shown, asked) == 1 / 5
    assert measure.leak_by_chance(read[:1], shown[:1], asked[:1]) == 0


def test_styles_never_trained_are_told_by_the_nearest_mean(tests):
    _, unseen, _ = cases.plan(tests, 0, 8, 0)
    wanted = [(0, 2)] * 3 + [(0, 1)] * 5
    (found,) = measure.of_unseen(drawn(tests, unseen, planted(*wanted)))
    assert (found.value, found.real, found.passed) == (3 / 8, 1, False)


def test_depth_is_compared_with_the_same_pictures_without_it(tests):
    pairs, _, depth = cases.plan(tests, 4, 0, 4)
    right = [(tests.concept[case.target], tests.style[case.target]) for case in pairs]
    plain = drawn(tests, pairs, planted(*right))
    worse = drawn(tests, depth, planted((right[0][0], 2), *right[1:]))
    iou = [np.full(4, value) for value in (0.8, 0.5, 0.9, 0.85)]
    found = by_name(measure.of_depth(worse, plain, iou, 200))
    assert found["depth: silhouette IoU"].value == pytest.approx(0.8) and "0.500" in found["depth: silhouette IoU"].how
    assert found["depth: prompt gained"].value == 0 and found["depth: prompt gained"].passed
    assert found["depth: style gained"].value == -0.25 and found["depth: style gained"].passed is False


class Segments:
    """Finds the right half of a square, or nothing without a point."""

    def segment(self, picture, points):
        if points is None:
            raise BadInput("nothing")
        mask = torch.zeros(64, 64)
        mask[16:48, 32:48] = 1
        return mask


def test_masks_are_measured_by_their_overlap_and_none_counts_as_nothing(tests):
    found = by_name(measure.of_sam(Segments(), tests, np.arange(4), 200))
    assert found["SAM: IoU from a point"].value == 0.5 and found["SAM: IoU from nothing"].value == 0
    x, y = measure.point_in(tests.masks[0], 7)
    assert 16 < x < 48 and 16 < y < 48
    assert measure.point_in(np.zeros((64, 64), np.uint8), 7) == (32, 32)


class Blurs(nn.Module):
    """A VQGAN that darkens every picture of -1..1 by 0.2, so by 20 dB."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def encode(self, pixels):
        return pixels

    def decode(self, codes):
        return codes - 0.2


def test_a_known_error_has_its_psnr_and_the_worst_style_is_named(tests):
    tests.pictures[:] = 128
    again, quality = measure.reconstruct(SimpleNamespace(vqgan=Blurs()), tests.pictures)
    assert quality == pytest.approx(np.full(12, 20.0), abs=1e-3) and (again == 103).all()
    quality[tests.style == 1] = 17.0
    found = by_name(measure.of_vqgan(tests, quality, 200))
    assert found["VQGAN: PSNR"].value == pytest.approx(19, abs=1e-3)
    assert found["VQGAN: worst style"].value == 17 and "neon" in found["VQGAN: worst style"].how
    assert found["VQGAN: worst style"].passed is False


def test_seconds_missed_on_a_busy_machine_are_not_judged(monkeypatch):
    monkeypatch.setattr(measure, "_idle", lambda: 0.0)
    busy = measure.timed("a picture", lambda k: None, 3, -1.0, "")
    assert busy.passed is None and busy.verdict == "not judged" and "the machine was busy" in busy.how
    monkeypatch.setattr(measure, "_idle", iter((0.0, 1e9)).__next__)
    quiet = measure.timed("a picture", lambda k: None, 3, -1.0, "")
    assert quiet.verdict == "FAIL" and "busy" not in quiet.how and "CPU s each" in quiet.how
    monkeypatch.setattr(measure, "_idle", lambda: 0.0)
    assert measure.timed("a picture", lambda k: None, 3, 60.0, "").verdict == "pass"


# --- intervals and the table ------------------------------------------------------------------------------------------


def test_the_interval_of_a_share_is_wilsons():
    # 8 of 10, z = 1.959964: (0.8 + 0.19207) / 1.38415 -+ 1.959964 * sqrt(0.016 + 0.0096036) / 1.38415
    assert wilson(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.161125), abs=1e-5)
    assert wilson(20, 20)[1] == 1.0


def test_the_interval_of_a_mean_is_the_bootstraps():
    rng = np.random.default_rng(0)
    values = np.array([1.0, 2.0, 4.0, 9.0])
    means = values[rng.integers(4, size=(500, 4))].mean(1)
    found = mean("m", values, "dB", 500, "")
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))))
    assert found.value == 4.0


def test_a_ratio_is_of_the_means():
    found = ratio("r", np.array([1.0, 0, 1, 0]), np.array([1.0, 1, 1, 0]), 200, "")
    assert found.value == pytest.approx(2 / 3)
    assert ratio("r", np.zeros(3), np.zeros(3), 200, "").value == 0


def test_the_table_shows_value_interval_bar_verdict_and_ceilings():
    one = share("prompt", np.array([True] * 8 + [False] * 2), "told", bar=0.8, real=1.0, again=0.9)
    two = share("leak", np.array([True] * 8 + [False] * 2), "", bar=0.03, at_least=False)
    row, other = (scores.cells(score) for score in (one, two))
    assert row == ["prompt", "80.0 %", "49.0 % … 94.3 %", "≥ 80.0 %", "pass", "100.0 %", "90.0 %", "10", "told"]
    assert other[3:5] == ["≤ 3.0 %", "FAIL"]
    lines = scores.table([one, two]).splitlines()
    assert len(lines) == 4 and len({line.rindex("|", 0, -1) for line in lines}) == 1


def test_cases_are_shown_from_the_surest_to_the_least_sure():
    chosen = report.choose(list(range(50)))
    assert chosen["best"] == list(range(49, 39, -1)) and chosen["failed"] == list(range(10))
    assert chosen["typical"] == list(range(29, 19, -1))
    assert report.choose([0.0, 1.0]) == {"best": [1, 0], "typical": [1, 0], "failed": [0, 1]}


def test_the_report_has_every_figure_and_picture_and_escapes_what_it_shows(tests, tmp_path, monkeypatch):
    monkeypatch.setattr(Reader, "style_names", ["oil", "<b>", "knit"])
    pairs, unseen, depth = (
        drawn(tests, some, tests.pictures[[case.target for case in some]]) for some in cases.plan(tests, 8, 4, 2)
    )
    settings = read_settings(__main__.COMMANDS["evaluate"].mini.load()[0], CONFIGS / "evaluate_mini.yaml")
    figures = measure.of_pairs(pairs, 200)
    report.write_report(tmp_path, figures, tests, {"pairs": pairs, "unseen": unseen, "depth": depth}, {}, settings)
    found = json.loads((tmp_path / "figures.json").read_text())
    assert [one["name"] for one in found["figures"]] == [score.name for score in figures]
    assert {name: len(some) for name, some in found["pictures"].items()} == {"pairs": 8, "unseen": 4, "depth": 2}
    page = (tmp_path / "index.html").read_text()
    assert "&lt;b&gt;" in page and "<b>," not in page
    assert all(
        f'src="cases/pair-{k:03d}.png"' in page and (tmp_path / f"cases/pair-{k:03d}.png").exists() for k in (0, 7)
    )
    assert (tmp_path / "cases.png").exists() and "| prompt" in (tmp_path / "figures.md").read_text()


# --- instruments ------------------------------------------------------------------------------------------------------


def test_a_sheet_gives_back_its_pictures_and_refuses_another_count(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3), dtype=np.uint8)
    write_sheet(pictures, tmp_path / "p.webp")
    assert np.array_equal(read_sheet(tmp_path / "p.webp", 7), pictures)
    write_sheet(pictures[..., 0], tmp_path / "m.webp")
    assert np.array_equal(read_sheet(tmp_path / "m.webp", 7)[..., 0], pictures[..., 0])
    with pytest.raises(ValueError):
        read_sheet(tmp_path / "p.webp", 20)


def test_a_judge_keeps_its_names_and_reads_alike_from_half_precision(tmp_path):
    torch.manual_seed(0)
    judge, pictures = Judge(CONCEPTS, STYLES), np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
    save_judge(judge, tmp_path / "judge.safetensors")
    again = load_judge(tmp_path / "judge.safetensors")
    assert (again.concept_names, again.style_names) == (CONCEPTS, STYLES)
    assert np.allclose(again.look(pictures).concepts, judge.look(pictures).concepts, atol=0.02)


def test_a_style_never_trained_is_told_by_its_mean_and_one_without_pictures_never():
    torch.manual_seed(0)
    judge, rng = Judge(CONCEPTS, STYLES), np.random.default_rng(0)
    dark, light = (rng.integers(low, low + 60, (12, 64, 64, 3), dtype=np.uint8) for low in (0, 190))
    judge.know_styles(np.concatenate([dark[:8], light[:8]]), np.repeat([0, 2], 8))
    assert judge.look(np.concatenate([dark[8:], light[8:]])).nearest.tolist() == [0] * 4 + [2] * 4
    assert judge.means.half().isfinite().all()


def test_instruments_that_are_not_there_say_what_to_run(tmp_path, capsys):
    words = ["evaluate", "--model", "mini", f"instruments={tmp_path}", f"out={tmp_path / 'out'}"]
    assert main(words) == 2
    assert "python -m training pretrain instruments" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(MissingPart, match="pretrain judge"):
        load_judge(tmp_path / "judge.safetensors")


def test_a_model_without_a_segmenter_is_told_before_anything_is_drawn(tmp_path, capsys):
    parts = [f"model.{name}={MINI / name}" for name in ("adapter", "vqgan", "image_encoder")]
    copytree(MINI / "base", tmp_path / "base")
    words = ["evaluate", "--model", "mini", f"model.base={tmp_path / 'base'}", *parts, f"out={tmp_path / 'out'}"]
    assert main(words) == 2
    assert "loaded without a segmenter" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_instruments_of_two_makings_are_refused(tmp_path):
    save_judge(Judge(CONCEPTS, STYLES), tmp_path / "judge.safetensors")
    for name in ("pictures", "masks"):
        write_sheet(planted((0, 0), (1, 1)), tmp_path / f"{name}.webp")
    rows = [{"concept": name, "style": "oil", "unseen": False} for name in ("cat", "dog")]
    (tmp_path / "pictures.json").write_text(json.dumps({"rows": rows}))
    assert Instruments.load(tmp_path).concept.tolist() == [0, 1]
    rows[1]["concept"] = "train"
    (tmp_path / "pictures.json").write_text(json.dumps({"rows": rows}))
    with pytest.raises(BadCheckpoint, match="make them again"):
        Instruments.load(tmp_path)


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "quick"), [(["--quick"], True), ([], False)])
def test_model_mini_takes_its_own_settings(monkeypatch, capsys, words, quick):
    mini = __main__.COMMANDS["evaluate"].mini
    kind, _ = mini.load()
    monkeypatch.setattr(
        type(mini), "load", lambda command: (kind, lambda settings: f"{settings.quick} {settings.pairs}")
    )
    assert main(["evaluate", "--model", "mini", *words, "pairs=40"]) == 0
    assert capsys.readouterr().out == f"{quick} 40\n"


def test_quick_alone_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "--quick"])
    assert "--quick goes with --model mini" in capsys.readouterr().err


def test_help_of_model_mini_lists_its_settings(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", "--model", "mini", "--help"])
    assert "\n  unseen (" in capsys.readouterr().out


def test_every_setting_of_model_mini_is_described():
    kind, _ = __main__.COMMANDS["evaluate"].mini.load()
    assert [line for line in describe(kind) if not line.partition(")  ")[2]] == []
