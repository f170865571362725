"""The Transformer (Vaswani et al. 2017), base model, English to German: 27.3 BLEU on newstest2014 (table 2).

    python launch.py train --config=configs/transformer_base.py --workdir=runs/transformer_base
    python launch.py evaluate --workdir=runs/transformer_base --suite=pairs:test

6 + 6 layers, width 512, 8 heads, a feed-forward of 2048, post-norm, sinusoidal positions, one table of 37,000 pieces
for both sides and the output: 63 million parameters (the paper says 65). Dropout 0.1, label smoothing 0.1; Adam with
4,000 steps of warmup to (512 * 4,000)^-0.5, then the inverse root; 100,000 steps of about 25,000 source and as many
target tokens (sections 3 and 5), which 192 rows of 256 hold: of a pair the target has at most half a row. Beam search
with 4 beams and a length penalty of 0.6 (section 6.1). What differs: not the last checkpoints are averaged, but the
weights all along (`optimizer.average`), and the pieces are byte-level. The paper trained for 12 hours on 8 P100 GPUs;
it was not trained here.

TFDS has the paper's 4.5 million pairs and its test set as wmt14_translate; other sets and languages are another name,
`--config.data.corpus=tfds:wmt16_translate/de-en`, and a file of your own is `--config.data.corpus=pairs`.
"""

from gpt2jax.config import recipe

TRANSFORMER_BASE = {
    'data.corpus': 'tfds:wmt14_translate/de-en',
    'data.text_key': 'en,de',
    'data.tokenizer': 'bpe:37000',
    'data.length': 256,
    'data.whole_documents': True,
    'objective.kind': 'seq2seq',
    'model.architecture': 'encoder_decoder',
    'model.num_layers': 6,
    'model.width': 512,
    'model.dtype': 'bfloat16',
    'model.dropout': 0.1,
    'model.position.kind': 'sinusoidal',
    'model.embedding.scale': True,
    'model.attention.num_heads': 8,
    'model.feedforward.kind': 'relu',
    'model.norm.placement': 'post',
    'model.init.std': 512**-0.5,
    'model.init.residual': 'plain',
    'loss.label_smoothing': 0.1,
    'optimizer.learning_rate': (512 * 4000) ** -0.5,
    'optimizer.b2': 0.98,
    'optimizer.epsilon': 1e-9,
    'optimizer.average': 0.999,
    'optimizer.weight_decay': 0.0,
    'optimizer.clip_norm': 0.0,
    'optimizer.schedule': 'inverse_sqrt',
    'optimizer.warmup_steps': 4000,
    'training.batch_size': 192,
    'training.steps': 100_000,
    'evaluation.every': 5000,
    'checkpoint.every_minutes': 15.0,
    'sampling.beams': 4,
    'sampling.length_penalty': 0.6,
}


def get_config(argument: str = ''):
    """`argument`: NAME=VALUE,... over this recipe."""
    return recipe(TRANSFORMER_BASE, argument)
