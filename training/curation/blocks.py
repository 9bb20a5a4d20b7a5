"""Reads the sources block by block, in as many processes as there are, and keeps what passes the filters.

A block is the next `shard_size` records of all sources together, so its content does not depend on who reads it.
What is kept of it lies in `blocks`/00000.tar, under names of the record's number in the block; `blocks`/00000.json is
written after that and says what was read. A block without it is read again; drawn pictures are not drawn again, for
items keep them in files of their own until the block is whole.
"""

import io
import json
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, groupby, islice
from pathlib import Path

from tqdm import tqdm

from stylear.errors import BadInput
from stylear.files import new_file

from ..output import read_json, write_json
from .filters import Examined, FilterSettings, Score, check_agreement, examine
from .items import Item, Source, Unusable

BAD = ("broken", "missing", "outside", "no_caption", "long_caption")  # mistakes in the data, not matters of taste
SCORED = 16  # pictures scored together


@dataclass(frozen=True)
class Share:
    """Process `rank` of `world` reads every `world`-th block."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Reader:
    """How the sources are read; `score` makes the model of the agreement when it is first needed."""

    sources: Sequence[Source]
    filters: FilterSettings
    size: int
    max_bad: float
    workers: int
    score: Callable[[], Score]

    def run(self, folder: Path, share: Share) -> int:
        """Read this process's share of the blocks that are not there yet; returns the number of blocks of all.

        Raises BadInput once more records are bad than allowed: `max_bad` of them, or that share if it is below 1.
        """
        items = chain.from_iterable(source.items() for source in self.sources)
        blocks, read, bad, last = 0, 0, 0, None
        with ThreadPoolExecutor(self.workers) as pool, self._bar(share) as bar:
            for number, block in groupby(enumerate(items), lambda pair: pair[0] // self.size):
                blocks = number + 1
                if number % share.world != share.rank:
                    continue
                if not record_of(folder, number).exists():
                    self._write(folder, number, (item for _, item in block), pool, bar)
                    record = read_json(record_of(folder, number))
                else:
                    record = read_json(record_of(folder, number))
                    bar.initial += record["read"]
                    bar.update(record["read"])
                faults = [line for line in record["rejected"] if line["reason"] in BAD]
                read, bad, last = read + record["read"], bad + len(faults), faults[-1] if faults else last
                if bad > (self.max_bad if self.max_bad >= 1 else self.max_bad * read):
                    raise BadInput(
                        f"{bad} of the first {read} records are bad, above max_bad={self.max_bad:g}, the last at"
                        f" {last['where']}: {last['reason']}, {last['detail']}. Mend the data and give"
                        " another `out`, or raise max_bad."
                    )
        return blocks

    def _bar(self, share: Share) -> tqdm:
        counts = [source.count() for source in self.sources]
        total = None
        if None not in counts:
            whole, rest = divmod(sum(counts), self.size)
            mine = len(range(share.rank, whole, share.world)) * self.size
            total = mine + (rest if whole % share.world == share.rank else 0)
        return tqdm(total=total, desc="curate", unit="pic", disable=share.rank > 0)

    def _write(self, folder: Path, number: int, items: Iterator[Item], pool: Executor, bar: tqdm) -> None:
        kept, rejected, read, drawn = [], [], 0, []
        with new_file(tar_of(folder, number), overwrite=True) as draft, tarfile.open(draft, "w") as tar:
            for n, (item, caption, found) in enumerate(self._scored(self._examined(items, pool))):
                bar.update()
                read += 1
                if item.drawn:
                    drawn.append(item.drawn)
                if isinstance(found, Unusable):
                    line = {"n": n, "where": item.where, "reason": found.reason, "detail": found.detail}
                    rejected.append(line)
                    continue
                about = {
                    "caption": caption,
                    "kind": item.kind,
                    "source": item.where,
                    "sha256": sha256(found.data).hexdigest(),
                    "width": found.width,
                    "height": found.height,
                }
                add_member(tar, f"{n:06d}.{found.ending}", found.data)
                add_member(tar, f"{n:06d}.json", json.dumps(about, ensure_ascii=False).encode())
                line = {"n": n, "where": item.where, "kind": item.kind, "reference": item.reference}
                kept.append(line | {"pixels": found.pixels.hex(), "look": found.look})
        write_json(record_of(folder, number), {"read": read, "kept": kept, "rejected": rejected})
        for file in drawn:
            file.unlink(missing_ok=True)

    def _examined(self, items: Iterable[Item], pool: Executor) -> Iterator[tuple[Item, str, Examined | Unusable]]:
        """Read in this thread, as the items have to be, decode in the pool's; in order, few at a time."""
        waiting = deque()
        for item in items:
            try:
                caption, data = item.read()
                waiting.append((item, caption, pool.submit(_outcome, data, self.filters)))
            except Unusable as fault:
                waiting.append((item, "", pool.submit(lambda fault=fault: fault)))
            if len(waiting) > self.workers:
                item, caption, result = waiting.popleft()
                yield item, caption, result.result()
        for item, caption, result in waiting:
            yield item, caption, result.result()

    def _scored(self, records: Iterator[tuple]) -> Iterator[tuple[Item, str, Examined | Unusable]]:
        if self.filters.min_agreement is None:
            yield from records
            return
        while batch := list(islice(records, SCORED)):
            right = [(caption, found.small) for _, caption, found in batch if isinstance(found, Examined)]
            scores = iter(self.score()(*map(list, zip(*right, strict=True))) if right else ())
            for item, caption, found in batch:
                if isinstance(found, Examined):
                    try:
                        check_agreement(float(next(scores)), self.filters)
                    except Unusable as fault:
                        found = fault
                yield item, caption, found


def _outcome(data: bytes, filters: FilterSettings) -> Examined | Unusable:
    try:
        return examine(data, filters)
    except Unusable as fault:
        return fault


def tar_of(folder: Path, number: int) -> Path:
    """The tar of a block."""
    return folder / f"{number:05d}.tar"


def record_of(folder: Path, number: int) -> Path:
    """The record of a block."""
    return folder / f"{number:05d}.json"


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file that is the same whenever and by whomever it is written."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))
