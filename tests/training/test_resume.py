import dataclasses
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_runs import tiny_overrides, tiny_splits, write_parquet

from modeling_cssfe.cli import main
from modeling_cssfe.training import SavingError, checkpoint, engine, load_recipe, loop, resume, train
from modeling_cssfe.training.checkpoint import CheckpointStore, load_tensors, verify_checkpoint
from modeling_cssfe.training.interruption import TrainingInterruptedError


ROOT = Path(__file__).resolve().parents[2]
SUPERVISOR = Path(__file__).with_name("kill_supervisor.py")
TIMES = ("seconds", "images_per_second")


def log_of(run):
    lines = (run / "log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def results_of(run):
    results = json.loads((run / "results.json").read_text())
    # The package's own sources may be committed to while the test runs.
    for key in ("wall_time_seconds", "git"):
        del results[key]
    results.get("first_phase", {}).pop("wall_time_seconds", None)
    del results["environment"]["git_commit"]
    return results


def require_equal_runs(run, other):
    assert (run / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert log_of(run) == log_of(other)
    assert results_of(run) == results_of(other)
    assert sorted(path.name for path in run.rglob("*")) == sorted(path.name for path in other.rglob("*"))


CASES = {
    "accumulation and average": {
        "changes": {"batch_size": 3, "gradient_accumulation_steps": 2, "checkpoint_every_steps": 1},
        "kills": 6,
    },
    "class-aware sampler, two workers, dropped paths": {
        "changes": {"sampler": "class_aware", "num_workers": 2, "ema_decay": "null", "loss": "db_focal",
                    "augmentation": "rand", "checkpoint_every_steps": 2, "checkpoints_kept": 1,
                    "backbone_kwargs": "{drop_path_rate: 0.3}", "schedule": "cosine"},
        "kills": 5,
    },
    "killed from outside": {
        "changes": {"sampler": "repeat_factor", "num_workers": 1, "batch_size": 4, "ablation": "net1",
                    "optimizer": "sgd", "learning_rate": 0.01, "epochs": 3, "checkpoint_every_epochs": 2},
        "kills": 4,
        "timed": True,
    },
    "two processes": {
        "changes": {"batch_size": 2, "gradient_accumulation_steps": 2, "checkpoint_every_steps": 1, "ablation": "net0",
                    "freeze_batch_norm": "true"},
        "kills": 5,
        "processes": 2,
    },
}  # fmt: skip


@pytest.mark.slow  # twenty kills take 28 real runs, of a second or three each
@pytest.mark.parametrize("name", CASES)
def test_a_run_that_is_killed_at_random_points_ends_as_one_that_is_not(name, tiny_data, tmp_path):
    case = {"processes": 1, "timed": False, "seed": 7, **CASES[name]}
    case |= {"overrides": tiny_overrides(tiny_data, **case.pop("changes")), "folder": str(tmp_path)}
    (tmp_path / "case.json").write_text(json.dumps(case))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SUPERVISOR), str(tmp_path / "case.json")],
        cwd=ROOT, capture_output=True, text=True, env=environment, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    print(seen)
    assert len(seen["killed"]) == case["kills"]
    broken = sorted(tmp_path.glob("broken-*"))
    assert broken
    for run in broken:
        require_equal_runs(tmp_path / "whole", run)


def test_twenty_kills_are_tried():
    assert sum(case["kills"] for case in CASES.values()) == 20


@pytest.fixture(scope="module")
def stopped_run(tiny_data, tmp_path_factory):
    """A run that an error in its second epoch has ended, with four checkpoints, and one that was not stopped."""
    folder = tmp_path_factory.mktemp("stopped")
    recipe = load_recipe(None, tiny_overrides(tiny_data, checkpoint_every_steps=1, checkpoints_kept=4))
    train(recipe, folder / "whole", quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        stop_at_update(patch, 5, KeyError("stopped"))
        with pytest.raises(KeyError, match="stopped"):
            train(recipe, folder / "stopped", quiet=True)
    return folder


def stop_at_update(patch, number, error=None, signal_number=None):
    inner = loop._update

    def update(run, group):
        inner(run, group)
        if run.updates == number and error is not None:
            raise error
        if run.updates == number:
            os.kill(os.getpid(), signal_number)

    patch.setattr(loop, "_update", update)


def recipe_of(folder, **changes):
    return dataclasses.replace(load_results_recipe(folder / "whole"), **changes)


def load_results_recipe(run):
    return load_recipe(None, values=json.loads((run / "results.json").read_text())["recipe"])


@pytest.fixture
def stopped(stopped_run, tmp_path):
    shutil.copytree(stopped_run / "stopped", tmp_path / "run")
    return tmp_path / "run"


def test_a_checkpoint_holds_no_pickle_and_says_what_it_holds(stopped):
    folders = sorted((stopped / "checkpoints").glob("update-*"))
    assert len(folders) == 4
    for folder in folders:
        assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
        manifest = json.loads((folder / "manifest.json").read_text())["files"]
        assert set(manifest) | {"manifest.json"} == {path.name for path in folder.iterdir()}
        for name, entry in manifest.items():
            assert entry["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()


@pytest.mark.parametrize("damage", ["a byte", "cut", "missing", "manifest", "state"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(damage, stopped, stopped_run, caplog):
    newest = CheckpointStore(stopped / "checkpoints").folders()[-1]
    weights = newest / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if damage == "a byte":
        content[-5] ^= 1
        weights.write_bytes(content)
    elif damage == "cut":
        weights.write_bytes(content[:1000])
    elif damage == "missing":
        weights.unlink()
    elif damage == "manifest":
        (newest / "manifest.json").write_text("{")
    else:
        (newest / "state.json").write_text("{}")
    train(recipe_of(stopped_run), stopped, quiet=True, resume="auto")
    warned = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert len(warned) == 1
    assert newest.name in warned[0]
    assert "\n" not in warned[0]
    require_equal_runs(stopped_run / "whole", stopped)


def test_a_run_goes_on_from_the_checkpoint_that_is_named(stopped, stopped_run):
    first = CheckpointStore(stopped / "checkpoints").folders()[0]
    train(recipe_of(stopped_run), stopped, quiet=True, resume=first)
    require_equal_runs(stopped_run / "whole", stopped)


def test_another_recipe_is_refused_by_the_keys_that_differ(stopped, stopped_run):
    before = sorted(path.name for path in stopped.rglob("*"))
    changed = recipe_of(stopped_run, learning_rate=0.5, crop_scale=[0.1, 1.0], num_workers=1, checkpoints_kept=1)
    with pytest.raises(ValueError, match=r"recipe\.crop_scale .*recipe\.learning_rate \(0\.5, was 0\.0003\)") as caught:
        train(changed, stopped, quiet=True, resume="auto")
    assert "num_workers" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in stopped.rglob("*")) == before


def test_other_data_is_refused(stopped, stopped_run, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(recipe_of(stopped_run).data, data)
    splits = tiny_splits()
    write_parquet(data, {**splits, "train": [*splits["train"][:-1], ["blue", "red"]]})
    with pytest.raises(ValueError, match="images and labels of train"):
        train(recipe_of(stopped_run, data=str(data)), stopped, quiet=True, resume="auto")


def test_a_folder_that_holds_something_is_refused_unless_it_is_a_run_to_resume(stopped, stopped_run, tmp_path):
    with pytest.raises(ValueError, match=r"holds another run.*--resume auto"):
        train(recipe_of(stopped_run), stopped, quiet=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("text")
    with pytest.raises(ValueError, match="holds other files"):
        train(recipe_of(stopped_run), tmp_path / "other", quiet=True, resume="auto")
    with pytest.raises(ValueError, match="give auto, never, or a checkpoint's folder"):
        train(recipe_of(stopped_run), tmp_path / "new", quiet=True, resume="latest")
    before = (stopped_run / "whole" / "results.json").read_bytes()
    train(recipe_of(stopped_run), stopped_run / "whole", quiet=True, resume="auto")
    assert (stopped_run / "whole" / "results.json").read_bytes() == before


def test_a_finished_run_is_tidied_and_another_recipe_does_not_pass_for_it(stopped_run, tmp_path):
    shutil.copytree(stopped_run / "whole", tmp_path / "run")
    # What a kill leaves between the results and the end.
    shutil.copytree(stopped_run / "stopped" / "checkpoints", tmp_path / "run" / "checkpoints", dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"recipe\.learning_rate \(0\.5, was 0\.0003\); give what it had"):
        train(recipe_of(stopped_run, learning_rate=0.5), tmp_path / "run", quiet=True, resume="auto")
    results = train(recipe_of(stopped_run, num_workers=1), tmp_path / "run", quiet=True, resume="auto")
    assert results == json.loads((stopped_run / "whole" / "results.json").read_text())
    require_equal_runs(stopped_run / "whole", tmp_path / "run")


def test_a_run_whose_discriminant_hears_the_pretrained_classifier_goes_on_to_the_same_bits(
    tiny_data, tmp_path, monkeypatch
):
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "backbone.safetensors")
    changes = {"preset": "plus", "class_activation_init": "discriminant_and_classifier", "checkpoint_every_steps": 1,
               "backbone_weights": tmp_path / "backbone.safetensors"}  # fmt: skip
    recipe = load_recipe(None, tiny_overrides(tiny_data, **changes))
    train(recipe, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        stop_at_update(patch, 3, KeyError("stopped"))
        with pytest.raises(KeyError, match="stopped"):
            train(recipe, tmp_path / "stopped", quiet=True)
    train(recipe, tmp_path / "stopped", quiet=True, resume="auto")
    require_equal_runs(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_goes_on_with_its_very_next_batch(workers, tiny_data, tmp_path, monkeypatch):
    changes = {"streaming_shards": 3, "streaming_shuffle_buffer": 4, "num_workers": workers, "batch_size": 2,
               "gradient_accumulation_steps": 2, "checkpoint_every_steps": 1, "augmentation": "rand",
               "record_gradients": "true", "class_activation_init": "discriminant"}  # fmt: skip
    recipe = load_recipe(None, tiny_overrides(tiny_data, **changes))
    train(recipe, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        stop_at_update(patch, 8, KeyError("stopped"))  # the third of the second epoch's five, or of four
        with pytest.raises(KeyError, match="stopped"):
            train(recipe, tmp_path / "stopped", quiet=True)
    newest = verify_checkpoint(CheckpointStore(tmp_path / "stopped" / "checkpoints").folders()[-1])
    assert (newest["epoch"], newest["phase"], newest["updates"]) == (2, "step", 7)
    assert newest["step"] > 0
    if workers:
        with pytest.raises(ValueError, match=r"loader processes of the stream \(1, was 2\)"):
            train(dataclasses.replace(recipe, num_workers=1), tmp_path / "stopped", quiet=True, resume="auto")
    monkeypatch.setattr(engine, "initialize_class_activation", None)  # the weights are in the checkpoint
    train(recipe, tmp_path / "stopped", quiet=True, resume="auto")
    require_equal_runs(tmp_path / "whole", tmp_path / "stopped")
    assert all(entry["gradients"]["tail"]["positives"] < 0 for entry in log_of(tmp_path / "whole"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_with_its_own_code(number, code, stopped_run, tmp_path, monkeypatch, capsys):
    results = str(stopped_run / "whole" / "results.json")
    command = ["train", "--from", results, "--output_dir", str(tmp_path / "run"), "--quiet", "--resume", "auto"]
    with monkeypatch.context() as patch:
        stop_at_update(patch, 2, signal_number=number)
        assert main(command) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cssfe train: stopped")]
    assert len(lines) == 1
    assert f"{number.name} at epoch 1, step 2" in lines[0]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert main(command) == 0
    require_equal_runs(stopped_run / "whole", tmp_path / "run")


def test_a_signal_during_evaluation_saves_what_was_trained(stopped_run, tmp_path, monkeypatch):
    inner = loop.judge

    def judge(run, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return inner(run, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "judge", judge)
        with pytest.raises(TrainingInterruptedError, match="SIGTERM at epoch 1"):
            train(recipe_of(stopped_run), tmp_path / "run", quiet=True)
    names = [path.name for path in CheckpointStore(tmp_path / "run" / "checkpoints").folders()]
    assert names[-1] == "update-00000003-trained"
    train(recipe_of(stopped_run), tmp_path / "run", quiet=True, resume="auto")
    require_equal_runs(stopped_run / "whole", tmp_path / "run")


@pytest.mark.parametrize("where", ["tensors", "state", "disk"])
def test_a_full_disk_is_one_line_and_leaves_the_older_checkpoints(where, stopped, stopped_run, monkeypatch):
    before = {path: path.read_bytes() for path in (stopped / "checkpoints").glob("update-*/*")}
    full = OSError(errno.ENOSPC, "No space left on device")

    def save(tensors, path):
        Path(path).write_bytes(b"half")
        raise full

    def raise_full(*arguments):
        raise full

    with monkeypatch.context() as patch:
        if where == "tensors":
            patch.setattr(checkpoint, "save_file", save)
        else:
            patch.setattr(checkpoint, "_sha256" if where == "state" else "_to_disk", raise_full)
            patch.setattr(resume, "verify_checkpoint", lambda path: json.loads((path / "state.json").read_text()))
            patch.setattr(CheckpointStore, "newest", lambda self: (self.folders()[-1], []))
        with pytest.raises(SavingError, match="No space left on device") as caught:
            train(recipe_of(stopped_run), stopped, quiet=True, resume="auto")
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in (stopped / "checkpoints").glob("update-*/*")} == before
    assert not list((stopped / "checkpoints").glob(".saving-*"))
    train(recipe_of(stopped_run), stopped, quiet=True, resume="auto")
    require_equal_runs(stopped_run / "whole", stopped)


@pytest.mark.parametrize(
    ("update", "every", "message"),
    [(2, 1, r"\.weight is not finite after epoch 1, step 2"), (3, "null", "scores of validation are not finite")],
)
def test_weights_that_are_not_finite_after_a_finite_loss_are_not_kept(
    update, every, message, tiny_data, tmp_path, monkeypatch
):
    inner = loop._update

    def overflowing(run, group):
        inner(run, group)
        if run.updates == update:
            run.model.cssfe.class_activation.weight.data[0] = float("inf")
            run.average.module.cssfe.class_activation.weight.data[0] = float("inf")

    monkeypatch.setattr(loop, "_update", overflowing)
    recipe = load_recipe(None, tiny_overrides(tiny_data, checkpoint_every_steps=every))
    with pytest.raises(FloatingPointError, match=f"{message}.*lower learning_rate"):
        train(recipe, tmp_path / "run", quiet=True)
    assert [path.name[:15] for path in CheckpointStore(tmp_path / "run" / "checkpoints").folders()] in (
        [], ["update-00000001"],
    )  # fmt: skip


def test_going_on_from_another_folder_keeps_what_lies_before(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep=9)
    for updates, phase in ((1, "step"), (2, "step"), (2, "trained"), (3, "done")):
        store.save(updates, phase, {}, {})
    store.forget_after(tmp_path / "elsewhere" / "update-00000002-step")
    assert [path.name for path in store.folders()] == ["update-00000001-step", "update-00000002-step"]
    store.forget_after(Path())
    assert store.folders() == []


def test_checkpoints_are_kept_by_count_and_the_oldest_go(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    for updates, phase in ((9, "step"), (10, "step"), (10, "trained"), (10, "done"), (100_000_000, "step")):
        path = store.save(updates, phase, {"model": {"weight": torch.full((2,), float(updates))}}, {"updates": updates})
        assert store.newest() == (path, [])
    assert [path.name for path in store.folders()] == ["update-00000010-done", "update-100000000-step"]
    assert load_tensors(store.folders()[-1], "model")["weight"].tolist() == [1e8, 1e8]
    assert verify_checkpoint(store.folders()[0])["updates"] == 10
