"""The bench runs the released loop and every window on one model or shape, and says what each took."""

import json

import pytest
import tiny
import torch

from stylear import bench
from stylear.__main__ import main
from stylear.bench import Shape, random_subject
from stylear.chameleon import ChameleonConfig


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
    assert lines[-1].startswith("roofline: ") and "of the measured memory bandwidth" in lines[-1]
    assert "measuring the released loop" in told.err


def test_a_bench_as_json_has_the_same_numbers_by_name(bundle, capsys):
    asked = ["--windows", "1", "16", "--cfg", "2", "--device", "cpu", "--json"]
    assert main(["bench", "--model", str(bundle), *asked]) == 0
    result = json.loads(capsys.readouterr().out)
    reference, plain, windowed = result["rows"]
    assert result["picture"] == [4, 4] and result["cfg"] == 2 and result["quantized"] is None
    assert (reference["passes"], plain["passes"]) == (2 * 19, 16) and windowed["passes"] <= 16
    assert reference["ratio"] is None and plain["ratio"] == reference["cpu_seconds"] / plain["cpu_seconds"]
    assert all(row["peak_mib"] > 0 and 0 < row["share"] for row in result["rows"])


def test_a_named_shape_needs_no_files_and_may_be_quantised(capsys, monkeypatch):
    monkeypatch.setitem(bench.SHAPES, "mini", Shape(ChameleonConfig(40, 32, 40, 2, 4, 2), (1, 2), 24))
    asked = ["--shape", "mini", "--windows", "2", "--quantize", "int8", "--reference-passes", "3", "--json"]
    assert main(["bench", *asked, "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["subject"] == "mini" and len(result["rows"]) == 2
    before, after = result["quantized"]["matrices_mib"]
    assert after < 0.6 * before and 0 < result["quantized"]["logits_error"] < 0.1


def test_the_shape_7b_is_the_released_models(monkeypatch):
    config = bench.SHAPES["7b"].config
    assert (config.hidden_size, config.num_hidden_layers, bench.SHAPES["7b"].grid) == (4096, 32, (24, 24))


def test_a_random_lora_of_a_shape_changes_nothing():
    subject = random_subject("mini", torch.device("cpu"), torch.float32)
    assert all(not value.any() for name, value in subject.lora.items() if name.endswith(".B"))


@pytest.mark.parametrize("option", [("--windows", "0"), ("--batch", "0"), ("--top-k", "0"), ("--model", "/nowhere")])
def test_a_bench_of_what_cannot_be_is_refused(option, bundle, capsys):
    assert main(["bench", "--model", str(bundle), "--no-reference", "--device", "cpu", *option]) == 2
    assert "\nerror: " in "\n" + capsys.readouterr().err
