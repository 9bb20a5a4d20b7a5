"""`evaluate` from end to end with a tiny model: what it draws, what it goes on from, what it refuses."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import yaml
from PIL import Image

from stylear import StyleAR
from stylear.errors import BadInput, MissingPart
from training.config import CONFIGS, ModelPaths, read_settings
from training.drawing import record
from training.evaluate import EvaluateSettings, run

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> ModelPaths:
    places = tiny.write_official(tmp_path_factory.mktemp("model"))
    return ModelPaths(**{name: str(place) for name, place in places.items()})


@pytest.fixture
def told(model, tmp_path):
    """Settings: three references with captions, two prompts, two seeds."""
    (tmp_path / "styles").mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (20, 16), colour).save(tmp_path / "styles" / f"{name}.png")
        (tmp_path / "styles" / f"{name}.txt").write_text(f"a {name} cat")
    (tmp_path / "prompts.txt").write_text("a cat\na dog in oil\ta dog\n")

    def settings(**changes) -> EvaluateSettings:
        known = {
            "model": model, "references": tmp_path / "styles", "prompts": tmp_path / "prompts.txt",
            "out": tmp_path / "out", "seeds": 2, "width": 16, "height": 16, "device": "cpu",
            "metrics": {"clip": "mini"},
        }  # fmt: skip
        return EvaluateSettings(**(known | changes))

    return settings


def pixels(folder: Path) -> dict[str, bytes]:
    files = sorted((folder / "pictures").rglob("*.png"))
    return {file.relative_to(folder).as_posix(): np.asarray(Image.open(file)).tobytes() for file in files}


def read(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_every_reference_prompt_and_seed_is_drawn_measured_and_shown(told):
    settings = told()
    summary = run(settings)
    results = read(settings.out)
    assert results["counts"] == {"references": 3, "prompts": 2, "seeds": 2, "pictures": 12}
    assert "12 pictures (12 drawn now)" in summary
    assert [one["name"] for one in results["metrics"]] == ["CLIP-T", "CLIP-I", "leakage", "harmonic mean"]
    assert set(results["left_out"]) == {"DINO (reference)", "DINO (set)", "CSD"}
    assert all(np.isfinite(value) for one in results["pictures"] for value in one["values"].values())
    page = (settings.out / "index.html").read_text()
    assert all(name in page for name in pixels(settings.out))
    assert {file.name for file in settings.out.iterdir()} >= {"results.md", "scatter.png", "bars.png", "references"}


def test_pictures_are_those_that_the_engine_draws_of_their_seed(told, model):
    settings = told(max_references=1, max_prompts=1)
    run(settings)
    engine = StyleAR.load(**{k: v for k, v in model.model_dump().items() if v}, device="cpu")
    style = engine.encode_style(Image.new("RGB", (20, 16), COLOURS["blue"]))
    wanted = engine.generate("a cat", style, seed=1, width=16, height=16)[0]
    file = settings.out / "pictures" / "00-blue" / "000-1.png"
    assert np.array_equal(np.asarray(Image.open(file)), (wanted * 255).round().byte().numpy())


def test_a_picture_says_what_it_is_and_how_long_it_took(told):
    settings = told(max_references=1, max_prompts=1)
    run(settings)
    found = record(settings.out / "pictures" / "00-blue" / "000-1.png")
    assert (found["prompt"], found["reference"], found["seed"]) == ("a cat", "blue", 1)
    assert (found["device"], found["dtype"], found["width"]) == ("cpu", "float32", 16)
    assert found["seconds"] > 0


def test_seeds_drawn_together_are_the_pictures_drawn_alone(told, tmp_path):
    run(told(out=tmp_path / "one", noise=0.1))
    run(told(out=tmp_path / "two", noise=0.1, batch=2))
    assert pixels(tmp_path / "one") == pixels(tmp_path / "two")


def test_going_on_draws_only_what_is_missing_or_broken_and_ends_with_the_same_results(told):
    settings = told()
    run(settings)
    before, values = pixels(settings.out), [one["values"] for one in read(settings.out)["pictures"]]
    files = sorted((settings.out / "pictures").rglob("*.png"))
    files[0].unlink()
    files[5].write_bytes(files[5].read_bytes()[:-40])
    Image.new("RGB", (16, 16)).save(files[7])  # a picture, but not one of these
    kept = {file: file.stat().st_mtime_ns for k, file in enumerate(files) if k not in (0, 5, 7)}
    assert "(3 drawn now)" in run(settings)
    assert pixels(settings.out) == before
    assert [one["values"] for one in read(settings.out)["pictures"]] == values
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


def test_other_metrics_may_measure_the_same_pictures_later(told):
    run(told(metrics={}))
    assert "(0 drawn now)" in run(told(draws=200))


def test_without_any_metric_pictures_are_drawn_and_the_page_written(told):
    settings = told(metrics={})
    assert "Nothing was measured" in run(settings)
    assert read(settings.out)["metrics"] == []
    assert (settings.out / "index.html").exists()


@pytest.mark.parametrize("what", ["references", "prompts"])
def test_a_folder_begun_from_other_inputs_is_refused(what, told, tmp_path):
    run(told(metrics={}))
    if what == "prompts":
        (tmp_path / "prompts.txt").write_text("a cat\na fox\n")
    else:
        Image.new("RGB", (20, 16), "white").save(tmp_path / "styles" / "red.png")
    with pytest.raises(BadInput, match=f"other inputs than those of now: {what}. Give"):
        run(told(metrics={}))


def test_a_folder_begun_with_another_adapter_is_refused(told, model, tmp_path):
    run(told(metrics={}))
    for file in Path(model.adapter).iterdir():
        (tmp_path / "adapter").mkdir(exist_ok=True)
        (tmp_path / "adapter" / file.name).write_bytes(file.read_bytes())
    same = model.model_copy(update={"adapter": str(tmp_path / "adapter")})
    file = tmp_path / "out" / "settings.yaml"
    first = file.read_text().splitlines()[0]
    file.write_text(f"{first}\n{yaml.safe_dump(told(metrics={}, model=same).model_dump(mode='json'))}")
    assert "(0 drawn now)" in run(told(metrics={}, model=same))
    tiny.save_file({key: 2 * value for key, value in tiny.lora_state().items()}, tmp_path / "adapter/model.safetensors")
    with pytest.raises(BadInput, match="other inputs than those of now: model.adapter"):
        run(told(metrics={}, model=same))


@pytest.mark.parametrize("subtract", [True, False])
def test_a_folder_begun_with_another_segmenter_is_refused_if_it_is_used(told, model, tmp_path, monkeypatch, subtract):
    class Stopped(Exception):
        pass

    def stops(*_):
        raise Stopped

    file = tmp_path / "sam.safetensors"
    tiny.save_file(tiny.sam_state(), file)
    settings = told(metrics={}, model=model.model_copy(update={"segmenter": str(file)}), subtract=subtract)
    monkeypatch.setattr("training.evaluate.draw", stops)
    with pytest.raises(Stopped):
        run(settings)
    tiny.double(file)
    with pytest.raises(BadInput if subtract else Stopped) as caught:
        run(settings)
    assert not subtract or "other inputs than those of now: model.segmenter" in str(caught.value)


def test_a_broken_reference_is_skipped_and_said(told, tmp_path):
    (tmp_path / "styles" / "amber.png").write_bytes(b"no picture")
    summary = run(told(metrics={}, max_prompts=1))
    assert "Skipped reference" in summary and "amber.png" in summary
    assert "amber.png" in read(tmp_path / "out")["skipped"][0]


def test_a_metrics_missing_model_is_told_before_anything_is_drawn(told, tmp_path):
    with pytest.raises(MissingPart, match="nowhere.pth"):
        run(told(metrics={"csd": str(tmp_path / "nowhere.pth")}))
    assert not (tmp_path / "out" / "pictures").exists()


def test_no_prompts_are_refused(told, tmp_path):
    (tmp_path / "prompts.txt").write_text("# none\n")
    with pytest.raises(BadInput, match="no prompts"):
        run(told())
    assert not (tmp_path / "out").exists()


def test_two_processes_draw_and_measure_what_one_does(told, tmp_path):
    settings = told(out=tmp_path / "two")
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "training", "evaluate", "--config", str(tmp_path / "two.yaml")],
            cwd=Path(__file__).parents[2],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=300)[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    run(told(out=tmp_path / "one"))
    assert pixels(tmp_path / "two") == pixels(tmp_path / "one")
    one, two = (read(tmp_path / name) for name in ("one", "two"))
    assert [figure["mean"] for figure in two["metrics"]] == pytest.approx([figure["mean"] for figure in one["metrics"]])


def test_the_shipped_settings_are_read():
    settings = read_settings(EvaluateSettings, CONFIGS / "evaluate.yaml")
    assert settings.metrics.clip == "mini"
