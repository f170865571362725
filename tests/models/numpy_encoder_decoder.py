"""The encoder-decoder once more, in plain NumPy and double precision, one document after another.

Written from the paper; blocks, norms and embeddings are those of numpy_transformer, which knows no encoder.
"""

import types

import numpy as np
from numpy_transformer import Row, feedforward, linear, norm


def hidden_states(config, params, example):
    """[B, L, D] after the last norm, 0 where the decoder reads nothing. `config` is `config.model`."""
    out = np.zeros((*example.inputs.shape, config.width))
    for row, segments in enumerate(np.asarray(example.segment)):
        for segment in set(segments.tolist()) - {0}:
            places = np.flatnonzero(segments == segment)
            order = np.asarray(example.order)[row, places]
            prefix = int(np.sum(order == order[0]))
            inputs = np.asarray(example.inputs)[row, places]
            encoded = Encoder(config, params, inputs[:prefix]).hidden()
            out[row, places[prefix - 1 :]] = Decoder(config, params, inputs[prefix - 1 :], encoded).hidden()
    return out


def alone(inputs, order):
    """A batch of one document."""
    same = np.zeros_like(inputs)
    arrays = {'inputs': inputs, 'order': order, 'segment': same, 'position': np.arange(len(inputs))}
    return types.SimpleNamespace(**{name: array[None] for name, array in arrays.items()}, token_type=None)


class Encoder(Row):
    """Every token sees all tokens of its side."""

    def __init__(self, config, params, inputs):
        own = {'embedding': params['embedding'], 'blocks': params['encoder'], 'norm_final': params.get('norm_encoder')}
        super().__init__(config, own, alone(inputs, np.zeros_like(inputs)), 0)


class Decoder(Row):
    """Every token sees itself and those before it, and what the encoder has made of its side."""

    def __init__(self, config, params, inputs, encoded):
        own = params | {'embedding': params.get('decoder_embedding', params['embedding'])}
        super().__init__(config, own, alone(inputs, np.arange(len(inputs))), 0)
        self.encoded = encoded

    def block(self, index, layer, x):
        config, placement = self.config, self.config.norm.placement

        def branch(x, name, function):
            y = function(x if placement == 'post' else norm(config, layer[name], x))
            y = norm(config, layer[f'{name}_out'], y) if placement == 'sandwich' else y
            return norm(config, layer[name], x + y) if placement == 'post' else x + y

        x = branch(x, 'norm_attention', lambda z: self.attention(index, layer['attention'], z))
        x = branch(x, 'norm_cross', lambda z: self.cross(layer['cross'], z))
        return branch(x, 'norm_feedforward', lambda z: feedforward(config, layer['feedforward'], z))

    def cross(self, params, x):
        heads, width = self.config.attention.num_heads, self.config.width // self.config.attention.num_heads
        out = np.zeros((len(x), heads, width))
        query = linear(params['query'], x).reshape(len(x), heads, width)
        key, value = (linear(params[n], self.encoded).reshape(len(self.encoded), -1, width) for n in ('key', 'value'))
        for head in range(heads):
            shared = head // (heads // self.config.attention.num_kv_heads)
            for i in range(len(x)):
                scores = key[:, shared] @ query[i, head] / np.sqrt(width)
                weights = np.exp(scores - scores.max())
                out[i, head] = weights / weights.sum() @ value[:, shared]
        return linear(params['out'], out.reshape(len(x), -1))
