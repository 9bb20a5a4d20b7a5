"""Stands in for comfy_api.latest: the parts of ComfyUI's V3 node interface that our nodes use.

It knows no keyword that ours do not use, so an invented one fails here as it does in ComfyUI.
"""

from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import Any


class ControlAfterGenerate(Enum):
    fixed = "fixed"
    randomize = "randomize"


class Hidden(Enum):
    unique_id = "UNIQUE_ID"


@dataclass
class Input:
    id: str
    display_name: str | None = None
    optional: bool = False
    tooltip: str | None = None
    advanced: bool | None = None


@dataclass
class WidgetInput(Input):
    default: Any = None


@dataclass
class NumberInput(WidgetInput):
    min: float | None = None
    max: float | None = None
    step: float | None = None
    control_after_generate: bool | ControlAfterGenerate | None = None


@dataclass
class StringInput(WidgetInput):
    multiline: bool = False
    placeholder: str | None = None
    dynamic_prompts: bool | None = None


@dataclass
class ComboInput(WidgetInput):
    options: list | None = None


@dataclass
class Output:
    id: str | None = None
    display_name: str | None = None
    tooltip: str | None = None


def Custom(io_type: str, input_class: type[Input] = Input) -> SimpleNamespace:
    """A socket type: its name, and classes for inputs and outputs that carry it."""
    return SimpleNamespace(
        io_type=io_type,
        Input=type(f"{io_type}Input", (input_class,), {"io_type": io_type}),
        Output=type(f"{io_type}Output", (Output,), {"io_type": io_type}),
    )


@dataclass
class Schema:
    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    description: str = ""
    search_aliases: list[str] = field(default_factory=list)
    is_output_node: bool = False
    hidden: list[Hidden] = field(default_factory=list)

    def validate(self) -> None:
        ids = [item.id for item in self.inputs]
        if len(ids) != len(set(ids)):
            raise ValueError(f"Input ids are not unique: {ids}")


class NodeOutput:
    def __init__(self, *args: Any, ui: dict | None = None) -> None:
        self.args = args
        self.ui = ui

    @property
    def result(self) -> tuple | None:
        return self.args or None


class ComfyNode:
    hidden = None  # what ComfyUI gives the class that it prepares for a run

    @classmethod
    def define_schema(cls) -> Schema:
        raise NotImplementedError

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        schema = cls.define_schema()
        schema.validate()
        return schema


class ComfyExtension:
    async def on_load(self) -> None:
        """Called once, before the nodes are asked for."""

    async def get_node_list(self) -> list[type[ComfyNode]]:
        raise NotImplementedError


@dataclass
class TemplatePrefix:
    """Sockets PREFIX0, PREFIX1 and so on, that appear as they are needed."""

    input: Input
    prefix: str
    min: int = 1
    max: int = 10


@dataclass
class AutogrowInput(Input):
    template: TemplatePrefix | None = None


io = SimpleNamespace(
    Custom=Custom,
    Autogrow=SimpleNamespace(Input=AutogrowInput, TemplatePrefix=TemplatePrefix),
    ControlAfterGenerate=ControlAfterGenerate,
    Hidden=Hidden,
    Int=Custom("INT", NumberInput),
    Float=Custom("FLOAT", NumberInput),
    String=Custom("STRING", StringInput),
    Boolean=Custom("BOOLEAN", WidgetInput),
    Combo=Custom("COMBO", ComboInput),
    Image=Custom("IMAGE"),
    Mask=Custom("MASK"),
    Schema=Schema,
    NodeOutput=NodeOutput,
    ComfyNode=ComfyNode,
)
