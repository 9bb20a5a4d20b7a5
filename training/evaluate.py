"""`evaluate`: draws references x prompts x seeds and measures text, style, leakage and seconds."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from stylear.images import open_image

from .config import ModelPaths
from .drawing import DrawSettings, draw, plan, record
from .inputs import hold_inputs
from .loop import write_atomically
from .metrics.cells import Cell, Metric, Reference
from .metrics.inputs import Prompt, read_prompts, read_references
from .metrics.measures import MetricModels, measures
from .metrics.plots import bars, scatter
from .metrics.table import balance, figure, markdown
from .output import output_folder, provenance, sha256_of, write_json
from .page import render
from .parts import Parts
from .processes import processes

AFTERWARDS = ("metrics", "draws", "batch")  # may change between two runs over the same pictures


class EvaluateSettings(DrawSettings):
    """What is drawn and who measures it; a metric without its model is left out, and the table says so."""

    model: ModelPaths = ModelPaths()
    references: Path = Field(description="folder of style pictures (captions in .txt beside them), or a JSON list")
    prompts: Path = Field(description="text file: a prompt a line (tab, then its content, if it names a style)")
    out: Path = Field(description="folder for pictures, results.json, results.md, plots and index.html")
    max_references: int | None = Field(None, ge=1, description="only the first so many references; null: all")
    max_prompts: int | None = Field(None, ge=1, description="only the first so many prompts; null: all")
    device: str | None = Field(None, description="cpu, cuda or mps; null: the best there is")
    dtype: str | None = Field(None, description="of the base: float32, bfloat16, float16; null: bfloat16 on cuda")
    metrics: MetricModels = MetricModels()
    draws: int = Field(2000, ge=100, le=100_000, description="bootstrap samples behind the intervals")


def run(settings: EvaluateSettings) -> str:
    """Draw what is missing, measure all of it and write the report; returns a short summary.

    Started by `accelerate launch`, the processes share drawing and looking. Raises BadInput for inputs other than
    those the folder was begun with, and what reading models raises, before anything is drawn.
    """
    state = processes(settings.device == "cpu")
    device = settings.device if settings.device and state.num_processes == 1 else state.device
    references, skipped = read_references(settings.references, settings.max_references)
    prompts = read_prompts(settings.prompts, settings.max_prompts)
    first = state.is_main_process
    with output_folder(settings.out, settings, AFTERWARDS) if first else nullcontext(settings.out) as out:
        measures(settings.metrics, "cpu")  # hours of drawing must not end at a metric's bad path
        parts = Parts(settings.model)
        if first:
            hold_inputs(out, _inputs(settings, references, prompts, parts))
        model = parts.pipeline(device=device, dtype=settings.dtype)
        state.wait_for_everyone()
        cells = plan(out, references, prompts, settings)
        drawn = draw(model, cells, settings, state)
        told = model.info()
        del model
        state.wait_for_everyone()
        metrics, left_out = measures(settings.metrics, device)
        values = {metric.name: metric.score(cells) for metric in metrics}
        if not first:
            return ""
        results = summarise(cells, metrics, values, left_out, settings)
        results |= {"model": told, "skipped": skipped, "settings": settings.model_dump(mode="json")}
        write_report(out, cells, results)
    return _summary(out, results, drawn)


def summarise(
    cells: Sequence[Cell],
    metrics: Sequence[Metric],
    values: dict[str, np.ndarray],
    left_out: dict[str, str],
    settings: EvaluateSettings,
) -> dict:
    """What results.json holds but for the model and the settings: figures, seconds, and every picture's values."""
    figures = {metric.name: figure(metric, cells, values[metric.name], settings.draws) for metric in metrics}
    left_out = left_out | {
        name: "no picture has one (it takes captions of two references, or names that the judge knows)"
        for name, one in figures.items()
        if one is None
    }
    found = [one for one in figures.values() if one]
    both = balance(cells, values, {metric.name: metric.model for metric in metrics}, settings.draws)
    if both is None:
        left_out["harmonic mean"] = "it takes CLIP-T and a style score"
    records = [record(cell.picture) for cell in cells]
    seconds = np.array([one["seconds"] for one in records])
    ways = {f"{o['device']}, {o['dtype']}, {o['width']} × {o['height']} px, batch {o['batch']}" for o in records}
    rows = [
        {
            "style": cell.reference.name,
            "prompt": cell.prompt,
            "seed": cell.seed,
            "picture": cell.picture.relative_to(settings.out).as_posix(),
            "width": one["width"],
            "height": one["height"],
            "seconds": one["seconds"],
            "values": {name: float(value[i]) for name, value in values.items() if np.isfinite(value[i])},
        }
        for i, (cell, one) in enumerate(zip(cells, records, strict=True))
    ]
    references = {cell.reference.name: cell.reference for cell in cells}
    return {
        "format": 1,
        "counts": {
            "references": len(references),
            "prompts": len({cell.prompt for cell in cells}),
            "seeds": settings.seeds,
            "pictures": len(cells),
        },
        "metrics": [asdict(one) for one in ([*found, both] if both else found)],
        "left_out": left_out,
        "seconds": {
            "median": float(np.median(seconds)),
            "least": float(seconds.min()),
            "most": float(seconds.max()),
            "how": "; ".join(sorted(ways)),
        },
        "references": [{"name": one.name, "caption": one.caption} for one in references.values()],
        "prompts": list(dict.fromkeys(cell.prompt for cell in cells)),
        "pictures": rows,
    }


def write_report(out: Path, cells: Sequence[Cell], results: dict) -> None:
    """Write `out`/{results.json, results.md, scatter.png, bars.png, references/, index.html}."""
    results["provenance"] = provenance()
    for reference in results["references"]:
        cell = next(cell for cell in cells if cell.reference.name == reference["name"])
        copy = out / "references" / f"{cell.picture.parent.name}.png"
        image = open_image(cell.reference.picture).convert("RGB")
        write_atomically(copy, lambda draft, image=image: image.save(draft, format="PNG"))
        reference["picture"] = copy.relative_to(out).as_posix()
    plots = {"scatter.png": scatter, "bars.png": bars}
    results["plots"] = [name for name, plot in plots.items() if plot(results["metrics"], out / name)]
    write_json(out / "results.json", results)
    table, page = markdown(results), render(results)
    write_atomically(out / "results.md", lambda draft: draft.write_text(table, encoding="utf-8"))
    write_atomically(out / "index.html", lambda draft: draft.write_text(page, encoding="utf-8"))


def _inputs(
    settings: EvaluateSettings, references: Sequence[Reference], prompts: Sequence[Prompt], parts: Parts
) -> dict[str, Any]:
    """What the pictures are drawn from beside the settings, for `hold_inputs`; what measures them may change."""
    names = ("base", "adapter", "vqgan", "image_encoder", *(["segmenter"] if settings.subtract else []))
    return {
        "references": [[one.name, sha256_of(one.picture)] for one in references],
        "prompts": [one.text for one in prompts],
        **parts.inputs(*names),
    }


def _summary(out: Path, results: dict, drawn: int) -> str:
    counts, seconds = results["counts"], results["seconds"]
    figures = ", ".join(f"{one['name']} {one['mean']:.3f}" for one in results["metrics"])
    lines = [
        f"{counts['pictures']} pictures ({drawn} drawn now), median {seconds['median']:.3g} s ({seconds['how']}).",
        figures or "Nothing was measured.",
    ]
    if results["left_out"]:
        lines.append("Not measured: " + "; ".join(f"{name} ({why})" for name, why in results["left_out"].items()) + ".")
    lines += [f"Skipped reference {why}" for why in results["skipped"]]
    lines.append(f"Wrote {out / 'index.html'}, results.md, results.json, {' '.join(results['plots'])} beside it.")
    return "\n".join(lines)
