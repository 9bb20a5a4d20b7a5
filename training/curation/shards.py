"""Turns blocks into shards: leaves out what was seen before, gives every picture its key, writes the side-cars."""

import hashlib
import json
import shutil
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from stylear.files import new_file

from ..output import read_json, sha256_of, write_json
from .blocks import add_member, record_of, tar_of
from .duplicates import Seen
from .items import Unusable

FORMAT = 1
MANIFEST, REFERENCES, REJECTED = "manifest.json", "references.jsonl", "rejected.jsonl"


@dataclass
class Totals:
    """What the manifest counts."""

    shards: list[dict] = field(default_factory=list)
    kinds: Counter = field(default_factory=Counter)
    rejected: Counter = field(default_factory=Counter)


def write_shards(out: Path, folder: Path, blocks: int, near: int | None) -> Totals:
    """Write pictures-00000.tar and so on with their records, references.jsonl and rejected.jsonl.

    Begins at the first block every time: which pictures were seen before is worked out again from the blocks'
    records, and only what is not written yet is written. A block's tar is deleted once its shard is there.
    """
    totals = Totals()
    seen = Seen(folder / "seen.sqlite", near)
    try:
        with (
            new_file(out / REFERENCES, overwrite=True) as references,
            new_file(out / REJECTED, overwrite=True) as rejected,
            references.open("w", encoding="utf-8") as references_file,
            rejected.open("w", encoding="utf-8") as rejected_file,
        ):
            for number in tqdm(range(blocks), desc="shards", unit="shard"):
                record = read_json(record_of(folder, number))
                kept, doubles = _new(record["kept"], seen)
                lines = sorted(record["rejected"] + doubles, key=lambda line: line["n"])
                _write_lines(rejected_file, _without_number(lines))
                totals.rejected.update(line["reason"] for line in lines)
                if kept:
                    shard = len(totals.shards)
                    keys = {f"{line['n']:06d}": f"{shard:05d}-{line['n']:06d}" for line in kept}
                    totals.shards.append(_shard(out, tar_of(folder, number), shard, number, keys, kept))
                    totals.kinds.update(totals.shards[-1]["kinds"])
                    drawn = [line for line in kept if line["reference"]]
                    rows = [{"key": keys[f"{line['n']:06d}"], **line["reference"]} for line in drawn]
                    _write_lines(references_file, rows)
                tar_of(folder, number).unlink(missing_ok=True)
    finally:
        seen.close()
    return totals


def write_rejected(out: Path, folder: Path) -> None:
    """Write rejected.jsonl from the blocks read so far, for a run that stops at too many bad records."""
    with new_file(out / REJECTED, overwrite=True) as draft, draft.open("w", encoding="utf-8") as file:
        for path in sorted(folder.glob("[0-9]*.json")):
            _write_lines(file, _without_number(read_json(path)["rejected"]))


def write_manifest(out: Path, totals: Totals, settings: dict, made_by: dict) -> dict[str, Any]:
    """Write manifest.json, which makes the folder whole, and return it."""
    together = hashlib.sha256("".join(shard["sha256"] for shard in totals.shards).encode()).hexdigest()
    manifest = {
        "format": FORMAT,
        "shards": totals.shards,
        "kinds": dict(sorted(totals.kinds.items())),
        "rejected": dict(sorted(totals.rejected.items())),
        "settings": settings,
        "provenance": made_by,
        "sha256": together,
    }
    write_json(out / MANIFEST, manifest)
    return manifest


def remove_blocks(folder: Path) -> None:
    """Delete the blocks, when the manifest is there."""
    shutil.rmtree(folder, ignore_errors=True)


def _new(lines: list[dict], seen: Seen) -> tuple[list[dict], list[dict]]:
    """The records of a block that are new, and those that are not as lines of rejected.jsonl."""
    kept, doubles = [], []
    for line in lines:
        try:
            seen.add(bytes.fromhex(line["pixels"]), line["look"], line["where"])
            kept.append(line)
        except Unusable as fault:
            found = {"n": line["n"], "where": line["where"], "reason": fault.reason, "detail": fault.detail}
            doubles.append(found)
    return kept, doubles


def _shard(out: Path, block: Path, shard: int, number: int, keys: dict[str, str], kept: list[dict]) -> dict:
    path = out / f"pictures-{shard:05d}.tar"
    record = path.with_suffix(".json")
    if record.exists():
        return read_json(record)
    with new_file(path, overwrite=True) as draft, tarfile.open(block) as old, tarfile.open(draft, "w") as new:
        while (member := old.next()) is not None:
            old.members.clear()  # tarfile remembers every member it has seen
            name, _, ending = member.name.partition(".")
            if name in keys:
                add_member(new, f"{keys[name]}.{ending}", old.extractfile(member).read())
    found = {
        "file": path.name,
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        "records": len(kept),
        "kinds": dict(sorted(Counter(line["kind"] for line in kept).items())),
        "state": {"block": number + 1},
    }
    write_json(record, found)
    return found


def _without_number(lines: list[dict]) -> list[dict]:
    return [{key: value for key, value in line.items() if key != "n"} for line in lines]


def _write_lines(file: TextIO, rows: list[dict]) -> None:
    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
