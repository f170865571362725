"""`launch.py finetune`."""

import dataclasses
from pathlib import Path

from gpt2jax.commands.evaluating import open_subject
from gpt2jax.commands.runs import console
from gpt2jax.evaluation.finetuning import Budget, measure_finetuning
from gpt2jax.evaluation.labelling import load
from gpt2jax.evaluation.probing import measure_probes
from gpt2jax.evaluation.subject import parse_numbers
from gpt2jax.evaluation.suites import write_result
from gpt2jax.training.progress import track


def finetune(
    path: str, data: str, task: str | None, probe: bool, options: dict, which: str
) -> tuple[dict[str, float], Path]:
    """Fine-tunes copies of a run's model on labelled texts, or probes its layers, and writes what was measured.

    The run stays as it is, but for two files in its folder `suites`, those of `evaluate --suite=finetune:DATA`.

    Args:
      data: the name of a ready set, or a file or folder of labelled texts.
      task: 'classify' or 'tag'; None: what the data says.
      probe: fit linear probes and train nothing else.
      options: steps, batch_size and seeds, as in Budget, and rates as '1e-4,3e-4'.
      which: 'best', 'latest' or the number of a step.

    Returns:
      The figures, and the path of the file that holds them.
    """
    budget = Budget(**options | {'rates': parse_numbers(options['rates'], ',', '--rates')})
    budget.check()
    subject, folder = open_subject(path, which)
    labelled = load(subject, data, task)
    if probe:
        text, result = f'probe:{data}', measure_probes(subject, labelled, track)
    else:
        text, result = suite_text(data, budget), measure_finetuning(subject, labelled, budget, track)
    console.print(f'{text}, step {subject.step}:', style='bold')
    for line in result.lines:
        console.print(f'  {line}', soft_wrap=True)
    figures, items = write_result(folder, text, subject, result)
    console.print(f'  figures  {figures}\n  items    {items}', soft_wrap=True)
    return result.figures, figures


def suite_text(data: str, budget: Budget) -> str:
    """The text of the suite that measures the same; what is not as by default stands behind the data."""
    given, default = dataclasses.asdict(budget), dataclasses.asdict(Budget())
    given['rates'], default['rates'] = ('+'.join(f'{rate:g}' for rate in sorted(b['rates'])) for b in (given, default))
    return f'finetune:{data}' + ''.join(f',{name}={value}' for name, value in given.items() if value != default[name])
