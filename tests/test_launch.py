"""The command line: what it refuses, with which words, and that it never shows a traceback."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import launch
from gpt2jax.config import flatten
from gpt2jax.errors import Stopped, UserError

REPOSITORY = Path(__file__).parents[1]
RECIPE = f'--config={REPOSITORY / "configs" / "gpt2_small.py"}'


class Recorder(types.SimpleNamespace):
    """Stands in for gpt2jax.commands and keeps what it was called with."""

    def __init__(self, error=None):
        super().__init__(calls=[], error=error)

    def __getattr__(self, name):
        def command(*arguments):
            self.calls.append((name, arguments))
            if self.error:
                raise self.error

        return command


@pytest.fixture
def commands(monkeypatch):
    """Replaces the commands, so that a test of flags runs none of them."""
    import gpt2jax

    recorder = Recorder()
    monkeypatch.setattr(gpt2jax, 'commands', recorder, raising=False)
    monkeypatch.setitem(sys.modules, 'gpt2jax.commands', recorder)
    return recorder


def run(capsys, *arguments):
    """(exit status, standard output, standard error) of main."""
    status = launch.main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize('flag', ['--help', '-h', 'help'])
def test_the_help_is_short_and_names_every_subcommand(capsys, flag):
    status, out, err = run(capsys, flag)
    assert (status, err) == (0, '')
    assert len(out.splitlines()) <= 27
    for name, command in launch.COMMANDS.items():
        assert f'  {name} ' in out
        assert command.__doc__ in out


@pytest.mark.parametrize('name', sorted(launch.COMMANDS))
def test_the_help_of_a_subcommand_is_short_and_names_its_flags(capsys, name):
    values = launch.Flags([])
    launch.COMMANDS[name].define(values)
    status, out, err = run(capsys, name, '--help')
    assert (status, err) == (0, '')
    assert len(out.splitlines()) <= 24
    assert max(map(len, out.splitlines())) <= 130
    for flag in values:
        assert f'  --{flag} ' in out


def test_every_flag_of_the_issue_exists(capsys):
    expected = {
        'train': {'config', 'workdir', 'local_processes', 'coordinator', 'num_processes', 'process_id'},
        'train_together': {'config', 'workdir', 'seeds', 'learning_rates'},
        'evaluate': {'workdir', 'split', 'step', 'suite', 'stride', 'context'},
        'sample': {
            'workdir',
            'step',
            'prompt',
            'seed',
            'num_samples',
            'max_new_tokens',
            'temperature',
            'top_k',
            'top_p',
            'method',
            'beams',
            'length_penalty',
        },
        'fill': {
            'workdir',
            'step',
            'text',
            'tokens_per_mask',
            'order',
            'top_k',
            'num_samples',
            'temperature',
            'seed',
            'scored',
            'beams',
        },
        'finetune': {'workdir', 'step', 'data', 'task', 'probe', 'steps', 'batch_size', 'rates', 'seeds'},
        'embed': {'workdir', 'step', 'text', 'file', 'pooling', 'normalize', 'batch_size', 'out'},
        'attention': {'workdir', 'step', 'text', 'out'},
        'prepare': {'config'},
        'describe': {'config'},
        'audit': {'config', 'row', 'tokens', 'out'},
        'replay': {'workdir'},
        'plan': {'config', 'topology', 'slices', 'mode', 'search', 'candidates', 'jobs', 'price', 'measure', 'out'},
        'import': {'from', 'workdir', 'tokenizer'},
        'export': {'workdir', 'step', 'to', 'dtype'},
        'coordinate_check': {'config', 'widths', 'steps', 'out'},
        'pod': {
            'config',
            'engine',
            'workdir',
            'name',
            'topology',
            'slices',
            'gpus',
            'nodes',
            'image',
            'project',
            'zone',
            'cluster',
            'repository',
            'secret_env',
            'seeds',
            'retries',
            'spot',
            'extra',
            'out',
            'allow_dirty',
            'dry_run',
        },
    }
    study = {'experiment', 'directory', 'set', 'seeds'}
    expected |= {
        'study': study | {'dry_run', 'executor', 'parallel', 'together', 'option', 'retry_failed'},
        'report': study | {'open'},
        'compare': {'workdir', 'out'},
    }
    assert expected.keys() == launch.COMMANDS.keys()
    for name, flags in expected.items():
        values = launch.Flags([])
        launch.COMMANDS[name].define(values)
        assert set(values) == flags


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['tarin'], "there is no subcommand 'tarin'. Did you mean 'train'? One of: train, evaluate, sample"),
        (['zzz'], "there is no subcommand 'zzz'. One of: train"),
        (['--workdir=x'], "there is no subcommand '--workdir=x'"),
        (['train', RECIPE, '--workdri=x'], "Unknown command line flag 'workdri'. Did you mean: workdir"),
        (['sample', RECIPE], "Unknown command line flag 'config'"),
        (['train', RECIPE, 'runs/x'], "unexpected argument 'runs/x': flags are written --name=value"),
        (
            ['train', RECIPE, '--config.model.widht=3'],
            'config.model.widht: there is no such key; did you mean model.width?',
        ),
        (
            ['train', RECIPE, '-config.model.widht=3'],
            'config.model.widht: there is no such key; did you mean model.width?',
        ),
        (['train', RECIPE, '--config.model.widht', '3'], 'did you mean model.width?'),
        (['train', RECIPE, '--noconfig.model.head.tide'], 'did you mean model.head.tied?'),
        (['train', RECIPE, '--config.model=3'], 'config.model: there is no such key'),
        (['train', RECIPE, '--config.model.width=wide'], '--config.model.width=wide: invalid literal for int()'),
        (['train', RECIPE, '--config.model.width=1.5'], '--config.model.width=1.5'),
        (['train', RECIPE, '--config.model.head.tied=maybe'], '--config.model.head.tied=maybe'),
        (['train', RECIPE, '--config.optimizer.learning_rate=fast'], '--config.optimizer.learning_rate=fast'),
        (['sample', '--seed=x'], '--seed=x'),
        (['sample', '--temperature=hot'], '--temperature=hot'),
        (['train'], 'which config? Give one with --config=configs/NAME.py; there are: '),
        (['train', '--config=configs/no_such.py'], '--config=configs/no_such.py: there is no such file; there are: '),
        (['train', '--config='], '--config=: there is no such file'),
        (['train', '--config=configs'], '--config=configs: there is no such file'),
        (['train', '--config'], 'Missing value for flag --config'),
        (['train', f'{RECIPE}:lenght=3'], "config argument 'lenght': there is no such key; did you mean length?"),
        (['train', f'{RECIPE}:length'], "config argument 'length': expected NAME=VALUE"),
        (['train', f'{RECIPE}:length=long'], "config.data.length = 'long': expected int"),
    ],
)
def test_a_wrong_command_line_is_refused_with_status_2_and_words(capsys, commands, arguments, message):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, '')
    assert err.startswith('launch.py: ')
    assert message in err
    assert 'Traceback' not in err
    assert commands.calls == []


def test_flags_and_recipe_arguments_go_over_the_recipe(capsys, commands):
    arguments = ['--config.model.width=1536', '--noconfig.model.head.tied', '--config.optimizer.learning_rate', '1']
    status, out, err = run(capsys, 'train', f'{RECIPE}:tokenizer=bytes,length=256', *arguments, '--workdir=runs/x')
    assert (status, out, err) == (0, '', '')
    run(capsys, 'describe', RECIPE)
    (name, (config, workdir, *_)), (_, (recipe,)) = commands.calls
    assert (name, workdir) == ('train', 'runs/x')
    changed = {key: value for key, value in flatten(config).items() if value != flatten(recipe)[key]}
    assert changed == {
        'data.tokenizer': 'bytes',
        'data.length': 256,
        'model.width': 1536,
        'model.head.tied': False,
        'optimizer.learning_rate': 1.0,
    }
    assert type(config.optimizer.learning_rate) is float


def test_a_run_is_named_after_its_recipe(capsys, commands):
    for argument in ('', ':length=256', ':learning_rate=0.5,path=a/b.txt'):
        run(capsys, 'train', f'{RECIPE}{argument}')
    assert [arguments[1] for _, arguments in commands.calls] == ['runs/gpt2_small'] * 3


def test_without_arguments_the_main_job_runs(capsys, commands, monkeypatch, tmp_path):
    (tmp_path / 'configs').mkdir()
    text = 'from gpt2jax.config import recipe\ndef get_config(argument=None): return recipe({"seed": 7}, argument)\n'
    (tmp_path / 'configs' / 'laptop.py').write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['launch.py'])
    assert run(capsys) == (0, '', '')
    ((name, (config, workdir, command, processes)),) = commands.calls
    assert (name, config.seed, workdir, command) == ('train', 7, 'runs/laptop', 'python launch.py')
    assert processes == (1, None, None, None)


def test_the_flags_of_many_processes_are_passed_on_as_they_are_named(capsys, commands):
    from gpt2jax.processes import Processes

    flags = '--local_processes=2', '--coordinator=a:1', '--num_processes=3', '--process_id=0'
    assert run(capsys, 'train', RECIPE, *flags)[0] == 0
    ((_, (*_, processes)),) = commands.calls
    assert Processes(*processes) == Processes(local=2, coordinator='a:1', count=3, index=0)


def test_sample_passes_on_what_is_given_and_nothing_else(capsys, commands):
    run(
        capsys,
        'sample',
        '--workdir=runs/x',
        '--prompt=ROMEO:',
        '--top_k=0',
        '--temperature=0',
        '--seed=3',
        '--step=latest',
    )
    run(capsys, 'sample')
    changes = {'sampling.top_k': 0, 'sampling.temperature': 0.0}
    assert commands.calls == [
        ('sample', ('runs/x', 'ROMEO:', 'latest', 3, changes, 'auto')),
        ('sample', ('runs/laptop', None, 'best', 0, {}, 'auto')),
    ]


def test_studies_are_called_with_their_flags(capsys, commands):
    quick = ['--set=training.steps=20', '--set=seed=3', '--seeds=1']
    run(capsys, 'study', '--experiment=experiments/x.py', '--parallel=2', *quick)
    run(capsys, 'report', '--experiment=experiments/x.py', '--open')
    run(capsys, 'compare', '--workdir=a', '--workdir=b')
    (_, (path, options, _)), (_, (_, shown, _)), compared = commands.calls
    assert (path, options['parallel'], options['executor'], options['dry_run']) == (
        'experiments/x.py',
        2,
        'local',
        False,
    )
    assert (options['set'], options['seeds']) == (['training.steps=20', 'seed=3'], 1)
    assert shown['open'] is True
    assert compared[1][:2] == (['a', 'b'], None)
    assert run(capsys, 'study')[2].startswith('launch.py: --experiment is missing: a file of experiments/')


def test_runs_that_are_one_program_are_called_with_their_folders(capsys, commands):
    run(capsys, 'train_together', RECIPE, '--seeds=0,1')
    run(capsys, 'train_together', RECIPE, '--learning_rates=1e-3,2e-3', '--workdir=a', '--workdir=b')
    assert [arguments[1:4] for _, arguments in commands.calls] == [
        ('0,1', '', ['runs/gpt2_small-together']),
        ('', '1e-3,2e-3', ['a', 'b']),
    ]


def test_evaluate_prepare_and_describe_are_called(capsys, commands):
    run(capsys, 'evaluate', '--workdir=runs/x', '--split=test', '--step=12')
    run(capsys, 'evaluate', '--suite=blimp:pairs', '--suite=cloze')
    run(capsys, 'evaluate', '--stride=32', '--context=128')
    run(capsys, 'prepare', RECIPE)
    run(capsys, 'describe', RECIPE)
    assert [name for name, _ in commands.calls] == ['evaluate', 'evaluate', 'evaluate', 'prepare', 'describe']
    assert commands.calls[2][1] == ('runs/laptop', 'validation', 'best', [], 32, 128)
    assert commands.calls[0][1] == ('runs/x', 'test', '12', [], 0, 0)
    assert commands.calls[1][1] == ('runs/laptop', 'validation', 'best', ['blimp:pairs', 'cloze'], 0, 0)


@pytest.mark.parametrize(
    ('error', 'status', 'message'),
    [
        (UserError('the disk is full'), 2, 'launch.py: the disk is full\n'),
        (Stopped('saved step 3'), 75, 'launch.py: saved step 3\n'),
        (KeyboardInterrupt(), 130, 'launch.py: interrupted\n'),
    ],
)
def test_what_ends_a_command_becomes_a_line_and_a_status(capsys, commands, error, status, message):
    commands.error = error
    assert run(capsys, 'train', RECIPE) == (status, '', message)


def test_a_mistake_of_the_program_keeps_its_traceback(commands):
    commands.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        launch.main(['train', RECIPE])


def test_describe_refuses_what_cannot_work_and_prints_what_can(capsys):
    tiny = ['--config.model.num_layers=1', '--config.data.tokenizer=bytes', '--config.data.length=16']
    status, out, err = run(capsys, 'describe', RECIPE, *tiny, '--config.model.width=770')
    assert (status, out) == (2, '')
    assert err.startswith(
        'launch.py: config.model.width = 770 is not a multiple of config.model.attention.num_heads = 12'
    )
    status, out, err = run(capsys, 'describe', RECIPE, *tiny)
    assert (status, err) == (0, '')
    assert 'FLOPs a step' in out


def test_the_program_exits_with_the_status_from_any_directory(tmp_path):
    environment = os.environ | {'JAX_PLATFORMS': 'cpu'}

    def launched(*arguments):
        command = [sys.executable, str(REPOSITORY / 'launch.py'), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    asked = launched('--help')
    assert (asked.returncode, asked.stderr) == (0, '')
    assert asked.stdout.strip() == launch.usage().strip()
    refused = launched('train', RECIPE, '--config.model.width=770')
    assert (refused.returncode, refused.stdout) == (2, '')
    assert refused.stderr.startswith('launch.py: config.model.width = 770')
    assert list(tmp_path.iterdir()) == []  # refused before a workdir is made
