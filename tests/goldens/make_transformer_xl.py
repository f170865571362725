"""Makes the goldens of tests/models/test_transformer_xl.py: what the last TransfoXL of transformers computes.

    python -m venv OLD && OLD/bin/pip install torch transformers==4.30.2
    OLD/bin/python tests/goldens/make_transformer_xl.py

Transformer-XL left transformers after this version, which cannot be installed beside the one that tests/parity runs: so
the goldens are the test of parity. Each .npz holds a small random model's weights; the ids of three segments, which
the model reads one after the other with the memory that it made of those before; and for each segment the
log-probabilities of every id, the hidden states of every layer and the memory after it, in float32 on a CPU. The first
also holds gradients: of the mean cross-entropy of `targets` over all segments, by every parameter.
"""

from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
ROWS, LENGTH, SEGMENTS, VOCABULARY = 2, 8, 3, 97
COMMON = {
    'vocab_size': VOCABULARY,
    'cutoffs': [40, 71],
    'd_model': 24,
    'n_head': 3,
    'd_head': 8,
    'd_inner': 40,
    'n_layer': 2,
    'mem_len': 12,
    'dropout': 0.0,
    'dropatt': 0.0,
    'same_length': False,
    'pre_lnorm': False,
    'untie_r': True,
}
# One table for all ids; clusters each half as wide as the one before, with distances beyond 14 as this one; and as many
# keys for every token.
CASES = {
    'transformer_xl': {'d_embed': 24, 'div_val': 1, 'clamp_len': -1},
    'transformer_xl_clusters': {'d_embed': 20, 'div_val': 2, 'clamp_len': 14},
    'transformer_xl_same_length': {'d_embed': 24, 'div_val': 1, 'clamp_len': -1, 'same_length': True},
}


def write(name: str, changes: dict) -> None:
    """One golden."""
    model = transformers.TransfoXLLMHeadModel(transformers.TransfoXLConfig(**COMMON | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # off their small or zero initial values, where mistakes would not show
            parameter.copy_(0.25 * torch.randn_like(parameter) + (parameter.ndim == 1) * torch.ones_like(parameter))
    random = np.random.default_rng(0)
    ids_SBL, targets_SBL = (random.integers(0, VOCABULARY, (SEGMENTS, ROWS, LENGTH)) for _ in range(2))
    memory, kept, nats = None, {'log_probs': [], 'hidden': [], 'memory': []}, 0.0
    for ids_BL, targets_BL in zip(ids_SBL, targets_SBL, strict=True):
        out = model(torch.tensor(ids_BL), mems=memory, output_hidden_states=True, return_dict=True)
        memory = out.mems
        nats -= out.prediction_scores.gather(-1, torch.tensor(targets_BL)[..., None]).sum()
        kept['log_probs'].append(out.prediction_scores)
        kept['hidden'].append(torch.stack(out.hidden_states))
        kept['memory'].append(torch.stack(memory).transpose(1, 2))
    (nats / targets_SBL.size).backward()
    parameters = dict(model.named_parameters())
    weights = {f'weight {n}': p.detach().numpy() for n, p in parameters.items()}
    gradients = {f'gradient {n}': p.grad.numpy() for n, p in parameters.items()} if name == 'transformer_xl' else {}
    outputs = {n: torch.stack(values).detach().numpy() for n, values in kept.items()}
    np.savez_compressed(HERE / f'{name}.npz', ids=ids_SBL, targets=targets_SBL, **outputs, **weights, **gradients)


if __name__ == '__main__':
    torch.manual_seed(0)
    for case_name, case_changes in CASES.items():
        write(case_name, case_changes)
