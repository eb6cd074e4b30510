import json

import pytest
from tiny_runs import tiny_overrides

from modeling_cssfe.training import load_recipe, train
from modeling_cssfe.training.monitor import RunMonitor


TIMES = {"seconds", "images_per_second"}


def log_of(folder):
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


@pytest.fixture(scope="module")
def stopped_early(tiny_data, tmp_path_factory):
    """A recipe of nine epochs that early stopping ends after four, and the folder of its run."""
    folder = tmp_path_factory.mktemp("stopped_early") / "whole"
    overrides = tiny_overrides(
        tiny_data, epochs=9, early_stopping_patience=3, early_stopping_min_delta=1.0, checkpoint_every_steps=1
    )
    recipe = load_recipe(None, overrides)
    train(recipe, folder, quiet=True)
    return recipe, folder


@pytest.mark.parametrize(("hook", "at"), [("on_step_end", 8), ("on_steps_done", 3), ("on_epoch_end", 3)])
def test_a_run_that_failed_goes_on_with_what_was_watched(stopped_early, tmp_path, monkeypatch, hook, at):
    # The third epoch (of three batches each) fails; stopping comes after it, by evaluations counted before and after.
    recipe, whole = stopped_early
    calls = []
    original = getattr(RunMonitor, hook)

    def failing(self, *given):
        calls.append(hook)
        if len(calls) == at:
            raise OSError("the power went")
        return original(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(RunMonitor, hook, failing)
        with pytest.raises(OSError, match="the power went"):
            train(recipe, tmp_path / "broken", quiet=True)
    results = train(recipe, tmp_path / "broken", quiet=True, resume="auto")
    assert results["epochs_trained"] == 4
    assert log_of(tmp_path / "broken") == log_of(whole)
    curves = [(run / "curves" / "probabilities.png").read_bytes() for run in (tmp_path / "broken", whole)]
    assert curves[0] == curves[1]


def test_tensorboard_of_a_resumed_run_has_each_step_once(tiny_data, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = load_recipe(None, tiny_overrides(tiny_data, trackers="[tensorboard]"))
    original = RunMonitor.on_epoch_end

    def failing(self, run, entry):
        if run.epoch == 2:
            raise OSError("the power went")
        original(self, run, entry)

    with monkeypatch.context() as patch:
        patch.setattr(RunMonitor, "on_epoch_end", failing)
        with pytest.raises(OSError, match="the power went"):
            train(recipe, tmp_path / "run", quiet=True)
    train(recipe, tmp_path / "run", quiet=True, resume="auto")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "cssfe"))
    events.Reload()
    assert [event.step for event in events.Scalars("step/loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Scalars("map_total")] == [3, 6]


def test_weights_of_a_loss_that_went_wrong_are_not_kept(tiny_data, tmp_path, monkeypatch):
    # As on a GPU, where the loss is read at every tenth step only: the checkpoint of step 2 looks first.
    from modeling_cssfe.training import divergence

    init = divergence.LossMonitor.__init__
    monkeypatch.setattr(
        divergence.LossMonitor, "__init__", lambda self, *given, **named: init(self, *given, **{**named, "every": 10})
    )
    overrides = tiny_overrides(
        tiny_data, learning_rate=1e30, max_grad_norm="null", optimizer="sgd", checkpoint_every_steps=1
    )
    with pytest.raises(FloatingPointError, match="epoch 1, step 2"):
        train(load_recipe(None, overrides), tmp_path / "run", quiet=True)
    kept = [folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir() if folder.name.startswith("update-")]
    assert kept == ["update-00000001-step"]
