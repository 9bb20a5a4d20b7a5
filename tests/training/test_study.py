"""`study`: planted pictures give the planted verdicts, and a whole question is answered on tiny parts, in steps."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import tiny_tokens
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file, save_file

import training.dpo
from stylear.checkpoint import load_adapter
from stylear.errors import BadInput, MissingPart
from stylear.style import StyleTokens
from training import __main__
from training.__main__ import main
from training.bars.cases import Case
from training.config import CONFIGS, describe, read_settings
from training.instruments import Instruments
from training.judge import Judge, save_judge
from training.judges import Scores, Verdict
from training.output import write_json
from training.study import cells, command, illustrations, plan, report, variants, verdicts
from training.study.cells import Subjects, mask_of, style_of, texture
from training.study.questions import QUESTIONS, SHIPPED, VARIANTS, Cell, Claim, How, cells_of, variants_of
from training.study.settings import StudySettings
from training.study.verdicts import CONFIRMS, CONTRADICTS, OPEN, Values
from training.styled import write_adapter

CONCEPTS, STYLES = ["cat", "dog", "owl", "axe"], ["oil", "neon", "knit"]
RECIPE = """
resampler: {width: 16, depth: 1, heads: 1}
rank: 2
context_drop: 0.3
lora_rate: 1.0e-3
resampler_rate: 1.0e-3
micro_batch: 4
contrast: {weight: 0.2, pairs: 2}
"""


# --- the questions ----------------------------------------------------------------------------------------------------


def test_every_claim_is_about_rows_of_its_question_and_every_row_has_a_variant():
    assert list(QUESTIONS) == list("abcdefghi")
    for question in QUESTIONS.values():
        told = {name for claim in question.claims for name in (claim.better, *claim.others)}
        assert told <= {*question.rows, "chance"} and question.claims
        assert {cell.variant for cell in question.rows.values()} <= VARIANTS.keys()


def test_what_several_questions_look_at_is_trained_and_drawn_once():
    every = cells_of(tuple(QUESTIONS))
    assert len(set(every)) == len(every) == len({cell.name for cell in every})
    assert sum(len(question.rows) for question in QUESTIONS.values()) > len(every)
    assert [one.name for one in variants_of(("h",))] == [SHIPPED]
    assert [one.name for one in variants_of(("d",))] == [SHIPPED, "dpo"]


def test_every_variant_that_is_trained_changes_the_minis_recipe_to_one_that_can_be_read():
    shipped = read_settings(StudySettings, CONFIGS / "study.yaml")
    resolved = {
        one.name: variants.training(shipped, one) for one in VARIANTS.values() if one.name != SHIPPED and not one.of
    }
    plain = resolved["default"].model_dump()
    assert resolved["tokens_8"].resampler.tokens == 8 and resolved["tokens_8"].resampler.width == 192
    assert resolved["joint"].base_rate and not resolved["frozen"].base_rate and not resolved["frozen"].noise
    assert resolved["paper"].contrast.looks == 0 and resolved["paper"].ratio == (1, 3)
    for name, one in resolved.items():
        same = {key for key, value in one.model_dump().items() if value == plain[key]}
        assert plain.keys() - same <= {*VARIANTS[name].changes, "out"}
    assert variants.preferring(shipped, VARIANTS["joint_pairs"]).judge.leakage == 2.0
    assert variants.preferring(shipped, VARIANTS["joint_pairs"]).model.base.endswith("joint/run/base")


def test_a_variant_shows_openings_for_the_share_of_its_steps_that_the_recipe_does(tmp_path):
    settings = StudySettings(work=tmp_path, steps=900)
    assert variants.training(settings, VARIANTS["frozen"]).opening.steps == 250  # 1000 of 3600
    assert variants.training(settings, VARIANTS["paper"]).opening.steps == 0
    assert variants.training(settings, VARIANTS["paper"]).contrast.weight == 0


def test_every_setting_of_the_study_is_described():
    assert [line for line in describe(StudySettings) if not line.partition(")  ")[2]] == []


# --- verdicts ---------------------------------------------------------------------------------------------------------


def values(count=100, cases="pair", **shares):
    """A cell of which these shares of pictures, from the first on, are right."""
    given = {"prompt": 0.0, "style": 0.0, "nearest": 0.0, "leak": 0.0, "chance": 0.0} | shares
    return Values(cases, 4, *((np.arange(count) < share * count).astype(float) for share in given.values()))


def verdict(measure, one, *others, margin=0.0):
    rows = {"one": one} | {f"other {k}": other for k, other in enumerate(others)}
    return verdicts.check(Claim("", measure, "one", tuple(rows)[1:], margin), rows, 500).verdict


def test_a_claim_is_confirmed_contradicted_or_open_by_the_interval_of_the_difference():
    high, low, near = values(prompt=0.9), values(prompt=0.3), values(prompt=0.32)
    assert verdict("prompt", high, low) == CONFIRMS
    assert verdict("prompt", low, high) == CONTRADICTS
    assert verdict("prompt", near, near) == OPEN
    assert verdict("prompt", near, low, high) == CONTRADICTS and verdict("prompt", high, high, low) == OPEN


def test_less_leak_is_better_and_counts_above_chance():
    clean, leaking = values(leak=0.02), values(leak=0.6)
    assert verdict("leak", clean, leaking) == CONFIRMS and verdict("leak", leaking, clean) == CONTRADICTS
    assert verdict("leak", clean, values(leak=0.6, chance=0.6)) == OPEN


def test_no_worse_is_within_the_margin():
    assert verdict("style", values(style=0.5), values(style=0.5), margin=0.05) == CONFIRMS
    assert verdict("style", values(style=0.2), values(style=0.5), margin=0.05) == CONTRADICTS


def test_what_never_happened_in_few_pictures_is_no_proof_that_it_never_does():
    assert verdict("leak", values(5), values(5), margin=0.05) == OPEN
    assert verdict("leak", values(160), values(160), margin=0.05) == CONFIRMS


def test_styles_never_trained_on_have_no_share_that_the_judge_names():
    assert verdicts.figures(values(cases="unseen", nearest=0.5), 100).keys() == {"prompt", "nearest", "leak", "excess"}


def test_balance_needs_both():
    lopsided, even = values(prompt=1.0, style=0.1), values(prompt=0.5, style=0.5)
    assert verdict("balance", even, lopsided) == CONFIRMS
    found = verdicts.figures(even, 500)
    assert found["balance"][0] == pytest.approx(0.5) and found["prompt"][1:] == pytest.approx((0.404, 0.596), abs=1e-3)


def test_the_same_pictures_are_compared_one_by_one_and_others_apart():
    rng = np.random.default_rng(0)
    hits = (rng.random(200) < 0.5).astype(float)
    better = np.maximum(hits, np.arange(200) < 16)
    one, other = (Values("pair", 4, *[one] * 5) for one in (better, hits))
    assert verdict("prompt", one, other) == CONFIRMS
    assert verdict("prompt", one, Values("family", 4, *[hits] * 5)) == OPEN


def test_a_blind_guess_is_chance_of_all_styles():
    claim = Claim("", "nearest", "one", ("chance",))
    assert verdicts.check(claim, {"one": values(nearest=0.9)}, 500).verdict == CONFIRMS
    found = verdicts.check(claim, {"one": values(nearest=0.25)}, 500)
    assert found.verdict == OPEN and found.differences["chance"][0] == pytest.approx(0.0)


def test_a_question_is_contradicted_by_one_claim_and_confirmed_by_all():
    of = [SimpleNamespace(verdict=one, claim=Claim("", "leak", "", ())) for one in (CONFIRMS, OPEN, CONTRADICTS)]
    assert verdicts.together(of) == CONTRADICTS
    assert verdicts.together(of[:2]) == OPEN and verdicts.together(of[:1]) == CONFIRMS


def test_claims_of_ours_decide_only_where_the_paper_makes_none():
    ours = SimpleNamespace(verdict=CONTRADICTS, claim=Claim("", "leak", "", (), ours=True))
    papers = SimpleNamespace(verdict=CONFIRMS, claim=Claim("", "leak", "", ()))
    assert verdicts.together([ours, papers]) == CONFIRMS and verdicts.together([ours]) == CONTRADICTS


def test_a_copy_of_the_reference_is_all_leak_and_chance_is_what_others_show():
    asked, shown = [0, 1, 2, 3], [1, 2, 3, 0]
    told = {"cases": "pair", "styles": 3, "asked": asked, "style": [0] * 4, "pull": [0.5, 0.1, 0.2, 0.0]}
    read = {"concept": shown, "style": [0] * 4, "nearest": [1] * 4}
    found = Values.of(told | {"shown": shown, "read": read})
    assert found.leak.tolist() == [1.0] * 4 and found.chance.tolist() == [0.0] * 4
    assert found.prompt.sum() == 0 and found.style.mean() == 1 and found.nearest.sum() == 0
    same = Values.of(told | {"shown": [3] * 4, "asked": [0] * 4, "read": read | {"concept": [3] * 4}})
    assert same.leak.mean() == same.chance.mean() == 1
    without = Values.of(told | {"shown": None, "read": read})
    assert not len(without.leak) and not len(without.pull)


def test_the_pull_is_how_much_likelier_what_the_reference_shows_is_than_what_others_show():
    shares = np.log([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.2, 0.3, 0.5]])
    shown, asked = np.array([1, 2, 2]), np.array([0, 0, 1])
    found = cells.pull_of(shares, shown, asked)
    assert found[:2] == pytest.approx([np.log(0.2 / 0.1), np.log(0.8 / 0.1)])
    assert found[2] == pytest.approx(np.log(0.5)), "the other one shows what was asked for"


def test_less_pull_is_told_with_its_interval_of_the_same_pictures_or_of_others():
    rng = np.random.default_rng(0)
    strong = replace(values(60), pull=1 + rng.standard_normal(60))
    weak = replace(strong, pull=strong.pull - 0.5)
    assert verdicts.pulled(weak, strong, 200) == pytest.approx((0.5, 0.5, 0.5))
    less, low, high = verdicts.pulled(replace(weak, cases="family"), strong, 200)
    assert less == pytest.approx(0.5) and low < 0.4 and high > 0.6
    assert verdicts.pulled(values(60), strong, 200) is None


def test_few_styles_never_trained_on_leave_a_wide_interval_however_many_their_pictures():
    right = np.repeat([1.0, 0.0, 0.0, 0.0], 40)
    same = replace(values(160, "unseen"), nearest=right)
    known = replace(same, wanted=np.repeat(np.arange(4), 40))
    (_, low, high), (_, narrow, near) = (verdicts.figures(one, 500)["nearest"] for one in (known, same))
    assert low == 0 and high >= 0.5 and 0.1 < narrow < near < 0.4
    claim = Claim("", "nearest", "one", ("chance",))
    assert verdicts.check(claim, {"one": replace(known, styles=77)}, 500).verdict == OPEN
    assert verdicts.check(claim, {"one": replace(same, styles=77)}, 500).verdict == CONFIRMS
    told = report.by_style({"new": known}, ["oil", "neon", "knit", "chalk"])
    assert told[0] == "Nearest, new: oil 40 of 40, neon 0 of 40, knit 0 of 40, chalk 0 of 40."


# --- what is subtracted -----------------------------------------------------------------------------------------------


def test_masks_fail_as_they_are_told_to():
    own, other = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    own[10:40, 10:40], other[:5] = 255, 255
    assert np.array_equal(mask_of("true", own, other), own / 255)
    assert mask_of("eroded", own, other).sum() == (30 - 2 * cells.ERODED) ** 2
    shifted = mask_of("shifted", own, other)
    assert shifted[26:56, 26:56].all() and shifted.sum() == 900
    assert np.array_equal(mask_of("random", own, other), other / 255)


def test_a_texture_has_the_style_and_no_object():
    one = texture("oil", 3)
    assert one.shape == (64, 64, 3) and one.dtype == np.uint8
    assert np.array_equal(one, texture("oil", 3)) and not np.array_equal(one, texture("oil", 4))
    assert not np.array_equal(one, texture("neon", 3)) and texture("mono", 3).std() > 5


class Listener:
    """A model that remembers what is subtracted; SAM finds nothing."""

    def __init__(self):
        self.calls = []

    def encode_style(self, picture):
        return StyleTokens(2 * torch.ones(4, 8), picture=picture)

    def subtract(self, style, content=None, mask=None, alpha=None, beta=None):
        self.calls.append((content is not None, mask, alpha, beta))
        if content is None and mask is None:
            raise BadInput("nothing")
        return style.with_tokens(0 * style.tokens)


def test_the_style_is_subtracted_from_and_noised_as_the_cell_says():
    pictures = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    masks = np.stack([np.full((64, 64), 60 * k, np.uint8) for k in range(4)])
    judge = SimpleNamespace(concept_names=CONCEPTS, style_names=STYLES)
    tests = Instruments(judge, pictures, masks, np.arange(4), np.zeros(4, int), np.zeros(4, bool))
    some, model = [Case("pair", k, k, (k + 1) % 4) for k in range(4)], Listener()

    def tokens(**how):
        return style_of(model, tests, some, 1, How(gamma=how.pop("gamma", 0.0), **how))[0].tokens

    told = {mask: style_of(model, tests, some, 1, How(mask=mask))[1] for mask in ("none", "sam", "true", "whole")}
    assert told == {"none": False, "sam": False, "true": True, "whole": True}
    model.calls.clear()
    assert (tokens() == 2).all() and not model.calls
    assert (tokens(mask="sam") == 2).all() and model.calls[-1] == (False, None, 0.2, 0.8)
    assert not tokens(mask="true", alpha=0.5).any() and model.calls[-1][2] == 0.5
    assert np.allclose(model.calls[-1][1], 60 / 255)
    tokens(mask="random"), tokens(mask="whole")
    assert np.allclose(model.calls[-2][1], 120 / 255) and model.calls[-1][0]
    plain, relative = ((tokens(gamma=0.5, relative=one) - 2) for one in (False, True))
    assert torch.allclose(relative, 2 * plain) and plain.std() == pytest.approx(0.5, rel=0.3)


# --- the page ---------------------------------------------------------------------------------------------------------


def test_remarks_are_read_by_question_and_a_missing_file_has_none(tmp_path):
    (tmp_path / "remarks.md").write_text(
        "# Mine\n\n## b\nSubtraction looks *odd*.\n\n## c. tokens\n\n## i\nTwo\nlines\n"
    )
    found = report.read_remarks(tmp_path / "remarks.md")
    assert found == {"b": "Subtraction looks *odd*.", "i": "Two\nlines"}
    assert report.read_remarks(tmp_path / "none.md") == {}


def test_a_sheet_has_room_for_every_row_and_label(tmp_path):
    rows = [
        ("reference", np.zeros((3, 64, 64, 3), np.uint8)),
        ("a rather long name", np.zeros((3, 64, 64, 3), np.uint8)),
    ]
    illustrations.sheet([(["a cat", "an owl", "a very long prompt"], rows)] * 2, tmp_path / "sheet.webp")
    with Image.open(tmp_path / "sheet.webp") as page:
        assert page.height == 2 * (16 + 2 * 67 + 10) and page.width > 3 * 67 + 60


def test_the_best_of_a_grid_is_named_with_how_many_may_be_as_good():
    scored = {"both": {"balance": (0.9, 0.8, 1.0)}, "α 0": {"balance": (0.3, 0.2, 0.4)}}
    scored |= {"α 1": {"balance": (0.5, 0.4, 0.6)}, "α 2": {"balance": (0.45, 0.35, 0.55)}}
    (told, _) = report.best_of_grid(scored)
    assert told.startswith("Of the grid α 1 balances best, 50.0 % (40 … 60); the intervals of 1 others")
    assert report.best_of_grid({"both": {"balance": (0.9, 0.8, 1.0)}}) == []


def test_the_grids_page_shows_its_corners():
    shown = [name for name in QUESTIONS["b"].rows if "α" in name and illustrations._is_corner(name, QUESTIONS["b"])]
    assert len(shown) == 8 and "α 0.0 β 1.2 γ 0.3" in shown


# --- all of it, on tiny parts -----------------------------------------------------------------------------------------


class Brightness:
    """Likes bright pictures."""

    name = "brightness"

    def __call__(self, reference, prompt, pictures):
        return [Verdict(Scores(float(np.asarray(picture).mean()), 0.0, 0.0)) for picture in pictures]


def write_pictures(folder):
    """Five concepts' pictures of noise: held-out pairs, a style and a family never trained on."""
    splits = (("pair", "noto", 0), ("pair", "noto", 1), ("style", "noto", 2), ("family", "fxemoji", 0))
    rows = [[concept, style, family, 0, split] for split, family, style in splits for concept in range(4)]
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.save(folder / "pictures.npy", rng.integers(0, 256, (len(rows), 64, 64, 3), np.uint8))
    masks = np.zeros((len(rows), 64, 64), np.uint8)
    masks[:, 16:48, 16:48] = 255
    np.save(folder / "masks.npy", masks)
    names = {"concepts": CONCEPTS, "held_out": [], "styles": STYLES, "seed": 0}
    (folder / "pictures.json").write_text(json.dumps(names | {"rows": rows}))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The work folder of a tiny mini, as `pretrain` would leave it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("study")
    work, bundle = folder / "work", tiny.write_bundle(folder / "bundle")
    work.mkdir()
    for name, part in (("base", "base"), ("vqgan", "vqgan"), ("clip", "image_encoder"), ("sam", "segmenter")):
        shutil.copytree(bundle / part, work / name)
    shutil.copytree(bundle / "adapter", work / "adapter" / "adapter")
    (work / "adapter" / "summary.json").write_text("{}")
    tiny_tokens.write_tokens(work / "corpus")
    write_pictures(work / "pictures")
    judge = Judge(CONCEPTS, STYLES)
    judge.know_styles(np.load(work / "pictures" / "pictures.npy"), np.repeat([0, 1, 2, 0], 4))
    save_judge(judge, work / "judge" / "judge.safetensors")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(plan, "probe", lambda device: plan.PROBE)
    monkeypatch.setattr(training.dpo, "load_judge", lambda settings, device: Brightness())
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def settings(made, out, *questions, **changes):
    given = {
        "work": made / "work",
        "out": out / "out",
        "report": out / "docs" / "study.md",
        "remarks": out / "docs" / "remarks.md",
        "questions": questions,
        "recipe": made / "recipe.yaml",
        "steps": 2,
        "batch": 4,
        "cases": 4,
        "preference_steps": 1,
        "pictures": 4,
        "few": 4,
        "workers": 1,
        "compile": False,
        "draws": 100,
    }
    return StudySettings.model_validate(given | changes)


@pytest.fixture(scope="module")
def answered(made, tmp_path_factory):
    """Question d, of trained and preference-trained weights, answered."""
    out = tmp_path_factory.mktemp("answered")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "probe", lambda device: plan.PROBE)
        patch.setattr(training.dpo, "load_judge", lambda settings, device: Brightness())
        AcceleratorState._reset_state(reset_partial_state=True)
        chosen = settings(made, out, "d")
        return chosen, command.run(chosen)


def test_a_question_is_answered_with_figures_a_plot_pictures_and_a_verdict(answered):
    chosen, told = answered
    assert told.startswith("d. ") and str(chosen.report) in told
    page, folder = chosen.report.read_text(), chosen.report.with_suffix("")
    assert "## d. Does preference training help?" in page and "python -m training study --question d" in page
    assert "**Verdict: the mini " in page and "| on |" in page and "pair, through the VQGAN" in page
    assert "python -m training study --question a`" in page and not (folder / "a_plot.png").exists()
    for name in ("d_plot.png", "d_pictures.webp"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 60 and f"study/{name}" in page
    assert "textures as they are" in page and "| pull |" in page and "of claims that are ours" not in page
    result = json.loads((chosen.out / "cells" / "dpo" / "usual" / "result.json").read_text())
    assert result["subtracted"] == 0 and len(result["pull"]) == 4
    assert len(result["asked"]) == len(result["read"]["concept"]) == 4
    recipe = json.loads((chosen.out / "variants" / "dpo" / "recipe.json").read_text())
    assert len(recipe["sha256"]) == 64 and recipe["recipe"]["steps"] == 1


def test_answered_again_nothing_is_made_and_remarks_are_taken_in_and_kept(answered, monkeypatch):
    chosen, _ = answered
    chosen.remarks.write_text("## d\nIt looks the same to me.\n")
    monkeypatch.setattr(variants, "training", None)
    monkeypatch.setattr(cells, "_draw", None)
    command.run(chosen)
    assert "Remarks: It looks the same to me." in chosen.report.read_text()
    assert chosen.remarks.read_text() == "## d\nIt looks the same to me.\n"


def test_what_was_drawn_of_other_things_is_left_out_of_the_page(answered):
    chosen = answered[0]
    inputs = chosen.out / "cells" / "dpo" / "usual" / "inputs.json"
    before = inputs.read_text()
    inputs.write_text(json.dumps(json.loads(before) | {"judge": "of old"}))
    assert report.write_report(chosen) == {}
    assert "Not drawn yet: `python -m training study --question d`" in chosen.report.read_text()
    inputs.write_text(before)
    assert list(report.write_report(chosen)) == ["d"]


def elsewhere(answered, tmp_path, **changes):
    """The study of `answered`, with the page it wrote, in a folder where nothing was drawn."""
    chosen = answered[0]
    page = tmp_path / "docs" / "study.md"
    page.parent.mkdir()
    page.write_text(chosen.report.read_text())
    remarks = {"remarks": tmp_path / "docs" / "remarks.md"}
    return chosen.model_copy(update={"out": tmp_path / "out", "report": page} | remarks | changes)


def test_an_answer_of_the_same_mini_stays_on_the_page_where_it_is_not_drawn(answered, tmp_path):
    report.write_report(answered[0])
    there = elsewhere(answered, tmp_path)
    before = there.report.read_text()
    verdicts = report.write_report(there)
    assert list(verdicts) == ["d"] and there.report.read_text() == before
    there.remarks.write_text("## d\nAnother look at it.\n")
    report.write_report(there)
    text = there.report.read_text()
    assert text.count("Remarks:") == 1 and "Remarks: Another look at it.\n\n<!-- of " in text


@pytest.mark.parametrize("name", [*report.COUNTS, "recipe", "preferences"])
def test_an_answer_of_another_study_does_not_stay(answered, tmp_path, name):
    report.write_report(answered[0])
    (tmp_path / "dpo.yaml").write_text((CONFIGS / "dpo.yaml").read_text().replace("beta: 0.1 ", "beta: 0.9 "))
    there = elsewhere(
        answered, tmp_path, **{name: {"recipe": None, "preferences": tmp_path / "dpo.yaml"}.get(name, 123)}
    )
    assert report.write_report(there) == {}
    assert "**Verdict" not in there.report.read_text()


def test_no_answer_is_read_from_a_page_that_is_not_whole_or_of_this_study(tmp_path):
    page, stamps = tmp_path / "page.md", {"a": "mine", "b": "mine too"}
    one, other = (report.STAMP.format(stamp) for stamp in stamps.values())
    section = "# Head\n\n## a. One?\n\n**Verdict: the mini confirms.**\n\nRemarks: I see.\n\n"
    page.write_text(f"{section}{one}\n\n## b. Two?\n\n**Verdict: the mini confirms.**\n\n{one}\n")
    answer = ("confirms", "## a. One?\n\n**Verdict: the mini confirms.**", "I see.")
    assert report.read_answers(page, stamps) == {"a": answer}
    for text in (section, section + other, one + section):
        page.write_text(text)
        assert report.read_answers(page, stamps) == {}
    for text in (f"\ufeff{section}{one}\nmore", f"{section}{one}".replace("\n", "\r\n")):
        page.write_bytes(text.encode())
        assert report.read_answers(page, stamps) == {"a": answer}
    page.write_text("## a. One?\n\nNot drawn yet.\n\nRemarks: **Verdict: the mini confirms**\n\n" + one)
    assert report.read_answers(page, stamps) == {}
    assert report.read_answers(tmp_path / "none", stamps) == {}


@pytest.mark.parametrize("name", ["report", "remarks"])
def test_a_page_that_cannot_be_read_is_not_written_over_and_told_before_any_work(answered, tmp_path, monkeypatch, name):
    monkeypatch.setattr(command, "_make_all", None)
    file, folder = tmp_path / "damaged.md", tmp_path / "folder"
    file.write_bytes(b"\xff## a. One?")
    folder.mkdir()
    for path in (file, folder):
        with pytest.raises(BadInput, match="mend it or move it away"):
            command.run(answered[0].model_copy(update={name: path}))
    assert file.read_bytes() == b"\xff## a. One?"


def test_remarks_of_one_question_in_two_places_are_both_taken(tmp_path):
    (tmp_path / "remarks.md").write_bytes("\ufeff## a\nOne.\n\n## b\n\n## a\nTwo.\n".encode())
    assert report.read_remarks(tmp_path / "remarks.md") == {"a": "One.\n\nTwo."}


def test_an_answer_of_another_mini_does_not_stay_and_of_its_half_precision_does(answered, made, tmp_path):
    report.write_report(answered[0])
    work = shutil.copytree(made / "work", tmp_path / "work")
    folder = work / "adapter" / "adapter"
    lora, resampler = load_adapter(folder)
    for file in folder.iterdir():
        file.unlink()
    write_adapter(folder, lora, resampler.state_dict(), {}, torch.float16)
    there = elsewhere(answered, tmp_path, work=work)
    assert list(report.write_report(there)) == ["d"]
    lora[next(iter(lora))] += 1
    write_adapter(folder, lora, resampler.state_dict(), {}, torch.float16)
    assert report.write_report(there) == {}


def test_a_stamp_is_of_what_a_question_draws_with(answered, made, tmp_path):
    work = shutil.copytree(made / "work", tmp_path / "work")
    there = answered[0].model_copy(update={"work": work})

    def stamps():
        return {letter: report.stamp_of(there, letter) for letter in QUESTIONS}

    before = stamps()
    assert len(set(before.values())) == len(before)
    for part, heard in {"sam": "bfi", "adapter": "bdefh", "judge": "abcdefghi"}.items():
        (file,) = [*work.glob(f"{part}/{part}.safetensors"), *work.glob(f"{part}/adapter/model.safetensors")]
        kept = file.read_bytes()
        save_file({name: weight + 1 for name, weight in load_file(file).items()}, file)
        assert "".join(letter for letter, stamp in stamps().items() if stamp != before[letter]) == heard
        file.write_bytes(kept)
    assert stamps() == before


def test_another_segmenter_leaves_the_cells_that_do_not_use_it(answered, made, tmp_path):
    work = shutil.copytree(made / "work", tmp_path / "work")
    there = answered[0].model_copy(update={"work": work, "out": tmp_path / "out"})
    rows = QUESTIONS["f"].rows.values()
    for cell in rows:
        write_json(there.folder(cell) / cells.INPUTS, cells.inputs_of(there, cell))
    assert {cells.state_of(there, cell) for cell in rows} == {"begun"}
    tiny.double(work / "sam" / "sam.safetensors")
    found = {(cell.how.mask == "sam", cells.state_of(there, cell)) for cell in rows}
    assert found == {(False, "begun"), (True, "of another model.segmenter")}


def test_real_pictures_are_read_again_only_after_what_they_are_read_with_has_changed(answered, monkeypatch):
    chosen, calls = answered[0], []
    measured = cells.reading
    monkeypatch.setattr(cells, "reading", lambda *given: calls.append(given) or measured(*given))
    subjects = Subjects.of(chosen)
    cells.measure_ceilings(chosen, subjects)
    assert not calls
    fewer = replace(subjects, cases={**subjects.cases, "pair": subjects.cases["pair"][:2]})
    assert len(cells.measure_ceilings(chosen, fewer)["pair, real"]["asked"]) == 2 and calls
    cells.measure_ceilings(chosen, subjects)


def test_a_plan_tells_variants_cells_and_time_and_makes_nothing(made, tmp_path, answered):
    told = command.run(settings(made, tmp_path, "c", "d", plan=True))
    assert "6 variants, 6 cells, 24 pictures" in told and "tokens_32" in told and "dpo/usual" in told
    assert list(tmp_path.iterdir()) == []
    done = command.run(answered[0].model_copy(update={"plan": True}))
    assert "0 s of one core left" in done and "to do" not in done


def test_variants_of_many_kinds_are_trained_and_drawn_with(made, tmp_path, monkeypatch):
    asked = {"m": Cell("tokens_8"), "j": Cell("joint", How(mask="sam")), "t": Cell("together", How(relative=True))}
    asked |= {"e": Cell(SHIPPED, How(cases="unseen")), "x": Cell(SHIPPED, How(reference="texture", style_cfg=2.0))}
    asked |= {"p": Cell("joint_pairs", How(few=True)), "f": Cell(SHIPPED, How(cases="family", mask="shifted"))}
    claims = (Claim("", "leak", "m", ("j",)), Claim("", "style", "f", ("t", "x")))
    monkeypatch.setitem(QUESTIONS, "i", replace(QUESTIONS["i"], rows=asked, claims=claims))
    chosen = settings(made, tmp_path, "i")
    assert command.run(chosen).startswith("i. ")
    assert (chosen.out / "variants" / "joint" / "run" / "base" / "model.safetensors").exists()
    assert len(list((chosen.out / "cells" / "tokens_8" / "usual" / "pictures").iterdir())) == 4
    with Image.open(chosen.report.with_suffix("") / "i_pictures.webp") as page:
        assert page.height == 4 * (16 + 10) + 67 * (4 + len(asked))  # four kinds of references


def test_a_killed_study_goes_on_with_the_pictures_that_are_missing(made, tmp_path, monkeypatch):
    class Kill(BaseException):
        pass

    saved, chosen = [], settings(made, tmp_path, "e")
    save = cells.save

    def dies(picture, told, path):
        if len(saved) == 6:
            raise Kill
        saved.append(path)
        save(picture, told, path)

    monkeypatch.setattr(cells, "save", dies)
    with pytest.raises(Kill):
        command.run(chosen)
    assert {task.state for task in plan.survey(chosen).cells} == {"done", "begun", "to do"}
    monkeypatch.setattr(cells, "save", lambda picture, told, path: (saved.append(path), save(picture, told, path)))
    command.run(chosen)
    assert len(saved) == len(set(saved)) == plan.survey(chosen).pictures


def test_what_was_made_of_other_things_is_named_and_nothing_is_made(made, tmp_path, answered):
    chosen = answered[0]
    with pytest.raises(BadInput, match=r"variants/dpo is of another steps than there is now: move it away"):
        command.run(chosen.model_copy(update={"preference_steps": 2}))
    with pytest.raises(BadInput, match=r"cells/shipped/usual is of another first_seed than .*: move it away"):
        command.run(chosen.model_copy(update={"first_seed": 7}))


def test_a_stage_that_is_missing_is_named_with_what_makes_it(made, tmp_path):
    shutil.copytree(made / "work", tmp_path / "work")
    shutil.rmtree(tmp_path / "work" / "judge")
    with pytest.raises(
        MissingPart, match="takes judge, which is not in .*judge: make it first, with `python -m training"
    ):
        command.run(settings(made, tmp_path, "b", work=tmp_path / "work"))


def test_two_processes_train_and_draw_the_same_pictures_as_one(made, tmp_path, answered, monkeypatch):
    rows = {"off": Cell("frozen"), "on": Cell("tokens_4"), "usual": Cell(SHIPPED, How(few=True))}
    monkeypatch.setitem(QUESTIONS, "e", replace(QUESTIONS["d"], letter="e", rows=rows))
    chosen = settings(made, tmp_path, "e", workers=2)
    assert command.run(chosen).startswith("e. ")
    one, two = (
        (out / "cells" / SHIPPED / cell / "pictures" / "pair-000.png").read_bytes()
        for out, cell in ((answered[0].out, "usual"), (chosen.out, "few"))
    )
    assert one == two


@pytest.mark.parametrize(
    ("words", "told"), [(["--plan"], "True abcdefghi"), (["--question", "b"], "False b"), ([], "False abcdefghi")]
)
def test_the_command_takes_a_question_and_a_plan(monkeypatch, capsys, words, told):
    chosen = __main__.COMMANDS["study"]
    monkeypatch.setattr(type(chosen), "load", lambda _: (StudySettings, lambda s: f"{s.plan} {''.join(s.questions)}"))
    assert main(["study", *words]) == 0
    assert capsys.readouterr().out == told + "\n"


def test_the_shipped_recipe_is_the_minis():
    shipped = read_settings(StudySettings, CONFIGS / "study.yaml")
    assert variants.training(shipped, VARIANTS["default"]).ratio == (7, 1) and shipped.workers == 2


def test_subjects_of_a_judge_of_other_pictures_are_refused(made, tmp_path):
    shutil.copytree(made / "work", tmp_path / "work")
    save_judge(Judge(CONCEPTS[::-1], STYLES), tmp_path / "work" / "judge" / "judge.safetensors")
    with pytest.raises(BadInput, match="is of other pictures than .*pictures: train it anew"):
        Subjects.of(settings(made, tmp_path, "b", work=tmp_path / "work"))
