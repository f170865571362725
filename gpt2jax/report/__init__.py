"""The report of a run: one self-contained page and one picture, from the files of its workdir.

reading.py reads the files, figures.py draws, page.py fills page.html and style.css.
"""

import os
from pathlib import Path
from typing import Any

from gpt2jax.files import replace_file
from gpt2jax.report.figures import picture
from gpt2jax.report.page import page
from gpt2jax.report.reading import read_run


def write_report(workdir_path: str | os.PathLike, defaults: dict[str, Any] | None = None) -> tuple[Path, Path]:
    """Writes report.html and report.png into a workdir, replacing earlier ones.

    Args:
      workdir_path: the folder of the run; metrics.jsonl must exist; config.json, run.json, samples.json may.
      defaults: the default config tree; the page then shows first what the run changed.

    Returns:
      The paths of the page and of the picture.

    Raises:
      UserError: metrics.jsonl is missing or corrupt, or the folder cannot be written.
    """
    run = read_run(Path(workdir_path), defaults)
    html_path, png_path = run.path / 'report.html', run.path / 'report.png'
    replace_file(html_path, page(run).encode())
    replace_file(png_path, picture(run))
    return html_path, png_path
