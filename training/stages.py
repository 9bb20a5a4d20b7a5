"""The stages that make the mini model: what each makes, of what, by which recipe; each imports what it needs itself."""

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import filelock

from stylear.errors import BadInput, MissingPart

from .inputs import add_inputs, changed_inputs, files_sha256, read_inputs
from .output import read_json

RECORD = ".made_of.json"  # in each stage's folder; hidden, because it is no part of what is made
TAKEN = "bundled"  # in the record of what was taken from the bundled mini: what tells its files
ADAPTER = ("adapter/model.safetensors", "adapter/image_proj.safetensors", "summary.json")  # what `train` writes
RECIPES = {"style": "mini.yaml", "adapter": "mini_depth.yaml"}  # of the stages that `train` makes
MINI = Path(__file__).parents[1] / "stylear" / "mini"


def icons(work: Path, downloads: Path | None = None) -> None:
    from .data.icons import build_icons
    from .loop import cores

    build_icons(work / "icons", downloads or work / "downloads", size=128, workers=cores())


def pictures(work: Path) -> None:
    from .data.pictures import build_pictures
    from .loop import cores

    build_pictures(work / "icons", work / "pictures", workers=cores())


def vqgan(work: Path) -> None:
    from .pretrain.vqgan import train_vqgan

    train_vqgan(work / "pictures", work / "vqgan")


def clip(work: Path) -> None:
    from .pretrain.clip import train_clip

    train_clip(work / "pictures", work / "clip")


def sam(work: Path) -> None:
    from .pretrain.sam import train_sam

    train_sam(work / "pictures", work / "sam")


def tokens(work: Path) -> None:
    from .pretrain.tokens import encode_pictures

    encode_pictures(work / "pictures", work / "vqgan" / "vqgan.safetensors", work / "tokens")


def base(work: Path) -> None:
    from .loop import cores, training_device
    from .pretrain.base import train_base
    from .together import together

    processes = cores() if training_device().type == "cpu" else 1
    together(partial(train_base, work / "pictures", work / "tokens" / "codes.npz", work / "base"), processes)


def corpus(work: Path) -> None:
    from .pretrain.corpus import write_corpus

    write_corpus(
        work / "pictures", work / "tokens" / "codes.npz", work / "vqgan" / "vqgan.safetensors", work / "corpus"
    )


def style(work: Path) -> None:
    _train(work, "style", {"data": work / "corpus", "out": work / "style"})


def depth_corpus(work: Path) -> None:
    from .pretrain.corpus import MAPPED, write_corpus

    codes, vqgan = work / "tokens" / "codes.npz", work / "vqgan" / "vqgan.safetensors"
    write_corpus(work / "pictures", codes, vqgan, work / "depth_corpus", mapped=MAPPED)


def adapter(work: Path) -> None:
    init = work / "style" / "adapter"
    _train(work, "adapter", {"data": work / "depth_corpus", "init": init, "out": work / "adapter"})


def _train(work: Path, name: str, places: dict[str, Path]) -> None:
    from .config import CONFIGS, ModelPaths, read_settings
    from .loop import can_compile, cores, training_device
    from .recipe import TrainSettings
    from .together import together
    from .train import run

    device = training_device()
    parts = ModelPaths(base=str(work / "base"), vqgan=str(work / "vqgan"), image_encoder=str(work / "clip"))
    own = {"model": parts, "compile": can_compile(device), **places}
    settings = read_settings(TrainSettings, CONFIGS / RECIPES[name]).model_copy(update=own)
    together(partial(run, settings), math.gcd(settings.batch, cores()) if device.type == "cpu" else 1)


def judge(work: Path) -> None:
    from .judge import train_judge

    train_judge(work / "pictures", work / "judge")


def instruments(work: Path) -> None:
    from .instruments import write_instruments
    from .judge import BUNDLED

    write_instruments(work, BUNDLED)


def bundle(work: Path) -> None:
    from .bundle import bundle

    bundle(work, MINI)


def check(work: Path) -> None:
    from .bars.command import BarsSettings, run
    from .config import CONFIGS, read_settings
    from .instruments import FILES
    from .judge import BUNDLED
    from .loop import write_atomically
    from .parts import Parts

    settings = read_settings(BarsSettings, CONFIGS / "evaluate_mini.yaml")
    measured = files_sha256([*Parts(settings.model).files(), *(BUNDLED / name for name in FILES)])
    table = run(settings.model_copy(update={"out": work / "check" / measured[:12]}))
    write_atomically(work / "check.md", lambda path: path.write_text(table + "\n", encoding="utf-8"))


def _icons_recipe() -> dict[str, Any]:
    from .data.icons import stamp_of

    return {"drawings": stamp_of(128)}


def _pictures_recipe() -> dict[str, Any]:
    from .data import pictures as p
    from .data.renderers import fingerprint

    words = files_sha256([p.CONCEPTS, p.WORDS])
    held_out = [*p.HELD_OUT_STYLES, *p.HELD_OUT_FAMILIES, p.HELD_OUT_PAIRS]
    return {"words": words, "held out": held_out, "size": p.SIZE, "renderers": fingerprint()}


def _vqgan_recipe() -> dict[str, Any]:
    from .pretrain.vqgan import MINI, VQGANSettings

    return {"settings": repr(VQGANSettings()), "shape": repr(MINI)}


def _clip_recipe() -> dict[str, Any]:
    from .pretrain.clip import CLIPSettings

    return {"settings": repr(CLIPSettings()), "captions": _captions()}


def _sam_recipe() -> dict[str, Any]:
    from .pretrain.sam import SAMSettings

    return {"settings": repr(SAMSettings())}


def _tokens_recipe() -> dict[str, Any]:
    from .pretrain.tokens import DEPTH_EVERY

    return {"depth every": DEPTH_EVERY}


def _base_recipe() -> dict[str, Any]:
    from .pretrain.base import CLEAR_STYLES, BaseSettings

    return {"settings": repr(BaseSettings()), "clear styles": [*CLEAR_STYLES], "captions": _captions()}


def _corpus_recipe() -> dict[str, Any]:
    from .pretrain.corpus import DEPTH_EVERY, RAW

    return {"raw": [*RAW], "depth every": DEPTH_EVERY, "captions": _captions()}


def _depth_corpus_recipe() -> dict[str, Any]:
    from .pretrain.corpus import MAPPED, RAW

    return {"raw": [*RAW], "mapped": MAPPED, "captions": _captions()}


def _train_recipe(name: str) -> dict[str, Any]:
    from .config import CONFIGS, read_settings
    from .recipe import TrainSettings
    from .train import CHANGEABLE

    settings = read_settings(TrainSettings, CONFIGS / RECIPES[name]).model_dump(mode="json")
    free = ("model", "data", "init", "out", "compile", *CHANGEABLE, *(() if settings["init"] else ("init_share",)))
    return {"settings": {name: value for name, value in settings.items() if name not in free}}


def _judge_recipe() -> dict[str, Any]:
    from .judge import JudgeSettings

    return {"settings": repr(JudgeSettings())}


def _table_alone(files: list[Path]) -> str:
    return files_sha256(files[-1:])


def _some_pictures(files: list[Path]) -> str:
    """One picture in a hundred, and the table of all."""
    import numpy as np

    some = np.load(files[0], mmap_mode="r")[::100]
    return hashlib.sha256(files_sha256(files[-1:]).encode() + some.tobytes()).hexdigest()


def _shards(files: list[Path]) -> str:
    return read_json(files[-1])["sha256"]


def _captions() -> str:
    """What stands for words, templates and vocabulary: the tokenizer is learned from all of them."""
    from .pretrain.text import mini_tokenizer

    return hashlib.sha256(mini_tokenizer().encode()).hexdigest()


@dataclass(frozen=True)
class Stage:
    """How a stage is made in the folder of its name, and how what it made is known.

    `told`: what it makes, in words. `of`: the stages whose products it reads. `files`: what it makes, in its folder,
    the last written last; a stage without any is quick and made each time. `recipe`: what else decides its product,
    by name, as JSON values. `known_by`: what tells those files from others.
    """

    make: Callable[..., None]
    told: str
    of: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    recipe: Callable[[], dict[str, Any]] = dict
    known_by: Callable[[list[Path]], str] = files_sha256

    @property
    def name(self) -> str:
        """Its name, which is its folder's too."""
        return self.make.__name__

    def is_made(self, work: Path) -> bool:
        """Whether all it makes is there."""
        return all((work / self.name / file).exists() for file in self.files)

    def inputs(self, work: Path) -> dict[str, Any]:
        """What it is made of, by name: the content of the stages before it, which must be made, and its recipe."""
        return {**{name: STAGES[name].content(work) for name in self.of}, **self.recipe()}

    def content(self, work: Path) -> str:
        """What tells its product from another."""
        return self.known_by([work / self.name / file for file in self.files])


STAGES = {
    stage.name: stage
    for stage in (
        Stage(icons, "drawings of free emoji families", (), ("icons.npy", "icons.json"), _icons_recipe, _table_alone),
        Stage(
            pictures,
            "drawings in all styles",
            ("icons",),
            ("pictures.npy", "masks.npy", "pictures.json"),
            _pictures_recipe,
            _some_pictures,
        ),
        Stage(vqgan, "picture tokenizer", ("pictures",), ("vqgan.safetensors",), _vqgan_recipe),
        Stage(clip, "image encoder", ("pictures",), ("open_clip.safetensors",), _clip_recipe),
        Stage(sam, "segmenter", ("pictures",), ("sam.safetensors",), _sam_recipe),
        Stage(tokens, "pictures as codes", ("pictures", "vqgan"), ("codes.npz",), _tokens_recipe),
        Stage(
            base,
            "text-to-picture model",
            ("pictures", "tokens"),
            ("model.safetensors", "config.json", "tokenizer.json"),
            _base_recipe,
        ),
        Stage(corpus, "captioned codes", ("pictures", "tokens", "vqgan"), ("tokens.json",), _corpus_recipe, _shards),
        Stage(
            style,
            "LoRA and resampler",
            ("base", "vqgan", "clip", "corpus"),
            ADAPTER,
            partial(_train_recipe, "style"),
        ),
        Stage(
            depth_corpus,
            "most under depth maps",
            ("pictures", "tokens", "vqgan"),
            ("tokens.json",),
            _depth_corpus_recipe,
            _shards,
        ),
        Stage(
            adapter,
            "both, heeding depth maps",
            ("base", "vqgan", "clip", "depth_corpus", "style"),
            ADAPTER,
            partial(_train_recipe, "adapter"),
        ),
        Stage(judge, "classifier that measures", ("pictures",), ("judge.safetensors",), _judge_recipe),
        Stage(instruments, "training/eval", ("icons", "pictures", "judge")),
        Stage(bundle, "stylear/mini", ("icons", "vqgan", "clip", "sam", "base", "adapter")),
        Stage(check, "check.md, and a page of pictures in check/", ("judge",)),
    )
}


def run(name: str, work: Path, downloads: Path | None = None) -> None:
    """Make one stage in the folder `work`, or go on with it; `downloads` is for the icons alone.

    What it is made of is written down in its folder. MissingPart for a stage before it that is not made; BadInput
    where the folder was begun with something else, or another run writes it.
    """
    stage = STAGES[name]
    for before in stage.of:
        if not STAGES[before].is_made(work):
            raise MissingPart(
                f"{name} is made of {before}, which is not in {work / before}: "
                f"make it first, with `python -m training pretrain {before}` or all with `pretrain all`."
            )
    with alone(name, work):
        if stage.files:
            _hold(stage, work)
        stage.make(work, **({"downloads": downloads} if name == "icons" else {}))


@contextmanager
def alone(name: str, work: Path) -> Iterator[None]:
    """Hold a stage's folder; BadInput where another run does."""
    work.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(work / f".{name}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise BadInput(
            f"{work / name} is being written by another run: wait for it, or give another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def was_taken(name: str, work: Path) -> bool:
    """Whether a stage's folder was filled out of a bundle, of now or of before. BadInput for a damaged record."""
    return TAKEN in read_inputs(work / name / RECORD)


def _hold(stage: Stage, work: Path) -> None:
    if was_taken(stage.name, work):
        raise BadInput(f"{work / stage.name} was taken from the bundled mini: move it away, or give another --work.")
    inputs, record = stage.inputs(work), work / stage.name / RECORD
    if changed := changed_inputs(record, inputs):
        raise BadInput(
            f"{work / stage.name} was made of other things than there are now: {', '.join(changed)}. "
            "Move it away, or bring back what it was made of."
        )
    add_inputs(record, inputs)
