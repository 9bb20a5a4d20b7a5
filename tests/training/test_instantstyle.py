"""InstantStyle over a tiny SDXL and IP-Adapter: only the style block listens, files that do not fit are refused."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from stylear.errors import BadCheckpoint, BadInput, MissingPart
from training.instantstyle import InstantStyle, InstantStyleSettings, model_files
from training.tiny_sdxl import write_tiny_sdxl

UNET = "sdxl/unet/diffusion_pytorch_model.safetensors"
ADAPTER = "ip_adapter/sdxl_models/ip-adapter_sdxl.safetensors"
CLIP = "ip_adapter/sdxl_models/image_encoder/model.safetensors"
RED = Image.new("RGB", (80, 50), "red")


def settings(folder: Path, **changes) -> InstantStyleSettings:
    place = {"sdxl": folder / "sdxl", "ip_adapter": folder / "ip_adapter"}
    return InstantStyleSettings(**({"steps": 2, "size": 64, "device": "cpu"} | place | changes))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_sdxl(folder)
    return folder


@pytest.fixture
def copy(tiny, tmp_path) -> Path:
    """The tiny models to damage; files are links, so write a new file, never into one."""
    shutil.copytree(tiny, tmp_path / "models", copy_function=os.link)
    return tmp_path / "models"


@pytest.fixture(scope="module")
def draw(tiny) -> InstantStyle:
    return InstantStyle(settings(tiny))


@pytest.fixture(scope="module")
def picture(draw) -> Image.Image:
    return draw(RED, "a cat", 0)


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


def rewrite(file: Path, change) -> None:
    """Put a safetensors file with `change` applied to its tensors in place of a linked one."""
    weights = change(load_file(file))
    file.unlink()
    save_file(weights, file, {"format": "pt"})


def refused(folder: Path, kind: type[Exception], *words: str, **changes) -> None:
    with pytest.raises(kind) as caught:
        InstantStyle(settings(folder, **changes))
    for word in words:
        assert word in str(caught.value)


def test_only_the_layers_of_the_style_block_are_on(draw):
    scales = {name: processor.scale for name, processor in draw.pipe.unet.attn_processors.items() if ".attn2" in name}
    on = [name for name, scale in scales.items() if scale != [0.0]]
    assert len(scales) == 70
    assert len(on) == 10
    assert all(name.startswith("up_blocks.0.attentions.1.") for name in on)
    assert all(scales[name] == [1.0] for name in on)


def test_scale_is_the_strength_of_the_style_block(tiny):
    processors = InstantStyle(settings(tiny, scale=0.5)).pipe.unet.attn_processors
    assert {p.scale[0] for name, p in processors.items() if ".attn2" in name} == {0.0, 0.5}


def test_every_file_that_is_read_is_named(tiny):
    found = {file.relative_to(tiny).as_posix() for file in model_files(settings(tiny))}
    assert {UNET, ADAPTER, CLIP, "sdxl/model_index.json", "sdxl/scheduler/scheduler_config.json"} <= found
    assert found == {file.relative_to(tiny).as_posix() for file in tiny.rglob("*") if file.is_file()}


def test_files_of_a_model_that_is_not_there_are_told(copy):
    (copy / ADAPTER).unlink()
    with pytest.raises(MissingPart, match="no IP-Adapter"):
        model_files(settings(copy))


def test_a_picture_is_rgb_of_the_size_asked_for(picture):
    assert (picture.mode, picture.size) == ("RGB", (64, 64))


def test_the_same_seed_gives_the_same_bytes(draw, picture):
    assert draw(RED, "a cat", 0).tobytes() == picture.tobytes()


def test_another_load_gives_the_same_bytes(tiny, picture):
    assert InstantStyle(settings(tiny))(RED, "a cat", 0).tobytes() == picture.tobytes()


def test_drawing_leaves_the_global_generator_alone(draw):
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    draw(RED, "a cat", 0)
    assert torch.equal(torch.rand(1), wanted)


@pytest.mark.parametrize(
    ("style", "prompt", "seed"),
    [(Image.new("RGB", (64, 64), "blue"), "a cat", 0), (RED, "a dog runs", 0), (RED, "a cat", 1)],
    ids=["style", "prompt", "seed"],
)
def test_style_prompt_and_seed_each_change_the_picture(draw, picture, style, prompt, seed):
    assert difference(draw(style, prompt, seed), picture) > 0.5


def test_a_batch_draws_what_each_prompt_gives_alone(draw, picture):
    pictures = draw.batch(RED, ["a dog runs", "a cat"], [3, 0])
    assert difference(pictures[1], picture) < 0.05
    assert difference(pictures[0], draw(RED, "a dog runs", 3)) < 0.05


def test_an_empty_batch_gives_no_pictures(draw):
    assert draw.batch(RED, [], []) == []


def test_a_style_picture_of_any_mode_is_taken(draw, picture):
    assert draw(RED.convert("RGBA"), "a cat", 0).tobytes() == picture.tobytes()


def test_a_seed_that_is_none_is_refused(draw):
    with pytest.raises(BadInput, match="seed is -1"):
        draw(RED, "a cat", -1)


def test_pixels_that_are_no_numbers_are_never_handed_on(copy):
    def spoil(weights):
        return {key: value * float("nan") for key, value in weights.items()}

    rewrite(copy / "sdxl/vae/diffusion_pytorch_model.safetensors", spoil)
    with pytest.raises(FloatingPointError, match="dtype=float32"):
        InstantStyle(settings(copy))(RED, "a cat", 0)


def test_loading_and_drawing_say_nothing(tiny, capfd):
    InstantStyle(settings(tiny))(RED, "a cat", 0)
    assert capfd.readouterr() == ("", "")


def test_loading_leaves_the_libraries_logging_as_it_was(draw):
    import diffusers

    assert diffusers.utils.logging.is_progress_bar_enabled()
    assert diffusers.utils.logging.get_verbosity() == diffusers.utils.logging.WARNING


@pytest.mark.parametrize(
    "part",
    [
        "sdxl/model_index.json",
        "sdxl/tokenizer_2/vocab.json",
        "sdxl/text_encoder/model.safetensors",
        UNET,
        ADAPTER,
        CLIP,
    ],
)
def test_a_missing_file_is_named_with_what_to_get(copy, part):
    (copy / part).unlink()
    refused(copy, MissingPart, str(copy / Path(part).parent), Path(part).name, "hf download", "--local-dir")


@pytest.mark.parametrize("part", ["sdxl/scheduler", "sdxl/tokenizer"])
def test_a_missing_folder_is_named(copy, part):
    shutil.rmtree(copy / part)
    refused(copy, (MissingPart, BadCheckpoint), str(copy / "sdxl"), "hf download")


def test_an_ip_adapter_that_is_a_pickle_is_refused_for_the_safetensors_one(copy):
    name = "sdxl_models/ip-adapter_sdxl.bin"
    torch.save({}, copy / "ip_adapter" / name)
    refused(copy, BadCheckpoint, "is a pickle", "h94/IP-Adapter sdxl_models/ip-adapter_sdxl.safetensors", weights=name)


def test_a_pickle_under_the_name_of_safetensors_is_refused(copy):
    (copy / ADAPTER).unlink()
    torch.save({"image_proj.proj.weight": torch.zeros(1)}, copy / ADAPTER)
    refused(copy, BadCheckpoint, "is a pickle under another name")


@pytest.mark.parametrize("part", [UNET, CLIP])
def test_a_model_that_is_only_a_pickle_is_refused(copy, part):
    (copy / part).rename((copy / part).with_suffix(".bin"))
    refused(copy, MissingPart, "is a pickle", f"There is no {Path(part).name}")


@pytest.mark.parametrize("part", [UNET, ADAPTER, CLIP])
def test_a_truncated_file_is_named(copy, part):
    whole = (copy / part).read_bytes()
    (copy / part).unlink()
    (copy / part).write_bytes(whole[: len(whole) // 2])
    refused(copy, BadCheckpoint, str(copy / part), "damaged or incomplete")


@pytest.mark.parametrize("part", [UNET, CLIP])
def test_a_model_with_a_weight_missing_is_not_filled_up_with_random_numbers(copy, part):
    rewrite(copy / part, lambda weights: dict(list(weights.items())[1:]))
    refused(copy, BadCheckpoint, str((copy / part).parent), "missing")


def test_an_ip_adapter_with_a_layer_missing_is_refused(copy):
    gone = "ip_adapter.81.to_k_ip.weight"
    rewrite(copy / ADAPTER, lambda weights: {key: value for key, value in weights.items() if key != gone})
    refused(copy, BadCheckpoint, str(copy / ADAPTER), "81.to_k_ip.weight")


def test_safetensors_of_something_else_are_no_ip_adapter(copy):
    rewrite(copy / ADAPTER, lambda _: {"weight": torch.zeros(1)})
    refused(copy, BadCheckpoint, "is no IP-Adapter", "image_proj")


def test_an_image_encoder_of_another_width_is_refused_with_the_one_to_take(copy):
    key = "image_proj.proj.weight"
    rewrite(copy / ADAPTER, lambda weights: weights | {key: torch.zeros(len(weights[key]), 4)})
    refused(copy, BadCheckpoint, "4 wide", "makes 16", "models/image_encoder for *_vit-h")


@pytest.mark.parametrize("library", ["own", "diffusers.own", "", 5])
def test_a_folder_that_names_its_own_code_runs_none_of_it(copy, library):
    """By whatever version of diffusers: an older one imports it without asking."""
    (copy / "sdxl/scheduler/own.py").write_text(f"open({str(copy / 'ran')!r}, 'w')\nclass Own: pass\n")
    index = json.loads((copy / "sdxl/model_index.json").read_text())
    (copy / "sdxl/model_index.json").unlink()
    (copy / "sdxl/model_index.json").write_text(json.dumps(index | {"scheduler": [library, "Own"]}))
    refused(copy, BadCheckpoint, f"names custom code, {library!r}, which is not run")
    assert not (copy / "ran").exists()


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "[[[]]]", "5"])
def test_a_damaged_index_is_refused(copy, text):
    (copy / "sdxl/model_index.json").unlink()
    (copy / "sdxl/model_index.json").write_text(text)
    refused(copy, BadCheckpoint, "sdxl")


def test_half_precision_files_are_found_under_their_own_names(copy, picture):
    for part in (UNET, "sdxl/text_encoder/model.safetensors"):
        file = copy / part
        rewrite(file, lambda weights: {key: value.half() for key, value in weights.items()})
        file.rename(file.with_suffix(".fp16.safetensors"))
    assert difference(InstantStyle(settings(copy))(RED, "a cat", 0), picture) < 1


def test_a_device_that_is_not_there_is_refused(tiny):
    refused(tiny, BadInput, "no device 'abacus'", device="abacus")


def test_offloading_without_a_gpu_is_refused(tiny):
    refused(tiny, BadInput, "offload is 'model'", offload="model")


@pytest.mark.parametrize("change", [{"scale": 0}, {"steps": 0}, {"size": 100}, {"guidance": 0.5}, {"offload": "disk"}])
def test_settings_out_of_bounds_are_refused(change):
    with pytest.raises(ValidationError):
        InstantStyleSettings(**change)


def test_tiny_ip_adapter_has_the_released_files_keys(tiny):
    """ip-adapter_sdxl.safetensors: 144 float16 tensors; 70 layers by their odd numbers among the UNet's 140."""
    weights = load_file(tiny / ADAPTER)
    projection = {f"image_proj.{name}" for name in ("proj.weight", "proj.bias", "norm.weight", "norm.bias")}
    layers = {f"ip_adapter.{n}.to_{half}_ip.weight" for n in range(1, 140, 2) for half in "kv"}
    assert weights.keys() == projection | layers
    assert {value.dtype for value in weights.values()} == {torch.float16}


def test_tiny_shapes_stand_to_each_other_as_the_released_ones(tiny):
    """Released: proj [4 x 2048, 1280], layer 1 [640, 2048] in the second block, layer 101 [1280, 2048] in the third."""
    weights = load_file(tiny / ADAPTER)
    context, width = 32, 16
    assert weights["image_proj.proj.weight"].shape == (4 * context, width)
    assert weights["image_proj.norm.bias"].shape == (context,)
    assert weights["ip_adapter.1.to_k_ip.weight"].shape == (width, context)
    assert weights["ip_adapter.101.to_v_ip.weight"].shape == (2 * width, context)


def test_tiny_unet_has_the_attention_layers_of_the_released_one(tiny):
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        released = UNet2DConditionModel(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    assert sum(value.numel() for value in released.parameters()) == 2_567_463_684
    assert load_file(tiny / UNET).keys() == released.state_dict().keys()


def test_tiny_files_are_those_of_diffusers_layout_and_no_pickle_is_among_them(tiny):
    files = {path.relative_to(tiny).as_posix() for path in tiny.rglob("*") if path.is_file()}
    tokenizer = ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json")
    assert files == {
        "sdxl/model_index.json",
        "sdxl/scheduler/scheduler_config.json",
        *(f"sdxl/{part}/config.json" for part in ("unet", "vae", "text_encoder", "text_encoder_2")),
        *(f"sdxl/{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")),
        *(f"sdxl/{part}/model.safetensors" for part in ("text_encoder", "text_encoder_2")),
        *(f"sdxl/{part}/{name}" for part in ("tokenizer", "tokenizer_2") for name in tokenizer),
        ADAPTER,
        "ip_adapter/sdxl_models/image_encoder/config.json",
        CLIP,
    }


def test_tiny_models_take_a_few_megabytes(tiny):
    assert sum(path.stat().st_size for path in tiny.rglob("*") if path.is_file()) < 8e6


def test_the_same_seed_writes_the_same_tiny_models_and_another_seed_others(tiny, tmp_path):
    write_tiny_sdxl(tmp_path / "same")
    write_tiny_sdxl(tmp_path / "other", seed=1)
    for part in (UNET, ADAPTER, CLIP):
        assert (tmp_path / "same" / part).read_bytes() == (tiny / part).read_bytes()
        assert (tmp_path / "other" / part).read_bytes() != (tiny / part).read_bytes()


def test_writing_the_tiny_models_leaves_the_global_generator_alone(tmp_path):
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    write_tiny_sdxl(tmp_path)
    assert torch.equal(torch.rand(1), wanted)


def test_tiny_models_replace_what_a_killed_run_left(tiny, copy):
    (copy / ".tiny_sdxl/sdxl").mkdir(parents=True)
    (copy / ".tiny_sdxl/sdxl/half").touch()
    (copy / "sdxl/unet/config.json").unlink()
    write_tiny_sdxl(copy)
    assert sorted(path.name for path in copy.iterdir()) == ["ip_adapter", "sdxl"]
    assert (copy / "sdxl/unet/config.json").read_bytes() == (tiny / "sdxl/unet/config.json").read_bytes()


def test_the_tiny_tokenizer_knows_every_byte(draw):
    tokenizer = draw.pipe.tokenizer
    ids = tokenizer("A naïve 猫!").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "anaïve猫!"
    assert ids[-1] == max(tokenizer.get_vocab().values())
