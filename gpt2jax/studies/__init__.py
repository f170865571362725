"""Studies: a question, arms and seeds, run at matched compute, with statistics and a report.

study.py and combinators.py: what an experiment file says. costs.py, matching.py: how many steps each arm gets.
cells.py: the runs of a study, as folders. executors.py, running.py, board.py: running them. results.py: reading them.
statistics.py, findings.py: what follows from them, and what does not. scaling.py, frontier.py: laws of the loss over
sizes and budgets.
"""

from gpt2jax.studies.combinators import Arm, arm, budgets, chain, param, product, zip
from gpt2jax.studies.study import Study, recipe_arm

__all__ = ['Arm', 'Study', 'arm', 'budgets', 'chain', 'param', 'product', 'recipe_arm', 'zip']
