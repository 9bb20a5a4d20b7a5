"""The workflows people open are the graphs that the tests run."""

import json

import pytest
from bench import ROOT

GRAPHS = sorted((ROOT / "tests" / "api_workflows").glob("*.json"))
NAMES = [file.stem for file in GRAPHS]


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


def links(workflow: dict) -> dict[tuple[str, str], list]:
    """Of a UI-format workflow: where the link into (node, input) comes from, as the API format says it."""
    places = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    return {
        (str(node["id"]), item["name"]): places[item["link"]]
        for node in workflow["nodes"]
        for item in node.get("inputs", ())
        if item["link"] is not None
    }


def test_every_workflow_has_an_api_twin_and_nothing_else_is_offered_as_a_template():
    assert sorted(file.stem for file in (ROOT / "workflows").glob("*.json")) == NAMES


@pytest.mark.parametrize("file", GRAPHS, ids=NAMES)
def test_a_workflow_has_the_nodes_the_links_and_the_values_of_its_api_twin(file):
    graph, workflow = read(file), read(ROOT / "workflows" / file.name)
    shown = {str(node["id"]): node for node in workflow["nodes"] if node["type"] != "MarkdownNote"}
    assert {node: body["type"] for node, body in shown.items()} == {
        node: body["class_type"] for node, body in graph.items()
    }
    linked = {
        (node, name): value
        for node, body in graph.items()
        for name, value in body["inputs"].items()
        if isinstance(value, list)
    }
    assert links(workflow) == linked
    for node, body in graph.items():
        for name, value in body["inputs"].items():
            if (node, name) not in linked:
                assert shown[node]["widgets_values_named"][name] == value, (node, name)


@pytest.mark.parametrize("file", GRAPHS, ids=NAMES)
def test_a_workflow_uses_our_nodes_with_inputs_and_choices_they_have(nodes, models, file):
    workflow = read(ROOT / "workflows" / file.name)
    waiting = {str(node["id"]) for node in workflow["nodes"] if node["mode"] == 2}  # for what the others make
    for node, body in read(file).items():
        if body["class_type"] in nodes:
            inputs = {item.id: item for item in nodes[body["class_type"]].define_schema().inputs}
            given = {name.partition(".")[0]: value for name, value in body["inputs"].items()}  # a growing one has a dot
            assert given.keys() <= inputs.keys()
            assert {name for name, item in inputs.items() if not item.optional} <= given.keys()
            for name, value in given.items():
                assert node in waiting or value in getattr(inputs[name], "options", [value])


@pytest.mark.parametrize("file", GRAPHS, ids=NAMES)
def test_the_pictures_a_workflow_begins_with_are_bundled(folders, file):
    if not folders.PICTURES[0].is_dir():
        pytest.skip("the bundled mini is not there")
    offered = {f"stylear_{picture.name}" for folder in folders.PICTURES for picture in folder.glob("*.png")}
    begun_with = {body["inputs"]["image"] for body in read(file).values() if body["class_type"] == "LoadImage"}
    assert begun_with <= offered


def test_the_blueprint_is_the_chain_of_our_nodes_with_its_inputs_to_adjust(nodes):
    (file,) = (ROOT / "subgraphs").glob("*.json")
    workflow = read(file)
    (node,), (subgraph,) = workflow["nodes"], workflow["definitions"]["subgraphs"]
    assert node["type"] == subgraph["id"] and node["title"] == subgraph["name"] == file.stem
    inside = {str(one["id"]): nodes[one["type"]].define_schema() for one in subgraph["nodes"]}
    for number, name in node["properties"]["proxyWidgets"]:
        assert name in {"control_after_generate", *(item.id for item in inside[number].inputs)}
    assert [item["type"] for item in node["inputs"] if "widget" not in item] == ["IMAGE"]
    assert {item["type"] for item in node["outputs"]} == {"IMAGE", "MASK"}


def test_every_workflow_says_what_to_adjust():
    for name in NAMES:
        notes = [node for node in read(ROOT / "workflows" / f"{name}.json")["nodes"] if node["type"] == "MarkdownNote"]
        assert len(notes) == 1 and notes[0]["widgets_values"][0].startswith("## ")


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_has_a_thumbnail(name):
    if not (ROOT / "stylear" / "mini" / "base").is_dir():
        pytest.skip("the bundled mini is not there")
    assert (ROOT / "workflows" / f"{name}.jpg").read_bytes().startswith(b"\xff\xd8")
