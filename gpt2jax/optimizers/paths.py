"""What a parameter is to an optimizer, by its path in the tree: decayed or not, in which group, of which width.

A factor of 1 is left out of the arithmetic, so that it changes no bit.
"""

import math
import re
from collections.abc import Callable

import jax
import optax

from gpt2jax.errors import UserError

# Matrices from width to width: their fan-in grows with the model. Linear kernels are [out, in].
HIDDEN = re.compile(r'(^|/)(blocks|encoder)/.*/kernel$|(^|/)head/transform/kernel$')
# Those of the blocks, whose updates Muon makes orthogonal.
ORTHOGONAL = re.compile(r'(^|/)(blocks|encoder)/.*/kernel$')


def path_name(path) -> str:
    """A parameter's path in a tree as 'blocks/0/attention/query/kernel'."""
    return jax.tree_util.keystr(path, simple=True, separator='/')


def decayed(params):
    """True on matrices and token embeddings: what weight decay acts on, by parameter path.

    Not on BERT's pooler, which has no gradient here and would only fade.
    """

    def decays(path, _):
        return path_name(path).endswith(('/kernel', '/token')) and 'pooler' not in path_name(path)

    return jax.tree_util.tree_map_with_path(decays, params)


def scale_by_path(factor: Callable[[str], float]) -> optax.GradientTransformation:
    """Multiplies each update by `factor(path)`."""

    def scale(path, update):
        by = factor(path_name(path))
        return update if by == 1 else by * update

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def parse_groups(groups: str) -> list[tuple[re.Pattern, float]]:
    """'embedding=0.5,norm=2' -> [(pattern, 0.5), (pattern, 2.0)]: `config.optimizer.groups`.

    A pattern is a regular expression that is searched in the path of a parameter; it may hold no comma.

    Raises:
      UserError: an entry that is no PATTERN=FACTOR, a pattern that is no regular expression, a bad factor.
    """
    parsed = []
    for entry in groups.split(',') if groups else ():
        pattern, equals, text = entry.strip().rpartition('=')
        complaint = f'config.optimizer.groups = {groups!r}: {entry.strip()!r}'
        if not equals or not pattern:
            raise UserError(f'{complaint} is not PATTERN=FACTOR, as in embedding=0.5')
        try:
            factor = float(text)
        except ValueError:
            factor = math.nan
        if not 0 <= factor < math.inf:
            raise UserError(
                f'{complaint}: the factor must be a number of at least 0 (0 keeps the parameters as they are)'
            )
        try:
            parsed.append((re.compile(pattern), factor))
        except re.error as error:
            raise UserError(f'{complaint}: {pattern!r} is not a regular expression: {error}') from None
    return parsed


def check_groups(groups: str, params) -> None:
    """Refuses a pattern of `config.optimizer.groups` that decides about no parameter of a tree, or of its shapes."""
    paths = [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    for pattern, _ in parse_groups(groups):
        left = [path for path in paths if not pattern.search(path)]
        if len(left) == len(paths):
            names = sorted({re.sub(r'/\d+/', '/0/', path) for path in paths})
            raise UserError(
                f'config.optimizer.groups = {groups!r}: no parameter is found by {pattern.pattern!r} that an earlier '
                f'pattern has not taken; left are {", ".join(names)}'
            )
        paths = left


def group_factor(groups: str) -> Callable[[str], float]:
    """path -> factor of the first pattern that is found in it, 1 where none is."""
    parsed = parse_groups(groups)
    return lambda path: next((factor for pattern, factor in parsed if pattern.search(path)), 1.0)


def width_factor(kind: str, model) -> Callable[[str], float]:
    """path -> muP's factor of the learning rate (Yang et al. 2022, table 8), m = width / base_width.

    An update of a hidden matrix may change each coordinate of its output by an amount that does not depend on the
    width. The update and the input are correlated, so that their product sums up fan-in terms of one sign:

    - Adam and what else makes every entry of an update about 1 (Lion; Adafactor without parameter scaling, whose
      update has a root mean square of 1; schedule-free AdamW): 1 / m.
    - Muon's update has equal singular values, here all 0.2 sqrt(max(out, in)), and its spectral norm is what counts
      (Yang, Simon & Bernstein 2023, condition 1): 1 / sqrt(m).

    Embeddings, norms and biases have a fan-in that does not grow: 1. So has the head in this form of table 8, as its
    growing sum is divided by m in the logits themselves; that is also why it may be tied to the embedding.

    Args:
      kind: `config.optimizer.kind`.
      model: `config.model`.
    """
    parametrization = model.parametrization
    if parametrization.kind == 'standard':
        return lambda path: 1.0
    m = model.width / parametrization.base_width

    def factor(path: str) -> float:
        if not HIDDEN.search(path):
            return 1.0
        return m**-0.5 if kind == 'muon' and ORTHOGONAL.search(path) else 1 / m

    return factor
