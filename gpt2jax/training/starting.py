"""`training.init_from`: a run that starts from the parameters of another one, imported or trained."""

import dataclasses

import jax

from gpt2jax.config import default_config, flatten, overlay
from gpt2jax.errors import UserError
from gpt2jax.models import make_model
from gpt2jax.objectives import phases
from gpt2jax.optimizers import path_name
from gpt2jax.sharding import shard
from gpt2jax.training.checkpoints import Checkpoints
from gpt2jax.training.workdir import Workdir
from gpt2jax.validation import resolve

SHOWN = 6


@dataclasses.dataclass(frozen=True)
class Start:
    """What comes from where. All lists hold paths of parameters, `lacking` and `reshaped` of the new run.

    Attributes:
      workdir: of the other run.
      abstract: tree of shapes of its parameters, with their places on the new run's mesh.
      loaded: taken from it.
      new: not in it, so they start from the seed.
      left: in it, but not in the new run.
      reshaped: 'path [old shape] -> [new shape]': in both, but of another shape, so they start from the seed.
      count: numbers that are loaded.
    """

    workdir: Workdir
    abstract: object
    loaded: list[str]
    new: list[str]
    left: list[str]
    reshaped: list[str]
    count: int

    def lines(self) -> list[str]:
        """The report, one line a kind."""
        lines = [f'starting from {self.workdir.path}: {self.count:,} parameters in {len(self.loaded)} arrays']
        for what, names in (
            ('new, from the seed', self.new),
            ('new, since of another shape', self.reshaped),
            ('left behind', self.left),
        ):
            if names:
                more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
                lines.append(f'  {what} ({len(names)}): ' + ', '.join(names[:SHOWN]) + more)
        return lines


def plan_start(config, abstract_params, mesh) -> Start:
    """Compares the parameters of a run with those of `config.training.init_from`; reads no number.

    Args:
      config: resolved.
      abstract_params: tree of ShapeDtypeStructs of the new run.

    Raises:
      UserError: there is no such run, it has no checkpoint, or nothing of it fits.
    """
    folder = config.training.init_from
    workdir = Workdir(folder)
    saved = workdir.saved_config()
    if saved is None:
        raise UserError(f'config.training.init_from = {folder!r}: no run there (no config.json in {workdir.path})')
    if not _checkpoints(workdir, 1).steps():
        raise UserError(f'config.training.init_from = {folder!r}: that run has no checkpoint yet')
    other = make_model(resolve_saved(saved, workdir).model)
    abstract = shard(jax.eval_shape(other.init, jax.random.key(0)), mesh)
    old, new = shapes(abstract), shapes(abstract_params)
    loaded = [name for name in new if old.get(name) == new[name]]
    if not loaded:
        raise UserError(
            f'config.training.init_from = {folder!r}: no parameter of that run has the path and the shape of one of '
            f'this config; model.width is {saved["model"]["width"]} there and {config.model.width} here'
        )
    return Start(
        workdir,
        abstract,
        loaded,
        new=[name for name in new if name not in old],
        left=[name for name in old if name not in new],
        reshaped=[f'{name} {old[name]} -> {new[name]}' for name in new if old.get(name, new[name]) != new[name]],
        count=sum(leaf.size for path, leaf in _leaves(abstract_params) if path_name(path) in set(loaded)),
    )


def starting_params(start: Start, params, announce):
    """`params`, from the seed, with what is loaded in its places."""
    checkpoints = _checkpoints(start.workdir, 1, announce)
    try:
        _, found, _ = checkpoints.restore_params(start.abstract, 'best')
    finally:
        checkpoints.close()
    arrays = {path_name(path): leaf for path, leaf in _leaves(found)}
    loaded = set(start.loaded)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: arrays[path_name(path)] if path_name(path) in loaded else leaf, params
    )


def resolve_saved(saved: dict, workdir: Workdir, changes: dict | None = None):
    """The config in the folder of a run; a tokenizer that came from a file is the run's own copy of it."""
    config = overlay(default_config(), flatten(saved))
    if config.data.tokenizer.startswith('file:'):
        config = overlay(config, {'data.tokenizer': f'file:{workdir.path}'})
    return resolve(overlay(config, changes or {}))


def changes_from_run(folder: str) -> dict:
    """What a recipe takes over from a run in order to go on from it: model, tokenizer, objective and length of a row.

    Raises:
      UserError: there is no run.
    """
    workdir = Workdir(folder)
    saved = workdir.saved_config()
    if saved is None:
        raise UserError(f'from={folder}: no run there (no config.json in {workdir.path})')
    flat = flatten(saved)
    kept = {key: value for key, value in flat.items() if key.startswith(('model.', 'objective.'))}
    # A file, whatever the tokenizer was called: bpe:N would be trained anew on another corpus.
    return kept | {
        'objective.switch': '',
        'objective.kind': phases(resolve_saved(saved, workdir))[-1][1],
        'data.tokenizer': f'file:{folder}',
        'data.length': flat['data.length'],
        'training.init_from': folder,
    }


def shapes(tree) -> dict[str, list[int]]:
    """{path: shape} of a tree."""
    return {path_name(path): list(leaf.shape) for path, leaf in _leaves(tree)}


def _leaves(tree):
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _checkpoints(workdir: Workdir, keep: int, announce=print) -> Checkpoints:
    return Checkpoints(workdir.checkpoints, keep, announce=announce)
