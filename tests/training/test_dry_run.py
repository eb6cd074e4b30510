from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch
from tiny_runs import tiny_overrides, tiny_splits, write_parquet

import modeling_cssfe.training.dry_run
from modeling_cssfe.cli import main
from modeling_cssfe.common.tables import show
from modeling_cssfe.training import load_recipe
from modeling_cssfe.training.dry_run import Check, check_table, dry_run


NAMES = [
    "folder",
    "device",
    "splits",
    "images",
    "labels",
    "model",
    "batch",
    "step",
    "memory",
    "checkpoint",
    "evaluation",
]


def found(checks):
    return {check.name: check.ok for check in checks}


def detail(checks, name):
    return next(check.detail for check in checks if check.name == name)


def copy_of(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_parquet(data, tiny_splits())
    return data


def test_a_good_run_passes_and_nothing_is_left_behind(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    overrides = tiny_overrides(tiny_data, decoded_cache=tmp_path / "cache", trackers="[tensorboard]")
    checks = dry_run(load_recipe(None, overrides), tmp_path / "run")
    assert found(checks) == dict.fromkeys(NAMES, True)
    assert detail(checks, "splits") == "train 18, validation 12, test 12"
    assert detail(checks, "labels").startswith("3 classes, 14 to 3 images each")
    assert "1 head, 1 medium, 1 tail" in detail(checks, "model")
    assert detail(checks, "batch").startswith("6 x 3 x 64 x 64")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["temporary"]
    assert not list((tmp_path / "temporary").glob("cssfe-dry-run-*"))


def test_the_command_prints_the_table(tiny_data, tmp_path, capsys):
    command = ["train", "--dry_run", "--output_dir", str(tmp_path / "run"), "--set", *tiny_overrides(tiny_data)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    for name in NAMES:
        assert f"│ {name}" in shown
    assert not (tmp_path / "run").exists()


def test_a_failure_is_exit_code_1_and_names_the_checks(tiny_data, tiny_run, tmp_path, capsys):
    overrides = tiny_overrides(tiny_data, loss="asll")
    before = sorted(tiny_run.rglob("*"))
    assert main(["train", "--dry_run", "--output_dir", str(tiny_run), "--set", *overrides]) == 1
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "error:" in line]
    assert [line.split("error: ")[1] for line in lines] == ["2 of 11 checks failed: folder, model."]
    assert "did you mean 'asl'" in " ".join(captured.out.replace("│", " ").split())
    assert captured.out.count("not reached") == 5
    assert sorted(tiny_run.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        ({"validation_split": "valid"}, "splits", "has no split 'valid'"),
        ({"backbone": "resnet5o"}, "model", "unknown backbone"),
        ({"backbone_weights": "nowhere.safetensors"}, "model", "nowhere.safetensors"),
        ({"label_embeddings": "nowhere.safetensors"}, "model", "nowhere.safetensors"),
        ({"sampler": "clas_aware"}, "batch", "clas_aware"),
        ({"augmentation": "rnd"}, "batch", "rnd"),
        ({"learning_rate": 1e30, "max_grad_norm": "null", "optimizer": "sgd"}, "step", "the loss is nan"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_each_mistake_is_found_by_its_check(tiny_data, tmp_path, changes, name, message):
    checks = dry_run(load_recipe(None, tiny_overrides(tiny_data, **changes)), tmp_path / "run")
    results = found(checks)
    assert [check for check, ok in results.items() if ok is False] == [name]
    assert message in detail(checks, name)
    show(check_table(checks))
    assert not (tmp_path / "run").exists()


def test_an_unreadable_image_is_named_or_left_out(tmp_path):
    data = copy_of(tmp_path)
    table = datasets.load_dataset("parquet", data_files=str(data / "train.parquet"), split="train", keep_in_memory=True)
    rows = table.cast_column("image", datasets.Image(decode=False)).to_list()
    rows[2]["image"]["bytes"] = rows[2]["image"]["bytes"][:60]
    datasets.Dataset.from_list(rows, features=table.features).to_parquet(str(data / "train.parquet"))
    checks = dry_run(load_recipe(None, tiny_overrides(data)), tmp_path / "run")
    assert found(checks)["images"] is False
    assert found(checks)["model"] is True  # what does not need the images is still checked
    assert "train-2" in detail(checks, "images")
    # One batch of all images would meet the broken one.
    left_out = tiny_overrides(data, skip_unreadable_images="true", batch_size=18)
    checks = dry_run(load_recipe(None, left_out), tmp_path / "run")
    assert found(checks) == dict.fromkeys(NAMES, True)
    assert "1 unreadable and left out ('train-2', ...)" in detail(checks, "images")
    assert detail(checks, "batch").startswith("17 x 3")


def test_a_class_without_images_is_named(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_parquet(data, {"train": [["red"], ["green"]] * 4, "validation": [["red"], ["blue"]]})
    checks = dry_run(load_recipe(None, tiny_overrides(data)))
    assert found(checks)["labels"] is False
    assert "'blue'" in detail(checks, "labels")


def test_weights_that_come_back_changed_are_found(tiny_data, monkeypatch):
    load = modeling_cssfe.training.dry_run.CSSFEForImageClassification.from_pretrained

    def loaded(*given, **named):
        model = load(*given, **named)
        with torch.no_grad():
            model.cssfe.class_activation.weight[0, 0, 0, 0] += 1e-3
        return model

    monkeypatch.setattr(modeling_cssfe.training.dry_run.CSSFEForImageClassification, "from_pretrained", loaded)
    checks = dry_run(load_recipe(None, tiny_overrides(tiny_data)))
    assert [check.name for check in checks if not check.ok] == ["checkpoint"]
    assert "class_activation.weight is not what was saved" in detail(checks, "checkpoint")


def test_a_disk_without_room_is_found(tiny_data, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    checks = dry_run(load_recipe(None, tiny_overrides(tiny_data)), tmp_path / "run")
    assert [check.name for check in checks if not check.ok] == ["checkpoint"]
    assert "are free; choose another output_dir" in detail(checks, "checkpoint")


def test_a_check_that_fails_for_another_process_has_failed(monkeypatch):
    # Or this process would go on and wait for the other one for ever.
    both = [None, "no such file"]
    monkeypatch.setattr(modeling_cssfe.training.dry_run, "gather_object", lambda own: both)
    here = modeling_cssfe.training.dry_run._DryRun(load_recipe(), None, False, Path())
    here.accelerator = SimpleNamespace(num_processes=2)
    found = here._agreed(Check("batch", True, "loaded"))
    assert (found.ok, found.detail, str(found.error)) == (False, "no such file", "no such file")
    both[1] = None
    assert here._agreed(Check("batch", True, "loaded")).ok
