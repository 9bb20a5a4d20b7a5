"""Checks that curating gives the same bytes however it is run, counts what it leaves out, and stays small."""

import errno
import io
import json
import os
import subprocess
import sys
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import stylear.files
from stylear.errors import BadInput, MissingPart
from training.__main__ import main
from training.commands import COMMANDS
from training.config import CONFIGS, read_settings
from training.curate import CurateSettings, run
from training.curated import Curated
from training.curation.blocks import Reader, Share
from training.curation.files import SourceSettings
from training.curation.sources import open_source


def picture(seed: int, side=24) -> Image.Image:
    """Random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def write_pictures(folder: Path, count: int, side=24, first=0) -> Path:
    """Captioned pictures, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        picture(i, side).save(folder / f"{i:04d}.png")
        (folder / f"{i:04d}.txt").write_text(f"thing {i}")
    return folder


def draw(style: Image.Image, prompt: str, seed: int) -> Image.Image:
    """What stands for InstantStyle: pixels that depend on all it is given."""
    return picture(seed + len(prompt) + int(np.asarray(style).sum()))


@pytest.fixture
def stylised(tmp_path) -> dict:
    """Two styles and three prompts."""
    (tmp_path / "styles").mkdir()
    for i in range(2):
        picture(900 + i).save(tmp_path / "styles" / f"style{i}.png")
    (tmp_path / "prompts.txt").write_text("a cat\na dog\na fox\n")
    return {"styles": tmp_path / "styles", "prompts": tmp_path / "prompts.txt"}


def curate(out: Path, pictures: Path | None = None, draw=draw, score=None, filters=None, models=(), **settings) -> str:
    """Curate a folder of pictures with small shards; `models`: files that `draw` is said to read."""
    sources = [{"kind": "raw", "path": str(pictures)}] if pictures else []
    values = {"sources": sources, "shard_size": 5, "filters": {"min_side": 8} | (filters or {})} | settings
    return run(CurateSettings(out=out, **values), lambda _: draw, lambda _: score, lambda _: list(models))


def everything(out: Path) -> dict[str, bytes]:
    """Every file of a folder but the lock."""
    return {
        str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file() and p.name != ".lock"
    }


def records(out: Path) -> list:
    """Every record."""
    folder = Curated(out)
    return [record for shard in folder.manifest["shards"] for record in folder.records(shard["file"])]


def rejected(out: Path) -> list[dict]:
    """The lines of rejected.jsonl."""
    return [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]


def test_pictures_reach_the_shards_unchanged(tmp_path):
    source = write_pictures(tmp_path / "in", 7)
    curate(tmp_path / "out", source)
    found = records(tmp_path / "out")
    assert [r.caption for r in found] == [f"thing {i}" for i in range(7)]
    assert [r.picture for r in found] == [(source / f"{i:04d}.png").read_bytes() for i in range(7)]
    assert len({r.key for r in found}) == 7


def test_shards_hold_no_more_than_their_size_and_are_told_in_the_manifest(tmp_path):
    curate(tmp_path / "out", write_pictures(tmp_path / "in", 12))
    manifest = Curated(tmp_path / "out").manifest
    assert [shard["records"] for shard in manifest["shards"]] == [5, 5, 2]
    assert manifest["kinds"] == {"raw": 12}
    assert manifest["settings"]["shard_size"] == 5
    for shard in manifest["shards"]:
        assert json.loads((tmp_path / "out" / shard["file"]).with_suffix(".json").read_text()) == shard


def test_every_style_is_drawn_with_every_prompt_and_only_the_side_car_knows_the_style(tmp_path, stylised):
    curate(tmp_path / "out", stylised=stylised)
    found = records(tmp_path / "out")
    assert [(r.kind, r.caption) for r in found] == [("stylised", f"a {word}") for word in ("cat", "dog", "fox")] * 2
    side_car = [json.loads(line) for line in (tmp_path / "out" / "references.jsonl").read_text().splitlines()]
    assert [line["key"] for line in side_car] == [r.key for r in found]
    assert [line["style"] for line in side_car] == ["style0.png"] * 3 + ["style1.png"] * 3
    shards = b"".join(p.read_bytes() for p in (tmp_path / "out").glob("*.tar"))
    for line in side_car:
        assert line["style_sha256"].encode() not in shards
    for path in stylised["styles"].iterdir():
        assert path.read_bytes() not in shards


def test_a_drawing_is_what_the_side_car_says_it_was_drawn_from(tmp_path, stylised):
    curate(tmp_path / "out", stylised=stylised)
    line = json.loads((tmp_path / "out" / "references.jsonl").read_text().splitlines()[4])
    style = Image.open(stylised["styles"] / line["style"])
    again = np.asarray(draw(style, line["prompt"], line["seed"]))
    kept = next(r for r in records(tmp_path / "out") if r.key == line["key"])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(kept.picture))), again)


def test_prompts_are_taken_in_turn(tmp_path, stylised):
    curate(tmp_path / "out", stylised=stylised | {"per_style": 2})
    assert [r.caption for r in records(tmp_path / "out")] == ["a cat", "a dog", "a fox", "a cat"]


def test_a_ready_made_folder_can_be_the_stylised_half(tmp_path):
    sources = [{"kind": "stylised", "path": str(write_pictures(tmp_path / "a", 2))}]
    sources += [{"kind": "raw", "path": str(write_pictures(tmp_path / "b", 3, first=10))}]
    curate(tmp_path / "out", sources=sources)
    assert Curated(tmp_path / "out").manifest["kinds"] == {"raw": 3, "stylised": 2}


def test_what_is_left_out_is_counted_and_listed_with_its_place(tmp_path):
    source = write_pictures(tmp_path / "in", 6)
    (source / "0001.png").write_bytes((source / "0000.png").read_bytes())
    (source / "0002.png").write_bytes(b"no picture")
    (source / "0003.txt").write_text("")
    picture(0, side=4).save(source / "0004.png")
    told = curate(tmp_path / "out", source, max_bad=0.9)
    reasons = {"duplicate": 1, "broken": 1, "no_caption": 1, "too_small": 1}
    assert Curated(tmp_path / "out").manifest["rejected"] == reasons
    places = [(Path(line["where"]).name, line["reason"]) for line in rejected(tmp_path / "out")]
    wanted = ["duplicate", "broken", "no_caption", "too_small"]
    assert places == [(f"000{i}.png", reason) for i, reason in enumerate(wanted, 1)]
    assert all(reason in told for reason in wanted)


def test_duplicates_are_found_across_shards_and_sources(tmp_path):
    one, two = write_pictures(tmp_path / "a", 7), write_pictures(tmp_path / "b", 9)
    sources = [{"kind": "raw", "path": str(one)}, {"kind": "stylised", "path": str(two)}]
    curate(tmp_path / "out", sources=sources)
    assert Curated(tmp_path / "out").manifest["rejected"] == {"duplicate": 7}
    assert Curated(tmp_path / "out").manifest["kinds"] == {"raw": 7, "stylised": 2}


def test_near_duplicates_are_left_out_only_if_asked_for(tmp_path):
    source = write_pictures(tmp_path / "in", 1, side=64)
    smooth = picture(0, 6).resize((96, 96), Image.Resampling.BICUBIC)
    smooth.save(source / "0000.png")
    smooth.resize((64, 64)).save(source / "0001.jpg", quality=80)
    (source / "0001.txt").write_text("again")
    curate(tmp_path / "all", source)
    curate(tmp_path / "few", source, filters={"near_duplicates": 4})
    assert len(records(tmp_path / "all")) == 2
    assert Curated(tmp_path / "few").manifest["rejected"] == {"near_duplicate": 1}


def test_pictures_that_do_not_agree_with_their_caption_are_left_out(tmp_path):
    def score(captions, images):
        return np.array([0.1 if caption.endswith("3") else 0.5 for caption in captions])

    curate(tmp_path / "out", write_pictures(tmp_path / "in", 12), score=score, filters={"min_agreement": 0.3})
    assert [(Path(r["where"]).name, r["reason"]) for r in rejected(tmp_path / "out")] == [("0003.png", "low_agreement")]


def test_too_many_bad_records_stop_the_run_naming_the_last(tmp_path):
    source = write_pictures(tmp_path / "in", 10)
    (source / "0007.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"1 of the first 10 records are bad.*0007.png: broken"):
        curate(tmp_path / "out", source, max_bad=0.05)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert [Path(line["where"]).name for line in rejected(tmp_path / "out")] == ["0007.png"]


def test_a_run_stopped_by_bad_records_goes_on_with_a_higher_limit(tmp_path):
    source = write_pictures(tmp_path / "in", 10)
    (source / "0007.png").write_bytes(b"no picture")
    with pytest.raises(BadInput):
        curate(tmp_path / "out", source, max_bad=0)
    curate(tmp_path / "out", source, max_bad=1)
    assert len(records(tmp_path / "out")) == 9


def test_matters_of_taste_do_not_count_as_bad(tmp_path):
    source = write_pictures(tmp_path / "in", 3)
    write_pictures(source, 7, side=4, first=10)
    curate(tmp_path / "out", source, max_bad=0)
    assert Curated(tmp_path / "out").manifest["rejected"] == {"too_small": 7}


def test_nothing_left_is_an_error_that_says_why(tmp_path):
    with pytest.raises(BadInput, match=r"No picture is left.*too_small 3"):
        curate(tmp_path / "out", write_pictures(tmp_path / "in", 3, side=4))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_finished_folder_is_left_alone(tmp_path, stylised):
    told = curate(tmp_path / "out", stylised=stylised)
    before = everything(tmp_path / "out")
    assert curate(tmp_path / "out", stylised=stylised, draw=None) == told
    assert everything(tmp_path / "out") == before


def test_two_runs_give_the_same_bytes(tmp_path, stylised):
    source = write_pictures(tmp_path / "in", 8)
    for name in ("one", "two"):
        curate(tmp_path / name / "out", source, stylised=stylised, workers=3 if name == "two" else 1)
    one, two = (everything(tmp_path / name / "out") for name in ("one", "two"))
    differ = {name for name in one if one[name] != two[name]}
    assert one.keys() == two.keys()
    assert differ == {"manifest.json", "settings.yaml"}  # out and workers are other ones


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def test_a_run_stopped_at_any_file_goes_on_to_the_same_bytes(tmp_path, stylised, monkeypatch):
    source = write_pictures(tmp_path / "in", 11)
    (source / "0005.png").write_bytes((source / "0001.png").read_bytes())
    out, replace, stops = tmp_path / "out", os.replace, 0
    go = partial(curate, out, source, stylised=stylised)
    go()
    wanted = everything(out)
    for stop in range(1, 200):
        out.rename(tmp_path / f"before{stop}")
        left = stop

        def stopping(old, new):
            nonlocal left
            left -= 1
            if left == 0:
                Path(old).with_suffix(".tar").write_bytes(b"half")  # a draft that nobody cleans up
                raise Killed
            replace(old, new)

        with monkeypatch.context() as patch:
            patch.setattr(stylear.files.os, "replace", stopping)
            try:
                go()
            except Killed:
                stops += 1
                assert not (out / "manifest.json").exists()
        go()
        assert everything(out) == wanted
        if left > 0:
            break
    assert stops > 15


def test_a_stopped_run_does_not_draw_again_what_is_there(tmp_path, stylised):
    drawn = []

    def slow(style, prompt, seed):
        drawn.append(prompt)
        if len(drawn) == 6:
            raise Killed
        return draw(style, prompt, seed)

    with pytest.raises(Killed):
        curate(tmp_path / "out", stylised=stylised, draw=slow)
    curate(tmp_path / "out", stylised=stylised, draw=slow)
    assert len(drawn) == 7  # the sixth twice


@pytest.mark.parametrize("stop", range(1, 7))
def test_a_run_stopped_in_the_middle_of_a_shard_draws_no_picture_twice_and_ends_as_one_never_stopped(
    tmp_path, stylised, stop
):
    out, drawn = tmp_path / "out", []

    def stopping(style, prompt, seed):
        drawn.append(seed)
        if len(drawn) == stop:
            raise Killed
        return draw(style, prompt, seed)

    curate(out, stylised=stylised)
    wanted = everything(out)
    out.rename(tmp_path / "never")
    with pytest.raises(Killed):
        curate(out, stylised=stylised, draw=stopping)
    curate(out, stylised=stylised, draw=stopping)
    assert len(drawn) == 6 + 1  # the one it was stopped at
    assert everything(out) == wanted


def test_a_drawn_picture_goes_once_it_is_in_a_whole_block(tmp_path, stylised):
    def left_of_before(style, prompt, seed):
        kept.append({file.name for file in (tmp_path / "out" / ".blocks").rglob("[0-9]*.png")})
        return draw(style, prompt, seed)

    kept = []
    curate(tmp_path / "out", stylised=stylised, draw=left_of_before, shard_size=4, workers=1)
    assert [len(names) for names in kept] == [0, 1, 2, 3, 0, 1]


def test_other_settings_are_refused_by_name(tmp_path):
    source = write_pictures(tmp_path / "in", 3)
    curate(tmp_path / "out", source)
    with pytest.raises(BadInput, match="filters.*min_side"):
        curate(tmp_path / "out", source, filters={"min_side": 9})


def test_other_inputs_are_refused(tmp_path):
    source = write_pictures(tmp_path / "in", 3)
    curate(tmp_path / "out", source)
    write_pictures(source, 1, first=3)
    with pytest.raises(BadInput, match=r"other inputs than those of now: sources\[0\] \(.*in\)\. Give another `out`"):
        curate(tmp_path / "out", source)


def stopped(*_):
    raise Killed


def test_a_folder_begun_with_other_models_to_draw_with_is_refused(tmp_path, stylised):
    model = tmp_path / "unet.safetensors"
    model.write_bytes(b"one")
    go = partial(curate, tmp_path / "out", stylised=stylised, models=[model])
    with pytest.raises(Killed):
        go(draw=stopped)
    model.write_bytes(b"two")
    with pytest.raises(BadInput, match="other inputs than those of now: stylised.instantstyle"):
        go()
    model.write_bytes(b"one")
    go()


def test_a_finished_folder_needs_the_models_no_longer(tmp_path, stylised):
    model = tmp_path / "unet.safetensors"
    model.write_bytes(b"one")
    go = partial(curate, tmp_path / "out", stylised=stylised, models=[model])
    told = go()
    model.unlink()
    assert go() == told


def test_a_folder_begun_with_another_clip_to_filter_with_is_refused(tmp_path):
    clip = tmp_path / "clip.safetensors"
    clip.write_bytes(b"one")
    filters = {"min_agreement": 0.2, "clip": str(clip)}
    go = partial(curate, tmp_path / "out", write_pictures(tmp_path / "in", 2), filters=filters)
    with pytest.raises(Killed):
        go(score=stopped)
    clip.write_bytes(b"two")
    with pytest.raises(BadInput, match="other inputs than those of now: filters.clip"):
        go(score=stopped)


def test_a_clip_that_is_not_there_is_told_before_anything_is_read(tmp_path):
    with pytest.raises(MissingPart, match="no CLIP at nowhere"):
        curate(tmp_path / "out", write_pictures(tmp_path / "in", 2), filters={"min_agreement": 0.2, "clip": "nowhere"})


def test_a_full_disk_says_so_and_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    source = write_pictures(tmp_path / "in", 12)
    fsync, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(stylear.files.os, "fsync", full)
        with pytest.raises(BadInput, match=r"The disk of .* is full: make room and try again"):
            curate(tmp_path / "out", source)
    with pytest.raises(BadInput, match="manifest"):
        records(tmp_path / "out")
    curate(tmp_path / "out", source)
    assert len(records(tmp_path / "out")) == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": None}, "stylised.prompts is not"),
        ({"prompts": "nowhere.txt"}, "nowhere.txt cannot be read"),
        ({"styles": "nowhere"}, "no list at nowhere"),
    ],
)
def test_missing_styles_and_prompts_are_told_before_anything_is_drawn(tmp_path, stylised, change, message):
    with pytest.raises(BadInput, match=message):
        curate(tmp_path / "out", stylised=stylised | change, draw=None)


def test_a_broken_style_picture_is_left_out_and_counted(tmp_path, stylised):
    (stylised["styles"] / "bad.png").write_bytes(b"no picture")
    told = curate(tmp_path / "out", stylised=stylised, max_bad=0)
    assert "broken_style" in told
    assert Curated(tmp_path / "out").manifest["rejected"] == {"broken_style": 1}
    assert "bad.png" in rejected(tmp_path / "out")[0]["detail"]
    assert len(records(tmp_path / "out")) == 6


def test_styles_of_which_none_can_be_read_are_told_before_anything_is_drawn(tmp_path, stylised):
    for path in stylised["styles"].iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"no reference picture to draw from.*style0\.png"):
        curate(tmp_path / "out", stylised=stylised, draw=None)
    assert not (tmp_path / "out").exists()


def test_a_source_is_not_written_to(tmp_path):
    with pytest.raises(BadInput, match="a source as well as `out`"):
        curate(write_pictures(tmp_path / "in", 1), tmp_path / "in")


def test_writing_below_a_source_does_not_count_as_a_change_of_it(tmp_path):
    source = write_pictures(tmp_path / "in", 3)
    told = curate(source / "out", source)
    assert curate(source / "out", source) == told


def test_nothing_to_curate_is_told(tmp_path):
    with pytest.raises(BadInput, match="nothing to curate"):
        curate(tmp_path / "out")


@pytest.mark.parametrize("world", [2, 3])
def test_processes_that_share_the_blocks_read_what_one_alone_reads(tmp_path, world):
    settings = CurateSettings(filters={"min_side": 8})
    sources = [open_source(SourceSettings(kind="raw", path=str(write_pictures(tmp_path / "in", 23))))]
    reader = Reader(sources, settings.filters, 5, 0.1, 2, None)
    for count in (1, world):
        (tmp_path / str(count)).mkdir()
        for rank in range(count):
            assert reader.run(tmp_path / str(count), Share(rank, count)) == 5
    assert everything(tmp_path / str(world)) == everything(tmp_path / "1")


def test_two_processes_under_accelerate_give_the_bytes_of_one(tmp_path):
    write_pictures(tmp_path / "in", 13)
    words = [
        "curate",
        "out=out",
        "sources=[{kind: raw, path: in}]",
        "stylised={}",
        "filters.min_side=8",
        "shard_size=3",
    ]
    for folder, processes in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "in").symlink_to(tmp_path / "in")
        started = []
        for rank in range(processes):
            env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "CUDA_VISIBLE_DEVICES": ""}
            if processes > 1:
                env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
                env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29500 + os.getpid() % 2000)}
            command = [sys.executable, "-m", "training", *words]
            started.append(subprocess.Popen(command, env=env, cwd=tmp_path / folder, stderr=subprocess.PIPE))
        for process in started:
            assert process.wait(timeout=120) == 0, process.stderr.read().decode()
            process.stderr.close()
    assert everything(tmp_path / "two" / "out") == everything(tmp_path / "one" / "out")


def test_memory_does_not_grow_with_the_data(tmp_path):
    peaks = []
    curate(tmp_path / "warm", write_pictures(tmp_path / "w", 5, side=160))  # imports and caches
    for name, count in (("few", 20), ("many", 200)):
        source = write_pictures(tmp_path / name, count, side=160)
        tracemalloc.start()
        curate(tmp_path / f"{name}-out", source, filters={"near_duplicates": 2}, shard_size=10)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_the_shipped_settings_are_valid_and_their_command_is_known():
    kind, start = COMMANDS["curate"].load()
    assert start is run
    settings = read_settings(kind, CONFIGS / "curate.yaml")
    assert settings.out == Path("work/curated")
    assert settings.sources[0].path == "work/example/pictures"


def test_the_command_says_what_is_wrong_in_one_line(tmp_path, capsys):
    words = [
        "curate",
        f"out={tmp_path / 'out'}",
        f"sources=[{{kind: raw, path: {tmp_path / 'no.tar'}}}]",
        "stylised={}",
    ]
    assert main(words) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert "no.tar" in told[0]
