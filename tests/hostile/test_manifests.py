"""Manifests and records: curated folders, states of a training, lists of references, judgements, earlier settings."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from stylear.errors import BadInput
from training.checkpoints import PROGRESS, Progress, read_progress
from training.config import CONFIGS, read_settings
from training.curated import Curated
from training.curation.files import SourceSettings
from training.curation.items import MAX_BYTES, Unusable
from training.curation.sources import open_source
from training.inputs import INPUTS, hold_inputs
from training.metrics.inputs import read_prompts, read_references
from training.output import SETTINGS, output_folder, read_json, write_json
from training.recipe import TrainSettings

from .harness import case, failed, hostile, outcome
from .strategies import NAMES, damaged, edited, odd_values

TAR = "pictures-00000.tar"


def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def tar_of(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


ABOUT = {"kind": "raw", "caption": "a cat", "source": "x", "width": 8, "height": 8}
SHARD = tar_of(("00000-000000.png", picture()), ("00000-000000.json", json.dumps(ABOUT).encode()))


def manifest_of(data: bytes) -> dict:
    shard = {
        "file": TAR,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "records": 1,
        "kinds": {"raw": 1},
    }
    return {"format": 1, "shards": [shard], "kinds": {"raw": 1}, "rejected": {}, "settings": {}, "sha256": "x"}


def curated(folder) -> list:
    """Every record of a curated folder."""
    found = Curated(folder)
    assert isinstance(found.manifest["sha256"], str)
    return [record for shard in found.manifest["shards"] for record in found.records(shard["file"])]


def check_curated(folder) -> None:
    """Records are of text and bytes of a bounded size, or the folder is refused."""
    found = outcome(curated, folder)
    for record in [] if failed(found) else found:
        assert record.kind in ("raw", "stylised") and isinstance(record.caption, str) and isinstance(record.source, str)
        assert isinstance(record.picture, bytes) and len(record.picture) <= MAX_BYTES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("curated")


@hostile(150, manifest=edited(manifest_of(SHARD), odd_values | st.sampled_from(NAMES)))
def test_an_edited_manifest_is_read_or_refused(folder, manifest):
    (folder / TAR).write_bytes(SHARD)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    check_curated(folder)


@hostile(150, about=edited(ABOUT) | odd_values | st.just("[" * 50_000))
def test_a_record_that_is_edited_is_read_or_refused(folder, about):
    text = about if isinstance(about, str) and about.startswith("[[") else json.dumps(about)
    data = tar_of(("00000-000000.png", picture()), ("00000-000000.json", text.encode()))
    (folder / TAR).write_bytes(data)
    (folder / "manifest.json").write_text(json.dumps(manifest_of(data)))
    check_curated(folder)


@hostile(200, data=damaged(SHARD))
def test_a_damaged_tar_is_read_or_refused_by_whoever_reads_tars(folder, data):
    (folder / TAR).write_bytes(data)
    (folder / "manifest.json").write_text(json.dumps(manifest_of(data)))
    check_curated(folder)
    check_source(folder / TAR)


def check_source(path) -> None:
    """Every record of a source is read or left out for a reason."""
    source = open_source(SourceSettings(kind="raw", path=str(path)))
    for item in source.items():
        found = outcome(item.read, errors=(Unusable,))
        assert failed(found) or (isinstance(found[0], str) and len(found[1]) <= MAX_BYTES)


def sparse() -> bytes:
    """A tar of a kilobyte whose one picture is a terabyte of holes."""
    member = tarfile.TarInfo("00000-000000.png")
    member.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": member.name,
        "GNU.sparse.realsize": str(1 << 40),
    }
    holes = f"1\n{1 << 40}\n0\n".encode().ljust(512, b"\0")
    member.size = len(holes)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(holes))
        about = tarfile.TarInfo("00000-000000.json")
        about.size = len(json.dumps(ABOUT))
        tar.addfile(about, io.BytesIO(json.dumps(ABOUT).encode()))
    return file.getvalue()


def huge(field: bytes) -> bytes:
    """A tar whose first member says a size in base 256."""
    data = bytearray(SHARD)
    data[124:136] = field
    data[148:156] = b" " * 8
    data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
    return bytes(data)


TARS = {
    "a terabyte of holes": sparse,
    "a size past all files": lambda: huge(b"\x80" + b"\xff" * 11),
    "a size below none": lambda: huge(b"\xff" * 12),
    "a size of 2 ** 63": lambda: huge(b"\x80\0\0\0" + (2**63).to_bytes(8, "big")),
    "compressed": lambda: __import__("gzip").compress(SHARD),
    "nothing": lambda: b"",
    "one member": lambda: tar_of(("00000-000000.png", picture())),
    "three members": lambda: tar_of(("00000-000000.png", picture()), ("00000-000000.json", b"{}"), ("x", b"")),
    "a name that leads out": lambda: tar_of(("../00000-000000.png", picture()), ("00000-000000.json", b"{}")),
}


@pytest.mark.parametrize("name", TARS)
def test_a_tar_that_is_none_of_ours_is_refused(folder, name):
    data = TARS[name]()
    (folder / TAR).write_bytes(data)
    (folder / "manifest.json").write_text(json.dumps(manifest_of(data)))
    with case():
        check_curated(folder)
        check_source(folder / TAR)


@pytest.mark.parametrize("name", ["../outside.tar", "absolute", "link.tar", "x" * 300, "a\0b"])
def test_a_manifest_reads_no_file_but_those_beside_it(tmp_path, name):
    inside, outside = tmp_path / "in", tmp_path / "outside.tar"
    inside.mkdir()
    outside.write_bytes(SHARD)
    (inside / "link.tar").symlink_to(outside)
    manifest = manifest_of(SHARD)
    manifest["shards"][0]["file"] = str(outside) if name == "absolute" else name
    (inside / "manifest.json").write_text(json.dumps(manifest))
    with case():
        assert isinstance(outcome(curated, inside), BadInput) or name == "link.tar"


STATE = {
    "format": 1,
    "step": 3,
    "seconds": 1.5,
    "losses": [1.0],
    "held_out": [[1, 2.0]],
    "files": {"weights.safetensors": 2},
}


@hostile(150, state=edited(STATE, odd_values | st.sampled_from(NAMES)))
def test_an_edited_state_of_a_training_is_read_or_refused(folder, state):
    (folder / "weights.safetensors").write_bytes(b"xx")
    (folder / PROGRESS).write_text(json.dumps(state))
    found = outcome(read_progress, folder)
    if not failed(found):
        assert type(found.step) is int and found.step >= 0 and isinstance(found.losses, list)
        assert found == Progress(found.step, found.seconds, found.losses, found.held_out)


REFERENCES = [{"picture": "a.png", "caption": "a cat", "name": "one"}, {"picture": "a.png", "name": "two"}]


@hostile(150, rows=edited(REFERENCES, odd_values | st.sampled_from(NAMES)))
def test_an_edited_list_of_references_is_read_or_refused(folder, rows):
    (folder / "a.png").write_bytes(picture())
    (folder / "list.json").write_text(json.dumps(rows))
    found = outcome(read_references, folder / "list.json")
    for reference in [] if failed(found) else found[0]:
        assert isinstance(reference.name, str) and reference.picture.is_file()


@hostile(80, data=damaged(b"# prompts\na cat\na red star, neon\ta red star\n"))
def test_damaged_prompts_are_read_or_refused(folder, data):
    (folder / "prompts.txt").write_bytes(data)
    found = outcome(read_prompts, folder / "prompts.txt")
    assert failed(found) or all(prompt.text and prompt.content for prompt in found)


@pytest.fixture(scope="module")
def settings():
    return read_settings(TrainSettings, CONFIGS / "train.yaml")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(9)
)


@hostile(
    60,
    text=st.sampled_from([BOMB, "a: &a {b: *a}", "!!bool x", "x", "[" * 5000, "\0", "out: !!python/name:os.system"])
    | st.text(max_size=40),
)
def test_a_folder_with_other_settings_in_it_is_refused(folder, settings, text):
    place = folder / "begun"
    place.mkdir(exist_ok=True)
    (place / SETTINGS).write_text(text, encoding="utf-8", errors="replace")
    (place / "made").touch()
    with case():
        assert failed(outcome(_begin, place, settings))
    assert (place / "made").exists()


def _begin(place, settings) -> None:
    with output_folder(place, settings):
        pass


@hostile(60, before=odd_values | edited({"data": "x", "model": {"a": "y"}}))
def test_a_list_of_inputs_that_is_edited_is_taken_or_refused(folder, before):
    (folder / INPUTS).write_text(json.dumps(before))
    outcome(hold_inputs, folder, {"data": "x"})


@hostile(60, line=odd_values | edited({"file_name": "a.png", "text": "a cat"}, odd_values | st.sampled_from(NAMES)))
def test_a_list_of_pictures_reads_nothing_outside_its_folder(folder, line):
    (folder / "a.png").write_bytes(picture())
    (folder / "metadata.jsonl").write_text(json.dumps(line) + "\n")
    check_source(folder / "metadata.jsonl")


def test_a_record_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with case(), pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1} and len(list(tmp_path.iterdir())) == 1


def test_half_a_pair_of_surrogates_is_written_and_read_again(tmp_path):
    with case():
        write_json(tmp_path / "x.json", {"\ud800": "\udcff é"})
        assert read_json(tmp_path / "x.json") == {"\ud800": "\udcff é"}
