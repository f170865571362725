"""Marian models of transformers in tests: their parameters as ours, and their batches as an Example."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from helpers import tiny_config

from gpt2jax.losses import token_nats
from gpt2jax.models import make_model
from gpt2jax.objectives import Example
from gpt2jax.objectives.example import position_in_segment

MODULES = {
    'self_attn': 'attention',
    'encoder_attn': 'cross',
    'self_attn_layer_norm': 'norm_attention',
    'encoder_attn_layer_norm': 'norm_cross',
    'final_layer_norm': 'norm_feedforward',
    'fc1': 'feedforward/expand',
    'fc2': 'feedforward/contract',
    'q_proj': 'query',
    'k_proj': 'key',
    'v_proj': 'value',
    'out_proj': 'out',
}
READ, WRITTEN = ('query/kernel', 'key/kernel', 'value/kernel', 'expand/kernel'), ('out', 'contract')


def model_of(width: int, heads: int, layers: tuple[int, int], feedforward: int, vocabulary: int):
    """Our model of the sizes; `layers` are those of the encoder and of the decoder."""
    config = tiny_config(
        objective__kind='seq2seq',
        data__whole_documents=True,
        model__architecture='encoder_decoder',
        model__width=width,
        model__attention__num_heads=heads,
        model__encoder_layers=layers[0],
        model__num_layers=layers[1],
        model__feedforward__width=feedforward,
        model__feedforward__kind='relu',
        model__position__kind='sinusoidal',
        model__embedding__scale=True,
        model__norm__placement='post',
        model__vocab_size=vocabulary,
    )
    return make_model(config.model)


def path_of(name: str) -> str:
    """'model.encoder.layers.0.fc1.weight' -> 'encoder/0/feedforward/expand/kernel'."""
    if name == 'model.shared.weight':
        return 'embedding/token'
    side, layer, rest = re.fullmatch(r'model\.(encoder|decoder)\.layers\.(\d+)\.(.*)', name).groups()
    *modules, kind = rest.split('.')
    path = '/'.join(MODULES[module] for module in modules)
    if kind == 'weight':
        kind = 'scale' if 'norm' in path else 'kernel'
    return '/'.join(('encoder' if side == 'encoder' else 'blocks', layer, path, kind))


def as_ours(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters or gradients by our paths, as the sines and cosines of positions stand here.

    There all sines come before all cosines, here each sine before its cosine: so all that reads the residual stream or
    writes to it has its columns or rows in another order.
    """
    ours = {path_of(name): array for name, array in arrays.items()}
    width = ours['embedding/token'].shape[1]
    order_D = np.arange(width).reshape(2, -1).T.ravel()
    for path, array in ours.items():
        if path.endswith(READ) or 'norm' in path or path == 'embedding/token':
            ours[path] = array[..., order_D]
        elif path.rsplit('/', 2)[-2] in WRITTEN:
            ours[path] = array[order_D]
    return ours


def tree_of(model, arrays: dict[str, np.ndarray]):
    """The tree of parameters of our model, of arrays by our paths; every one of them is used."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    paths = [
        jax.tree_util.keystr(p, simple=True, separator='/') for p, _ in jax.tree_util.tree_leaves_with_path(shapes)
    ]
    assert set(paths) == set(arrays)
    return jax.tree.unflatten(jax.tree.structure(shapes), [jnp.asarray(arrays[path]) for path in paths])


def example_of(ids_BS, real_BS, inputs_BT, written_BT, targets_BT, weights_BT) -> tuple[Example, np.ndarray]:
    """Source and target behind each other in rows, without the target's first token, which is the source's last.

    Returns:
      the Example, and [B, T], the place in its row of each token that a decoder reads.
    """
    rows, (S, T) = len(ids_BS), (ids_BS.shape[1], inputs_BT.shape[1])
    tokens_BL, order_BL, segment_BL = np.zeros((3, rows, S + T - 1), np.int32)
    goals_BL, share_BL, place_BT = np.zeros_like(tokens_BL), np.zeros(tokens_BL.shape, np.float32), []
    for row, (source, target) in enumerate(zip(real_BS.sum(1), written_BT.sum(1), strict=True)):
        end, place = source + target - 1, np.minimum(source - 1 + np.arange(T), S + T - 2)
        tokens_BL[row, :end] = [*ids_BS[row, :source], *inputs_BT[row, 1:target]]
        order_BL[row, source:end], segment_BL[row, :end] = np.arange(1, target), 1
        goals_BL[row, place[:target]] = targets_BT[row, :target]
        share_BL[row, place[:target]] = weights_BT[row, :target]
        place_BT.append(place)
    example = Example(
        inputs=jnp.asarray(tokens_BL),
        targets=jnp.asarray(goals_BL),
        weights=jnp.asarray(share_BL),
        order=jnp.asarray(order_BL),
        segment=jnp.asarray(segment_BL),
        position=position_in_segment(jnp.asarray(segment_BL)),
        row=jnp.arange(rows),
        visibility='prefix',
    )
    return example, np.array(place_BT)


def logits_of(model, params, example: Example):
    """[B, L, V]."""
    hidden_BLD, _ = model.apply(params, example)
    head_params, logits_fn = model.head(params)
    return logits_fn(head_params, hidden_BLD.reshape(-1, hidden_BLD.shape[-1])).reshape(*hidden_BLD.shape[:2], -1)


def gradients_of(model, params, example: Example) -> dict[str, np.ndarray]:
    """Of the weighted cross-entropy, summed, by our paths."""

    def loss(params):
        logits_BLV = logits_of(model, params, example)
        nats_N, _ = token_nats(logits_BLV.reshape(-1, logits_BLV.shape[-1]), example.targets.reshape(-1))
        return jnp.sum(nats_N * example.weights.reshape(-1))

    leaves = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params))
    return {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf) for path, leaf in leaves}
