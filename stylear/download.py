"""Fetches the public parts of the released 7B model when a person asks for it; nothing else here uses the network."""

import hashlib
import os
import shutil
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from http.client import HTTPException
from pathlib import Path
from reprlib import repr as short
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin, urlsplit

from .checkpoint.files import weight_map
from .errors import BadCheckpoint, BadInput, MissingPart
from .files import check_new, held, in_words, new_file, sync

SUMS = "SHA256SUMS"
CHAMELEON = "Chameleon Research License (of Meta's Chameleon, which the weights come from): research, not commercial"
_CHUNK = 1 << 20
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class Part:
    """Where a part is published: files of repositories, and the terms it comes under.

    `files`: (repository, path in it). An index of shards stands for its shards too. `optional`: paths that may be
    absent. `accept`: whether a person has to accept the terms by name.
    """

    files: tuple[tuple[str, str], ...]
    terms: str
    accept: bool = False
    optional: tuple[str, ...] = ()


def _base(repository: str) -> Part:
    names = ("config.json", "tokenizer.json", "model.safetensors.index.json")
    return Part(tuple((repository, name) for name in names), CHAMELEON, True, ("tokenizer.json",))


def _adapter(folder: str) -> Part:
    files = tuple(("Ani2017/StyleAR", folder + name) for name in ("model.safetensors", "image_proj.pth"))
    return Part(files, "MIT (StyleAR's code; the page of the weights may say more)")


PARTS = {
    "base": _base("Alpha-VLLM/Lumina-mGPT-7B-768"),
    "adapter": _adapter(""),
    "vqgan": Part(
        (
            ("leloy/Anole-7b-v0.1-vqvae-hf", "model.safetensors"),
            ("GAIR/Anole-7b-v0.1", "tokenizer/text_tokenizer.json"),
        ),
        CHAMELEON,
        True,
    ),
    "image_encoder": Part(
        tuple(
            ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", name)
            for name in ("config.json", "preprocessor_config.json", "model.safetensors")
        ),
        "MIT",
    ),
    "segmenter": Part((("ybelkada/segment-anything", "checkpoints/sam_vit_b_01ec64.pth"),), "Apache-2.0"),
}
DEPTH = {"base": _base("Alpha-VLLM/Lumina-mGPT-7B-768-Omni"), "adapter": _adapter("Depth_condition/")}


def chosen(names: Iterable[str] = (), depth: bool = False) -> dict[str, Part]:
    """The parts of these names, or all; `depth`: those of the model that follows depth maps."""
    parts = PARTS | (DEPTH if depth else {})
    return {name: parts[name] for name in names or parts}


def terms(parts: dict[str, Part]) -> list[str]:
    """A line for each part: where it comes from and under which terms."""
    return [
        f"{name}: {', '.join(dict.fromkeys(repository for repository, _ in part.files))}; {part.terms}"
        + ("; to be accepted" if part.accept else "")
        for name, part in parts.items()
    ]


def download(
    folder: str | Path,
    parts: dict[str, Part],
    accept: bool = False,
    endpoint: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Path]:
    """Fetch `parts` into FOLDER/PART; the files, those that were there already and whole among them.

    `accept`: the person accepts the terms of the parts that need it. `endpoint`: where the repositories are; by
    default what HF_ENDPOINT says, else huggingface_hub's own. HF_TOKEN is handed on. A file is written as
    .NAME.VERSION.part, gone on with when the command is run again, compared with the checksum that the endpoint
    announces, and noted in FOLDER/SHA256SUMS. `progress(file, done, total)` in bytes. Raises BadInput,
    MissingPart or BadCheckpoint; BadInput too where another download fills FOLDER.
    """
    refused = [f"{name} ({part.terms})" for name, part in parts.items() if part.accept and not accept]
    if refused:
        raise BadInput(f"Read these terms and say --accept if you agree: {'; '.join(refused)}.")
    hub, folder, found = _Hub(endpoint), Path(folder), []
    with held(folder), in_words(folder):
        _remove(folder.glob(f".{SUMS}.*"))  # what a killed run was writing
        for name, part in parts.items():
            files = list(part.files)
            for repository, path in files:  # grows where an index names shards
                target = folder / name / path.rpartition("/")[2]
                checksum = hub.fetch(repository, path, target, path in part.optional, progress)
                if checksum is None:
                    continue
                found.append(target)
                _note(folder, target, checksum)
                if path.endswith(".index.json"):
                    files += [(repository, shard) for shard in _shards(target)]
    return found


def verify(folder: str | Path, parts: dict[str, Part]) -> list[Path]:
    """The files of `parts` in FOLDER, checked against FOLDER/SHA256SUMS without any network.

    MissingPart names what is absent and where it is published, BadCheckpoint a file that has changed.
    """
    folder, found, absent = Path(folder), [], []
    sums = _sums(folder)
    for name, part in parts.items():
        files = list(part.files)
        for repository, path in files:
            target = folder / name / path.rpartition("/")[2]
            if target.is_file():
                found.append(target)
                if path.endswith(".index.json"):
                    files += [(repository, shard) for shard in _shards(target)]
            elif path not in part.optional:
                absent.append(f"{target}: {path} of {repository}")
    if absent:
        raise MissingPart("Not everything is there; put these files there by hand:\n" + "\n".join(absent))
    for target in found:
        key = target.relative_to(folder).as_posix()
        if sums.get(key, "") != _sha256(target):
            reason = "has changed since it was fetched" if key in sums else f"is not in {SUMS}"
            raise BadCheckpoint(f"{target} {reason}. Delete it and run the command again with a network.")
    return found


@dataclass(frozen=True)
class _Remote:
    """A file as its server announces it: where its bytes are, how many, and their checksum."""

    url: str
    size: int
    checksum: str


class _Stay(urllib.request.HTTPRedirectHandler):
    """Reports a redirect instead of following it: its headers have the checksum."""

    def http_error_302(self, *_):
        return None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Follow(urllib.request.HTTPRedirectHandler):
    """Follows redirects on the web alone, and hands no token on to another server."""

    def redirect_request(self, request, fp, code, message, headers, url):
        following = super().redirect_request(request, fp, code, message, headers, _web(request.full_url, url))
        if following is not None and _server(following.full_url) != _server(request.full_url):
            following.remove_header("Authorization")
        return following


class _Hub:
    """The place the repositories are at, in the protocol of Hugging Face's hub, which mirrors speak too."""

    def __init__(self, endpoint: str | None) -> None:
        from huggingface_hub import constants, get_token, hf_hub_url

        if constants.HF_HUB_OFFLINE:
            raise BadInput("HF_HUB_OFFLINE forbids downloads. Unset it, or check what is there with --offline.")
        if endpoint is not None and urlsplit(endpoint).scheme not in ("http", "https"):
            raise BadInput(f"The endpoint is {endpoint!r}. Give an address that begins with http:// or https://.")
        self._url = lambda repository, path: hf_hub_url(repository, path, endpoint=endpoint)
        self._token = get_token()
        self._look, self._read = urllib.request.build_opener(_Stay), urllib.request.build_opener(_Follow)

    def fetch(self, repository: str, path: str, target: Path, optional: bool, progress: Callable | None) -> str | None:
        """Bring a file to `target`; its SHA-256, or None if it is optional and not published."""
        url = self._url(repository, path)
        with _told(repository, path):
            try:
                remote = self._announced(url)
            except HTTPError as error:
                if optional and error.code == 404:
                    return None
                raise
            if target.is_file():
                found = _agreed(target, remote)
                if not found:
                    raise BadInput(f"{target} is not the published {path} of {repository}. Move it away first.")
                return found
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = target.with_name(f".{target.name}.{_letters(remote.checksum)[:12]}.part")
            if draft.is_symlink():
                draft.unlink()  # what it leads to is not ours to write
            draft.touch()
            while (done := draft.stat().st_size) < remote.size:
                self._stream(remote, draft, url, lambda *seen: progress and progress(target.name, *seen))
                if draft.stat().st_size <= done:
                    raise ConnectionError(f"it broke off after {done} of {remote.size} bytes")
        found = _agreed(draft, remote)
        if not found:
            draft.unlink()
            raise BadCheckpoint(f"{path} of {repository} arrived damaged and was deleted. Run the command again.")
        sync(draft)
        check_new(target)  # it may have come to be there meanwhile
        os.replace(draft, target)
        _remove(target.parent.glob(f".{escape(target.name)}.*.part"))  # of versions that are published no more
        return found

    def _announced(self, url: str) -> _Remote:
        """Follow redirects to the server that names the file's size and checksum."""
        first = url
        for _ in range(5):
            url = _web(url)
            request = urllib.request.Request(url, method="HEAD", headers=self._headers(url, first))  # noqa: S310 - _web
            try:
                answer = self._look.open(request, timeout=30)
            except HTTPError as error:
                if error.code not in _REDIRECTS:
                    raise
                answer = error
            headers = answer.headers
            place = _web(url, headers.get("Location") or "")
            if headers.get("X-Linked-Etag") or place == url:
                checksum = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
                size = headers.get("X-Linked-Size") or headers.get("Content-Length")
                if not _letters(checksum) or not (size or "").isdecimal():
                    raise BadInput(f"{url} announces no checksum or size. Use another endpoint.")
                return _Remote(place, int(size), checksum)
            url = place
        raise BadInput(f"{url} leads nowhere. Use another endpoint.")

    def _stream(self, remote: _Remote, draft: Path, first: str, progress: Callable[[int, int], None]) -> None:
        """Append what is missing to `draft`, as far as the connection lasts; `first`: the address in the endpoint."""
        done, free = draft.stat().st_size, shutil.disk_usage(draft.parent).free
        if free < remote.size - done:
            room = f"{draft.parent} has {free >> 20} MiB free and {draft.name} takes {remote.size >> 20} MiB"
            raise BadInput(f"{room}: make room and try again.")
        headers = self._headers(remote.url, first) | ({"Range": f"bytes={done}-"} if done else {})
        request = urllib.request.Request(remote.url, headers=headers)  # noqa: S310 - _web
        with self._read.open(request, timeout=60) as answer, draft.open("r+b") as file:
            done = done if answer.status == 206 else 0  # else the server begins again
            file.truncate(done)
            file.seek(done)
            while done <= remote.size and (chunk := answer.read(_CHUNK)):
                done += file.write(chunk)
                progress(done, remote.size)

    def _headers(self, url: str, first: str) -> dict[str, str]:
        """Of a request; the token goes to the endpoint itself alone."""
        own = self._token and _server(url) == _server(first)
        return {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {self._token}"} if own else {})


@contextmanager
def _told(repository: str, path: str) -> Iterator[None]:
    """What a server or the network refused, in words."""
    try:
        yield
    except HTTPError as error:
        if error.code in (401, 403):
            raise MissingPart(
                f"{repository} is not open to you: accept its licence on its page and set HF_TOKEN, then run it again."
            ) from error
        raise MissingPart(f"{path} of {repository}: the server answers {error.code}. Try another endpoint.") from error
    except BadInput:  # a ValueError too
        raise
    except (URLError, TimeoutError, ConnectionError, HTTPException, ValueError) as error:
        raise MissingPart(
            f"{path} of {repository} was not reached ({error}). Run it again to go on, or give --endpoint a mirror."
        ) from error


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink()


def _web(url: str, place: str = "") -> str:
    """Where `place` leads from `url`; BadInput unless that is on the web, so that no answer leads to a local file."""
    try:
        found = urljoin(url, place)
        if urlsplit(found).scheme in ("http", "https") and found.isascii():
            return found
    except ValueError:  # half an address
        pass
    raise BadInput(f"{url} leads to {short(place)}, which is no address on the web. Use another endpoint.")


def _server(url: str) -> tuple[str, str]:
    """What an address asks and how: a token for https is not one for http."""
    return urlsplit(url)[:2]


def _letters(checksum: str) -> str:
    """What of a checksum can stand in a file's name."""
    return "".join(filter(str.isalnum, checksum))


def _shards(index: Path) -> list[str]:
    return sorted(set(weight_map(index).values()))


def _agreed(path: Path, remote: _Remote) -> str:
    """The SHA-256 of a file that is the announced one, else nothing.

    Large files are announced by SHA-256 and small ones by git's checksum; of any other kind only the size counts.
    """
    if path.stat().st_size != remote.size:
        return ""
    git = hashlib.sha1(b"blob %d\0" % remote.size)  # noqa: S324 - git's own
    found = _sha256(path, git)
    announced = {64: found, 40: git.hexdigest()}.get(len(remote.checksum), remote.checksum)
    return found if announced == remote.checksum else ""


def _sha256(path: Path, *more) -> str:
    """The SHA-256 of a file, whose content other digests are given too."""
    digests = hashlib.sha256(), *more
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            for digest in digests:
                digest.update(chunk)
    return digests[0].hexdigest()


def _sums(folder: Path) -> dict[str, str]:
    """File to checksum, of a file as sha256sum writes and checks it."""
    path = folder / SUMS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}


def _note(folder: Path, target: Path, checksum: str) -> None:
    sums = _sums(folder) | {target.relative_to(folder).as_posix(): checksum}
    with new_file(folder / SUMS, overwrite=True) as draft:
        draft.write_text("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)), encoding="utf-8")
