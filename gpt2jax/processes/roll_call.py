"""The roll call: before JAX starts, every process says who it is, and process 0 says whether they fit together.

JAX's own service ends a program without a word that names a host when a process is missing, so the processes meet here
first, on the port that the service takes afterwards. What is sent is one line of JSON each way.
"""

import json
import socket
import time

from gpt2jax.errors import OutOfReachError, UserError
from gpt2jax.processes.cluster import Cluster

LINE_LIMIT = 2**24  # bytes of a line; the facts of one process take some thousand
HEARING = 5.0  # seconds that one process may take to say its line
PAUSE = 0.2  # seconds between two attempts to reach the coordinator

Facts = dict


def roll_call(cluster: Cluster, facts: Facts, compare, seconds: float) -> list[Facts]:
    """The facts of all processes, in their order, once each of them has answered.

    Args:
      facts: JSON that this process says of itself.
      compare: takes the facts of all; returns what is wrong with them together, or None.
      seconds: how long the processes wait for each other.

    Raises:
      OutOfReachError: processes did not answer, named.
      UserError: they do not fit together; in all of them alike.
    """
    deadline = time.monotonic() + seconds
    reply = _lead(cluster, facts, compare, deadline) if cluster.index == 0 else _answer(cluster, facts, deadline)
    if reply['missing']:
        raise OutOfReachError(reply['missing'])
    if reply['wrong']:
        raise UserError(reply['wrong'])
    return reply['facts']


def _lead(cluster: Cluster, facts: Facts, compare, deadline: float) -> dict:
    try:
        server = socket.create_server(('', cluster.port), backlog=cluster.count)
    except OSError as error:
        raise UserError(
            f'process 0 cannot listen on port {cluster.port} of --coordinator={cluster.coordinator}: {error.strerror}; '
            'choose another port in all processes'
        ) from error
    present, connections = {0: facts}, []
    with server:
        while len(present) < cluster.count and time.monotonic() < deadline:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                connection, (host, *_) = server.accept()
            except TimeoutError:
                break
            said = _receive(connection, min(deadline, time.monotonic() + HEARING))
            if _is_answer(said, cluster):
                present[said['index']] = said['facts'] | {'address': host}
                connections.append(connection)
            else:
                connection.close()  # a stranger, or a process that ended while it spoke
        missing, facts = _missing(cluster, present), [present.get(i) for i in range(cluster.count)]
        reply = {'missing': missing, 'wrong': None if missing else compare(facts), 'facts': facts}
        for connection in connections:
            _send(connection, reply, deadline)
    return reply


def _answer(cluster: Cluster, facts: Facts, deadline: float) -> dict:
    reason = 'it refused the connection'
    while time.monotonic() < deadline:
        try:
            address = cluster.host, cluster.port
            with socket.create_connection(address, timeout=max(deadline - time.monotonic(), 0.01)) as connection:
                _send(connection, {'index': cluster.index, 'count': cluster.count, 'facts': facts}, deadline)
                # Process 0 answers when all are there or its own patience, which began earlier or later, is at an end.
                if reply := _receive(connection, deadline + (deadline - time.monotonic()) + 5):
                    return reply
                reason = 'it ended before all processes were there'
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
        time.sleep(PAUSE)
    raise OutOfReachError(
        f'process {cluster.index} on {socket.gethostname()}: the coordinator {cluster.coordinator} (process 0) did not '
        f'answer ({reason}); is it running, is its address right, and is the port open between the hosts?'
    )


def _is_answer(said, cluster: Cluster) -> bool:
    return (
        isinstance(said, dict)
        and said.get('count') == cluster.count
        and isinstance(said.get('index'), int)
        and 0 < said['index'] < cluster.count
        and isinstance(said.get('facts'), dict)
    )


def _missing(cluster: Cluster, present: dict[int, Facts]) -> str | None:
    missing = [str(index) for index in range(cluster.count) if index not in present]
    if not missing:
        return None
    there = ', '.join(f'{index} on {facts["host"]}' for index, facts in sorted(present.items()))
    return (
        f'of {cluster.count} processes, {len(missing)} did not answer the coordinator {cluster.coordinator}: '
        f'process {", ".join(missing)}. There are: {there}. Look at the log of the missing one: it may not have been '
        'started, have failed at once, or not reach that port'
    )


def _send(connection: socket.socket, value, deadline: float) -> None:
    connection.settimeout(max(deadline - time.monotonic(), 1.0))
    try:
        connection.sendall(json.dumps(value).encode() + b'\n')
    except OSError:
        return  # it ended; it is missed where its answer is


def _receive(connection: socket.socket, deadline: float):
    """A line of JSON, or None."""
    line = b''
    try:
        while not line.endswith(b'\n') and len(line) < LINE_LIMIT:
            connection.settimeout(max(deadline - time.monotonic(), 0.01))
            if not (piece := connection.recv(2**16)):
                return None
            line += piece
        return json.loads(line)
    except (OSError, ValueError):
        return None
