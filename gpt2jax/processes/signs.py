"""Signs of life of all processes, and what their absence means. Pure functions of what was heard, and when."""

import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class Sign:
    """Where a process is.

    Attributes:
      count: how many places it has come through. All come through the same ones, so the lowest count is behind.
      place: in words.
      unhurried: it may stay here as long as it takes.
    """

    count: int
    place: str
    unhurried: bool = False


class Signs:
    """What was last heard of each process.

    Attributes:
      signs: the last sign of each process; None where nothing was heard.
      heard: when a new beat of each was heard.
      moved: when anyone was last seen to come to another place.
      failed: index -> (reason, exit status) of processes that said why they ended.
    """

    def __init__(self, count: int, now: float):
        self.signs: list[Sign | None] = [None] * count
        self.heard = [now] * count
        self.moved = now
        self.failed: dict[int, tuple[str, int]] = {}
        self._beats = [0] * count

    def hear(self, entries: list[tuple[str, str]], now: float) -> None:
        """Takes in (key, JSON of [beat, count, place, unhurried]); the key ends in the number of the process."""
        for key, text in entries:
            index = int(key.rpartition('/')[2])
            beat, *sign = json.loads(text)
            if beat != self._beats[index]:
                self._beats[index], self.heard[index] = beat, now
            if Sign(*sign) != self.signs[index]:
                self.signs[index], self.moved = Sign(*sign), now

    def hear_failures(self, entries: list[tuple[str, str]], own_index: int) -> None:
        """Takes in (key, JSON of [reason, status]) of the other processes."""
        for key, text in entries:
            index = int(key.rpartition('/')[2])
            if index != own_index:
                self.failed[index] = tuple(json.loads(text))


def find_silent(signs: Signs, patience: float, now: float) -> tuple[int, str] | None:
    """(index, what to say) of a process that gives no sign of life; None where all do.

    Nothing at all is heard when process 0, which passes the signs on, is the silent one.
    """
    if all(now - heard > patience for heard in signs.heard):
        return 0, _silence(signs, 0, now)
    quietest = min(range(len(signs.heard)), key=signs.heard.__getitem__)
    # Others may be heard a moment ago, and the quietest not: it is not the road that is broken.
    if now - signs.heard[quietest] > patience:
        return quietest, _silence(signs, quietest, now)
    return None


def find_stalled(signs: Signs, patience: float, now: float) -> tuple[int, str] | None:
    """(index, what to say) of the process that holds up all others, which are alive and wait; None where all move."""
    known = [sign for sign in signs.signs if sign is not None]
    if len(known) < len(signs.signs) or now - signs.moved <= patience:
        return None
    behind = min(range(len(known)), key=lambda index: known[index].count)
    if known[behind].unhurried:
        return None
    if len({sign.count for sign in known}) == 1:
        return behind, f'and all others have made no progress for {now - signs.moved:.0f} s at: {known[behind].place}'
    ahead = max(known, key=lambda sign: sign.count)
    return behind, (
        f'has made no progress for {now - signs.moved:.0f} s at: {known[behind].place}; the others are at: '
        f'{ahead.place}'
    )


def _silence(signs: Signs, index: int, now: float) -> str:
    last = signs.signs[index]
    where = f'; it was at: {last.place}' if last else ''
    return (
        f'has given no sign of life for {now - signs.heard[index]:.0f} s{where}. It was stopped or killed, or its host '
        'or the network is gone'
    )
