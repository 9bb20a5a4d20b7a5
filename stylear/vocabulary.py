"""Token ids by name, the released prompt templates, and the layout of a picture as tokens."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short

import torch
from tokenizers import Tokenizer

from .errors import BadCheckpoint, BadInput, MissingPart
from .files import read_text

STYLE_TOKENS = 16
LATENTS_PER_GRID = 2
MAX_TEXT = 100_000  # characters of a prompt, far above what any model has positions for
MAX_IDS = 2**20
_RULES = ("Split", "Digits", "Punctuation", "ByteLevel")  # for cutting a text up before its pairs are merged
_MAX_RULES = 16
_MAX_PATTERN = 100  # characters

_STYLE_MARK = "*"
_OPENING = "Instant style Generation. Given image style is {style}. "
_INSTRUCTION = "Please generate an same style image according to my instruction: "  # "an same" is the released wording
_BEFORE_CONDITION = "Please generate an image according to the provided image "
_AFTER_CONDITION = " and according to my instruction: "
_BASE_REQUEST = "Generate an image of {width}x{height} according to the following prompt:\n"
_FIRST_GRID_NAME = 8800


@dataclass(frozen=True)
class Prompt:
    """A prompt as token ids, and the places among them whose embeddings the style tokens overwrite."""

    ids: tuple[int, ...]
    style_slots: tuple[int, ...]


class Vocabulary:
    """What a Chameleon `tokenizer.json` says, looked up by token name so that a smaller one works too.

    Attributes: `bos`, `image_start`, `image_end`, `new_line`, `end_of_turn` (ids); `code_ids`, int64 [K], the
    id of each picture code; `max_grid`, the largest height or width in grid steps that has a token; `size`,
    the highest id + 1.
    """

    def __init__(self, tokenizer_json: str):
        """Read the text of a `tokenizer.json`; BadCheckpoint if it is not one or lacks a token."""
        try:
            spec = json.loads(tokenizer_json)
            if not isinstance(spec, dict):
                raise ValueError("its top level has to be an object")
            words, added = spec["model"]["vocab"], spec.get("added_tokens") or ()
            self._ids: dict[str, int] = {**words, **{token["content"]: token["id"] for token in added}}
            _check_ids(spec, [*words.values(), *self._ids.values()])
            # Without added tokens, a special token spelled out in a prompt is ordinary text.
            plain = {"added_tokens": [], "post_processor": None, "padding": None, "truncation": None}
            model = {**spec["model"], "dropout": None}
            with _panics_as_errors():
                self._tokenizer = Tokenizer.from_str(json.dumps({**spec, **plain, "model": model}))
        except Exception as error:  # tokenizers raises a bare Exception
            raise BadCheckpoint(f"This is not a Hugging Face tokenizer.json: {error}") from error
        self.bos = self._id("<s>")
        self.image_start = self._id("<racm3:break>")
        self.image_end = self._id("<eoss>")
        self.end_of_turn = self._id("<reserved08706>")
        self.new_line = self._id("<reserved08799>")
        self.code_ids = torch.tensor(self._run(code_name), dtype=torch.int64)
        self._grid_ids = self._run(grid_name, start=1)
        self.max_grid = len(self._grid_ids)
        self.size = max(max(words.values()), *self._ids.values()) + 1
        if len(set(self.code_ids.tolist())) < len(self.code_ids):
            raise BadCheckpoint("Two picture codes of this tokenizer.json are one token: use the base model's.")

    @classmethod
    def from_file(cls, path: str | Path) -> "Vocabulary":
        """Read a `tokenizer.json`; MissingPart if there is none, BadCheckpoint if it is something else."""
        path = Path(path)
        if not path.is_file():
            raise MissingPart(f"No tokenizer at {path}: put the base model's tokenizer.json there.")
        try:
            return cls(read_text(path))
        except (BadCheckpoint, UnicodeDecodeError) as error:
            raise BadCheckpoint(f"{path}: {error}") from error

    def grid_id(self, n: int) -> int:
        """Id of the token for `n` grid steps of height or width, 1 <= n <= max_grid; BadInput outside."""
        if not 1 <= n <= self.max_grid:
            raise BadInput(f"A picture of {n} grid steps has no token: a side is 1 to {self.max_grid} grid steps here.")
        return self._grid_ids[n - 1]

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text of up to MAX_TEXT characters; nothing in it is read as a special token."""
        if not isinstance(text, str):
            raise BadInput(f"A prompt is text, and this is {type(text).__name__}: pass a string.")
        if len(text) > MAX_TEXT:
            raise BadInput(f"The prompt has {len(text)} characters and there is room for {MAX_TEXT}: shorten it.")
        try:
            with _panics_as_errors():
                return self._tokenizer.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeError) as error:
            raise BadInput(f"The prompt has characters that are not valid Unicode: type it anew. ({error})") from error
        except Exception as error:  # tokenizers raises a bare Exception
            raise BadCheckpoint(f"The tokenizer cannot read this text: use the base model's. ({error})") from error

    def prompt(
        self,
        text: str,
        condition: torch.Tensor | None = None,
        *,
        style_tokens: int = STYLE_TOKENS,
        max_length: int | None = None,
    ) -> Prompt:
        """The prompt of the released StyleAR, ready for the picture's first token.

        `condition`: codes int64 [h, w] of an encoded condition picture, which then stands in the prompt.
        Unlike the released code, which overwrites every `*` and stops at a seventeenth, only the template's
        own `style_tokens` places are slots. BadInput if the prompt takes more than `max_length` tokens.
        Source: inference_solver.py, inference.py and inference_MultiCondition.py of the released StyleAR.
        """
        opening = _OPENING.format(style=" ".join(["S" + _STYLE_MARK] * style_tokens))
        if condition is None:
            body = self.encode(opening + _INSTRUCTION + text)
        else:
            body = self.encode(opening + _BEFORE_CONDITION)
            body += self.image_ids(condition)
            body += self.encode(_AFTER_CONDITION + text)
        ids = (self.bos, *body, self.end_of_turn)
        if max_length is not None and len(ids) > max_length:
            over = len(ids) - max_length
            raise BadInput(
                f"The prompt is {over} tokens longer than there is room for; a word takes one or two: shorten it."
            )
        mark = self._id(_STYLE_MARK)
        slots = tuple(place for place, token in enumerate(ids) if token == mark)[:style_tokens]
        return Prompt(ids, slots)

    def text_prompt(self, text: str, width: int, height: int) -> tuple[int, ...]:
        """The base model's own prompt for `width` x `height` pixels (Lumina-mGPT's training format)."""
        request = _BASE_REQUEST.format(width=width, height=height)
        return (self.bos, *self.encode(request + text), self.end_of_turn)

    def image_ids(self, codes: torch.Tensor) -> list[int]:
        """Picture codes int64 [h, w] as tokens: start, height, width, each row and a new line, end.

        Height and width count grid steps of two latents, height first. BadInput for an odd or too large side
        or a code outside 0..K-1.
        """
        if codes.dim() != 2 or any(side % LATENTS_PER_GRID for side in codes.shape):
            raise BadInput(f"Codes have to be [h, w] with even sides, and these are {list(codes.shape)}.")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < len(self.code_ids):
            raise BadInput(f"Codes have to be 0 to {len(self.code_ids) - 1}, and these are not.")
        height, width = codes.shape
        ids = self.image_opening(height // LATENTS_PER_GRID, width // LATENTS_PER_GRID)
        for row in self.code_ids[codes.cpu()].tolist():
            ids += [*row, self.new_line]
        return [*ids, self.image_end]

    def image_opening(self, height: int, width: int) -> list[int]:
        """The three tokens that open a picture of `height` x `width` grid steps."""
        return [self.image_start, self.grid_id(height), self.grid_id(width)]

    def _id(self, name: str) -> int:
        if name not in self._ids:
            raise BadCheckpoint(f"The tokenizer has no token {name}: use the tokenizer.json of the base model.")
        return self._ids[name]

    def _run(self, name_of: Callable[[int], str], start: int = 0) -> list[int]:
        """Ids of the tokens named name_of(start), name_of(start + 1), ... up to the first that is missing."""
        ids = [self._id(name_of(start))]
        while name_of(start + len(ids)) in self._ids:
            ids.append(self._ids[name_of(start + len(ids))])
        return ids


@contextmanager
def _panics_as_errors() -> Iterator[None]:
    """Raise a panic of tokenizers, which is no Exception and so would end whatever thread it reaches, as one."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            raise RuntimeError(str(error)) from error
        raise


def _check_ids(spec: dict, ids: list) -> None:
    """ValueError for what no tokenizer.json of a Chameleon is: it could give ids that are none, or swell text up."""
    if spec["model"].get("type", "BPE") != "BPE" or spec.get("normalizer") is not None:
        raise ValueError("it is no plain BPE, or has a normalizer")
    _check_splits(spec.get("pre_tokenizer"))
    wrong = [token for token in ids if type(token) is not int or not 0 <= token < MAX_IDS]
    if wrong:
        raise ValueError(f"{short(wrong[0])} is no id of a token")


def _check_splits(rule: dict | None) -> None:
    """ValueError for rules that could cut a text up without end: a Chameleon's are few, and each repeats one thing."""
    rules = [rule] if rule is not None else []
    if rules and rule.get("type") == "Sequence":
        rules = rule["pretokenizers"]
    if len(rules) > _MAX_RULES or any(rule.get("type") not in _RULES for rule in rules):
        raise ValueError(f"its text is split by more than {_MAX_RULES} rules, or by others than a Chameleon's")
    for pattern in (rule["pattern"].get("Regex", "") for rule in rules if rule["type"] == "Split"):
        plain = re.sub(r"\\[pP]\{\w*\}|\\.", "x", pattern)  # without properties and escapes,
        repeats = re.findall(r"[*+?{]", re.sub(r"\[[^]]*\]", "x", plain))  # and without what sets of characters hold
        if len(pattern) > _MAX_PATTERN or len(repeats) > 1 or "(?" in plain:
            raise ValueError(f"its text is split by {short(pattern)}, which may not end")


def code_name(code: int) -> str:
    """Name of picture code `code`: its decimal digits as letters, A for 0 to J for 9."""
    return "IMGIMG" + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + "Z"


def grid_name(n: int) -> str:
    """Name of the token for `n` grid steps."""
    return f"<reserved{_FIRST_GRID_NAME + n:05d}>"


def template_texts(width: int, height: int) -> tuple[str, ...]:
    """The fixed wording of every prompt template, for learning a tokenizer."""
    opening = _OPENING.format(style=" ".join(["S" + _STYLE_MARK] * STYLE_TOKENS))
    base = _BASE_REQUEST.format(width=width, height=height)
    return (opening + _INSTRUCTION, opening + _BEFORE_CONDITION, _AFTER_CONDITION, base)
