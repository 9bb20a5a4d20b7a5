"""`curate`: makes the binary data, raw and stylised (text, image) pairs, in shards with a manifest."""

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import Field

from stylear.errors import BadInput

from .config import Settings
from .curation.blocks import Reader, Share
from .curation.files import SourceSettings
from .curation.filters import FilterSettings, Score, clip_score
from .curation.items import Source, source_sha256
from .curation.shards import (
    MANIFEST,
    remove_blocks,
    write_manifest,
    write_rejected,
    write_shards,
)
from .curation.sources import open_source
from .curation.stylised import Draw, Generated, StylisedSettings
from .inputs import files_sha256, hold_inputs
from .instantstyle import InstantStyle, InstantStyleSettings, model_files
from .output import output_folder, provenance, read_json
from .processes import processes

FREE = ("workers", "max_bad")  # may change from one start to the next


class CurateSettings(Settings):
    """What is made from what."""

    out: Path = Field(Path("work/curated"), description="folder to write")
    sources: list[SourceSettings] = Field([], description="pictures with captions, in this order after the drawn ones")
    stylised: StylisedSettings = StylisedSettings()
    filters: FilterSettings = FilterSettings()
    shard_size: int = Field(1000, ge=1, le=100_000, description="records in a shard, at most")
    max_bad: float = Field(
        0.1,
        ge=0,
        description="stop at more broken records than this: a share below 1, otherwise a number of them",
    )
    workers: int = Field(2, ge=1, le=64, description="threads that decode, in each process")


def run(
    settings: CurateSettings,
    make_draw: Callable[[InstantStyleSettings], Draw] = InstantStyle,
    make_score: Callable[[str], Score] = clip_score,
    draws_with: Callable[[InstantStyleSettings], list[Path]] = model_files,
) -> str:
    """Curate, going on where an earlier run was stopped; returns a summary.

    Under `accelerate launch` every process reads and draws its share of the blocks; the result is the same for any
    number of processes. `draws_with` names the files that `make_draw` reads. Raises BadInput for what `open_source` and
    `Reader` say, for inputs other than those `out` was begun with, and for a full disk.
    """
    state = processes()
    folder = settings.out / ".blocks"
    with ExitStack() as stack:
        # A picture above PIL's limit is refused by its size; the warning would only be noise.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        sources = _sources(settings, make_draw, folder / "drawn")
        if state.is_main_process:
            stack.enter_context(output_folder(settings.out, settings, ignore=FREE))
            _begin(settings, folder, sources, draws_with)
        state.wait_for_everyone()
        if not (settings.out / MANIFEST).exists():
            score = cache(lambda: make_score(settings.filters.clip))
            reader = Reader(
                [*sources.values()],
                settings.filters,
                settings.shard_size,
                settings.max_bad,
                settings.workers,
                score,
            )
            share = Share(state.process_index, state.num_processes)
            _make(settings, reader, folder, share, state.wait_for_everyone)
        state.wait_for_everyone()
    return _summary(settings.out, read_json(settings.out / MANIFEST)) if state.is_main_process else ""


def _sources(
    settings: CurateSettings, make_draw: Callable[[InstantStyleSettings], Draw], drawn: Path
) -> dict[str, Source]:
    """The sources by their settings' names, in the order they are read in; `drawn`: folder for drawn pictures."""
    for source in settings.sources:
        if Path(source.path).resolve() == settings.out.resolve():
            raise BadInput(f"{settings.out} is a source as well as `out`: give a folder of its own to write to.")
    sources: dict[str, Source] = {}
    if settings.stylised.styles is not None:
        model = cache(lambda: make_draw(settings.stylised.instantstyle))
        sources["stylised.styles and prompts"] = Generated(
            settings.stylised, lambda style, prompt, seed: model()(style, prompt, seed), drawn
        )
    for number, source in enumerate(settings.sources):
        sources[f"sources[{number}] ({source.path})"] = open_source(source)
    if not sources:
        raise BadInput("There is nothing to curate: set `sources`, or `stylised.styles` and `stylised.prompts`.")
    return sources


def _begin(
    settings: CurateSettings,
    folder: Path,
    sources: dict[str, Source],
    draws_with: Callable[[InstantStyleSettings], list[Path]],
) -> None:
    """See that what is read is what it was when a stopped run began."""
    inputs = {name: source_sha256(source) for name, source in sources.items()}
    if (settings.out / MANIFEST).exists():  # then the models are not needed any more
        hold_inputs(settings.out, inputs)
        remove_blocks(folder)
        return
    if settings.stylised.styles is not None:
        inputs["stylised.instantstyle"] = files_sha256(draws_with(settings.stylised.instantstyle))
    if settings.filters.min_agreement is not None:
        from .metrics.clip import clip_files  # seconds to import

        inputs["filters.clip"] = files_sha256(clip_files(settings.filters.clip))
    hold_inputs(settings.out, inputs)
    folder.mkdir(exist_ok=True)


def _make(settings: CurateSettings, reader: Reader, folder: Path, share: Share, wait: Callable[[], None]) -> None:
    out = settings.out
    try:
        blocks = reader.run(folder, share)
    except BadInput:
        write_rejected(out, folder)
        raise
    wait()
    if share.rank > 0:
        return
    totals = write_shards(out, folder, blocks, settings.filters.near_duplicates)
    if not totals.shards:
        found = ", ".join(f"{reason} {n}" for reason, n in totals.rejected.most_common()) or "no record at all"
        raise BadInput(f"No picture is left for {out} ({found}): see {out / 'rejected.jsonl'} and the filters.")
    write_manifest(out, totals, settings.model_dump(mode="json"), provenance())
    remove_blocks(folder)


def _summary(out: Path, manifest: dict[str, Any]) -> str:
    kept, left_out = sum(manifest["kinds"].values()), sum(manifest["rejected"].values())
    size = sum(shard["bytes"] for shard in manifest["shards"]) / 1e6
    rows = [*(manifest["kinds"].items()), ("left out", left_out)]
    rows += [(f"  {reason}", n) for reason, n in manifest["rejected"].items()]
    table = "\n".join(f"  {name:18} {n:>9}" for name, n in rows)
    return (
        f"{out} now holds {kept} pictures in {len(manifest['shards'])} shards, {size:.1f} MB.\n{table}\n"
        f"Written: {out / MANIFEST}, pictures-*.tar with their records, references.jsonl, rejected.jsonl"
    )
