"""What is expected of places that are not drawn yet: the laws that guesses are taken from."""

from collections.abc import Sequence

import torch
from torch import Tensor

_NEWEST = 0.7  # how much a law counts beside those that earlier passes gave the same place


class Outlook:
    """For each place of each picture a running mean of the guided logits that passes gave it.

    A pass reads most places behind guesses that are partly wrong. The mean over several passes, each behind other
    guesses, is nearer to the law behind the right codes than the newest one alone. A place that was not read yet is
    expected to be as the last one that was and as the one above it, half each. What is expected changes how many
    guesses come true and never a picture. Only the last `room` places are kept, at least a row and what a pass draws
    and guesses.
    """

    def __init__(self, pictures: int, codes: int, width: int, room: int, device: torch.device):
        self._kept = torch.zeros(pictures, room, codes, device=device)
        self._width = width

    def expect(self, pictures: Sequence[int], first: Sequence[int], guided: Tensor, ahead: int) -> Tensor:
        """Logits [n, count + ahead, codes] of as many places from `first` on in each of the n `pictures`.

        `guided`: what a pass gave the first `count` of these, [n, count, codes].
        """
        device, count, room = guided.device, guided.shape[1], self._kept.shape[1]
        pictures, first = (torch.tensor(of, device=device)[:, None] for of in (pictures, first))
        read = (first + torch.arange(count, device=device)) % room
        laws = torch.lerp(self._kept[pictures, read], guided, _NEWEST)
        self._kept[pictures, read] = laws
        further = torch.arange(ahead, device=device)
        last = first + count - 1
        above = last + 1 + further % self._width - self._width
        above = torch.where(above < 0, last, above) % room
        fresh = torch.lerp(laws[:, -1:], self._kept[pictures, above], 0.5)
        self._kept[pictures, (last + 1 + further) % room] = fresh
        return torch.cat((laws, fresh), dim=1)
