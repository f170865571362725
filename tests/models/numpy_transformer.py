"""The whole model once more, in plain NumPy and double precision: loops over rows, heads and tokens, no tricks.

Written from the papers, not from gpt2jax/models; only the names of the parameters are shared.
"""

import math

import numpy as np
from scipy import special


def hidden_states(config, params, example):
    """[B, L, D] after the last norm. `config` is `config.model`."""
    rows = len(example.inputs)
    return np.stack([Row(config, params, example, row).hidden() for row in range(rows)])


def logits(config, params, hidden):
    """[..., vocab_size]."""
    head, table = params.get('head', {}), params['embedding']['token']
    if config.head.transform:
        hidden = activation(config.feedforward.kind)(linear(head['transform'], hidden))
        hidden = norm(config, head['norm'], hidden)
    elif 'narrow' in head:
        hidden = linear(head['narrow'], hidden)
    scores = hidden @ np.asarray(table if config.head.tied else head['kernel'], np.float64).T
    if config.parametrization.kind == 'mup':
        scores = scores * config.parametrization.base_width / config.width
    scores = scores + head.get('bias', 0)
    if config.head.softcap:
        scores = config.head.softcap * np.tanh(scores / config.head.softcap)
    return scores[..., : config.vocab_size]


class Row:
    """One row of a batch."""

    def __init__(self, config, params, example, row):
        self.config, self.params = config, params
        read = ('inputs', 'order', 'segment', 'position')
        self.inputs, self.order, self.segment, self.position = (np.asarray(getattr(example, n)[row]) for n in read)
        self.types = np.zeros_like(self.inputs) if example.token_type is None else np.asarray(example.token_type[row])
        self.first_values = None

    def hidden(self):
        x = self.embed()
        for index, layer in enumerate(self.params['blocks']):
            x = self.block(index, layer, x)
        return x if self.config.norm.placement == 'post' else norm(self.config, self.params['norm_final'], x)

    def embed(self):
        config, params = self.config, self.params['embedding']
        x = np.asarray(params['token'], np.float64)[self.inputs]
        if config.embedding.scale:
            x = x * math.sqrt(config.width)
        if config.position.kind == 'learned':
            x = x + np.asarray(params['position']['embedding'])[self.position]
        if config.position.kind == 'sinusoidal':
            for i, position in enumerate(self.position):
                for d in range(x.shape[1]):
                    angle = position / 10_000 ** (2 * (d // 2) / x.shape[1])
                    x[i, d] += math.cos(angle) if d % 2 else math.sin(angle)
        if config.embedding.token_types:
            x = x + np.asarray(params['token_type'])[self.types]
        if config.embedding.norm:
            x = norm(config, params['norm'], x)
        return linear(params['widen'], x) if 'widen' in params else x

    def block(self, index, layer, x):
        config, placement = self.config, self.config.norm.placement

        def before(name, x):
            return x if placement == 'post' else norm(config, layer[name], x)

        def after(name, y):
            return norm(config, layer[f'{name}_out'], y) if placement == 'sandwich' else y

        def outside(name, x):
            return norm(config, layer[name], x) if placement == 'post' else x

        read = before('norm_attention', x)
        attended = after('norm_attention', self.attention(index, layer['attention'], read))
        if config.parallel:
            fed = after('norm_feedforward', feedforward(config, layer['feedforward'], read))
            return outside('norm_feedforward', x + attended + fed)
        x = outside('norm_attention', x + attended)
        fed = after('norm_feedforward', feedforward(config, layer['feedforward'], before('norm_feedforward', x)))
        return outside('norm_feedforward', x + fed)

    def attention(self, index, params, x):
        config, heads = self.config.attention, self.config.attention.num_heads
        width = self.config.width // heads
        query, key, value = (linear(params[name], x).reshape(len(x), -1, width) for name in ('query', 'key', 'value'))
        if config.qk_norm:
            query, key = (
                y / np.sqrt((y**2).mean(-1, keepdims=True) + self.config.norm.epsilon) * params[name]['scale']
                for name, y in (('norm_query', query), ('norm_key', key))
            )
        if self.config.position.kind == 'rotary':
            query, key = self.turn(query), self.turn(key)
        if config.value_residual:
            if index == 0:
                self.first_values = value
            else:
                own, first = np.asarray(params['value_mix'], np.float64)
                value = own * value + first * self.first_values
        out = np.zeros_like(query)
        for head in range(heads):
            shared = head // (heads // config.num_kv_heads)
            for i in range(len(x)):
                seen = [j for j in range(len(x)) if self.sees(index, i, j)]
                scores = np.array([self.score(head, query[i, head], key[j, shared], i, j) for j in seen])
                weights = np.exp(scores - scores.max())
                out[i, head] = weights / weights.sum() @ value[seen, shared]
        return linear(params['out'], out.reshape(len(x), -1))

    def sees(self, index, i, j):
        config = self.config.attention
        reach = config.window or len(self.inputs)
        if config.global_every and (index + 1) % config.global_every == 0:
            reach = len(self.inputs)
        together = self.segment[i] == self.segment[j] and self.order[j] <= self.order[i]
        return together and abs(self.position[i] - self.position[j]) < reach

    def score(self, head, query, key, i, j):
        config, width = self.config, len(query)
        scale = 1 / math.sqrt(width)
        if config.parametrization.kind == 'mup':
            scale = math.sqrt(config.parametrization.base_head_width) / width
        score = query @ key * scale
        distance = int(self.position[j]) - int(self.position[i])
        if config.position.kind == 'alibi':
            score -= 2 ** (-8 * (head + 1) / config.attention.num_heads) * abs(distance)
        if config.position.kind == 't5':
            bucket = t5_bucket(distance, config.position.buckets, config.position.max_distance)
            score += float(self.params['embedding']['position']['bias'][bucket, head])
        if config.attention.softcap:
            score = config.attention.softcap * math.tanh(score / config.attention.softcap)
        return score

    def turn(self, x):
        config, half = self.config.position, x.shape[-1] // 2
        factor, base = max(1, config.max_length / config.trained_length), config.base
        if config.scaling == 'ntk':
            base *= factor ** (half / (half - 1))
        out = np.zeros_like(x)
        for place, position in enumerate(self.position):
            for i in range(half):
                angle = position / base ** (i / half) / (factor if config.scaling == 'linear' else 1)
                out[place, :, i] = x[place, :, i] * math.cos(angle) - x[place, :, i + half] * math.sin(angle)
                out[place, :, i + half] = x[place, :, i + half] * math.cos(angle) + x[place, :, i] * math.sin(angle)
        return out


def linear(params, x):
    return x @ np.asarray(params['kernel'], np.float64).T + params.get('bias', 0)


def norm(config, params, x):
    if config.norm.kind == 'layernorm':
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm.epsilon) * np.asarray(params['scale'])
    return x + (np.asarray(params['bias']) if config.norm.bias else 0)


def activation(kind):
    def gelu(x):
        return x * 0.5 * (1 + special.erf(x / math.sqrt(2)))

    return {
        'gelu': gelu,
        'geglu': gelu,
        'gelu_tanh': lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        'relu': lambda x: np.maximum(x, 0),
        'relu2': lambda x: np.maximum(x, 0) ** 2,
        'swiglu': lambda x: x / (1 + np.exp(-x)),
    }[kind]


def feedforward(config, params, x):
    hidden, act = linear(params['expand'], x), activation(config.feedforward.kind)
    hidden = hidden * act(linear(params['gate'], x)) if 'gate' in params else act(hidden)
    return linear(params['contract'], hidden)


def t5_bucket(distance, buckets, longest):
    half = buckets // 2
    start, size, exact = (half if distance > 0 else 0), abs(distance), half // 2
    if size < exact:
        return start + size
    return start + min(half - 1, exact + int(math.log(size / exact) / math.log(longest / exact) * (half - exact)))
