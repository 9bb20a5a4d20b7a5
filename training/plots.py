"""What a training run shows: its losses as a plot, and a sheet of pictures drawn with the weights of the moment."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from stylear import StyleAR

from .loop import write_atomically
from .sheets import save_grid

SMOOTHING = 50  # a plotted line averages over the run's length / this


def loss_plot(losses: Sequence[float], held_out: Sequence[tuple[int, float]], path: Path) -> None:
    """Write a PNG of each step's loss, its moving average, and the held-out loss as (step, loss)."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss, nats a token")
    steps = np.arange(1, len(losses) + 1)
    width = max(1, len(losses) // SMOOTHING)
    axes.plot(steps, losses, color="0.8" if width > 1 else "C0", label="a step")
    if width > 1:
        smooth = np.convolve(losses, np.full(width, 1 / width), "valid")
        axes.plot(steps[width - 1 :], smooth, color="C0", label=f"mean of {width}")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color="C1", marker="o", label="held out")
    axes.legend()
    write_atomically(path, lambda draft: figure.savefig(draft, format="png", dpi=100))


def sample_sheet(
    model: StyleAR, references: Sequence[Image.Image], prompts: Sequence[str], path: Path, seed: int = 0
) -> None:
    """Write a PNG with a row for each reference: the picture itself, then each prompt drawn in its style.

    Every picture is drawn from the same seed with the released settings (guidance 4, top-k 2000), so that the sheets
    of a run can be laid side by side.
    """
    side = min(max(model.size, 96), 256)
    columns = [[np.asarray(reference.resize((side, side))) for reference in references]]
    styles = [model.encode_style(reference) for reference in references]
    for prompt in prompts:
        drawn = (model.generate(prompt, style, seed=seed)[0] for style in styles)
        columns.append([(picture * 255).round().byte().numpy() for picture in drawn])
    save_grid(columns, path, labels=["reference", *prompts], side=side)
