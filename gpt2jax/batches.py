"""From a split to the rows of a batch on the devices: each process reads its own rows, and no others."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from gpt2jax.data import Rows, Tokenizer, Tokens
from gpt2jax.data.whole_rows import WholeRows
from gpt2jax.errors import UserError
from gpt2jax.objectives import make_objective, phases
from gpt2jax.sharding import ROWS


def rows_of(config, tokens: Tokens, tokenizer: Tokenizer) -> Rows:
    """The rows of a split as a config wants them.

    Args:
      config: the whole config, resolved.

    Raises:
      UserError: no document fits into a row, or an objective needs pairs and the text has none.
    """
    data = config.data
    arguments = tokens, data.length, data.cross_documents, tokenizer, data.order == 'contiguous'
    if not data.whole_documents:
        return Rows(*arguments)
    objectives = [make_objective(config, kind) for _, kind in phases(config)]
    answers = [objective.num_predictions(data.length) for objective in objectives if objective.pairs]
    rows = WholeRows(*arguments, answers=min(answers, default=None))
    if not len(rows):
        raise UserError(
            f'config.data.length = {data.length}: no document fits into a row, which config.data.whole_documents asks '
            'for; set longer rows'
        )
    if answers and tokenizer.sep not in tokens.document(0):
        raise UserError(
            f'config.data.corpus = {data.corpus!r} has no pairs of a source and a target, which '
            f'config.objective.kind = {config.objective.kind!r} needs; one of: cmudict, pairs, tfds:NAME with two '
            'features in config.data.text_key'
        )
    return rows


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """The rows of a global batch, in order, that the devices of this process work on.

    Where an axis beside rows (`tensor`, `context`) reaches over processes, these share rows, and each reads them.
    """
    return np.concatenate([np.arange(batch_size)[rows] for rows in _parts(batch_size, mesh)])


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of the global batch (`local_rows`) -> global arrays, cut by rows over all devices."""
    sharding, parts = NamedSharding(mesh, ROWS), mesh.shape['data'] * mesh.shape['fsdp']
    size = parts // len(_parts(parts, mesh))

    def place(array: np.ndarray) -> jax.Array:
        shape = (len(array) * size, *array.shape[1:])
        return jax.make_array_from_process_local_data(sharding, array, shape)

    return {name: place(array) for name, array in batch.items()}


def _parts(batch_size: int, mesh: Mesh) -> list[slice]:
    """The different cuts of the rows that lie on devices of this process, in order."""
    places = NamedSharding(mesh, ROWS).addressable_devices_indices_map((batch_size,)).values()
    return [slice(*bounds) for bounds in sorted({rows.indices(batch_size)[:2] for (rows,) in places})]
