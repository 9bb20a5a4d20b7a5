"""The command line: python -m stylear generate | sheet | info | convert | bench | download."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from reprlib import repr as short
from typing import TextIO

from .checks import whole
from .errors import BadInput, StyleARError

PATHS = (
    "negative",
    "region",
    "condition",
    "mask",
    "content",
    "model",
    "adapter",
    "vqgan",
    "image_encoder",
    "segmenter",
)
OVERWRITE = "pass --overwrite"
PROMPTS = ("a cat", "a rocket", "a tree", "a house")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status: 0, 2 with the reason on stderr, or 130 when stopped."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (StyleARError, OSError) as error:
        say(f"error: {error}", sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        from .memory import out_of_memory  # seconds to import

        if not out_of_memory(error):
            raise
        say(f"error: Memory ran out: close other programs, or load with --quantize int8. ({error})", sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("error: Stopped.", sys.stderr)
        return 130
    return 0


def generate(options: argparse.Namespace) -> None:
    """Write one picture, or a numbered one for each of a batch."""
    from PIL.PngImagePlugin import PngInfo

    from .files import check_new, new_file
    from .pipeline import MAX_BATCH
    from .presets import save_preset

    targets = _targets(Path(options.out), whole("--batch", options.batch, 1, MAX_BATCH))
    kept = [] if options.save_style is None else [_safetensors(Path(options.save_style))]
    for target in targets + kept:
        check_new(target, options.overwrite, OVERWRITE)
    cut = (options.point, options.box, options.mask, options.content, options.alpha, options.beta)
    options.subtract = options.subtract or any(value is not None for value in cut)
    model = _load(options)
    style = _style(model, options)
    for target in kept:
        save_preset(style, target, overwrite=options.overwrite)
    if options.gamma:
        style = style.with_noise(options.gamma, options.noise_seed)
    condition = _condition(model, options)
    with _bar("codes") as progress:
        pictures = model.generate(
            options.prompt,
            style,
            condition=condition,
            width=options.width,
            height=options.height,
            seed=options.seed,
            batch_size=options.batch,
            cfg=options.cfg,
            style_cfg=options.style_cfg,
            style_strength=options.style_strength,
            negative=None if options.negative is None else _read_style(model, options.negative),
            top_k=options.top_k,
            temperature=options.temperature,
            window=options.window,
            progress=progress,
        )
    told = _told(options)
    for index, (picture, target) in enumerate(zip(pictures, targets, strict=True)):
        text = PngInfo()
        text.add_text("parameters", json.dumps({**told, "seed": options.seed + index, "batch": 1}))
        with new_file(target, options.overwrite) as draft:
            _to_image(picture).save(draft, format="PNG", pnginfo=text)
        say(str(target))


def sheet(options: argparse.Namespace) -> None:
    """Write a contact sheet of several styles by several prompts."""
    from .files import check_new, new_file
    from .images import open_image
    from .pipeline import MINI
    from .sheet import contact_sheet

    target = _png(Path(options.out))
    check_new(target, options.overwrite, OVERWRITE)
    paths = options.styles or sorted((MINI / "references").glob("*.png"))
    if not paths:
        raise BadInput("There are no reference pictures. Give some with --styles.")
    references = [open_image(path) for path in paths]
    model = _load(options)
    rows = []
    with _bar("pictures") as progress:
        for reference in references:
            style = model.encode_style(reference).with_noise(options.gamma, options.noise_seed)
            rows.append([])
            for prompt in options.prompts:
                settings = {name: getattr(options, name) for name in ("cfg", "top_k", "temperature", "window")}
                rows[-1].append(_to_image(model.generate(prompt, style, seed=options.seed, **settings)[0]))
                progress(sum(map(len, rows)), len(references) * len(options.prompts))
    with new_file(target, options.overwrite) as draft:
        contact_sheet(references, options.prompts, rows).save(draft, format="PNG")
    say(str(target))


def info(options: argparse.Namespace) -> None:
    """Print what each file is: its parts, their sizes, dtypes and parameters."""
    from .checkpoint.describe import describe

    for path in options.paths:
        say("\n".join(describe(path)))


def convert(options: argparse.Namespace) -> None:
    """Turn a pickle or shards into one safetensors file."""
    from .convert import convert as run
    from .files import check_new

    check_new(Path(options.target), options.overwrite, OVERWRITE)
    for part in run(options.source, options.target, options.overwrite):
        say(f"{options.target}: {part}")


def bench(options: argparse.Namespace) -> None:
    """Measure the sampler against the released loop and the device's memory bandwidth."""
    from . import bench as measures
    from .drawing import SamplingSettings
    from .pipeline import MAX_BATCH, _device, _dtype

    settings, batch = SamplingSettings(options.cfg, options.top_k), whole("--batch", options.batch, 1, MAX_BATCH)
    device = _device(options.device)
    if options.shape:
        subject = measures.random_subject(options.shape, device, _dtype(options.dtype, device))
    else:
        parts = {name: getattr(options, name) for name in ("adapter", "vqgan", "image_encoder")}
        subject = measures.loaded_subject(options.model, parts, device, options.dtype)
    passes = options.reference_passes
    if passes is not None:
        whole("--reference-passes", passes, 0, 2**31 - 1)
    passes = 0 if options.no_reference else passes
    result = measures.run(
        *(subject, options.windows, settings, batch, passes, options.quantize, options.compile),
        repeat=whole("--repeat", options.repeat, 1, 1000),
        said=lambda name: print(f"measuring {name}", file=sys.stderr),
    )
    print(json.dumps(result, indent=1) if options.json else measures.table(result))


def download(options: argparse.Namespace) -> None:
    """Fetch the public parts of the released 7B model into a folder, or with --offline check what is there.

    For ComfyUI the folder is models/stylear/NAME; Load StyleAR then lists it as NAME.
    """
    from . import download as fetching

    parts = fetching.chosen(options.parts, options.depth)
    if options.offline:
        found = fetching.verify(options.folder, parts)
    else:
        print("\n".join(fetching.terms(parts)), file=sys.stderr)
        with _bars() as progress:
            found = fetching.download(options.folder, parts, options.accept, options.endpoint, progress)
    print("\n".join(map(str, found)))


def _parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="python -m stylear", description="Pictures in the style of a reference.")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    one = _command(commands, "generate", generate, "one picture, or a batch, of a prompt in a style")
    one.add_argument(
        "--style",
        required=True,
        nargs="+",
        help="the reference picture, or style tokens saved as .safetensors; or several",
    )
    one.add_argument("--weights", type=_weights, help="2,1: how much of each of several styles (equal parts)")
    one.add_argument("--prompt", required=True, help="what to draw")
    one.add_argument("--out", required=True, help="a .png; with --batch, out_0.png, out_1.png and so on")
    one.add_argument("--condition", help="a depth map, near is white, that the composition follows")
    one.add_argument(
        "--condition-kind",
        choices=("depth", "segmentation"),
        help="segmentation: --condition shows areas in flat colours, for an adapter trained with such maps (depth)",
    )
    one.add_argument(
        "--subtract",
        action="store_true",
        help="keep the salient object of the reference out (SAM); the options down to --beta ask for it too",
    )
    one.add_argument("--point", action="append", type=_numbers, help="x,y on that object; may be repeated (SAM)")
    one.add_argument("--box", type=_numbers, help="left,top,right,bottom around it (SAM)")
    one.add_argument("--mask", help="a picture that is white where it is, in place of SAM")
    one.add_argument("--content", help="a picture of what must not come along, in place of cutting the reference")
    one.add_argument("--alpha", type=_number, help="share of the style that the subtraction leaves untouched (0.2)")
    one.add_argument("--beta", type=_number, help="how much of the content is subtracted (0.8)")
    one.add_argument("--style-cfg", type=_number, help="the style's own guidance; --cfg is then the prompt's")
    one.add_argument("--style-strength", type=_number, default=1.0, help="0 is no style, above 1 exaggerates (1)")
    one.add_argument("--negative", help="a picture, or saved style tokens, whose style is pushed away from")
    one.add_argument("--save-style", help="also keep the style, without noise, as this .safetensors, with a thumbnail")
    one.add_argument("--region", help="a picture that is white where the reference has the style (all of it)")
    one.add_argument("--batch", type=_whole, default=1, help="how many pictures, of seed, seed + 1 and so on")
    one.add_argument("--width", type=_whole, help="pixels, rounded to the model's grid (the size it was trained at)")
    one.add_argument("--height", type=_whole, help="the same for the height")

    many = _command(commands, "sheet", sheet, "a contact sheet of several styles by several prompts")
    many.add_argument("--styles", nargs="+", help="reference pictures (those that come with the mini)")
    many.add_argument("--prompts", nargs="+", default=list(PROMPTS), help="what to draw")
    many.add_argument("--out", default="contact_sheet.png", help="a .png (%(default)s)")

    for command in (one, many):
        command.add_argument("--model", "--base", default="mini", help="mini, or the base model's folder or file")
        for part in ("adapter", "vqgan", "image-encoder", "segmenter"):
            command.add_argument(f"--{part}", help="its folder or file (searched for in the model's folder)")
        command.add_argument("--gamma", type=_number, default=0.1, help="noise on the style tokens (%(default)s)")
        command.add_argument("--noise-seed", type=_whole, default=0, help="which noise (%(default)s)")
        command.add_argument("--seed", type=_whole, default=0, help="which picture (%(default)s)")
        command.add_argument("--cfg", type=_number, default=4.0, help="guidance; 1 is none (%(default)s)")
        command.add_argument("--top-k", type=_whole, default=2000, help="likeliest codes to draw from; 1 is greedy")
        command.add_argument("--temperature", type=_number, default=1.0, help="(%(default)s)")
        command.add_argument(
            "--window",
            type=_window,
            default="auto",
            help="codes a pass draws, at most all of the picture's, or auto; in float32 it changes only the time",
        )
        command.add_argument("--device", help="cpu, cuda or mps (the best there is)")
        command.add_argument("--dtype", help="float32, bfloat16 or float16 (bfloat16 on cuda, else float32)")
        command.add_argument("--quantize", help="int8 or int4: the base in so many bits, for less memory")
        command.add_argument("--overwrite", action="store_true", help="replace files that are there")

    timed = _command(commands, "bench", bench, "how fast the sampler is, and what limits it")
    timed.add_argument("--model", "--base", default="mini", help="mini, or the base model's folder or file")
    for part in ("adapter", "vqgan", "image-encoder"):
        timed.add_argument(f"--{part}", help="its folder or file (searched for in the model's folder)")
    timed.add_argument("--shape", choices=("7b", "mid", "mini"), help="random weights of this shape, not a model's")
    timed.add_argument("--windows", type=_window, nargs="+", default=[1, 4, 8, 16, "auto"], help="(1 4 8 16 auto)")
    timed.add_argument("--batch", type=_whole, default=1, help="how many pictures at once (%(default)s)")
    timed.add_argument("--cfg", type=_number, default=4.0, help="guidance; 1 is none (%(default)s)")
    timed.add_argument("--top-k", type=_whole, default=2000, help="(%(default)s)")
    timed.add_argument("--reference-passes", type=_whole, help="time so many tokens of the released loop (all)")
    timed.add_argument("--repeat", type=_whole, default=1, help="measure so often and take the fastest (%(default)s)")
    timed.add_argument("--no-reference", action="store_true", help="leave the released loop out")
    timed.add_argument("--device", help="cpu, cuda or mps (the best there is)")
    timed.add_argument("--dtype", help="float32, bfloat16 or float16 (bfloat16 on cuda, else float32)")
    timed.add_argument(
        "--quantize",
        choices=("int8", "int4"),
        nargs="+",
        default=[],
        help="the base in so many bits, and what it loses",
    )
    timed.add_argument("--compile", action="store_true", help="every window once more, rewritten by torch.compile")
    timed.add_argument("--json", action="store_true", help="print JSON")

    files = _command(commands, "info", info, "what each file or folder holds")
    files.add_argument("paths", nargs="+", metavar="PATH")

    turned = _command(commands, "convert", convert, "a pickle or shards to one safetensors file")
    turned.add_argument("source", metavar="SRC", help="a .pth, .ckpt or .bin, an index of shards, or their folder")
    turned.add_argument("target", metavar="DST", help="a .safetensors")
    turned.add_argument("--overwrite", action="store_true", help="replace a file that is there")

    fetched = _command(commands, "download", download, "the public parts of the released 7B model, about 20 GB")
    fetched.add_argument("folder", metavar="FOLDER", help="where they go, for ComfyUI models/stylear/NAME")
    names = ("base", "adapter", "vqgan", "image_encoder", "segmenter")
    fetched.add_argument("--parts", nargs="+", choices=names, default=[], help="only these (all)")
    fetched.add_argument("--depth", action="store_true", help="the model that follows depth maps")
    fetched.add_argument("--accept", action="store_true", help="you accept the terms that are printed")
    fetched.add_argument("--endpoint", help="a mirror's address (HF_ENDPOINT, or that of huggingface_hub)")
    fetched.add_argument("--offline", action="store_true", help="no network: check what is there by its SHA256SUMS")
    return whole


def say(text: str, stream: TextIO | None = None) -> None:
    """Print text in which names of files and of weights stand: what would move the cursor is spelled out.

    Where nobody reads any more, as behind `| head`, nothing is printed, and the work goes on.
    """
    shown = "".join(sign if sign.isprintable() or sign == "\n" else ascii(sign)[1:-1] for sign in text)
    stream = stream or sys.stdout
    code = stream.encoding or "utf-8"
    try:
        print(shown.encode(code, "backslashreplace").decode(code), file=stream, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _command(commands, name: str, run: Callable, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=run.__doc__)
    command.set_defaults(run=run)
    return command


def _load(options: argparse.Namespace):
    from .pipeline import StyleAR

    return StyleAR.load(
        options.model,
        adapter=options.adapter,
        vqgan=options.vqgan,
        image_encoder=options.image_encoder,
        segmenter=options.segmenter,
        dtype=options.dtype,
        device=options.device,
        quantize=options.quantize,
    )


def _style(model, options: argparse.Namespace):
    """The style tokens, with the content of each reference subtracted if that was asked for."""
    from .style import blend

    return blend(
        [_subtracted(model, _read_style(model, path, options.region), options) for path in options.style],
        options.weights,
    )


def _read_style(model, path: str, region: str | None = None):
    """The style of a reference picture, or of a region of it, or a saved one."""
    from .images import open_image
    from .style import StyleTokens

    if not path.lower().endswith(".safetensors"):
        return model.encode_style(open_image(path), None if region is None else open_image(region))
    if region is not None:
        raise BadInput(f"{path} has no picture to take a region of. Give the reference picture, or leave --region out.")
    return StyleTokens.load(path)


def _condition(model, options: argparse.Namespace):
    """The codes of the map, or None."""
    from .images import open_image

    if options.condition is not None:
        return model.encode_condition(open_image(options.condition), options.condition_kind or "depth")
    if options.condition_kind is not None:
        raise BadInput("There is a --condition-kind and no map. Give one with --condition.")
    return None


def _subtracted(model, style, options: argparse.Namespace):
    from .images import open_image

    if not options.subtract:
        return style
    weights = {name: getattr(options, name) for name in ("alpha", "beta")}
    return model.subtract(
        style,
        content=None if options.content is None else open_image(options.content),
        mask=None if options.mask is None else open_image(options.mask),
        points=options.point,
        box=options.box,
        **{name: weight for name, weight in weights.items() if weight is not None},
    )


def _told(options: argparse.Namespace) -> dict:
    """What a picture tells about its making: the options that were given, and of paths only the names."""
    told = {key: value for key, value in vars(options).items() if value is not None}
    told = {key: value for key, value in told.items() if key not in ("run", "out", "save_style", "overwrite")}
    told |= {key: Path(told[key]).name for key in PATHS if key in told}
    styles = [Path(path).name for path in options.style]
    return told | {"style": styles if len(styles) > 1 else styles[0]}


def _targets(out: Path, count: int) -> list[Path]:
    _png(out)
    return [out] if count == 1 else [out.with_name(f"{out.stem}_{index}{out.suffix}") for index in range(count)]


def _png(path: Path) -> Path:
    if path.suffix.lower() != ".png":
        raise BadInput(f"{path} does not end in .png. Give such a name.")
    return path


def _safetensors(path: Path) -> Path:
    if path.suffix.lower() != ".safetensors":
        raise BadInput(f"{path} does not end in .safetensors. Give such a name.")
    return path


def _to_image(picture):
    """A float picture [H, W, 3] in 0..1 as 8-bit RGB, truncated as released."""
    from PIL import Image

    return Image.fromarray((picture * 255).byte().numpy())


@contextmanager
def _bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar in bytes for each file."""
    from tqdm import tqdm

    bars = {}

    def progress(name: str, done: int, total: int) -> None:
        if name not in bars:
            bars[name] = tqdm(desc=name, total=total, unit="B", unit_scale=True, disable=None)
        bars[name].update(done - bars[name].n)

    try:
        yield progress
    finally:
        for bar in bars.values():
            bar.close()


def _number(text: str) -> float:
    with _said(text, "is not a finite number"):
        value = float(text)
        if not math.isfinite(value):
            raise ValueError
        return value


def _whole(text: str) -> int:
    with _said(text, "is not a whole number"):
        return int(text)


def _window(text: str) -> int | str:
    return text if text == "auto" else _whole(text)


def _numbers(text: str) -> tuple[float, ...]:
    with _said(text, "is not numbers of pixels with commas between them, such as 120,80"):
        return tuple(float(part) for part in text.split(","))


def _weights(text: str) -> tuple[float, ...]:
    with _said(text, "is not numbers with commas between them, such as 2,1"):
        return tuple(float(part) for part in text.split(","))


@contextmanager
def _said(text: str, reason: str) -> Iterator[None]:
    """A ValueError in argparse's message, in our words."""
    try:
        yield
    except ValueError:
        raise argparse.ArgumentTypeError(f"{short(text)} {reason}") from None


if __name__ == "__main__":
    sys.exit(main())
