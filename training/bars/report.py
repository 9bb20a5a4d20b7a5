"""Writes the figures as JSON, Markdown and a page, with pictures of the best, typical and failed cases."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..config import Settings
from ..data.pictures import SIZE, depth_of
from ..instruments import Instruments
from ..loop import write_atomically
from ..output import provenance, write_json
from ..sheets import save_grid
from .cases import prompt_of
from .measure import Drawn
from .scores import HEAD, Score, cells, table

SHOWN = 10  # cases of each group


def write_report(
    out: Path, scores: Sequence[Score], tests: Instruments, drawn: dict[str, Drawn], model: dict, settings: Settings
) -> None:
    """Write `out`/{figures.json, figures.md, cases.png, index.html, cases/}; `drawn` by the name of its kind."""
    told = {name: [_told(tests, one, k) for k in range(len(one.cases))] for name, one in drawn.items()}
    groups = {
        f"{name}, {kind}": [told[name][k] | {"strip": _strip(tests, one, k)} for k in chosen]
        for name, one in drawn.items()
        for kind, chosen in choose([row["confidence"] for row in told[name]]).items()
    }
    blank = [np.full((SIZE, SIZE, 3), 255, np.uint8)] * 3
    columns = [
        [one for some in groups.values() for one in (some[k]["strip"] if k < len(some) else blank)]
        for k in range(SHOWN)
    ]
    save_grid(columns, out / "cases.png", row_labels=[x for name in groups for x in (name, "  wanted", "  drawn")])
    for case in (case for some in groups.values() for case in some):
        strip = out / "cases" / Path(case["picture"]).name
        save_grid([case.pop("strip")], strip)
        case["file"] = strip.relative_to(out).as_posix()
    made = provenance()
    figures = [asdict(score) | {"passed": score.passed} for score in scores]
    results = {"format": 1, "figures": figures, "pictures": told, "model": model, "provenance": made}
    write_json(out / "figures.json", results | {"settings": settings.model_dump(mode="json")})
    text = f"{table(scores)}\n\nMade by `{made['command']}`, stylear {made['stylear']}, torch {made['torch']}.\n"
    write_atomically(out / "figures.md", lambda draft: draft.write_text(text, encoding="utf-8"))
    page = _page(head=HEAD, rows=[(score.passed, cells(score)) for score in scores], groups=groups, made=made)
    write_atomically(out / "index.html", lambda draft: draft.write_text(page, encoding="utf-8"))


def choose(confidence: Sequence[float]) -> dict[str, list[int]]:
    """The cases that the judge is surest of, those of the middle, and those it is least sure of, worst first."""
    order = [int(k) for k in np.argsort(-np.asarray(confidence), kind="stable")]
    middle = max(0, (len(order) - SHOWN) // 2)
    return {"best": order[:SHOWN], "typical": order[middle : middle + SHOWN], "failed": order[::-1][:SHOWN]}


def _told(tests: Instruments, drawn: Drawn, k: int) -> dict:
    """What figures.json says of a picture; `confidence`: log-probability of the concept asked for and of the style."""
    case, look, names = drawn.cases[k], drawn.seen.look, tests.judge
    asked, style = drawn.asked[k], drawn.style[k]
    unseen = case.kind == "unseen"
    return {
        "picture": case.file,
        "prompt": prompt_of(tests, case),
        "style": names.style_names[style],
        "reference_shows": names.concept_names[drawn.shown[k]],
        "concept_read": names.concept_names[look.concept[k]],
        "style_read": names.style_names[(look.nearest if unseen else look.style)[k]],
        "confidence": float(look.concepts[k, asked] + (0 if unseen else look.styles[k, style])),
    }


def _strip(tests: Instruments, drawn: Drawn, k: int) -> list[np.ndarray]:
    """The reference, what was wanted (the real picture, or the depth map given) and what was drawn."""
    case = drawn.cases[k]
    wanted = tests.pictures[case.target]
    if case.kind == "depth":
        wanted = depth_of(tests.masks[case.target] / 255)[..., None].repeat(3, axis=2)
    return [tests.pictures[case.reference], wanted, drawn.seen.pictures[k]]


def _page(**values: object) -> str:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html").render(**values)
