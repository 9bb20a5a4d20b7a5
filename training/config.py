"""Settings of a command: a commented YAML file, changed by `key=value`, checked as one frozen object."""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from stylear.errors import BadInput
from stylear.files import to_path

CONFIGS = Path(__file__).parent / "configs"
MAX_BYTES = 1 << 17
MAX_TOLD = 20  # faults of a file
MAX_DEPTH = 20  # parts of a key


class Settings(BaseModel):
    """What a command can be told; a subclass adds the fields, each with its bounds and a description."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
    instead: ClassVar[dict[str, str]] = {}  # settings of other commands by key: what to do about them in this one


class FrozenPaths(Settings):
    """The parts that stay as they are: "mini" for the bundled ones, or a folder or file for each."""

    base: str = Field("mini", description="folder of the base, or mini for the bundled model")
    vqgan: str | None = Field(None, description="folder or file; by default looked for with the base")
    image_encoder: str | None = Field(None, description="folder or file; by default looked for with the base")


class ModelPaths(FrozenPaths):
    """A whole model, as StyleAR.load takes it."""

    adapter: str | None = Field(None, description="folder of LoRA and resampler; by default looked for with the base")
    segmenter: str | None = Field(None, description="folder or file; by default looked for with the base")


S = TypeVar("S", bound=Settings)


def read_settings(kind: type[S], file: Path, changes: Sequence[str] = ()) -> S:
    """The settings `kind` from a YAML file with `changes`, each `key=value` or `part.key=value` (value as YAML).

    Raises BadInput naming the file, the line and the key: for a file that is missing or no YAML, an unknown key (with
    the likeliest one), a value of the wrong kind or out of bounds. Aliases and tags that make objects are refused.
    Plain words are read as YAML 1.2 does: `no` and `1:30` are text, `010` is ten, 1e-4 is a number.
    """
    values, lines = _parse(_read(file), str(file))
    for change in changes:
        where, value = _split(change)
        if not isinstance(_put(values, where, value), dict):
            raise BadInput(f"{brief(change)}: {'.'.join(where[:-1])} has no settings below it.")
        lines = {path: line for path, line in lines.items() if path[: len(where)] != where} | {where: brief(change)}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = error.errors()
        told = [_tell(kind, fault, lines, str(file)) for fault in faults[:MAX_TOLD]]
        if len(faults) > MAX_TOLD:
            told.append(f"{file}: and {len(faults) - MAX_TOLD} more. Correct these first.")
        raise BadInput("\n".join(told)) from error


def describe(kind: type[S], settings: S | None = None, prefix: str = "") -> Iterator[str]:
    """One line for each setting: its key, its value, what it may be and what it does.

    The value is that of `settings`, and the default's without them.
    """
    for name, field in kind.model_fields.items():
        inner, many = _inside(field.annotation)
        value = field.get_default(call_default_factory=True) if settings is None else getattr(settings, name)
        if inner is None or many or value is None:
            shown = "required" if value is PydanticUndefined else json.dumps(to_jsonable_python(value))
            told = "; ".join(part for part in (shown, _bounds(field)) if part)
            yield f"  {prefix}{name} ({told})  {field.description or ''}".rstrip()
        if inner is not None:
            given = value if isinstance(value, inner) else None
            yield from describe(inner, given, f"{prefix}{name}[]." if many else f"{prefix}{name}.")


class PlainLoader(yaml.SafeLoader):
    """Plain data only, without aliases, which swell, and tags, at which PyYAML ends in nearly any error."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            told = "aliases (*name) are not read; write the value out"
            raise yaml.MarkedYAMLError(problem=told, problem_mark=event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem="tags (!name) are not read; leave it out", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


class _Loader(PlainLoader):
    """Of the plain words only YAML 1.2's null, true, false and numbers."""

    yaml_implicit_resolvers: dict = {}


for _tag, _pattern in {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?",
}.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), None)


def _read(file: Path) -> str:
    to_path(file, "settings")
    try:
        if file.exists() and not file.is_file():
            raise BadInput(f"The settings {file} are no file: give a YAML file.")
        if file.stat().st_size > MAX_BYTES:
            raise BadInput(f"The settings {file} are {file.stat().st_size} bytes long: give a YAML file.")
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BadInput(f"There are no settings {file}: give the path of a YAML file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The settings {file} cannot be read: give a YAML file in UTF-8. ({error})") from error


def _split(change: str) -> tuple[tuple[str, ...], Any]:
    """The path and the value of `part.key=value`."""
    key, sign, text = change.partition("=")
    where = tuple(key.split("."))
    if not sign or not all(where) or len(where) > MAX_DEPTH:
        raise BadInput(f"{brief(change)} is no setting: write key=value.")
    found, _ = _parse(f"x: {text}", brief(change))
    if found.keys() != {"x"}:
        raise BadInput(f"{brief(change)} is more than one value: put it in quotes.")
    return where, found["x"]


def _parse(text: str, name: str) -> tuple[dict[str, Any], dict[tuple, str]]:
    """The mapping in a YAML text, and for each key's path where it stands."""
    lines: dict[tuple, str] = {}

    def walk(node: yaml.Node, path: tuple) -> None:
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                here = f"{name}, line {key.start_mark.line + 1}"
                if key.tag != "tag:yaml.org,2002:str":
                    raise BadInput(f"{here}: a key has to be a word.")
                if key.value in seen:
                    raise BadInput(f"{here}: {key.value} is there twice. Keep one.")
                seen.add(key.value)
                lines[(*path, key.value)] = here
                walk(value, (*path, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                lines[(*path, i)] = f"{name}, line {value.start_mark.line + 1}"
                walk(value, (*path, i))

    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        walk(node, ()) if node else None
        values = loader.construct_document(node) if node else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}, line {mark.line + 1}" if mark else name
        raise BadInput(
            f"{where}: this is no YAML that can be read: {error.problem or error.context}. "
            "Text with such signs in it goes in quotes."
        ) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{name} is no YAML that can be read: {' '.join(str(error).split())}") from error
    if values is None:
        return {}, lines
    if not isinstance(values, dict):
        raise BadInput(f"{name} has to be `key: value` lines.")
    return values, lines


def _put(values: dict, path: tuple, value: Any) -> Any:
    """Set a value inside; what holds it, which is no dict where a setting without others below it is in the way."""
    for key in path[:-1]:
        if values.get(key) is None:
            values[key] = {}
        if not isinstance(values[key], dict):
            return None
        values = values[key]
    values[path[-1]] = value
    return values


def _tell(kind: type[Settings], fault: dict, lines: dict[tuple, str], file: str) -> str:
    path, message = fault["loc"], fault["msg"].removeprefix("Value error, ")
    nearest = [path[:n] for n in range(len(path), 0, -1)] + [at for at in lines if path and at[: len(path)] == path]
    where = next((lines[at] for at in nearest if at in lines), file)
    key = ".".join(map(str, path))
    if fault["type"] == "missing":
        return f"{where}: {key} is not set. Add it."
    if fault["type"] == "extra_forbidden":
        known = [".".join(map(str, (*path[:-1], name))) for name in _names(kind, path[:-1])]
        near = difflib.get_close_matches(key, known, 1)
        hint = kind.instead.get(key) or (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}.")
        return f"{where}: there is no setting {key}; {hint}"
    if fault["type"] == "value_error":
        return f"{where}: {key + ': ' if key else ''}{message}"
    if fault["type"] in ("model_type", "model_attributes_type"):
        message = "it has settings below it: give them as key: value, or leave it out"
    elif fault["type"] in ("string_type", "path_type"):
        message = "it has to be text: put it in quotes"
    return f"{where}: {key} is {brief(fault['input'])}; {message[:1].lower()}{message[1:]}."


def _names(kind: type[Settings], path: tuple) -> list[str]:
    for key in path:
        if key in kind.model_fields:
            kind = _inside(kind.model_fields[key].annotation)[0] or kind
    return list(kind.model_fields)


def _inside(annotation: Any) -> tuple[type[Settings] | None, bool]:
    """The settings that a field holds, also when they are optional, and whether it holds many of them."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation, False
    for argument in get_args(annotation):
        inner, many = _inside(argument)
        if inner:
            return inner, many or get_origin(annotation) in (list, tuple, dict)
    return None, False


def brief(value: Any) -> str:
    """A value in one line of an error, cut off after 80 characters."""
    try:
        text = " ".join(repr(value).split())
    except (RecursionError, ValueError):  # nested without end, or a number of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _bounds(field: FieldInfo) -> str:
    """What a field may be: its choices, or the bounds of a number."""
    choices = [value for part in (field.annotation, *get_args(field.annotation)) for value in _choices(part)]
    if choices:
        return " | ".join(map(str, choices))
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "a multiple of"}
    return ", ".join(
        f"{sign} {getattr(rule, name)}"
        for rule in field.metadata
        for name, sign in signs.items()
        if getattr(rule, name, None) is not None
    )


def _choices(annotation: Any) -> tuple:
    return get_args(annotation) if get_origin(annotation) is Literal else ()
