"""A preview that grows row by row: new rows of codes are decoded with a few above them, never the whole picture."""

from collections.abc import Callable

import torch
from torch import Tensor

CONTEXT = 4  # rows decoded again above new ones; with 4 the mini's are as near to the finished picture as with all
AGAIN = CONTEXT // 2  # of these, how many are shown anew, as they now know what is below them


class Growing:
    """What is drawn of the pictures of one call; grey where nothing is yet.

    `draw`: codes int64 [B, n, w] to pictures float32 [B, n * side, w * side, 3]; `rows`: how many rows of codes the
    whole pictures have.
    """

    def __init__(self, draw: Callable[[Tensor], Tensor], rows: int):
        self._draw, self._rows = draw, rows
        self._done, self._pictures = 0, None

    def grow(self, codes: Tensor) -> Tensor:
        """Pictures float32 [B, rows * side, w * side, 3] of codes int64 [B, n, w], the first n rows, more each time."""
        top, first, done = max(0, self._done - CONTEXT), max(0, self._done - AGAIN), codes.shape[1]
        band = self._draw(codes[:, top:])
        side = band.shape[1] // (done - top)
        if self._pictures is None:
            self._pictures = torch.full((len(band), self._rows * side, *band.shape[2:]), 0.5)
        self._pictures[:, first * side : done * side] = band[:, (first - top) * side :]
        self._done = done
        return self._pictures.clone()
