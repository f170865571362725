"""gpt2jax: a JAX/Flax laboratory for language models around GPT-2.

python launch.py               trains configs/laptop.py into runs/laptop, evaluates, samples, writes a report
python launch.py COMMAND ...   see python launch.py --help
"""

import difflib
import re
import sys
from pathlib import Path

from absl import flags

from gpt2jax.allocator import restart_with_huge_pages
from gpt2jax.config import check_key
from gpt2jax.errors import RUN_AGAIN, Stopped, UserError
from gpt2jax.flags import Flags
from gpt2jax.subcommands import COMMANDS, recipe_path

MAIN = ('train', '--config=configs/laptop.py', '--workdir=runs/laptop')


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

        status = COMMANDS[name].run(values, commands)
    except UserError as error:
        return complain(str(error), error.status)
    except Stopped as stopped:
        return complain(str(stopped), status=RUN_AGAIN)
    except KeyboardInterrupt:
        return complain('interrupted', status=130)
    return status or 0


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


def usage() -> str:
    """The help of the program."""
    width = max(map(len, COMMANDS))
    rows = '\n'.join(f'  {name:{width}} {command.__doc__}' for name, command in COMMANDS.items())
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
