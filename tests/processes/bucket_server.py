"""A server in memory that speaks as Google Cloud Storage does, bucket `tests`: `python bucket_server.py PORT`."""

import contextlib
import sys

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.server import create_server

download = objects.download


def download_with_generation(request, response, storage, *arguments, **options):
    """The emulator leaves out a header by which tensorstore tells versions of an object apart."""
    with contextlib.suppress(NotFound):
        found = storage.get_file_obj(request.params['bucket_name'], request.params['object_id'])
        response['X-Goog-Generation'] = str(found['generation'])
    return download(request, response, storage, *arguments, **options)


def main(port: int) -> None:
    objects.download = download_with_generation
    server = create_server('localhost', port, in_memory=True, default_bucket='tests')
    server.start()
    print('ready', flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == '__main__':
    main(int(sys.argv[1]))
