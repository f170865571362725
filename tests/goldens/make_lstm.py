"""Makes the golden of tests/models/test_lstm.py: what torch.nn.LSTM computes, with its own initial values.

    python -m venv PEER && PEER/bin/pip install torch
    PEER/bin/python tests/goldens/make_lstm.py

lstm.npz holds two layers of unequal widths over an embedding, the ids of two segments that are read one after the
other, the outputs and last states of each, and gradients of the sum of the outputs' sines, in float32 on a CPU.
"""

import itertools
from pathlib import Path

import numpy as np
import torch

ROWS, LENGTH, VOCABULARY, WIDTHS = 3, 9, 61, (12, 20, 16)  # of the embedding, and of the layers


def main() -> None:
    """Writes the file."""
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(VOCABULARY, WIDTHS[0])
    layers = [torch.nn.LSTM(*widths, batch_first=True) for widths in itertools.pairwise(WIDTHS)]
    ids = torch.randint(VOCABULARY, (2, ROWS, LENGTH))
    states, arrays, total = [None] * len(layers), {'ids': ids.numpy()}, 0.0
    for segment in range(2):
        x = embedding(ids[segment])
        for index, layer in enumerate(layers):
            x, states[index] = layer(x, states[index])
            for name, state in zip('hc', states[index], strict=True):
                arrays[f'{name}/{segment}/{index}'] = state[0].detach().numpy()
        arrays[f'output/{segment}'] = x.detach().numpy()
        total = total + x.sin().sum()
    total.backward()
    parameters = {'embedding': embedding.weight}
    parameters |= {
        f'{index}/{name}': value for index, layer in enumerate(layers) for name, value in layer.named_parameters()
    }
    for name, value in parameters.items():
        arrays[f'value/{name}'], arrays[f'gradient/{name}'] = value.detach().numpy(), value.grad.numpy()
    np.savez_compressed(Path(__file__).parent / 'lstm.npz', **arrays)


if __name__ == '__main__':
    main()
