import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import tiny_overrides

from modeling_cssfe.training import load_recipe, train
from modeling_cssfe.training.tracking import flat_numbers, run_name, tracker_options


ROOT = Path(__file__).parents[2]


def test_nested_numbers_are_flattened_and_the_rest_is_left_out():
    entry = {"a": 1, "b": {"c": 0.5, "d": {"e": None, "f": 2}}, "g": "text", "h": True}
    assert flat_numbers(entry) == {"a": 1, "b/c": 0.5, "b/d/f": 2}


def test_an_unknown_tracker_is_refused_with_the_recipe():
    with pytest.raises(ValueError, match="unknown tracker 'tensorbord': did you mean 'tensorboard'"):
        load_recipe(None, ["trackers=[tensorbord]"])
    with pytest.raises(ValueError, match="name each once"):
        load_recipe(None, ["trackers=[trackio,trackio]"])


def test_a_missing_package_is_one_line_that_names_the_extra(tmp_path, monkeypatch, tiny_data):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboard" else find(name))
    with pytest.raises(ValueError, match=r"'tensorboard' is not installed; pip install 'cssfe\[tracking\]'") as caught:
        train(load_recipe(None, tiny_overrides(tiny_data, trackers="[tensorboard]")), tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("variable", ["TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"])
def test_nothing_is_sent_anywhere(tmp_path, monkeypatch, variable):
    pytest.importorskip("trackio")
    monkeypatch.setenv(variable, "someone/space")
    with pytest.raises(ValueError, match=f"{variable} is set, but runs are tracked on this machine only"):
        tracker_options(["trackio"], tmp_path)


def test_tensorboard_has_what_the_log_has(tiny_data, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(load_recipe(None, tiny_overrides(tiny_data, trackers="[tensorboard]")), tmp_path / "run", quiet=True)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "cssfe"))
    events.Reload()
    for tag in ("loss", "map_total", "map_tail", "validation_probabilities/tail/positive"):
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        values = [flat_numbers(entry)[tag] for entry in log]
        assert found == [(3 * epoch, pytest.approx(value, rel=1e-6)) for epoch, value in enumerate(values, start=1)]
    steps = [event.step for event in events.Scalars("step/loss")]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_runs_that_lie_beside_each_other_have_names_of_their_own():
    names = {
        "runs/mine": "mine",
        "runs/mine/first_phase": "mine/first_phase",
        "grid/lt_voc_net0/seed0": "lt_voc_net0/seed0",
        "grid/lt_voc_net3/seed0": "lt_voc_net3/seed0",
        "grid/lt_voc_net3/seed12/first_phase": "lt_voc_net3/seed12/first_phase",
        "seed": "seed",
    }
    assert {folder: run_name(folder) for folder in names} == names


@pytest.mark.slow  # a real process, because trackio reads the name of its folder when it is imported
def test_trackio_keeps_a_run_on_this_machine(tiny_data, tmp_path):
    pytest.importorskip("trackio")
    command = [sys.executable, "-m", "modeling_cssfe.cli", "train", "--output_dir", str(tmp_path / "my_run"), "--quiet"]
    command += ["--set", *tiny_overrides(tiny_data, epochs=1, trackers="[trackio]")]
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    log = json.loads((tmp_path / "my_run" / "log.jsonl").read_text())
    with sqlite3.connect(tmp_path / "trackio" / "cssfe.db") as base:
        rows = base.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    assert {row[0] for row in rows} == {"my_run"}
    assert json.loads(rows[-1][2])["map_total"] == log["map_total"]
