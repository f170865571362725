"""One step on disk: what is in its folder, how it is written, verified and read.

    120/arrays/params/   Orbax arrays: the parameters, alone, so that sampling reads nothing else
    120/arrays/rest/     Orbax arrays: optimizer, carry, random key, ...
    120/metadata.json    step, score, dtype and shape of every array, and the metadata of the caller
    120/manifest.json    size and sha256 of every file above

Orbax by itself restores a flipped bit silently, casts a wrong dtype, and takes an empty folder for a
checkpoint: hence the manifest and the table of dtypes and shapes.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from gpt2jax.errors import UserError
from gpt2jax.files import read_json, write_json
from gpt2jax.training import manifest

FORMAT = 1
ITEMS = ('params', 'rest')
ARRAYS, METADATA = 'arrays', 'metadata.json'
SHOWN_DIFFERENCES = 5


def make_checkpointer() -> ocp.AsyncCheckpointer:
    """Orbax, set up for the two items of a step."""
    logging.getLogger('absl').addFilter(_is_not_orbax_failure)
    # Weights hardly compress (8 %), and zstd takes the cores from the training for five times as long.
    handlers = {item: ocp.PyTreeCheckpointHandler(use_compression=False) for item in ITEMS}
    return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(**handlers))


def make_record(step: int, trees: dict[str, Any], metadata: dict[str, Any], score: float | None) -> dict[str, Any]:
    """The content of metadata.json."""
    return {
        'format': FORMAT,
        'step': int(step),
        'score': float(score) if score is not None and math.isfinite(score) else None,
        'arrays': _describe_arrays({item: _flatten(item, tree) for item, tree in trees.items()}),
        'metadata': metadata,
    }


def start_writing(checkpointer: ocp.AsyncCheckpointer, folder: Path, trees: dict[str, Any]) -> None:
    """Writes the arrays in the background; returns when they may be donated or overwritten."""
    stored = {item: _stored(_flatten(item, tree)) for item, tree in trees.items()}
    arguments = {item: ocp.args.PyTreeSave(leaves) for item, leaves in stored.items() if leaves}
    checkpointer.save(folder / ARRAYS, args=ocp.args.Composite(**arguments))


def finish_writing(folder: Path, record: dict[str, Any]) -> None:
    """Adds metadata and manifest once the arrays are on disk."""
    write_json(folder / METADATA, record)
    manifest.write_manifest(folder)


def find_damage(folder: Path, step: int, items: Sequence[str]) -> str | None:
    """What is wrong with a step folder, as 'file: reason', or None; only these items have to be good."""
    arrays = {item: f'{ARRAYS}/{item}' for item in ITEMS}
    if damage := manifest.find_damage(folder, required=[METADATA], left_out=arrays.values()):
        return damage
    try:
        record = read_json(folder / METADATA)
        if (record['format'], record['step']) != (FORMAT, step) or not isinstance(record['metadata'], dict):
            return f'{METADATA}: format {record["format"]}, step {record["step"]}; expected {FORMAT} and {step}'
        required = [arrays[item] for item in items if dict(record['arrays'][item])]
    except (UserError, KeyError, TypeError, ValueError) as error:
        return f'{METADATA}: {error!r}'
    return manifest.find_damage(folder, required, left_out=[arrays[item] for item in ITEMS if item not in items])


def read(
    checkpointer: ocp.AsyncCheckpointer, folder: Path, targets: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the items of `targets` from a verified step folder.

    Args:
        targets: item -> tree of jax.ShapeDtypeStruct, each with the sharding its array shall have.

    Returns:
        (item -> tree of arrays, the metadata of the caller).

    Raises:
        UserError: the checkpoint holds other arrays; the first differences are listed.
    """
    record = read_json(folder / METADATA)
    flat = {
        item: {name: _target(leaf) for name, leaf in _flatten(item, tree).items()} for item, tree in targets.items()
    }
    _check_fit(folder, record['arrays'], _describe_arrays(flat))
    arguments = {}
    for item, leaves in flat.items():
        if stored := _stored(leaves):
            where = ocp.checkpoint_utils.construct_restore_args(stored)
            arguments[item] = ocp.args.PyTreeRestore(item=stored, restore_args=where)
    restored = checkpointer.restore(folder / ARRAYS, args=ocp.args.Composite(**arguments))
    trees = {}
    for item, leaves in flat.items():
        found = restored[item] if item in arguments else {}
        arrays = [found[name] if name in found else _empty(leaf) for name, leaf in leaves.items()]
        trees[item] = jax.tree.unflatten(jax.tree.structure(targets[item]), arrays)
    return trees, record['metadata']


def _is_not_orbax_failure(record: logging.LogRecord) -> bool:
    """Drops the tracebacks that Orbax's threads log of a failed save: it is raised as well, and told once."""
    return not (record.exc_info and 'orbax' in Path(record.pathname).parts)


def _flatten(item: str, tree: Any) -> dict[str, Any]:
    """A tree as a flat dict: 'params/block/kernel' -> leaf, in the order of the leaves."""
    flat = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = '/'.join((item, jax.tree_util.keystr(path, simple=True, separator='/'))) if path else item
        if name in flat:
            raise ValueError(f'two leaves of {item} are both named {name}')
        if not isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
            raise TypeError(f'{name} is a {type(leaf).__name__}, not an array')
        flat[name] = leaf
    return flat


def _describe_arrays(trees: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """{'params': {'params/block/kernel': 'float32[768, 3072]'}}: compared when a checkpoint is read."""
    return {
        item: {name: f'{leaf.dtype.name}{list(leaf.shape)}' for name, leaf in _stored(tree).items()}
        for item, tree in trees.items()
    }


def _check_fit(folder: Path, saved: dict[str, dict[str, str]], wanted: dict[str, dict[str, str]]) -> None:
    """Raises a UserError with the first differences when other arrays are wanted than were saved."""
    differing = []
    for item, arrays in wanted.items():
        for name in [*arrays, *(name for name in saved[item] if name not in arrays)]:
            there, here = (side[item].get(name, 'nothing') for side in (saved, wanted))
            if there != here:
                differing.append(f'{name}: {there} in the checkpoint, {here} in this model')
    if differing:
        more = len(differing) - SHOWN_DIFFERENCES
        shown = differing[:SHOWN_DIFFERENCES] + ([f'and {more} more'] if more > 0 else [])
        raise UserError(
            f'the checkpoint {folder} does not fit this model: '
            + '; '.join(shown)
            + '. Use the config it was trained with, or another --workdir'
        )


def _stored(tree: dict[str, Any]) -> dict[str, Any]:
    """The leaves that Orbax can write: those with at least one element."""
    return {name: leaf for name, leaf in tree.items() if math.prod(leaf.shape) > 0}


def _target(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, 'sharding', None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _empty(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """An array without elements, which is not stored."""
    zeros = np.zeros(leaf.shape, leaf.dtype)
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: zeros[index])
