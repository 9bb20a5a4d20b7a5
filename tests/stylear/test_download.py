"""The download of public parts: on request, with terms, resumable, checked, from any endpoint, or offline."""

import hashlib
from types import SimpleNamespace

import pytest
from tiny_hub import ADAPTER, BASE, FILES, LARGE, SHARD, Hub, serving

from stylear.__main__ import main
from stylear.download import PARTS, SUMS, chosen, download, terms, verify
from stylear.errors import BadCheckpoint, BadInput, MissingPart
from stylear.files import held


@pytest.fixture
def hub(monkeypatch):
    """A server here; `asked` is what it was asked for, `cut` breaks the next answer off, `told` are its lies."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    with serving() as server:
        yield server


@pytest.fixture
def fetch(hub, tmp_path):
    def run(parts=None, accept=True, **options):
        return download(tmp_path / "7b", parts or {"base": BASE}, accept, hub.url, **options)

    return run


def test_the_parts_and_their_shards_land_in_a_folder_each_and_an_absent_optional_file_is_left_out(fetch, tmp_path):
    found = fetch({"base": BASE} | ADAPTER)
    assert {path.relative_to(tmp_path / "7b").as_posix(): path.read_bytes() for path in found} == {
        **{f"base/{name.rpartition('/')[2]}": content for name, content in FILES.items() if "base" in name},
        "adapter/model.safetensors": b"adapter",
    }
    sums = dict(reversed(line.split("  ")) for line in (tmp_path / "7b" / SUMS).read_text().splitlines())
    assert sums[SHARD] == hashlib.sha256(LARGE).hexdigest() and len(sums) == len(found)
    assert not list(tmp_path.rglob("*.part"))


def test_nothing_is_fetched_before_the_terms_are_accepted_and_they_are_named(fetch, hub):
    with pytest.raises(BadInput, match="--accept .*base .*Chameleon Research License"):
        fetch(accept=False)
    assert hub.asked == []
    fetch(ADAPTER, accept=False)


def test_every_part_says_where_it_comes_from_and_under_which_terms():
    for line, (name, part) in zip(terms(PARTS), PARTS.items(), strict=True):
        assert name in line and part.files[0][0] in line and part.terms in line
    assert [name for name, part in PARTS.items() if part.accept] == ["base", "vqgan"]
    assert "Omni" in terms(chosen(["base"], depth=True))[0]


def test_a_download_that_broke_off_is_gone_on_with(fetch, hub):
    hub.cut = 1000
    seen = []
    fetch(progress=lambda *progress: seen.append(progress))
    ranges = [asked[2] for asked in hub.asked if asked[0] == "GET" and "00001" in asked[1]]
    assert None in ranges and len(seen) > 2 and seen[-1][1:] == (len(LARGE), len(LARGE))


def test_what_an_earlier_command_left_is_not_fetched_twice(fetch, hub, tmp_path):
    half = tmp_path / "7b" / "base" / f".{SHARD[5:]}.{hashlib.sha256(LARGE).hexdigest()[:12]}.part"
    half.parent.mkdir(parents=True)
    half.write_bytes(LARGE[:5000])
    fetch()
    assert [asked[2] for asked in hub.asked if asked[0] == "GET" and "00001" in asked[1]] == ["bytes=5000-"]
    assert (tmp_path / "7b" / SHARD).read_bytes() == LARGE


def test_a_server_that_knows_no_ranges_is_asked_for_the_whole_file(fetch, hub, tmp_path):
    hub.ranges = False
    test_what_an_earlier_command_left_is_not_fetched_twice(fetch, hub, tmp_path)


def test_whole_files_are_kept_and_only_asked_about(fetch, hub):
    first = fetch()
    hub.asked.clear()
    assert fetch() == first
    assert {asked[0] for asked in hub.asked} == {"HEAD"}


def test_a_file_that_arrives_damaged_is_deleted_and_said(fetch, hub, tmp_path):
    hub.spoil = lambda content: content[:-1] + b"?"
    with pytest.raises(BadCheckpoint, match="config.json of me/base arrived damaged"):
        fetch()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]


def test_another_file_of_that_name_is_never_replaced(fetch, tmp_path):
    mine = tmp_path / "7b" / "base" / "config.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(BadInput, match="Move it away"):
        fetch()
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(("status", "reason"), [(401, "accept its licence"), (403, "HF_TOKEN"), (500, "answers 500")])
def test_a_refusal_says_what_to_do(fetch, hub, status, reason):
    hub.status = status
    with pytest.raises(MissingPart, match=reason):
        fetch()


def test_an_endpoint_that_is_not_there_or_no_address_is_said(tmp_path, hub):
    hub.server_close()
    with pytest.raises(MissingPart, match="was not reached.*--endpoint"):
        download(tmp_path, ADAPTER, endpoint=hub.url)
    with pytest.raises(BadInput, match="http"):
        download(tmp_path, ADAPTER, endpoint="ftp://mirror")


def test_the_token_goes_to_the_endpoint_and_nowhere_else(fetch, hub):
    other = hub.url.replace("127.0.0.1", "localhost")
    answer = Hub.send_header
    Hub.send_header = lambda self, name, value: answer(self, name, value.replace("/cdn", f"{other}/cdn", 1))
    try:
        fetch()
    finally:
        Hub.send_header = answer
    tokens = {path.startswith("/cdn"): token for _, path, _, token in hub.asked}
    assert tokens == {False: "Bearer secret", True: None}


def test_no_redirect_takes_the_token_to_another_server(fetch, hub, monkeypatch):
    other = hub.url.replace("127.0.0.1", "localhost")
    answer, took = Hub.answer, []

    def lead_away(self, whole):
        if self.headers["Host"].startswith("localhost"):
            took.append((self.command, self.headers.get("Authorization")))
        elif self.command in hub.leads:
            self.send_response(302)
            self.send_header("Location", hub.leads[self.command] + self.path)
            self.end_headers()
            return
        answer(self, whole)

    monkeypatch.setattr(Hub, "answer", lead_away)
    for command in ("HEAD", "GET"):
        hub.leads = {command: other}
        (found,) = fetch(ADAPTER)
        found.unlink()
    assert took == [("HEAD", None), ("GET", None), ("GET", None)]
    hub.leads = {"GET": "ftp://127.0.0.1:1"}
    with pytest.raises(BadInput, match="no address on the web"):
        fetch(ADAPTER)


def test_sums_that_are_no_text_are_told(fetch, tmp_path):
    fetch(ADAPTER)
    (tmp_path / "7b" / SUMS).write_bytes(b"\xff\xfe  x\n")
    with pytest.raises(BadCheckpoint, match="is not in SHA256SUMS"):
        verify(tmp_path / "7b", ADAPTER)


def test_a_folder_that_another_download_fills_is_refused_and_left_alone(fetch, hub, tmp_path):
    with held(tmp_path / "7b"), pytest.raises(BadInput, match="is being written by another run"):
        fetch()
    assert [path.name for path in (tmp_path / "7b").iterdir()] == [".lock"]


def test_what_a_killed_download_left_of_versions_that_are_gone_is_deleted(fetch, tmp_path):
    fetch(ADAPTER)
    (tmp_path / "7b" / "adapter" / "model.safetensors").unlink()
    left = [".SHA256SUMS.~0a1b2c3d", "adapter/.model.safetensors.000000000000.part"]
    for name in left:
        (tmp_path / "7b" / name).touch()
    fetch(ADAPTER)
    assert not [name for name in left if (tmp_path / "7b" / name).exists()]


def test_offline_nothing_is_asked_and_what_is_there_is_checked(fetch, hub, tmp_path, monkeypatch):
    found = fetch()
    hub.asked.clear()
    assert verify(tmp_path / "7b", {"base": BASE}) == found and hub.asked == []
    (tmp_path / "7b" / SHARD).write_bytes(b"changed")
    with pytest.raises(BadCheckpoint, match="00001-of-00002.safetensors has changed"):
        verify(tmp_path / "7b", {"base": BASE})
    with pytest.raises(MissingPart, match="by hand:\n.*sub/model.safetensors of me/adapter"):
        verify(tmp_path / "7b", ADAPTER)


def test_the_hubs_own_offline_setting_is_obeyed(fetch, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match="HF_HUB_OFFLINE"):
        fetch(ADAPTER)


def test_the_command_fetches_prints_the_terms_and_the_files(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("stylear.download.PARTS", {"base": BASE} | ADAPTER)
    folder = str(tmp_path / "7b")
    assert main(["download", folder, "--endpoint", hub.url]) == 2
    assert "Chameleon Research License" in capsys.readouterr().err and hub.asked == []
    assert main(["download", folder, "--endpoint", hub.url, "--accept", "--parts", "adapter"]) == 0
    said = capsys.readouterr()
    assert "adapter: me/adapter; MIT" in said.err and said.out.strip().endswith("model.safetensors")
    assert main(["download", folder, "--offline", "--parts", "adapter"]) == 0
    assert main(["download", folder, "--offline"]) == 2 and "me/base" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["a file", "ftp://127.0.0.1/x", "data:,x", "http://[", "http://127.0.0.1/\u00e4"])
def test_an_endpoint_that_leads_off_the_web_is_refused(fetch, hub, tmp_path, place):
    (tmp_path / "secret").write_bytes(LARGE)
    hub.told = {"Location": (tmp_path / "secret").as_uri() if place == "a file" else place}
    with pytest.raises(BadInput, match="no address on the web"):
        fetch()
    assert not (tmp_path / "7b" / SHARD).exists()


@pytest.mark.parametrize(
    "told",
    [{"X-Linked-Size": "-1"}, {"X-Linked-Size": "x"}, {"X-Linked-Size": ""}, {"X-Linked-Etag": '"../.."'}],
    ids=str,
)
def test_an_endpoint_that_announces_nonsense_is_refused(fetch, hub, told):
    hub.told = told
    with pytest.raises(BadInput, match="announces no checksum or size"):
        fetch()


def test_a_checksum_is_no_path(fetch, hub, tmp_path):
    hub.told = {"X-Linked-Etag": '"../../x"'}
    fetch()
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")} == {"7b"}


def test_a_disk_without_room_is_told_before_anything_is_fetched(fetch, monkeypatch):
    monkeypatch.setattr("stylear.download.shutil.disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(BadInput, match="0 MiB free and .* takes .* MiB: make room and try again"):
        fetch()


def test_no_more_is_written_than_was_announced(fetch, hub, monkeypatch):
    monkeypatch.setattr("stylear.download._CHUNK", 1000)
    hub.spoil = lambda content: content * 100 if content == LARGE else content
    written = []
    with pytest.raises(BadCheckpoint, match="arrived damaged"):
        fetch(progress=lambda name, done, total: written.append(done - total))
    assert max(written) <= 1000


def test_a_link_in_the_place_of_a_draft_is_not_written_through(fetch, tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"")
    folder = tmp_path / "7b" / "base"
    folder.mkdir(parents=True)
    link = folder / f".model-00001-of-00002.safetensors.{hashlib.sha256(LARGE).hexdigest()[:12]}.part"
    link.symlink_to(outside)
    fetch()
    assert outside.read_bytes() == b"" and (tmp_path / "7b" / SHARD).read_bytes() == LARGE


def test_what_comes_to_be_there_during_a_download_is_left_alone(fetch, tmp_path):
    other = tmp_path / "7b" / SHARD

    def progress(name, done, total):
        if name == other.name:
            other.write_bytes(b"mine")

    with pytest.raises(BadInput, match="there already"):
        fetch(progress=progress)
    assert other.read_bytes() == b"mine"
