"""What a run reads is held to: other content is refused by name, the same content is known wherever it lies."""

import json
from pathlib import Path

import pytest
import tiny

from stylear.checkpoint import open_weights
from stylear.errors import BadInput, MissingPart
from training.config import ModelPaths
from training.inputs import files_at, files_of, files_sha256, hold_inputs
from training.judges import JudgeSettings, judge_files
from training.metrics.clip import clip_files
from training.parts import Parts


def test_the_same_inputs_go_on_and_leave_the_record_alone(tmp_path):
    hold_inputs(tmp_path, {"data": "a", "styles": [["ü", None]]})
    before = (tmp_path / "inputs.json").stat().st_mtime_ns
    hold_inputs(tmp_path, {"data": "a", "styles": [["ü", None]]})
    assert (tmp_path / "inputs.json").stat().st_mtime_ns == before


def test_other_inputs_are_refused_naming_them_and_what_to_do(tmp_path):
    hold_inputs(tmp_path, {"data": "a", "init": "b", "model.segmenter": None})
    with pytest.raises(BadInput) as caught:
        hold_inputs(tmp_path, {"data": "x", "init": "b", "model.segmenter": "c"})
    assert "other inputs than those of now: data, model.segmenter. Give another `out`" in str(caught.value)
    hold_inputs(tmp_path, {"data": "a", "init": "b", "model.segmenter": None})


def test_an_input_that_was_never_written_down_is_added(tmp_path):
    (tmp_path / "inputs.json").write_text('{"data": "a", "of an earlier version": 1}')
    hold_inputs(tmp_path, {"data": "a", "init": "b"})
    with pytest.raises(BadInput, match="of now: init"):
        hold_inputs(tmp_path, {"data": "a", "init": "c"})


@pytest.mark.parametrize("text", ["[]", "{", "3"])
def test_a_damaged_record_is_refused(tmp_path, text):
    (tmp_path / "inputs.json").write_text(text)
    with pytest.raises(BadInput, match=r"inputs\.json is damaged"):
        hold_inputs(tmp_path, {"data": "a"})


def test_files_are_known_by_name_and_content_and_not_by_their_folder(tmp_path):
    for folder, content in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.bin").write_text(content)
    a, b, c = (files_sha256([tmp_path / folder / "x.bin"]) for folder in "abc")
    assert a == b != c
    (tmp_path / "a" / "x.bin").rename(tmp_path / "a" / "y.bin")
    assert files_sha256([tmp_path / "a" / "y.bin"]) != a


def names(files: list[Path]) -> list[str]:
    return [file.name for file in files]


def test_a_models_files_are_its_shards_and_the_json_beside_them(tmp_path):
    tiny.write_base(tmp_path, shards=2)
    (tmp_path / "z.md").write_text("mine")
    found = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    found += ["model.safetensors.index.json", "tokenizer.json"]
    assert names(files_of(open_weights(tmp_path / "model.safetensors.index.json"))) == found
    assert names(files_at(tmp_path)) == [*found, "z.md"]
    assert names(files_at(tmp_path / "z.md")) == ["config.json", *found[3:], "z.md"]


@pytest.mark.parametrize(
    ("part", "file"),
    [
        ("base", "base/model.safetensors"),
        ("base", "base/config.json"),
        ("base", "base/tokenizer.json"),
        ("adapter", "adapter/model.safetensors"),
        ("adapter", "adapter/image_proj.safetensors"),
        ("vqgan", "vqgan/vqgan.safetensors"),
        ("image_encoder", "image_encoder/open_clip.safetensors"),
        ("segmenter", "segmenter/sam.safetensors"),
    ],
)
def test_a_part_is_another_one_when_any_of_its_files_is(tmp_path, part, file):
    tiny.write_bundle(tmp_path)
    parts = ("base", "adapter", "vqgan", "image_encoder", "segmenter")
    before = Parts(ModelPaths(base=str(tmp_path))).inputs(*parts)
    data = bytearray((tmp_path / file).read_bytes())
    data[-1] ^= 1 if file.endswith("safetensors") else ord("}") ^ ord(" ")
    (tmp_path / file).write_bytes(data + (b"}" if file.endswith("json") else b""))
    after = Parts(ModelPaths(base=str(tmp_path))).inputs(*parts)
    assert [name for name in before if before[name] != after[name]] == [f"model.{part}"]


def test_a_segmenter_that_is_not_there_is_written_down_as_none(tmp_path):
    tiny.write_bundle(tmp_path / "without", segmenter=False)
    tiny.write_bundle(tmp_path / "with")
    file = tmp_path / "with" / "segmenter" / "sam.safetensors"
    without = Parts(ModelPaths(base=str(tmp_path / "without")))
    assert without.inputs("segmenter") == {"model.segmenter": None} and without.segmenter() is None
    given = Parts(ModelPaths(base=str(tmp_path / "without"), segmenter=str(file)))
    assert given.inputs("segmenter")["model.segmenter"] and given.segmenter() is not None


def test_a_merged_base_has_an_adapter_without_lora(tmp_path):
    tiny.write_bundle(tmp_path)
    (tmp_path / "adapter" / "model.safetensors").unlink()
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps(config | {"stylear": {"merged": True}}))
    assert Parts(ModelPaths(base=str(tmp_path))).inputs("adapter")["model.adapter"]


def test_the_bundled_clip_is_its_weights_and_its_tokenizer():
    assert names(clip_files("mini")) == ["open_clip.safetensors", "tokenizer.json"]


@pytest.mark.parametrize(
    ("kind", "told"), [("score", "no CLIP at nowhere"), ("vlm", "no vision-language model in nowhere")]
)
def test_a_judge_that_is_not_there_is_told(kind, told):
    with pytest.raises(MissingPart, match=told):
        judge_files(JudgeSettings(kind=kind, model="nowhere"))


def test_a_vision_language_judge_is_all_files_of_its_folder(tmp_path):
    for name in ("config.json", "model.safetensors", "chat_template.jinja", ".hidden"):
        (tmp_path / name).touch()
    found = judge_files(JudgeSettings(kind="vlm", model=str(tmp_path)))
    assert names(found) == ["chat_template.jinja", "config.json", "model.safetensors"]
