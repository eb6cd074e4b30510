# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import csv
import json
import signal

import numpy as np
import pytest
from PIL import Image
from tiny_runs import tiny_overrides, write_parquet

from modeling_cssfe import training
from modeling_cssfe.analysis.pair import draw_balanced
from modeling_cssfe.cli import main
from modeling_cssfe.data import load_images
from modeling_cssfe.training.interruption import TrainingInterruptedError


def long_tailed_labels(images=600, seed=0):
    """Six classes, from 250 images down to 25, at most two on an image."""
    rng = np.random.default_rng(seed)
    counts = np.array([250, 160, 100, 60, 40, 25])
    labels = np.zeros((images, 6), dtype=np.int64)
    for column, count in enumerate(counts):
        labels[rng.choice(images, count, replace=False), column] = 1
    return labels


@pytest.mark.parametrize("size", [60, 150, 400])
def test_the_draw_is_balanced_disjoint_and_of_about_the_size(size):
    labels = long_tailed_labels()
    draw = draw_balanced(labels, size, judged_share=0.3, choosing_share=0.1, max_ratio=3.0)
    parts = (draw.train, draw.validation, draw.test)
    assert sorted(np.concatenate(parts).tolist()) == list(range(600))
    counts = labels[draw.train].sum(axis=0)
    assert tuple(counts.tolist()) == draw.counts
    assert counts.max() / counts.min() <= 3.0
    assert counts.max() / counts.min() < labels.sum(axis=0).max() / labels.sum(axis=0).min()
    assert len(draw.validation) == 60
    assert len(draw.test) >= 180
    # About 15 images of the rarest class can be drawn, so three times that bounds the others, and all images.
    assert len(draw.train) <= 6 * 3 * 16
    if size == 60:
        assert abs(len(draw.train) - size) <= 10


def test_a_looser_balance_draws_more_images():
    labels = long_tailed_labels()
    sizes = [len(draw_balanced(labels, 400, max_ratio=ratio).train) for ratio in (2.0, 4.0, 8.0)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_classes_that_cannot_be_drawn_and_wrong_options_are_one_line_errors():
    labels = long_tailed_labels()
    labels[:, 2] = 0
    with pytest.raises(ValueError, match="1 classes have no image to draw"):
        draw_balanced(labels, 100)
    with pytest.raises(ValueError, match="sum to less than 1"):
        draw_balanced(labels, 100, judged_share=0.7, choosing_share=0.3)
    with pytest.raises(ValueError, match=r"max_ratio is 0\.5"):
        draw_balanced(long_tailed_labels(), 100, max_ratio=0.5)


# Takes some fifteen seconds, as two networks are trained; all tests below share them.
@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("pair")
    train = [["red"]] * 7 + [["red", "green"]] * 6 + [["red", "blue"]] + [["green"]] * 2 + [["blue"]] * 2
    source = [["red"], ["green"], ["blue"], ["red", "green"], ["blue", "green"], []] * 10
    (root / "source").mkdir()
    write_parquet(root / "source", {"train": train, "validation": source})
    settings = tiny_overrides(root / "source", ablation="net0", loss="bce", epochs=2)
    command = ["analyze", "train_pair", "--output_dir", str(root / "pair"), "--quiet", "--choosing_share", "0.2",
               "--set", *settings, "--judged_share"]  # fmt: skip
    # Stopped when the balanced network is done, then taken up again.
    train, trained = training.train, []

    def train_one(recipe, folder, **options):
        if trained:
            raise TrainingInterruptedError("stopped", signal.SIGTERM)
        trained.append(folder)
        return train(recipe, folder, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", train_one)
        with pytest.raises(SystemExit) as left:
            main([*command, "0.4"])
        assert left.value.code == 143
    first = (root / "pair" / "balanced" / "results.json").read_bytes()
    assert main([*command, "0.4"]) == 2
    assert main([*command, "0.3", "--resume", "auto"]) == 2
    assert main([*command, "0.4", "--resume", "auto"]) == 0
    assert (root / "pair" / "balanced" / "results.json").read_bytes() == first
    return root / "pair"


def test_the_command_trains_both_on_disjoint_images_and_says_the_counts(pair):
    report = json.loads((pair / "pair.json").read_text())
    sets = {name: load_images(pair / "data" / name) for name in ("balanced", "long_tailed")}
    for name, splits in sets.items():
        assert len(splits["train"]) == report["images"][name]
        results = json.loads((pair / name / "results.json").read_text())
        assert results["class_counts"] == {label: row[name] for label, row in report["classes"].items()}
        # Judged on the same images, which neither was trained on.
        assert splits["test"]["image_id"] == sets["balanced"]["test"]["image_id"]
    used = [set(sets["balanced"][split]["image_id"]) for split in ("train", "validation", "test")]
    assert sum(map(len, used)) == len(set.union(*used)) == 60
    assert report["ratio"]["balanced"] < report["ratio"]["long_tailed"]
    # Both are shown about as many images, and each as many epochs as the report says.
    shown = {}
    for name in sets:
        epochs = json.loads((pair / name / "results.json").read_text())["recipe"]["epochs"]
        assert epochs == report["epochs"][name]
        shown[name] = epochs * report["images"][name]
    assert report["epochs"]["long_tailed"] == 2
    assert abs(shown["balanced"] - shown["long_tailed"]) <= report["images"]["balanced"] / 2
    assert not [path for path in (pair / "data").iterdir() if path.name.startswith(".")]


# Takes more than ten seconds: ten figures are drawn, and both networks pass over their training data again.
def test_the_study_writes_figures_and_numbers(pair, tmp_path, capsys):
    arguments = ["--balanced", str(pair / "balanced"), "--long_tailed", str(pair / "long_tailed")]
    data = ["--data", str(pair / "data" / "long_tailed"), "--output", str(tmp_path / "study"), "--bootstrap", "20"]
    assert main(["analyze", "study", *arguments, *data, "--gradients"]) == 0
    assert "spearman_noise" in capsys.readouterr().out
    names = {file.name for file in (tmp_path / "study").iterdir()}
    drawn = {"correlation", "attenuation", "drift", "probabilities", "gradients", "gradient_signs", "final_gradients"}
    assert names == {"study.json", "study.csv", "training.csv", "gradients.csv"} | {
        f"{n}.{e}" for n in drawn for e in ("png", "svg")
    }
    assert Image.open(tmp_path / "study" / "correlation.png").format == "PNG"
    content = json.loads((tmp_path / "study" / "study.json").read_text())
    assert content["split"] == "test"
    assert content["class_groups"] == {"blue": "tail", "green": "medium", "red": "head"}
    assert [entry["epoch"] for entry in content["training"]["long_tailed"]] == [1, 2]
    for history in content["training"].values():  # both by the groups of the long-tailed run
        assert all(set(entry["gradients"]) == {"head", "medium", "tail"} for entry in history)
        assert all(entry["gradients_of"] == "own loss" for entry in history)
    for name in ("balanced", "long_tailed"):
        gradients = {figure: own["groups"] for figure, own in content["final_gradients"][name]["figures"].items()}
        for group in ("head", "medium", "tail"):  # those of the long-tailed run, for both
            assert -1 <= gradients["positives"][group]["value"] <= 0 <= gradients["negatives"][group]["value"] <= 1
            assert gradients["push_down"][group]["low"] <= gradients["push_down"][group]["value"]
    rows = list(csv.DictReader((tmp_path / "study" / "study.csv").read_text().splitlines()))
    value = next(row for row in rows if (row["figure"], row["name"]) == ("spearman", "tail"))["value"]
    assert float(value) == content["figures"]["spearman"]["groups"]["tail"]["value"]


def test_data_without_boxes_are_one_line_and_exit_code_2(pair, capsys):
    code = main(["analyze", "localization", str(pair / "balanced"), "--data", str(pair / "data" / "balanced")])
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert "has no boxes, so localization cannot be measured on it" in error
    assert len(error.splitlines()) == 1


def test_localization_by_the_command_reads_boxes_from_another_place(pair, tmp_path, capsys):
    ids = load_images(pair / "data" / "balanced")["test"]["image_id"]
    content = {
        "images": [{"id": name, "file_name": f"{name}.png", "width": 48, "height": 48} for name in ids],
        "categories": [{"id": 1, "name": "red"}],
        "annotations": [
            {"id": number, "image_id": name, "category_id": 1, "bbox": [0, 0, 24, 48]}
            for number, name in enumerate(ids)
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    common = ["analyze", "localization", str(pair / "balanced"), "--data", str(pair / "data" / "balanced"),
              "--boxes", str(tmp_path / "boxes.json"), "--bootstrap", "10"]  # fmt: skip
    assert main([*common, "--output", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["num_images"] == len(ids)
    # Half of each image is box.
    assert found["box_area"]["groups"]["all"]["value"] == pytest.approx(0.5)
    assert set(found["kinds"]) == {"cam", "grad_cam", "grad_cam_plus_plus", "layer_cam"}
    assert main([*common, "--kinds", "cam", "--output", str(tmp_path / "found.csv")]) == 0
    assert (tmp_path / "found.csv").read_text().startswith("map,figure,level,name,value,low,high")
    capsys.readouterr()
    assert main([*common, "--output", str(tmp_path / "found.txt")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
