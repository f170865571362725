"""Weighted cross-entropy, without ever holding all logits.

The logits of a batch are its largest array by far (65,536 tokens by 50,304 ids are 12 GiB in float32), so the loss
walks over chunks of tokens. Each chunk's gradient is made while its logits are at hand, in the forward pass: the
backward pass only scales it. Nothing is computed twice, and the result is that of the plain loss.

Axes: B batch, L length, D width, C chunks, N tokens of a chunk, P predicted tokens of a row, V vocabulary.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array


def token_nats(logits_NV: Array, targets_N: Array) -> tuple[Array, Array]:
    """(-log p(target), log Z) of each token, in nats."""
    log_z_N = jax.nn.logsumexp(logits_NV, axis=-1)
    target_N = jnp.take_along_axis(logits_NV, targets_N[:, None], axis=-1)[:, 0]
    return log_z_N - target_N, log_z_N


def token_loss(logits_NV: Array, targets_N: Array, z_loss: float, label_smoothing: float) -> tuple[Array, Array]:
    """(what is to be minimised, the cross-entropy alone) of each token; the arguments are those of `cross_entropy`."""
    nats_N, log_z_N = token_nats(logits_NV, targets_N)
    loss_N = nats_N
    if label_smoothing:
        real_NV = jnp.isfinite(logits_NV)  # the ids that pad the vocabulary have -inf
        mean_N = jnp.sum(jnp.where(real_NV, logits_NV, 0.0), axis=-1) / jnp.sum(real_NV, axis=-1)
        loss_N = (1 - label_smoothing) * nats_N + label_smoothing * (log_z_N - mean_N)
    return loss_N + z_loss * jnp.square(log_z_N) if z_loss else loss_N, nats_N


def cross_entropy(
    logits_fn,
    head_params,
    hidden_BLD,
    targets_BL,
    weights_BL,
    *,
    chunk_tokens: int,
    z_loss: float,
    label_smoothing: float,
    predictions: int,
):
    """Sums over a batch; divide them by the sum of the weights.

    Args:
      logits_fn: (head_params, hidden_ND) -> logits_NV in float32.
      chunk_tokens: tokens whose logits exist at once; 0: all.
      z_loss: weight of log(Z)^2 (Chowdhery et al. 2022, section 5).
      label_smoothing: share of a target's probability that is spread over all ids (Vaswani et al. 2017, section 5.4).
      predictions: how many positions of a row can have a weight. When they are fewer than L, they are gathered
        first, so that the vocabulary product is made for them alone.

    Returns:
      (loss, nats): what is to be minimised, and the cross-entropy alone; both weighted sums.
    """
    hidden_BLD, targets_BL, weights_BL = gather_predicted(hidden_BLD, targets_BL, weights_BL, predictions)
    chunks = (split_length(a, chunk_tokens) for a in (hidden_BLD, targets_BL, weights_BL))
    return _chunked_loss(logits_fn, (z_loss, label_smoothing), head_params, *chunks)


def gather_predicted(hidden_BLD: Array, targets_BL: Array, weights_BL: Array, predictions: int) -> tuple:
    """The same for those positions alone that have a weight: [B, P, D], [B, P], [B, P], with P = `predictions`.

    Rows with fewer are filled up with positions without one.
    """
    if predictions >= weights_BL.shape[1]:
        return hidden_BLD, targets_BL, weights_BL
    _, index_BP = jax.lax.top_k((weights_BL > 0).astype(jnp.float32), predictions)
    hidden_BPD = jnp.take_along_axis(hidden_BLD, index_BP[..., None], axis=1)
    return hidden_BPD, *(jnp.take_along_axis(a, index_BP, axis=1) for a in (targets_BL, weights_BL))


def split_length(x_BL: Array, chunk_tokens: int) -> Array:
    """[B, L, ...] -> [C, N, ...]: C chunks of N = B * L / C tokens, padded with zeros to equal sizes.

    The cut goes through the length of every row, so that each chunk lies on all devices that share the rows.
    """
    B, L = x_BL.shape[:2]
    chunks = min(L, -(-B * L // chunk_tokens)) if chunk_tokens else 1
    size = -(-L // chunks)
    x_BL = jnp.pad(x_BL, [(0, 0), (0, chunks * size - L)] + [(0, 0)] * (x_BL.ndim - 2))
    x_CBN = x_BL.reshape(B, chunks, size, *x_BL.shape[2:]).swapaxes(0, 1)
    return x_CBN.reshape(chunks, B * size, *x_BL.shape[2:])


def all_token_nats(logits_fn, head_params, hidden_BLD, targets_BL, *, chunk_tokens: int) -> Array:
    """The cross-entropy of every token, [B, L], for evaluation; chunked in the same way."""

    def nats(logits_NV, targets_N):
        return token_nats(logits_NV, targets_N)[0]

    return each_token(nats, logits_fn, head_params, hidden_BLD, targets_BL, chunk_tokens=chunk_tokens)


def all_token_hits(logits_fn, head_params, hidden_BLD, targets_BL, *, chunk_tokens: int) -> tuple[Array, Array]:
    """The cross-entropy of every token, and whether it has the highest logit: [B, L] each."""

    def nats_and_hits(logits_NV, targets_N):
        return token_nats(logits_NV, targets_N)[0], jnp.argmax(logits_NV, axis=-1) == targets_N

    return each_token(nats_and_hits, logits_fn, head_params, hidden_BLD, targets_BL, chunk_tokens=chunk_tokens)


def each_token(function, logits_fn, head_params, hidden_BLD, targets_BL, *, chunk_tokens: int):
    """`function(logits_NV, targets_N)`, one or more [N], of every token, [B, L] each; chunk by chunk."""
    B, L = targets_BL.shape

    def of_chunk(chunk):
        return function(logits_fn(head_params, chunk[0]), chunk[1])

    def join(x_CN):
        return x_CN.reshape(x_CN.shape[0], B, -1).swapaxes(0, 1).reshape(B, -1)[:, :L]

    chunks = split_length(hidden_BLD, chunk_tokens), split_length(targets_BL, chunk_tokens)
    return jax.tree.map(join, jax.lax.map(of_chunk, chunks))


def _chunk_loss(logits_fn, terms, head_params, hidden_ND, targets_N, weights_N):
    each = token_loss(logits_fn(head_params, hidden_ND), targets_N, *terms)
    # Padding may have no logit: infinite nats.
    return tuple(jnp.sum(jnp.where(weights_N > 0, weights_N * x_N, 0.0)) for x_N in each)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked_loss(logits_fn, terms, head_params, hidden_CND, targets_CN, weights_CN):
    """The sum of `_chunk_loss` over chunks."""

    def add(total, chunk):
        loss, nats = _chunk_loss(logits_fn, terms, head_params, *chunk)
        return (total[0] + loss, total[1] + nats), None

    return jax.lax.scan(add, (0.0, 0.0), (hidden_CND, targets_CN, weights_CN))[0]


def _chunked_loss_forward(logits_fn, terms, head_params, hidden_CND, targets_CN, weights_CN):
    def add(carry, chunk):
        total, head_gradient = carry
        hidden_ND, targets_N, weights_N = chunk

        def loss_of(head_params, hidden_ND):
            return _chunk_loss(logits_fn, terms, head_params, hidden_ND, targets_N, weights_N)

        loss, backward, nats = jax.vjp(loss_of, head_params, hidden_ND, has_aux=True)
        more, hidden_gradient_ND = backward(jnp.ones_like(loss))
        head_gradient = jax.tree.map(jnp.add, head_gradient, more)
        return ((total[0] + loss, total[1] + nats), head_gradient), hidden_gradient_ND

    zeros = jax.tree.map(jnp.zeros_like, head_params)
    start = (0.0, 0.0), zeros
    (total, head_gradient), hidden_gradient = jax.lax.scan(add, start, (hidden_CND, targets_CN, weights_CN))
    return total, (head_gradient, hidden_gradient)


def _chunked_loss_backward(logits_fn, terms, gradients, cotangent):
    scale, _ = cotangent  # nats are reported, not minimised: their cotangent is zero in every use
    head_gradient, hidden_gradient = jax.tree.map(lambda g: g * scale.astype(g.dtype), gradients)
    return head_gradient, hidden_gradient, None, None


_chunked_loss.defvjp(_chunked_loss_forward, _chunked_loss_backward)
