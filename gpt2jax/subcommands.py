"""The subcommands of launch.py: their flags, and which command of gpt2jax.commands they call.

Nothing here imports JAX, so that --help and a wrong flag answer at once.
"""

import shlex
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags


class Flags(flags.FlagValues):
    """The flags of one subcommand.

    Args:
      arguments: what follows the subcommand. A config flag looks there for its --config.KEY=VALUE.
    """

    def __init__(self, arguments: list[str]):
        super().__init__()
        self.__dict__['arguments'] = arguments  # plain assignment would define a flag

    def define_config(self):
        text = (
            'a recipe and its arguments, configs/laptop.py:tokenizer=gpt2,length=256; --config.KEY=VALUE sets any key'
        )
        arguments = ['launch.py', *self.arguments]
        config_flags.DEFINE_config_file('config', None, text, sys_argv=arguments, flag_values=self)

    def text(self, name, default, text):
        flags.DEFINE_string(name, default, text, flag_values=self)

    def integer(self, name, default, text):
        flags.DEFINE_integer(name, default, text, flag_values=self)

    def number(self, name, default, text):
        flags.DEFINE_float(name, default, text, flag_values=self)

    def define_run(self):
        self.text('workdir', 'runs/laptop', 'the folder of the run')
        self.text('step', 'best', 'which checkpoint: best, latest or the number of a step')


class Train:
    """train a model, or continue a run that was stopped"""

    def define(self, values):
        values.define_config()
        values.text('workdir', None, 'the folder of the run; by default runs/NAME of the recipe')

    def run(self, values, commands):
        commands.train(values.config, values.workdir or default_workdir(values), command_line())


class Evaluate:
    """bits per byte of a run on all of a split"""

    def define(self, values):
        values.define_run()
        values.text('split', 'validation', 'train, validation or test')

    def run(self, values, commands):
        commands.evaluate(values.workdir, values.split, values.step)


class Sample:
    """continue a prompt"""

    def define(self, values):
        values.define_run()
        values.text('prompt', None, 'text to continue; by default a new document')
        values.integer('seed', 0, 'the same seed gives the same text')
        values.integer('num_samples', None, 'how many continuations')
        values.integer('max_new_tokens', None, 'the length of each, in tokens')
        values.number('temperature', None, '0 always takes the likeliest token')
        values.integer('top_k', None, 'draw from the K likeliest tokens; 0: from all')
        values.number('top_p', None, 'draw from the likeliest tokens that make up this probability')

    def run(self, values, commands):
        names = ('num_samples', 'max_new_tokens', 'temperature', 'top_k', 'top_p')
        changes = {f'sampling.{name}': values[name].value for name in names if values[name].value is not None}
        commands.sample(values.workdir, values.prompt, values.step, values.seed, changes)


class Prepare:
    """build the corpus and the tokens of a config, so that a run finds them ready"""

    def define(self, values):
        values.define_config()

    def run(self, values, commands):
        commands.prepare(values.config)


class Describe:
    """what a config would run: parameters, FLOPs, bytes, memory, tokens"""

    def define(self, values):
        values.define_config()

    def run(self, values, commands):
        commands.describe(values.config)


COMMANDS = {
    'train': Train(),
    'evaluate': Evaluate(),
    'sample': Sample(),
    'prepare': Prepare(),
    'describe': Describe(),
}


def default_workdir(values: Flags) -> str:
    """configs/gpt2_small.py:... -> runs/gpt2_small."""
    return f'runs/{Path(recipe_path(values)).stem}'


def recipe_path(values: Flags) -> str:
    """The file that --config names, without the arguments behind its colon."""
    return config_flags.get_config_filename(values['config']).partition(':')[0]


def command_line() -> str:
    """What the user typed."""
    return shlex.join(['python', 'launch.py', *sys.argv[1:]])
