"""The stages that make the mini model, by name; each imports what it needs when it runs."""

from collections.abc import Callable
from pathlib import Path


def icons(work: Path, downloads: Path | None = None) -> None:
    from .data.icons import build_icons

    build_icons(work / "icons", downloads or work / "downloads", size=128)


def pictures(work: Path) -> None:
    from .data.pictures import build_pictures

    build_pictures(work / "icons", work / "pictures")


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
    from .pretrain.base import train_base

    train_base(work / "pictures", work / "tokens" / "codes.npz", work / "base")


def corpus(work: Path) -> None:
    from .pretrain.corpus import write_corpus

    write_corpus(
        work / "pictures", work / "tokens" / "codes.npz", work / "vqgan" / "vqgan.safetensors", work / "corpus"
    )


def adapter(work: Path) -> None:
    from .config import CONFIGS, ModelPaths, read_settings
    from .loop import can_compile
    from .recipe import TrainSettings
    from .train import run

    parts = ModelPaths(base=str(work / "base"), vqgan=str(work / "vqgan"), image_encoder=str(work / "clip"))
    places = {"model": parts, "data": work / "corpus", "out": work / "adapter", "compile": can_compile()}
    run(read_settings(TrainSettings, CONFIGS / "mini.yaml").model_copy(update=places))


def judge(work: Path) -> None:
    from .judge import train_judge

    train_judge(work / "pictures", work / "judge")


def instruments(work: Path) -> None:
    from .instruments import write_instruments
    from .judge import BUNDLED

    write_instruments(work, BUNDLED)


def bundle(work: Path) -> None:
    from .bundle import bundle

    bundle(work, Path(__file__).parents[1] / "stylear" / "mini")


def check(work: Path) -> None:
    from .bars.command import BarsSettings, run
    from .config import CONFIGS, read_settings

    run(read_settings(BarsSettings, CONFIGS / "evaluate_mini.yaml").model_copy(update={"out": work / "check"}))


STAGES: dict[str, Callable[..., None]] = {
    f.__name__: f
    for f in (icons, pictures, vqgan, clip, sam, tokens, base, corpus, adapter, judge, instruments, bundle, check)
}


def run(name: str, work: Path, downloads: Path | None = None) -> None:
    """Run one stage in the folder `work`; `downloads` is for the icons alone."""
    STAGES[name](work, **({"downloads": downloads} if name == "icons" else {}))
