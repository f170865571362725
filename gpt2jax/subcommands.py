"""The subcommands of launch.py: their flags, and which command of gpt2jax.commands they call.

Nothing here imports JAX, so that --help and a wrong flag answer at once.
"""

import shlex
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from gpt2jax.errors import UserError


class Flags(flags.FlagValues):
    """The flags of one subcommand.

    Args:
      arguments: what follows the subcommand. A config flag looks there for its --config.KEY=VALUE.
    """

    def __init__(self, arguments: list[str]):
        super().__init__()
        self.__dict__['arguments'] = arguments  # plain assignment would define a flag

    def define_config(self):
        text = (
            'a recipe and its arguments, configs/laptop.py:tokenizer=gpt2,length=256; --config.KEY=VALUE sets any key'
        )
        arguments = ['launch.py', *self.arguments]
        config_flags.DEFINE_config_file('config', None, text, sys_argv=arguments, flag_values=self)

    def text(self, name, default, text):
        flags.DEFINE_string(name, default, text, flag_values=self)

    def texts(self, name, text):
        flags.DEFINE_multi_string(name, [], text, flag_values=self)

    def switch(self, name, default, text):
        flags.DEFINE_bool(name, default, text, flag_values=self)

    def integer(self, name, default, text):
        flags.DEFINE_integer(name, default, text, flag_values=self)

    def number(self, name, default, text):
        flags.DEFINE_float(name, default, text, flag_values=self)

    def required(self, name):
        """The value of a flag without a default. Raises UserError where it was not given."""
        if self[name].value is None:
            raise UserError(f'--{name} is missing: {self[name].help}')
        return self[name].value

    def define_run(self):
        self.text('workdir', 'runs/laptop', 'the folder of the run')
        self.text('step', 'best', 'which checkpoint: best, latest or the number of a step')


class Train:
    """train a model, or continue a run that was stopped"""

    def define(self, values):
        values.define_config()
        values.text('workdir', None, 'the folder of the run; by default runs/NAME of the recipe')

    def run(self, values, commands):
        commands.train(values.config, values.workdir or default_workdir(values), command_line())


class Evaluate:
    """how well a run predicts all of a split"""

    def define(self, values):
        values.define_run()
        values.text('split', 'validation', 'train, validation or test')

    def run(self, values, commands):
        commands.evaluate(values.workdir, values.split, values.step)


class Sample:
    """continue a prompt"""

    def define(self, values):
        values.define_run()
        values.text('prompt', None, 'text to continue; by default a new document')
        values.integer('seed', 0, 'the same seed gives the same text')
        values.integer('num_samples', None, 'how many continuations')
        values.integer('max_new_tokens', None, 'the length of each, in tokens')
        values.number('temperature', None, '0 always takes the likeliest token')
        values.integer('top_k', None, 'draw from the K likeliest tokens; 0: from all')
        values.number('top_p', None, 'draw from the likeliest tokens that make up this probability')
        values.text('method', 'auto', 'auto: what fits the objective; causal, prefix, infilling or answer')

    def run(self, values, commands):
        names = ('num_samples', 'max_new_tokens', 'temperature', 'top_k', 'top_p')
        changes = {f'sampling.{name}': values[name].value for name in names if values[name].value is not None}
        commands.sample(values.workdir, values.prompt, values.step, values.seed, changes, values.method)


class Fill:
    """fill the blanks of a text, <mask> each"""

    def define(self, values):
        values.define_run()
        values.text('text', None, 'the text; every <mask> in it is filled')
        values.integer('tokens_per_mask', 1, 'how many tokens a <mask> stands for')
        values.text('order', 'certain', 'certain: the surest blank first; left: from left to right')
        values.integer('top_k', 5, 'how many candidates are shown')
        values.integer('num_samples', 1, 'how many filled texts; more than one need a temperature')
        values.number('temperature', 0.0, '0 always takes the likeliest token')
        values.integer('seed', 0, 'the same seed gives the same texts')
        values.integer('scored', 50, 'causal models: candidates of a blank that are scored with the whole text')
        values.integer('beams', 4, 'causal models: partly filled texts that are kept')

    def run(self, values, commands):
        names = ('order', 'top_k', 'num_samples', 'temperature', 'seed', 'scored', 'beams')
        choice = {name: values[name].value for name in names}
        commands.fill(values.workdir, values.required('text'), values.tokens_per_mask, choice, values.step)


class Embed:
    """vectors of texts"""

    def define(self, values):
        values.define_run()
        values.texts('text', 'a text; may be given several times')
        values.text('file', None, 'a file with a text on each line')
        values.text('pooling', 'mean', 'mean, first, last or pooler')
        values.switch('normalize', False, 'make every vector one of length 1')
        values.integer('batch_size', 32, 'texts at a time')
        values.text('out', None, 'a .npz or .jsonl file; by default their similarities are printed')

    def run(self, values, commands):
        given = (values.pooling, values.normalize, values.batch_size, values.out, values.step)
        commands.embed(values.workdir, values['text'].value, values.file, *given)


class Attention:
    """what every attention head reads in a text, as a page to explore and a picture"""

    def define(self, values):
        values.define_run()
        values.text('text', None, 'the text to read')
        values.text('out', None, 'where to write OUT.html and OUT.png; by default WORKDIR/attention')

    def run(self, values, commands):
        commands.attention(values.workdir, values.required('text'), values.out, values.step)


class Import:
    """a Hugging Face folder of GPT-2, BERT or RoBERTa as a run"""

    def define(self, values):
        values.text('from', None, 'the folder: config.json, model.safetensors (or its parts), tokenizer files')
        values.text('workdir', None, 'the folder of the new run')
        values.text('tokenizer', None, 'gpt2, bytes or file:FOLDER, where the folder itself has no tokenizer')

    def run(self, values, commands):
        source, workdir = values.required('from'), values.required('workdir')
        commands.import_model(source, workdir, values.tokenizer, command_line())


class Export:
    """a run as a folder that transformers loads"""

    def define(self, values):
        values.define_run()
        values.text('to', None, 'the new folder')
        values.text('dtype', 'float32', 'of the weights: float32, bfloat16 or float16')

    def run(self, values, commands):
        commands.export_model(values.workdir, values.required('to'), values.step, values.dtype)


class Prepare:
    """build the corpus and the tokens of a config, so that a run finds them ready"""

    def define(self, values):
        values.define_config()

    def run(self, values, commands):
        commands.prepare(values.config)


class Describe:
    """what a config would run: parameters, FLOPs, bytes, memory, tokens"""

    def define(self, values):
        values.define_config()

    def run(self, values, commands):
        commands.describe(values.config)


class Audit:
    """who sees whom in a real row of a config, drawn, and checked on the real model by gradient"""

    def define(self, values):
        values.define_config()
        values.integer('row', 0, 'which row of the training split')
        values.integer('tokens', 48, 'how many of its places are drawn; 0: all')
        values.text('out', 'runs/audit', 'the folder for the picture')

    def run(self, values, commands):
        commands.audit(values.config, values.row, values.tokens, values.out)


class Replay:
    """the step whose loss or gradient was no number, taken apart: which tensor broke, and by which rows"""

    def define(self, values):
        values.text('workdir', 'runs/laptop', 'the folder of the run that stopped')

    def run(self, values, commands):
        commands.replay(values.workdir)


class CoordinateCheck:
    """how far a few steps move activations at several widths, with and without muP"""

    def define(self, values):
        values.define_config()
        values.text('widths', '64,128,256,512', 'the values of model.width')
        values.integer('steps', 4, 'of training, at the peak of the learning rate')
        values.text('out', 'runs/coordinate_check', 'the folder for the figures and the picture')

    def run(self, values, commands):
        commands.coordinate_check(values.config, values.widths, values.steps, values.out)


COMMANDS = {
    'train': Train(),
    'evaluate': Evaluate(),
    'sample': Sample(),
    'fill': Fill(),
    'embed': Embed(),
    'attention': Attention(),
    'import': Import(),
    'export': Export(),
    'prepare': Prepare(),
    'describe': Describe(),
    'audit': Audit(),
    'replay': Replay(),
    'coordinate_check': CoordinateCheck(),
}


def default_workdir(values: Flags) -> str:
    """configs/gpt2_small.py:... -> runs/gpt2_small."""
    return f'runs/{Path(recipe_path(values)).stem}'


def recipe_path(values: Flags) -> str:
    """The file that --config names, without the arguments behind its colon."""
    return config_flags.get_config_filename(values['config']).partition(':')[0]


def command_line() -> str:
    """What the user typed."""
    return shlex.join(['python', 'launch.py', *sys.argv[1:]])
