"""Makes the goldens of tests/interop: what transformers computes with small random models, and the models themselves.

    pip install -r requirements-peers.txt
    python tests/goldens/make_goldens.py

Each .npz holds a folder as `save_pretrained` writes it (config.json and model.safetensors, as bytes), a batch with
padding, and for it the logits and the gradients of a weighted cross-entropy with respect to every parameter, all with
eager attention in float32 on a CPU.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
ROWS, LENGTH, VOCABULARY = 3, 11, 263
BERT = {
    'hidden_size': 24,
    'num_hidden_layers': 2,
    'num_attention_heads': 3,
    'intermediate_size': 40,
    'vocab_size': VOCABULARY,
    'max_position_embeddings': 19,
    'attn_implementation': 'eager',
}
GPT2 = {
    'n_embd': 24,
    'n_layer': 2,
    'n_head': 3,
    'n_positions': 17,
    'vocab_size': VOCABULARY,
    'bos_token_id': 256,
    'eos_token_id': 256,
    'attn_implementation': 'eager',
}


def cases():
    """(name, model) of each golden."""
    yield 'gpt2', transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2))
    yield 'bert', transformers.BertForPreTraining(transformers.BertConfig(**BERT))
    roberta = transformers.RobertaConfig(**BERT | {'max_position_embeddings': 21, 'type_vocab_size': 1})
    yield 'roberta', transformers.RobertaForMaskedLM(roberta)


def spread(model) -> None:
    """Moves biases and norms off their initial zeros and ones, where mistakes would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def make_batch(random, token_types: int):
    """ids, real, token_type, targets, weights: rows of several lengths, the rest padding; [B, L] each."""
    ids_BL = random.integers(2, VOCABULARY, (ROWS, LENGTH))  # RoBERTa finds positions by looking for id 1
    real_BL = np.arange(LENGTH) < np.array([[LENGTH], [LENGTH - 4], [1]])
    token_type_BL = random.integers(0, token_types, (ROWS, LENGTH))
    targets_BL = random.integers(0, VOCABULARY, (ROWS, LENGTH))
    ids_BL[~real_BL] = 1
    return ids_BL, real_BL, token_type_BL, targets_BL, real_BL * random.random((ROWS, LENGTH))


def run(model, ids_BL, real_BL, token_type_BL):
    """The model's logits."""
    inputs = {'input_ids': torch.tensor(ids_BL), 'attention_mask': torch.tensor(real_BL).long()}
    if model.config.model_type != 'gpt2':
        inputs['token_type_ids'] = torch.tensor(token_type_BL)
    out = model(**inputs)
    return out.prediction_logits if hasattr(out, 'prediction_logits') else out.logits


def write(name: str, model) -> None:
    """One golden."""
    spread(model)
    model.eval()
    batch = make_batch(np.random.default_rng(0), getattr(model.config, 'type_vocab_size', 1))
    ids_BL, real_BL, token_type_BL, targets_BL, weights_BL = batch
    logits_BLV = run(model, ids_BL, real_BL, token_type_BL)
    nats_BL = torch.nn.functional.cross_entropy(logits_BLV.transpose(1, 2), torch.tensor(targets_BL), reduction='none')
    (nats_BL * torch.tensor(weights_BL, dtype=torch.float32)).sum().backward()
    gradients = {f'gradient {n}': p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        files = {
            n: np.frombuffer((Path(folder) / n).read_bytes(), np.uint8) for n in ('config.json', 'model.safetensors')
        }
    np.savez_compressed(
        HERE / f'{name}.npz',
        ids=ids_BL,
        real=real_BL,
        token_type=token_type_BL,
        targets=targets_BL,
        weights=weights_BL.astype(np.float32),
        logits=logits_BLV.detach().numpy(),
        **gradients,
        **files,
    )


if __name__ == '__main__':
    torch.manual_seed(0)
    for case_name, case_model in cases():
        write(case_name, case_model)
