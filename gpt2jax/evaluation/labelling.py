"""A set of labelled texts for one model: its rows, the accuracy of answers, and what is told of them."""

from collections.abc import Sequence

import numpy as np

from gpt2jax.data.labelled import Labelled
from gpt2jax.data.labelled_sets import open_labelled
from gpt2jax.evaluation.parts import Row, lengths_of, make_batch, read_texts
from gpt2jax.evaluation.subject import Subject
from gpt2jax.generation.text import context_of


def load(subject: Subject, data: str, task: str | None) -> Labelled:
    """A set of labelled texts, fetched into the data directory of the run where it must be."""
    return open_labelled(data, task, subject.setup.config.data.directory, print)


class Texts:
    """The rows of a labelled set for one model, and what can be said of how it reads them."""

    def __init__(self, subject: Subject, labelled: Labelled):
        self.labelled, self.context = labelled, context_of(subject.setup.config)
        self.rows = {split: read_texts(subject.tokenizer, labelled, split, self.context) for split in labelled.splits}
        everything = [row for rows in self.rows.values() for row in rows]
        self.lengths = lengths_of(everything, self.context)
        self.cut = float(np.mean([row.cut for row in everything]))
        self.visibility = reads_of(subject)

    def batch(self, rows: Sequence[Row], size: int) -> dict[str, np.ndarray]:
        return make_batch(rows, size, self.lengths, single=self.labelled.task == 'classify')

    def answers(self, split: str, predictions: Sequence[np.ndarray]) -> list[list[str]]:
        """Labels of all parts of each text; what the model cannot see gets the most frequent label.

        Args:
          predictions: numbers of the labels of each row's parts.
        """
        answers = []
        for text, row, numbers in zip(self.labelled.splits[split], self.rows[split], predictions, strict=True):
            answer = [self.labelled.most_frequent] * len(text.labels)
            for place, number in zip(row.seen, numbers, strict=True):
                answer[place] = self.labelled.labels[number]
            answers.append(answer)
        return answers

    def accuracy(self, split: str, answers: Sequence[Sequence[str]]) -> float:
        """The share of all parts of a split whose label is right."""
        pairs = zip(self.labelled.splits[split], answers, strict=True)
        right = [a == b for text, answer in pairs for a, b in zip(text.labels, answer, strict=True)]
        return float(np.mean(right))

    def majority(self) -> float:
        """The accuracy of saying the most frequent label of training always."""
        answers = [[self.labelled.most_frequent] * len(text.labels) for text in self.labelled.splits['test']]
        return self.accuracy('test', answers)


def reads_of(subject: Subject) -> str:
    """'causal' or 'full': how a model of the run's last objective sees a whole text."""
    return subject.setup.objective(subject.kinds[0]).reads


def items_of(labelled: Labelled, answers: dict) -> list[dict]:
    """Each test text with its labels and what was said of it; of a text to classify these are strings."""
    single = labelled.task == 'classify'

    def short(labels):
        return labels[0] if single else list(labels)

    return [
        {
            'text': text.name,
            'gold': short(text.labels),
            'predicted': {str(key): short(found[index]) for key, found in answers.items()},
        }
        for index, text in enumerate(labelled.splits['test'])
    ]


def shared_lines(texts: Texts) -> list[str]:
    """What is to be said of the texts, whatever is done with them."""
    lines = [f'{texts.cut:.1%} of the texts are longer than {texts.context} tokens and were cut'] if texts.cut else []
    return [*lines, *texts.labelled.notes]
