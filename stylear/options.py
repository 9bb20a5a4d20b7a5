"""What python -m stylear can be told: its commands, their options and the values those take."""

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from reprlib import repr as short

PROMPTS = ("a rabbit", "a rocket", "a tree", "a house", "a guitar", "an apple", "a skull", "an umbrella")


def parser(runs: Mapping[str, Callable]) -> argparse.ArgumentParser:
    """The parser of a command line whose COMMAND sets `run` to that of `runs`, described by its docstring."""
    whole = _Parser(prog="python -m stylear", description="Pictures in the style of a reference.")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    one = _command(commands, "generate", runs["generate"], "one picture, or a batch, of a prompt in a style")
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

    many = _command(commands, "sheet", runs["sheet"], "a contact sheet of several styles by several prompts")
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

    timed = _command(commands, "bench", runs["bench"], "how fast the sampler is, and what limits it")
    subject = timed.add_mutually_exclusive_group()
    subject.add_argument("--model", "--base", default="mini", help="mini, or the base model's folder or file")
    for part in ("adapter", "vqgan", "image-encoder"):
        timed.add_argument(f"--{part}", help="its folder or file (searched for in the model's folder)")
    subject.add_argument("--shape", choices=("7b", "mid", "mini"), help="random weights of this shape, not a model's")
    timed.add_argument("--windows", type=_window, nargs="+", default=[1, 4, 8, 16, "auto"], help="(1 4 8 16 auto)")
    timed.add_argument("--side", type=_whole, help="codes on each side of the picture (the model's own)")
    timed.add_argument("--batch", type=_whole, default=1, help="how many pictures at once (%(default)s)")
    timed.add_argument("--cfg", type=_number, default=4.0, help="guidance; 1 is none (%(default)s)")
    timed.add_argument("--top-k", type=_whole, default=2000, help="(%(default)s)")
    released = timed.add_mutually_exclusive_group()
    released.add_argument("--reference-passes", type=_whole, help="time so many tokens of the released loop (all)")
    released.add_argument("--no-reference", action="store_true", help="leave the released loop out")
    timed.add_argument("--pictures", type=_whole, default=4, help="mean over so many, or so many batches (%(default)s)")
    timed.add_argument("--repeat", type=_whole, default=1, help="draw each so often and take the fastest (%(default)s)")
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

    files = _command(commands, "info", runs["info"], "what each file or folder holds")
    files.add_argument("paths", nargs="+", metavar="PATH")

    turned = _command(commands, "convert", runs["convert"], "a pickle or shards to one safetensors file")
    turned.add_argument("source", metavar="SRC", help="a .pth, .ckpt or .bin, an index of shards, or their folder")
    turned.add_argument("target", metavar="DST", help="a .safetensors")
    turned.add_argument("--overwrite", action="store_true", help="replace a file that is there")

    fetched = _command(commands, "download", runs["download"], "the public parts of the released 7B model, about 20 GB")
    fetched.add_argument("folder", metavar="FOLDER", help="where they go, for ComfyUI models/stylear/NAME")
    names = ("base", "adapter", "vqgan", "image_encoder", "segmenter")
    fetched.add_argument("--parts", nargs="+", choices=names, default=[], help="only these (all)")
    fetched.add_argument("--depth", action="store_true", help="the model that follows depth maps")
    fetched.add_argument("--accept", action="store_true", help="you accept the terms that are printed")
    fetched.add_argument("--endpoint", help="a mirror's address (HF_ENDPOINT, or that of huggingface_hub)")
    fetched.add_argument("--offline", action="store_true", help="no network: check what is there by its SHA256SUMS")
    return whole


class _Parser(argparse.ArgumentParser):
    """argparse's, which takes a lone `--` for a name that is missing, as an empty list."""

    def parse_known_args(self, args=None, namespace=None):
        found, left = super().parse_known_args(args, namespace)
        for action in self._actions:
            if not action.option_strings and action.nargs is None and getattr(found, action.dest, None) == []:
                self.error(f"{action.metavar} is missing behind --")
        return found, left


def _command(commands, name: str, run: Callable, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=run.__doc__)
    command.set_defaults(run=run)
    return command


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
    if text == "auto":
        return text
    with _said(text, "is neither auto nor a whole number"):
        return int(text)


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
