"""Makes encoder_decoder.npz: what transformers' Marian computes with a small random model, and the model itself.

    pip install -r requirements-peers.txt
    python tests/goldens/make_encoder_decoder.py

Marian's is the recipe of Vaswani et al. (2017): post-norm, sinusoidal positions, embeddings times the root of the
width, one table for both sides and the output. Kept are its parameters under their names, a batch of sources with
padding and of targets, and for it the logits and the gradients of a weighted cross-entropy with respect to every
parameter, with eager attention in float32 on a CPU.
"""

from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
ROWS, SOURCE, TARGET, VOCABULARY = 3, 9, 7, 263
MARIAN = {
    'd_model': 24,
    'encoder_layers': 2,
    'decoder_layers': 2,
    'encoder_attention_heads': 3,
    'decoder_attention_heads': 3,
    'encoder_ffn_dim': 40,
    'decoder_ffn_dim': 40,
    'activation_function': 'relu',
    'vocab_size': VOCABULARY,
    'max_position_embeddings': 32,
    'scale_embedding': True,
    'pad_token_id': 0,
    'eos_token_id': 1,
    'forced_eos_token_id': 1,
    'decoder_start_token_id': 0,
    'attn_implementation': 'eager',
}


def make_model(**changes):
    """A random model, its biases and norms moved off their initial zeros and ones, where mistakes would not show."""
    model = transformers.MarianMTModel(transformers.MarianConfig(**MARIAN | changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'embed_positions' not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_batch(seed: int, rows: int = ROWS, source: int = SOURCE, target: int = TARGET):
    """ids and whether they are real of sources, and of targets; targets to predict and their weights.

    A target begins with the last token of its source.
    """
    random = np.random.default_rng(seed)
    ids_BS, inputs_BT = random.integers(2, VOCABULARY, (rows, source)), random.integers(2, VOCABULARY, (rows, target))
    length_B1, written_B1 = random.integers(1, source + 1, (rows, 1)), random.integers(1, target + 1, (rows, 1))
    length_B1[0], written_B1[0] = source, target
    real_BS, written_BT = np.arange(source) < length_B1, np.arange(target) < written_B1
    inputs_BT[:, 0] = np.take_along_axis(ids_BS, length_B1 - 1, 1)[:, 0]
    targets_BT = random.integers(0, VOCABULARY, (rows, target))
    weights_BT = (written_BT * random.random((rows, target))).astype(np.float32)
    return ids_BS, real_BS, inputs_BT, written_BT, targets_BT, weights_BT


def run(model, ids_BS, real_BS, inputs_BT, written_BT, targets_BT, weights_BT):
    """The model's logits, and the gradients by the names of its parameters."""
    logits_BTV = model(
        input_ids=torch.tensor(ids_BS),
        attention_mask=torch.tensor(real_BS).long(),
        decoder_input_ids=torch.tensor(inputs_BT),
        decoder_attention_mask=torch.tensor(written_BT).long(),
    ).logits
    nats_BT = torch.nn.functional.cross_entropy(logits_BTV.transpose(1, 2), torch.tensor(targets_BT), reduction='none')
    (nats_BT * torch.tensor(weights_BT)).sum().backward()
    gradients = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    return logits_BTV.detach().numpy(), gradients


def main() -> None:
    """Writes the golden."""
    torch.manual_seed(0)
    model, batch = make_model(), make_batch(0)
    logits_BTV, gradients = run(model, *batch)
    names = 'ids', 'real', 'inputs', 'written', 'targets', 'weights'
    np.savez_compressed(
        HERE / 'encoder_decoder.npz',
        **dict(zip(names, batch, strict=True)),
        logits=logits_BTV,
        **{f'parameter {n}': p.detach().numpy() for n, p in model.named_parameters() if n in gradients},
        **{f'gradient {n}': g for n, g in gradients.items()},
    )


if __name__ == '__main__':
    main()
