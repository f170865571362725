"""Linear probes: how well a label can be read off the hidden states of each layer of a model that stays as it is.

Logistic regression on the mean of the hidden states over a text, or over a word to tag. How strongly its weights are
held down is chosen on the validation texts, layer by layer, and so is the layer whose accuracy stands for the model.

Axes: B rows, L length, P labelled parts of a row, N parts, D width, C labels.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
from jax import Array
from ml_collections import FrozenConfigDict

from gpt2jax.batches import place_batch
from gpt2jax.config import overlay
from gpt2jax.data.labelled import SPLIT_SEED, Labelled
from gpt2jax.evaluation.labelling import Texts, items_of, load, shared_lines
from gpt2jax.evaluation.parts import example_of, in_order, mean_of_parts
from gpt2jax.evaluation.subject import Subject, SuiteResult, split_argument
from gpt2jax.models import make_model

PENALTIES = (1.0, 0.1, 0.01, 0.001)  # of the squared weights, strong to weak
STOP = {'maxiter': 200, 'ftol': 1e-7, 'gtol': 1e-5}  # of L-BFGS, over sums in float32
MOST_PARTS = {'train': 16_384, 'validation': 4_096, 'test': 16_384}  # parts that are read of each split
BATCH_SIZE = 32


def layer_states(config, params, example) -> list[Array]:
    """[B, L, D] each: the embeddings, and what each block hands on. The modules are watched from outside.

    Args:
      config: the whole config; layers are run one by one, whatever it says of scanning them.
    """
    plain = overlay(config, {'model.scan_layers': False, 'model.remat': 'none'})
    states = []

    def watch(call, arguments, options, context):
        result = call(*arguments, **options)
        if context.method_name == '__call__' and type(context.module).__name__ == 'Block':
            states.extend([] if states else [arguments[0]])
            states.append(result[0])
        return result

    with nn.intercept_methods(watch):
        make_model(FrozenConfigDict(plain).model).apply(params, example)
    return states


def features(subject: Subject, texts: Texts, split: str, track: Callable) -> list[np.ndarray]:
    """[N, D] float32 for each layer: the mean of the hidden states over each part of each text, in order."""
    config, mesh, rows = subject.setup.config, subject.setup.mesh, texts.rows[split]
    size = -(-BATCH_SIZE // mesh.size) * mesh.size

    @jax.jit
    def read(params, batch):
        states = layer_states(config, params, example_of(batch, texts.visibility))
        return [mean_of_parts(state_BLD.astype(jnp.float32), batch) for state_BLD in states]

    starts = np.cumsum([0, *(len(row.labels) for row in rows)])
    found = [np.zeros((starts[-1], config.model.width), np.float32) for _ in range(config.model.num_layers + 1)]
    groups = in_order(rows, size)
    for group in track(groups, f'reading {split}', len(groups)):
        batch = texts.batch([rows[i] for i in group], size)
        for layer_ND, state_BPD in zip(found, read(subject.params, place_batch(batch, mesh)), strict=True):
            state_BPD = np.asarray(state_BPD)
            for index, row in enumerate(group):
                layer_ND[starts[row] : starts[row + 1]] = state_BPD[index, : len(rows[row].labels)]
    return found


def choose_texts(labelled: Labelled, split: str) -> list[int]:
    """Indices of the texts of a split that are read: at random, until there are parts enough; the same for all."""
    texts = labelled.splits[split]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(texts))
    before = np.cumsum([0, *(len(texts[i].parts) for i in order)])[:-1]
    return sorted(int(i) for i in order[before < MOST_PARTS[split]])


@dataclasses.dataclass(frozen=True)
class Probe:
    """Logistic regression on standardized features.

    Attributes:
      mean, scale: [D], of the training features.
      kernel: [D, C]. bias: [C].
    """

    mean: np.ndarray
    scale: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray

    def predict(self, x_ND: np.ndarray) -> np.ndarray:
        """[N]: the likeliest label of each."""
        return np.argmax(((x_ND - self.mean) / self.scale) @ self.kernel + self.bias, axis=-1)


def fit_probes(x_ND: np.ndarray, labels_N: np.ndarray, num_labels: int) -> list[Probe]:
    """A probe for each of PENALTIES, by L-BFGS, each begun where the one before it ended.

    What is minimized is the mean of the nats plus half the penalty times the squared weights; the bias is free.
    """
    mean_D, scale_D = x_ND.mean(axis=0), np.maximum(x_ND.std(axis=0), 1e-6)
    x_ND, labels_N = jnp.asarray((x_ND - mean_D) / scale_D), jnp.asarray(labels_N)
    D = x_ND.shape[1]

    def objective(flat, penalty):
        value, slope = _penalized_nats(flat.astype(np.float32), penalty, x_ND, labels_N)
        return float(value), np.asarray(slope, np.float64)

    flat, probes = np.zeros((D + 1) * num_labels), []
    for penalty in PENALTIES:
        flat = scipy.optimize.minimize(objective, flat, (penalty,), 'L-BFGS-B', jac=True, options=STOP).x
        kernel_EC = flat.reshape(D + 1, num_labels)
        probes.append(Probe(mean_D, scale_D, kernel_EC[:-1], kernel_EC[-1]))
    return probes


@jax.jit
@jax.value_and_grad
def _penalized_nats(flat: Array, penalty: float, x_ND: Array, labels_N: Array) -> Array:
    """`flat` is the kernel [D, C] and the bias [C] behind it."""
    kernel_EC = flat.reshape(x_ND.shape[1] + 1, -1)
    logits_NC = x_ND @ kernel_EC[:-1] + kernel_EC[-1]
    nats_N = optax.softmax_cross_entropy_with_integer_labels(logits_NC, labels_N)
    return jnp.mean(nats_N) + penalty / 2 * jnp.sum(kernel_EC[:-1] ** 2)


@dataclasses.dataclass(frozen=True)
class Probed:
    """What came of the probes of one layer.

    Attributes:
      penalty: the one that was chosen.
      validation, test: accuracies.
      answers: the labels of the parts of each test text that was read.
    """

    penalty: float
    validation: float
    test: float
    answers: list[list[str]]


def probe(subject: Subject, labelled: Labelled, track: Callable) -> tuple[Texts, list[Probed]]:
    """Probes of the embeddings and of each layer. The texts that are returned are those that were read."""
    chosen = {split: choose_texts(labelled, split) for split in labelled.splits}
    read = {split: [labelled.splits[split][i] for i in chosen[split]] for split in chosen}
    texts = Texts(subject, dataclasses.replace(labelled, splits=read))
    states = {split: features(subject, texts, split, track) for split in read}
    labels_N = np.concatenate([row.labels for row in texts.rows['train']])
    layers = range(subject.setup.config.model.num_layers + 1)
    return texts, [
        _probe_layer(texts, {split: states[split][layer] for split in states}, labels_N)
        for layer in track(layers, 'fitting probes', len(layers))
    ]


def _probe_layer(texts: Texts, states: dict[str, np.ndarray], labels_N: np.ndarray) -> Probed:
    probes = fit_probes(states['train'], labels_N, len(texts.labelled.labels))
    validation = [texts.accuracy('validation', _answers(texts, 'validation', states, p)) for p in probes]
    best = int(np.argmax(validation))
    answers = _answers(texts, 'test', states, probes[best])
    return Probed(PENALTIES[best], validation[best], texts.accuracy('test', answers), answers)


def _answers(texts: Texts, split: str, states: dict[str, np.ndarray], found: Probe) -> list[list[str]]:
    ends = np.cumsum([len(row.labels) for row in texts.rows[split]])[:-1]
    return texts.answers(split, np.split(found.predict(states[split]), ends))


def probe_suite(subject: Subject, argument: str, track: Callable) -> SuiteResult:
    """'polarity' or 'my.tsv': the suite of `launch.py evaluate`."""
    data, _ = split_argument('probe', argument, {})
    return measure_probes(subject, load(subject, data, None), track)


def measure_probes(subject: Subject, labelled: Labelled, track: Callable) -> SuiteResult:
    """Probes all layers; probe_NAME_accuracy is the test accuracy of the layer that is the best on validation."""
    texts, layers = probe(subject, labelled, track)
    names = ['embedding', *(f'layer{number}' for number in range(1, len(layers)))]
    best = max(range(len(layers)), key=lambda index: layers[index].validation)
    name = f'probe_{labelled.name}'
    figures = {f'{name}_accuracy': layers[best].test, f'{name}_layer': float(best)}
    figures |= {f'{name}_{layer}_accuracy': found.test for layer, found in zip(names, layers, strict=True)}
    figures |= {f'{name}_majority': texts.majority(), f'{name}_cut': texts.cut}
    about = {
        'task': labelled.task,
        'labels': len(labelled.labels),
        'texts': {split: len(found) for split, found in texts.labelled.splits.items()},
        'parts': {split: sum(len(t.parts) for t in found) for split, found in texts.labelled.splits.items()},
        'reads': texts.visibility,
        'penalties': {layer: found.penalty for layer, found in zip(names, layers, strict=True)},
        'validation_accuracy': {layer: found.validation for layer, found in zip(names, layers, strict=True)},
    }
    lines = [
        f'{labelled.name}, frozen: test accuracy {layers[best].test:.1%} from {names[best]}, the best on validation '
        f'(always "{texts.labelled.most_frequent}": {texts.majority():.1%}; {about["texts"]["test"]} texts)',
        *(f'{layer:9} {found.test:.1%}' for layer, found in zip(names, layers, strict=True)),
        *shared_lines(texts),
    ]
    answers = {layer: found.answers for layer, found in zip(names, layers, strict=True)}
    return SuiteResult(figures, items_of(texts.labelled, answers), lines, about)
