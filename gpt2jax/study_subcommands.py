"""The subcommands of launch.py about studies and fine-tuning; like gpt2jax/subcommands.py this imports no JAX."""

from gpt2jax.flags import Flags, command_line


class Study:
    """run an experiment, arms by seeds at matched cost, and report what was found and how sure it is"""

    def define(self, values):
        define_experiment(values)
        values.switch('dry_run', False, 'show the runs and what they would cost; train nothing')
        values.text('executor', 'local', 'local: on this machine; ray, slurm: on a cluster (requirements-studies.txt)')
        values.integer('parallel', 1, 'runs at a time')
        values.integer('together', 1, 'runs of a process: so many seeds of an arm are trained as one program')
        values.texts('option', 'NAME=VALUE for ray or slurm: --option=num_gpus=1, --option=partition=gpu')
        values.switch('retry_failed', False, 'try runs again that have failed twice')

    def run(self, values, commands):
        return commands.study(values.required('experiment'), options_of(values), command_line())


class Report:
    """render the report of an experiment again, from what is on disk"""

    def define(self, values):
        define_experiment(values)
        values.switch('open', False, 'show it in a browser')

    def run(self, values, commands):
        commands.report(values.required('experiment'), options_of(values), command_line())


class Compare:
    """two or more runs, with the tables and plots of a study; runs that differ in their seed alone are one arm"""

    def define(self, values):
        values.texts('workdir', 'the folder of a run; give two or more')
        values.text('out', None, 'the folder for the report; by default runs/compare/NAMES')

    def run(self, values, commands):
        commands.compare(values['workdir'].value, values.out, command_line())


def define_experiment(values: Flags) -> None:
    """The flags of commands that take an experiment file."""
    values.text('experiment', None, 'a file of experiments/, as experiments/causal_or_masked.py')
    values.text('directory', None, 'the folder of the study; by default runs/studies/NAME')
    values.texts('set', 'KEY=VALUE over the study, for a quick try, and marked as one: --set=training.steps=20')
    values.integer('seeds', None, 'how many seeds, for a quick try, and marked as one')


def options_of(values: Flags) -> dict:
    """All flags by name."""
    return {name: values[name].value for name in values}


class Finetune:
    """fine-tune a run's model on labelled texts, or probe its layers, and tell the accuracy"""

    def define(self, values):
        values.define_run()
        values.text('data', None, 'polarity, reviews, uncertainty or pos; or a .tsv or .jsonl file, or a folder')
        values.text('task', None, 'classify or tag, for a file; by default what its keys say, else classify')
        values.switch('probe', False, 'train nothing of the model: linear probes of every layer')
        values.integer('steps', 100, 'of each training')
        values.integer('batch_size', 32, 'texts a step')
        values.text('rates', '1e-4,3e-4,1e-3', 'learning rates to choose from, on validation texts')
        values.integer('seeds', 3, 'trainings at the chosen rate')

    def run(self, values, commands):
        options = {name: values[name].value for name in ('steps', 'batch_size', 'seeds', 'rates')}
        data = values.required('data')
        commands.finetune(values.workdir, data, values.task, values.probe, options, values.step)
