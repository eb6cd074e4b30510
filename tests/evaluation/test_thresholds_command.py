# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from tiny_runs import make_scene, tiny_splits, write_parquet

from modeling_cssfe import CSSFEConfig
from modeling_cssfe.cli import build_parser, main
from modeling_cssfe.evaluation.scoring import score_model
from modeling_cssfe.evaluation.thresholds import DEFAULT_SHRINKAGE, OBJECTIVES


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy of the tiny run, to be changed."""
    return shutil.copytree(tiny_run, tmp_path / "run")


@pytest.fixture(scope="module")
def fitted(tiny_run, tiny_data, tmp_path_factory):
    """The tiny run with thresholds and calibration, in a folder of its own."""
    folder = tmp_path_factory.mktemp("fitted") / "new"
    assert main(["thresholds", str(tiny_run), "--data", str(tiny_data), "--output_dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    file = tmp_path_factory.mktemp("scene") / "scene.png"
    make_scene(np.random.default_rng(3), ["red", "blue"]).save(file)
    return file


def test_config_json_is_changed_in_place_and_nothing_else(run, tiny_run, tiny_data, capsys):
    assert main(["thresholds", str(run), "--data", str(tiny_data)]) == 0
    shown = capsys.readouterr().out
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (tiny_run, run))
    assert before.pop("thresholds", None) is None
    assert before.pop("calibration", None) is None
    thresholds, calibration = after.pop("thresholds"), after.pop("calibration")
    assert before == after  # `auto_map` and all
    changed = {file.name for file in run.iterdir() if file.is_file()} - {f.name for f in tiny_run.iterdir()}
    assert changed == {"thresholds.json"}
    config = CSSFEConfig.from_pretrained(run)
    assert list(config.thresholds) == thresholds
    assert config.calibration == calibration
    assert set(calibration) == {"head", "medium", "tail"}
    for name, threshold in zip(config.label_names, thresholds, strict=True):
        [row] = [line for line in shown.splitlines() if f" {name} " in line and "│" in line]
        assert f"{threshold:.3f}" in row
    assert "blue: only 4 positives, too few to trust: 56% the tail group's threshold" in shown  # 5 / (4 + 5)
    assert "fewer than 10 positives" in shown  # of each group


def test_the_provenance_stands_beside_and_agrees_with_the_scores(fitted, tiny_data):
    content = json.loads((fitted / "thresholds.json").read_text())
    assert (content["data"], content["split"], content["num_images"]) == (str(tiny_data), "validation", 12)
    assert (content["objective"], content["target"], content["shrinkage"], content["seed"]) == ("f1", None, 5.0, 0)
    table = score_model(fitted, tiny_data, "validation")
    assert list(table.thresholds) == [entry["threshold"] for entry in content["classes"]]
    assert content["groups"].keys() == {"head", "medium", "tail"}
    for index, entry in enumerate(content["classes"]):
        positive, decided = table.labels[:, index] == 1, table.scores[:, index] >= entry["threshold"]
        assert entry["num_positives"] == positive.sum()
        f1 = 2 * (positive & decided).sum() / (positive.sum() + decided.sum())
        assert entry["f1"] == pytest.approx(f1)
        own, group, positives = logit(entry["own"]), logit(entry["group_threshold"]), entry["num_positives"]
        assert logit(entry["threshold"]) == pytest.approx((positives * own + 5 * group) / (positives + 5))


def logit(value):
    return math.log(value / (1 - value))


def test_a_new_folder_holds_the_whole_model_and_the_old_one_is_untouched(fitted, tiny_run):
    assert not (tiny_run / "thresholds.json").exists()
    files = {file.name for file in tiny_run.iterdir() if file.is_file()}
    assert {file.name for file in fitted.iterdir()} == files | {"thresholds.json"}
    weights = "model.safetensors"
    assert (fitted / weights).read_bytes() == (tiny_run / weights).read_bytes()


def test_predict_decides_by_the_thresholds_and_adds_calibrated_probabilities(fitted, tiny_run, scene, capsys):
    predicted = {}
    for folder in (fitted, tiny_run):
        assert main(["predict", str(folder), str(scene), "--json"]) == 0
        entries = json.loads(capsys.readouterr().out)["predictions"]
        predicted[folder] = {entry["label"]: entry for entry in entries}
    config = CSSFEConfig.from_pretrained(fitted)
    classes = zip(config.label_names, config.groups, config.thresholds, strict=True)
    for name, group, threshold in classes:
        entry, before = predicted[fitted][name], predicted[tiny_run][name]
        assert entry["score"] == before["score"]
        assert "probability" not in before
        assert entry["above_threshold"] == (entry["score"] >= threshold)
        values = config.calibration[group]
        expected = 1 / (1 + math.exp(-(logit(entry["score"]) / values["temperature"] + values["bias"])))
        # From the logit, which the score shows rounded to fp32.
        assert entry["probability"] == pytest.approx(expected, rel=1e-6)


CHILD = """
import sys, json
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "modeling_cssfe":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
import torch
from transformers import AutoConfig, AutoImageProcessor
config = AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
logits = torch.tensor([[9.0, 9.0, 9.0]])
entries = processor.post_process_multi_label_classification(
    logits, config.thresholds, config.label_names, config.class_calibration
)
print(json.dumps(entries[0]))
"""


def test_post_processing_uses_both_without_the_package_installed(fitted, tmp_path):
    # A real process; importing torch and transformers takes most of its ten seconds.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", "-c", CHILD, str(fitted)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    config = CSSFEConfig.from_pretrained(fitted)
    shown = {entry["label"]: entry["probability"] for entry in json.loads(done.stdout.splitlines()[-1])}
    for name, group in zip(config.label_names, config.groups, strict=True):
        values = config.calibration[group]
        assert shown[name] == pytest.approx(1 / (1 + math.exp(-(9 / values["temperature"] + values["bias"]))))


def test_the_default_shrinkage_is_the_functions():
    options = build_parser().parse_args(["thresholds", "run", "--data", "data"])
    assert options.shrinkage == DEFAULT_SHRINKAGE
    assert options.objective in OBJECTIVES


def test_a_target_is_shown_and_no_calibration_removes_an_older_one(fitted, tiny_data, tmp_path, capsys):
    run = shutil.copytree(fitted, tmp_path / "run")
    command = ["thresholds", str(run), "--data", str(tiny_data), "--no_calibration"]
    assert main([*command, "--objective", "recall", "--target", "0.9", "--shrinkage", "inf"]) == 0
    shown = capsys.readouterr().out
    assert "Thresholds for recall 0.9" in shown
    assert "temperature" not in shown
    assert json.loads((run / "config.json").read_text())["calibration"] is None
    content = json.loads((run / "thresholds.json").read_text())
    assert content["calibration"] is None
    assert [entry["threshold"] for entry in content["classes"]] == [
        content["groups"][entry["group"]] for entry in content["classes"]
    ]


def test_a_model_of_the_hub_goes_into_a_new_folder(tiny_run, tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("modeling_cssfe.common.model_loading.load_trained_model", lambda name: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name: str(tiny_run))  # its cache
    command = ["thresholds", "someone/model", "--data", str(tiny_data)]
    assert main(command) == 2
    assert "--output_dir" in capsys.readouterr().err
    assert main([*command, "--output_dir", str(tmp_path / "new")]) == 0
    assert CSSFEConfig.from_pretrained(tmp_path / "new").thresholds is not None
    assert json.loads((tmp_path / "new" / "thresholds.json").read_text())["model"] == "someone/model"
    assert not (tiny_run / "thresholds.json").exists()


@pytest.mark.parametrize("split", ["test", "train"])
def test_only_force_fits_on_test_or_training_images(split, run, tiny_data, capsys):
    before = (run / "config.json").read_bytes()
    command = ["thresholds", str(run), "--data", str(tiny_data), "--split", split]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"thresholds belong to validation data, not to split '{split}'" in error
    assert (run / "config.json").read_bytes() == before
    assert main([*command, "--force"]) == 0
    assert f"warning: fitted on split '{split}'" in capsys.readouterr().err
    assert json.loads((run / "thresholds.json").read_text())["split"] == split


def test_a_class_absent_from_the_validation_data_is_named(run, tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [[label for label in row if label != "blue"] for row in tiny_splits()["validation"]]
    write_parquet(folder, {"validation": rows})
    assert main(["thresholds", str(run), "--data", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "blue: no positives: the tail group's threshold" in shown
    assert "no positives to calibrate by" in shown
    assert CSSFEConfig.from_pretrained(run).calibration["tail"] == {"temperature": 1.0, "bias": 0.0}


def test_a_failed_write_leaves_the_old_configuration(run, tiny_data, monkeypatch, capsys):
    before = (run / "config.json").read_bytes()
    monkeypatch.setattr(os, "replace", lambda *arguments: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert main(["thresholds", str(run), "--data", str(tiny_data)]) == 1
    assert "cannot save" in capsys.readouterr().err
    assert (run / "config.json").read_bytes() == before
    assert not list(run.glob(".saving*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}"], "--data"),
        (["{run}", "--data", "{data}", "--objective", "recall"], "objective 'recall' needs a wanted recall"),
        (["{run}", "--data", "{data}", "--target", "0.9"], "objective 'f1' has none"),
        (["{run}", "--data", "{data}", "--shrinkage", "-1"], "shrinkage is -1"),
        (["{run}", "--data", "{data}", "--seed", "-1"], "seed is -1; give a whole number >= 0"),
        (["{run}", "--data", "{data}", "--split", "valdation"], "has no split 'valdation'; it has train, validation"),
        (["{run}", "--data", "{data}", "--output_dir", "{run}"], "holds another run"),
        (["{empty}", "--data", "{data}"], "holds no model"),
        (["{other}", "--data", "{data}"], "is a model of type 'resnet'"),
        (["{empty}/nowhere", "--data", "{data}"], "there is no folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "_".join(value)[:60],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, tiny_run, tiny_data, tmp_path, capsys):
    empty, other = tmp_path / "empty", tmp_path / "other"
    empty.mkdir()
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "resnet"}')
    places = {"run": tiny_run, "data": tiny_data, "empty": empty, "other": other}
    assert main(["thresholds", *(argument.format(**places) for argument in arguments)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tiny_run / "thresholds.json").exists()
