"""History: which of the models that are read about together is the best language model for the same text?

An LSTM (Merity et al. 2018), an encoder-decoder trained on corrupted spans (Vaswani et al. 2017; Raffel et al. 2020),
GPT-2, BERT, Transformer-XL and XLNet, each as its own recipe in configs/ says, on the same corpus with the same
tokenizer. All read as many tokens.

Bits per byte is exact where a model gives a text a probability: the LSTM, GPT-2, Transformer-XL, and XLNet when it
predicts from left to right, which it was not trained for alone. Each reads as far back as its own evaluation lets it:
GPT-2 its row, Transformer-XL and XLNet their memory too, the LSTM its state, which has no end. The suite `sliding`
makes terms equal: each token is predicted with 96 to 128 tokens before it. BERT has nats per hidden token and a
pseudo-likelihood, the encoder-decoder nats per token of its spans: these are other quantities, and no column holds two.

Cloze compares all that can choose among words: which one of ten stood in the gap of a held-out scene.

`cost` says what each takes beside what it gives: parameters without embeddings, FLOPs a token (full attention map,
forward and backward), bytes that a text keeps for its next token, tokens a second in training and in generation. Equal
tokens are not equal work: read the column of FLOPs, and that of seconds.

    python launch.py study --experiment=experiments/history.py

18 runs of four to six minutes each, on one core of a machine that other work shared, and of measuring up to ten:
an XLNet's cloze and pseudo-likelihood take longest. What came of it is in docs/studies/history.md.
"""

from gpt2jax.studies import Study, arm, chain, recipe_arm

BASE = 'configs/laptop.py'


def get_study() -> Study:
    return Study(
        base=BASE,
        changes={'training.steps': 1200, 'optimizer.warmup_steps': 75, 'evaluation.every': 300},
        arms=chain(
            recipe_arm('LSTM', 'configs/lstm.py', BASE),
            recipe_arm('encoder-decoder', 'configs/encoder_decoder.py', BASE),
            arm('GPT-2'),
            arm('BERT', {'objective.kind': 'masked'}),
            recipe_arm('Transformer-XL', 'configs/transformer_xl.py', BASE),
            recipe_arm('XLNet', 'configs/xlnet.py', BASE),
        ),
        baseline='GPT-2',
        suites=('sliding:stride=32,context=128', 'cloze', 'pseudo', 'cost'),
        decide=('bits_per_byte', 'bits_per_byte_sliding', 'cloze_accuracy'),
        show=(
            'masked_nats',
            'permuted_nats',
            'span_nats',
            'pseudo_nats_per_token',
            'parameters_without_embeddings',
            'flops_per_token',
            'state_bytes_per_token',
            'trained_per_second',
            'generated_per_second',
        ),
    )
