"""From the time of one step to tokens a second, MFU, days and money. Every figure is a prediction."""

from gpt2jax.planning.topologies import Topology

CONVENTIONS = {'full map': 'full attention map', 'causal half': 'causal half of it'}


def outlook(config, topology: Topology, step: dict, price: float | None) -> dict | None:
    """What a step of an answer (gpt2jax.planning.worker) means, as pairs [best, worst]; None where it does not fit.

    Args:
      config: resolved.
      price: of one chip for an hour, in any currency.

    Returns:
      step_seconds, tokens_per_second, mfu (convention -> pair; absent where FLOPs or the peak are not known); for
      training also tokens, hours, chip_hours and, with a price, cost.
    """
    if 'time' not in step:
        return None
    seconds = step['time']['low'], step['time']['high']
    result = {
        'step_seconds': list(seconds),
        'tokens_per_second': [step['tokens'] / each for each in seconds],
    }
    peak = topology.chip.peak_flops * topology.device_count
    if step['flops'] and topology.chip.platform != 'cpu':
        result['mfu'] = {name: [flops / each / peak for each in seconds] for name, flops in step['flops'].items()}
    if step['name'] == 'train':
        steps = config.training.steps
        hours = [each * steps / 3600 for each in seconds]
        result |= {
            'tokens': steps * config.training.batch_size * config.data.length,
            'hours': hours,
            'chip_hours': [each * topology.chips for each in hours],
        }
        if price is not None:
            result['cost'] = [each * topology.chips * price for each in hours]
    return result
