"""lm-eval on our models against lm-eval's own model of transformers on the same weights: pytest -m parity."""

import jax
import numpy as np
import pytest
from harness_tasks import write_tasks
from helpers import one_device_setup, tiny_config

from gpt2jax import interop
from gpt2jax.data import make_tokenizer, vocabulary_of
from gpt2jax.errors import UserError
from gpt2jax.evaluation.harness import harness, load_tasks
from gpt2jax.evaluation.scoring import Request, make_scorers
from gpt2jax.evaluation.subject import Subject

pytestmark = pytest.mark.parity
torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
lm_eval = pytest.importorskip('lm_eval')


@pytest.fixture(name='subject', params=['bytes', 'gpt2'])
def make_subject(request, tmp_path):
    """A GPT-2 of random weights."""
    config = tiny_config(data__length=48, data__tokenizer=request.param)
    setup, random = one_device_setup(config), np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + 0.1 * random.normal(size=x.shape).astype(np.float32), setup.initial_state().params
    )
    return Subject(setup, params, make_tokenizer(request.param), 0, tmp_path, None)


def no_bar(work, description, total=None):
    return work


def run_theirs(subject, names, folder):
    """lm-eval's samples of the exported model, as transformers runs it."""
    from lm_eval.models.huggingface import HFLM

    config = subject.setup.config
    family, hf_config = interop.express(config, vocabulary_of(config.data.tokenizer))
    interop.write_folder(folder, family, hf_config, config.model, subject.params, subject.tokenizer, 'float32')
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation='eager').eval()
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = HFLM(pretrained=model, tokenizer=reader, batch_size=1, max_length=config.data.length)
    return lm_eval.simple_evaluate(theirs, tasks=load_tasks(','.join(names)), bootstrap_iters=0)


def test_lm_eval_gives_every_item_what_it_gives_it_in_transformers(subject, tmp_path):
    names = write_tasks(tmp_path)
    theirs = run_theirs(subject, names, tmp_path / 'out')
    ours = harness(subject, ','.join(names), no_bar)
    answers = {(item['task'], item['item']): item for item in ours.items}
    assert len(answers) == 24
    largest = 0.0
    for task, samples in theirs['samples'].items():
        for sample in samples:
            found = answers[task, sample['doc_id']]
            assert [list(asked) for asked in sample['arguments']] == found['asked']
            for answer, other in zip(found['answered'], sample['resps'], strict=True):
                answer, other = answer[0], other[0]
                if isinstance(other, str):
                    assert answer == other
                    continue
                if task != 'rolling':
                    assert answer[1] == other[1]
                    answer, other = answer[0], other[0]
                largest = max(largest, abs(answer - other) / abs(other))
    assert any(item['answered'][0][0] for item in ours.items if item['task'] == 'open')
    assert ours.about['mode'] == 'causal'
    print(f'\nlm-eval, {subject.tokenizer.name}: {largest:.1e}')
    assert largest < 1e-5
    for task, metrics in theirs['results'].items():
        for name, value in metrics.items():
            if ',' in name and isinstance(value, float):
                metric = {'acc': 'accuracy', 'exact_match': 'exact_match_accuracy'}.get(name.split(',')[0])
                assert np.isclose(ours.figures[f'harness_{task}_{metric or name.split(",")[0]}'], value, rtol=1e-5)


def test_a_masked_model_is_labelled(tmp_path):
    setup = one_device_setup(tiny_config(data__length=48, objective__kind='masked'))
    tokenizer = make_tokenizer('bytes')
    subject = Subject(setup, setup.initial_state().params, tokenizer, 0, tmp_path, None)
    names = write_tasks(tmp_path, items=3)
    found = harness(subject, f'{",".join(names)},limit=2', no_bar)
    assert {item['mode'] for item in found.items} == {'pseudo_l2r'} == {found.about['mode']}
    assert len(found.items) == 8
    assert any(line.startswith('pseudo-log-likelihoods, not likelihoods') for line in found.lines)
    assert any("drawn by the method 'infilling'" in line for line in found.lines)
    assert {'harness_last_pseudo_perplexity', 'harness_rolling_pseudo_byte_perplexity'} < set(found.figures)
    assert found.figures['harness_pairs_ties'] == 0.5  # the second pair is twice the same sentence
    pairs = next(item for item in found.items if item['task'] == 'pairs')
    good = tuple(tokenizer.encode(pairs['asked'][0][1]).tolist())
    (score,) = make_scorers(subject)['pseudo_l2r'].score([Request((), good)], no_bar)
    assert pairs['answered'][0][0][0] == -score.nats
    assert all(item['answered'][0][0] for item in found.items if item['task'] == 'open')


def test_tasks_that_cannot_be_had_are_named(tmp_path):
    write_tasks(tmp_path)
    (tmp_path / 'data.jsonl').unlink()
    for names, message in (
        ('', 'which tasks'),
        (f'{tmp_path}/none/pairs', f'{tmp_path}/none is no folder'),
        (f'{tmp_path}/other', f'there is no task other in {tmp_path}'),
        (f'{tmp_path}/pairs', f'the data of {tmp_path}/pairs cannot be had'),
        ('no_such_task', 'there is no task no_such_task in lm-eval; one of a folder is FOLDER/TASK'),
    ):
        with pytest.raises(UserError, match=f'--suite=harness: {message}'):
            load_tasks(names)
