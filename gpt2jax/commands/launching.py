"""`launch.py pod`: renders what an outside tool needs to train on rented machines, and hands it over."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from gpt2jax.errors import UserError
from gpt2jax.files import replace_file, write_json
from gpt2jax.pods import ENGINES, Rendered, Request, check_fits, check_flags, find_code, find_machine
from gpt2jax.pods.code import ROOT
from gpt2jax.validation import resolve

TEXTS = ('secret_env', 'workdir', 'name', 'image', 'project', 'zone', 'cluster', 'seeds', 'repository', 'out')


def pod(config, recipe: str, overrides: list[str], options: dict, command_line: str) -> None:
    """Checks everything that can be checked here, writes the files and starts the run; `dry_run` prints both instead.

    Args:
      config: the recipe with its overrides.
      recipe: what --config holds; overrides: --config.KEY=VALUE, as the hosts are to get them.
      options: the other flags of `pod`, by name.
      command_line: what the user typed, kept beside the files.

    Raises:
      UserError: for what does not fit or cannot be used, a tool that is missing or fails; files that were already
        written stay.
    """
    engine = options['engine']
    if engine not in ENGINES:
        raise UserError(f'--engine={engine}: one of {", ".join(ENGINES)}')
    options = options | {'name': options['name'] or Path(recipe.partition(':')[0]).stem.replace('_', '-').lower()}
    check_flags(flag_texts(recipe, overrides, options))
    request = make_request(recipe, overrides, options, local=engine == 'slurm')
    sizes = check_fits(resolve(config), request.machine, request.slices)
    if request.seeds and engine != 'slurm':
        raise UserError(
            '--seeds: only Slurm has arrays; elsewhere launch once a seed, with --config.seed and --workdir'
        )
    rendered = ENGINES[engine](request)
    print(summary(request, sizes))
    if options['allow_dirty']:
        print('Changes that are not committed, if there are any, stay here: hosts see the commit alone.')
    if options['dry_run']:
        print_all(rendered)
    else:
        start(rendered, write(rendered, request, Path(options['out'] or f'runs/pods/{request.name}'), command_line))


def flag_texts(recipe: str, overrides: list[str], options: dict) -> dict[str, str]:
    """Every value a user gave, by flag, for `check_flags`."""
    texts = {name: options[name] or '' for name in TEXTS} | {'config': recipe}
    texts |= {override.lstrip('-').partition('=')[0]: override for override in overrides}
    return texts | {f'extra[{index}]': value for index, value in enumerate(options['extra'])}


def make_request(recipe: str, overrides: list[str], options: dict, local: bool) -> Request:
    """The checked request. Raises UserError for a machine or a commit that there is not."""
    machine = find_machine(options['topology'], options['gpus'], options['nodes'])
    slices, retries = options['slices'], options['retries']
    if slices < 1 or (slices > 1 and machine.hosts == 1) or (slices > 1 and machine.kind == 'gpu'):
        raise UserError(f'--slices={slices}: several slices have to be TPU slices of two or more hosts each')
    if not 0 <= retries <= 1000:
        raise UserError(f'--retries={retries}: from 0 to 1000')
    path, colon, argument = recipe.partition(':')
    try:
        path = Path(path).resolve().relative_to(ROOT.resolve()).as_posix()
    except ValueError as error:
        raise UserError(f'--config={path}: outside of {ROOT}, and hosts have nothing but that repository') from error
    return Request(
        recipe=path + colon + argument,
        overrides=tuple(overrides),
        machine=machine,
        slices=slices,
        code=find_code(path, options['repository'], options['allow_dirty'], local, ROOT),
        secrets=tuple(dict.fromkeys(filter(None, (options['secret_env'] or '').split(',')))),
        retries=retries,
        spot=options['spot'],
        extra=tuple(options['extra']),
        **{name: options[name] or '' for name in ('name', 'workdir', 'image', 'project', 'zone', 'cluster', 'seeds')},
    )


def summary(request: Request, sizes: dict[str, int]) -> str:
    """A line for people: on what, in which mesh, which code, where to."""
    machine = request.machine
    hardware = f'{request.slices} x {machine.name}' if machine.kind == 'tpu' else f'GPUs {machine.name} a node'
    mesh = ' x '.join(f'{axis} {size}' for axis, size in sizes.items())
    return (
        f'{request.name}: {hardware}, {request.num_hosts} hosts, mesh {mesh}; commit '
        f'{request.code.commit[:12]} of {request.code.repository}; workdir {request.workdir}'
    )


def print_all(rendered: Rendered) -> None:
    """What would be written and run."""
    for name, text in rendered.files.items():
        print(f'--- {name}\n{text}', end='')
    print(f'--- command\n{shlex.join(rendered.command)}')
    print_after(rendered)


def print_after(rendered: Rendered) -> None:
    """How to watch and end the run."""
    for what, command in rendered.after.items():
        print(f'{what:8} {command}')


def write(rendered: Rendered, request: Request, folder: Path, command_line: str) -> Path:
    """Writes the files and pod.json, the record of what was launched; returns the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--out={folder}: {error.strerror}') from error
    for name, text in rendered.files.items():
        replace_file(folder / name, text.encode())
    record = {
        'command': command_line,
        'repository': request.code.repository,
        'commit': request.code.commit,
        'workdir': request.workdir,
        'tool': rendered.command,
    }
    write_json(folder / 'pod.json', record)
    print(f'written to {folder}: {", ".join(rendered.files)}')
    return folder


def start(rendered: Rendered, folder: Path) -> None:
    """Runs the tool in the folder of its files."""
    tool = 'gcloud' if rendered.command[0] == 'bash' else rendered.command[0]
    by_hand = f'The files are in {folder}; there, by hand: {shlex.join(rendered.command)}'
    if not shutil.which(tool):
        raise UserError(f'{tool} is not installed: {rendered.install}. {by_hand}')
    missing = [name for name in rendered.from_environment if name not in os.environ]
    if missing:
        raise UserError(
            f'--secret_env={missing[0]}: this variable is not set here, from where {tool} takes it. {by_hand}'
        )
    status = subprocess.run(rendered.command, cwd=folder, check=False).returncode
    if status:
        raise UserError(f'{tool} ended with status {status}; what it said is above. {by_hand}')
    print_after(rendered)
