import io

import pytest
from rich.console import Console
from tiny_runs import tiny_overrides

from modeling_cssfe.cli import main
from modeling_cssfe.training.progress import TrainingProgress, duration, judged_text


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


ENTRY = {"epoch": 1, "loss": 0.25, "images_per_second": 12.4, "map_total": 0.5, "map_head": 0.625, "map_medium": None,
         "map_tail": 0.123}  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (59.2, "0:01:00"), (3723, "1:02:03"), (86400, "1 day, 0:00:00"), (200000, "2 days, 7:33:20")],
)
def test_durations_are_hours_minutes_and_seconds(seconds, text):
    assert duration(seconds) == text


def test_an_entry_that_was_not_judged_shows_no_map():
    assert judged_text({"epoch": 1, "loss": 1.0}) == ""
    assert judged_text(ENTRY) == "mAP total/head/medium/tail 50.0 / 62.5 / - / 12.3"


def test_a_terminal_gets_one_moving_line_with_everything(capsys):
    clock, screen = Clock(), io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160, color_system=None)
    progress = TrainingProgress(4, console=console, clock=clock)
    progress.start_epoch(1, num_steps=10)
    for _ in range(10):
        clock.now += 2.0
        progress.advance(32)
    progress.end_epoch()
    clock.now += 20.0  # the evaluation
    progress.show(ENTRY)
    progress.start_epoch(2, num_steps=10)
    clock.now += 2.0
    progress.advance(32, loss=0.125)
    # 11 of 40 steps took 42 seconds, so 29 more take 29 * 42 / 11.
    assert progress.seconds_left() == pytest.approx(29 * 42 / 11)
    assert progress.facts() == (
        "loss 0.1250  16 images/s  0:01:51 left  mAP total/head/medium/tail 50.0 / 62.5 / - / 12.3"
    )
    progress.end_epoch()
    shown = screen.getvalue()
    assert "epoch 2/4" in shown
    assert "1/10" in shown
    assert progress.facts() in shown
    assert capsys.readouterr().out == (
        "epoch   1/4  loss 0.2500  12 images/s  mAP total/head/medium/tail 50.0 / 62.5 / - / 12.3\n"
    )


def test_elsewhere_there_are_plain_lines_a_minute_apart(capsys):
    clock, screen = Clock(), io.StringIO()
    progress = TrainingProgress(1, console=Console(file=screen), clock=clock)
    progress.start_epoch(1, num_steps=100)
    for _ in range(100):
        clock.now += 2.0
        progress.advance(4, loss=0.5)
    progress.end_epoch()
    lines = capsys.readouterr().out.splitlines()
    assert screen.getvalue() == ""
    assert [line.split("step ")[1].split("/")[0] for line in lines] == ["30", "60", "90"]
    assert lines[0] == "epoch   1/1  step 30/100  loss 0.5000  2 images/s  0:02:20 left"


def test_a_resumed_epoch_starts_where_it_was():
    clock = Clock()
    progress = TrainingProgress(2, quiet=True, clock=clock)
    progress.start_epoch(2, num_steps=10, first_step=6)
    clock.now += 3.0
    progress.advance(4)
    assert progress.seconds_left() == pytest.approx(3 * 3.0)


def test_quiet_shows_nothing(capsys):
    screen = io.StringIO()
    progress = TrainingProgress(1, quiet=True, console=Console(file=screen, force_terminal=True), clock=Clock())
    progress.start_epoch(1, 2)
    progress.advance(4)
    progress.end_epoch()
    progress.show(ENTRY)
    progress.say("x")
    captured = capsys.readouterr()
    assert captured.out == captured.err == screen.getvalue() == ""


def test_a_reader_who_has_left_ends_no_run(monkeypatch):
    class Pipe(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    progress = TrainingProgress(1, console=Console(file=io.StringIO()), clock=Clock())
    monkeypatch.setattr("sys.stdout", Pipe())
    progress.show(ENTRY)
    progress.say("x")
    assert progress.quiet


def test_a_run_prints_a_line_an_epoch(tiny_data, tmp_path, capsys):
    assert main(["train", "--output_dir", str(tmp_path / "run"), "--set", *tiny_overrides(tiny_data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:11] for line in lines if line.startswith("epoch")] == ["epoch   1/2", "epoch   2/2"]
    assert any(line.startswith("2 epoch(s) in 0:00:") for line in lines)
