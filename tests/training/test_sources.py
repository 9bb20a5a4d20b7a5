"""Checks that every kind of source gives its records in order, and says of each bad one what is wrong with it."""

import csv
import io
import json
import os
import tarfile

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stylear.errors import BadInput
from training.curation.files import SourceSettings
from training.curation.items import MAX_BYTES, MAX_CAPTION, Unusable
from training.curation.sources import open_source


def png(colour=(200, 30, 30)) -> bytes:
    """A PNG file of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, format="PNG")
    return file.getvalue()


def source(path, **settings):
    """The raw source at a path."""
    return open_source(SourceSettings(kind="raw", path=str(path), **settings))


def read(path, **settings) -> list:
    """Every record: (caption, bytes), or the reason it was left out for."""
    found = []
    for item in source(path, **settings).items():
        try:
            found.append(item.read())
        except Unusable as fault:
            found.append(fault.reason)
    return found


def faults(path, **settings) -> list[tuple[str, str]]:
    """Where and why, of the records that cannot be used."""
    found = []
    for item in source(path, **settings).items():
        try:
            item.read()
        except Unusable as fault:
            found.append((item.where, fault.detail))
    return found


def write_tar(path, members: dict[str, bytes]):
    """A tar of files."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_pictures(folder, **captions):
    """NAME.png and NAME.txt for each."""
    folder.mkdir(exist_ok=True)
    for name, caption in captions.items():
        (folder / f"{name}.png").write_bytes(png())
        (folder / f"{name}.txt").write_text(caption)
    return folder


def test_pictures_come_sorted_with_the_caption_beside_them(tmp_path):
    write_pictures(tmp_path, b="a bear", a="an ant\n")
    write_pictures(tmp_path / "inner", c="a cat")
    assert read(tmp_path) == [("an ant", png()), ("a bear", png()), ("a cat", png())]


def test_a_picture_without_a_side_car_has_no_caption(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    assert read(tmp_path) == ["no_caption"]


@pytest.mark.parametrize("caption", [b"", b" \n\t ", b"\x00\x01", b"\xff\xfe\xfd"])
def test_an_empty_or_undecodable_caption_is_no_caption(tmp_path, caption):
    write_pictures(tmp_path, a="")
    (tmp_path / "a.txt").write_bytes(caption)
    assert read(tmp_path) == ["no_caption"]


def test_a_caption_becomes_one_line_without_control_characters(tmp_path):
    write_pictures(tmp_path, a="\ufeffa\x07 red\n\tstar ☆ ")
    assert read(tmp_path)[0][0] == "a red star ☆"


def test_a_caption_of_pages_is_left_out(tmp_path):
    write_pictures(tmp_path, a="x" * (MAX_CAPTION + 1))
    assert read(tmp_path) == ["long_caption"]


def test_an_enormous_file_is_not_read(tmp_path):
    write_pictures(tmp_path, a="a star")
    os.truncate(tmp_path / "a.png", MAX_BYTES + 1)
    assert read(tmp_path) == ["too_large"]


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "secret.png").write_bytes(png())
    folder = write_pictures(tmp_path / "in", b="a bear")
    (folder / "a.png").symlink_to(tmp_path / "secret.png")
    (folder / "a.txt").write_text("a secret")
    assert read(folder) == ["outside", ("a bear", png())]


def test_a_side_car_linked_from_outside_is_not_read(tmp_path):
    (tmp_path / "secret.txt").write_text("password")
    folder = write_pictures(tmp_path / "in", a="")
    (folder / "a.txt").unlink()
    (folder / "a.txt").symlink_to(tmp_path / "secret.txt")
    assert read(folder) == ["no_caption"]


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_list_names_pictures_and_captions(tmp_path, ending):
    write_pictures(tmp_path, a="", b="")
    rows = [{"file_name": "b.png", "text": "a bear, brown"}, {"file_name": "a.png", "text": "an ant"}]
    with (tmp_path / f"metadata.{ending}").open("w", newline="") as file:
        if ending == "csv":
            writer = csv.DictWriter(file, ["file_name", "text"])
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    assert read(tmp_path) == [("a bear, brown", png()), ("an ant", png())]


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "in/../../secret.png", "link/secret.png"])
def test_a_path_that_leads_out_of_the_list_s_folder_is_refused(tmp_path, name):
    (tmp_path / "secret.png").write_bytes(png())
    folder = write_pictures(tmp_path / "list", a="")
    (folder / "link").symlink_to(tmp_path)
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "a secret"}))
    assert read(folder) == ["outside"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"file_name": "a.png", "te', "broken"),
        ("[1, 2]", "broken"),
        ("[" * 100_000, "broken"),
        ('{"text": "a star"}', "broken"),
        ('{"file_name": 7, "text": "a star"}', "broken"),
        ('{"file_name": "a\\u0000.png", "text": "a star"}', "broken"),
        ('{"file_name": "no.png", "text": "a star"}', "missing"),
        ('{"file_name": "a.png", "text": ["a star"]}', "no_caption"),
        ('{"file_name": "a.png", "text": "\\ud800"}', "no_caption"),
        ('{"file_name": "a.png"}', "no_caption"),
        ('{"x": "' + "x" * (1 << 21) + '"}', "broken"),
    ],
)
def test_a_bad_line_of_a_list_is_left_out_alone(tmp_path, line, reason):
    write_pictures(tmp_path, a="")
    good = json.dumps({"file_name": "a.png", "text": "a star"})
    (tmp_path / "metadata.jsonl").write_text(f"{good}\n{line}\n{good}\n")
    assert read(tmp_path) == [("a star", png()), reason, ("a star", png())]


def test_a_bad_line_is_told_by_its_number(tmp_path):
    (tmp_path / "metadata.jsonl").write_text("\n\nnonsense\n")
    assert faults(tmp_path)[0][0].endswith("metadata.jsonl, line 3")


def test_a_csv_without_the_column_is_refused_naming_those_it_has(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name,title\na.png,a star\n")
    with pytest.raises(BadInput, match="no column text, caption.*it has file_name, title.*`caption`"):
        read(tmp_path)


def test_the_caption_s_column_can_be_named(tmp_path):
    write_pictures(tmp_path, a="")
    (tmp_path / "metadata.csv").write_text("file_name,title\na.png,a star\n")
    assert read(tmp_path, caption="title") == [("a star", png())]


@pytest.mark.parametrize("cell", [png(), {"bytes": png(), "path": None}, {"bytes": None, "path": "a.png"}, "a.png"])
def test_a_parquet_file_has_the_picture_as_bytes_or_as_a_path(tmp_path, cell):
    (tmp_path / "a.png").write_bytes(png())
    pq.write_table(pa.table({"image": [cell], "text": ["a star"]}), tmp_path / "x.parquet")
    assert read(tmp_path / "*.parquet") == [("a star", png())]


def test_rows_of_a_parquet_file_come_in_order_over_row_groups_and_batches(tmp_path):
    captions = [f"star {i}" for i in range(50)]
    table = pa.table({"image": [png()] * 50, "caption": captions})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=35)
    assert [caption for caption, _ in read(tmp_path)] == captions


def test_rows_can_be_passed_over(tmp_path):
    table = pa.table({"image": [png()] * 40, "caption": [f"star {i}" for i in range(40)]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=20)
    read = []
    for number, item in enumerate(source(tmp_path).items()):
        if number in (3, 37):
            read.append((item.where.split("/")[-1], item.read()[0]))
    assert read == [("x.parquet, row 3", "star 3"), ("x.parquet, row 37", "star 37")]


def test_a_parquet_file_that_cannot_be_read_is_one_broken_record(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    pq.write_table(pa.table({"image": [png()], "text": ["a star"]}), tmp_path / "b.parquet")
    assert read(tmp_path) == ["broken", ("a star", png())]


def test_a_small_parquet_file_does_not_become_gigabytes(tmp_path):
    table = pa.table({"image": [bytes(70 << 20)] * 4, "text": ["a star"] * 4})
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd")
    del table
    assert (tmp_path / "x.parquet").stat().st_size < 100_000
    before = pa.default_memory_pool().max_memory()
    for item in source(tmp_path / "x.parquet").items():
        with pytest.raises(Unusable, match=r"image unpacks from \d+ to \d{8,} bytes"):
            item.read()
    assert pa.default_memory_pool().max_memory() == before


def test_a_parquet_file_without_the_column_is_refused_naming_those_it_has(tmp_path):
    pq.write_table(pa.table({"image": [png()], "alt": ["a star"]}), tmp_path / "x.parquet")
    with pytest.raises(BadInput, match="x.parquet has no column .*it has image, alt"):
        read(tmp_path)


def test_damaged_pages_of_a_parquet_file_spoil_only_their_rows(tmp_path):
    path = tmp_path / "x.parquet"
    table = pa.table({"image": [png((i, 0, 0)) for i in range(4)], "text": [f"star {i}" for i in range(4)]})
    pq.write_table(table, path, row_group_size=2, compression="zstd", use_dictionary=False)
    start = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    found = read(path)
    assert found[:2] == ["broken", "broken"]
    assert [caption for caption, _ in found[2:]] == ["star 2", "star 3"]


def test_a_tar_joins_files_of_one_name(tmp_path):
    members = {"a/1.png": png(), "a/1.txt": b"an ant", "a/2.json": b'{"caption": "a bear"}', "a/2.jpg": png()}
    write_tar(tmp_path / "x.tar", members)
    assert read(tmp_path) == [("an ant", png()), ("a bear", png())]


def test_a_tar_s_pickles_are_never_opened(tmp_path):
    evil = b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    write_tar(tmp_path / "x.tar", {"1.png": png(), "1.pyd": evil, "1.pickle": evil, "1.pth": evil, "1.txt": b"a star"})
    assert read(tmp_path) == [("a star", png())]
    assert not (tmp_path / "ran").exists()


def test_a_truncated_tar_gives_what_is_whole_and_one_broken_record(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"1.png": png(), "1.txt": b"one", "2.png": png() * 9, "2.txt": b"two"})
    path.write_bytes(path.read_bytes()[:2600])  # within 2.png
    write_tar(tmp_path / "b.tar", {"3.png": png(), "3.txt": b"three"})
    assert read(tmp_path) == [("one", png()), "broken", ("three", png())]


@pytest.mark.parametrize("cut", [512, 1024, 1536, 2048])
def test_a_tar_cut_between_two_members_is_noticed(tmp_path, cut):
    path = write_tar(tmp_path / "a.tar", {"1.png": png(), "1.txt": b"one", "2.png": png(), "2.txt": b"two"})
    path.write_bytes(path.read_bytes()[:cut])
    assert read(tmp_path)[-1] == "broken"


@pytest.mark.parametrize("data", [b"", b"no tar at all" * 100, png()])
def test_what_is_no_tar_is_one_broken_record(tmp_path, data):
    (tmp_path / "x.tar").write_bytes(data)
    assert read(tmp_path) == ["broken"]


@pytest.mark.parametrize("ending", ["tar", "parquet"])
def test_a_file_that_goes_away_while_it_is_read_is_told_and_not_taken_for_a_broken_one(tmp_path, ending):
    for name in ("a", "b"):
        write_tar(tmp_path / f"{name}.{ending}", {"1.png": png(), "1.txt": b"one"})
    items = source(tmp_path).items()
    next(items)
    (tmp_path / f"b.{ending}").unlink()
    with pytest.raises(BadInput, match=rf"b\.{ending} is no longer there: put it back"):
        list(items)


def test_a_folder_that_goes_away_while_it_is_read_is_told_and_its_pictures_not_taken_for_missing(tmp_path):
    item = next(source(write_pictures(tmp_path / "in", a="one")).items())
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="in is no longer there: put it back"):
        item.read()


def test_links_in_a_tar_are_passed_over(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        link = tarfile.TarInfo("1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
        text = tarfile.TarInfo("1.txt")
        text.size = 6
        tar.addfile(text, io.BytesIO(b"a star"))
    assert read(tmp_path) == ["broken"]


def test_a_member_that_claims_to_be_enormous_is_not_read(tmp_path):
    write_tar(tmp_path / "x.tar", {"1.png": png(), "1.txt": b"a star"})
    data = bytearray((tmp_path / "x.tar").read_bytes())
    member = tarfile.TarInfo("1.png")
    member.size = 1 << 40
    data[:512] = member.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "x.tar").write_bytes(data)
    assert "broken" in read(tmp_path)


def test_a_saved_data_set_is_read_without_decoding(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = {"image": [{"bytes": png(), "path": None}] * 2, "text": ["one", "two"]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    assert read(tmp_path / "set") == [("one", png()), ("two", png())]


def test_a_data_set_s_path_out_of_its_folder_is_refused(tmp_path):
    rows = {"image": [{"bytes": None, "path": "/etc/hostname"}], "text": ["a secret"]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "set")
    assert read(tmp_path / "set") == ["outside"]


def test_a_data_set_of_the_hub_is_streamed_without_decoding_or_code_of_its_own(monkeypatch):
    features = datasets.Features({"jpg": datasets.Image(), "caption": datasets.Value("string")})
    rows = {"jpg": [{"bytes": png(), "path": None}] * 3, "caption": ["one", "two", "three"]}
    streamed = datasets.Dataset.from_dict(rows, features=features).to_iterable_dataset()
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *words, **options: asked.append((words, options)) or streamed)
    found = read("some/name", format="datasets", split="validation", subset="small")
    assert found == [("one", png()), ("two", png()), ("three", png())]
    assert asked == [(("some/name", "small"), {"split": "validation", "streaming": True})]


def test_a_name_is_not_looked_up_unless_it_is_said_to_be_a_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", None)
    with pytest.raises(BadInput, match="some/name is no source"):
        source("some/name")


def test_a_source_can_be_cut_short(tmp_path):
    write_pictures(tmp_path, a="one", b="two", c="three")
    assert [caption for caption, _ in read(tmp_path, limit=2)] == ["one", "two"]
    assert source(tmp_path, limit=2).count() == 2


@pytest.mark.parametrize("name", ["nowhere", "nowhere/*.tar", "nowhere.parquet", "x.docx"])
def test_a_source_that_is_not_there_is_refused_by_its_path(tmp_path, name):
    with pytest.raises(BadInput, match="nowhere|x.docx"):
        source(tmp_path / name)


def test_every_source_knows_its_number_for_the_progress_bar(tmp_path):
    write_pictures(tmp_path / "p", a="one", b="two")
    write_tar(tmp_path / "x.tar", {"1.png": png(), "1.txt": b"one", "2.png": png()})
    pq.write_table(pa.table({"image": [png()] * 3, "text": ["a star"] * 3}), tmp_path / "x.parquet")
    assert [source(tmp_path / name).count() for name in ("p", "x.tar", "x.parquet")] == [2, 2, 3]
