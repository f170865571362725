"""gpt2jax: a JAX/Flax laboratory for language models around GPT-2.

python launch.py               trains configs/laptop.py into runs/laptop, evaluates, samples, writes a report
python launch.py COMMAND ...   see python launch.py --help
"""

import difflib
import re
import shlex
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from gpt2jax.allocator import restart_with_huge_pages
from gpt2jax.config import check_key
from gpt2jax.errors import Stopped, UserError

MAIN = ('train', '--config=configs/laptop.py', '--workdir=runs/laptop')
RUN_AGAIN = 75  # asked to stop, and saved: the same command continues (EX_TEMPFAIL of sysexits.h)


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


def main(arguments: list[str]) -> int:
    """Runs one subcommand; returns the exit status."""
    name, *rest = arguments or MAIN
    if name in ('--help', '-h', 'help'):
        print(usage())
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f' Did you mean {close[0]!r}?' if close else ''
        return complain(f'there is no subcommand {name!r}.{hint} One of: {", ".join(COMMANDS)}')
    values = Flags(rest)
    COMMANDS[name].define(values)
    if {'--help', '-h', '-help'} & set(rest):
        print(usage_of(name, values))
        return 0
    try:
        parse(values)
        from gpt2jax import commands  # imported here, so that --help and a wrong flag answer at once

        COMMANDS[name].run(values, commands)
    except UserError as error:
        return complain(str(error))
    except Stopped as stopped:
        return complain(str(stopped), status=RUN_AGAIN)
    except KeyboardInterrupt:
        return complain('interrupted', status=130)
    return 0


def parse(values: Flags) -> None:
    """Reads the flags of a subcommand. Raises UserError for an unknown flag or key, or a wrong value."""
    for argument in values.arguments:
        if key := re.match(r'--?(?:no)?config\.([^=]*)', argument):
            check_key(key[1])
    try:
        left = values(['launch.py', *values.arguments])[1:]
    except (flags.Error, AttributeError, TypeError, ValueError, KeyError, OSError) as error:
        raise UserError(str(error)) from error
    if left:
        raise UserError(f'unexpected argument {left[0]!r}: flags are written --name=value')
    if 'config' in values:
        check_recipe(values)


def check_recipe(values: Flags) -> None:
    """Raises UserError unless --config names a file; without this, a missing one fails where it is first read."""
    there_are = 'there are: ' + ', '.join(f'configs/{name}.py' for name in recipes())
    if values.config is None:
        raise UserError(f'which config? Give one with --config=configs/NAME.py; {there_are}')
    path = recipe_path(values)
    if not path or not Path(path).is_file():
        raise UserError(f'--config={path}: there is no such file; {there_are}')


def recipes() -> list[str]:
    """The names of the recipes."""
    return sorted(path.stem for path in (Path(__file__).parent / 'configs').glob('*.py'))


def default_workdir(values: Flags) -> str:
    """configs/gpt2_small.py:... -> runs/gpt2_small."""
    return f'runs/{Path(recipe_path(values)).stem}'


def recipe_path(values: Flags) -> str:
    """The file that --config names, without the arguments behind its colon."""
    return config_flags.get_config_filename(values['config']).partition(':')[0]


def command_line() -> str:
    """What the user typed."""
    return shlex.join(['python', 'launch.py', *sys.argv[1:]])


def usage() -> str:
    """The help of the program."""
    rows = '\n'.join(f'  {name:10} {command.__doc__}' for name, command in COMMANDS.items())
    return f'{__doc__}\n{rows}\n\nFlags of one: python launch.py COMMAND --help'


def usage_of(name: str, values: Flags) -> str:
    """The help of a subcommand."""
    lines = [f'python launch.py {name}: {COMMANDS[name].__doc__}', '']
    for flag in (values[name] for name in values):
        default = '' if flag.default is None or flag.name == 'config' else f' (default: {flag.default})'
        lines.append(f'  --{flag.name:16} {flag.help}{default}')
    return '\n'.join(lines)


def complain(message: str, status: int = 2) -> int:
    """An error for a person: no traceback."""
    print(f'launch.py: {message}', file=sys.stderr)
    return status


if __name__ == '__main__':
    restart_with_huge_pages()
    sys.exit(main(sys.argv[1:]))
