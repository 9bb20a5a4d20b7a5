"""The command line: python -m stylear generate | sheet | info | convert | bench | download."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .checks import whole
from .errors import BadInput, StyleARError
from .options import parser
from .terminal import byte_bars, open_streams, progress_bar, say

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
MAX_WINDOW = 2**20  # codes; the picture's own number is told once there is one


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status: 0, 2 with the reason on stderr, or 130 when stopped."""
    try:
        open_streams()
        options = parser(COMMANDS).parse_args(arguments)
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
    _warn(model, [options.prompt])
    style = _style(model, options)
    for target in kept:
        save_preset(style, target, overwrite=options.overwrite)
    if options.gamma:
        style = style.with_noise(options.gamma, options.noise_seed)
    condition = _condition(model, options)
    with progress_bar("codes") as progress:
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
        with new_file(target, options.overwrite, OVERWRITE) as draft:
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
    _warn(model, options.prompts)
    rows = []
    with progress_bar("pictures") as progress:
        for reference in references:
            style = model.encode_style(reference).with_noise(options.gamma, options.noise_seed)
            rows.append([])
            for prompt in options.prompts:
                settings = {name: getattr(options, name) for name in ("cfg", "top_k", "temperature", "window")}
                rows[-1].append(_to_image(model.generate(prompt, style, seed=options.seed, **settings)[0]))
                progress(sum(map(len, rows)), len(references) * len(options.prompts))
    with new_file(target, options.overwrite, OVERWRITE) as draft:
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
    from .pipeline import MAX_BATCH, to_device, to_dtype
    from .subject import loaded_subject, random_subject, square

    settings, batch = SamplingSettings(options.cfg, options.top_k), whole("--batch", options.batch, 1, MAX_BATCH)
    repeat, pictures = whole("--repeat", options.repeat, 1, 1000), whole("--pictures", options.pictures, 1, 1000)
    grid = None if options.side is None else square("--side", options.side)
    for window in options.windows:
        if window != "auto":
            whole("--windows", window, 1, MAX_WINDOW)
    passes = options.reference_passes
    if passes is not None:
        whole("--reference-passes", passes, 0, 2**31 - 1)
    passes = 0 if options.no_reference else passes
    device = to_device(options.device)
    parts = {name: getattr(options, name) for name in ("adapter", "vqgan", "image_encoder")}
    if options.shape and any(parts.values()):
        raise BadInput("A --shape has random weights and no parts. Leave it out, or the parts.")
    if options.shape:
        subject = random_subject(options.shape, device, to_dtype(options.dtype, device))
    else:
        subject = loaded_subject(options.model, parts, device, options.dtype, reference=passes != 0)
    if grid:
        subject = replace(subject, grid=grid)
    result = measures.run(
        *(subject, options.windows, settings, batch, passes, [*dict.fromkeys(options.quantize)], options.compile),
        repeat=repeat,
        pictures=pictures,
        said=lambda name: say(f"measuring {name}", sys.stderr),
    )
    say(json.dumps(result, indent=1) if options.json else measures.table(result))


def download(options: argparse.Namespace) -> None:
    """Fetch the public parts of the released 7B model into a folder, or with --offline check what is there.

    For ComfyUI the folder is models/stylear/NAME; Load StyleAR then lists it as NAME.
    """
    from . import download as fetching

    parts = fetching.chosen(options.parts, options.depth)
    if options.offline:
        found = fetching.verify(options.folder, parts)
    else:
        say("\n".join(fetching.terms(parts)), sys.stderr)
        with byte_bars() as progress:
            found = fetching.download(options.folder, parts, options.accept, options.endpoint, progress)
    say("\n".join(map(str, found)))


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


def _warn(model, prompts: Sequence[str]) -> None:
    """Say which prompts the model was never taught a word of; it draws them all the same."""
    for prompt in prompts:
        if note := model.untaught(prompt):
            say(f"note: {note}", sys.stderr)


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


COMMANDS = {run.__name__: run for run in (generate, sheet, bench, info, convert, download)}

if __name__ == "__main__":
    sys.exit(main())
