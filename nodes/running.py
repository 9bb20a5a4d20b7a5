"""What a node has while it runs: ComfyUI's progress bar, stop button, previews, texts and worker thread."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import comfy.model_management as management
import comfy.utils
import torch
from comfy.cli_args import LatentPreviewMethod, args
from comfy_api.latest import io
from server import PromptServer

from ..stylear.images import to_pil


class Run:
    """Progress bar, stop button and preview of one execution, as the callables that the engine takes."""

    def __init__(self) -> None:
        self._bar = None
        self._done = 0

    def progress(self, done: int, total: int) -> None:
        """Show `done` of `total` steps."""
        if self._bar is None:
            self._bar = comfy.utils.ProgressBar(total)
        self._done = done
        self._bar.update_absolute(done, total)

    def cancelled(self) -> bool:
        """Raise ComfyUI's own interrupt when stop was pressed; the bar looks too, but not on every step."""
        management.throw_exception_if_processing_interrupted()
        return False

    @property
    def preview(self) -> Callable | None:
        """A callable that takes the pictures so far [B, H, W, 3]; None when previews are switched off."""
        return None if args.preview_method == LatentPreviewMethod.NoPreviews else self._show

    def _show(self, pictures: torch.Tensor) -> None:
        if self._bar is not None:
            # Anything but RGB that JPEG cannot hold would end ComfyUI's server, see its publish loop.
            preview = ("JPEG", to_pil(pictures[0], name="preview").convert("RGB"), args.preview_size)
            self._bar.update_absolute(self._done, preview=preview)


def show(node: type[io.ComfyNode], text: str) -> None:
    """Write a text onto a node, which asks for its hidden unique_id; the page shows no node's `ui` text on it."""
    if node.hidden is not None:
        PromptServer.instance.send_progress_text(text, node.hidden.unique_id)


@contextmanager
def contained() -> Iterator[None]:
    """Keep SystemExit and KeyboardInterrupt of a library from ending ComfyUI's worker thread for good."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"A library tried to end ComfyUI ({error!r}); the queue goes on.") from error
