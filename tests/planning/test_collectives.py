"""Communication: which axes, how many bytes, how long."""

import dataclasses

import pytest
from planning.programs_text import LINK, network

from gpt2jax.planning.collectives import Collective, by_axes, first_group, read_collective
from gpt2jax.planning.hlo import parse


def instruction(opcode: str, groups: str, shape: str = 'f32[1024]'):
    """A collective as it stands in a program."""
    text = f'HloModule m\n\nENTRY %main (a: f32[1024]) -> {shape} {{\n  %a = f32[1024] parameter(0)\n'
    text += f'  ROOT %c = {shape} {opcode}(%a), channel_id=1, {groups}, use_global_device_ids=true\n}}\n'
    return parse(text).computations['main']['c']


@pytest.mark.parametrize(
    ('groups', 'devices'),
    [
        ('replica_groups={{0,1,2,3},{4,5,6,7}}', [0, 1, 2, 3]),
        ('replica_groups=[2,4]<=[8]', [0, 1, 2, 3]),
        ('replica_groups=[4,2]<=[2,4]T(1,0)', [0, 4]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", [0, 4]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("replica_groups=mesh['axis_0'=8] {'axis_0':(1)2}", [0, 4]),
        ("replica_groups=mesh['axis_0'=8] {'axis_0':(4)2}", [0, 1]),
        ('source_target_pairs={{0,4},{4,0},{1,5}}', [0, 4]),
        ('dimensions={0}', [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_every_notation_of_groups_is_understood(groups, devices):
    assert first_group(instruction('all-reduce', groups), 8) == devices


def test_bytes_and_time_by_axis():
    gather = read_collective(instruction('all-gather', 'replica_groups=[2,4]<=[8]'), 4_000_000_000, network())
    assert (gather.axes, gather.sent) == ('fsdp', 3e9)
    assert gather.seconds == pytest.approx(3e9 / LINK)  # a line of four: its end hears from one side
    reduce = read_collective(instruction('all-reduce', 'replica_groups=[4,2]<=[2,4]T(1,0)'), 1_000_000_000, network())
    assert (reduce.axes, reduce.sent, reduce.seconds) == ('data', 1e9, pytest.approx(1e9 / LINK))
    whole = read_collective(instruction('all-reduce', 'replica_groups=[1,8]<=[8]'), 1_000_000_000, network())
    assert whole.axes == 'data x fsdp'
    assert whole.seconds == pytest.approx(2 * 7 / 8 / 2)  # along both dimensions at once


def test_a_ring_is_twice_a_line_and_slices_are_joined_by_the_slower_network():
    groups = 'replica_groups=[2,4]<=[8]'
    ring = dataclasses.replace(network(), wraps=(True, True))
    assert read_collective(instruction('all-gather', groups), 4_000_000_000, ring).seconds == pytest.approx(1.5)
    places = tuple((0, j, i) for i in range(2) for j in range(4))
    slices = dataclasses.replace(network(), places=places, shape=(1, 4))
    across = read_collective(instruction('all-reduce', 'replica_groups=[4,2]<=[2,4]T(1,0)'), 1_000_000_000, slices)
    assert across.seconds == pytest.approx(1e9 / (LINK / 10))


def test_a_message_takes_at_least_its_hops_and_a_permutation_its_distance():
    small = read_collective(instruction('all-reduce', 'replica_groups=[2,4]<=[8]'), 4, network())
    assert small.seconds == pytest.approx(3e-6)
    far = read_collective(instruction('collective-permute', 'source_target_pairs={{0,3},{3,0}}'), 10**9, network())
    assert (far.axes, far.seconds) == ('fsdp', pytest.approx(3.0))


def test_sums_by_axes_count_every_run():
    one = Collective('all-gather', 'fsdp', 10, 7.5, 0.5)
    other = Collective('all-reduce', 'data', 10, 100.0, 1.0)
    rows = by_axes([(one, 12), (one, 1), (other, 1)])
    assert rows == [
        {'axes': 'data', 'kind': 'all-reduce', 'count': 1, 'sent_bytes': 100.0, 'seconds': 1.0},
        {'axes': 'fsdp', 'kind': 'all-gather', 'count': 13, 'sent_bytes': 97.5, 'seconds': 6.5},
    ]
