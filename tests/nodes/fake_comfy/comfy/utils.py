"""Stands in for comfy.utils: the progress bar and the hook it reports to."""

_HOOK = [None]


def set_progress_bar_global_hook(function) -> None:
    _HOOK[0] = function


class ProgressBar:
    """Calls the hook (value, total, preview); like the real one not for every step without a preview."""

    def __init__(self, total: int) -> None:
        self.total, self.sent, self.hook = total, False, _HOOK[0]

    def update_absolute(self, value: int, total: int | None = None, preview: tuple | None = None) -> None:
        if total is not None:
            self.total = total
        value = min(value, self.total)
        if self.hook and (preview is not None or not self.sent or value >= self.total):
            self.sent = True
            self.hook(value, self.total, preview, node_id=None)
