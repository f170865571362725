"""Weights that travel: Hugging Face folders of GPT-2, BERT, RoBERTa and XLNet to runs of ours, and back.

The two names of each tensor stand in one table (layouts.py), which is read in both directions. What either side cannot
say is refused by name (configs.py, expressing.py), before any number is read.
"""

from gpt2jax.interop.exporting import check_target, write_folder
from gpt2jax.interop.expressing import express
from gpt2jax.interop.importing import check, load, open_folder

__all__ = ['check', 'check_target', 'express', 'load', 'open_folder', 'write_folder']
