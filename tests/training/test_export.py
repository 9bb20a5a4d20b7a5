"""Exporting an adapter: every layout gives the same logits, in the engine and in PEFT."""

import json

import peft
import pytest
import tiny
import torch
from safetensors import safe_open

from stylear import StyleAR
from stylear.checkpoint import load_adapter
from stylear.errors import BadCheckpoint, BadInput, MissingPart
from training.config import CONFIGS, ModelPaths, read_settings
from training.export import ExportSettings, run
from training.hf_model import load_base
from training.sequences import PictureTokens, assemble
from training.styled import StyledModel, write_adapter


@pytest.fixture
def paths(tmp_path):
    return {name: str(path) for name, path in tiny.write_official(tmp_path / "model").items()}


@pytest.fixture
def export(tmp_path, paths):
    def go(to, out=None, **more):
        out = out or tmp_path / to
        run(ExportSettings(model=ModelPaths(**{**paths, **more.pop("model", {})}), to=to, out=out, **more))
        return out

    return go


def engine_logits(paths, **changed):
    """Logits of a prompt by the engine; the adapter's LoRA is folded in."""
    model = StyleAR.load(**{**paths, **changed})
    ids = torch.tensor(model.vocabulary.prompt("a cat").ids)
    with torch.no_grad():
        return model.base.logits(model.base(model.base.embed(ids)[None], model.base.new_cache(1, len(ids))))[0]


def trained_logits(model, vocabulary):
    """Logits at the picture's places by the class that trains."""
    prompt = vocabulary.prompt("a cat")
    pictures = PictureTokens(torch.zeros(1, 4, 4).numpy(), vocabulary)[[0]]
    with torch.no_grad():
        return model(assemble([prompt], pictures, len(prompt.ids)), None)[0]


@pytest.mark.parametrize("to", ["official", "peft"])
def test_an_exported_adapter_gives_the_same_logits_in_the_engine(export, paths, to):
    torch.testing.assert_close(engine_logits(paths, adapter=str(export(to))), engine_logits(paths), rtol=0, atol=0)


def test_a_merged_model_needs_no_lora_and_gives_the_same_logits(export, paths):
    out = export("merged")
    merged = {"base": str(out), "adapter": str(out / "adapter"), "vqgan": paths["vqgan"]}
    found = engine_logits({**merged, "image_encoder": paths["image_encoder"]})
    torch.testing.assert_close(found, engine_logits(paths), rtol=0, atol=1e-6)


def test_a_peft_folder_loads_in_peft_and_gives_the_logits_of_training(export, paths):
    out = export("peft")
    base, vocabulary = load_base(paths["base"])
    wanted = trained_logits(StyledModel.from_adapter(base, paths["adapter"]), vocabulary)
    fresh, _ = load_base(paths["base"])
    theirs = peft.PeftModel.from_pretrained(fresh, out)
    model = StyledModel.__new__(StyledModel)
    torch.nn.Module.__init__(model)
    model.base = theirs
    torch.testing.assert_close(trained_logits(model, vocabulary), wanted, rtol=0, atol=1e-6)


def test_layouts_convert_there_and_back_without_a_change(export, paths):
    there = export("peft")
    back = export("official", model={"adapter": str(there)})
    (lora, resampler), (wanted, first) = load_adapter(back), load_adapter(paths["adapter"])
    assert lora.keys() == wanted.keys()
    assert all(torch.equal(lora[key], wanted[key]) for key in lora)
    assert all(torch.equal(value, first.state_dict()[key]) for key, value in resampler.state_dict().items())


def test_how_an_adapter_was_made_goes_with_it(export, paths, tmp_path):
    lora, resampler = load_adapter(paths["adapter"])
    write_adapter(tmp_path / "made", lora, resampler.state_dict(), {"noise": 0.1, "data": "abc"})
    out = export("peft", model={"adapter": str(tmp_path / "made")})
    for name in ("adapter_model", "image_proj"):
        with safe_open(out / f"{name}.safetensors", "pt") as file:
            record = json.loads(file.metadata()["stylear"])
        assert (record["noise"], record["data"], record["rank"]) == (0.1, "abc", 2)
        assert "command" in record["exported"]


def test_a_merged_model_in_shards_loads_too(export, paths):
    out = export("merged", shard_size="20KB")
    assert len(list(out.glob("model-*.safetensors"))) > 1
    load_base(out)


def test_a_second_lora_on_a_merged_base_is_refused(export, paths):
    out = export("merged")
    with pytest.raises(BadCheckpoint, match="merged"):
        StyleAR.load(**{**paths, "base": str(out)})


def test_a_folder_that_is_there_is_kept(export, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="overwrite"):
        export("official", kept)
    assert (kept / "mine.txt").read_text() == "mine"


def test_a_failed_export_leaves_what_was_there(export, tmp_path):
    out = export("official")
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(MissingPart):
        export("official", out, overwrite=True, model={"adapter": str(tmp_path / "nowhere")})
    assert (out / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_overwriting_replaces_the_whole_folder(export):
    out = export("peft")
    export("official", out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["image_proj.safetensors", "model.safetensors"]


def test_a_folder_with_something_else_in_it_is_never_replaced(export):
    out = export("peft")
    (out / "precious.txt").write_text("mine")
    with pytest.raises(BadInput, match="precious.txt"):
        export("official", out, overwrite=True)
    assert (out / "precious.txt").read_text() == "mine"


def test_half_precision_halves_the_files(export, tmp_path):
    full, half = export("official"), export("official", tmp_path / "half", dtype="float16")
    with safe_open(half / "model.safetensors", "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}
    assert (half / "model.safetensors").stat().st_size < (full / "model.safetensors").stat().st_size


def test_the_shipped_settings_are_the_settings():
    assert read_settings(ExportSettings, CONFIGS / "export.yaml").to == "official"
