"""Two programs measured in turns: each is a process of its own that works only while the other waits.

Machines are shared and noisy. Turns of a second or so put both under the same weather, and the ratio of their medians
is what is reported.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable

from gpt2jax.allocator import environment


class Side:
    """A worker process: takes a JSON line, does the work, answers with the seconds it took.

    Both sides get the huge pages that launch.py gives itself.
    """

    def __init__(self, command: list[str]):
        pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
        self._process = subprocess.Popen(command, env=environment(), **pipes)

    def seconds(self, **request) -> float:
        """One turn."""
        self._process.stdin.write(json.dumps(request) + '\n')
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f'a worker died: {self._process.args}')
        return float(answer)

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


def serve(make: Callable[..., Callable[[int], float]]) -> None:
    """The worker's side: `make(**case)` returns a function of the number of repetitions that returns seconds.

    The first turn of a case builds and warms it up; later ones only run.
    """
    built = {}
    for line in sys.stdin:
        request = json.loads(line)
        count, case = request.pop('count'), json.dumps(request, sort_keys=True)
        if case not in built:
            built[case] = make(**request)
            built[case](1)
        print(built[case](count), flush=True)


def duel(sides: dict[str, Side], case: dict, count: int, rounds: int, warm: int) -> dict[str, float]:
    """Median seconds a repetition of each side, over `rounds` turns of `count` repetitions.

    Each turn begins with `warm` repetitions that are not counted: the other side's threads go to sleep and its pages
    leave the caches, as they would if the program had the machine for itself.
    """
    times = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            side.seconds(count=warm, **case)
            times[name].append(side.seconds(count=count, **case) / count)
    return {name: statistics.median(values) for name, values in times.items()}
