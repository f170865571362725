"""What is known of chips and pods."""

import pytest

from gpt2jax.errors import UserError
from gpt2jax.hardware import peak_flops
from gpt2jax.planning.topologies import CHIPS, EXAMPLES, read_topology


def test_every_example_is_read_and_every_chip_has_some():
    assert EXAMPLES.keys() == CHIPS.keys()
    for name, examples in EXAMPLES.items():
        for example in examples:
            assert read_topology(example).chip_name == name


def test_chips_devices_and_rings_are_counted():
    pod = read_topology('v5e:16x16', slices=2)
    assert (pod.chips, pod.device_count, pod.wraps) == (512, 512, (True, True))
    assert read_topology('v5e:2x4').wraps == (False, False)
    assert read_topology('v5p:4x4x8').wraps == (True, True, True)
    assert read_topology('tpu7x:2x2x1').device_count == 8
    assert read_topology(' H100:8 ').device_count == 8


def test_peaks_agree_with_those_that_a_run_is_measured_by():
    for chip in CHIPS.values():
        if known := peak_flops(chip.kind):
            assert chip.peak_flops == known, chip.kind


@pytest.mark.parametrize('name', ['v9:2x2', 'v5e', 'v5e:', 'v5e:2x2;rm', '', 'tpu', 'v5e:2x-2'])
def test_an_unknown_topology_lists_the_known_ones(name):
    with pytest.raises(UserError, match=r'unknown\. Known are') as error:
        read_topology(name)
    for example in ('v5e:16x16', 'v5p:4x4x4', 'h100:8', 'cpu:8'):
        assert example in str(error.value)


@pytest.mark.parametrize(
    ('name', 'slices', 'message'),
    [
        ('v5e:2x2x2', 1, 'v5e has 2 dimension'),
        ('v5p:4x4', 1, 'v5p has 3 dimension'),
        ('h100:0', 1, 'of sizes from 1'),
        ('v5e:4x4', 0, '--slices=0'),
        ('h100:12', 1, 'write a multiple of it'),
        ('h100:8', 2, 'only TPU pods have slices'),
    ],
)
def test_an_impossible_shape_is_refused_with_an_example(name, slices, message):
    with pytest.raises(UserError, match=message):
        read_topology(name, slices)
