"""index.html of an evaluation: every picture in a grid of styles by prompts, the figures, and what made them."""

import json
import math
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

SMALL = 160  # pictures no larger than this are enlarged with their pixels left square


def render(results: dict) -> str:
    """The page of what results.json holds. Pictures are linked by relative paths; names and prompts are escaped."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    pictures: dict[str, dict[str, list[dict]]] = {}
    for picture in results["pictures"]:
        pictures.setdefault(picture["style"], {}).setdefault(picture["prompt"], []).append(picture)
    return environment.get_template("page.html").render(
        results,
        grid=pictures,
        ranks=_ranks(results),
        across=min(2, results["counts"]["seeds"]),
        small=max(picture["width"] for picture in results["pictures"]) <= SMALL,
        made=json.dumps(results["settings"], indent=1, ensure_ascii=False),
        parts=json.dumps(results["model"], indent=1, ensure_ascii=False),
    )


def _ranks(results: dict) -> dict[str, list[int]]:
    """Of each style its place, 0 the best, by each metric in turn; styles without a value come last."""
    names = [reference["name"] for reference in results["references"]]
    ranks: dict[str, list[int]] = {name: [] for name in names}
    for figure in results["metrics"]:
        sign = -1 if figure["higher"] else 1
        order = sorted(names, key=lambda name: sign * figure["styles"].get(name, sign * math.inf))
        for name in names:
            ranks[name].append(order.index(name))
    return ranks
