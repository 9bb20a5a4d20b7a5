"""The bench runs the released loop and every window on one model or shape, and says what each took."""

import json

import pytest
import tiny
import torch

from stylear import bench, memory
from stylear.__main__ import main
from stylear.chameleon_config import ChameleonConfig
from stylear.drawing import SamplingSettings
from stylear.errors import BadInput
from stylear.sampling import sample
from stylear.subject import SHAPES, Shape, random_subject


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny.write_bundle(tmp_path_factory.mktemp("bundle") / "model")


def test_a_bench_of_a_model_prints_a_line_for_the_released_loop_and_for_each_window(bundle, capsys):
    assert main(["bench", "--model", str(bundle), "--windows", "1", "4", "auto", "--device", "cpu"]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("window")] == [
        ["window", "1"],
        ["window", "4"],
        ["window", "auto"],
    ]
    assert any(line.startswith("roofline: ") and "of the measured memory bandwidth" in line for line in lines)
    assert "ratio: the reference's CPU seconds over a line's" in told.out and "scaled up" not in told.out
    assert "measuring the released loop" in told.err


def test_a_bench_says_that_the_released_loop_was_timed_for_a_part_of_the_picture(bundle, capsys):
    asked = ["bench", "--model", str(bundle), "--windows", "1", "--device", "cpu", "--reference-passes"]
    assert main([*asked, "3"]) == 0
    assert capsys.readouterr().out.endswith("the reference's times are scaled up from its first 3 tokens\n")
    assert main([*asked, "0"]) == 0
    assert "scaled up" not in capsys.readouterr().out


@pytest.mark.parametrize("both", [["--model", "x", "--shape", "mini"], ["--no-reference", "--reference-passes", "3"]])
def test_of_two_options_that_exclude_each_other_none_is_passed_over(both, capsys):
    with pytest.raises(SystemExit):
        main(["bench", *both])
    assert "not allowed with argument" in capsys.readouterr().err


def test_a_bench_as_json_has_the_same_numbers_by_name(bundle, capsys):
    asked = ["--windows", "1", "16", "--cfg", "2", "--device", "cpu", "--json"]
    assert main(["bench", "--model", str(bundle), *asked]) == 0
    result = json.loads(capsys.readouterr().out)
    reference, plain, windowed = result["rows"]
    assert result["picture"] == [4, 4] and result["cfg"] == 2 and result["quantized"] == []
    assert (reference["passes"], plain["passes"]) == (2 * 19, 16) and windowed["passes"] <= 16
    assert reference["ratio"] is None and plain["ratio"] == reference["cpu_seconds"] / plain["cpu_seconds"]
    assert all(row["peak_mib"] > 0 and 0 < row["share"] for row in result["rows"])


@pytest.fixture
def small(monkeypatch):
    """The shape mini, but smaller."""
    monkeypatch.setitem(SHAPES, "mini", Shape(ChameleonConfig(40, 32, 40, 2, 4, 2), (1, 2), 24))


def test_a_named_shape_needs_no_files_and_may_be_quantised(capsys, small):
    asked = ["--shape", "mini", "--windows", "2", "--quantize", "int8", "int8", "--reference-passes", "3", "--json"]
    assert main(["bench", *asked, "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["subject"] == "mini" and [row["name"] for row in result["rows"]] == ["reference", "int8 window 2"]
    before, after = result["quantized"][0]["matrices_mib"]
    assert after < 0.6 * before and 0 < result["quantized"][0]["logits_error"] < 0.1


def test_pictures_may_be_of_another_size(capsys, small):
    asked = ["--shape", "mini", "--windows", "1", "--reference-passes", "3", "--json", "--device", "cpu"]
    assert main(["bench", *asked, "--side", "6"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["picture"] == [6, 6] and result["rows"][1]["passes"] == 36


def test_every_window_is_measured_once_more_with_compiled_layers_where_that_can_be(capsys, small, monkeypatch):
    asked = ["--shape", "mini", "--windows", "1", "2", "--no-reference", "--compile", "--json", "--device", "cpu"]
    names = ["window 1", "window 2", "compiled window 1", "compiled window 2"]
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    assert main(["bench", *asked]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["name"] for row in rows] == names and rows[0]["passes"] == rows[2]["passes"] == 8

    def fail(call, **_):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", fail)
    assert main(["bench", *asked]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["rows"]] == names[:2]


def test_random_weights_are_spread_as_transformers_begins_with():
    base = random_subject("mini", torch.device("cpu"), torch.float32).base
    assert abs(float(base.model.layers[0].mlp.down_proj.weight.std()) - 0.02) < 1e-3
    assert abs(float(base.model.embed_tokens.weight.std()) - 0.02) < 1e-3
    assert bool((base.model.norm.weight == 1).all())


def test_shapes_and_the_released_loops_copy_that_memory_does_not_hold_are_refused_before_they_are_made(
    capsys, monkeypatch
):
    free = {"shape": 0, "copy": 20 * 2**20}  # the shape mini takes 12 MiB in bfloat16, and its copy in float32 24
    for name, words in (("shape", "A decoder of shape mini takes 0.01 GiB in bfloat16"), ("copy", "--no-reference")):
        monkeypatch.setattr(memory, "free_bytes", lambda device, count=free[name]: count)
        monkeypatch.setattr(memory, "_linux", lambda name: 0)
        assert main(["bench", "--shape", "mini", "--windows", "1", "--device", "cpu", "--dtype", "bfloat16"]) == 2
        said = capsys.readouterr().err
        assert words in said and "measuring" not in said


def test_one_command_says_what_each_quantisation_loses(capsys, small):
    asked = ["--shape", "mini", "--windows", "1", "--quantize", "int8", "int4", "--batch", "3", "--no-reference"]
    assert main(["bench", *asked, "--device", "cpu"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "the likeliest code is the same at" in line]
    assert [line.partition(":")[0] for line in said] == ["int8", "int4"]
    assert all("guided logits are off by" in line and "nats" in line for line in said)
    assert main(["bench", *asked, "--device", "cpu", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    eight, four = result["quantized"]
    assert eight["logits_error"] < four["logits_error"] and 0 < eight["kl"] < four["kl"]
    assert 0.5 < eight["same_likeliest"] <= 1
    assert [row["name"] for row in result["rows"]] == ["int8 window 1", "int4 window 1"]


def test_a_window_is_the_mean_of_several_pictures_of_their_own_seeds(capsys, small, monkeypatch):
    """Of two batches of two, with a warming picture before them."""
    seconds, drawn = iter([(9.0, 9.0, 5.0), (1.0, 3.0, 7.0), (8.0, 8.0, 6.0), (2.0, 5.0, 4.0)]), []

    def sample_of_three_passes(model, vocabulary, prompt, grid, seeds, settings, progress, window):
        drawn.append(list(seeds))
        for done in range(2 + len(drawn) // 4):
            progress(done, 8)

    def run_once(device, call):
        call()
        return next(seconds)

    monkeypatch.setattr(bench, "sample", sample_of_three_passes)
    monkeypatch.setattr(bench, "_run_once", run_once)
    asked = ["--shape", "mini", "--windows", "2", "--no-reference", "--batch", "2", "--pictures", "2", "--repeat", "2"]
    assert main(["bench", *asked, "--json", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert drawn == [[0, 1], [0, 1], [0, 1], [2, 3], [2, 3]] and result["pictures"] == 2
    row = result["rows"][0]
    assert (row["seconds"], row["cpu_seconds"], row["peak_mib"]) == (1.5, 4.0, 7.0)
    assert row["passes"] == 2.5


def test_the_fastest_of_several_runs_counts(monkeypatch):
    runs = iter([(1.0, 3.0, 8.0), (2.0, 1.0, 8.0), (3.0, 2.0, 8.0)])
    monkeypatch.setattr(bench, "_run_once", lambda device, call: next(runs))
    assert bench._measured(torch.device("cpu"), lambda: None, 3) == (2.0, 1.0, 8.0)  # by CPU seconds


def test_on_a_gpu_a_run_ends_when_the_gpu_does_and_seconds_are_what_counts(monkeypatch):
    """With stand-ins for the GPU's calls."""
    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append("wait"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: calls.append("forget"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    gpu = torch.device("cuda")
    assert bench._run_once(gpu, lambda: calls.append("run"))[2] == 3.0
    assert calls == ["wait", "forget", "run", "wait"]
    runs = iter([(1.0, 3.0, 8.0), (2.0, 1.0, 8.0)])
    monkeypatch.setattr(bench, "_run_once", lambda device, call: next(runs))
    fastest = bench._measured(gpu, lambda: None, 2)
    first = bench._row("reference", 10, 1.0, (4.0, 4.0, 0.0), None, 2**30, 1e9)
    assert fastest == (1.0, 3.0, 8.0)
    assert bench._row("window 1", 5, 1.0, fastest, first, 2**30, 1e9, on_gpu=True).ratio == 4.0


def test_without_the_released_loop_its_weights_are_not_read(bundle, capsys, monkeypatch):
    asked = ["bench", "--model", str(bundle), "--windows", "1", "--device", "cpu", "--json"]

    def refuse(name, weights, dtype, device, advice):
        assert (name, dtype, sum(1 for _ in weights) > 0) == ("The released loop", torch.float32, True)
        raise BadInput(advice)

    monkeypatch.setattr("stylear.subject.load_base", None)
    assert main([*asked, "--no-reference"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["scaled_from"] is None and result["parameters"] > 0
    monkeypatch.setattr("stylear.subject.check_weights", refuse)
    assert main(asked) == 2 and "Leave it out with --no-reference." in capsys.readouterr().err


def test_the_released_loop_is_timed_for_one_picture_of_as_many_readings_as_guidance_weighs(bundle, capsys):
    asked = ["bench", "--model", str(bundle), "--windows", "1", "--device", "cpu", "--json", "--pictures", "1"]
    assert main([*asked, "--cfg", "0", "--batch", "2"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rows"][0]["passes"] == 2 * 19 and result["scaled_from"] == 19


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_the_logits_that_are_compared_are_those_that_codes_are_drawn_from(small, cfg):
    subject = random_subject("mini", torch.device("cpu"), torch.float32)
    start = (subject.vocabulary, subject.prompt, subject.grid)
    codes = sample(subject.base, *start, [0, 1], SamplingSettings(cfg, top_k=1))
    guided = bench._guided(subject.base, subject, codes, cfg)
    assert torch.equal(guided.argmax(-1).view(codes.shape), codes)


def test_the_shape_7b_is_the_released_models(monkeypatch):
    config = SHAPES["7b"].config
    assert (config.hidden_size, config.num_hidden_layers, SHAPES["7b"].grid) == (4096, 32, (24, 24))


def test_a_random_lora_of_a_shape_changes_nothing():
    subject = random_subject("mini", torch.device("cpu"), torch.float32)
    assert all(not value.any() for name, value in subject.lora.items() if name.endswith(".B"))


@pytest.mark.parametrize(
    "option",
    [
        ("--windows", "0"),
        ("--windows", "17"),
        ("--batch", "0"),
        ("--side", "0"),
        ("--side", "3"),
        ("--side", "1024"),
        ("--repeat", "0"),
        ("--pictures", "0"),
        ("--top-k", "0"),
        ("--model", "/nowhere"),
        ("--device", "cpu:1"),
    ],
)
def test_a_bench_of_what_cannot_be_is_refused(option, bundle, capsys):
    assert main(["bench", "--model", str(bundle), "--no-reference", "--device", "cpu", *option]) == 2
    assert "\nerror: " in "\n" + capsys.readouterr().err


def test_parts_of_a_shape_are_refused(capsys):
    assert main(["bench", "--shape", "mini", "--adapter", "x", "--device", "cpu"]) == 2
    assert "no parts" in capsys.readouterr().err
