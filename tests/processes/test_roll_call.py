"""The roll call: processes meet on a port, or learn who is missing."""

import socket
import threading
import time

import pytest

from gpt2jax.errors import UserError
from gpt2jax.processes.cluster import Cluster
from gpt2jax.processes.joining import code_fingerprint, facts_of_this_process, find_difference
from gpt2jax.processes.roll_call import roll_call
from gpt2jax.processes.supervisor import free_port


def facts(host='host', **changes):
    return {'host': host, 'code': 'abc', 'versions': {'jax': '1'}, 'config': {'seed': 0}} | changes


def call(parts, seconds=20.0, count=None, delays=None):
    """What each process of `parts` (index -> facts) gets: the facts of all, or its error."""
    coordinator, results = f'localhost:{free_port()}', {}

    def run(index):
        time.sleep((delays or {}).get(index, 0))
        cluster = Cluster(coordinator, count or len(parts), index)
        try:
            results[index] = roll_call(cluster, parts[index], find_difference, seconds)
        except UserError as error:
            results[index] = str(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_all_learn_of_all_whoever_comes_first():
    found = call({index: facts(f'host-{index}') for index in range(3)}, delays={0: 0.5, 2: 0.8})
    for index in range(3):
        assert [other['host'] for other in found[index]] == ['host-0', 'host-1', 'host-2']


def test_a_missing_process_is_named_to_all_others():
    found = call({0: facts('a'), 2: facts('c')}, seconds=1.5, count=3)
    for index in (0, 2):
        assert 'of 3 processes, 1 did not answer' in found[index]
        assert 'process 1. There are: 0 on a, 2 on c' in found[index]


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'config': {'seed': 1}}, r'process 1 on b differs from process 0 on a in its config: seed = 1, not 0'),
        ({'config': {'seed': 0, 'more': 1}}, r'config: more = 1, not None'),
        ({'versions': {'jax': '2'}}, r"versions: jax = '2', not '1'"),
        ({'code': 'xyz'}, r'it runs other code'),
    ],
)
def test_a_process_that_differs_is_named_to_all(changes, said):
    found = call({0: facts('a'), 1: facts('b', **changes)})
    assert found[0] == found[1]
    assert said in found[0]


def test_strangers_do_not_count():
    """Someone who connects to the port and says nothing, or nonsense, is no process of the run."""
    port = free_port()
    results = []
    cluster = Cluster(f'localhost:{port}', 2, 0)
    leader = threading.Thread(target=lambda: results.append(roll_call(cluster, facts('a'), find_difference, 20.0)))
    leader.start()
    for words in (b'GET / HTTP/1.1\r\n\r\n', b'{"index": 7, "count": 2, "facts": {}}\n', b'[1]\n'):
        for _ in range(100):
            try:
                stranger = socket.create_connection(('localhost', port))
                break
            except OSError:
                time.sleep(0.02)
        stranger.sendall(words)
        stranger.close()
    other = roll_call(Cluster(f'localhost:{port}', 2, 1), facts('b'), find_difference, 20.0)
    leader.join()
    assert [each['host'] for each in other] == [each['host'] for each in results[0]] == ['a', 'b']


def test_a_coordinator_that_is_not_there_is_named():
    cluster = Cluster(f'localhost:{free_port()}', 2, 1)
    with pytest.raises(UserError, match=rf'the coordinator {cluster.coordinator} \(process 0\) did not answer'):
        roll_call(cluster, facts(), find_difference, 0.5)


def test_a_port_that_is_taken_is_named():
    with socket.create_server(('', 0)) as server:
        cluster = Cluster(f'localhost:{server.getsockname()[1]}', 2, 0)
        with pytest.raises(UserError, match=rf'cannot listen on port {cluster.port} .*choose another port'):
            roll_call(cluster, facts(), find_difference, 0.5)


def test_the_facts_of_this_process_hold_its_code_and_versions():
    found = facts_of_this_process({'seed': 3})
    assert found['config'] == {'seed': 3}
    assert found['code'] == code_fingerprint()
    assert len(found['code']) == 64
    assert {'python', 'jax', 'jaxlib', 'gpt2jax'} <= found['versions'].keys()
    assert find_difference([found, found]) is None
