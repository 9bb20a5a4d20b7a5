"""What is expected of places that are not drawn yet: the laws that guesses are taken from."""

from collections.abc import Sequence

import torch
from torch import Tensor

_NEWEST = 0.8  # how much a law counts beside those that earlier passes gave the same place


class Outlook:
    """For each place of each picture a running mean of the guided logits that passes gave it.

    A pass reads most places behind guesses that are partly wrong. The mean over several passes, each behind other
    guesses, is nearer to the law behind the right codes than the newest one alone. A place that was not read yet is
    expected to be as the last one that was and as the one above it, half each. What is expected changes how many
    guesses come true and never a picture. Only the last `room` places are kept, at least a row and what a pass draws
    and guesses.
    """

    def __init__(self, pictures: int, codes: int, width: int, room: int, device: torch.device):
        self._kept = torch.zeros(pictures * room, codes, device=device)
        self._room, self._width = room, width

    def expect(self, pictures: Sequence[int], first: Sequence[int], guided: Tensor, ahead: int) -> Tensor:
        """Logits [n, count + ahead, codes] of as many places from `first` on in each of the n `pictures`.

        `guided`: what a pass gave the first `count` of these, [n, count, codes].
        """
        count, room, width = guided.shape[1], self._room, self._width
        read, further, above = [], [], []
        for picture, start in zip(pictures, first, strict=True):
            end, kept = start + count, picture * room
            read += [kept + place % room for place in range(start, end)]
            further += [kept + place % room for place in range(end, end + ahead)]
            over = [end + place % width - width for place in range(ahead)]
            above += [kept + (place if place >= 0 else end - 1) % room for place in over]
        slots = torch.tensor(read + further + above, device=guided.device)
        read, further, above = slots.split((len(read), len(further), len(above)))
        laws = torch.lerp(self._kept[read].view_as(guided), guided, _NEWEST)
        self._kept.index_copy_(0, read, laws.flatten(0, 1))
        fresh = torch.lerp(laws[:, -1:], self._kept[above].unflatten(0, (len(laws), -1)), 0.5)
        self._kept.index_copy_(0, further, fresh.flatten(0, 1))
        return torch.cat((laws, fresh), dim=1)
