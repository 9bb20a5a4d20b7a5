"""A damaged, doctored or unsuitable checkpoint is refused in words that name the file and what is wrong."""

import json
import shutil

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from stylear import MissingPart, StyleAR, checkpoint, pipeline
from stylear.checkpoint.describe import describe
from stylear.errors import BadCheckpoint, StyleARError
from stylear.resampler import ResamplerConfig
from stylear.vqgan import VQGANConfig

PARTS = ["base", "lora", "resampler", "vqgan", "image_encoder", "segmenter"]
DAMAGE = {
    "truncated": lambda whole: whole[: len(whole) // 2],
    "a pointer": lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "a script": lambda whole: b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.",
}
REASONS = {"truncated": "damaged or incomplete", "a pointer": "Git LFS pointer", "a script": "can run code"}


@pytest.fixture
def bundle(tmp_path):
    return tiny.write_bundle(tmp_path / "model")


def load(part: str, place) -> None:
    getattr(checkpoint, "load_adapter" if part in ("lora", "resampler") else f"load_{part}")(place)


def rewrite(part: str, place, change) -> None:
    """Save the file of `part` again, its weights through `change`."""
    found = checkpoint.find(part, place)
    save_file(change(load_file(found.path)), found.path, metadata=dict(found.file.metadata))


def damage(path, how: str) -> None:
    path.write_bytes(DAMAGE[how](path.read_bytes()))


# -- numbers that cannot be used ---------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 3])
def test_layers_that_weights_and_config_do_not_share_are_counted_on_both_sides(tmp_path, layers):
    with pytest.raises(BadCheckpoint, match=f"model.safetensors: .*has 2 layers and .*config.json says {layers}"):
        checkpoint.load_base(tiny.write_base(tmp_path, num_hidden_layers=layers))


def test_buffers_and_a_vqgan_that_old_checkpoints_carry_along_do_no_harm(tmp_path):
    folder = tiny.write_base(tmp_path)
    old = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4),
        "model.vqmodel.quantize.embedding.weight": torch.zeros(2, 2),
    }
    rewrite("base", folder, lambda state: state | old)
    checkpoint.load_base(folder)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("part", PARTS)
def test_weights_that_are_not_plain_floats_are_refused_by_name_and_dtype(bundle, part, dtype):
    rewrite(part, bundle, lambda state: tiny.map_values(lambda value: value.to(dtype), state))
    name = str(dtype).removeprefix("torch.")
    key = next(iter(checkpoint.find(part, bundle).keys.values()))
    with pytest.raises(BadCheckpoint, match=f"{checkpoint.find(part, bundle).path}: .*{key} is {name}"):
        load(part, bundle)


def test_counters_that_no_part_computes_with_may_be_whole_numbers(bundle):
    rewrite("vqgan", bundle, lambda state: state | {"loss.num_batches_tracked": torch.tensor(3)})
    rewrite("image_encoder", bundle, lambda state: state | {"visual.position_ids": torch.arange(5)})
    checkpoint.load_vqgan(bundle)
    checkpoint.load_image_encoder(bundle)


@pytest.mark.parametrize(
    "wrong",
    [
        {"vocab_size": "x"},
        {"vocab_size": 1.5},
        {"vocab_size": -1},
        {"vocab_size": 10**30},
        {"vocab_size": True},
        {"num_hidden_layers": "2"},
        {"num_hidden_layers": 2.0},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": 0},
        {"num_attention_heads": 4.0},
        {"max_position_embeddings": "x"},
        {"rms_norm_eps": "x"},
        {"rms_norm_eps": float("nan")},
        {"rope_theta": "x"},
        {"rope_theta": 0},
        {"swin_norm": "no"},
        {"rope_parameters": [1]},
        {"rope_parameters": {"rope_theta": "x"}},
    ],
    ids=str,
)
def test_a_config_with_an_impossible_value_is_refused_by_its_name_and_value(tmp_path, wrong):
    (name, value) = next(iter(wrong.items()))
    if isinstance(value, dict):
        (name, value) = next(iter(value.items()))
    folder = tiny.write_base(tmp_path, **wrong)
    with pytest.raises(BadCheckpoint) as caught:
        checkpoint.load_base(folder)
    assert f"config.json: {name} is {value!r}" in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"patch_size": 0},
        {"patch_size": "8"},
        {"layers": 2.5},
        {"head_width": 0},
        {"width": "x"},
        {"image_size": -16},
        {"mlp_ratio": "x"},
    ],
    ids=str,
)
def test_an_image_encoders_config_with_an_impossible_value_is_refused(tmp_path, wrong):
    config = {"vision_cfg": tiny.OPEN_CLIP_CONFIG["vision_cfg"] | wrong}
    save_file(tiny.open_clip_state(), tmp_path / "x.safetensors", metadata={"stylear": json.dumps(config)})
    with pytest.raises(BadCheckpoint, match="x.safetensors: "):
        checkpoint.load_image_encoder(tmp_path)


@pytest.mark.parametrize("rank", [0, -4, None])
def test_a_peft_adapter_of_an_impossible_rank_is_refused(tmp_path, rank):
    folder = tiny.write_adapter(tmp_path, released=False)
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank, "lora_alpha": 2}))
    with pytest.raises(BadCheckpoint, match="does not say lora_alpha and r"):
        checkpoint.load_adapter(folder)


# -- files that are not what they seem ---------------------------------------------------------------


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_segmenter_is_not_taken_for_a_model_without_one(bundle, how):
    damage(bundle / "segmenter" / "sam.safetensors", how)
    with pytest.raises(BadCheckpoint, match=f"sam.safetensors.*{REASONS[how]}.*segmenter"):
        StyleAR.load(bundle, device="cpu")


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", ["sam.safetensors", "sam_vit_b_01ec64.pth", "SAM.pt"])
def test_a_damaged_segmenter_beside_weights_that_can_be_read_is_named(bundle, how, name):
    (bundle / "segmenter" / "sam.safetensors").rename(bundle / "vqgan" / name)
    damage(bundle / "vqgan" / name, how)
    with pytest.raises(BadCheckpoint, match=f"{name}.*segmenter"):
        StyleAR.load(bundle, device="cpu")


def test_a_model_without_a_segmenter_loads_beside_files_that_are_not_weights(tmp_path):
    bundle = tiny.write_bundle(tmp_path, segmenter=False)
    (bundle / "base" / "training_args.bin").write_bytes(DAMAGE["a script"](b""))
    assert StyleAR.load(bundle, device="cpu").segmenter is None


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_part_is_what_the_first_line_is_about(bundle, how):
    damage(bundle / "vqgan" / "vqgan.safetensors", how)
    with pytest.raises(MissingPart) as caught:
        checkpoint.load_vqgan(bundle)
    first = str(caught.value).splitlines()[0]
    assert "vqgan.safetensors" in first and REASONS[how] in first and "VQGAN picture tokenizer" in first


def test_a_missing_shard_is_what_the_first_line_is_about(tmp_path):
    folder = tiny.write_base(tmp_path / "base", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(MissingPart, match=r"^The shard model-00002-of-00003.safetensors is missing .*base model"):
        checkpoint.load_base(folder)


def test_a_damaged_lora_is_named_by_its_own_file(bundle):
    rewrite("lora", bundle, lambda state: state | {"lm_head.lm_head_lora.A": torch.zeros(3)})
    with pytest.raises(BadCheckpoint, match=r"adapter/model.safetensors: The LoRA of lm_head has A \[3\]"):
        checkpoint.load_adapter(bundle)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_a_peft_lora_of_another_shape_is_named_by_its_own_file(tmp_path, shape):
    folder = tiny.write_adapter(tmp_path, released=False)
    rewrite("lora", folder, lambda state: state | {"base_model.model.lm_head.lora_A.weight": torch.zeros(shape)})
    with pytest.raises(BadCheckpoint, match=r"adapter_model.safetensors: .*lm_head"):
        checkpoint.load_adapter(folder)


def test_a_mini_that_is_not_whole_asks_for_a_new_installation(tmp_path, monkeypatch):
    for folder in (tmp_path / "nowhere", tmp_path):
        monkeypatch.setattr(pipeline, "MINI", folder)
        with pytest.raises(MissingPart) as caught:
            StyleAR.load("mini", device="cpu")
        first = str(caught.value).splitlines()[0]
        assert "mini that comes with StyleAR is incomplete: install StyleAR again" in first
        assert "Lumina" not in str(caught.value)


def test_a_mini_without_its_tokenizer_asks_for_a_new_installation(bundle, monkeypatch):
    (bundle / "base" / "tokenizer.json").unlink()
    monkeypatch.setattr(pipeline, "MINI", bundle)
    with pytest.raises(MissingPart, match="tokenizer.*install StyleAR again"):
        StyleAR.load("mini", device="cpu")


# -- pickles and indexes -----------------------------------------------------------------------------


def test_a_pickle_that_contains_itself_ends(tmp_path):
    content = {}
    content["state_dict"] = content
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(BadCheckpoint, match="no named weights"):
        checkpoint.open_weights(tmp_path / "x.ckpt")


def test_a_state_dict_in_a_state_dict_is_unwrapped(tmp_path):
    torch.save({"state_dict": {"state_dict": tiny.resampler_state()}}, tmp_path / "x.ckpt")
    assert checkpoint.open_weights(tmp_path / "x.ckpt").like.keys() == tiny.resampler_state().keys()


@pytest.mark.parametrize(
    "content", [b"\x80", b"\x80\x02.", b"\x80\x02}.", b"\x80\x02q", b"\x80\x02K\x01K\x02s.", b"\x80\x02X\xff"]
)
def test_a_few_bytes_of_a_pickle_are_refused(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(BadCheckpoint, match="x.pth"):
        checkpoint.open_weights(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "tensor",
    [
        lambda: torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8),
        lambda: torch.eye(2).to_sparse(),
        lambda: torch.zeros(2, device="meta"),
    ],
    ids=["quantised", "sparse", "without numbers"],
)
def test_a_pickled_tensor_that_is_no_plain_one_is_refused(tmp_path, tensor):
    torch.save({"latents": tensor()}, tmp_path / "x.pth")
    with pytest.raises(BadCheckpoint, match=r"x.pth holds more than weights \(a tensor that is quantised, sparse"):
        checkpoint.open_weights(tmp_path / "x.pth").read()


@pytest.mark.parametrize("entry", [["x"], {"a": 1}, None, 5])
def test_an_index_entry_that_is_no_name_is_refused(tmp_path, entry):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": entry}}))
    with pytest.raises(BadCheckpoint, match="outside its folder"):
        checkpoint.open_weights(path)
    with pytest.raises(MissingPart, match="outside its folder"):
        checkpoint.find("base", tmp_path)


def test_an_index_that_names_an_index_is_refused(tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": path.name}}))
    with pytest.raises(BadCheckpoint, match="neither safetensors nor"):
        checkpoint.open_weights(path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "x.index.json", "adapter_config.json"])
def test_json_nested_without_end_is_refused_with_its_place(tmp_path, name):
    tiny.write_base(tmp_path)
    tiny.write_adapter(tmp_path / "adapter", released=False)
    nested = '{"weight_map": ' * (name == "x.index.json") + "[" * 100_000
    path = next(tmp_path.rglob(name), tmp_path / name)
    path.write_text(nested)
    with pytest.raises(BadCheckpoint, match=name):
        if name == "x.index.json":
            checkpoint.open_weights(path)
        elif name == "adapter_config.json":
            checkpoint.load_adapter(tmp_path)
        else:
            checkpoint.load_base(tmp_path)


# -- shapes ------------------------------------------------------------------------------------------

SHAPES = {
    "vqgan": (tiny.vqgan_state, VQGANConfig, "encoder.conv_in.weight", "quantize.embedding.weight"),
    "resampler": (tiny.resampler_state, ResamplerConfig, "latents", "layers.0.1.1.weight"),
}


@pytest.mark.parametrize("shape", [(), (7,), (0, 16, 0), (1, 0, 3, 3)], ids=str)
@pytest.mark.parametrize("part", SHAPES)
def test_a_shape_that_cannot_be_is_told_from_an_absent_key(tmp_path, part, shape):
    state, config, *keys = SHAPES[part]
    for key in keys:
        broken = state() | {key: torch.zeros(shape)}
        with pytest.raises(BadCheckpoint, match=f"{key} is \\[{', '.join(map(str, shape))}\\]"):
            config.from_state_dict(broken)
        del broken[key]
        with pytest.raises(BadCheckpoint, match=f"lacks {key}"):
            config.from_state_dict(broken)
    save_file(state() | {keys[0]: torch.zeros(shape)}, tmp_path / "x.safetensors")
    assert "incomplete" in describe(tmp_path)[0]


def test_a_vqgan_whose_channels_do_not_divide_is_refused_with_them(tmp_path):
    save_file(tiny.vqgan_state() | {"encoder.conv_in.weight": torch.zeros(20, 3, 3, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(BadCheckpoint, match="x.safetensors: .*20"):
        checkpoint.load_vqgan(tmp_path)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (0, 0), (2, 0, 2, 2)], ids=str)
def test_any_weight_of_another_shape_is_refused_and_described(bundle, part, shape):
    path, own = checkpoint.find(part, bundle).path, checkpoint.find(part, bundle).keys
    metadata = dict(checkpoint.find(part, bundle).file.metadata)
    whole = {key: value.clone() for key, value in load_file(path).items()}  # not mapped: the file changes
    for key in list(own.values())[:: max(1, len(own) // 4)]:
        if key.startswith(("loss.", "visual.transformer.resblocks.2", "visual.ln_post")):
            continue
        save_file(whole | {key: torch.zeros(shape)}, path, metadata=metadata)
        with pytest.raises(StyleARError):
            load(part, bundle)
        describe(path)


# -- looking once ------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False])
def test_one_load_looks_into_each_file_once(tmp_path, monkeypatch, together):
    places = tiny.write_official(tmp_path)
    opened, real = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kw: opened.append(args[0]) or real(*args, **kw))
    StyleAR.load(**({"base": tmp_path} if together else places), device="cpu")
    assert sorted(path.name for path in opened) == ["image_proj.pth", "vqgan.ckpt"]


@pytest.mark.parametrize("name", ["tokenizer.json", "text_tokenizer.json"])
def test_a_model_whose_base_has_no_tokenizer_takes_the_one_beside_its_vqgan(bundle, name):
    shutil.move(bundle / "base" / "tokenizer.json", bundle / "vqgan" / name)
    assert StyleAR.load(bundle, device="cpu").vocabulary.max_grid == tiny.GRIDS
