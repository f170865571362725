"""The progress display: plain in logs, in one line on terminals, and right about the time left."""

import io

import pytest
from rich.console import Console

from gpt2jax.training.display import clock_time, short_number
from gpt2jax.training.progress import Progress, track


class Clock:
    """Time that passes when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


def steps(progress, clock, numbers, seconds):
    for step in numbers:
        clock.now += seconds
        progress.update(step, loss=2.5)


def plain(clock, **options):
    stream = io.StringIO()
    arguments = {'total_steps': 100, 'start_step': 0, 'tokens_per_step': 1000} | options
    return stream, Progress(**arguments, console=Console(file=stream), clock=clock)


def test_a_log_gets_a_plain_line_every_ten_seconds_and_one_at_the_end(clock):
    stream, progress = plain(clock)
    with progress:
        progress.evaluated(bits_per_byte=1.921)
        steps(progress, clock, range(1, 101), 0.3)
    text = stream.getvalue()
    assert '\x1b' not in text
    assert '\r' not in text
    lines = text.splitlines()
    assert [line.split()[1] for line in lines] == ['34/100', '68/100', '100/100']
    assert 'loss 2.500' in lines[0]
    assert '1.921 bits per byte' in lines[0]
    assert '3.33k tokens/s' in lines[0]
    assert lines[0].endswith('0:10 elapsed  0:20 left')


def test_colour_forced_by_the_environment_does_not_put_control_codes_in_a_log(clock, monkeypatch):
    monkeypatch.setenv('FORCE_COLOR', '1')
    stream, progress = plain(clock)
    with progress:
        progress.message('saved [bold]step 3[/bold]')
        steps(progress, clock, range(1, 101), 0.3)
    assert '\x1b' not in stream.getvalue()
    assert stream.getvalue().startswith('saved [bold]step 3[/bold]\n')


def test_an_interrupted_run_still_says_where_it_stopped(clock):
    stream, progress = plain(clock)

    def interrupted():
        with progress:
            steps(progress, clock, range(1, 8), 0.3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stream.getvalue().startswith('step 7/100')


def test_time_left_counts_neither_evaluation_nor_compilation(clock):
    _, progress = plain(clock)
    with progress:
        with progress.stage('compiling'):
            clock.now += 60
        assert progress.left() is None
        steps(progress, clock, range(1, 11), 1.0)
        for _ in progress.track(5, 'evaluating'):
            clock.now += 20
        steps(progress, clock, range(11, 21), 1.0)
        assert progress.left() == pytest.approx(80)


def test_time_left_follows_the_recent_pace(clock):
    _, progress = plain(clock, total_steps=1000)
    with progress:
        steps(progress, clock, range(1, 101), 2.0)
        steps(progress, clock, range(101, 201), 1.0)
        assert progress.left() == pytest.approx(800)


def test_a_resumed_run_is_judged_by_its_own_steps(clock):
    _, progress = plain(clock, start_step=50)
    with progress:
        steps(progress, clock, range(51, 61), 1.0)
        assert progress.left() == pytest.approx(40)


def test_mfu_is_shown_only_where_the_peak_is_known(clock):
    for peak, shown in ((None, False), (1e12, True)):
        stream, progress = plain(clock, flops_per_step=2e11, peak_flops=peak)
        with progress:
            steps(progress, clock, range(1, 41), 0.5)
        assert ('MFU 40.0%' in stream.getvalue()) is shown


@pytest.mark.parametrize('width', [40, 80, 200])
def test_a_terminal_gets_one_line_that_fits(clock, width):
    stream = Terminal()
    console = Console(file=stream, width=width, force_terminal=True, legacy_windows=False)
    with Progress(100, 0, 1000, 1e9, 1e12, console=console, clock=clock) as progress:
        progress.evaluated(bits_per_byte=1.9)
        steps(progress, clock, range(1, 51), 1.0)
        progress.message('a [message]')
        row = console.render_lines(progress.render(width), pad=False)
    assert len(row) == 1
    text = ''.join(segment.text for segment in row[0])
    assert len(text) <= width
    assert 'step 50/100' in text
    assert 'loss 2.500' in text
    assert ('MFU' in text) is (width == 200)
    assert 'a [message]' in stream.getvalue()
    assert '\x1b' in stream.getvalue()


def test_an_evaluation_may_report_any_figure(clock):
    stream, progress = plain(clock)
    with progress:
        progress.evaluated(accuracy=0.75, nats_per_token=3.5)
        steps(progress, clock, [1], 11)
    assert 'accuracy 0.750  3.500 nats per token' in stream.getvalue()


def test_a_stage_leaves_a_line_with_its_time(clock):
    stream, progress = plain(clock)
    with progress:
        with progress.stage('compiling'):
            clock.now += 12.3
        with progress.stage('saving', keep=False):
            clock.now += 12.3
    assert stream.getvalue() == 'compiling ...\ncompiling took 12.3 s\n'


def test_tracking_yields_every_item_and_tells_a_log_now_and_then(clock):
    stream = io.StringIO()
    seen = []
    for item in track('abcd', 'tokenizing', console=Console(file=stream), clock=clock):
        seen.append(item)
        clock.now += 6
    assert seen == list('abcd')
    assert stream.getvalue().splitlines() == [
        'tokenizing 2/4  0:12 left',
        'tokenizing 4/4  0:24 elapsed',
    ]
    assert list(track(3, 'counting', console=Console(file=stream), clock=clock)) == [0, 1, 2]


def test_numbers_for_people():
    assert [clock_time(s) for s in (0, 41.4, 3723, 90061)] == ['0:00', '0:41', '1:02:03', '1 d 1:01:01']
    assert [short_number(n) for n in (7, 950, 999.6, 45_210, 999_600, 1.31e6, 2.1e9)] == [
        '7', '950', '1k', '45.2k', '1M', '1.31M', '2.1B',
    ]  # fmt: skip
