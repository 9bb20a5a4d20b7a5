"""Checks that a curated folder is read as it was written, and that a damaged one is refused by the file's name."""

import json

import pytest
from test_curate import curate, write_pictures

from stylear.errors import BadInput
from training.curated import Curated


@pytest.fixture
def folder(tmp_path):
    """Seven pictures in two shards."""
    curate(tmp_path / "out", write_pictures(tmp_path / "in", 7))
    return tmp_path / "out"


def read(folder) -> list:
    """Every record."""
    curated = Curated(folder)
    return [record for shard in curated.manifest["shards"] for record in curated.records(shard["file"])]


def test_keys_are_digits_and_a_dash_and_unique(folder):
    keys = [record.key for record in read(folder)]
    assert keys == [f"00000-{i:06d}" for i in range(5)] + ["00001-000000", "00001-000001"]


def test_the_folder_may_be_given_as_text(folder):
    assert len(read(str(folder))) == 7


def test_records_are_read_one_at_a_time(folder):
    records = Curated(folder).records("pictures-00000.tar")
    assert next(records).caption == "thing 0"
    records.close()


def test_a_folder_without_manifest_is_not_finished(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(BadInput, match="no manifest .*run the command"):
        read(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', "\x00"])
def test_a_damaged_manifest_is_refused(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(BadInput, match="manifest.json"):
        read(folder)


def test_a_truncated_shard_is_refused_by_name_before_its_first_record(folder):
    path = folder / "pictures-00001.tar"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(BadInput, match="pictures-00001.tar is damaged"):
        next(Curated(folder).records(path.name))


def test_a_changed_byte_is_noticed(folder):
    path = folder / "pictures-00000.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match="pictures-00000.tar"):
        read(folder)


def test_a_missing_shard_is_refused_by_name(folder):
    (folder / "pictures-00000.tar").unlink()
    with pytest.raises(BadInput, match="pictures-00000.tar is missing"):
        read(folder)


def test_a_shard_that_is_not_in_the_manifest_is_not_opened(folder):
    with pytest.raises(BadInput, match="no shard of"):
        next(Curated(folder).records("../secret.tar"))


def test_webdataset_reads_the_shards(folder):
    import webdataset

    samples = list(webdataset.WebDataset(str(folder / "pictures-00000.tar"), shardshuffle=False))
    assert [json.loads(sample["json"])["caption"] for sample in samples] == [f"thing {i}" for i in range(5)]
    assert all(sample["png"].startswith(b"\x89PNG") for sample in samples)
