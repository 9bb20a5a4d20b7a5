"""Settings of a command: a commented YAML file, changed by `key=value`, checked as one frozen object."""

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticUndefined, to_jsonable_python

from stylear.errors import BadInput

CONFIGS = Path(__file__).parent / "configs"


class Settings(BaseModel):
    """What a command can be told; a subclass adds the fields, each with its bounds and a description."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class ModelPaths(Settings):
    """Which model: "mini" for the bundled one, or a folder or file for each part, as StyleAR.load takes them."""

    base: str = "mini"
    adapter: str | None = None
    vqgan: str | None = None
    image_encoder: str | None = None
    segmenter: str | None = None


S = TypeVar("S", bound=Settings)


def read_settings(kind: type[S], file: Path, changes: Sequence[str] = ()) -> S:
    """The settings `kind` from a YAML file with `changes`, each `key=value` or `part.key=value` (value as YAML).

    Raises BadInput naming the file, the line and the key: for a file that is missing or no YAML, an unknown key (with
    the likeliest one), a value of the wrong kind or out of bounds. Aliases and tags that make objects are refused.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The settings {file} cannot be read: give a YAML file ({error}).") from error
    values, lines = _parse(text, str(file))
    for change in changes:
        key, sign, value = change.partition("=")
        if not sign or not key:
            raise BadInput(f"{change!r} is no setting: write key=value.")
        found, _ = _parse(f"x: {value}", change)
        where = tuple(key.split("."))
        if not isinstance(_put(values, where, found.get("x")), dict):
            raise BadInput(f"{change!r}: {key.rpartition('.')[0]} has no settings below it.")
        lines[where] = change
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        told = [_tell(kind, fault, lines, str(file)) for fault in error.errors()]
        raise BadInput("\n".join(told)) from error


def describe(kind: type[Settings], prefix: str = "") -> Iterator[str]:
    """One line for each setting: its key, its default and what it does."""
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Settings):
            yield from describe(inner, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else json.dumps(to_jsonable_python(default))
        yield f"  {prefix + name} ({shown})  {field.description or ''}".rstrip()


def _parse(text: str, name: str) -> tuple[dict[str, Any], dict[tuple, str]]:
    """The mapping in a YAML text, and for each key's path where it stands."""
    lines: dict[tuple, str] = {}

    def walk(node: yaml.Node, path: tuple) -> None:
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                here = f"{name}, line {key.start_mark.line + 1}"
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
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise BadInput(f"{name}: aliases (*name) are not read. Write the value out.")
        node = yaml.compose(text, yaml.SafeLoader)
        walk(node, ()) if node else None
        values = yaml.safe_load(text)
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
    for key in path[:-1]:
        if not isinstance(values.setdefault(key, {}), dict):
            return None
        values = values[key]
    values[path[-1]] = value
    return values


def _tell(kind: type[Settings], fault: dict, lines: dict[tuple, str], file: str) -> str:
    path = fault["loc"]
    where = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), file)
    key = ".".join(map(str, path))
    if fault["type"] == "missing":
        return f"{where}: {key} is not set. Add it."
    if fault["type"] == "extra_forbidden":
        known = _names(kind, path[:-1])
        near = difflib.get_close_matches(str(path[-1]), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}."
        return f"{where}: there is no setting {key}; {hint}"
    return f"{where}: {key} is {' '.join(repr(fault['input'])[:80].split())}; {fault['msg'].lower()}."


def _names(kind: type[Settings], path: tuple) -> list[str]:
    for key in path:
        inner = kind.model_fields[key].annotation if key in kind.model_fields else None
        if isinstance(inner, type) and issubclass(inner, Settings):
            kind = inner
    return list(kind.model_fields)
