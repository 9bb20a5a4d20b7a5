"""The token folder: what was written is read back by number, a damaged one is refused by name, and it stays on disk."""

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import CODES, TOKENIZER
from torch.utils.data import DataLoader

from stylear.errors import BadInput
from stylear.images import open_image
from stylear.vocabulary import Vocabulary
from training.curation.filters import FilterSettings, examine
from training.output import sha256_of
from training.sequences import PictureTokens
from training.tokens import Example, TokenSet, decode, write_index, write_shard

FEATURES = (5, 24)


def example(number: int, side: int = 8) -> Example:
    """One made from its number; every fourth has a depth condition, every third is stylised."""
    rng = np.random.default_rng(number)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (side, 3 * side // 2, 3), np.uint8)).save(file, "PNG")
    return Example(
        key=f"00000-{number:06d}",
        kind="raw" if number % 3 else "stylised",
        caption=f"caption {number}, naïve ☂",
        codes=rng.integers(0, CODES, (4, 2 * (1 + number % 3))),
        encoded=file.getvalue(),
        features=rng.normal(size=FEATURES).astype(np.float16),
        condition="" if number % 4 else "depth",
        condition_codes=None if number % 4 else rng.integers(0, CODES, (2, 4)),
    )


def write(folder: Path, sizes=(5, 0, 4), side: int = 8) -> Path:
    """A token folder with shards of so many examples, pictures `side` pixels high."""
    folder.mkdir()
    records, number = [], 0
    for shard, size in enumerate(sizes):
        rows = [example(number + i, side) for i in range(size)]
        batches = [rows[:2], *(rows[start : start + 64] for start in range(2, size, 64))]
        records.append(write_shard(folder / f"tokens-{shard:05d}.arrow", batches, bad=[]))
        number += size
    write_index(folder, records, codes=CODES, vqgan="0", features=FEATURES)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "tokens")


def assert_same(found: Example, expected: Example) -> None:
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value)
    assert found.codes.dtype == np.int64 and found.features.dtype == np.float16


def test_every_example_is_read_back_by_its_number_across_shards(folder):
    tokens = TokenSet(folder)
    assert len(tokens) == 9
    for number in (8, 0, 4, 5, 3):
        assert_same(tokens[number], example(number))


def test_the_style_picture_is_decoded_to_its_pixels(folder):
    expected = Image.open(io.BytesIO(example(6).encoded))
    assert TokenSet(folder)[6].picture.tobytes() == expected.tobytes()


def test_a_pillow_that_lacks_a_format_reads_the_others(tmp_path, monkeypatch):
    """As the oldest that is declared lacks AVIF."""
    Image.init()
    for known in ("AVIF", "WEBP"):
        monkeypatch.delitem(Image.OPEN, known, raising=False)
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "GIF")
    (tmp_path / "one.gif").write_bytes(file.getvalue())
    assert decode(file.getvalue(), "picture").size == open_image(tmp_path / "one.gif").size == (40, 30)
    assert examine(file.getvalue(), FilterSettings(min_side=16)).width == 40


def test_kinds_are_counted_from_stylised(folder):
    tokens = TokenSet(folder)
    assert tokens.kinds.dtype == np.uint8 and tokens.kinds.tolist() == [0, 1, 1] * 3


def test_a_folder_without_a_picture_is_empty(tmp_path):
    tokens = TokenSet(write(tmp_path / "none", (0,)))
    assert len(tokens) == len(tokens.kinds) == len(tokens.lengths) == len(tokens.condition_lengths) == 0


def test_lengths_are_those_of_the_answers_that_train(folder):
    tokens, vocabulary = TokenSet(folder), Vocabulary(TOKENIZER)
    answers = [PictureTokens(one.codes[None], vocabulary)[[0]].shape[1] for one in map(tokens.__getitem__, range(9))]
    assert tokens.lengths.dtype == np.int32 and tokens.lengths.tolist() == answers


def test_a_loader_worker_reads_the_same_examples(folder):
    tokens = TokenSet(folder)
    assert len(tokens.kinds) == 9  # opened before it is sent
    assert len(pickle.dumps(tokens)) < 4000
    assert_same(pickle.loads(pickle.dumps(tokens))[7], example(7))
    loader = DataLoader(tokens, batch_size=None, sampler=[7, 2], num_workers=1)
    for found, number in zip(loader, (7, 2), strict=True):
        assert_same(found, example(number))


def test_a_truncated_shard_is_named_when_the_folder_is_opened(folder):
    path = folder / "tokens-00002.arrow"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"tokens-00002\.arrow has \d+ bytes instead of \d+"):
        TokenSet(folder)


def test_a_missing_shard_is_named_when_the_folder_is_opened(folder):
    (folder / "tokens-00000.arrow").unlink()
    with pytest.raises(BadInput, match=r"tokens-00000\.arrow is missing"):
        TokenSet(folder)


def test_a_shard_that_is_no_table_any_more_is_named_when_it_is_read(folder):
    path = folder / "tokens-00002.arrow"
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(BadInput, match=r"tokens-00002\.arrow is"):
        TokenSet(folder)[0]


@pytest.mark.parametrize("place", [0.3, 0.9])
def test_a_shard_with_one_byte_changed_is_named_with_the_command_that_makes_it_again(folder, place):
    path = folder / "tokens-00002.arrow"
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)
    tokens = TokenSet(folder)
    with pytest.raises(BadInput, match=r"tokens-00002\.arrow is not what was written.*delete it and run `python -m tr"):
        tokens[0]


def test_a_shard_is_looked_through_once_and_not_again_by_the_loaders_workers(folder, monkeypatch):
    read = []
    monkeypatch.setattr("training.tokens.sha256_of", lambda path: read.append(path.name) or sha256_of(path))
    tokens = TokenSet(folder)
    assert not read
    tokens[0], tokens.kinds, pickle.loads(pickle.dumps(tokens))[8]
    assert read == [f"tokens-0000{number}.arrow" for number in range(3)]


def test_data_that_is_not_there_is_told_by_its_setting_and_the_command_that_makes_it(tmp_path):
    with pytest.raises(BadInput, match=r"data is .*nowhere .*python -m training tokenize"):
        TokenSet(tmp_path / "nowhere")


@pytest.mark.parametrize("text", [None, "{", "[]", '{"format": 1}', '{"format": 2}'])
def test_a_folder_whose_list_is_missing_or_damaged_is_refused_by_name(folder, text):
    index = folder / "tokens.json"
    index.unlink() if text is None else index.write_text(text)
    with pytest.raises(BadInput, match=r"tokens\.json"):
        TokenSet(folder)


def test_the_hash_of_the_data_is_of_all_shards_in_their_order(tmp_path):
    same, other = TokenSet(write(tmp_path / "a")), TokenSet(write(tmp_path / "b"))
    assert same.sha256 == other.sha256
    assert same.sha256 != TokenSet(write(tmp_path / "c", (4, 0, 5))).sha256


def test_a_shard_that_failed_half_way_leaves_nothing_behind(tmp_path):
    def batches():
        yield [example(0)]
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_shard(tmp_path / "tokens-00000.arrow", batches())
    assert not list(tmp_path.iterdir())


READ = """
import re, sys
import tiny
from stylear.vocabulary import Vocabulary
from training.mix import Mix
from training.steps import Draws, Samples, parts_of_steps
from training.tokens import TokenSet
from training.views import Views

STEPS = range(100)

def peak(folder):
    tokens, vocabulary = TokenSet(folder), Vocabulary(tiny.TOKENIZER)
    order, draws = Mix(tokens.kinds, (1, 2)), Draws(noise=0.1, context_drop=0.1, views=Views(flip=0.5))
    samples, seen = Samples(tokens, order, draws, vocabulary, tiny.CLIP_CONFIG, tiny.HIDDEN), set()
    parts = parts_of_steps(STEPS, 6, 3, 0, 1, samples.arranged)
    for number, rows in enumerate(samples.loader(parts, 0)):
        seen |= {*order.indices(3 * number, 3).tolist()}
    assert len(seen) == len(tokens)
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1))

print(*map(peak, sys.argv[1:]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to measure memory")
def test_training_on_ten_times_the_pictures_takes_next_to_no_more_memory(tmp_path):
    # The peak of all that is resident, pages of mapped files too, as every picture is read and as many times fewer.
    few, many = write(tmp_path / "few", (60,), side=128), write(tmp_path / "many", (300, 300), side=128)
    command = [sys.executable, "-c", READ, few, many]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    before, after = map(int, told.split())
    data = sum(path.stat().st_size for path in many.glob("*.arrow"))
    assert data > 40e6 and after - before < 0.1 * data and after < 1.1 * before
