"""The folders of all steps of a run: how one comes to be complete, how it goes, and which there are.

On disks, `120.partial` is filled and renamed to `120` as the very last act, so a folder that is named by a number alone
was complete once. A bucket has no renames: there the manifest, which is written last, makes `120` complete.
"""

import os
import shutil
from pathlib import Path

from gpt2jax.files import describe_bytes, sync_folder
from gpt2jax.storage import is_bucket, open_path, remove_folder
from gpt2jax.training.manifest import MANIFEST
from gpt2jax.training.workdir import check_space

PARTIAL, DELETED = '.partial', '.deleted'


def open_step_folders(directory: str | os.PathLike) -> 'StepFolders':
    """The step folders of a directory, which need not be there yet."""
    directory = open_path(directory)
    return BucketFolders(directory) if is_bucket(directory) else StepFolders(directory)


class StepFolders:
    """The step folders of a directory on disks.

    Attributes:
      directory: where they are.
    """

    def __init__(self, directory: Path):
        self.directory = directory

    def of(self, step: int) -> Path:
        """The folder of a step that is complete."""
        return self.directory / str(step)

    def unfinished(self, step: int) -> Path:
        """The folder of a step that is being written."""
        return self.directory / f'{step}{PARTIAL}'

    def steps(self) -> list[int]:
        """All steps that have a folder, good or not, oldest first."""
        if not self.directory.is_dir():
            return []
        names = [path.name for path in self.directory.iterdir() if path.is_dir()]
        return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))

    def make_room(self, step: int, size: int) -> None:
        """Clears what a killed process left behind, and refuses a save for which there is no space."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in self.directory.iterdir():
            if path.suffix in (PARTIAL, DELETED) and path.stem.isdecimal():
                shutil.rmtree(path)
        check_space(self.directory, size, f'the checkpoint of step {step}')

    def complete(self, step: int) -> None:
        """Makes the unfinished folder of a step, which has its manifest, the step's folder."""
        self.remove(step)  # of this step only a damaged one can be there
        self.unfinished(step).rename(self.of(step))
        sync_folder(self.directory)

    def remove(self, step: int) -> None:
        """Deletes a step under another name, so that a kill half-way leaves no half of a checkpoint."""
        folder = self.of(step)
        if folder.is_dir():
            shutil.rmtree(folder.rename(folder.with_name(folder.name + DELETED)))

    def space(self) -> str:
        """How much is free, in words."""
        existing = next(path for path in (self.directory, *self.directory.parents) if path.exists())
        return f'{describe_bytes(shutil.disk_usage(existing).free)} free there'


class BucketFolders(StepFolders):
    """The step folders in a bucket."""

    def unfinished(self, step: int) -> Path:
        return self.of(step)

    def steps(self) -> list[int]:
        return [step for step in super().steps() if (self.of(step) / MANIFEST).exists()]

    def make_room(self, step: int, size: int) -> None:
        complete = self.steps()
        for other in super().steps():
            if other not in complete or other == step:
                remove_folder(self.of(other))

    def complete(self, step: int) -> None:
        pass

    def remove(self, step: int) -> None:
        (self.of(step) / MANIFEST).unlink(missing_ok=True)  # first, so that a kill leaves no half of a checkpoint
        remove_folder(self.of(step))

    def space(self) -> str:
        return 'a bucket'
