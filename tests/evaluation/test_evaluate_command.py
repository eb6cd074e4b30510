# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import csv
import html
import io
import json
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
from score_cases import COUNTS, NAMES, make_table

from modeling_cssfe.cli import main
from modeling_cssfe.evaluation.bootstrap import bootstrap
from modeling_cssfe.evaluation.comparison import compare
from modeling_cssfe.evaluation.score_files import read_scores, write_scores
from modeling_cssfe.evaluation.scoring import score_model


MAPS = ("map_total", "map_head", "map_medium", "map_tail")


@pytest.fixture
def files(tmp_path):
    """Score files of a weak and a strong model, with their tables."""
    tables = {}
    for name, skill in (("weak", 0.5), ("strong", 2.5)):
        path = tmp_path / f"{name}.npz"
        tables[str(path)] = make_table(120, seed=len(tables), name=str(path), skill=skill)
        write_scores(tables[str(path)], path)
    return tables


@pytest.fixture(scope="session")
def foreign_model(tmp_path_factory):
    """A ResNet of transformers with random weights and stock image processor, its classes in an order of their own."""
    import torch
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("foreign")
    names = ["red", "blue", "green"]
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8],
        depths=[1, 1],
        layer_type="basic",
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        problem_type="multi_label_classification",
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 384}).save_pretrained(folder)
    return folder


def edit_config(folder, target, **changes):
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    return target


def error_of(arguments, capsys):
    code = main([str(argument) for argument in arguments])
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if "error:" in line]
    assert code == 2, error
    assert len(lines) == 1
    assert "Traceback" not in error
    return lines[0]


def test_score_files_are_judged_with_intervals_and_nothing_else_is_needed(files, tmp_path, capsys):
    weak, strong = files
    output = tmp_path / "all.json"
    arguments = [
        "evaluate",
        weak,
        strong,
        "--bootstrap",
        "50",
        "--seed",
        "4",
        "--format",
        "csv",
        "--output",
        str(output),
    ]
    assert main(arguments) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    judged = json.loads(output.read_text())
    for row, entry, (path, table) in zip(rows, judged, files.items(), strict=True):
        expected = bootstrap(table, resamples=50, seed=4)
        assert row["model"] == entry["model"] == path
        for name in MAPS:
            interval = expected.intervals[name]
            assert float(row[name]) == entry[name] == table.figures()[name]
            assert float(row[f"{name}_low"]) == pytest.approx(interval.low, abs=1e-15)
            assert float(row[f"{name}_high"]) == pytest.approx(interval.high, abs=1e-15)
        assert entry["bootstrap"]["intervals"]["f1_macro_tail"]["low"] == expected.intervals["f1_macro_tail"].low
        assert entry["comparison"] is None


def test_against_says_in_a_sentence_whether_the_difference_is_real(files, tmp_path, capsys):
    weak, strong = files
    arguments = ["evaluate", strong, "--against", weak, "--bootstrap", "99", "--output", str(tmp_path / "all.json")]
    assert main(arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    expected = compare(files[strong], files[weak], resamples=99)
    assert " ".join(expected.sentence().split()) in shown
    assert "the difference is real at the level of 0.05" in shown
    assert "4 tests, each on its own" in shown
    assert "takes several training seeds" in shown
    assert "promises too much where classes have few positives" in shown
    saved = json.loads((tmp_path / "all.json").read_text())
    assert saved[0]["comparison"]["differences"]["map_total"]["p_permutation"] == 0.01
    assert [entry["model"] for entry in saved] == [strong, weak]

    assert main([*arguments[:-2], "--report", str(tmp_path / "report")]) == 0
    capsys.readouterr()
    page = html.unescape((tmp_path / "report" / "report.html").read_text(encoding="utf-8"))
    assert f"<li>{expected.sentence('map_tail')}</li>" in page

    shutil.copy(weak, tmp_path / "copy.npz")
    assert main(["evaluate", weak, "--against", str(tmp_path / "copy.npz"), "--bootstrap", "20"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "are equal" in shown
    assert "p = 1.0000" in shown
    assert "may well be chance" in shown


@pytest.mark.parametrize("format", ["table", "markdown", "latex"])
def test_every_format_shows_the_figures_and_their_intervals(format, files, capsys):
    path, table = next(iter(files.items()))
    assert main(["evaluate", path, "--bootstrap", "20", "--format", format]) == 0
    shown = capsys.readouterr().out
    entry = bootstrap(table, resamples=20).intervals["map_tail"]
    assert f"{100 * entry.value:.1f} [{100 * entry.low:.1f}, {100 * entry.high:.1f}]" in shown
    assert "20 resamples" in shown


def test_without_resamples_there_are_no_intervals(files, capsys):
    assert main(["evaluate", next(iter(files)), "--bootstrap", "0", "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "model,map_total,map_head,map_medium,map_tail"


def test_labels_and_counts_come_from_files_of_their_own(tmp_path, capsys):
    table = make_table(30, ties=False)
    scores, labels, counts = (tmp_path / name for name in ("s.csv", "l.csv", "c.csv"))
    for path, matrix in ((scores, table.scores), (labels, table.labels)):
        with open(path, "w", newline="") as file:
            rows = zip(table.image_ids, matrix.tolist(), strict=True)
            csv.writer(file).writerows([["image_id", *NAMES], *([image, *row] for image, row in rows)])
    counts.write_text("label,count\n" + "".join(f"{name},{count}\n" for name, count in zip(NAMES, COUNTS, strict=True)))
    arguments = [
        "evaluate",
        scores,
        "--labels",
        labels,
        "--class_counts",
        counts,
        "--bootstrap",
        "0",
        "--format",
        "csv",
    ]
    assert main([str(argument) for argument in arguments]) == 0
    row = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row[name]) for name in MAPS] == pytest.approx([table.figures()[name] for name in MAPS], abs=1e-15)
    assert main([str(argument) for argument in [*arguments, "--tail_max", "10"]]) == 0
    row = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert float(row["map_tail"]) == pytest.approx(table.figures()["per_class"]["cow"])


def test_a_model_of_another_kind_is_judged_as_a_loop_over_its_images_says(foreign_model, tiny_data, tmp_path, capsys):
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from modeling_cssfe.data import decode_image, load_images

    saved = tmp_path / "scores.parquet"
    arguments = ["evaluate", foreign_model, "--data", tiny_data, "--bootstrap", "10", "--save_scores", saved]
    assert main([str(argument) for argument in arguments]) == 0
    assert "total" in capsys.readouterr().out
    table = read_scores(saved)
    assert table.label_names == ("red", "blue", "green")
    assert table.class_counts == (14, 3, 8)  # the data's training split

    model = AutoModelForImageClassification.from_pretrained(foreign_model)
    processor = AutoImageProcessor.from_pretrained(foreign_model)
    test = load_images(tiny_data)["test"]
    names = test.features["labels"].feature.names
    for index, row in enumerate(test):
        with torch.no_grad():
            pixels = processor(decode_image(row["image"], image_id=row["image_id"]), return_tensors="pt")
            logits = model(**pixels).logits[0].double()
        np.testing.assert_allclose(table.scores[index], torch.sigmoid(logits), atol=1e-6)
        assert {name for name, label in zip(table.label_names, table.labels[index], strict=True) if label == 1} == {
            names[label] for label in row["labels"]
        }
    # The file stands for the model from here on.
    assert main(["evaluate", str(saved), "--bootstrap", "10", "--format", "csv"]) == 0


def test_a_softmax_model_is_refused_until_its_scores_are_named(foreign_model, tiny_data, tmp_path, capsys):
    folder = edit_config(foreign_model, tmp_path / "softmax", problem_type="single_label_classification")
    line = error_of(["evaluate", folder, "--data", tiny_data], capsys)
    assert "problem_type 'single_label_classification'" in line
    assert "--activation" in line
    saved = tmp_path / "s.npz"
    arguments = ["evaluate", folder, "--data", tiny_data, "--activation", "softmax", "--save_scores", saved]
    assert main([*map(str, arguments), "--bootstrap", "0"]) == 0
    np.testing.assert_allclose(read_scores(saved).scores.sum(axis=1), 1, atol=1e-12)


def test_our_model_and_a_foreign_one_stand_side_by_side(tiny_run, foreign_model, tiny_data, capsys):
    arguments = ["evaluate", tiny_run, "--against", foreign_model, "--data", tiny_data, "--head_min", "12"]
    arguments += ["--tail_max", "6", "--bootstrap", "20"]
    assert main([str(argument) for argument in arguments]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "mAP total:" in shown
    assert "mAP tail:" in shown


def test_classes_that_are_not_the_data_s_are_refused_with_the_difference(foreign_model, tiny_data, tmp_path, capsys):
    names = {"0": "red", "1": "blue", "2": "purple"}
    folder = edit_config(
        foreign_model, tmp_path / "other", id2label=names, label2id={v: int(k) for k, v in names.items()}
    )
    line = error_of(["evaluate", folder, "--data", tiny_data], capsys)
    assert "'purple'" in line
    assert "'green'" in line


def test_a_model_that_knows_no_counts_takes_them_from_a_file(foreign_model, tiny_data, tmp_path, capsys):
    data = tmp_path / "test_only"
    data.mkdir()
    shutil.copy(tiny_data / "test.parquet", data)
    line = error_of(["evaluate", foreign_model, "--data", data], capsys)
    assert "does not know its class_counts and the data has no split 'train'" in line
    counts = tmp_path / "counts.json"
    counts.write_text('{"red": 200, "green": 50, "blue": 3}')
    arguments = ["evaluate", foreign_model, "--data", data, "--class_counts", counts, "--bootstrap", "0"]
    assert main([*map(str, arguments), "--output", str(tmp_path / "all.json")]) == 0
    saved = json.loads((tmp_path / "all.json").read_text())[0]
    assert {row["name"]: row["group"] for row in saved["class_table"]} == {
        "red": "head",
        "blue": "tail",
        "green": "medium",
    }


def test_a_report_is_written_beside_the_table(tiny_run, tiny_data, tmp_path, capsys):
    # Matplotlib draws every picture of the report, maps over images included: up to twenty seconds on a busy core.
    arguments = ["evaluate", tiny_run, "--data", tiny_data, "--bootstrap", "10", "--report", tmp_path / "report"]
    assert main([str(argument) for argument in arguments]) == 0
    assert str(tmp_path / "report" / "report.html") in capsys.readouterr().err  # not among the tables
    text = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert str(tiny_run) in text
    assert "data:image/" in text
    assert f"{tiny_data}, split test</bdi>" in text
    assert "10 resamples, seed 0; it does not cover other training seeds, and it promises too much" in text
    entry = bootstrap(score_model(tiny_run, tiny_data), resamples=10).intervals["f1_samples"]
    assert f"{100 * entry.low:.1f} to {100 * entry.high:.1f}" in text.split("F1, mean over images")[1].split("</tr>")[0]


def test_runs_over_seeds_become_a_table_from_their_results_or_from_new_scores(tiny_run, tiny_data, tmp_path, capsys):
    runs = []
    for seed, shift in ((1, 0.0), (2, 0.02)):
        folder = tmp_path / f"seed{seed}"
        shutil.copytree(tiny_run, folder)
        results = json.loads((folder / "results.json").read_text())
        results["seed"] = results["recipe"]["seed"] = seed
        results["test"]["map_total"] = 0.5 + shift
        (folder / "results.json").write_text(json.dumps(results))
        runs.append(str(folder))
    assert main(["evaluate", *runs, "--format", "markdown", "--output", str(tmp_path / "groups.json")]) == 0
    assert f"| 51.00 ± {100 * 0.02 / np.sqrt(2):.2f} |" in capsys.readouterr().out  # as the files say
    groups = json.loads((tmp_path / "groups.json").read_text())
    assert groups[0]["figures"]["map_total"]["mean"] == pytest.approx(0.51)
    results["recipe"]["data"] = "other_data"
    shutil.copytree(runs[1], tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "results.json").write_text(json.dumps(results))
    assert main(["evaluate", runs[0], str(tmp_path / "elsewhere"), "--format", "markdown"]) == 0
    assert "Trained and judged on data of different names" in capsys.readouterr().out
    assert [run["seed"] for run in groups[0]["runs"]] == [1, 2]

    assert main(["evaluate", *runs, "--data", str(tiny_data), "--format", "csv", "--bootstrap", "0"]) == 0
    row = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    trained = json.loads((tiny_run / "results.json").read_text())["test"]
    assert float(row["map_total"]) == pytest.approx(trained["map_total"])  # judged again: both are the same weights
    assert float(row["map_total_std"]) == 0
    assert row["model"].endswith("(2 seeds)")

    other = json.loads((tmp_path / "seed2" / "results.json").read_text())
    other["recipe"]["loss"] = "bce"
    shutil.copytree(runs[1], tmp_path / "other")
    (tmp_path / "other" / "results.json").write_text(json.dumps(other))
    arguments = ["evaluate", *runs, "--against", str(tmp_path / "other"), "--bootstrap", "0", "--format", "csv"]
    for data in ([], ["--data", str(tiny_data)]):
        assert main([*arguments, *data]) == 0
        assert next(csv.DictReader(io.StringIO(capsys.readouterr().out)))["model"] == "bce (1 seed)"


def test_a_copy_of_a_run_is_judged_beside_it_without_a_table_over_seeds(tiny_run, tiny_data, tmp_path, capsys):
    shutil.copytree(tiny_run, tmp_path / "copy")
    arguments = ["evaluate", tiny_run, tmp_path / "copy", "--data", tiny_data, "--bootstrap", "0", "--format", "csv"]
    assert main([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    assert len(list(csv.DictReader(io.StringIO(captured.out)))) == 2
    assert "note: no table over seeds" in captured.err
    assert "are the same recipe with the same seed" in captured.err


def test_a_test_set_without_any_tail_positive_has_a_dash_and_says_why(tmp_path, capsys):
    table = make_table(60, unknown=0)
    labels = table.labels.copy()
    labels[:, 4:] = 0
    path = tmp_path / "scores.npz"
    write_scores(make_table(60, labels=labels), path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once, in the table's notes
        assert main(["evaluate", str(path), "--bootstrap", "20", "--output", str(tmp_path / "all.json")]) == 0
    shown = capsys.readouterr().out
    assert "No positive image, left out of all means: bus, cow." in " ".join(shown.split())
    assert "-: the group has no class with a positive image." in shown
    saved = json.loads((tmp_path / "all.json").read_text())[0]
    assert saved["map_tail"] is None
    assert saved["bootstrap"]["intervals"]["map_tail"]["low"] is None


def test_rows_whose_groups_differ_are_marked_as_such(files, tmp_path, capsys):
    path, table = next(iter(files.items()))
    write_scores(replace(table, head_min=121), tmp_path / "other.npz")  # a car, in 120 images, is head no more
    assert main(["evaluate", path, str(tmp_path / "other.npz"), "--bootstrap", "0"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Rows do not agree which classes are head, medium and tail (car)" in shown
    assert main(["evaluate", *files, "--bootstrap", "0"]) == 0
    assert "Rows do not agree" not in capsys.readouterr().out


def test_top_k_and_eleven_points_reach_the_figures(files, tmp_path):
    path, table = next(iter(files.items()))
    output = tmp_path / "all.json"
    arguments = ["evaluate", path, "--top_k", "2", "--average_precision_method", "11-point", "--bootstrap", "10"]
    assert main([*arguments, "--output", str(output)]) == 0
    saved = json.loads(output.read_text())[0]
    expected = table.figures(top_k=2, average_precision_method="11-point")
    assert (saved["of1"], saved["map_total"]) == (expected["of1"], expected["map_total"])
    assert saved["bootstrap"]["intervals"]["of1"]["value"] == pytest.approx(expected["of1"])
    assert saved["protocol"]["average_precision_method"] == "11-point"


def test_mistakes_are_one_line_before_anything_is_scored(files, tiny_run, tmp_path, capsys):
    path = next(iter(files))
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, message in (
        ([empty], "holds no results.json"),
        ([path, "--format", "latx"], "Did you mean 'latex'"),
        ([path, "--bootstrap", "1"], "needs at least 2"),
        ([path, "--confidence", "95"], "confidence is 95"),
        ([path, "--save_scores", tmp_path / "scores.pkl"], "unknown kind of score file '.pkl'"),
        ([*files, "--save_scores", tmp_path / "s.csv"], "--save_scores names one file for 2 models"),
        ([path, "--against", path], "compared with itself"),
        ([path, "--data", "lt_digits", "--labels", "l.csv"], "give one of the two"),
        ([path, tiny_run], "is no score file; give the images it is judged on with --data"),
        ([tmp_path / "none.csv"], "there is no file"),
        ([path, "--top_k", "7"], "top_k is 7 but there are only 6 classes"),
        ([path, "--average_precision_method", "aera"], "Did you mean 'area'"),
        ([tiny_run, "--report", tmp_path / "report"], "--report needs scores"),
        ([tiny_run, "--split", "validation"], "--split needs scores"),
        ([tiny_run, "--labels", path.replace("npz", "txt")], "--labels needs scores"),
        ([tiny_run, "--head_min", "5"], "--head_min needs scores"),
        ([tiny_run, "--average_precision_method", "11-point"], "--average_precision_method needs scores"),
        ([path, "--top_k", "2", "--report", tmp_path / "report"], "leave out --top_k"),
        ([path, "--average_precision_method", "11-point", "--report", tmp_path / "report"], "leave out --top_k"),
        ([path, "--report", path], "is a file; choose a folder"),
        ([path, "--seed", "-1"], "seed is -1"),
        ([path, "--top_k", "0"], "top_k must be at least 1"),
        ([path, "--against", tmp_path / "none.csv", "--bootstrap", "0", "--confidence", "95"], "confidence is 95"),
        ([path, "--class_counts", tmp_path / "none.json"], "there is no file"),
    ):
        assert message in error_of(["evaluate", *arguments], capsys)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["empty", "strong.npz", "weak.npz"]
