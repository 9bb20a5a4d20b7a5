"""All of the mini in one run: the plan comes first, what is done is kept, what is of other things is not."""

import json
import re
import shutil
from collections import namedtuple
from dataclasses import replace
from functools import partial

import filelock
import numpy as np
import pytest
import torch

from stylear.errors import BadInput, MissingPart
from training import bundled, stages, whole
from training.__main__ import main
from training.config import ModelPaths
from training.data import renderers
from training.data.icons import packages
from training.data.pictures import build_pictures
from training.inputs import files_sha256
from training.loop import Schedule, fit, steps_done
from training.parts import Parts
from training.stages import RECORD, STAGES, Stage, run

CPU = torch.device("cpu")
Usage = namedtuple("Usage", "free")


class Kill(BaseException):
    pass


class World:
    """Three stages that write down when they are made, instead of the mini's."""

    def __init__(self, work):
        self.work, self.made, self.recipe, self.kill = work, [], {"b": "one"}, None

        def a(work, downloads=None):
            self.write("a", "drawings")

        def b(work):
            self.write("b", f"{self.recipe['b']} of {(work / 'a' / 'file').read_text()}")

        def c(work):
            self.write("c", (work / "b" / "file").read_text())

        def report(work):
            self.made.append("report")
            (work / "check.md").write_text("figures")

        self.stages = {
            "a": Stage(a, "A", (), ("file",), lambda: {"settings": 1}),
            "b": Stage(b, "B", ("a",), ("file",), lambda: {"settings": self.recipe["b"]}),
            "c": Stage(c, "C", ("b",), ("file",)),
            "report": Stage(report, "R", ("c",)),
        }

    def write(self, name, text):
        self.made.append(name)
        if self.kill == name:
            raise Kill
        (self.work / name / "file").write_text(text)

    def make(self):
        """Which stages a run made."""
        self.made = []
        try:
            whole.make(whole.survey(self.work, device=CPU))
        except Kill:
            pass
        return "".join(self.made)

    def states(self):
        return {task.stage.name: task.state for task in whole.survey(self.work, device=CPU).tasks}


@pytest.fixture
def world(tmp_path, monkeypatch):
    found = World(tmp_path / "work")
    for module in (stages, whole):
        monkeypatch.setattr(module, "STAGES", found.stages)
    monkeypatch.setattr(whole, "COSTS", {name: whole.Cost(60, disk=1e9) for name in found.stages})
    monkeypatch.setattr(whole, "probe", lambda device: whole.PROBE)
    monkeypatch.setattr(whole, "_missing_packages", lambda downloads: [])
    monkeypatch.setattr(whole, "MEMORY", 0)
    return found


def test_everything_is_made_in_order_and_only_once(world):
    assert world.make() == "abcreport"
    assert world.make() == "report"


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_run_that_was_killed_in_any_stage_goes_on_in_it(world, name):
    world.kill = name
    before = world.make()
    assert before.endswith(name)
    assert world.states()[name] == "begun"
    world.kill = None
    assert before[:-1] + world.make() == "abcreport"


def test_what_another_recipe_made_is_named_with_all_that_was_made_of_it_and_nothing_is_made(world):
    world.make()
    world.recipe["b"] = "two"
    with pytest.raises(BadInput) as caught:
        world.make()
    assert "a (" not in str(caught.value) and not world.made
    assert re.search(r"b \(of another settings\); .*c \(older than b\)\. Move these folders away", str(caught.value))
    for name in "bc":
        shutil.move(world.work / name, world.work / f"old-{name}")
    assert world.make() == "bcreport"


def test_what_was_made_of_other_content_is_named(world):
    world.make()
    (world.work / "b" / "file").write_text("exchanged")
    assert world.states() == {"a": "done", "b": "done", "c": "of another b", "report": "to do"}
    with pytest.raises(BadInput, match="c was made of other things than there are now: b"):
        run("c", world.work)


def test_what_was_made_before_the_stage_it_is_of_is_not_used(world):
    world.make()
    shutil.rmtree(world.work / "a")
    assert world.states() == {"a": "to do", "b": "older than a", "c": "older than b", "report": "to do"}


def test_what_nobody_wrote_down_the_making_of_is_not_used_until_its_stage_is_run(world):
    world.make()
    (world.work / "b" / RECORD).unlink()
    assert world.states()["b"] == "made of what is not known"
    run("b", world.work)
    assert world.states() == {"a": "done", "b": "done", "c": "done", "report": "to do"}


def test_a_stage_alone_says_which_one_before_it_is_missing(world):
    with pytest.raises(MissingPart, match="c is made of b, which is not in .*work/b: make it first"):
        run("c", world.work)


def test_two_runs_do_not_write_one_stage(world):
    def again(work):
        run("a", work)

    world.stages["a"] = replace(world.stages["a"], make=again)
    again.__name__ = "a"
    with pytest.raises(BadInput, match="is being written by another run"):
        run("a", world.work)


def test_the_plan_is_printed_first_and_alone_when_asked(world, capsys):
    assert main(["pretrain", "all", "--work", str(world.work), "--plan"]) == 0
    told = capsys.readouterr().out
    assert not world.work.exists()
    assert "about 4 min left" in told and "Disk: 4.0 GB needed" in told and "Memory: 0 GB needed" in told
    assert re.search(r"^b +B +a +to do +60 s$", told, re.MULTILINE)
    assert main(["pretrain", "all", "--work", str(world.work)]) == 0
    assert capsys.readouterr().out == told + "figures\n"
    assert main(["pretrain", "all", "--work", str(world.work), "--plan"]) == 0
    assert re.search(r"^b +B +a +done$", capsys.readouterr().out, re.MULTILINE)


def test_a_plan_of_one_stage_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", "icons", "--plan"])
    assert "--plan is for `pretrain all`" in capsys.readouterr().err


def test_too_small_a_disk_is_said_before_anything_is_made(world, monkeypatch):
    monkeypatch.setattr(whole.shutil, "disk_usage", lambda folder: Usage(free=1.5e9))
    with pytest.raises(BadInput, match=r"too small: free 2\.5 GB, or give another --work"):
        world.make()
    assert not world.work.exists()


def test_too_little_memory_is_said_before_anything_is_made(world, monkeypatch):
    monkeypatch.setattr(whole, "MEMORY", 1e18)
    with pytest.raises(BadInput, match="too little memory: close other programs"):
        world.make()
    assert not world.work.exists()


def test_without_npm_the_plan_says_what_to_install_or_to_give(tmp_path, monkeypatch):
    monkeypatch.setattr(whole.shutil, "which", lambda name: None)
    (told,) = whole._missing_packages(tmp_path)
    assert "iconify-json-noto-1.2.9.tgz" in told and "install Node.js" in told and "--downloads" in told
    for package in packages():
        (tmp_path / package.filename).touch()
    assert not whole._missing_packages(tmp_path)


def test_the_time_of_a_stage_that_was_begun_is_that_of_the_steps_that_are_left(tmp_path):
    model = torch.nn.Linear(2, 2)
    schedule = Schedule(steps=3, batch=1, learning_rate=0.1)
    fit("test", model, model.parameters(), lambda step: (model(torch.ones(1, 2)).sum(), {}), schedule, tmp_path / "sam")
    assert steps_done(tmp_path / "sam") == 3 and steps_done(tmp_path) == 0
    assert whole._steps("sam") - whole._steps_left("sam", tmp_path) == 3
    (tmp_path / "adapter" / "state-000050").mkdir(parents=True)
    assert whole._steps("adapter") - whole._steps_left("adapter", tmp_path) == 50


def test_the_probe_takes_a_step_and_leaves_the_generator_alone():
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    assert 0 < whole.probe(CPU) < 60
    assert torch.equal(torch.rand(1), wanted)


@pytest.mark.parametrize(("seconds", "told"), [(45, "45 s"), (420, "7 min"), (11_100, "3 h 05 min")])
def test_a_duration_is_told_in_words(seconds, told):
    assert whole.duration(seconds) == told


def test_every_stage_has_its_cost_and_reads_only_stages_before_it():
    assert [*whole.COSTS] == [*STAGES]
    for place, stage in enumerate(STAGES.values()):
        assert {*stage.of} <= {*[*STAGES][:place]}


def test_recipes_are_json_that_stays_the_same_and_tells_a_changed_setting(monkeypatch):
    from training.pretrain import sam

    first = STAGES["sam"].recipe()
    assert first == json.loads(json.dumps(STAGES["sam"].recipe()))
    other = sam.SAMSettings(schedule=Schedule(steps=9, batch=1, learning_rate=1.0))
    monkeypatch.setattr(sam, "SAMSettings", lambda: other)
    assert STAGES["sam"].recipe() != first


def test_a_style_that_draws_otherwise_is_told(monkeypatch):
    few = {name: renderers.STYLES[name] for name in ("plain", "neon")}
    monkeypatch.setattr(renderers, "STYLES", few)
    first = renderers.fingerprint()
    assert first == renderers.fingerprint()
    monkeypatch.setitem(few, "neon", renderers.STYLES["plain"])
    assert first != renderers.fingerprint()


def test_pictures_are_made_by_worker_processes_after_the_plan_looked_at_the_styles(icons, tmp_path, monkeypatch):
    few = {name: renderers.STYLES[name] for name in ("plain", "oil")}
    monkeypatch.setattr("training.data.pictures.STYLES", few)
    renderers.fingerprint()
    for workers in (1, 2):
        build_pictures(icons, tmp_path / str(workers), workers=workers)
    alone, together = (np.load(tmp_path / str(workers) / "pictures.npy") for workers in (1, 2))
    assert np.array_equal(alone, together)


class Copied:
    """The mini's stages, of which those that train must not run, beside a bundle of tiny files."""

    def __init__(self, work, mini, monkeypatch):
        self.work, self.mini, self.made, self.found = work, mini, [], {}
        monkeypatch.setattr(bundled, "MINI", mini)
        monkeypatch.setattr(bundled, "BUNDLED", mini / "eval")
        monkeypatch.setattr(bundled, "source_record", lambda place: {"steps": 7})
        same = {"recipe": lambda: {"settings": 1}, "known_by": files_sha256}
        for name, stage in STAGES.items():
            self.found[name] = replace(stage, make=self.maker(name, stage.files), **same)
            for source in bundled.bundled_files(name).values():
                source.parent.mkdir(parents=True, exist_ok=True)
                source.write_text(f"{name} {source.name}")
        for module in (stages, whole, bundled):
            monkeypatch.setattr(module, "STAGES", self.found)
        monkeypatch.setattr(whole, "probe", lambda device: whole.PROBE)
        monkeypatch.setattr(whole, "_missing_packages", lambda downloads: [])
        monkeypatch.setattr(whole, "MEMORY", 0)

    def maker(self, name, files):
        def make(work, downloads=None):
            self.made.append(name)
            for file in files:
                (work / name / file).write_text("made")

        make.__name__ = name
        return make

    def make(self, **how):
        self.made = []
        whole.make(whole.survey(self.work, device=CPU, **how))
        return self.made

    def states(self, **how):
        return {task.stage.name: task.state for task in whole.survey(self.work, device=CPU, **how).tasks}


@pytest.fixture
def copied(tmp_path, monkeypatch):
    return Copied(tmp_path / "work", tmp_path / "mini", monkeypatch)


def test_what_is_bundled_is_taken_and_only_the_data_are_made(copied):
    trained = ["vqgan", "clip", "sam", "base", "adapter", "judge"]
    states = copied.states(bundled=True)
    assert [name for name in states if states[name] == whole.TO_TAKE] == trained and not copied.work.exists()
    assert copied.make(bundled=True) == ["icons", "pictures", "tokens", "corpus"]
    assert set(copied.states(bundled=True).values()) == {"done"}
    for name in trained:
        for file, source in bundled.bundled_files(name).items():
            assert (copied.work / name / file).read_bytes() == source.read_bytes()
    assert json.loads((copied.work / "adapter" / "summary.json").read_text()) == {"steps": 7}
    assert copied.make(bundled=True) == []


def test_of_the_real_bundle_every_file_is_there_and_the_study_finds_its_parts(tmp_path):
    for name in ("vqgan", "clip", "sam", "base", "adapter", "judge"):
        bundled.take(name, tmp_path)
        assert STAGES[name].is_made(tmp_path)
    assert json.loads((tmp_path / "adapter" / "summary.json").read_text())["steps"] > 0
    place = {name: str(tmp_path / name) for name in ("base", "adapter", "vqgan")}
    place |= {"image_encoder": str(tmp_path / "clip"), "segmenter": str(tmp_path / "sam")}
    assert Parts(ModelPaths(**place)).pipeline(device="cpu").untaught("a zyxwv")


def test_a_taking_that_was_killed_is_done_again(copied):
    copied.make(bundled=True)
    (copied.work / "base" / "config.json").unlink()
    (copied.work / "judge" / "judge.safetensors").write_text("half")
    assert [name for name, state in copied.states(bundled=True).items() if state == whole.TO_TAKE] == ["base", "judge"]
    assert copied.make(bundled=True) == []
    assert (copied.work / "base" / "config.json").read_text() == "base config.json"
    assert (copied.work / "judge" / "judge.safetensors").read_text() == "judge judge.safetensors"


def test_what_was_taken_is_not_trained_over(copied):
    copied.make(bundled=True)
    with pytest.raises(BadInput, match="vqgan was taken from the bundled mini: move it away"):
        run("vqgan", copied.work)
    assert copied.states(bundled=True)["vqgan"] == "done"


@pytest.mark.parametrize("text", ["", "null", "3", '["bundled"]', '"bundled by me"', "{"])
def test_a_damaged_record_is_said_and_nothing_is_written_over(copied, text):
    (copied.work / "vqgan").mkdir(parents=True)
    (copied.work / "vqgan" / "vqgan.safetensors").write_text("of days of work")
    (copied.work / "vqgan" / RECORD).write_text(text)
    for call in (copied.make, partial(copied.make, bundled=True), partial(bundled.take, "vqgan", copied.work)):
        with pytest.raises(BadInput, match="damaged"):
            call()
    assert (copied.work / "vqgan" / "vqgan.safetensors").read_text() == "of days of work"


def test_what_was_made_of_an_earlier_bundle_is_not_used(copied):
    copied.make(bundled=True)
    next(iter(bundled.bundled_files("vqgan").values())).write_text("a newer bundle's")
    with pytest.raises(BadInput, match="tokens \\(older than vqgan\\)"):
        copied.make(bundled=True)


def test_what_was_taken_does_not_pass_for_what_was_trained(copied):
    copied.make(bundled=True)
    with pytest.raises(BadInput, match=r"vqgan \(from the bundled mini, which --bundled takes\)"):
        copied.make()


@pytest.mark.parametrize("record", [True, False])
def test_what_was_trained_is_not_written_over(copied, record):
    (copied.work / "vqgan").mkdir(parents=True)
    file = copied.work / "vqgan" / "vqgan.safetensors"
    file.write_text("of days of work")
    if record:
        (copied.work / "vqgan" / RECORD).write_text('{"settings": 1}')
    with pytest.raises(BadInput, match=r"vqgan \(not from the bundled mini\).*Move these folders away"):
        copied.make(bundled=True)
    with pytest.raises(BadInput, match="was not taken from the bundled mini: move it away"):
        bundled.take("vqgan", copied.work)
    assert file.read_text() == "of days of work"


def test_a_stage_is_not_taken_while_another_run_writes_it(copied):
    copied.work.mkdir()
    with filelock.FileLock(copied.work / ".sam.lock"), pytest.raises(BadInput, match="is being written by another run"):
        bundled.take("sam", copied.work)


def test_the_bundled_parts_are_for_all_stages(copied, capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", "icons", "--bundled"])
    assert "--bundled is for `pretrain all`" in capsys.readouterr().err
    assert main(["pretrain", "all", "--bundled", "--work", str(copied.work)]) == 0
    assert f"Next: python -m training study work={copied.work}" in capsys.readouterr().out
