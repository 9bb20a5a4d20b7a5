"""Measures what the mini drew, its VQGAN and its segmenter; each function returns the rows of its part of the table."""

import gc
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from PIL import Image

from stylear import StyleAR
from stylear.errors import BadInput

from ..instruments import Instruments
from ..judge import Look
from ..metrics.clip import ClipScore
from ..pretrain.vqgan import to_pixels
from .cases import Case, prompt_of
from .scores import Score, mean, ratio, share

QUIET = 0.1  # the share of all cores that others may use while seconds are taken


@dataclass(frozen=True)
class Seen:
    """Pictures uint8 [n, 64, 64, 3] and what the judge sees in them."""

    pictures: np.ndarray
    look: Look

    def __getitem__(self, rows: np.ndarray | slice) -> "Seen":
        return Seen(self.pictures[rows], self.look[rows])


@dataclass(frozen=True)
class Drawn:
    """Cases with what was drawn, and the real pictures of the same concept and style with their reconstructions."""

    cases: Sequence[Case]
    seen: Seen
    real: Seen
    again: Seen
    asked: np.ndarray
    shown: np.ndarray
    style: np.ndarray

    @classmethod
    def of(cls, tests: Instruments, cases: Sequence[Case], pictures: np.ndarray, real: Seen, again: Seen) -> "Drawn":
        """`real`, `again`: of all test pictures. `asked`, `shown` (by the reference), `style`: int64 [n]."""
        target, reference = (np.array([getattr(case, of) for case in cases]) for of in ("target", "reference"))
        seen = Seen(pictures, tests.judge.look(pictures))
        of = tests.concept[target], tests.concept[reference], tests.style[target]
        return cls(cases, seen, real[target], again[target], *of)

    def first(self, count: int) -> "Drawn":
        """The first so many cases alone."""
        part = slice(count)
        seen, real, again = (one[part] for one in self.views)
        return Drawn(self.cases[part], seen, real, again, self.asked[part], self.shown[part], self.style[part])

    @property
    def views(self) -> tuple[Seen, Seen, Seen]:
        return self.seen, self.real, self.again

    @property
    def prompt_read(self) -> np.ndarray:
        """Bool [n]: the first guess is the concept asked for."""
        return self.seen.look.concept == self.asked

    @property
    def style_read(self) -> np.ndarray:
        """Bool [n]: the first guess is the reference's style."""
        return self.seen.look.style == self.style


def of_pairs(drawn: Drawn, draws: int) -> list[Score]:
    """Prompt and style of held-out pairs, and what leaked from their references."""
    prompt = [one.look.concept == drawn.asked for one in drawn.views]
    style = [one.look.style == drawn.style for one in drawn.views]
    chance = leak_by_chance(drawn.seen.look.concept, drawn.shown, drawn.asked)
    return [
        share(
            "prompt", prompt[0], "first guess is the concept asked for; pairs of concept and style never trained on",
            bar=0.8, real=prompt[1].mean(), again=prompt[2].mean(),
        ),
        share(
            "style", style[0], "first guess is the reference's style; its bar is the next line",
            real=style[1].mean(), again=style[2].mean(),
        ),
        ratio(
            "style, of its ceiling", style[0].astype(float), style[2].astype(float), draws,
            "that share over the share of the same pictures' reconstructions", bar=0.85,
        ),
        share(
            "leak", leaks(drawn.seen.look.concept, drawn.shown, drawn.asked),
            f"first guess is what the reference shows; bar: 2 points above chance ({100 * chance:.1f} %), which is "
            "how often it is what the reference of another picture shows", bar=chance + 0.02, at_least=False,
        ),
    ]  # fmt: skip


def leaks(read: np.ndarray, shown: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Bool [m]: whether the concept read is the reference's, of the pictures whose prompt asks for another one."""
    counted = shown != asked
    return (read == shown)[counted]


def leak_by_chance(read: np.ndarray, shown: np.ndarray, asked: np.ndarray) -> float:
    """How often the concept read in one picture is what the reference of another shows, if it was not asked for."""
    counted = (shown[None, :] != asked[:, None]) & ~np.eye(len(read), dtype=bool)
    return float((read[:, None] == shown[None, :])[counted].mean()) if counted.any() else 0.0


def of_unseen(drawn: Drawn) -> list[Score]:
    """Styles never trained, by the nearest of all styles' means in the judge's features."""
    right = [one.look.nearest == drawn.style for one in drawn.views]
    asked = drawn.prompt_read.mean()
    how = f"nearest of all styles' mean features is the reference's; prompt followed in {100 * asked:.1f} %"
    return [share("style never trained", right[0], how, bar=0.4, real=right[1].mean(), again=right[2].mean())]


def of_depth(drawn: Drawn, plain: Drawn, iou: Sequence[np.ndarray], draws: int) -> list[Score]:
    """Pictures with a depth map against the same ones without; `iou`: with the silhouette, of the pictures drawn with
    it, without it, of the real ones and of their reconstructions."""
    how = "mask that SAM finds at a point, against the silhouette given as depth; without the map it is "
    lost = {
        "prompt": drawn.prompt_read.astype(float) - plain.prompt_read,
        "style": drawn.style_read.astype(float) - plain.style_read,
    }
    told = "points; share with the map minus share of the same pictures without"
    return [
        mean(
            "depth: silhouette IoU", iou[0], "", draws, f"{how}{iou[1].mean():.3f}",
            bar=0.75, real=iou[2].mean(), again=iou[3].mean(),
        ),
        *(mean(f"depth: {name} gained", one, "points", draws, told, bar=-0.05) for name, one in lost.items()),
    ]  # fmt: skip


def of_clip(drawn: Drawn, tests: Instruments, clip: ClipScore, draws: int) -> list[Score]:
    """Cosines of CLIP with the prompt and with the reference."""
    texts = clip.texts([prompt_of(tests, case) for case in drawn.cases])
    references = clip.images([Image.fromarray(tests.pictures[case.reference]) for case in drawn.cases])
    pictures = [clip.images([*map(Image.fromarray, one.pictures)]) for one in drawn.views]
    values = [[(one * other).sum(1).double().numpy() for one in pictures] for other in (texts, references)]
    hows = ("cosine of picture and prompt", "cosine of picture and reference; rewards copied content too")
    return [
        mean(name, found[0], "", draws, how, real=found[1].mean(), again=found[2].mean())
        for name, found, how in zip(("CLIP-T", "CLIP-I"), values, hows, strict=True)
    ]


@torch.inference_mode()
def reconstruct(model: StyleAR, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [n, 64, 64, 3] through the VQGAN and back, as uint8, and each one's PSNR in dB."""
    device, again, quality = next(model.vqgan.parameters()).device, [], []
    for part in np.array_split(pictures, -(-len(pictures) // 32)):
        real = to_pixels(part).to(device)
        made = model.vqgan.decode(model.vqgan.encode(real)).clamp(-1, 1)
        quality.append(-10 * ((made - real) / 2).square().mean((1, 2, 3)).clamp(min=1e-10).log10())
        again.append(((made + 1) * 127.5).round().byte().permute(0, 2, 3, 1))
    return torch.cat(again).cpu().numpy(), torch.cat(quality).double().cpu().numpy()


def of_vqgan(tests: Instruments, quality: np.ndarray, draws: int) -> list[Score]:
    """PSNR in dB of held-out pictures: their mean, and that of the worst style."""
    means = {style: quality[tests.style == style].mean() for style in np.unique(tests.style)}
    worst = min(means, key=means.get)
    parts = f"{quality[~tests.unseen].mean():.1f} dB in trained styles"
    if tests.unseen.any():
        parts += f", {quality[tests.unseen].mean():.1f} dB in styles never trained"
    name = tests.judge.style_names[worst]
    return [
        mean("VQGAN: PSNR", quality, "dB", draws, parts, bar=25.0),
        mean("VQGAN: worst style", quality[tests.style == worst], "dB", draws, f"of all styles: {name}", bar=18.0),
    ]


def silhouette_iou(model: StyleAR, picture: np.ndarray, mask: np.ndarray, point: tuple | None) -> float:
    """IoU of the mask that the model's segmenter finds, at a point or by itself, with `mask` uint8; 0 for none."""
    try:
        found = model.segment(picture, points=None if point is None else [point]).numpy() > 0.5
    except BadInput:
        return 0.0
    truth = mask > 127
    return float((found & truth).sum() / max(1, (found | truth).sum()))


def point_in(mask: np.ndarray, number: int) -> tuple[float, float]:
    """A point of a mask uint8 [H, W], anywhere in it, drawn by number; the middle of an empty one."""
    y, x = np.nonzero(mask > 127)
    if not len(x):
        return mask.shape[1] / 2, mask.shape[0] / 2
    one = np.random.default_rng(number).integers(len(x))
    return float(x[one]) + 0.5, float(y[one]) + 0.5


def of_sam(model: StyleAR, tests: Instruments, rows: np.ndarray, draws: int) -> list[Score]:
    """IoU of the segmenter's masks of held-out pictures, with a point on the object and with nothing."""
    found = [
        [silhouette_iou(model, tests.pictures[i], tests.masks[i], point_in(tests.masks[i], i) if point else None)
         for i in rows]
        for point in (True, False)
    ]  # fmt: skip
    names = (("SAM: IoU from a point", "a point anywhere on the object", 0.85), ("SAM: IoU from nothing", "", 0.8))
    return [
        mean(name, np.array(one), "", draws, how or "the salient object", bar=bar)
        for (name, how, bar), one in zip(names, found, strict=True)
    ]


def timed(name: str, work: Callable[[int], object], times: int, bar: float, how: str) -> Score:
    """The median seconds of `work(0)`, `work(1)`, ... by the clock, two threads at most; the interval is the range.

    Where others use more than a tenth of the machine meanwhile, a miss is not judged. CPU seconds are told too.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(min(2, threads))
    gc.collect()
    try:
        idle, own, begin, seconds = _idle(), time.process_time(), time.perf_counter(), []
        for k in range(times):
            start = time.perf_counter()
            work(k)
            seconds.append(time.perf_counter() - start)
        whole, own, idle = time.perf_counter() - begin, time.process_time() - own, _idle() - idle
    finally:
        torch.set_num_threads(threads)
    cores = os.cpu_count() or 1
    others = max(0.0, 1 - (idle + own) / (whole * cores))
    quiet = others <= QUIET
    told = (
        f"{how}; median, interval is the range; {own / times:.2f} CPU s each, {min(2, threads)} threads, {cores} cores"
    )
    told += "" if quiet else f"; the machine was busy: others used {100 * others:.0f} % of it"
    return Score(
        name, float(np.median(seconds)), min(seconds), max(seconds), "s", f"{times}", told,
        bar=bar, at_least=False, judged=quiet,
    )  # fmt: skip


def _idle() -> float:
    """Seconds that all cores together have been idle."""
    times = psutil.cpu_times()
    return times.idle + getattr(times, "iowait", 0.0)
