"""Many processes that train one model: finding each other, watching each other, ending together."""

from gpt2jax.processes.cluster import Cluster, Processes, find_cluster
from gpt2jax.processes.joining import join
from gpt2jax.processes.peers import ALONE, Peers
from gpt2jax.processes.supervisor import is_supervised, supervise

__all__ = ['ALONE', 'Cluster', 'Peers', 'Processes', 'find_cluster', 'is_supervised', 'join', 'supervise']
