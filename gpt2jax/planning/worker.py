"""The process that compiles: `python -m gpt2jax.planning.worker REQUEST.json ANSWER.json`.

It is a process of its own because the platform, the number of devices and the flags of XLA are set before JAX starts,
and because a compiler may run out of memory or crash without taking the plan with it.
"""

import functools
import json
import sys
import time
from pathlib import Path

from gpt2jax.config import from_json
from gpt2jax.errors import UserError
from gpt2jax.files import write_json
from gpt2jax.planning.topologies import Topology, read_topology


def main(request_path: str, answer_path: str) -> int:
    """Answers a request of gpt2jax.planning.compiling; what went wrong is an answer as well."""
    request = json.loads(Path(request_path).read_text())
    try:
        answer = answer_request(request)
    except UserError as error:
        answer = {'error': str(error)}
    write_json(Path(answer_path), answer)
    return 0


def answer_request(request: dict) -> dict:
    """Compiles every step of a mode.

    Keys of the answer: device, devices, versions, mesh, calibration, steps (`compile_step`);
    of the mode 'measure' those of gpt2jax.planning.measuring."""
    import jax

    from gpt2jax.planning.calibrating import calibrate
    from gpt2jax.planning.devices import make_devices, make_network
    from gpt2jax.planning.programs import make_steps
    from gpt2jax.sharding import make_mesh
    from gpt2jax.training.setup import Setup
    from gpt2jax.validation import resolve

    topology = read_topology(request['topology'], request['slices'])
    config = resolve(from_json(json.dumps(request['config'])))
    if request['mode'] == 'measure':
        from gpt2jax.planning.measuring import measure

        return measure(config, topology)
    devices = make_devices(topology)
    setup = Setup(config, make_mesh(config, devices))
    network = make_network(topology, setup.mesh)
    steps = make_steps(setup, request['mode'])
    peaks = {}
    if topology.chip.platform == 'cpu':
        peaks = calibrate(config.model.dtype, topology.device_count)
        topology = topology.with_peaks(peaks['flops'], peaks['bandwidth'])
    return {
        'device': devices[0].device_kind,
        'devices': len(devices),
        'versions': versions(jax),
        'mesh': dict(network.axes),
        'calibration': peaks,
        'steps': [compile_step(step, config, topology, network, request) for step in steps],
    }


def versions(jax) -> dict[str, str]:
    """Of what decides about the compiled program."""
    from importlib.metadata import PackageNotFoundError, version

    found = {'jax': jax.__version__}
    for name in ('jaxlib', 'flax', 'libtpu', 'jax-cuda12-pjrt'):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def compile_step(step, config, topology: Topology, network, request: dict) -> dict:
    """Compiles one program and reads it.

    Returns:
      name, tokens, flops, fits, seconds (lowering, compiling), memory, buffers, and unless it does not fit: time.
    """
    from gpt2jax.planning import memory, reading
    from gpt2jax.sharding import bytes_per_device

    held = {name: bytes_per_device(tree) for name, tree in step.state.items()}
    answer = {'name': step.name, 'tokens': step.tokens, 'flops': step.flops, 'held': held}
    began = time.monotonic()
    lowered = lower(step)
    answer['lowering_seconds'] = time.monotonic() - began
    began, busy = time.monotonic(), time.process_time()
    try:
        compiled = lowered.compile(compiler_options=request['compiler_options'] or None)
    except Exception as error:
        verdict = memory.read_out_of_memory(str(error))
        if verdict is None:
            raise
        answer['compiling_seconds'] = time.monotonic() - began
        return (
            answer | {'fits': False} | reading.out_of_memory(verdict, topology, held, Path(request['folder']) / 'dump')
        )
    answer |= {'compiling_seconds': time.monotonic() - began, 'compiling_cpu_seconds': time.process_time() - busy}
    dump = Path(request['folder'])
    text = compiled.as_text()
    if request['keep']:
        name = step.name.replace(' ', '_')
        (dump / f'{name}.hlo').write_text(text)
    read = functools.partial(reading.read_compiled, text, compiled.memory_analysis(), dump / 'dump')
    return answer | read(topology, network, reading.visible_of(config), held)


def lower(step):
    """The program before it is compiled. Raises UserError where a library that it is made of is missing."""
    try:
        return step.lower()
    except RuntimeError as error:
        if 'cuDNN' not in str(error):
            raise
        raise UserError(
            f'the attention kernel of NVIDIA GPUs needs cuDNN, which is not found ({error}): '
            "pip install 'nvidia-cudnn-cu12>=9.8,<10' nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12 (1.5 GB), "
            'or plan with --config.model.attention.kernel=einsum'
        ) from error


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
