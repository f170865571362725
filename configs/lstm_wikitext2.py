"""AWD-LSTM on WikiText-2: 3 layers, embeddings of 400, hidden layers of 1150, 33M parameters (Merity et al. 2018).

    python launch.py train --config=configs/lstm_wikitext2.py --workdir=runs/wt2 \\
        --config.data.corpus=text --config.data.path=WIKITEXT_2

Published: a perplexity a word of 68.6 on validation and 65.8 on test (table 2; a cache of recent words, which is not
here, brings them to 53.8 and 52.0). Sizes and dropouts are the paper's (section 5): 0.5 on the recurrent matrices, 0.65
on the embeddings, 0.4 on the last layer's output and 0.1 on words, and between layers the 0.2 of their command for this
corpus (github.com/salesforce/awd-lstm-lm); rows of 70 tokens, 80 at a time.

Four things differ. They train by SGD at a rate of 30 and average the iterates once validation stalls (NT-ASGD), for up
to 750 epochs; here AdamW warms up and decays within 100, and a moving average of the parameters is evaluated. Their
rows vary in length around 70. The penalties on activations and their change (section 4.6) are left out. And the split
is this program's own, by the hash of a text, where theirs is the corpus's: a perplexity of this recipe is not to be put
beside theirs.

The tokens are words, so there are no bits per byte: evaluate prints nats a token and the perplexity.
"""

from gpt2jax.config import recipe

LSTM = {
    'data.tokenizer': 'symbols:33278',
    'data.length': 70,
    'data.order': 'contiguous',
    'data.cross_documents': True,
    'model.architecture': 'lstm',
    'model.num_layers': 3,
    'model.width': 400,
    'model.dropout': 0.4,
    'model.embedding.scale': True,
    'model.head.bias': True,
    'model.recurrent.width': 1150,
    'model.recurrent.weight_drop': 0.5,
    'model.recurrent.input_drop': 0.65,
    'model.recurrent.hidden_drop': 0.2,
    'model.recurrent.word_drop': 0.1,
    'model.init.std': 0.058,
    'training.batch_size': 80,
    'training.steps': 37_000,
    'optimizer.learning_rate': 3e-3,
    'optimizer.weight_decay': 1e-3,
    'optimizer.clip_norm': 0.25,
    'optimizer.average': 0.999,
    'optimizer.warmup_steps': 1000,
    'evaluation.every': 1000,
}


def get_config(argument: str = ''):
    """`argument`: NAME=VALUE,... over this recipe."""
    return recipe(LSTM, argument)
