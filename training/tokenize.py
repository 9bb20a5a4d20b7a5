"""Turns a curated folder into a token folder, shard by shard, each once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field
from tqdm import tqdm

from stylear.errors import BadInput

from .curated import Curated
from .encode import EncodeSettings, Prepared, Refused, Tokenizer, check_condition, maps_sha256
from .inputs import hold_inputs
from .output import output_folder, read_json
from .processes import processes
from .tokens import INDEX, Example, write_index, write_shard

WINDOW = 8  # batches of pictures that are looked at together, to find those of one size
CHANGEABLE = ("workers", "max_bad")  # settings that do not change what is written


class TokenizeSettings(EncodeSettings):
    """What is read and written, and how it runs."""

    curated: Path = Field(Path("work/curated"), description="folder that curate wrote")
    out: Path = Field(Path("work/tokens"), description="folder to write")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where it works")
    workers: int = Field(2, ge=1, description="threads that decode and crop; may change between starts")
    max_bad: int = Field(100, ge=0, description="stop when more pictures than this cannot be used; may change")


def run(settings: TokenizeSettings) -> str:
    """Write the token folder, one shard for each curated shard; returns what was done.

    In a run of several processes each takes every n-th shard; the first writes tokens.json at the end. BadInput for
    a curated folder that is damaged or other than before, and for more broken pictures than `max_bad`.
    """
    check_condition(settings)
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise BadInput("device is cuda and there is none. Say device=cpu.")
    state = processes(settings.device == "cpu")
    curated = Curated(settings.curated)
    jobs = [_Job(settings.out, number, shard) for number, shard in enumerate(curated.manifest["shards"])]
    with ExitStack() as held:
        if state.is_main_process:
            held.enter_context(output_folder(settings.out, settings, ignore=CHANGEABLE))
        tokenizer = Tokenizer(settings, torch.device("cpu") if settings.device == "cpu" else state.device)
        if state.is_main_process:
            maps = {"maps": maps_sha256(settings.maps)} if settings.maps else {}
            hold_inputs(settings.out, {"curated": curated.manifest["sha256"], **tokenizer.made_of, **maps})
        state.wait_for_everyone()
        mine = jobs[state.process_index :: state.num_processes]
        _tokenize(settings, tokenizer, curated, mine, quiet=not state.is_main_process)
        state.wait_for_everyone()
        if not state.is_main_process:
            return ""
        records = [read_json(job.record) for job in jobs]
        _stop_if_bad([(job, bad) for job, record in zip(jobs, records, strict=True) for bad in record["bad"]], settings)
        made_of = {name: tokenizer.made_of[name] for name in ("codes", "vqgan")}
        made_of["features"] = tokenizer.feature_shape
        index = write_index(settings.out, records, **made_of, settings=settings.model_dump(mode="json"))
    return _summary(settings.out, index)


@dataclass(frozen=True)
class _Job:
    """Curated shard number `number`, and the files its tokens go to."""

    out: Path
    number: int
    shard: dict[str, Any]

    @property
    def arrow(self) -> Path:
        return self.out / f"tokens-{self.number:05d}.arrow"

    @property
    def record(self) -> Path:
        return self.arrow.with_suffix(".json")

    def finished(self) -> dict[str, Any] | None:
        """The record, if the shard was written whole and is still of its size."""
        if not self.record.exists() or not self.arrow.exists():
            return None
        record = read_json(self.record)
        return record if record["bytes"] == self.arrow.stat().st_size else None


def _tokenize(
    settings: TokenizeSettings, tokenizer: Tokenizer, curated: Curated, jobs: Sequence[_Job], quiet: bool
) -> None:
    """Write the shards that are not there yet."""
    bad: list[tuple[_Job, dict[str, str]]] = []
    total = sum(job.shard["records"] for job in jobs)
    with (
        ThreadPoolExecutor(settings.workers) as pool,
        tqdm(total=total, desc="tokenize", unit="picture", disable=quiet) as bar,
    ):

        def batches(job: _Job, refused: list[dict[str, str]]) -> Iterator[list[Example]]:
            for window in _ahead(pool, tokenizer.prepare, curated.records(job.shard["file"]), WINDOW * settings.batch):
                for one in window:
                    if isinstance(one, Refused):
                        refused.append({"key": one.key, "reason": one.reason})
                        bad.append((job, refused[-1]))
                        tqdm.write(f"{job.shard['file']}, {one.key} is skipped: {one.reason}")
                        _stop_if_bad(bad, settings)
                yield tokenizer.examples([one for one in window if isinstance(one, Prepared)])
                bar.update(len(window))

        for job in jobs:
            if done := job.finished():
                bad += [(job, one) for one in done["bad"]]
                bar.update(job.shard["records"])
                bar.initial += job.shard["records"]  # not of this run: its rate leaves them out
                continue
            refused: list[dict[str, str]] = []
            write_shard(job.arrow, batches(job, refused), bad=refused, source=job.shard["file"])


def _stop_if_bad(bad: Sequence[tuple[_Job, dict[str, str]]], settings: TokenizeSettings) -> None:
    if len(bad) > settings.max_bad:
        job, last = bad[-1]
        raise BadInput(
            f"{len(bad)} pictures cannot be used, more than max_bad={settings.max_bad}. The last is {last['key']} in "
            f"{settings.curated / job.shard['file']}: {last['reason']}"
        )


T, R = TypeVar("T"), TypeVar("R")


def _ahead(pool: ThreadPoolExecutor, make: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[list[R]]:
    """`make` of each item, `count` at a time; while a list is used the next is being made."""
    items, waiting = iter(items), list[Future]()
    for window in chain(iter(lambda: list(islice(items, count)), []), [[]]):
        begun = [pool.submit(make, item) for item in window]
        if waiting:
            yield [future.result() for future in waiting]
        waiting = begun


def _summary(out: Path, index: dict[str, Any]) -> str:
    kinds = ", ".join(f"{count} {name}" for name, count in index["kinds"].items())
    given = "".join(f", {count} with {name}" for name, count in index["conditions"].items() if count)
    bad = sum(len(shard["bad"]) for shard in index["shards"])
    skipped = f"; {bad} skipped, listed in the shards' .json" if bad else ""
    size = sum(shard["bytes"] for shard in index["shards"]) / 1e6
    return (
        f"{index['records']} pictures as tokens ({kinds}{given}){skipped}.\n"
        f"  {out / 'tokens-*.arrow'}  {len(index['shards'])} shards, {size:,.1f} MB\n"
        f"  {out / INDEX}  data {index['sha256'][:12]}"
    )
