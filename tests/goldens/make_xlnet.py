"""Makes xlnet.npz: what XLNet of transformers computes with small random weights, and these weights.

    pip install -r requirements-peers.txt
    python tests/goldens/make_xlnet.py

It holds a folder as `save_pretrained` writes it (config.json and model.safetensors, as bytes), and for rows of random
ids and token types: the logits of the content stream alone; those of queries at drawn places in a drawn order, over
three segments with the memory of those before; and the gradients of a weighted cross-entropy of the first segment's
queries. All with eager attention in float32 on a CPU.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
SEGMENTS, ROWS, LENGTH, PREDICTED, VOCABULARY = 3, 2, 9, 4, 263
SIZES = {
    'd_model': 24,
    'n_layer': 2,
    'n_head': 3,
    'd_inner': 40,
    'vocab_size': VOCABULARY,
    'mem_len': 7,
    'clamp_len': 12,
}


def masks_of(place_BP, length: int) -> dict:
    """perm_mask and target_mapping: those places are predicted in that order, all other tokens come first."""
    B, P = place_BP.shape
    order_BL = np.zeros((B, length), int)
    np.put_along_axis(order_BL, place_BP, 1 + np.broadcast_to(np.arange(P), (B, P)), axis=1)
    hidden_BLL = (order_BL[:, None] >= order_BL[:, :, None]) & (order_BL[:, None] > 0)
    mapping_BPL = place_BP[:, :, None] == np.arange(length)
    named = {'perm_mask': hidden_BLL, 'target_mapping': mapping_BPL}
    return {name: torch.tensor(array.astype(np.float32)) for name, array in named.items()}


def main() -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model = transformers.XLNetLMHeadModel(transformers.XLNetConfig(**SIZES)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    shape = SEGMENTS, ROWS, LENGTH
    ids_SBL, type_SBL = random.integers(0, VOCABULARY, shape), random.integers(0, 2, shape)
    place_SBP = np.argsort(random.random(shape), axis=-1)[..., :PREDICTED]
    targets_BP, weights_BP = random.integers(0, VOCABULARY, (ROWS, PREDICTED)), random.random((ROWS, PREDICTED))

    content = model(torch.tensor(ids_SBL[0]), token_type_ids=torch.tensor(type_SBL[0]), use_mems=False).logits
    logits, mems = [], None
    for ids_BL, type_BL, place_BP in zip(ids_SBL, type_SBL, place_SBP, strict=True):
        inputs = {'token_type_ids': torch.tensor(type_BL), 'mems': mems, 'use_mems': True}
        out = model(torch.tensor(ids_BL), **inputs, **masks_of(place_BP, LENGTH))
        logits.append(out.logits)
        mems = out.mems
    nats_BP = torch.nn.functional.cross_entropy(logits[0].transpose(1, 2), torch.tensor(targets_BP), reduction='none')
    (nats_BP * torch.tensor(weights_BP, dtype=torch.float32)).sum().backward()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        files = {
            n: np.frombuffer((Path(folder) / n).read_bytes(), np.uint8) for n in ('config.json', 'model.safetensors')
        }
    np.savez_compressed(
        HERE / 'xlnet.npz',
        ids=ids_SBL.astype(np.int32),
        token_type=type_SBL.astype(np.int32),
        place=place_SBP.astype(np.int32),
        targets=targets_BP.astype(np.int32),
        weights=weights_BP.astype(np.float32),
        content=content.detach().numpy(),
        logits=np.stack([logits_BPV.detach().numpy() for logits_BPV in logits]),
        **{f'gradient {n}': p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None},
        **files,
    )


if __name__ == '__main__':
    main()
