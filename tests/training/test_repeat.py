import importlib.metadata
import json
import os
import re
import subprocess
import warnings

import datasets
import pytest
import torch
from accelerate import Accelerator
from tiny_runs import tiny_overrides, tiny_splits, write_parquet

from modeling_cssfe.cli import main
from modeling_cssfe.common.environment import describe_environment
from modeling_cssfe.data import load_images
from modeling_cssfe.training import load_recipe, read_run, train
from modeling_cssfe.training.repeat import data_fingerprint, determinism, git_state, require_same_data


TIMES = {"seconds", "images_per_second", "wall_time_seconds"}


def without_times(content):
    return {key: value for key, value in content.items() if key not in TIMES}


def read(folder):
    log = [without_times(json.loads(line)) for line in (folder / "log.jsonl").read_text().splitlines()]
    results = without_times(json.loads((folder / "results.json").read_text()))
    return (folder / "model.safetensors").read_bytes(), log, results


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_parquet(folder, tiny_splits())
    return folder


def change_parquet(folder, change):
    file = str(folder / "train.parquet")
    table = datasets.load_dataset("parquet", data_files=file, split="train", keep_in_memory=True)
    rows = table.cast_column("image", datasets.Image(decode=False)).to_list()
    change(rows)
    datasets.Dataset.from_list(rows, features=table.features).to_parquet(file)


@pytest.mark.parametrize(
    "changes",
    [
        {"mixed_precision": "auto", "sampler": "class_aware", "num_workers": 1, "seed": 5},
        {"augmentation": "rand", "loss": "db_focal", "optimizer": "sgd", "gradient_accumulation_steps": 2},
    ],
    ids=["auto", "rand"],
)
def test_a_run_repeated_from_its_results_is_equal_to_the_bit(data, tmp_path, changes):
    train(load_recipe(None, tiny_overrides(data, **changes)), tmp_path / "first", quiet=True)
    again = ["train", "--from", str(tmp_path / "first" / "results.json"), "--output_dir", str(tmp_path / "again")]
    assert main([*again, "--quiet"]) == 0
    first, second = read(tmp_path / "first"), read(tmp_path / "again")
    assert first[0] == second[0]
    assert first[1] == second[1]
    # `auto` has become what it chose then; everything else is as it was.
    first[2]["recipe"]["mixed_precision"] = first[2]["mixed_precision"]
    assert first[2] == second[2]


def test_changed_data_is_one_line_with_both_fingerprints(data, tmp_path, capsys):
    train(load_recipe(None, tiny_overrides(data, epochs=1)), tmp_path / "first", quiet=True)
    change_parquet(data, lambda rows: rows[4].update(labels=[1]))
    now = data_fingerprint(load_images(str(data))["train"])
    before = json.loads((tmp_path / "first" / "results.json").read_text())["data_fingerprint"]["train"]
    again = ["train", "--from", str(tmp_path / "first"), "--output_dir", str(tmp_path / "again"), "--quiet"]
    assert main(again) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert f"split 'train' has the fingerprint {now[:16]} and had {before[:16]}" in lines[0]
    assert "--allow_changed_data" in lines[0]
    assert not (tmp_path / "again").exists()
    assert main([*again, "--allow_changed_data"]) == 0
    assert json.loads((tmp_path / "again" / "results.json").read_text())["data_fingerprint"]["train"] == now


def test_keys_can_be_changed_on_the_way(data, tmp_path):
    train(load_recipe(None, tiny_overrides(data, epochs=1)), tmp_path / "first", quiet=True)
    again = ["train", "--from", str(tmp_path / "first"), "--output_dir", str(tmp_path / "again"), "--quiet"]
    assert main([*again, "--seed", "7", "--set", "learning_rate=0.001"]) == 0
    recipe = json.loads((tmp_path / "again" / "results.json").read_text())["recipe"]
    assert (recipe["seed"], recipe["learning_rate"], recipe["epochs"]) == (7, 0.001, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from", "{run}", "--recipe", "lt_digits"], "leave --recipe out"),
        (["--allow_changed_data"], "give --from RESULTS"),
        (["--from", "{new}"], "there is no"),
        (["--from", "{text}"], "is no JSON"),
        (["--from", "{other}"], "holds no recipe"),
        (["--from", "{later}"], "keys that this version does not know (warp_speed); repeat it with cssfe 99.0"),
    ],
    ids=lambda value: "_".join(value)[:30] if isinstance(value, list) else None,
)
def test_a_mistake_about_the_run_to_repeat_is_one_line(options, message, tiny_run, tmp_path, capsys):
    places = {name: tmp_path / f"{name}.json" for name in ("new", "text", "other", "later")}
    places["text"].write_text("no json")
    places["other"].write_text("{}")
    results = json.loads((tiny_run / "results.json").read_text())
    results["recipe"]["warp_speed"] = 9
    results["environment"]["cssfe"] = "99.0"
    places["later"].write_text(json.dumps(results))
    options = [option.format(run=tiny_run, **places) for option in options]
    assert main(["train", "--output_dir", str(tmp_path / "run"), *options]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "run").exists()


def test_another_machine_is_named(tiny_run, tmp_path, capsys):
    results = json.loads((tiny_run / "results.json").read_text())
    results["environment"]["torch"] = "1.0"
    results["num_processes"] = 4
    (tmp_path / "results.json").write_text(json.dumps(results))
    run = read_run(tmp_path)
    assert run.differences(describe_environment()) == [
        f"torch is {importlib.metadata.version('torch')}, was 1.0",
        "num_processes is 1, was 4",
    ]
    assert read_run(tiny_run).differences(describe_environment()) == []


class TestFingerprint:
    def test_it_is_the_same_wherever_the_files_lie(self, data, tmp_path):
        copy = tmp_path / "copy"
        copy.mkdir()
        for file in data.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        splits, others = load_images(str(data)), load_images(str(copy))
        assert {name: data_fingerprint(split) for name, split in splits.items()} == {
            name: data_fingerprint(split, num_threads=3) for name, split in others.items()
        }

    def test_it_is_the_same_for_images_in_files_and_in_tables(self, data, tmp_path):
        split = load_images(str(data))["train"]
        rows = split.cast_column("image", datasets.Image(decode=False)).to_list()
        for number, row in enumerate(rows):
            (tmp_path / f"{number}.png").write_bytes(row["image"]["bytes"])
            row["image"] = {"bytes": None, "path": str(tmp_path / f"{number}.png")}
        assert data_fingerprint(datasets.Dataset.from_list(rows, features=split.features)) == data_fingerprint(split)

    @pytest.mark.parametrize(
        "change",
        [
            lambda rows: rows[3].update(labels=[*rows[3]["labels"], 2]),
            lambda rows: rows[0].update(image_id="other"),
            lambda rows: rows[5]["image"].update(bytes=rows[5]["image"]["bytes"] + b"\0"),
            lambda rows: rows.insert(0, rows.pop()),
            lambda rows: rows.pop(),
        ],
        ids=["label", "id", "byte", "order", "row"],
    )
    def test_any_change_changes_it(self, data, change):
        split = load_images(str(data))["train"]
        rows = split.cast_column("image", datasets.Image(decode=False)).to_list()
        change(rows)
        assert data_fingerprint(datasets.Dataset.from_list(rows, features=split.features)) != data_fingerprint(split)

    def test_the_order_in_which_labels_are_listed_does_not(self, data):
        split = load_images(str(data))["train"]
        rows = split.cast_column("image", datasets.Image(decode=False)).to_list()
        for row in rows:
            row["labels"].reverse()
        assert data_fingerprint(datasets.Dataset.from_list(rows, features=split.features)) == data_fingerprint(split)

    def test_a_split_that_is_gone_is_a_change(self):
        with pytest.raises(ValueError, match="split 'test' has the fingerprint absent and had 1234 in there"):
            require_same_data({"train": "ab"}, {"train": "ab", "test": "1234"}, "there")


class TestGitState:
    def test_it_is_the_commit_and_whether_files_have_changes(self, tmp_path):
        def git(*arguments):
            identity = ["-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false"]
            return subprocess.run(
                ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
            ).stdout.strip()

        git("init", "-q")
        assert git_state(tmp_path) is None  # no commit yet
        (tmp_path / "file").write_text("one")
        git("add", "file")
        git("commit", "-qm", "first")
        commit = git("rev-parse", "HEAD")
        assert git_state(tmp_path) == {"commit": commit, "dirty": False}
        (tmp_path / "untracked").write_text("a run's output")
        assert git_state(tmp_path) == {"commit": commit, "dirty": False}
        (tmp_path / "file").write_text("two")
        assert git_state(tmp_path) == {"commit": commit, "dirty": True}

    def test_outside_of_a_checkout_and_without_git_there_is_none(self, tmp_path, monkeypatch):
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        assert git_state(tmp_path) is None
        assert git_state(tmp_path / "nowhere") is None
        monkeypatch.setenv("PATH", str(tmp_path))
        assert git_state(".") is None


class TestDeterminism:
    def test_settings_come_back_even_after_an_error(self, monkeypatch):
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
        seen = []

        def inside():
            with determinism(True):
                seen.append(torch.are_deterministic_algorithms_enabled())
                seen.append(os.environ["CUBLAS_WORKSPACE_CONFIG"])
                seen.append(torch.backends.cudnn.benchmark)
                raise RuntimeError("inside")

        with pytest.raises(RuntimeError, match="inside"):
            inside()
        assert seen == [True, ":4096:8", False]
        assert not torch.are_deterministic_algorithms_enabled()
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
        assert torch.backends.cudnn.benchmark

    def test_without_it_nothing_changes(self):
        with determinism(False):
            assert not torch.are_deterministic_algorithms_enabled()

    def test_a_run_is_inside(self, tiny_data, tmp_path, monkeypatch):
        seen = []
        backward = Accelerator.backward

        def watched(*given, **named):
            seen.append(torch.are_deterministic_algorithms_enabled())
            return backward(*given, **named)

        monkeypatch.setattr(Accelerator, "backward", watched)
        for wanted in ("true", "false"):
            overrides = tiny_overrides(tiny_data, epochs=1, deterministic=wanted)
            train(load_recipe(None, overrides), tmp_path / wanted, quiet=True)
        assert seen == [True] * 3 + [False] * 3


def test_results_hold_what_a_repetition_needs(tiny_run, tiny_data):
    results = json.loads((tiny_run / "results.json").read_text())
    splits = load_images(str(tiny_data))
    assert results["data_fingerprint"] == {name: data_fingerprint(split) for name, split in splits.items()}
    assert results["recipe"] == read_run(tiny_run).recipe
    assert results["git"] is None or re.fullmatch("[0-9a-f]{40}", results["git"]["commit"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_recipe(results["recipe"]) == load_recipe(None, tiny_overrides(tiny_data))
