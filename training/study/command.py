"""`study`: makes the variants, draws the cells, answers the questions, writes the page."""

from collections.abc import Sequence

from tqdm import tqdm

from stylear.errors import BadInput

from ..output import output_folder
from ..processes import pool
from .cells import draw_cells
from .plan import survey
from .questions import Cell, Variant
from .report import check_texts, write_report
from .settings import StudySettings
from .variants import make

__all__ = ["StudySettings", "run"]


def run(settings: StudySettings) -> str:
    """Do what is not done yet and write the page from all answers there are; with `plan` only say what that is.

    Raises MissingPart for what `pretrain` has to make first, BadInput where a folder is of another recipe or input and
    where the page or its remarks cannot be read.
    """
    plan = survey(settings)
    check_texts(settings)
    if settings.plan:
        return str(plan)
    if plan.obstacles:
        raise BadInput("\n".join(plan.obstacles))
    tqdm.write(str(plan))
    with output_folder(settings.out, settings, tuple(StudySettings.model_fields)):
        todo = [task.one for task in plan.variants if task.state != "done"]
        for part in ([one for one in todo if not one.of], [one for one in todo if one.of]):
            _make_all(settings, part)
        _draw_all(settings, [task.one for task in plan.cells if task.state != "done"])
        found = write_report(settings)
    asked = (f"{letter}. {verdict}" for letter, verdict in found.items() if letter in settings.questions)
    return f"{'; '.join(asked)}\nWrote {settings.report}, with plots and pictures in {settings.report.with_suffix('')}."


def _make_all(settings: StudySettings, variants: Sequence[Variant]) -> None:
    """Train variants, `workers` of them at once."""
    workers = min(settings.workers, len(variants))
    if workers < 2:
        for one in variants:
            make(settings, one)
        return
    with pool(workers) as processes:
        list(processes.map(make, [settings] * len(variants), variants))


def _draw_all(settings: StudySettings, cells: Sequence[Cell]) -> None:
    """Draw cells in `workers` processes, those of one variant one after another."""
    ordered, workers = sorted(cells, key=lambda cell: cell.variant), min(settings.workers, len(cells))
    if workers < 2:
        draw_cells(settings, ordered)
        return
    with pool(workers) as processes:
        shares = [ordered[k::workers] for k in range(workers)]
        list(processes.map(draw_cells, [settings] * workers, shares, [k > 0 for k in range(workers)]))
