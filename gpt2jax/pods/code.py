"""The code that a run gets: one commit of one repository, which every host fetches by its hash.

A hash names its contents: a host cannot have other code than the one recorded here, not even after a restart weeks
later, and nothing is uploaded or kept in step with images. The price: the commit must be where hosts can fetch it.
"""

import dataclasses
import re
import subprocess
from pathlib import Path

from gpt2jax.errors import UserError

ROOT = Path(__file__).parents[2]
ADDRESS = r'(https|ssh|git|file)://[\w.@:/~+-]+|[\w.-]+@[\w.-]+:[\w./~+-]+|/[\w./@+ -]+'


@dataclasses.dataclass(frozen=True)
class Code:
    """A commit (its hash) and where to fetch it (a URL or an absolute path)."""

    repository: str
    commit: str


def find_code(recipe: str, repository: str | None, allow_dirty: bool, local: bool, root: Path = ROOT) -> Code:
    """The commit that is checked out.

    Args:
      recipe: configs/NAME.py below `root`; it has to be part of the commit.
      repository: where hosts fetch; None: this folder where `local`, otherwise its remote `origin`.
      allow_dirty: launch the commit without the changes that are not committed.
      local: hosts see the file system of this machine.

    Raises:
      UserError: no commit, changes that are not committed or not pushed, an address that cannot be used.
    """
    commit = git(root, 'rev-parse', 'HEAD', why='pod ships the code at one commit')
    changes = git(root, 'status', '--porcelain').splitlines()
    if changes and not allow_dirty:
        names = ', '.join(line[3:] for line in changes[:3]) + (', ...' if len(changes) > 3 else '')
        raise UserError(
            f'not committed: {names}; hosts fetch commit {commit[:12]} and would not see these changes. Commit them, '
            'or launch without them: --allow_dirty'
        )
    if not has_file(root, commit, recipe):
        raise UserError(f'--config={recipe}: is not part of commit {commit[:12]}, which hosts fetch; commit it first')
    if repository:
        return Code(check_address(repository), commit)
    if local:
        return Code(check_address(str(root)), commit)
    address = check_address(
        git(root, 'remote', 'get-url', 'origin', why='give --repository=URL, from which hosts fetch')
    )
    if not git(root, 'branch', '--remotes', '--contains', commit):
        raise UserError(
            f'commit {commit[:12]} has not been pushed to {address}, from where hosts fetch it: git push first'
        )
    return Code(address, commit)


def has_file(root: Path, commit: str, path: str) -> bool:
    """Whether a commit holds a file."""
    return bool(git(root, 'ls-tree', '--name-only', commit, '--', path))


def check_address(address: str) -> str:
    """Raises UserError unless git can fetch from it as it is written, without a password in it."""
    if re.search(r'://[^/@]*:[^/@]*@', address):
        raise UserError(
            'the address of the repository holds a password, which would end in files: remove it with git '
            'remote set-url, and name a token instead: --secret_env=GIT_TOKEN'
        )
    if not re.fullmatch(ADDRESS, address):
        raise UserError(f'--repository={address}: expected https://..., ssh://..., git@HOST:PATH or an absolute path')
    return address


def git(root: Path, *arguments: str, why: str = 'git is needed to name the code that hosts run') -> str:
    """What git prints. Raises UserError where it fails."""
    try:
        done = subprocess.run(['git', '-C', str(root), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UserError(f'git is not installed; {why}') from error
    if done.returncode:
        raise UserError(f'git {" ".join(arguments)}: {done.stderr.strip()}; {why}')
    return done.stdout.strip('\n')
