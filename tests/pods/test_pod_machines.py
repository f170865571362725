"""The table of machines: hosts, chips, names, and what is refused."""

import pytest

from gpt2jax.errors import UserError
from gpt2jax.pods.machines import GENERATIONS, find_machine, find_slice, make_slice


@pytest.mark.parametrize(
    ('name', 'same', 'hosts', 'chips', 'devices', 'accelerator', 'gke'),
    [
        ('v4:2x2x4', 'v4-32', 4, 4, 16, 'v4-32', 'tpu-v4-podslice'),
        ('v5e:1x1', 'v5e-1', 1, 1, 1, 'v5litepod-1', 'tpu-v5-lite-podslice'),
        ('v5e:2x4', 'v5litepod-8', 1, 8, 8, 'v5litepod-8', 'tpu-v5-lite-podslice'),
        ('v5e:4x4', 'v5e-16', 4, 4, 16, 'v5litepod-16', 'tpu-v5-lite-podslice'),
        ('v5e:16x16', 'v5e-256', 64, 4, 256, 'v5litepod-256', 'tpu-v5-lite-podslice'),
        ('v5p:2x2x1', 'v5p-8', 1, 4, 4, 'v5p-8', 'tpu-v5p-slice'),
        ('v5p:4x4x4', 'v5p-128', 16, 4, 64, 'v5p-128', 'tpu-v5p-slice'),
        ('v5p:8x8x16', 'v5p-2048', 256, 4, 1024, 'v5p-2048', 'tpu-v5p-slice'),
        ('v6e:4x8', 'v6e-32', 8, 4, 32, 'v6e-32', 'tpu-v6e-slice'),
        ('7x:2x2x2', 'tpu7x-16', 2, 4, 16, 'tpu7x-16', 'tpu7x'),
    ],
)
def test_a_slice_has_the_hosts_and_names_of_the_documentation(name, same, hosts, chips, devices, accelerator, gke):
    machine = find_slice(name)
    assert find_slice(same) == machine
    assert find_slice(accelerator) == machine
    assert (machine.hosts, machine.chips_per_host, machine.devices) == (hosts, chips, devices)
    assert (machine.accelerator_type, machine.gke, machine.topology) == (accelerator, gke, name.split(':')[1])


def test_every_shape_fills_its_hosts():
    for label, generation in GENERATIONS.items():
        for shape in generation.shapes:
            machine = make_slice(label, shape)
            assert machine.hosts * machine.chips_per_host * generation.devices == machine.devices, machine
    assert '16x16x24' in GENERATIONS['v5p'].shapes
    assert '8x4x4' not in GENERATIONS['v5p'].shapes


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('v9:2x2', ['v9:2x2', 'v4:', 'v5e: 1x1, 2x2', 'v6e:', '7x:']),
        ('v5e:4x5', ['v5e:4x5', 'there are v5e: 1x1, 2x2, 2x4, 4x4']),
        ('v5e-17', ['v5e-17', '4x4']),
        ('v5p:8x4x4', ['v5p:8x4x4', '4x4x8']),
        ('$(reboot)', ['unknown']),
        ('v5e', ['--topology=v5e: unknown', 'v5e: 1x1']),
    ],
)
def test_an_unknown_slice_lists_the_known(name, words):
    with pytest.raises(UserError) as refused:
        find_slice(name)
    for word in words:
        assert word in str(refused.value)


def test_gpus_are_nodes_of_one_kind():
    machine = find_machine(None, 'h100:8', 2)
    assert (machine.hosts, machine.chips_per_host, machine.devices) == (2, 8, 16)
    assert (machine.gpu, machine.gke) == ('H100', 'nvidia-h100-80gb')
    assert find_machine(None, '4', 1).gpu == ''


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ((None, None, 1), 'either --topology'),
        (('v5e:4x4', '8', 1), 'either --topology'),
        ((None, 'H100', 1), '--gpus=H100'),
        ((None, 'H100:0', 1), '--gpus=H100:0'),
        ((None, '8;reboot', 1), '--gpus=8;reboot'),
        ((None, '8', 0), '--nodes=0'),
    ],
)
def test_a_wrong_machine_is_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        find_machine(*arguments)
