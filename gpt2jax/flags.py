"""The flags of one subcommand, with a short word for each kind."""

import shlex
import sys

from absl import flags
from ml_collections import config_flags

from gpt2jax.errors import UserError


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

    def texts(self, name, text):
        flags.DEFINE_multi_string(name, [], text, flag_values=self)

    def switch(self, name, default, text):
        flags.DEFINE_bool(name, default, text, flag_values=self)

    def integer(self, name, default, text):
        flags.DEFINE_integer(name, default, text, flag_values=self)

    def number(self, name, default, text):
        flags.DEFINE_float(name, default, text, flag_values=self)

    def required(self, name):
        """The value of a flag without a default. Raises UserError where it was not given."""
        if self[name].value is None:
            raise UserError(f'--{name} is missing: {self[name].help}')
        return self[name].value

    def define_run(self):
        self.text('workdir', 'runs/laptop', 'the folder of the run')
        self.text('step', 'best', 'which checkpoint: best, latest or the number of a step')


def command_line() -> str:
    """What the user typed."""
    return shlex.join(['python', 'launch.py', *sys.argv[1:]])
