"""What is checked before processes train together, with threads in their place."""

import threading
from types import SimpleNamespace

import pytest

from gpt2jax.errors import UserError
from gpt2jax.processes.peers import ALONE, CommonError, Peers
from gpt2jax.training import startup
from gpt2jax.training.startup import check_folder, check_rows


class Threads(Peers):
    """Peers that are threads of this process, and exchange values through a list."""

    def __init__(self, index, count, board):
        super().__init__(index, [f'host-{i}' for i in range(count)], 60.0)
        self._board = board

    def _say(self, name, value):
        turn = self._exchanges[name] = self._exchanges.get(name, 0) + 1
        with self._board['lock']:
            self._board[name, turn, self.index] = value
            self._board['lock'].notify_all()
        return turn

    def exchange(self, name, value):
        turn = self._say(name, value)
        with self._board['lock']:
            keys = [(name, turn, index) for index in range(self.count)]
            assert self._board['lock'].wait_for(lambda: all(key in self._board for key in keys), 30)
            return [self._board[key] for key in keys]

    def _publish(self, reason, status):
        pass


def together(count, function):
    """Runs function(peers) in `count` threads; returns the error of each, or None."""
    board, errors = {'lock': threading.Condition()}, [None] * count

    def run(index):
        try:
            function(Threads(index, count, board))
        except UserError as error:
            errors[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_an_error_of_one_is_raised_by_all_with_its_name():
    errors = together(3, lambda peers: peers.agree('room', 'no room' if peers.index == 1 else None))
    assert [str(error) for error in errors] == ['process 1 on host-1: no room'] * 3
    assert [isinstance(error, CommonError) for error in errors] == [True, False, True]
    assert together(2, lambda peers: peers.agree('room', None)) == [None, None]


def test_alone_there_is_nobody_to_name():
    assert ALONE.exchange('anything', 5) == [5]
    with pytest.raises(UserError, match=r'^no room$'):
        ALONE.agree('room', 'no room')


def setup_of(batch_size):
    return SimpleNamespace(config=SimpleNamespace(training=SimpleNamespace(batch_size=batch_size)))


@pytest.mark.parametrize('rows', [[[0, 1], [2, 3]], [[0, 2], [1, 3]], [[0, 1, 2, 3], [0, 1, 2, 3]]])
def test_rows_that_make_the_batch_are_fine(rows):
    check_rows(rows, setup_of(4), ALONE)


@pytest.mark.parametrize('rows', [[[0, 1], [1, 2, 3]], [[0, 1], [2]], [[0, 1, 2], [0, 1, 2]]])
def test_rows_that_are_read_twice_or_not_at_all_are_refused(rows):
    peers = Threads(0, 2, {})
    with pytest.raises(UserError, match=r'each of the 4 rows of a batch once \(process 0 on host-0: rows 0 to'):
        check_rows(rows, setup_of(4), peers)


def test_a_folder_that_all_share_is_left_as_it_was(tmp_path):
    assert together(3, lambda peers: check_folder(tmp_path / 'run', peers)) == [None] * 3
    assert list((tmp_path / 'run').iterdir()) == []


def test_a_folder_that_is_not_shared_is_refused_by_all(tmp_path, monkeypatch):
    monkeypatch.setattr(startup, 'VISIBLE_SECONDS', 0.3)
    errors = together(2, lambda peers: check_folder(tmp_path / str(peers.index), peers))
    for error in errors:
        assert 'must be a folder that all hosts share' in str(error)
    assert 'process 0 on host-0: does not see' in str(errors[0])


def test_a_folder_that_one_cannot_write_is_refused_by_all(tmp_path):
    (tmp_path / 'file').write_text('')
    folders = tmp_path / 'run', tmp_path / 'file'
    errors = together(2, lambda peers: check_folder(folders[peers.index], peers))
    for error in errors:
        assert f'process 1 on host-1: cannot write in --workdir={tmp_path / "file"}' in str(error)


def test_the_sum_of_devices_is_right_here():
    import jax
    from jax.sharding import Mesh

    mesh = Mesh(jax.devices()[:1], ('data',))
    startup.check_sum(mesh, ALONE, 60.0)


def test_a_wrong_sum_is_refused(monkeypatch):
    monkeypatch.setattr(startup, 'sum_of_devices', lambda mesh: 35.0)
    with pytest.raises(UserError, match=r'a sum over all 8 devices is 35.0, not 36.0'):
        startup.check_sum(SimpleNamespace(size=8), ALONE, 60.0)


def test_a_sum_that_never_ends_is_refused(monkeypatch):
    monkeypatch.setattr(startup, 'sum_of_devices', lambda mesh: threading.Event().wait(5))
    with pytest.raises(UserError, match=r'did not come to an end within 0 s'):
        startup.check_sum(SimpleNamespace(size=8), ALONE, 0.1)
