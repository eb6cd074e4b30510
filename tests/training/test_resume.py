import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import tiny_overrides


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
    # A kill from outside may come when the run has just ended.
    assert len(seen["killed"]) == case["kills"] or case["timed"]
    require_equal_runs(tmp_path / "whole", tmp_path / "broken")
