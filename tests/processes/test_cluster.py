"""Which processes train together, by flags and by what the machine says."""

import os

import pytest

from gpt2jax.errors import UserError
from gpt2jax.processes import Processes, find_cluster

ENGINES = ('SLURM_', 'OMPI_', 'TPU_', 'MEGASCALE_', 'KUBERNETES_', 'JAX_COORDINATOR')


@pytest.fixture(autouse=True)
def no_engine(monkeypatch):
    for name in list(os.environ):
        if name.startswith(ENGINES):
            monkeypatch.delenv(name)


def test_without_flags_and_engine_a_process_is_alone():
    assert find_cluster(Processes()) is None


def test_flags_name_the_cluster():
    cluster = find_cluster(Processes(coordinator='10.0.0.1:8476', count=4, index=3))
    assert (cluster.host, cluster.port, cluster.count, cluster.index) == ('10.0.0.1', 8476, 4, 3)
    assert find_cluster(Processes(coordinator='[::1]:80', count=2, index=0)).host == '::1'
    assert find_cluster(Processes(coordinator='localhost:1', count=1, index=0)) is None


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        ({'coordinator': 'a:1'}, '--num_processes is missing'),
        ({'count': 2, 'index': 0}, '--coordinator is missing'),
        ({'coordinator': 'a:1', 'count': 2}, '--process_id is missing'),
        ({'coordinator': 'a', 'count': 2, 'index': 0}, '--coordinator=a: expected HOST:PORT'),
        ({'coordinator': 'a:70000', 'count': 2, 'index': 0}, 'expected HOST:PORT'),
        ({'coordinator': ':80', 'count': 2, 'index': 0}, 'expected HOST:PORT'),
        ({'coordinator': 'a:1', 'count': 2, 'index': 2}, '--process_id=2 --num_processes=2'),
        ({'coordinator': 'a:1', 'count': 2, 'index': -1}, '--process_id=-1'),
    ],
)
def test_flags_that_name_no_cluster_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        find_cluster(Processes(**given))


def test_slurm_is_detected(monkeypatch):
    values = {
        'SLURM_JOB_ID': '4711',
        'SLURM_STEP_NODELIST': 'node[3-4]',
        'SLURM_NTASKS': '2',
        'SLURM_PROCID': '1',
        'SLURM_LOCALID': '0',
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    cluster = find_cluster(Processes())
    assert (cluster.host, cluster.count, cluster.index, cluster.local_devices) == ('node3', 2, 1, (0,))
    monkeypatch.setenv('SLURM_NTASKS', '1')
    monkeypatch.setenv('SLURM_PROCID', '0')
    assert find_cluster(Processes()) is None


def test_open_mpi_is_detected(monkeypatch):
    values = {
        'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://10.96.0.1:34911',
        'OMPI_COMM_WORLD_SIZE': '8',
        'OMPI_COMM_WORLD_RANK': '5',
        'OMPI_COMM_WORLD_LOCAL_RANK': '1',
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    cluster = find_cluster(Processes())
    assert (cluster.host, cluster.count, cluster.index) == ('10.96.0.1', 8, 5)


def test_an_engine_whose_words_cannot_be_read_is_an_error_of_the_user(monkeypatch):
    monkeypatch.setenv('OMPI_MCA_orte_hnp_uri', 'nonsense')
    with pytest.raises(UserError, match=r'could not be read .* --coordinator=HOST:PORT'):
        find_cluster(Processes())
