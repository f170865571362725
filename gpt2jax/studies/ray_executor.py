"""Runs on the nodes of a Ray cluster. A run whose worker or node is lost is started again, and continues elsewhere.

Each run is an actor: a process of Ray that starts the run's own process and waits for it. The run ends with its actor
(gpt2jax/studies/leash.py), and the actor ends with the study, so that nothing trains on unseen. All nodes must see the
folder of the study, the repository and its Python at the same paths.
"""

import os
import secrets
import signal
import socket
import sys
import threading
from pathlib import Path

from gpt2jax.errors import RUN_AGAIN, UserError
from gpt2jax.studies.processes import LOG, start_process

PROBE = '.ray-probe'
CONNECT_SECONDS = 10.0
PROBE_SECONDS = 120.0  # that nodes get for saying what they see; a worker of Ray takes seconds to start
LAUNCHER = str(Path(__file__).parents[2] / 'launch.py')
UNITS = {'num_cpus': 'CPU', 'num_gpus': 'GPU'}  # what Ray calls them among the resources of a node


class Ray:
    """Actors of a Ray cluster; without an address Ray finds the one of this machine, or starts one.

    Args:
      options: address; num_cpus and num_gpus that a run takes, by default one core; any other name is a resource of the
        cluster (TPU, ...) with its amount.
    """

    def __init__(self, options: dict[str, str], directory: Path):
        os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
        try:
            import ray
        except ImportError:
            raise UserError(
                '--executor=ray needs Ray: pip install -r requirements-studies.txt; or run here with --executor=local'
            ) from None
        self._ray, given = ray, dict(options)
        address = given.pop('address', None)
        needs = {'num_cpus': 1.0} | {name: _amount(name, value) for name, value in given.items()}
        if not ray.is_initialized():
            _connect(ray, address)
        nodes = [node for node in ray.nodes() if node['Alive']]
        _check_needs(needs, nodes)
        _check_nodes(ray, nodes, directory)
        named = {name: needs.pop(name) for name in UNITS if name in needs}
        self._actors = ray.remote(Keeper).options(
            **named, resources=needs, max_concurrency=2, max_restarts=0, scheduling_strategy='SPREAD'
        )
        self._threads = max(1, int(named['num_cpus']))

    def start(self, command: list[str], folder: Path, parallel: int) -> 'RayJob':
        folder.mkdir(parents=True, exist_ok=True)
        return RayJob(self._ray, self._actors.remote(), command, (folder / LOG).resolve(), self._threads)


class Keeper:
    """What runs on a node: it starts one run, waits for it, and can ask it to stop meanwhile, from another thread."""

    def __init__(self):
        self._process, self._stopped, self._lock = None, False, threading.Lock()

    def run(self, command: list[str], log_path: str, folder: str, threads: int) -> int:
        """The exit status of a run in a folder, with so many threads. XLA takes NPROC for the number of cores."""
        with self._lock:
            if self._stopped:
                return RUN_AGAIN
            environment = os.environ | {'NPROC': str(threads)}
            self._process = start_process(command, log_path, env=environment, cwd=folder)
        return self._process.wait()

    def stop(self) -> None:
        """Asks the run to save and stop."""
        with self._lock:
            self._stopped = True
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)


class RayJob:
    """A run that a keeper has, or that waits until a node has room for it."""

    def __init__(self, ray, keeper, command: list[str], log: Path, threads: int):
        self._ray, self._keeper, self._log, self._status = ray, keeper, log, None
        self._ready = keeper.__ray_ready__.remote()
        self._run = keeper.run.remote(command, str(log), os.getcwd(), threads)

    def poll(self) -> int | None:
        if self._status is None and self._ray.wait([self._run], timeout=0)[0]:
            self._status = self._result()
            self._ray.kill(self._keeper)
        return self._status

    def _result(self) -> int:
        errors = self._ray.exceptions
        try:
            return self._ray.get(self._run)
        except (errors.OutOfMemoryError, errors.RayTaskError) as error:
            cause = getattr(error, 'cause', error)
            self._say(f'launch.py: Ray could not run it: {str(cause).strip()}')
            return 1
        except errors.RayError as error:  # of the worker or its node, not of the run
            self._say(f'ray: the worker of this run is lost ({type(error).__name__}); it continues on another one')
            return RUN_AGAIN

    def _say(self, text: str) -> None:
        with self._log.open('a') as file:
            file.write(f'{text}\n')

    def stop(self) -> None:
        if self.poll() is not None:
            return
        if self._ray.wait([self._ready], timeout=0)[0]:
            self._keeper.stop.remote()
        else:  # no node had room for it yet
            self._ray.kill(self._keeper)
            self._status = RUN_AGAIN


def _connect(ray, address: str | None) -> None:
    """Raises UserError where no cluster answers, or one of another version of Ray or Python does."""
    host, colon, port = (address or '').rpartition(':')
    try:
        if colon and port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host.strip('[]'), int(port)), CONNECT_SECONDS).close()
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level='ERROR')
    except (OSError, OverflowError, RuntimeError, ValueError, AssertionError) as error:
        where = f'--option=address={address}' if address else '--executor=ray'
        raise UserError(f'{where}: {str(error).strip().splitlines()[0]}') from error


def _amount(name: str, value: str) -> float:
    try:
        amount = float(value)
    except ValueError:
        amount = 0.0
    if not 0 < amount < float('inf'):
        raise UserError(f'--option={name}={value}: expected address=HOST:PORT, or how much of {name} a run takes')
    return amount


def _check_needs(needs: dict[str, float], nodes: list[dict]) -> None:
    """Refuses what no node has, for which a run would wait for ever."""
    for node in nodes:
        if all(node['Resources'].get(UNITS.get(name, name), 0) >= amount for name, amount in needs.items()):
            return
    wanted = ' '.join(f'{name}={amount:g}' for name, amount in needs.items())
    have = '; '.join(f'{_name(node)}: {_resources(node)}' for node in nodes)
    raise UserError(f'--executor=ray: no node has what a run takes, {wanted} (--option). The nodes have: {have}')


def _check_nodes(ray, nodes: list[dict], directory: Path) -> None:
    """Raises UserError with the nodes that do not see the folder of the study, the repository or its Python."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def look(probe: str, secret: str, files: list[str]) -> str:  # in here, so that it needs no file on the node
        import os

        try:
            with open(probe) as file:
                seen = file.read() == secret
        except OSError:
            seen = False
        missing = [path for path in files if not os.path.exists(path)]
        return ', '.join(([] if seen else [os.path.dirname(probe)]) + missing)

    directory.mkdir(parents=True, exist_ok=True)
    probe, secret = (directory / f'{PROBE}-{os.getpid()}').resolve(), secrets.token_hex(8)
    probe.write_text(secret)
    try:
        asked = {}
        for node in nodes:
            where = NodeAffinitySchedulingStrategy(node['NodeID'], soft=False)
            task = ray.remote(look).options(num_cpus=0, max_retries=0, scheduling_strategy=where)
            asked[task.remote(str(probe), secret, [LAUNCHER, sys.executable, os.getcwd()])] = node
        answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=PROBE_SECONDS)
        problems = [f'{_name(asked[ref])} does not answer' for ref in silent]
        problems += [f'{_name(asked[ref])} does not see {missing}' for ref in answered if (missing := _get(ray, ref))]
    finally:
        probe.unlink()
    if problems:
        raise UserError(
            f'--executor=ray: {"; ".join(problems)}. All nodes must see these at the same paths: put the study '
            '(--directory) and the repository on storage that they share'
        )


def _get(ray, ref) -> str:
    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        return f'anything: {str(error).strip().splitlines()[-1]}'


def _name(node: dict) -> str:
    return f'node {node["NodeManagerHostname"]} ({node["NodeManagerAddress"]})'


def _resources(node: dict) -> str:
    plain = {name: amount for name, amount in node['Resources'].items() if ':' not in name and 'memory' not in name}
    return ', '.join(f'{name} {amount:g}' for name, amount in sorted(plain.items())) or 'nothing'
