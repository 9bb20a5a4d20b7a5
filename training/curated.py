"""Reads a curated folder: shards of (picture, caption), checked against the manifest and streamed."""

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from stylear.errors import BadInput
from stylear.files import is_plain_name

from .curation.items import MAX_BYTES, Kind
from .curation.shards import FORMAT, MANIFEST
from .curation.tars import FAILURES
from .output import read_json, sha256_of

KINDS = get_args(Kind)
KEY = re.compile(r"\d{5}-\d{6}")


@dataclass(frozen=True)
class Record:
    """A picture's file (PNG, JPEG or WebP bytes; turn it upright by its EXIF tag) with its caption.

    kind: "raw" or "stylised". source: where it was found.
    """

    key: str
    kind: str
    caption: str
    picture: bytes
    source: str


@dataclass(frozen=True)
class Curated:
    """The folder that `curate` wrote."""

    folder: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """manifest.json; BadInput if it is missing, damaged or of another format."""
        path = Path(self.folder) / MANIFEST
        found = read_json(path, "manifest")
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise BadInput(f"{path} is not of format {FORMAT}: delete {path.parent} and run curate again.")
        shards = found.get("shards")
        if not isinstance(found.get("sha256"), str) or not isinstance(shards, list) or not all(map(_is_shard, shards)):
            raise BadInput(f"{path} is damaged: put it back, or delete {path.parent} and run curate again.")
        return found

    def records(self, shard: str) -> Iterator[Record]:
        """The records of a shard, one in memory at a time.

        Raises BadInput, naming the file, before the first record if it is not the one the manifest knows.
        """
        path = Path(self.folder) / shard
        known = {entry["file"]: entry["sha256"] for entry in self.manifest["shards"]}
        if shard not in known:
            raise BadInput(f"{shard} is no shard of {self.folder}; it has {', '.join(known)}.")
        if not path.is_file() or sha256_of(path) != known[shard]:
            wrong = "damaged or another one" if path.is_file() else "missing"
            raise BadInput(f"The shard {path} is {wrong}: put it back, or delete {self.folder} and run curate again.")
        try:
            with tarfile.open(path, "r:") as tar:
                while (picture := tar.next()) is not None:
                    yield _record(tar, picture, tar.next())
                    tar.members.clear()  # tarfile remembers every member it has seen
        except (*FAILURES, AttributeError, LookupError, TypeError, RecursionError) as error:
            raise BadInput(f"The shard {path} is no shard of curate: run it again. ({error})") from error


def _record(tar: tarfile.TarFile, picture: tarfile.TarInfo, about: tarfile.TarInfo) -> Record:
    key = picture.name.partition(".")[0]
    if not KEY.fullmatch(key) or about.name != f"{key}.json":
        raise ValueError(f"member {picture.name}")
    if max(picture.size, about.size) > MAX_BYTES or not (picture.isreg() and about.isreg()):
        raise ValueError(f"member {picture.name} of {picture.size} bytes")
    data = tar.extractfile(picture).read()
    found = json.loads(tar.extractfile(about).read())
    texts = found["kind"], found["caption"], found["source"]
    if texts[0] not in KINDS or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"member {about.name} is no record")
    return Record(key, *texts[:2], data, texts[2])


def _is_shard(shard: Any) -> bool:
    return isinstance(shard, dict) and is_plain_name(shard.get("file")) and isinstance(shard.get("sha256"), str)
