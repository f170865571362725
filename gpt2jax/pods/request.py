"""What the user asked for, and what is refused before anything is written: bad names, and secrets in flags."""

import dataclasses
import re

from gpt2jax.errors import UserError
from gpt2jax.pods.code import Code
from gpt2jax.pods.machines import Machine

USER_ERROR = 2  # the one for a mistake in the config or the command: never retried, as it would only fail again
GRACE_SECONDS = 300  # between the request to stop and the kill: time to finish a step and to save

NAME = r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?'  # DNS-1123, and short enough for what engines append to it
WORKDIR = r'[\w./@%+=:,-]+'
WORD = r'[\w.:/@-]*'  # projects, zones, clusters, images

# What looks like a secret: the prefixes that services give their tokens, private keys, PASSWORD=..., user:password@.
SECRETS = (
    r'\b(hf_|gh[posur]_|github_pat_|glpat-|xox[abprs]-)[\w-]{16,}',
    r'\b(AKIA|ASIA)[A-Z0-9]{12,}|\bAIza[\w-]{20,}|\bya29\.[\w-]{10,}|\bsk-[\w-]{16,}|\beyJ[\w-]{10,}\.[\w-]{10,}',
    r'-----BEGIN [A-Z ]*PRIVATE KEY',
    r'(?i)(token|secret|password|passwd|api_?key|access_?key|credentials?)(=|: ?)\S',
    r'://[^/\s@:]*:[^/\s@]+@',
)


@dataclasses.dataclass(frozen=True)
class Request:
    """A run on somebody's machines, checked.

    Attributes:
      name: of the job; recipe: configs/NAME.py:ARGUMENTS; overrides: its --config.KEY=VALUE.
      workdir: where the run is kept, the same from every host.
      slices: TPU slices that train together.
      image: the container of Kubernetes engines and SkyPilot.
      project, zone, cluster: where the engine looks; '' leaves it to the tool's own settings.
      secrets: names of environment variables; their values are never read.
      seeds: a range of Slurm's --array, '0-4'; '' for one run.
      retries: after failures other than RUN_AGAIN; spot: machines that may be taken back.
      extra: arguments handed on to the tool.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...]
    workdir: str
    machine: Machine
    slices: int
    code: Code
    image: str = ''
    project: str = ''
    zone: str = ''
    cluster: str = ''
    secrets: tuple[str, ...] = ()
    seeds: str = ''
    retries: int = 10
    spot: bool = False
    extra: tuple[str, ...] = ()

    @property
    def num_hosts(self) -> int:
        """Of all slices."""
        return self.machine.hosts * self.slices


@dataclasses.dataclass(frozen=True)
class Rendered:
    """What an engine is given.

    Attributes:
      files: name -> text, all in one folder.
      command: the argument vector that starts the run, in that folder.
      install: how to get the tool, which is command[0].
      after: commands to watch and to end the run.
      from_environment: secrets that the tool reads from the environment of the command.
    """

    files: dict[str, str]
    command: list[str]
    install: str
    after: dict[str, str]
    from_environment: tuple[str, ...] = ()


def check_flags(flags: dict[str, str]) -> None:
    """Refuses secrets in any flag, and names that an engine or a shell would stumble over.

    Args:
      flags: name of the flag -> its value as text; extra[0] is the first --extra.

    Raises:
      UserError: naming the flag; the value of a secret is not repeated.
    """
    for flag, value in flags.items():
        if any(re.search(pattern, value) for pattern in SECRETS):
            raise UserError(
                f'--{flag} looks as if it held a token or password, and what a flag holds ends in files and logs; put '
                'it into an environment variable and name that: --secret_env=HF_TOKEN'
            )
        if flag == 'secret_env' and not re.fullmatch(r'([A-Za-z_]\w*(,[A-Za-z_]\w*)*)?', value, re.ASCII):
            raise UserError(
                '--secret_env: names of environment variables alone, without their values: HF_TOKEN,GIT_TOKEN'
            )
        if flag in ('project', 'zone', 'cluster', 'image') and not re.fullmatch(WORD, value, re.ASCII):
            raise UserError(f'--{flag}={value}: letters, digits and . : / @ _ - only')
    if not re.fullmatch(NAME, flags['name']):
        raise UserError(
            f'--name={flags["name"]}: at most 40 lower-case letters, digits and dashes, a letter first, no dash last '
            '(Kubernetes and Cloud TPU take no others)'
        )
    if not re.fullmatch(WORKDIR, flags['workdir'], re.ASCII):
        raise UserError(f'--workdir={flags["workdir"]!r}: letters, digits and . / @ % + = : , _ - only')
    if flags['seeds'] and not re.fullmatch(r'\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*(%\d+)?', flags['seeds']):
        raise UserError(f'--seeds={flags["seeds"]}: a range or a list as Slurm arrays have them: 0-4 or 1,3,5')
