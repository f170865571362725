"""The bracket of a step's time, from programs whose times are known."""

import dataclasses
import functools

import pytest
from planning.programs_text import KERNEL, LINK, LOOP, OVERLAP, SLICES, network

from gpt2jax.planning.hlo import parse
from gpt2jax.planning.kernels import CYCLES_A_PAIR, SMALLER_BLOCKS, Visible, kernel_cost
from gpt2jax.planning.reading import source_name, time_of
from gpt2jax.planning.timing import Timer
from gpt2jax.planning.topologies import read_topology

V5E = read_topology('v5e:2x4')
MICROSECOND = 1e-6


CAUSAL = Visible(causal=True)


def time(text: str, topology=V5E, visible=CAUSAL, **options):
    """The sums of a program."""
    kernel = functools.partial(kernel_cost, chip=topology.chip, visible=visible)
    return Timer(parse(text), topology.chip, network(**options), kernel).total()


def test_cycles_are_added_as_often_as_loops_run():
    total = time(LOOP)
    cycles = V5E.chip.cycles
    assert total.products == pytest.approx(5 * 2000 / cycles * MICROSECOND)
    assert total.products_low == total.products
    # The addition has no estimate, and is timed by its bytes; the copy has one, which is far above its bytes.
    array = 128 * 512 * 2
    bandwidth = 0.9 * V5E.chip.hbm_bandwidth
    assert total.high == pytest.approx(5 * 3 * array / bandwidth + 3000 / cycles * MICROSECOND)
    assert total.low == pytest.approx((5 * 3 + 2) * array / bandwidth)
    assert total.flops == 5 * 2 * 128 * 256 * 512
    assert total.unknown == 0
    assert total.exposed == 0


def test_a_loop_without_a_count_is_said_to_be_unknown():
    total = time(LOOP.replace('direction=LT', 'direction=NE'))
    assert total.unknown == 1
    assert total.flops == 2 * 128 * 256 * 512


def test_a_product_of_known_flops_takes_its_share_of_the_peak_on_a_gpu():
    h100 = read_topology('h100:1')
    total = time(LOOP, h100)
    flops, moved = 5 * 2 * 128 * 256 * 512, 5 * 2 * (128 * 256 + 256 * 512 + 128 * 512)
    chip = h100.chip
    assert total.products == pytest.approx(max(flops / (0.4 * chip.peak_flops), moved / (0.6 * chip.hbm_bandwidth)))
    assert total.products_low < total.products


def test_an_asynchronous_collective_counts_once_and_only_what_nothing_hides_is_exposed():
    gathered, reduced = 4096 * 1024 * 2, 1024 * 1024 * 2
    gather_seconds, reduce_seconds = gathered * 3 / 4 / 1e9, reduced / 1e9
    hidden = time(OVERLAP.replace('CYCLES', str(10**9)))
    assert [(c.kind, c.axes, n) for c, n in hidden.collectives] == [
        ('all-gather', 'fsdp', 1),
        ('all-reduce', 'data', 1),
    ]
    assert hidden.exposed == pytest.approx(reduce_seconds)
    cycles = 1_500_000  # a millisecond
    partly = time(OVERLAP.replace('CYCLES', str(cycles)))
    assert partly.exposed == pytest.approx(gather_seconds - 1e-3 + reduce_seconds)
    assert partly.products == pytest.approx(1e-3)


def test_a_synchronous_collective_waits_for_the_one_on_its_axes():
    two = OVERLAP.replace('CYCLES', '0').replace('replica_groups=[4,2]<=[2,4]T(1,0)', 'replica_groups=[2,4]<=[8]')
    total = time(two)
    assert total.exposed == pytest.approx(4096 * 1024 * 2 * 3 / 4 / 1e9 + 2 * 1024 * 1024 * 2 * 3 / 4 / 1e9)


@pytest.mark.parametrize(
    ('visible', 'share'), [(Visible(True), 3 / 4), (Visible(False), 1), (Visible(True, 256), 3 / 4)]
)
def test_a_kernel_takes_the_cycles_of_its_visible_blocks(visible, share):
    total = time(KERNEL, visible=visible)
    pairs = 2 * 12 * 1024 * 1024 * share
    cycles = pairs * CYCLES_A_PAIR['fwd'] * SMALLER_BLOCKS[512]
    assert total.products == pytest.approx(cycles / V5E.chip.cycles * MICROSECOND)
    assert total.flops == pytest.approx(2 * 2 * pairs * 64)
    assert total.kernels == {'splash_mha_fwd_residuals': 'its visible blocks'}


def test_a_sum_over_slices_goes_over_the_slower_network():
    places = tuple((0, j, i) for i in range(2) for j in range(4))
    kernel = functools.partial(kernel_cost, chip=V5E.chip, visible=CAUSAL)
    joined = dataclasses.replace(network(), places=places, shape=(1, 4))
    total = Timer(parse(SLICES), V5E.chip, joined, kernel).total()
    ((collective, count),) = total.collectives
    assert (collective.kind, collective.axes, collective.sent, count) == ('all-reduce', 'data, between slices', 1e6, 1)
    assert total.exposed == pytest.approx(1e6 / (LINK / 10))


def test_windows_and_causal_masks_leave_blocks_out():
    assert Visible(True).share(4096, 4096, 1024, 1024) == 10 / 16
    assert Visible(True, window=1024).share(4096, 4096, 1024, 1024) == 7 / 16
    assert Visible(False).share(4096, 4096, 1024, 1024) == 1
    assert Visible(True).share(1024, 4096, 512, 1024) == 5 / 8


def test_the_low_figure_is_never_below_what_the_memory_needs():
    total = time(LOOP)
    total.hbm_bytes = 1e12
    assert time_of(total, V5E)['low'] == pytest.approx(1e12 / (0.9 * V5E.chip.hbm_bandwidth))


def test_figures_of_a_program_are_consistent():
    figures = time_of(time(LOOP), V5E)
    assert figures['low'] <= figures['high']
    assert figures['high'] == pytest.approx(figures['products'][1] + figures['other'][1] + figures['exposed'])
    assert figures['ranking'][0] == {
        'name': 'query/dot_general',
        'kind': 'product',
        'low': pytest.approx(5 * 2000 / 1500 * 1e-6),
        'high': pytest.approx(5 * 2000 / 1500 * 1e-6),
        'times': 5.0,
    }


@pytest.mark.parametrize(
    ('op_name', 'shown'),
    [
        ('jit(train_step)/jvp(Block)/query/dot_general', 'query/dot_general'),
        ('jit(train_step)/transpose(jvp(Block))/query/dot_general', 'query/dot_general (backward)'),
        ('jit(s)/transpose(jvp())/while/body/checkpoint/rematted_computation/Block/mul', 'Block/mul (again)'),
        ('copy.12', 'copy.12'),
        ('', 'unnamed'),
    ],
)
def test_work_is_named_after_its_source(op_name, shown):
    assert source_name(op_name) == shown
