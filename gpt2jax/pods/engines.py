"""The engines by name: each renders a request for the tool that starts it."""

from gpt2jax.pods import gcloud, jobset, skypilot, slurm, xpk

ENGINES = {
    'jobset': jobset.render,
    'xpk': xpk.render,
    'skypilot': skypilot.render,
    'slurm': slurm.render,
    'gcloud': gcloud.render,
}
