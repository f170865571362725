"""The subcommands of launch.py: their flags, and which command of gpt2jax.commands they call.

Nothing here imports JAX, so that --help and a wrong flag answer at once.
"""

from pathlib import Path

from ml_collections import config_flags

from gpt2jax.flags import Flags, command_line
from gpt2jax.study_subcommands import Compare, Finetune, Report, Study


class Train:
    """train a model, or continue a run that was stopped"""

    def define(self, values):
        values.define_config()
        values.text('workdir', None, 'the folder of the run; by default runs/NAME of the recipe')
        values.integer('local_processes', 1, 'processes on this machine that train together')
        values.text('coordinator', None, 'HOST:PORT of process 0; by default a pod, Slurm, ... is detected')
        values.integer('num_processes', None, 'how many processes train together, over all hosts')
        values.integer('process_id', None, 'which of them this one is, from 0')

    def run(self, values, commands):
        processes = values.local_processes, values.coordinator, values.num_processes, values.process_id
        return commands.train(values.config, values.workdir or default_workdir(values), command_line(), processes)


class TrainTogether:
    """train runs that differ in their seed or learning rate alone as one program"""

    def define(self, values):
        values.define_config()
        values.text('seeds', '', 'one of each run, 0,1,2; or one for all')
        values.text('learning_rates', '', 'the same: 1e-3,2e-3,4e-3')
        values.texts('workdir', 'a folder for all; or one of each run, given so many times')

    def run(self, values, commands):
        folders = values['workdir'].value or [f'{default_workdir(values)}-together']
        commands.train_together(values.config, values.seeds, values.learning_rates, folders, command_line())


class Evaluate:
    """how well a run predicts all of a split, or what --suite names"""

    def define(self, values):
        values.define_run()
        values.text('split', 'validation', 'train, validation or test')
        values.texts('suite', 'NAME or NAME:ARGUMENT (docs/evaluation.md); may be given several times')
        values.integer('stride', 0, 'tokens predicted at a time; 0: evaluation.stride of the run')
        values.integer('context', 0, 'most tokens that one prediction reads; 0: evaluation.context of the run')

    def run(self, values, commands):
        suites, lengths = values['suite'].value, (values.stride, values.context)
        commands.evaluate(values.workdir, values.split, values.step, suites, *lengths)


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
        values.integer('beams', None, 'search for the likeliest text with so many beams; 0: draw')
        values.number('length_penalty', None, 'of beam search; 0 favours short texts')
        values.text('method', 'auto', 'auto: what fits the objective; causal, prefix, target, infilling or answer')

    def run(self, values, commands):
        names = ('num_samples', 'max_new_tokens', 'temperature', 'top_k', 'top_p', 'beams', 'length_penalty')
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
    """a Hugging Face folder of GPT-2, BERT, RoBERTa or XLNet as a run"""

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


class Plan:
    """what a config needs on a TPU pod or GPUs that are not here, and how fast it would be: a prediction"""

    def define(self, values):
        values.define_config()
        values.text('topology', None, 'what to compile for: v5e:16x16, v5p:4x4x4, h100:8, cpu:8, ...')
        values.integer('slices', 1, 'how many such TPU pods, joined by the data centre')
        values.text('mode', 'train', 'train, evaluate or sample: which steps')
        values.switch('search', False, 'try other meshes, remat, scan, accumulation, chunks and kernels')
        values.integer('candidates', 8, 'of a search, the config itself among them')
        values.integer('jobs', 2, 'of a search, compilers at a time: 1 to 4 GB each')
        values.number('price', None, 'of a chip for an hour')
        values.switch('measure', False, 'run the step on this machine as well, which must have these devices')
        values.text('out', None, 'where to write OUT.html and OUT.json; by default runs/plan/NAME-TOPOLOGY-MODE')

    def run(self, values, commands):
        names = ('slices', 'mode', 'search', 'candidates', 'jobs', 'price', 'measure', 'out')
        options = {name: values[name].value for name in names}
        commands.plan(values.config, Path(recipe_path(values)).stem, values.required('topology'), options)


class Pod:
    """train on a TPU pod or a GPU cluster: GKE, xpk, SkyPilot, Slurm or gcloud"""

    def define(self, values):
        values.define_config()
        values.text('engine', None, 'jobset, xpk, skypilot, slurm or gcloud')
        values.text('workdir', None, 'the folder of the run, for all hosts: gs://BUCKET/PATH; Slurm: an absolute path')
        values.text('name', None, 'of the job; by default that of the recipe')
        values.text('topology', None, 'a TPU slice: v5e:4x4, or as accelerator types: v5e-16')
        values.integer('slices', 1, 'TPU slices that train together')
        values.text('gpus', None, 'GPUs of a node: H100:8, or 8 where the kind does not matter')
        values.integer('nodes', 1, 'with --gpus: how many nodes')
        values.text('image', None, 'the container; by default python:3.12 on Kubernetes')
        values.text('project', None, "of Google Cloud; by default the tool's own")
        values.text('zone', None, 'of Google Cloud, as us-west4-a')
        values.text('cluster', None, "xpk's cluster, kubectl's context, or SkyPilot's infra (aws/us-east-1)")
        values.text('repository', None, 'where hosts fetch the commit; by default origin, and for Slurm this folder')
        values.text('secret_env', None, 'names (never values) of secret variables: HF_TOKEN,GIT_TOKEN')
        values.text('seeds', None, 'Slurm: one run a seed, as 0-4, each in WORKDIR/seedN')
        values.integer('retries', 10, 'after failures; exit status 75 is not one')
        values.switch('spot', False, 'machines that may be taken back')
        values.texts('extra', 'one more argument for the tool: --extra=--partition=gpu')
        values.text('out', None, 'the folder for what is rendered; by default runs/pods/NAME')
        values.switch('allow_dirty', False, 'launch the commit without the changes that are not committed')
        values.switch('dry_run', False, 'print the files and the command, run nothing')

    def run(self, values, commands):
        given = {name: values[name].value for name in values if not name.startswith('config')}
        given |= {name: values.required(name) for name in ('engine', 'workdir')}
        overrides = [values[name].serialize() for name in values if name.startswith('config.')]
        recipe = config_flags.get_config_filename(values['config'])
        commands.pod(values.config, recipe, overrides, given, command_line())


COMMANDS = {
    'train': Train(),
    'evaluate': Evaluate(),
    'sample': Sample(),
    'fill': Fill(),
    'embed': Embed(),
    'finetune': Finetune(),
    'attention': Attention(),
    'import': Import(),
    'export': Export(),
    'prepare': Prepare(),
    'describe': Describe(),
    'audit': Audit(),
    'replay': Replay(),
    'coordinate_check': CoordinateCheck(),
    'plan': Plan(),
    'pod': Pod(),
    'train_together': TrainTogether(),
    'study': Study(),
    'report': Report(),
    'compare': Compare(),
}


def default_workdir(values: Flags) -> str:
    """configs/gpt2_small.py:... -> runs/gpt2_small."""
    return f'runs/{Path(recipe_path(values)).stem}'


def recipe_path(values: Flags) -> str:
    """The file that --config names, without the arguments behind its colon."""
    return config_flags.get_config_filename(values['config']).partition(':')[0]
