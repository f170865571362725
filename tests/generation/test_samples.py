"""What a person reads."""

import io

import jax
import numpy as np
import pytest
from helpers import tiny_config
from rich.console import Console

from gpt2jax.data import make_tokenizer
from gpt2jax.generation.text import sample_texts, until_end
from gpt2jax.models import make_model

TOKENIZER = make_tokenizer('bytes')


def sample(prompt, **changes):
    """The samples and what was printed."""
    config = tiny_config(**changes)
    model = make_model(config.model)
    out = io.StringIO()
    params = model.init(jax.random.key(0))
    samples = sample_texts(model, params, TOKENIZER, config, prompt, 0, Console(file=out, width=80, markup=False))
    return samples, out.getvalue()


def visible(text):
    """Without white space and control characters, which a terminal shows in its own way."""
    return ''.join(character for character in text if character.isprintable() and not character.isspace())


def test_every_sample_is_printed_whole_after_its_prompt():
    samples, out = sample('the king', sampling__num_samples=3, sampling__max_new_tokens=12)
    assert len(samples) == 3
    assert len({entry['text'] for entry in samples}) == 3
    for number, entry in enumerate(samples, 1):
        assert entry['prompt'] == 'the king'
        assert f'sample {number} of 3' in out
        assert visible('the king' + entry['text']) in visible(out)
    assert 'context' in out  # 8 + 12 tokens in a context of 16: the text slides, and says so


def test_text_with_the_names_of_special_tokens_is_plain_text():
    samples, out = sample('<|endoftext|>[b]', sampling__max_new_tokens=3)
    assert samples[0]['prompt'] == '<|endoftext|>[b]'
    assert out.count('<|endoftext|>[b]') == 2


@pytest.mark.parametrize(
    ('ids', 'stop', 'expected'),
    [
        ([65, 66, 256, 258, 258], True, [65, 66]),
        ([65, 258], True, [65]),
        ([65, 66], True, [65, 66]),
        ([256], True, []),
        ([65, 256, 66], False, [65, 256, 66]),
    ],
)
def test_a_text_ends_where_its_document_does(ids, stop, expected):
    assert until_end(np.array(ids), TOKENIZER, stop).tolist() == expected
