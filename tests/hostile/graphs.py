"""Runs nodes and API workflows as a host does that checks nothing, on a tiny model."""

from typing import Any

import tiny
import torch

OURS = ("LoadStyleAR", "StyleTokenEncode", "SAMSubtract", "NoiseInject", "DepthCondition", "ARSample")
OURS += ("StyleBlend", "SaveStylePreset", "LoadStylePreset")
PICTURE = torch.rand(1, 20, 24, 3, generator=torch.Generator().manual_seed(0))


class Graphs:
    """The nodes, and the tiny model that stands for whatever loads."""

    def __init__(self, nodes: dict, models):
        self.nodes = nodes
        self.folder = tiny.write_bundle(models / "tiny")
        self.model = nodes["LoadStyleAR"].execute(model="tiny").result[0]
        self.style = nodes["StyleTokenEncode"].execute(model=self.model, image=PICTURE).result[0]
        self.errors = __import__(
            f"{nodes['ARSample'].__module__.rpartition('.nodes')[0]}.stylear.errors", fromlist=["x"]
        )

    def call(self, node: str, **inputs: Any) -> tuple:
        """What a node returns for inputs, of which those that its schema does not have are left out as ComfyUI does."""
        known = {item.id for item in self.nodes[node].define_schema().inputs}
        return self.nodes[node].execute(**{name: value for name, value in inputs.items() if name in known}).result

    def lacks(self, node: str, inputs: dict) -> bool:
        """Whether ComfyUI itself would refuse a node for an input that is not there."""
        return any(item.id not in inputs for item in self.nodes[node].define_schema().inputs if not item.optional)

    def run(self, graph: Any) -> None:
        """Execute every node of an API graph in order of their links; links that lead nowhere bring None."""
        if not isinstance(graph, dict):
            return
        done: dict[str, tuple] = {}
        for name in graph:
            self._run(graph, name, done)

    def _run(self, graph: dict, name: str, done: dict[str, tuple]) -> tuple:
        if name in done:
            return done[name]
        done[name] = ()  # what a loop finds
        body = graph.get(name)
        if not isinstance(body, dict) or not isinstance(body.get("inputs"), dict):
            return ()
        inputs = grown({key: self._value(graph, value, done) for key, value in body["inputs"].items()})
        kind = body.get("class_type")
        if kind == "LoadImage":
            done[name] = (PICTURE, torch.zeros(1, 64, 64))
        elif kind == "LoadStyleAR" and inputs == {"model": "mini (bundled)"}:
            done[name] = (self.model,)
        elif isinstance(kind, str) and kind in OURS and not self.lacks(kind, inputs):
            if not large(inputs):
                done[name] = self.call(kind, **inputs)
        elif kind not in OURS:
            done[name] = tuple(map(first, inputs.values()))  # such as a text or a number of its own
        return done[name]

    def _value(self, graph: dict, value: Any, done: dict) -> Any:
        if not (isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int):
            return value
        made = self._run(graph, value[0], done) if value[0] in graph else ()
        return made[value[1]] if made and 0 <= value[1] < len(made) else None


def grown(inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs with those of a growing one (styles.style0, styles.style1, ...) gathered under its name, as in ComfyUI."""
    gathered: dict[str, Any] = {}
    for key, value in inputs.items():
        name, dot, own = key.partition(".") if isinstance(key, str) else (key, "", "")
        if not dot:
            gathered[name] = value
        elif isinstance(gathered.setdefault(name, {}), dict):
            gathered[name][own] = value
    return gathered


def first(value: Any) -> Any:
    """Of a growing input what comes first, which stands for a list: ComfyUI would run what follows for each."""
    return next(iter(value.values()), None) if isinstance(value, dict) else value


def large(inputs: dict) -> bool:
    """Whether a batch is one that is drawn in good faith, and for long."""
    batch = inputs.get("batch_size")
    return type(batch) is int and 8 < batch <= 256
