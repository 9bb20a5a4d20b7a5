"""Every stage runs, and what the stages make is a model that the engine loads and draws with."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from stylear import StyleAR
from stylear.errors import BadInput
from training import bundle, config, instruments, judge, stages
from training.bars.command import BarsSettings, run
from training.data.pictures import PictureSet, build_pictures
from training.data.renderers import STYLES
from training.loop import Schedule
from training.pretrain import base, clip, sam, tokens, vqgan
from training.tokens import TokenSet

SHORT = Schedule(steps=3, batch=2, learning_rate=1e-3, warmup=1)
MUON = replace(SHORT, batch=4, muon=True)


@pytest.fixture(scope="module")
def work(icons, tmp_path_factory):
    """A folder in which every stage has run for three steps."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(icons, folder / "icons")
    with pytest.MonkeyPatch.context() as patch:
        for module in (vqgan, clip, sam, tokens, base):
            patch.setattr(module, "can_compile", lambda device: False)
        few = {name: STYLES[name] for name in ("plain", "neon", "toon", "sepia", "knit")}
        patch.setattr("training.data.pictures.STYLES", few)
        patch.setattr("training.data.pictures.HELD_OUT_PAIRS", 0.4)
        data = folder / "pictures"
        build_pictures(folder / "icons", data, repeats=6, workers=1)
        vqgan.train_vqgan(data, folder / "vqgan", vqgan.VQGANSettings(schedule=SHORT, continuous=0.3))
        clip.train_clip(data, folder / "clip", clip.CLIPSettings(schedule=SHORT))
        sam.train_sam(data, folder / "sam", sam.SAMSettings(schedule=SHORT))
        judge.train_judge(data, folder / "judge", judge.JudgeSettings(schedule=SHORT))
        tokens.encode_pictures(data, folder / "vqgan" / "vqgan.safetensors", folder / "tokens", batch=8)
        codes = folder / "tokens" / "codes.npz"
        base.train_base(
            data,
            codes,
            folder / "base",
            base.BaseSettings(hidden=64, layers=2, heads=1, depth_every=3, pairs=1, clear_steps=1, schedule=MUON),
        )
        stages.run("corpus", folder)
        few_steps = {"steps": 3, "batch": 2, "micro_batch": 2, "ratio": (1, 0), "sample_every": 0, "held_out": 2}
        whole = config.read_settings
        patch.setattr(config, "read_settings", lambda *given: whole(*given).model_copy(update=few_steps))
        patch.setattr("training.loop.can_compile", lambda device: False)
        patch.setattr("training.loop.cores", lambda: 1)
        AcceleratorState._reset_state(reset_partial_state=True)
        stages.run("style", folder)
        AcceleratorState._reset_state(reset_partial_state=True)
        stages.run("depth_corpus", folder)
        stages.run("adapter", folder)
        AcceleratorState._reset_state(reset_partial_state=True)
    return folder


@pytest.fixture(scope="module")
def mini(work, tmp_path_factory):
    """The bundle of those parts."""
    folder = tmp_path_factory.mktemp("mini")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.bundle.REFERENCES", {"plain": "cat"})
        bundle.bundle(work, folder)
    return folder


@pytest.fixture(scope="module")
def model(mini):
    return StyleAR.load(mini, device="cpu")


def test_the_parts_draw_a_picture_together(model):
    style = model.encode_style(np.full((64, 64, 3), 90, np.uint8))
    assert model.generate("a rocket", style, top_k=1).shape == (1, 64, 64, 3)


def test_the_segmenter_that_was_trained_is_one_the_engine_loads(model, work):
    trained, loaded = load_file(work / "sam" / "sam.safetensors"), model.segmenter.sam.state_dict()
    assert trained.keys() == loaded.keys()
    for name, weight in trained.items():
        torch.testing.assert_close(loaded[name], weight.float())


def test_a_depth_map_is_a_condition_of_the_trained_parts(model):
    condition = model.encode_condition(np.full((64, 64), 200, np.uint8))
    style = model.encode_style(np.full((64, 64, 3), 90, np.uint8))
    assert model.generate("a cat", style, condition, top_k=1).isfinite().all()


def test_codes_are_those_of_the_engines_tokenizer(model, work):
    arrays, pictures = np.load(work / "tokens" / "codes.npz"), PictureSet(work / "pictures")
    pixels = vqgan.to_pixels(pictures.pictures[arrays["rows"][:4]])
    with torch.no_grad():
        assert np.array_equal(model.vqgan.encode(pixels).numpy(), arrays["codes"][:4])


def test_the_language_model_and_the_judge_meet_no_concept_that_is_held_out(work):
    pictures, arrays = PictureSet(work / "pictures"), np.load(work / "tokens" / "codes.npz")
    assert len(pictures.where("concept")) and len(pictures.taught) < len(pictures.concepts)
    assert pictures.concept[arrays["rows"]].max() < len(pictures.taught)
    reader = judge.load_judge(work / "judge" / "judge.safetensors")
    assert reader.concept_names == pictures.taught and reader.style_names == pictures.styles


def test_the_base_stays_as_it_was_while_the_adapter_learns(work):
    lora = load_file(work / "adapter" / "adapter" / "model.safetensors")
    assert {name.rsplit(".", 1)[1] for name in lora} == {"A", "B"}
    assert any(tensor.abs().sum() > 0 for name, tensor in lora.items() if name.endswith(".B"))
    assert not any("weight" in name for name in lora)


def test_three_pictures_of_four_of_the_depth_corpus_have_a_map_and_each_is_there_once(work):
    usual, mapped = TokenSet(work / "corpus"), TokenSet(work / "depth_corpus")
    under = [bool(mapped[i].condition) for i in range(len(mapped))]
    keys = [mapped[i].key for i in range(len(mapped))]
    maps = len(np.load(work / "tokens" / "codes.npz")["depth_rows"])
    assert sum(under) == maps and len(under) == maps + round(maps / 3) and len(set(keys)) == len(keys)
    assert sum(bool(usual[i].condition) for i in range(len(usual))) == -(-maps // 2) < len(usual)


def test_a_stage_that_was_made_is_known_and_another_setting_is_refused(work, monkeypatch):
    adapter = stages.STAGES["adapter"]
    record = json.loads((work / "adapter" / stages.RECORD).read_text())
    assert record.keys() == {"base", "vqgan", "clip", "depth_corpus", "style", "settings"} and adapter.is_made(work)
    other = replace(adapter, recipe=lambda: {"settings": {"steps": 4}})
    monkeypatch.setitem(stages.STAGES, "adapter", other)
    with pytest.raises(BadInput, match="adapter was made of other things than there are now: settings"):
        stages.run("adapter", work)


def test_the_bundle_names_every_family_and_its_licence(mini, icons):
    families = json.loads((icons / "icons.json").read_text())["families"]
    notice = (mini / "NOTICE").read_text()
    assert all(family["attribution"] in notice for family in families.values())


def test_a_bundle_that_is_too_large_is_refused(work, tmp_path, monkeypatch):
    monkeypatch.setattr("training.bundle.LIMIT", 1000)
    monkeypatch.setattr("training.bundle.REFERENCES", {})
    with pytest.raises(ValueError, match="MB and may have"):
        bundle.bundle(work, tmp_path)


@pytest.fixture(scope="module")
def tools(work, tmp_path_factory):
    """The instruments of those parts."""
    folder = tmp_path_factory.mktemp("eval")
    instruments.write_instruments(work, folder)
    return folder


def test_the_instruments_are_pictures_that_nothing_was_trained_on_and_name_their_makers(tools, work):
    found, pictures = instruments.Instruments.load(tools), PictureSet(work / "pictures")
    rows = pictures.test_rows()
    assert set(pictures.split[rows]) == {"pair", "style"}
    assert np.array_equal(found.pictures, pictures.pictures[rows]) and np.array_equal(found.masks, pictures.masks[rows])
    assert np.array_equal(found.concept, pictures.concept[rows]) and np.array_equal(found.style, pictures.style[rows])
    assert np.array_equal(found.unseen, pictures.split[rows] == "style")
    families = json.loads((work / "icons" / "icons.json").read_text())["families"]
    assert all(family["attribution"] in (tools / "NOTICE").read_text() for family in families.values())


def test_instruments_are_not_made_with_a_judge_of_other_pictures(work, tmp_path):
    (tmp_path / "judge").mkdir()
    (tmp_path / "pictures").symlink_to(work / "pictures")
    judge.save_judge(judge.Judge(["cat"], ["oil"]), tmp_path / "judge" / "judge.safetensors")
    with pytest.raises(BadInput, match="train the judge"):
        instruments.write_instruments(tmp_path, tmp_path / "eval")


def test_the_mini_is_measured_from_its_weights_and_gone_on_with(mini, tools, tmp_path):
    settings = BarsSettings(
        model={"base": str(mini)}, instruments=tools, out=tmp_path / "out", pairs=4, unseen=4, depth=4, quick=True,
        top_k=1, draws=100,
    )  # fmt: skip
    said = run(settings)
    names = "prompt style leak SAM CLIP-T depth VQGAN loading".split()
    assert all(f"| {name}" in said for name in names) and "all weights" in said
    drawn = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "pictures").iterdir()}
    assert len(drawn) == 3
    run(settings.model_copy(update={"draws": 200, "workers": 1}))
    assert {file: file.stat().st_mtime_ns for file in drawn} == drawn
    (tmp_path / "tools").mkdir()
    for name in instruments.FILES:
        shutil.copyfile(tools / name, tmp_path / "tools" / name)
    with (tmp_path / "tools" / "pictures.json").open("a") as file:
        file.write(" ")
    with pytest.raises(BadInput, match="other inputs than those of now: instruments"):
        run(settings.model_copy(update={"instruments": tmp_path / "tools"}))
