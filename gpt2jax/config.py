"""The whole config tree: every option there is, its default, and what it means.

A recipe (configs/NAME.py) is an overlay over this tree, and so is a flag (`--config.model.width=512`). Nothing
reads an option that is not here, and nothing hides a default elsewhere. A value of 0 that a comment explains as
'0: ...' is filled in by `resolve`, so that the config which is printed and saved has no blanks.
"""

import difflib
import json

from ml_collections import ConfigDict

from gpt2jax.errors import UserError


def default_config() -> ConfigDict:
    """The tree with its defaults: GPT-2 124M on Shakespeare, locked against unknown keys."""
    config = ConfigDict()
    config.seed = 0  # initial values, shuffling, dropout and objectives are all derived from it

    config.data = data = ConfigDict()
    data.corpus = 'shakespeare'  # shakespeare | gutenberg | text | tfds:NAME (gpt2jax/data/corpora.py)
    data.path = ''  # corpus 'text': a .txt or .jsonl file, .gz of either, or a folder of these
    data.text_key = 'text'  # the field that holds the text, in .jsonl and in tfds:NAME
    data.directory = '~/.cache/gpt2jax'  # where prepared corpora and tokens are kept
    data.tokenizer = 'gpt2'  # gpt2 | bytes | bpe:N (trained on the training split)
    data.length = 1024  # tokens in a row
    data.cross_documents = False  # let tokens attend to earlier documents of their row
    data.prefetch = 2  # batches made ahead in the background

    config.objective = objective = ConfigDict()
    objective.kind = 'causal'  # causal (gpt2jax/objectives.py)

    config.model = model = ConfigDict()
    model.architecture = 'transformer'  # transformer (gpt2jax/models/)
    model.num_layers = 12  # blocks of the stack
    model.width = 768  # of the residual stream; a multiple of attention.num_heads
    model.vocab_size = 0  # 0: as many as the tokenizer has
    model.vocab_multiple = 128  # the embedding is padded to a multiple of this; padded logits are never chosen
    model.dropout = 0.0  # after the embedding and on every residual branch
    model.scan_layers = False  # one compiled block in a loop: compiles faster, runs a little slower on CPU
    model.remat = 'none'  # none | full | dots: what the backward pass computes again to save memory
    model.dtype = 'float32'  # float32 | bfloat16: of the matrix products; parameters and softmax stay float32

    model.position = position = ConfigDict()
    position.kind = 'learned'  # learned | none (gpt2jax/models/positions.py)
    position.max_length = 0  # rows of the position table; 0: data.length

    model.attention = attention = ConfigDict()
    attention.num_heads = 12  # heads of queries, each model.width / num_heads wide
    attention.num_kv_heads = 0  # heads of keys and values, shared by groups of query heads; 0: num_heads
    attention.bias = True  # on the projections to queries, keys and values, and back
    attention.dropout = 0.0  # on the attention weights
    attention.kernel = 'auto'  # auto | einsum | fused (jax.nn.dot_product_attention)

    model.feedforward = feedforward = ConfigDict()
    feedforward.kind = 'gelu_tanh'  # gelu_tanh | gelu | relu (gpt2jax/models/feedforward.py)
    feedforward.width = 0  # 0: 4 * model.width
    feedforward.bias = True  # on both of its matrices

    model.norm = norm = ConfigDict()
    norm.kind = 'layernorm'  # layernorm | rmsnorm (gpt2jax/models/norms.py)
    norm.bias = True  # beside the scale
    norm.epsilon = 1e-5  # added to the variance

    model.head = head = ConfigDict()
    head.tied = True  # the output matrix is the token embedding

    model.init = init = ConfigDict()
    init.std = 0.02  # of every matrix and embedding
    init.residual = 'scaled'  # scaled (std / sqrt(2 * num_layers), GPT-2 section 2.3) | plain: last matrix of a branch

    config.loss = loss = ConfigDict()
    loss.chunk_tokens = 4096  # tokens whose logits exist at once; 0: all of the batch
    loss.z_loss = 0.0  # weight of log(Z)^2, which keeps the logits' scale in bounds (PaLM, section 5)

    config.optimizer = optimizer = ConfigDict()
    optimizer.kind = 'adamw'  # adamw (gpt2jax/optimizers.py)
    optimizer.learning_rate = 6e-4  # at the peak of the schedule
    optimizer.b1 = 0.9  # decay of the mean of gradients
    optimizer.b2 = 0.95  # decay of the mean of squared gradients
    optimizer.epsilon = 1e-8  # added to the root of that
    optimizer.weight_decay = 0.1  # on matrices alone: not on biases, norms and embeddings of positions
    optimizer.clip_norm = 1.0  # largest global norm of a gradient; 0: no clipping
    optimizer.schedule = 'cosine'  # cosine | linear | constant | wsd (warmup, stable, decay)
    optimizer.warmup_steps = 100  # in which the learning rate rises to its peak; 0: it starts there
    optimizer.decay_steps = 0  # length of the decay of 'wsd'; 0: a fifth of training.steps
    optimizer.final_fraction = 0.1  # of the peak learning rate, where the schedule is after the last step

    config.training = training = ConfigDict()
    training.steps = 1000  # of the optimizer, in the whole run
    training.batch_size = 16  # rows in a step, over all devices and microbatches
    training.accumulation = 1  # microbatches a step is cut into
    training.log_every = 10  # steps between lines of metrics.jsonl

    config.evaluation = evaluation = ConfigDict()
    evaluation.every = 250  # steps between evaluations on the validation split; 0: only at the end
    evaluation.batch_size = 0  # rows at a time; 0: a microbatch of training
    evaluation.num_rows = 0  # evenly spaced rows of the validation split that are used in training; 0: all

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.every_steps = 0  # 0: by time alone
    checkpoint.every_minutes = 10.0  # 0: by steps alone
    checkpoint.keep = 2  # the newest ones that are kept, beside the best

    config.sampling = sampling = ConfigDict()
    sampling.prompt = ''  # '' starts a new document
    sampling.num_samples = 2  # how many continuations
    sampling.max_new_tokens = 200  # the length of each, unless it ends by itself
    sampling.temperature = 0.8  # 0: always the likeliest token
    sampling.top_k = 200  # 0: all
    sampling.top_p = 1.0  # draw from the likeliest tokens that make up this probability; 1: from all
    sampling.stop = True  # end a sample at <|endoftext|>

    config.sharding = sharding = ConfigDict()
    sharding.data = -1  # devices that hold copies of the model; -1: all that are left
    sharding.fsdp = 1  # devices that share one copy of parameters and optimizer state
    sharding.cpu_devices = 0  # devices the CPU is split into; 0: one a core, as far as they divide the batch

    config.runtime = runtime = ConfigDict()
    runtime.compilation_cache = '~/.cache/gpt2jax/compiled'  # '': compile anew in every run
    return config.lock()


def flatten(tree, prefix: str = '') -> dict:
    """{'model': {'width': 3}} -> {'model.width': 3}. Takes a ConfigDict or a dict."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, (dict, ConfigDict)):
            flat |= flatten(value, f'{prefix}{key}.')
        else:
            flat[prefix + key] = value
    return flat


def overlay(config: ConfigDict, changes: dict) -> ConfigDict:
    """A copy of `config` with {'model.width': 512, ...} set.

    Raises:
      UserError: an unknown key (naming the nearest valid one), or a value of another type than the default's.
    """
    config = ConfigDict(config.to_dict())  # ConfigDict(config) would share the sections
    known = flatten(config)
    for key, value in changes.items():
        check_key(key)
        old = known[key]
        if isinstance(old, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(old):
            wanted, got = type(old).__name__, type(value).__name__
            raise UserError(f'config.{key} = {value!r}: expected {wanted}, not {got} (the default is {old!r})')
        section, _, leaf = key.rpartition('.')
        parent = config
        for part in section.split('.') if section else ():
            parent = parent[part]
        parent[leaf] = value
    return config.lock()


def check_key(key: str) -> None:
    """Raises UserError, naming the nearest valid one, unless the dotted key is in the tree."""
    known = flatten(default_config())
    if key not in known:
        raise UserError(f'config.{key}: there is no such key{_nearest(key, known)}')


def recipe(changes: dict, argument: str | None = None) -> ConfigDict:
    """What a config file returns: the defaults, its changes over them, and the argument behind its colon.

    `configs/laptop.py:tokenizer=gpt2,length=256` arrives here as 'tokenizer=gpt2,length=256'. A name may be a
    dotted key, the last part of one (of the least nested, if several end so), or a section that has a `kind`.
    """
    config = overlay(default_config(), changes)
    given = {}
    for item in filter(None, (argument or '').split(',')):
        name, equals, text = item.partition('=')
        if not equals:
            raise UserError(f'config argument {item!r}: expected NAME=VALUE, as in tokenizer=gpt2,length=256')
        key = full_key(name.strip(), config)
        given[key] = _parse(key, text.strip(), flatten(config)[key])
    return overlay(config, given)


def full_key(name: str, config: ConfigDict) -> str:
    """'length' -> 'data.length', 'objective' -> 'objective.kind', 'data.length' -> itself."""
    known = flatten(config)
    if name in known:
        return name
    if f'{name}.kind' in known:
        return f'{name}.kind'
    matches = [key for key in known if key.endswith(('.' + name, f'.{name}.kind'))]
    matches = [key for key in matches if key.count('.') == min(other.count('.') for other in matches)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(f'config argument {name!r} could be any of {", ".join(matches)}: write one of these')
    short = {key.rpartition('.')[2]: key for key in known}
    raise UserError(f'config argument {name!r}: there is no such key{_nearest(name, {**known, **short})}')


def from_json(text: str) -> ConfigDict:
    """A saved config, checked key by key against the tree. Raises UserError as `overlay` does."""
    return overlay(default_config(), flatten(json.loads(text)))


def to_dict(config) -> dict:
    """Nested plain dicts, ready for JSON."""
    return config.to_dict()


def _parse(key: str, text: str, default):
    """Text of a recipe's argument -> a value of the default's type."""
    if isinstance(default, bool):
        if text.lower() not in ('true', 'false'):
            raise UserError(f'config.{key} = {text!r}: expected true or false')
        return text.lower() == 'true'
    try:
        return type(default)(text)
    except ValueError:
        raise UserError(f'config.{key} = {text!r}: expected {type(default).__name__}') from None


def _nearest(name: str, known) -> str:
    """'; did you mean ...?', looking at whole keys first and at their last parts second."""
    close = difflib.get_close_matches(name, known, 1, 0.6)
    if not close:
        leaves = {key.rpartition('.')[2]: key for key in known}
        close = [leaves[leaf] for leaf in difflib.get_close_matches(name.rpartition('.')[2], leaves, 1, 0.6)]
    return f'; did you mean {close[0]}?' if close else ''
