"""Starts the worker that compiles a config for a topology, waits for it, and hands back its answer.

`plan_step` is the whole of it for use from Python.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gpt2jax.config import to_dict
from gpt2jax.errors import UserError
from gpt2jax.files import read_json, write_json
from gpt2jax.planning.topologies import GPUS_A_HOST, Topology, read_topology

ROOT = Path(__file__).parents[2]
PAUSE_SECONDS = 0.2
DUMPED = '.*(step|prompt|draw).*'  # programs whose list of buffers is wanted


def plan_step(
    config,
    topology: str,
    *,
    slices: int = 1,
    mode: str = 'train',
    compiler_options: dict | None = None,
    keep: str | None = None,
    timeout: float | None = None,
    tick: Callable[[float], None] | None = None,
) -> dict:
    """Compiles the steps of a config for a topology in a process of its own, and reads them.

    Args:
      config: a config tree (gpt2jax.config), resolved or not.
      topology: 'v5e:16x16'; gpt2jax.planning.topologies knows them.
      slices: how many of these, joined by the data centre's network.
      mode: train, evaluate or sample; measure runs the training step on this machine (gpt2jax.planning.measuring).
      compiler_options: flags of XLA for this program.
      keep: a folder for the text of the programs and XLA's dump; None keeps nothing.
      timeout: seconds after which the compiler is stopped.
      tick: called now and then with the seconds that have passed.

    Returns:
      The answer of gpt2jax.planning.worker: device, devices, versions, mesh, steps.

    Raises:
      UserError: the config, the topology or the compiler does not work; the message says which and why.
    """
    place = read_topology(topology, slices)
    with _folder(keep) as folder:
        request = {
            'config': to_dict(config),
            'topology': topology,
            'slices': slices,
            'mode': mode,
            'compiler_options': compiler_options or {},
            'folder': str(folder),
            'keep': keep is not None,
        }
        write_json(folder / 'request.json', request)
        status = _run(folder, environment(place, folder, mode), timeout, tick or (lambda seconds: None))
        if not (folder / 'answer.json').is_file():
            raise UserError(_why(status, folder, topology))
        answer = read_json(folder / 'answer.json')
    if 'error' in answer:
        raise UserError(answer['error'])
    return answer


@contextlib.contextmanager
def _folder(keep: str | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix='gpt2jax-plan-') as name:
            yield Path(name)
        return
    path = Path(keep).expanduser().resolve()
    path.mkdir(parents=True, exist_ok=True)
    (path / 'answer.json').unlink(missing_ok=True)
    yield path


def environment(place: Topology, folder: Path, mode: str = 'train') -> dict[str, str]:
    """What a worker is told: the platform, the number of devices, and where XLA dumps its list of buffers.

    Only one that measures on an accelerator sees the machine as it is.
    """
    flags = [os.environ.get('XLA_FLAGS', '')]
    if place.chip.platform == 'cpu':
        flags.append(f'--xla_force_host_platform_device_count={place.device_count}')
    flags += [f'--xla_dump_to={folder / "dump"}', f'--xla_dump_hlo_module_re={DUMPED}']
    if mode == 'measure' and place.chip.platform != 'cpu':
        return os.environ | {'PYTHONPATH': _python_path()}
    chosen = os.environ | {
        'JAX_PLATFORMS': 'cpu',
        'JAX_ENABLE_COMPILATION_CACHE': 'false',  # a program from the cache comes without its list of buffers
        'XLA_FLAGS': ' '.join(filter(None, flags)),
        'PYTHONPATH': _python_path(),
    }
    if place.chip.platform == 'tpu':
        chosen |= {
            'TPU_SKIP_MDS_QUERY': '1',
            'TPU_ACCELERATOR_TYPE': f'{place.chip.accelerator}-{min(place.chips, GPUS_A_HOST)}',
            'TPU_WORKER_HOSTNAMES': 'localhost',
            'TPU_WORKER_ID': '0',
            'TPU_LOG_DIR': 'disabled',
            'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # others may be compiling as well
        }
    return chosen


def _python_path() -> str:
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))


def _run(folder: Path, variables: dict[str, str], timeout: float | None, tick: Callable[[float], None]) -> int:
    """The status of the worker; negative where a signal ended it."""
    command = [
        sys.executable,
        '-m',
        'gpt2jax.planning.worker',
        str(folder / 'request.json'),
        str(folder / 'answer.json'),
    ]
    began = time.monotonic()
    with (folder / 'log').open('w') as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        try:
            while process.poll() is None:
                time.sleep(PAUSE_SECONDS)
                seconds = time.monotonic() - began
                tick(seconds)
                if timeout and seconds > timeout:
                    raise UserError(f'the compiler was stopped after {seconds:.0f} s')
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    return process.returncode


def _why(status: int, folder: Path, topology: str) -> str:
    lines = (folder / 'log').read_text(errors='replace').strip().splitlines()
    last = '\n'.join(lines[-8:])
    if status == -9:
        return f'compiling for {topology} was killed, as a process is that asks for more memory than the machine has'
    return f'compiling for {topology} failed (status {status}); the last lines of the compiler:\n{last}'
