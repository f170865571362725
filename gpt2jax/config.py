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
    data.corpus = 'shakespeare'  # shakespeare | gutenberg | cmudict | text | pairs | tfds:NAME (data/corpora.py)
    data.path = ''  # corpus 'text': a .txt or .jsonl file, .gz of either, or a folder of these; 'pairs': .tsv or .jsonl
    data.text_key = 'text'  # the field that holds the text, in .jsonl and in tfds:NAME; of pairs both: 'source,target'
    data.directory = '~/.cache/gpt2jax'  # where prepared corpora and tokens are kept
    data.tokenizer = 'gpt2'  # gpt2 | bytes | bpe:N (trained on the training split) | symbols:N | file:FOLDER
    data.length = 1024  # tokens in a row
    data.order = 'shuffled'  # shuffled | contiguous: row b of a step goes on where row b of the step before ended
    data.whole_documents = False  # rows hold whole documents, as many as fit; else the text is cut where a row is full
    data.cross_documents = False  # let tokens attend to earlier documents of their row, and memories reach beyond them
    data.prefetch = 2  # batches made ahead in the background

    config.objective = objective = ConfigDict()
    objective.kind = 'causal'  # causal | masked | prefix | hybrid | span_corruption | permutation | seq2seq
    objective.switch = ''  # kinds that take over later: 'masked@1000,causal@2000'; '': kind throughout
    objective.rate = 0.15  # share of the real tokens that is hidden and predicted; permutation: 1 / K (XLNet: 1 / 6)
    objective.start_rate = 0.0  # share at step 0, moving in a line to rate at the end of the run; 0: rate throughout
    objective.mask_share = 0.8  # of the hidden tokens, replaced by <|mask|> (BERT, section 3.1)
    objective.random_share = 0.1  # of the hidden tokens, replaced by a random one; the rest stays as it is
    objective.whole_words = False  # hide all tokens of a word together
    objective.mean_span = 1.0  # of the geometric length of hidden spans, before the cap; 1: single tokens (or words)
    objective.max_span = 10  # the cap of that length (SpanBERT, section 3.1)
    objective.prefix = 0.0  # prefix: share of a document that is seen in both directions; 0: drawn for each
    objective.causal_share = 0.5  # hybrid: share of the rows that are causal, the others masked

    config.model = model = ConfigDict()
    model.architecture = 'transformer'  # transformer | encoder_decoder | transformer_xl | xlnet | lstm (models/)
    model.num_layers = 12  # blocks of the stack; encoder_decoder: of the decoder
    model.encoder_layers = 0  # encoder_decoder: blocks of the encoder; 0: num_layers
    model.memory_length = 0  # transformer_xl, xlnet: hidden states of earlier rows that each layer may read
    model.width = 768  # of the residual stream; a multiple of attention.num_heads
    model.vocab_size = 0  # 0: as many as the tokenizer has
    model.vocab_multiple = 128  # the embedding is padded to a multiple of this; padded logits are never chosen
    model.parallel = False  # attention and feed-forward read the same norm, side by side (PaLM, section 2)
    model.dropout = 0.0  # after the embedding and on every residual branch
    model.scan_layers = False  # one compiled block in a loop: compiles faster, runs a little slower on CPU
    model.remat = 'none'  # none | dots | offload (dots wait on the host) | full: how much is computed again, not kept
    model.dtype = 'float32'  # float32 | bfloat16: of the matrix products; parameters and softmax stay float32

    model.position = position = ConfigDict()
    position.kind = 'learned'  # learned | sinusoidal | rotary | alibi | t5 | relative | none (models/positions.py)
    position.max_length = 0  # learned: rows of the table; rotary: the longest length in use; 0: data.length
    position.base = 10_000.0  # rotary: wavelengths run from 2 pi to 2 pi times this
    position.scaling = 'none'  # none | linear | ntk: how rotary angles shrink by max_length / trained_length
    position.trained_length = 0  # rotary: length that the angles were made for; 0: data.length
    position.buckets = 32  # t5: relative distances are sorted into so many, half of them a direction
    position.max_distance = 128  # t5: distances from here on share the last bucket
    position.clamp_length = 0  # relative: distances beyond it are as this one (Transformer-XL's clamp_len); 0: none are
    position.segments = False  # relative: scores know whether two tokens have the same token type (XLNet, section 2.5)

    model.embedding = embedding = ConfigDict()
    embedding.width = 0  # of the tables, projected to model.width (ALBERT, section 3.1); 0: model.width
    embedding.norm = False  # a norm after the sum of the embeddings, as in BERT
    embedding.scale = False  # token embeddings times the root of the width (Vaswani et al. 2017, section 3.4)
    embedding.shared = True  # encoder_decoder: one token table for both sides
    embedding.token_types = 0  # rows of a table of token types (BERT's segments A and B); 0: none

    model.attention = attention = ConfigDict()
    attention.num_heads = 12  # heads of queries, each model.width / num_heads wide
    attention.num_kv_heads = 0  # heads of keys and values, shared by groups of query heads; 0: num_heads
    attention.bias = True  # on the projections to queries, keys and values, and back
    attention.dropout = 0.0  # on the attention weights
    attention.qk_norm = False  # an RMS norm on queries and keys, head by head (Henry et al. 2020)
    attention.softcap = 0.0  # scores become cap * tanh(scores / cap) (Gemma 2, section 2); 0: they stay
    attention.window = 0  # a token sees others less than this many positions away; 0: all
    attention.global_every = 0  # with a window: every n-th layer sees all; 0: none does
    attention.value_residual = False  # mix the first layer's values into all others (Zhou et al. 2024)
    attention.kernel = 'auto'  # auto | einsum | fused (GPU) | splash (TPU) | ring (for sharding.context)

    model.feedforward = feedforward = ConfigDict()
    feedforward.kind = 'gelu_tanh'  # gelu_tanh | gelu | relu | relu2 | swiglu | geglu (gpt2jax/models/feedforward.py)
    feedforward.width = 0  # 0: 4 * model.width; for swiglu and geglu 8/3 of it, so that the parameters are as many
    feedforward.bias = True  # on its matrices

    model.norm = norm = ConfigDict()
    norm.kind = 'layernorm'  # layernorm | rmsnorm (gpt2jax/models/norms.py)
    norm.placement = 'pre'  # pre | post (the 2017 Transformer, BERT) | sandwich (before and after each branch)
    norm.bias = True  # beside the scale
    norm.epsilon = 1e-5  # added to the variance

    model.head = head = ConfigDict()
    head.tied = True  # the output matrix is the token embedding
    head.bias = False  # one number a token, added to the logits
    head.transform = False  # BERT's: a matrix, the activation and a norm before the output matrix
    head.cutoffs = ''  # adaptive softmax: '2000,8000', ids from which tokens form rarer clusters; '': plain softmax
    head.divisor = 4.0  # adaptive softmax: each cluster is so much narrower than the one before it; 1: none is
    head.softcap = 0.0  # logits become cap * tanh(logits / cap); 0: they stay
    head.pooler = False  # BERT's: a matrix and tanh on the first token; read by `embed`, never trained here

    model.recurrent = recurrent = ConfigDict()  # of lstm; model.dropout is on what its last layer gives
    recurrent.width = 0  # of the hidden layers, all but the last, which is model.width; 0: model.width
    recurrent.weight_drop = 0.0  # on the recurrent matrices (Merity et al. 2018, section 2)
    recurrent.input_drop = 0.0  # on the embeddings, the same at each step of a row (section 4.2)
    recurrent.hidden_drop = 0.0  # between layers, the same at each step of a row
    recurrent.word_drop = 0.0  # on whole words of the embedding (section 4.3)

    model.init = init = ConfigDict()
    init.std = 0.02  # of every matrix and embedding
    init.residual = 'scaled'  # last matrix of a branch: scaled (std / sqrt(2 * num_layers), GPT-2) | plain | zero

    model.parametrization = parametrization = ConfigDict()
    parametrization.kind = 'standard'  # standard | mup: learning rates that hold across widths (Yang et al. 2022)
    parametrization.base_width = 256  # mup: the model.width at which it is the standard one
    parametrization.base_head_width = 64  # mup: width of a head at that width

    config.loss = loss = ConfigDict()
    loss.chunk_tokens = 4096  # tokens whose logits exist at once on a device; 0: all that it has
    loss.label_smoothing = 0.0  # share of a target's probability spread over all ids (Vaswani et al. 2017, section 5.4)
    loss.z_loss = 0.0  # weight of log(Z)^2, which keeps the logits' scale in bounds (PaLM, section 5)

    config.optimizer = optimizer = ConfigDict()
    optimizer.kind = 'adamw'  # adamw | adafactor | lion | muon | schedule_free (gpt2jax/optimizers/)
    optimizer.learning_rate = 6e-4  # at the peak of the schedule
    optimizer.groups = ''  # factors of it by parameter path: 'embedding=0.5,norm=2'; the first that is found counts
    optimizer.b1 = 0.9  # decay of the mean of gradients; interpolation of schedule_free
    optimizer.b2 = 0.95  # decay of the mean of squared gradients
    optimizer.epsilon = 1e-8  # added to the root of that
    optimizer.momentum = 0.95  # muon: decay of the mean of a matrix's gradients
    optimizer.average = 0.0  # decay of a moving average of the parameters, which is evaluated and sampled; 0: none
    optimizer.weight_decay = 0.1  # on matrices alone: not on biases, norms and embeddings of positions
    optimizer.clip_norm = 1.0  # largest global norm of a gradient; 0: no clipping
    optimizer.schedule = 'cosine'  # cosine | linear | constant | inverse_sqrt | wsd (warmup, stable, decay)
    optimizer.warmup_steps = 100  # in which the learning rate rises to its peak; 0: it starts there
    optimizer.decay_steps = 0  # length of the decay of 'wsd'; 0: a fifth of training.steps
    optimizer.final_fraction = 0.1  # of the peak learning rate, where the schedule is after the last step

    config.training = training = ConfigDict()
    training.steps = 1000  # of the optimizer, in the whole run
    training.batch_size = 16  # rows in a step, over all devices and microbatches
    training.accumulation = 1  # microbatches a step is cut into
    training.log_every = 10  # steps between lines of metrics.jsonl
    training.init_from = ''  # folder of a run, imported or trained, whose parameters this one starts from; '': the seed

    config.evaluation = evaluation = ConfigDict()
    evaluation.every = 250  # steps between evaluations on the validation split; 0: only at the end
    evaluation.batch_size = 0  # rows at a time; 0: a microbatch of training
    evaluation.num_rows = 0  # evenly spaced rows of the validation split that are used in training; 0: all
    evaluation.stride = 0  # likelihood: tokens that are predicted at a time; 0: data.length
    evaluation.context = 0  # likelihood: most tokens that one prediction reads; 0: stride + model.memory_length
    evaluation.rate = 0.0  # share that is hidden in evaluation, where runs differ in theirs; 0: objective.rate
    evaluation.pseudo_rows = 16  # `evaluate`, masked: evenly spaced rows whose tokens are hidden one by one; 0: all

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
    sampling.beams = 0  # keep so many likeliest texts at a time instead of drawing (beam search); 0: draw
    sampling.length_penalty = 0.6  # beam search: log p is over ((5 + length) / 6)^this (Wu et al. 2016, section 7)
    sampling.stop = True  # end a sample at <|endoftext|>

    config.sharding = sharding = ConfigDict()
    sharding.data = -1  # devices that hold copies of the model; -1, on one of the four axes: all that are left
    sharding.fsdp = 1  # devices that share one copy of parameters and optimizer state
    sharding.context = 1  # devices that share the length of each row, for long rows
    sharding.tensor = 1  # devices that share the work of each layer: heads, feed-forward and vocabulary are cut
    sharding.cpu_devices = 0  # devices the CPU is split into; 0: one a core, as far as they divide the batch

    config.runtime = runtime = ConfigDict()
    runtime.compilation_cache = '~/.cache/gpt2jax/compiled'  # '': compile anew in every run
    runtime.start_seconds = 60.0  # many processes: how long they wait for each other at the start
    runtime.patience_seconds = 60.0  # many processes: how long one may be silent; five times that without progress
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
    depths = {key: key.count('.') for key in known if key.endswith(f'.{name}')}
    depths |= {key: key.count('.') - 1 for key in known if key.endswith(f'.{name}.kind')}  # it stands for its section
    matches = [key for key, depth in depths.items() if depth == min(depths.values())]
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
