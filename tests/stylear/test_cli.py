"""The command line writes pictures, sheets and safetensors, and says in a line why it cannot."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from stylear import StyleAR, StyleTokens, pipeline
from stylear.__main__ import main
from stylear.images import open_image
from stylear.presets import load_preset
from stylear.sheet import contact_sheet
from stylear.style import blend

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny.write_bundle(tmp_path_factory.mktemp("bundle") / "model")


@pytest.fixture(scope="module")
def reference(bundle):
    path = bundle.parent / "reference.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture
def run(bundle, reference, tmp_path):
    """Call `generate` with more options; returns its status and the path it was to write."""

    def generate(*options, style=reference, out="out.png"):
        common = ["--style", style, "--prompt", "a cat", "--model", str(bundle), "--device", "cpu"]
        return main(["generate", *common, "--out", str(tmp_path / out), *map(str, options)]), tmp_path / out

    return generate


def test_a_prompt_of_no_word_that_the_model_was_taught_is_drawn_and_told(run, monkeypatch, capsys):
    monkeypatch.setattr(StyleAR, "untaught", lambda _, prompt: f"nothing of {prompt}")
    status, out = run()
    told = capsys.readouterr()
    assert status == 0 and out.exists() and told.out == f"{out}\n" and "note: nothing of a cat\n" in told.err


def pixels(path):
    return np.asarray(Image.open(path))


def test_generate_writes_the_librarys_picture_with_its_parameters_in_it(run, bundle, reference, capsys):
    status, out = run("--seed", 3, "--gamma", 0.2, "--noise-seed", 4, "--cfg", 2, "--top-k", 9, "--temperature", 0.7)
    assert status == 0 and capsys.readouterr().out == f"{out}\n"
    model = StyleAR.load(bundle, device="cpu")
    style = model.encode_style(open_image(reference)).with_noise(0.2, 4)
    picture = model.generate("a cat", style, seed=3, cfg=2.0, top_k=9, temperature=0.7)[0]
    assert np.array_equal(pixels(out), (picture * 255).byte().numpy())
    text = json.loads(Image.open(out).text["parameters"])
    assert (text["prompt"], text["seed"], text["top_k"], text["gamma"]) == ("a cat", 3, 9, 0.2)


def test_all_pictures_are_written_though_nobody_reads_their_names(run, monkeypatch):
    unread, writes = os.pipe()
    os.close(unread)
    with os.fdopen(writes, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        status, out = run("--batch", 2, "--width", 8, "--height", 8)
    assert status == 0 and pixels(out.with_name("out_1.png")).shape == (8, 8, 3)


@pytest.mark.skipif(os.name == "nt", reason="there is no such shell")
@pytest.mark.parametrize("words", ["stylear info README.md", "training train steps=0"])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_with_its_streams_closed_a_command_ends_as_it_does_and_prints_into_no_file(words, closed):
    program, *words = words.split()
    code = (
        f"import os; from {program}.__main__ import main; status = main({words});"
        "os._exit(status if os.open(os.devnull, os.O_RDONLY) > 2 else 99)"
    )
    command = ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, code]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 2  # noqa: S603


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory")])
def test_memory_that_runs_out_is_told_with_what_to_do(run, monkeypatch, capsys, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(StyleAR, "encode_style", fails)
    assert run()[0] == 2 and capsys.readouterr().err.startswith("error: Memory ran out: close other programs")


def test_a_batch_writes_numbered_pictures_each_with_its_own_seed(run, tmp_path):
    status, _ = run("--batch", 2, "--seed", 5, "--width", 24, "--height", 8)
    run("--seed", 6, "--width", 24, "--height", 8, out="alone.png")
    assert status == 0
    first, second, alone = (tmp_path / name for name in ("out_0.png", "out_1.png", "alone.png"))
    assert np.array_equal(pixels(second), pixels(alone)) and pixels(first).shape == (8, 24, 3)
    assert Image.open(second).text == Image.open(alone).text | {"parameters": Image.open(second).text["parameters"]}
    assert json.loads(Image.open(second).text["parameters"])["seed"] == 6


@pytest.mark.parametrize(
    "options",
    [
        ("--subtract",),
        ("--box", "4,4,20,16"),
        ("--point", "12,10", "--point", "8,6,1"),
        ("--mask", "REFERENCE"),
        ("--content", "REFERENCE"),
        ("--condition", "REFERENCE"),
        ("--condition", "REFERENCE", "--condition-kind", "segmentation"),
        ("--subtract", "--alpha", "-3", "--beta", "9"),
        ("--gamma", "0"),
        ("--style-cfg", "20"),
        ("--style-strength", "3"),
    ],
)
def test_each_way_to_steer_the_style_changes_the_picture(run, reference, options):
    _, plain = run("--gamma", 3, out="plain.png")
    extra = () if "--gamma" in options else ("--gamma", 3)
    status, out = run(*(reference if option == "REFERENCE" else option for option in options), *extra)
    assert status == 0 and not np.array_equal(pixels(out), pixels(plain))


def test_a_negative_style_is_a_picture_or_saved_tokens(run, bundle, reference, tmp_path):
    saved = tmp_path / "away.safetensors"
    model = StyleAR.load(bundle, device="cpu")
    style = model.encode_style(open_image(reference))
    style.with_noise(5, 1).save(saved)
    for negative, one in ((saved, StyleTokens.load(saved)), (reference, style)):
        status, out = run("--gamma", 3, "--negative", negative, "--overwrite")
        drawn = model.generate("a cat", style.with_noise(3, 0), negative=one)[0]
        assert status == 0 and np.array_equal(pixels(out), (drawn * 255).byte().numpy())


def test_a_saved_style_of_numbers_that_no_reference_gives_is_refused(run, bundle, reference, tmp_path, capsys):
    StyleTokens(StyleAR.load(bundle, device="cpu").encode_style(open_image(reference)).tokens * 1e30).save(
        tmp_path / "huge.safetensors"
    )
    status, out = run(style=str(tmp_path / "huge.safetensors"))
    assert status == 2 and "huge.safetensors holds tokens beyond 10000" in capsys.readouterr().err and not out.exists()


def test_a_style_is_kept_without_its_noise_and_draws_the_same_picture_again(run, tmp_path, capsys):
    saved = tmp_path / "kept.safetensors"
    _, first = run("--save-style", saved, "--gamma", 0.5)
    _, again = run("--gamma", 0.5, style=str(saved), out="again.png")
    assert np.array_equal(pixels(first), pixels(again)) and load_preset(saved)[1] is not None
    assert str(tmp_path) not in Image.open(first).text["parameters"]
    assert run("--save-style", saved, out="third.png")[0] == 2 and "is there already" in capsys.readouterr().err
    assert run("--save-style", tmp_path / "kept.png", out="third.png")[0] == 2


def test_the_style_may_be_of_a_region_of_the_reference(run, bundle, reference, tmp_path, capsys):
    mask = Image.new("L", (24, 20))
    mask.paste(255, (2, 3, 9, 9))
    mask.save(tmp_path / "region.png")
    status, out = run("--gamma", 0, "--region", tmp_path / "region.png")
    style = StyleAR.load(bundle, device="cpu").encode_style(open_image(reference).crop((2, 3, 9, 9)))
    style.save(tmp_path / "cut.safetensors")
    _, cut = run("--gamma", 0, style=str(tmp_path / "cut.safetensors"), out="cut.png")
    assert status == 0 and np.array_equal(pixels(out), pixels(cut))
    assert run("--region", tmp_path / "region.png", style=str(tmp_path / "cut.safetensors"), out="no.png")[0] == 2
    assert "no picture to take a region of" in capsys.readouterr().err


def test_several_styles_are_blended_by_their_weights_and_named_in_the_picture(bundle, reference, tmp_path):
    other = tmp_path / "other.png"
    Image.new("RGB", (20, 20), "red").save(other)
    out = tmp_path / "out.png"
    common = ["--prompt", "a cat", "--model", str(bundle), "--device", "cpu", "--out", str(out), "--gamma", "0"]
    assert main(["generate", "--style", reference, str(other), "--weights", "3,1", *common]) == 0
    model = StyleAR.load(bundle, device="cpu")
    style = blend([model.encode_style(open_image(path)) for path in (reference, other)], [3, 1])
    assert np.array_equal(pixels(out), (model.generate("a cat", style)[0] * 255).byte().numpy())
    text = json.loads(Image.open(out).text["parameters"])
    assert (text["style"], text["weights"]) == (["reference.png", "other.png"], [3, 1])


def test_saved_style_tokens_serve_as_the_style_but_have_nothing_to_cut_from(run, bundle, reference, tmp_path, capsys):
    saved = str(tmp_path / "style.safetensors")
    StyleAR.load(bundle, device="cpu").encode_style(open_image(reference)).save(saved)
    assert StyleTokens.load(saved)
    _, plain = run(out="plain.png")
    status, out = run(style=saved)
    assert status == 0 and np.array_equal(pixels(out), pixels(plain))
    assert run("--subtract", style=saved, out="cut.png")[0] == 2
    assert "has no picture to cut from" in capsys.readouterr().err
    assert run("--content", reference, style=saved, out="content.png")[0] == 0


def test_parts_can_be_given_one_by_one(bundle, reference, tmp_path):
    parts = [
        word
        for part in ("adapter", "vqgan", "image_encoder", "segmenter")
        for word in (f"--{part.replace('_', '-')}", str(bundle / part))
    ]
    common = ["--style", reference, "--prompt", "", "--out", str(tmp_path / "out.png"), "--dtype", "float32"]
    assert main(["generate", "--base", str(bundle / "base"), *parts, *common]) == 0


def test_a_file_that_is_there_is_kept_unless_it_may_be_overwritten(run, capsys):
    _, out = run()
    before = out.read_bytes()
    assert run("--seed", 9)[0] == 2 and out.read_bytes() == before
    assert capsys.readouterr().err.startswith(f"error: {out} is there already. Give another name or pass --overwrite.")
    assert run("--seed", 9, "--overwrite")[0] == 0 and out.read_bytes() != before


@pytest.mark.parametrize(
    "options,reason",
    [
        (("--model", "/nowhere"), "error: No base model (a Chameleon decoder): there is no file or folder"),
        (("--condition", "/nowhere.png"), "error: There is no picture at /nowhere.png"),
        (("--condition-kind", "segmentation"), "error: There is a --condition-kind and no map. Give one"),
        (("--width", "4000"), "error: width is 4000; it has to be a whole number from 0 to 48"),
        (
            ("--window", "17"),
            "error: window is 17; it has to be a whole number from 1 to 16, the codes of this picture",
        ),
        (("--window", "0"), "error: window is 0; it has to be"),
        (("--point", "500,3"), "is outside the picture"),
        (("--out", "out.jpg"), "error: out.jpg does not end in .png"),
        (("--out", "/nowhere/out.png"), "error: There is no folder"),
        pytest.param(
            ("--out", "/proc/out.png"),
            "error: /proc cannot be written: ",
            marks=pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="Linux has a folder nobody can write"),
        ),
        (("--batch", "0"), "error: --batch is 0"),
        (("--batch", "1000000"), "error: --batch is 1000000; it has to be a whole number from 1 to 256"),
        (("--gamma", "1e39"), "error: gamma is 1e+39"),
        (("--subtract", "--beta", "1e39"), "error: beta is 1e+39"),
        (("--top-k", "9" * 400), "error: top_k is a whole number of"),
        (("--mask", ""), "error: There is no picture"),
        (("--content", ""), "error: There is no picture"),
        (("--style", "SAVED.SAFETENSORS"), "error: There is no style file at SAVED.SAFETENSORS"),
    ],
)
def test_what_cannot_be_done_ends_in_a_line_with_the_reason_and_status_2(run, capsys, options, reason):
    assert run(*options)[0] == 2
    error = capsys.readouterr().err
    assert reason in error and "Traceback" not in error


@pytest.mark.parametrize(
    "options,reason",
    [
        (("--cfg", "nan"), "--cfg: 'nan' is not a finite number"),
        (("--cfg", "x"), "--cfg: 'x' is not a finite number"),
        (("--alpha", "inf"), "--alpha: 'inf' is not a finite number"),
        (("--point", "x,y"), "--point: 'x,y' is not numbers of pixels with commas between them"),
        (("--box", "1,,2"), "--box: '1,,2' is not numbers of pixels with commas between them"),
        (("--seed", "1.5"), "--seed: '1.5' is not a whole number"),
        (("--top-k", "9" * 5000), "is not a whole number"),
        (("--nothing",), "unrecognized arguments: --nothing"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_before_anything_is_loaded(run, capsys, options, reason):
    with pytest.raises(SystemExit) as ended:
        run(*options)
    assert ended.value.code == 2 and reason in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--alpha", "--beta"])
def test_a_weight_of_the_subtraction_asks_for_one(run, option):
    _, plain = run("--subtract", option, "0.5", out="plain.png")
    _, short = run(option, "0.5")
    assert np.array_equal(pixels(short), pixels(plain))


def test_a_picture_tells_nothing_of_the_disk_it_was_made_on(run, reference, bundle):
    _, out = run("--mask", reference, "--segmenter", str(bundle / "segmenter"))
    text = json.loads(Image.open(out).text["parameters"])
    assert (text["style"], text["mask"], text["model"]) == ("reference.png", "reference.png", "model")
    assert text["segmenter"] == "segmenter"
    assert not {"out", "overwrite", "run"} & text.keys() and str(bundle.parent) not in str(text)


def test_a_saved_style_is_known_by_its_ending_in_any_case(run, bundle, reference, tmp_path):
    style = StyleAR.load(bundle, device="cpu").encode_style(open_image(reference))
    style.save(tmp_path / "STYLE.SAFETENSORS")
    assert run(style=str(tmp_path / "STYLE.SAFETENSORS"))[0] == 0


def test_a_stop_by_the_keyboard_is_one_line(run, capsys, monkeypatch):
    def stop(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(StyleAR, "load", stop)
    assert run()[0] == 130 and capsys.readouterr().err == "error: Stopped.\n"
    monkeypatch.setattr("stylear.__main__.parser", stop)
    assert run()[0] == 130 and capsys.readouterr().err == "error: Stopped.\n"


def test_without_options_a_sheet_of_the_minis_references_and_some_prompts_is_written(
    bundle, reference, tmp_path, monkeypatch
):
    (bundle / "references").mkdir(exist_ok=True)
    for name in ("b.png", "a.png"):
        (bundle / "references" / name).write_bytes(open(reference, "rb").read())
    monkeypatch.setattr(pipeline, "MINI", bundle)
    monkeypatch.chdir(tmp_path)
    assert main(["sheet"]) == 0
    sheet = Image.open(tmp_path / "contact_sheet.png")
    assert sheet.width > sheet.height > 2 * 160


def test_a_sheet_takes_styles_and_prompts(bundle, reference, tmp_path, capsys):
    common = ["sheet", "--model", str(bundle), "--out", str(tmp_path / "s.png")]
    assert main([*common, "--styles", reference, "--prompts", "a cat", "a very " + "long " * 40 + "prompt"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 's.png'}\n"
    assert main(common) == 2
    assert main(["sheet", "--out", str(tmp_path / "s.jpg")]) == 2


def test_a_sheet_without_references_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "MINI", tmp_path)
    assert main(["sheet", "--out", str(tmp_path / "s.png")]) == 2
    assert "Give some with --styles" in capsys.readouterr().err


def test_a_sheets_cells_hold_the_pictures_where_they_belong():
    colours = ["red", "lime", "blue"]
    reference, *row = (
        Image.new("RGB", size, colour) for size, colour in zip([(8, 8), (300, 150), (4, 8)], colours, strict=True)
    )
    sheet = contact_sheet([reference], ["one", "two"], [row], side=40)
    centres = [sheet.getpixel((6 + 46 * column + 20, 18 + 20)) for column in range(3)]
    assert centres == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert sheet.getpixel((6 + 46 + 20, 18 + 2)) == (255, 255, 255)  # a wide picture is not stretched


def test_info_says_what_each_file_is(bundle, capsys):
    assert main(["info", str(bundle / "base"), str(bundle / "vqgan" / "vqgan.safetensors")]) == 0
    base, vqgan = capsys.readouterr().out.splitlines()
    assert "2 layers" in base and "24 codes" in vqgan
    assert main(["info", "/nowhere"]) == 2


def test_convert_writes_safetensors_and_says_what_it_was(tmp_path, capsys):
    folder = tiny.write_adapter(tmp_path)
    target = tmp_path / "resampler.safetensors"
    assert main(["convert", str(folder / "image_proj.pth"), str(target)]) == 0
    assert capsys.readouterr().out == f"{target}: adapter's style resampler\n"
    assert main(["convert", str(folder / "image_proj.pth"), str(target)]) == 2
    assert "is there already. Give another name or pass --overwrite." in capsys.readouterr().err


def test_dashes_do_not_stand_for_a_name(capsys):
    with pytest.raises(SystemExit):
        main(["convert", "a", "--", "--"])
    assert "DST is missing behind --" in capsys.readouterr().err


def test_the_package_runs_as_a_program(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["stylear", "info", "/nowhere"])
    monkeypatch.delitem(sys.modules, "stylear.__main__")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("stylear", run_name="__main__")
    assert ended.value.code == 2
