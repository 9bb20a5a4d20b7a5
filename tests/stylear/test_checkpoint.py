"""Every layout on disk is known by its keys and shapes, and what is missing or wrong is said in words."""

import json
import pickle

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from stylear import checkpoint, memory
from stylear.checkpoint import files
from stylear.checkpoint.describe import describe
from stylear.checkpoint.parts import Found
from stylear.errors import BadCheckpoint, BadInput, MissingPart
from stylear.lora import fold


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return tiny.write_official(tmp_path_factory.mktemp("official"))


def same(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def within(ours: dict, theirs: dict) -> bool:
    return same(ours, {key: value for key, value in theirs.items() if key in ours})


# -- containers ------------------------------------------------------------------------------------


def test_shards_read_as_one_state_dict(official):
    state = checkpoint.open_weights(official["base"] / "model.safetensors.index.json").read()
    assert same(state, tiny.base_state())


def test_a_checkpoint_nested_under_state_dict_is_unwrapped_and_what_is_no_tensor_left_out(official):
    assert same(checkpoint.open_weights(official["vqgan"] / "vqgan.ckpt").read(), tiny.vqgan_state())


def test_a_pickle_in_the_old_format_is_read_too(tmp_path):
    torch.save(tiny.resampler_state(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(checkpoint.open_weights(tmp_path / "old.pth").read(), tiny.resampler_state())


def test_a_pickle_that_is_called_safetensors_is_read_as_what_it_is(tmp_path):
    torch.save(tiny.resampler_state(), tmp_path / "x.safetensors")
    assert same(checkpoint.open_weights(tmp_path / "x.safetensors").read(), tiny.resampler_state())


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    class Trap:
        def __reduce__(self):
            return (type(tmp_path).touch, (tmp_path / "sprung",))

    with (tmp_path / "trap.ckpt").open("wb") as file:
        pickle.dump({"state_dict": Trap()}, file, protocol=2)
    torch.save({"state_dict": Trap()}, tmp_path / "zipped.ckpt")
    for name in ("trap.ckpt", "zipped.ckpt"):
        with pytest.raises(BadCheckpoint, match="can run code"):
            checkpoint.open_weights(tmp_path / name).read()
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "content,reason",
    [
        (b"", "neither safetensors nor"),
        (b"\xff\xd8\xff\xe0 a photo", "neither safetensors nor"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{broken", "damaged"),
        (b"PK\x03\x04 cut off", "damaged"),
        (b"\x80\x02", "damaged"),
        (b'{"no": "map"}', "not an index of shards"),
        (b'{"weight_map": {}}', "lists no weights"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused_with_the_reason(tmp_path, content, reason):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(BadCheckpoint, match=reason):
        checkpoint.open_weights(tmp_path / "model.safetensors").read()


def test_a_pickle_without_named_weights_is_refused(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(BadCheckpoint, match="no named weights"):
        checkpoint.open_weights(tmp_path / "list.pth").read()


def test_a_cut_off_safetensors_file_is_refused(tmp_path):
    save_file(tiny.resampler_state(), tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-40])
    with pytest.raises(BadCheckpoint, match="damaged or incomplete"):
        checkpoint.open_weights(tmp_path / "cut.safetensors").read()


def test_a_file_that_is_not_there_is_a_missing_part(tmp_path):
    with pytest.raises(MissingPart, match="nowhere"):
        checkpoint.open_weights(tmp_path / "nowhere.safetensors").read()


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/etc/x.safetensors",
        "..",
        "a\\b.safetensors",
        "C:x",
        "CON",
        "aux.safetensors",
        "a.",
        "a ",
        "a\nb.safetensors",
        "\x1b[2J",
        5,
    ],
)
def test_an_index_cannot_point_outside_its_folder(tmp_path, name):
    save_file({"a": torch.zeros(1)}, tmp_path / "secret.safetensors")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(BadCheckpoint, match="outside its folder"):
        checkpoint.open_weights(tmp_path / "model" / "model.safetensors.index.json").read()


def test_a_header_of_more_names_than_any_model_has_is_refused_unread(tmp_path):
    header = {str(number): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(400_000)}
    text = json.dumps(header).encode()
    (tmp_path / "many.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(BadCheckpoint, match="has a header of 2[0-9]{7} bytes, above 16777216"):
        checkpoint.open_weights(tmp_path / "many.safetensors")


def test_a_missing_shard_is_named(tmp_path):
    folder = tiny.write_base(tmp_path / "base", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(MissingPart, match="model-00002-of-00003.safetensors"):
        checkpoint.open_weights(folder / "model.safetensors.index.json").read()
    with pytest.raises(MissingPart, match="The shard model-00002-of-00003.*No base model"):
        checkpoint.load_base(folder)


def test_a_shard_without_a_key_that_the_index_promises_is_named(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "one.safetensors")
    (tmp_path / "model.index.json").write_text(
        json.dumps({"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}})
    )
    with pytest.raises(BadCheckpoint, match="says that b is in one.safetensors"):
        checkpoint.open_weights(tmp_path / "model.index.json").read()


def test_shards_may_be_pickles(tmp_path):
    torch.save({"latents": torch.zeros(1)}, tmp_path / "one.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"latents": "one.bin"}}))
    file = checkpoint.open_weights(tmp_path / "pytorch_model.bin.index.json")
    assert file.is_pickle and file.read().keys() == {"latents"}


# -- recognising -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind,state",
    [
        ("base", tiny.base_state),
        ("lora", tiny.lora_state),
        ("resampler", tiny.resampler_state),
        ("vqgan", tiny.vqgan_state),
        ("image_encoder", tiny.open_clip_state),
        ("image_encoder", tiny.hugging_face_clip_state),
        ("segmenter", tiny.sam_state),
    ],
)
def test_a_part_is_known_by_its_keys_whatever_its_file_is_called(tmp_path, kind, state):
    save_file(state(), tmp_path / "something.safetensors")
    assert checkpoint.parts_in(checkpoint.open_weights(tmp_path / "something.safetensors")).keys() == {kind}
    assert checkpoint.find(kind, tmp_path).path == tmp_path / "something.safetensors"
    assert checkpoint.holds(kind, tmp_path)


def test_a_lora_of_another_kind_of_model_is_no_part(tmp_path):
    save_file({"transformer.blocks.0.attn.to_q.lora_A.weight": torch.zeros(1)}, tmp_path / "flux.safetensors")
    assert not checkpoint.parts_in(checkpoint.open_weights(tmp_path / "flux.safetensors"))


def test_one_file_may_hold_the_whole_adapter(tmp_path):
    save_file(tiny.lora_state() | tiny.resampler_state(), tmp_path / "both.safetensors")
    lora, resampler = checkpoint.load_adapter(tmp_path / "both.safetensors")
    assert same(lora, tiny.lora_state()) and same(resampler.state_dict(), tiny.resampler_state())


def test_of_an_adapter_either_file_may_be_given(official):
    for name in ("model.safetensors", "image_proj.pth"):
        lora, resampler = checkpoint.load_adapter(official["adapter"] / name)
        assert same(lora, tiny.lora_state()) and same(resampler.state_dict(), tiny.resampler_state())


def test_a_folder_with_both_formats_gives_the_safetensors_one(tmp_path):
    torch.save(tiny.resampler_state(), tmp_path / "image_proj.pth")
    save_file(tiny.resampler_state(), tmp_path / "image_proj.safetensors")
    assert checkpoint.find("resampler", tmp_path).path.suffix == ".safetensors"


def test_two_files_that_would_do_are_both_named(tmp_path):
    for name in ("one", "two"):
        save_file(tiny.resampler_state(), tmp_path / f"{name}.safetensors")
    with pytest.raises(BadCheckpoint, match="one.safetensors and .*two.safetensors"):
        checkpoint.find("resampler", tmp_path)


def test_a_missing_part_is_named_with_the_folders_searched_the_files_accepted_and_how_to_get_it(tmp_path):
    (tmp_path / "deeper").mkdir()
    with pytest.raises(MissingPart) as caught:
        checkpoint.load_vqgan(tmp_path)
    first, *rest = str(caught.value).splitlines()
    assert "VQGAN" in first and str(tmp_path) in first and "download" in first
    assert f"Searched: {tmp_path}" in rest and f"Searched: {tmp_path / 'deeper'}" in rest
    assert any(line.startswith("Accepted: vqgan.ckpt") for line in rest)


def test_a_path_that_is_not_there_names_the_part_it_was_for(tmp_path):
    with pytest.raises(MissingPart, match=r"No segmenter \(SAM\): there is no file or folder .*nowhere"):
        checkpoint.load_segmenter(tmp_path / "nowhere")
    assert not checkpoint.holds("segmenter", tmp_path / "nowhere")


def test_a_file_of_another_part_is_named_as_what_it_is(tmp_path):
    save_file(tiny.sam_state(), tmp_path / "a.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(MissingPart, match=r"No VQGAN picture tokenizer in .*a.safetensors, which holds segmenter"):
        checkpoint.load_vqgan(tmp_path / "a.safetensors")
    with pytest.raises(MissingPart, match="holds nothing that StyleAR knows"):
        checkpoint.load_vqgan(tmp_path / "b.safetensors")


def test_an_unreadable_file_beside_the_part_does_no_harm(official, tmp_path):
    save_file(tiny.sam_state(), tmp_path / "sam.safetensors")
    (tmp_path / "optimizer.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "other.index.json").write_text("[]")
    (tmp_path / ".hidden.safetensors").write_bytes(b"")
    assert checkpoint.find("segmenter", tmp_path).path.name == "sam.safetensors"


def test_a_file_that_the_system_cannot_map_is_told_with_its_size(tmp_path, monkeypatch):
    def refuse(path, framework):
        raise RuntimeError(f"unable to mmap 99 bytes from file <{path}>: Cannot allocate memory (12)")

    monkeypatch.setattr(files, "safe_open", refuse)
    with pytest.raises(MissingPart, match=r"model\.safetensors of 0\.00 GiB is larger than this machine can take"):
        checkpoint.find("base", tiny.write_base(tmp_path))


# -- loading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
def test_a_base_loads_with_its_norms_expanded_and_its_lora_folded(tmp_path, shards):
    model, vocabulary = checkpoint.load_base(tiny.write_base(tmp_path, shards), lora=tiny.lora_state())
    state, expected = model.state_dict(), fold(tiny.base_state(), tiny.lora_state())
    for key, value in state.items():
        assert torch.equal(value, expected[key].expand_as(value) if "_norm." in key else expected[key])
    assert len(vocabulary.code_ids) == tiny.CODES
    assert not model.training and not any(weight.requires_grad for weight in model.parameters())


def test_a_half_precision_base_takes_its_lora_in_float32(tmp_path):
    folder = tiny.write_base(tmp_path)
    half = tiny.map_values(lambda value: value.half(), tiny.base_state())
    save_file(half, folder / "model.safetensors")
    model, _ = checkpoint.load_base(folder, torch.float32, tiny.lora_state())
    name = "model.layers.0.mlp.down_proj.weight"
    wanted = fold({key: value.float() for key, value in half.items()}, tiny.lora_state())[name]
    assert torch.equal(model.state_dict()[name], wanted)
    model, _ = checkpoint.load_base(folder, torch.bfloat16, tiny.lora_state())
    assert torch.equal(model.state_dict()[name], wanted.bfloat16())


@pytest.mark.parametrize("part", ["base", "adapter", "vqgan", "image_encoder", "segmenter"])
def test_a_part_that_memory_does_not_hold_is_refused_before_it_is_read(official, monkeypatch, tmp_path, part):
    (tmp_path / "meminfo").write_text("MemAvailable: 1 kB\nSwapFree: 0 kB\n")
    monkeypatch.setattr(memory, "_LINUX", tmp_path / "meminfo")
    places = official | {"segmenter": tmp_path / "sam.safetensors"}
    save_file(tiny.sam_state(), places["segmenter"])
    if part != "base":  # which is mapped from its file before its shape is known
        monkeypatch.setattr(Found, "read", None)
    with pytest.raises(BadInput, match="takes 0.00 GiB in float32 and cpu has 0.00 GiB free"):
        getattr(checkpoint, f"load_{part}")(places[part])


def test_vqgan_weights_inside_a_base_are_left_out_of_it_and_can_be_the_vqgan(tmp_path):
    folder = tiny.write_base(tmp_path)
    inside = {f"model.vqmodel.{key}": value for key, value in tiny.vqgan_state().items()}
    save_file(tiny.base_state() | inside, folder / "model.safetensors")
    checkpoint.load_base(folder)
    state = checkpoint.load_vqgan(folder).state_dict()
    assert within(state, tiny.vqgan_state())


@pytest.mark.parametrize("prefix", ["", "vqmodel.", "model.vqmodel."])
def test_a_vqgan_loads_from_each_layout(tmp_path, prefix):
    save_file({prefix + key: value for key, value in tiny.vqgan_state().items()}, tmp_path / "x.safetensors")
    state = checkpoint.load_vqgan(tmp_path).state_dict()
    assert within(state, tiny.vqgan_state())


def test_a_vqgan_without_its_decoder_is_told_from_a_whole_one(tmp_path):
    encoder = {key: value for key, value in tiny.vqgan_state().items() if not key.startswith("decoder.")}
    save_file(encoder, tmp_path / "x.safetensors")
    with pytest.raises(BadCheckpoint, match="not its decoder|only the VQGAN's encoder"):
        checkpoint.load_vqgan(tmp_path)
    assert "without its decoder" in describe(tmp_path)[0]


def test_an_adapter_of_peft_is_the_released_one(tmp_path):
    lora, _ = checkpoint.load_adapter(tiny.write_adapter(tmp_path, released=False))
    assert same(lora, tiny.lora_state())


@pytest.mark.parametrize(
    "config,factor", [({"lora_alpha": 8}, 4.0), ({"lora_alpha": 8, "r": 4, "use_rslora": True}, 4.0)]
)
def test_the_strength_of_a_peft_adapter_is_kept(tmp_path, config, factor):
    folder = tiny.write_adapter(tmp_path, released=False)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2} | config))
    lora, _ = checkpoint.load_adapter(folder)
    torch.testing.assert_close(lora["lm_head.lm_head_lora.B"], tiny.lora_state()["lm_head.lm_head_lora.B"] * factor)


@pytest.mark.parametrize(
    "config,error,reason",
    [
        ({"r": 2, "lora_alpha": 2, "use_dora": True}, BadCheckpoint, "uses use_dora"),
        ({"r": 2, "lora_alpha": 2, "bias": "all"}, BadCheckpoint, "uses bias"),
        ({"r": 2}, BadCheckpoint, "does not say lora_alpha and r"),
        ([], BadCheckpoint, "not a JSON object"),
        (None, MissingPart, "how strong a PEFT LoRA is"),
    ],
)
def test_a_peft_adapter_that_cannot_be_folded_as_it_is_gets_a_reason(tmp_path, config, error, reason):
    folder = tiny.write_adapter(tmp_path, released=False)
    (folder / "adapter_config.json").unlink()
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(error, match=reason):
        checkpoint.load_adapter(folder)


def test_both_layouts_of_an_image_encoder_give_the_same_features(tmp_path):
    layouts = {
        "open_clip": (tiny.open_clip_state(), "open_clip_config.json", {"model_cfg": tiny.OPEN_CLIP_CONFIG}),
        "hf": (tiny.hugging_face_clip_state(), "config.json", tiny.HF_CLIP_CONFIG),
    }
    pixels, features = torch.rand(1, 3, 16, 16), []
    for name, (state, config_name, config) in layouts.items():
        (tmp_path / name).mkdir()
        save_file(state, tmp_path / name / "x.safetensors")
        (tmp_path / name / config_name).write_text(json.dumps(config))
        features.append(checkpoint.load_image_encoder(tmp_path / name)(pixels))
    torch.testing.assert_close(*features)


def test_an_image_encoders_own_config_goes_before_one_beside_it(tmp_path):
    metadata = {"stylear": json.dumps(tiny.OPEN_CLIP_CONFIG)}
    save_file(tiny.open_clip_state(), tmp_path / "x.safetensors", metadata=metadata)
    (tmp_path / "config.json").write_text(json.dumps(tiny.BASE_CONFIG))
    assert checkpoint.load_image_encoder(tmp_path).config.heads == 2


def test_a_config_of_another_width_beside_an_image_encoder_is_not_its_own(tmp_path):
    save_file(tiny.open_clip_state(), tmp_path / "x.safetensors")
    other = {"vision_config": tiny.HF_CLIP_CONFIG["vision_config"] | {"hidden_size": 48}}
    (tmp_path / "config.json").write_text(json.dumps(other))
    with pytest.raises(BadCheckpoint, match="heads of a 24-wide image encoder are unknown"):
        checkpoint.load_image_encoder(tmp_path)


@pytest.mark.parametrize("text,reason", [("{", "is not JSON"), ('{"vision_config": 5}', "config cannot be read")])
def test_a_broken_config_beside_an_image_encoder_gets_a_reason(tmp_path, text, reason):
    save_file(tiny.open_clip_state(), tmp_path / "x.safetensors")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadCheckpoint, match=reason):
        checkpoint.load_image_encoder(tmp_path)


def test_a_segmenter_loads_from_a_pickle(tmp_path):
    torch.save(tiny.sam_state(), tmp_path / "sam_vit_b.pth")
    assert checkpoint.load_segmenter(tmp_path).side == 32


@pytest.mark.parametrize("name", ["tokenizer.json", "text_tokenizer.json"])
def test_a_base_without_a_tokenizer_takes_it_from_the_vqgans_folder(tmp_path, name):
    folder = tiny.write_base(tmp_path / "base", tokenizer=None)
    (tmp_path / "vqgan").mkdir()
    (tmp_path / "vqgan" / name).write_text(tiny.TOKENIZER)
    (tmp_path / "vqgan" / "vqgan.ckpt").touch()
    for place in (tmp_path / "vqgan", tmp_path / "vqgan" / "vqgan.ckpt"):
        _, vocabulary = checkpoint.load_base(folder, tokenizer_place=place)
        assert vocabulary.max_grid == tiny.GRIDS


def test_a_base_without_any_tokenizer_says_where_one_is_to_be_had(tmp_path):
    with pytest.raises(MissingPart, match="copy tokenizer.json of Alpha-VLLM/Lumina-mGPT-7B-768 there"):
        checkpoint.load_base(tiny.write_base(tmp_path, tokenizer=None))


def test_a_base_says_which_size_it_was_trained_at_if_its_config_does(tmp_path):
    assert checkpoint.trained_size(tiny.write_base(tmp_path / "a", stylear={"size": 64})) == 64
    for odd in (None, 64, {"size": "big"}, {"size": 0}):
        assert checkpoint.trained_size(tiny.write_base(tmp_path / "b", stylear=odd)) is None


# -- what is wrong with it -------------------------------------------------------------------------


def test_wrong_shapes_are_both_named(tmp_path):
    with pytest.raises(BadCheckpoint, match=r"model.safetensors: .*gate_proj.weight is \[40, 32\].*\[44, 32\]"):
        checkpoint.load_base(tiny.write_base(tmp_path, intermediate_size=44))


def test_a_lora_of_another_base_names_both_shapes(tmp_path):
    lora = tiny.lora_state() | {"lm_head.lm_head_lora.B": torch.zeros(2, 7)}
    with pytest.raises(BadCheckpoint, match=r"\[7, 32\]"):
        checkpoint.load_base(tiny.write_base(tmp_path), lora=lora)


@pytest.mark.parametrize(
    "kind,state,key",
    [
        ("resampler", tiny.resampler_state, "norm_out.bias"),
        ("vqgan", tiny.vqgan_state, "post_quant_conv.weight"),
        ("segmenter", tiny.sam_state, "mask_decoder.iou_token.weight"),
    ],
)
def test_a_missing_key_is_named(tmp_path, kind, state, key):
    weights = state()
    del weights[key]
    save_file(weights | (tiny.lora_state() if kind == "resampler" else {}), tmp_path / "x.safetensors")
    load = checkpoint.load_adapter if kind == "resampler" else getattr(checkpoint, f"load_{kind}")
    with pytest.raises(BadCheckpoint, match=f"x.safetensors: .*{key}"):
        load(tmp_path)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["base", "lora", "resampler", "vqgan", "image_encoder", "segmenter"])
def test_weights_that_are_not_finite_are_refused(tmp_path, part, number):
    bundle = tiny.write_bundle(tmp_path)
    load = getattr(checkpoint, "load_adapter" if part in ("lora", "resampler") else f"load_{part}")
    found = checkpoint.find(part, bundle)
    weights = {key: value.clone() for key, value in load_file(found.path).items()}
    key = next(iter(checkpoint.find(part, bundle).keys))
    weights[key].view(-1)[0] = number
    save_file(weights, found.path, metadata=dict(found.file.metadata))
    with pytest.raises(BadCheckpoint, match="NaN or infinite"):
        load(bundle)


# -- describing ------------------------------------------------------------------------------------


def test_a_folder_is_described_part_by_part(tmp_path):
    lines = describe(tiny.write_bundle(tmp_path))
    for words in (
        "2 layers, hidden 32, 4 heads",
        "rank 2 on 11 layers, released layout",
        "features of 24 to 16 tokens of 32, depth 1",
        "24 codes, one for 4 x 4 pixels;",
        "ViT of 3 layers, width 24, patch 8, 5 features",
        "ViT of 2 layers, width 16, pictures of 32 pixels",
    ):
        assert sum(words in line for line in lines) == 1, words
    assert all("parameters, float" in line for line in lines) and len(lines) == 6


def test_a_file_is_described_as_what_it_is_or_is_not(tmp_path):
    assert "PEFT layout" in describe(tiny.write_adapter(tmp_path, released=False) / "adapter_model.safetensors")[0]
    save_file({"x": torch.zeros(3)}, tmp_path / "x.safetensors")
    assert "no part of StyleAR: first key x; 3 parameters, float32" in describe(tmp_path / "x.safetensors")[0]


def test_a_broken_part_is_described_as_incomplete_and_an_unreadable_file_as_such(tmp_path):
    save_file(
        {
            "latents": torch.zeros(1),
            "proj_in.weight": torch.zeros(1),
            "layers.0.0.to_q.weight": torch.zeros(1),
        },
        tmp_path / "x.safetensors",
    )
    (tmp_path / "y.pth").write_bytes(b"nothing")
    incomplete, unread = describe(tmp_path)
    assert "incomplete" in incomplete and unread.startswith("not read: ")


def test_an_empty_folder_has_nothing_to_describe(tmp_path):
    with pytest.raises(MissingPart, match="no weights"):
        describe(tmp_path)


def test_the_command_that_gets_a_part_names_the_folder_it_needs():
    assert {part.get.count("download FOLDER") for part in checkpoint.PARTS.values()} == {1}
