"""tokenize: the engine's own codes of every picture, once, whatever stops it on the way."""

import hashlib
import io
import json
import os
import re
import signal
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from tiny_tokens import in_processes

import training.tokenize as module
from stylear.checkpoint import load_image_encoder, load_vqgan
from stylear.condition import choose_crop, condition_pixels, cover, crop_sizes
from stylear.errors import BadCheckpoint, BadInput
from stylear.images import centre_crop
from training.config import CONFIGS, ModelPaths, read_settings
from training.curated import Curated
from training.encode import maps_sha256
from training.tokenize import TokenizeSettings, run
from training.tokens import TokenSet

STEP = 8  # pixels of a grid step of the tiny model, trained at 16
SIZES = [(40, 40), (60, 40), (25, 80), (16, 16), (19, 33), (64, 33), (200, 9)]


def picture(number: int, size: tuple[int, int] = (40, 40), mode: str = "RGB") -> Image.Image:
    """Smooth noise of the number's own."""
    rng = np.random.default_rng(number)
    noise = rng.integers(0, 256, (5, 5, len(mode)), np.uint8)
    return Image.fromarray(noise if len(mode) > 1 else noise[..., 0]).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def write_curated(folder: Path, shards: list[list[bytes]]) -> Path:
    """A curated folder of these pictures, every third stylised, keyed by shard and number."""
    folder.mkdir(parents=True)
    entries = []
    for shard, pictures in enumerate(shards):
        path = folder / f"pictures-{shard:05d}.tar"
        with tarfile.open(path, "w") as tar:
            for number, data in enumerate(pictures):
                about = {"caption": f"picture {number}", "kind": "raw" if number % 3 else "stylised", "source": "here"}
                for ending, part in (("png", data), ("json", json.dumps(about).encode())):
                    member = tarfile.TarInfo(f"{shard:05d}-{number:06d}.{ending}")
                    member.size = len(part)
                    tar.addfile(member, io.BytesIO(part))
        hashed = hashlib.sha256(path.read_bytes()).hexdigest()
        entries.append({"file": path.name, "sha256": hashed, "records": len(pictures)})
    together = hashlib.sha256("".join(entry["sha256"] for entry in entries).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "shards": entries, "sha256": together}))
    return folder


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    return tiny.write_bundle(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture
def told(tmp_path, bundle):
    """Settings for a folder of two shards, with changes."""
    plain = [encoded(picture(number, size)) for number, size in enumerate(SIZES)]
    write_curated(tmp_path / "curated", [plain, [encoded(picture(number)) for number in range(20, 25)]])

    def with_changes(**changes) -> TokenizeSettings:
        given = {"curated": tmp_path / "curated", "out": tmp_path / "tokens", "model": ModelPaths(base=str(bundle))}
        return TokenizeSettings(**{"batch": 2, "device": "cpu", **given, **changes})

    return with_changes


def replace_pictures(settings: TokenizeSettings, shards: list[list[bytes]], name: str) -> TokenizeSettings:
    """The same settings for another curated folder."""
    folder = write_curated(settings.curated.parent / name, shards)
    return settings.model_copy(update={"curated": folder})


def engine_codes(bundle: Path, image: Image.Image, kind: str = "depth") -> np.ndarray:
    """What the engine makes of a picture that stands in a prompt."""
    with torch.inference_mode():
        return load_vqgan(bundle).encode(condition_pixels(image, tiny.SIZE, STEP, kind))[0].numpy()


def crop_of(image: Image.Image) -> Image.Image:
    crop = choose_crop(image.size, crop_sizes(tiny.SIZE, STEP))
    return centre_crop(cover(image, crop), *crop)


def test_the_codes_are_the_engines_own_of_the_same_crop(told, bundle):
    run(told())
    tokens = TokenSet(told().out)
    shapes = set()
    for number, size in enumerate(SIZES[:-1]):
        assert (tokens[number].codes == engine_codes(bundle, picture(number, size))).all()
        shapes.add(tokens[number].codes.shape)
    assert len(shapes) >= 4 and len(np.unique(tokens[0].codes)) > 3


def test_keys_kinds_and_captions_stay_in_the_order_of_the_curated_folder(told):
    run(told())
    tokens = TokenSet(told().out)
    assert [tokens[i].key for i in (0, 6, 7)] == ["00000-000000", "00000-000006", "00001-000000"]
    assert tokens.kinds.tolist() == [0, 1, 1, 0, 1, 1, 0, 0, 1, 1, 0, 1]
    assert tokens[5].caption == "picture 5"


def test_transparency_becomes_white_in_the_codes_and_in_the_style_picture(told, bundle):
    image = picture(1, (16, 16), "RGBA")
    settings = replace_pictures(told(), [[encoded(image)]], "transparent")
    run(settings)
    white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    found = TokenSet(settings.out)[0]
    assert (found.codes == engine_codes(bundle, image)).all()
    assert np.abs(np.asarray(found.picture, int) - np.asarray(white, int)).max() <= 1


def test_the_style_picture_is_the_crop_without_loss(told):
    run(told())
    assert TokenSet(told().out)[1].picture.tobytes() == crop_of(picture(1, SIZES[1])).tobytes()


def test_a_crop_larger_than_the_image_encoder_reads_is_kept_as_small_as_it_reads(told):
    run(told(size=40))
    tokens = TokenSet(told().out)
    assert {min(tokens[i].picture.size) for i in range(6)} == {tiny.CLIP_CONFIG.image_size}
    assert min(tokens[0].codes.shape) * 4 > tiny.CLIP_CONFIG.image_size


def test_kept_features_are_the_image_encoders_of_the_style_picture_in_half_precision(told, bundle):
    run(told(features=True))
    tokens, encoder = TokenSet(told().out), load_image_encoder(bundle)
    for number in (0, 3, 5):
        expected = encoder.encode(tokens[number].picture).numpy()
        assert list(expected.shape) == tokens.features
        np.testing.assert_allclose(tokens[number].features, expected, rtol=2e-3, atol=2e-3)


def test_half_precision_changes_few_codes(told, bundle):
    run(told(precision="bf16"))
    tokens = TokenSet(told().out)
    same = [(tokens[n].codes == engine_codes(bundle, picture(n, size))).mean() for n, size in enumerate(SIZES[:-1])]
    assert 0.8 < np.mean(same) < 1


def test_no_crop_has_a_side_that_the_base_has_no_word_for(told):
    run(told(size=40))  # the widest crop would have twelve grid steps
    tokens = TokenSet(told().out)
    assert max(max(tokens[i].codes.shape) for i in range(len(tokens))) == 2 * tiny.GRIDS
    with pytest.raises(BadInput, match="sides of up to 48 px"):
        run(told(size=56, out=told().out / "large"))


def write_maps(folder: Path) -> Path:
    folder.mkdir()
    for number, size in enumerate(SIZES[:4]):
        picture(100 + number, (3 * size[0], 3 * size[1]), "L").save(folder / f"00000-{number:06d}.png")
    return folder


def test_a_map_becomes_the_codes_of_the_place_that_the_picture_was_cut_to(told, bundle, tmp_path):
    run(told(condition="segmentation", maps=write_maps(tmp_path / "maps"), condition_share=1))
    tokens = TokenSet(told().out)
    for number, size in enumerate(SIZES[:4]):
        found = tokens[number]
        expected = engine_codes(bundle, picture(100 + number, (3 * size[0], 3 * size[1]), "L"), "segmentation")
        assert found.condition == "segmentation" and found.codes.shape == found.condition_codes.shape
        assert (found.condition_codes == expected).all()
    assert (tokens[4].condition, tokens[4].condition_codes) == ("", None)
    assert tokens.index["conditions"] == {"depth": 0, "segmentation": 4}


def test_a_map_of_another_shape_than_its_picture_is_refused_with_both_sizes(told, tmp_path, capsys):
    maps = write_maps(tmp_path / "maps")
    picture(1, (50, 90), "L").save(maps / "00000-000001.png")
    run(told(condition="depth", maps=maps, condition_share=1))
    (bad,) = json.loads((told().out / "tokens-00000.json").read_text())["bad"]
    assert bad["key"] == "00000-000001" and "50 x 90" in bad["reason"] and "60 x 40" in bad["reason"]


def test_the_share_of_conditions_is_kept_and_chosen_by_key_and_seed_alone(told, tmp_path):
    count = 60
    settings = replace_pictures(told(), [[encoded(picture(0, (8, 8)))] * count], "many")
    maps = tmp_path / "maps"
    maps.mkdir()
    for number in range(count):
        picture(number, (8, 8), "L").save(maps / f"00000-{number:06d}.png")

    def chosen(name: str, seed: int) -> list[str]:
        more = {"condition": "depth", "maps": maps, "condition_share": 0.3, "seed": seed, "out": tmp_path / name}
        run(settings.model_copy(update=more))
        return [one.key for one in map(TokenSet(tmp_path / name).__getitem__, range(count)) if one.condition]

    first = chosen("a", 0)
    assert 8 <= len(first) <= 30
    assert chosen("b", 0) == first != chosen("c", 1)


def test_depth_is_estimated_from_the_crop(told, bundle, tmp_path, monkeypatch):
    def darkest_left(image, _model):
        width, height = Image.fromarray(image).size
        return Image.fromarray(np.tile(np.linspace(0, 255, width, dtype=np.uint8), (height, 1)))

    monkeypatch.setattr("training.encode.load_depth_model", lambda _: torch.nn.Linear(1, 1))
    monkeypatch.setattr("training.encode.depth_from_photo", darkest_left)
    run(told(condition="depth", depth_model=tmp_path, condition_share=1))
    found = TokenSet(told().out)[0]
    expected = engine_codes(bundle, darkest_left(np.zeros((16, 16, 3), np.uint8), None))
    assert found.condition == "depth" and (found.condition_codes == expected).all()


@pytest.mark.parametrize(
    "changes, told_of",
    [
        ({"condition": "depth"}, "maps or depth_model"),
        ({"condition": "segmentation", "depth_model": "x"}, "set maps, and not depth_model"),
        ({"maps": "x"}, "condition is none"),
        ({"condition": "depth", "maps": "nowhere"}, "no folder of maps nowhere"),
    ],
)
def test_a_condition_without_its_source_is_refused_before_anything_is_written(told, changes, told_of):
    changes = {key: Path(value) if key in ("maps", "depth_model") else value for key, value in changes.items()}
    with pytest.raises(BadInput, match=told_of):
        run(told(**changes))
    assert not told().out.exists()


def broken_pictures() -> list[list[bytes]]:
    whole = encoded(picture(3, (30, 30)))
    return [[whole, whole[: len(whole) // 2], whole], [b"no picture", whole]]


def test_a_broken_picture_is_skipped_and_counted_with_its_shard_and_key(told):
    settings = replace_pictures(told(), broken_pictures(), "broken")
    summary = run(settings)
    records = [json.loads((settings.out / f"tokens-0000{shard}.json").read_text()) for shard in (0, 1)]
    assert [[bad["key"] for bad in record["bad"]] for record in records] == [["00000-000001"], ["00001-000000"]]
    assert records[0]["source"] == "pictures-00000.tar" and "cannot be read" in records[0]["bad"][0]["reason"]
    assert len(TokenSet(settings.out)) == 3 and "2 skipped" in summary


@pytest.mark.parametrize("change, told_of", [({"caption": " "}, "caption is empty"), ({"kind": "x"}, "kind is 'x'")])
def test_a_record_that_cannot_train_is_skipped_with_its_reason(told, monkeypatch, change, told_of):
    monkeypatch.setattr("training.tokenize.Curated", lambda folder: changed(Curated(folder), "00000-000002", change))
    run(told())
    (bad,) = json.loads((told().out / "tokens-00000.json").read_text())["bad"]
    assert bad["key"] == "00000-000002" and told_of in bad["reason"]


def changed(curated: Curated, key: str, change: dict) -> SimpleNamespace:
    """The same folder with one record other."""

    def records(shard: str):
        for record in curated.records(shard):
            yield replace(record, **change) if record.key == key else record

    return SimpleNamespace(manifest=curated.manifest, records=records)


def test_more_broken_pictures_than_allowed_stop_it_naming_the_last_one(told):
    settings = replace_pictures(told(max_bad=1), broken_pictures(), "broken")
    with pytest.raises(BadInput, match=r"max_bad=1.*00001-000000 in .*pictures-00001\.tar"):
        run(settings)
    assert not (settings.out / "tokens.json").exists()
    run(settings.model_copy(update={"max_bad": 2}))
    assert len(TokenSet(settings.out)) == 3


def test_a_shard_of_nothing_but_broken_pictures_is_an_empty_one(told):
    settings = replace_pictures(told(), [[b"1", b"2"], [encoded(picture(0))]], "broken")
    run(settings)
    assert len(TokenSet(settings.out)) == 1


def test_a_damaged_curated_shard_stops_it_by_name(told):
    path = told().curated / "pictures-00001.tar"
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(BadInput, match=r"pictures-00001\.tar"):
        run(told())


def test_a_folder_begun_with_other_pictures_or_settings_is_not_gone_on_with(told):
    run(told())
    with pytest.raises(BadInput, match="batch"):
        run(told(batch=3))
    (told().curated / "manifest.json").unlink()
    for path in told().curated.iterdir():
        path.unlink()
    told().curated.rmdir()
    write_curated(told().curated, [[encoded(picture(77))]])
    with pytest.raises(BadInput, match="other inputs than those of now: curated"):
        run(told())


def test_a_folder_begun_with_other_maps_is_not_gone_on_with(told, tmp_path):
    settings = told(condition="segmentation", maps=write_maps(tmp_path / "maps"), condition_share=1)
    run(settings)
    (tmp_path / "maps" / "notes.txt").write_text("no map")
    run(settings)
    picture(7, (3 * 40, 3 * 40), "L").save(tmp_path / "maps" / "00000-000000.png")
    with pytest.raises(BadInput, match="other inputs than those of now: maps. Give another `out`"):
        run(settings)


@pytest.mark.parametrize("change", ["a new map", "one less", "another size", "another time"])
def test_maps_are_known_by_names_sizes_and_times_without_reading_them(tmp_path, change):
    maps = write_maps(tmp_path / "maps")
    one = maps / "00000-000000.png"
    before, size, time = maps_sha256(maps), one.stat().st_size, one.stat().st_mtime_ns
    one.write_bytes(bytes(size))
    os.utime(one, ns=(time, time))
    assert maps_sha256(maps) == before
    if change == "a new map":
        (maps / "00000-000009.webp").touch()
    elif change == "one less":
        one.unlink()
    elif change == "another size":
        one.write_bytes(bytes(size + 1))
        os.utime(one, ns=(time, time))
    else:
        os.utime(one, ns=(time, time + 1))
    assert maps_sha256(maps) != before


def test_parts_that_do_not_belong_together_are_refused(told, bundle, tmp_path):
    tiny.write_base(tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").write_text(tiny.tiny_tokenizer_json(codes=8, grids=6))
    paths = ModelPaths(base=str(tmp_path / "other"), vqgan=str(bundle), image_encoder=str(bundle))
    with pytest.raises(BadCheckpoint, match="24 codes and the tokenizer 8"):
        run(told(model=paths))


def test_a_shard_that_was_cut_off_is_made_anew(told):
    run(told())
    path = told().out / "tokens-00000.arrow"
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    run(told())
    assert path.read_bytes() == whole


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def tokenize(settings: TokenizeSettings) -> None:
    module.run(settings)


def tokenize_and_die(settings: TokenizeSettings, folder: Path) -> None:
    """Be killed by SIGKILL in the middle of the first shard."""
    os.chdir(folder)
    made, module.WINDOW = [], 1

    class Dies(module.Tokenizer):
        def examples(self, prepared):
            made.append(prepared)
            if len(made) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().examples(prepared)

    module.Tokenizer = Dies
    module.run(settings)


def test_killed_in_the_middle_of_a_shard_and_run_again_it_leaves_the_bytes_of_a_run_never_killed(
    told, tmp_path, monkeypatch
):
    monkeypatch.setattr("training.tokenize.WINDOW", 1)
    settings = told(out=Path("tokens"), features=True)
    (tmp_path / "killed").mkdir()
    (tmp_path / "never").mkdir()
    assert in_processes(tokenize_and_die, settings, tmp_path / "killed") == [-signal.SIGKILL]
    left = {path.name for path in (tmp_path / "killed" / "tokens").iterdir()}
    assert any(name.endswith(".arrow") for name in left) and "tokens.json" not in left
    for name in ("killed", "never"):
        monkeypatch.chdir(tmp_path / name)
        run(settings)
    assert files_of(tmp_path / "killed" / "tokens") == files_of(tmp_path / "never" / "tokens")


def test_two_processes_write_what_one_writes(told, tmp_path):
    one = told(out=tmp_path / "one")
    two = told(out=tmp_path / "two")
    assert in_processes(tokenize, two, processes=2) == [0, 0]
    run(one)
    shards = {name: data for name, data in files_of(tmp_path / "one").items() if name.startswith("tokens-")}
    assert {name: data for name, data in files_of(tmp_path / "two").items() if name.startswith("tokens-")} == shards
    assert TokenSet(tmp_path / "two").sha256 == TokenSet(tmp_path / "one").sha256


def tokenize_and_measure(several: list[TokenizeSettings], told: Path) -> None:
    """Write the most anonymous memory so far, in bytes, after each."""
    most, module.WINDOW = [0], 1

    class Measured(module.Tokenizer):
        def examples(self, prepared):
            status = Path("/proc/self/status").read_text()
            most.append(1024 * int(re.search(r"RssAnon:\s+(\d+)", status).group(1)))
            return super().examples(prepared)

    module.Tokenizer = Measured
    after = []
    for settings in several:
        module.run(settings)
        after.append(max(most))
    told.write_text(json.dumps(after))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to measure memory")
def test_ten_times_the_pictures_in_a_shard_take_next_to_no_more_memory(told, tmp_path):
    several = []
    for name, count in {"warm": 20, "few": 20, "many": 200}.items():
        settings = replace_pictures(told(), [[encoded(picture(n, (256, 256)), "BMP") for n in range(count)]], name)
        update = {"out": tmp_path / f"tokens-{name}", "batch": 16}
        several.append(settings.model_copy(update=update))
    assert in_processes(tokenize_and_measure, several, tmp_path / "told.json") == [0]
    _, few, many = json.loads((tmp_path / "told.json").read_text())
    assert many - few < 0.25 * 180 * 256 * 256 * 3


def test_the_shipped_settings_are_read():
    assert read_settings(TokenizeSettings, CONFIGS / "tokenize.yaml").out == Path("work/tokens")
