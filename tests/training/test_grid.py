# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Grids. Half a minute of one core: a dozen tiny runs are trained for real, each with its evaluations and files."""

import csv
import json
import re

import numpy as np
import pytest
from tiny_runs import tiny_overrides

from modeling_cssfe.cli import main
from modeling_cssfe.evaluation.figure_tables import format_table
from modeling_cssfe.training import grid, load_recipe, loop
from modeling_cssfe.training.grid import grid_tables, plan_grid, run_grid
from modeling_cssfe.training.interruption import TrainingInterruptedError


FIGURES = ("map_total", "map_head", "map_medium", "map_tail")


@pytest.fixture
def recipes(tmp_path):
    """Two recipes, one with published figures, and the arguments of a grid of both."""
    (tmp_path / "whole.yaml").write_text("loss: asl\npublished: {data: Squares, map_total: 0.9012, map_tail: 0.75}\n")
    (tmp_path / "plain.yaml").write_text("ablation: net0\nloss: bce\n")
    return f"{tmp_path}/whole.yaml,{tmp_path}/plain.yaml"


def start(recipes, folder, data, *more, seeds="0,1", **changes):
    overrides = tiny_overrides(data, epochs=1, **changes)
    return main(["train", "--recipe", recipes, "--seeds", seeds, "--output_dir", str(folder), *more,
                 "--set", *overrides])  # fmt: skip


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data):
    """A finished grid of two recipes with two seeds."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "whole.yaml").write_text("published: {data: Squares, map_total: 0.9012, map_tail: 0.75}\n")
    (folder / "plain.yaml").write_text("ablation: net0\nloss: bce\n")
    names = [str(folder / "whole.yaml"), str(folder / "plain.yaml")]
    runs = plan_grid(names, [0, 1], folder / "runs", tiny_overrides(tiny_data))
    return run_grid(runs, folder / "runs", quiet=True), folder / "runs"


def test_a_run_of_a_grid_is_the_one_that_is_trained_alone(trained, tiny_run):
    _, folder = trained
    alone = (tiny_run / "model.safetensors").read_bytes()
    assert (folder / "whole" / "seed0" / "model.safetensors").read_bytes() == alone
    assert (folder / "whole" / "seed1" / "model.safetensors").read_bytes() != alone
    assert results_of(folder / "whole" / "seed1")["seed"] == 1
    assert results_of(folder / "plain" / "seed0")["recipe"]["ablation"] == "net0"


def test_the_table_has_means_and_deviations_and_the_published_figures_below(trained):
    outcomes, folder = trained
    (table,) = grid_tables(outcomes)
    rows = dict(table.rows)
    assert list(rows) == ["whole (2 seeds)", "whole, published on Squares", "plain (2 seeds)"]
    for name in ("whole", "plain"):
        for place, figure in enumerate(FIGURES):
            values = [results_of(folder / name / f"seed{seed}")["test"][figure] for seed in (0, 1)]
            cell = rows[f"{name} (2 seeds)"][place]
            assert (cell.value, cell.std) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    assert [cell.value for cell in rows["whole, published on Squares"]] == [0.9012, None, None, 0.75]
    assert "90.12" in format_table(table, "markdown")


def test_the_files_say_what_the_table_says_and_what_became_of_each_run(trained):
    _, folder = trained
    content = json.loads((folder / "grid.json").read_text())
    assert [(run["folder"], run["status"], run["error"]) for run in content["runs"]] == [
        (f"{name}/seed{seed}", "done", None) for name in ("whole", "plain") for seed in (0, 1)
    ]
    with open(folder / "grid.csv", newline="") as file:
        lines = {line["recipe"]: line for line in csv.DictReader(file)}
    for row in content["rows"]:
        assert (row["seeds"], row["split"]) == ([0, 1], "test")
        tails = [results_of(folder / row["recipe"] / f"seed{seed}")["test"]["map_tail"] for seed in (0, 1)]
        assert row["map_tail"]["mean"] == float(lines[row["recipe"]]["map_tail_mean"]) == pytest.approx(np.mean(tails))
        assert lines[row["recipe"]]["seeds"] == "2"
    assert lines["whole"]["map_tail_published"] == "0.75"
    assert lines["whole"]["map_head_published"] == lines["plain"]["map_total_published"] == ""
    published = results_of(folder / "whole" / "seed0")["recipe"]["published"]
    assert published == {"data": "Squares", "map_total": 0.9012, "map_tail": 0.75}


def test_what_is_done_is_kept_and_another_recipe_in_its_place_is_refused(trained, monkeypatch):
    outcomes, folder = trained
    monkeypatch.setattr(grid, "train", lambda *given, **options: pytest.fail("nothing is left to train"))
    lines = []
    again = run_grid([outcome.run for outcome in outcomes], folder, tell=lines.append)
    assert [outcome.status for outcome in again] == ["done"] * 4
    assert lines[0] == "[1/4] whole, seed 0 is done: kept"
    # Where checkpoints lie and what reports the run changes no result; its epochs do.
    first = outcomes[0].run
    recipe = load_recipe(vars(first.recipe) | {"checkpoints_kept": 9, "epochs": 5})
    before = (folder / "grid.csv").read_text()
    refused = run_grid([grid.GridRun(first.name, recipe, first.folder)], folder)
    assert refused[0].status == "failed"
    assert re.search(r"whole/seed0' holds a run of another recipe: epochs \(5, was 2\); choose", refused[0].error)
    assert (folder / "grid.csv").read_text() != before
    run_grid([outcome.run for outcome in outcomes], folder)
    assert (folder / "grid.csv").read_text() == before


def test_a_failed_run_does_not_keep_the_others_and_is_tried_again(recipes, tmp_path, tiny_data, capsys):
    (tmp_path / "bad.yaml").write_text("loss: no_such_loss\n")
    recipes = recipes.replace(",", f",{tmp_path}/bad.yaml,")
    folder = tmp_path / "runs"
    assert start(recipes, folder, tiny_data, seeds="3") == 1
    shown = capsys.readouterr()
    errors = [line for line in shown.err.splitlines() if "error:" in line]
    assert errors == ["cssfe train: error: 1 of 3 runs failed, as said above; the same command tries them again."]
    assert "cssfe train: bad, seed 3 failed: CSSFEConfig has 1 problem(s): unknown loss 'no_such_loss'" in shown.err
    assert "Traceback" not in shown.err
    assert "whole (1 seed)" in shown.out
    assert "whole, published on Squares" in shown.out
    assert "plain (1 seed)" in shown.out
    statuses = {run["folder"]: run["status"] for run in json.loads((folder / "grid.json").read_text())["runs"]}
    assert statuses == {"whole/seed3": "done", "bad/seed3": "failed", "plain/seed3": "done"}
    with open(folder / "grid.csv", newline="") as file:
        bad = next(line for line in csv.DictReader(file) if line["recipe"] == "bad")
    assert (bad["seeds"], bad["map_total_mean"]) == ("0", "")

    weights = folder / "whole" / "seed3" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    (tmp_path / "bad.yaml").write_text("loss: focal\n")
    assert start(recipes, folder, tiny_data, "--quiet", seeds="3") == 0
    assert capsys.readouterr().out == ""
    assert weights.stat().st_mtime_ns == before
    assert results_of(folder / "bad" / "seed3")["recipe"]["loss"] == "focal"


def test_an_unfinished_run_goes_on_from_its_checkpoint(trained, tmp_path, monkeypatch):
    outcomes, reference = trained
    runs = [grid.GridRun("whole", outcomes[0].run.recipe, tmp_path / "whole" / "seed0")]
    update, done = loop._update, []

    def stopping(*arguments):
        if len(done) == 4:
            raise RuntimeError("the machine\nis gone")
        done.append(None)
        update(*arguments)

    monkeypatch.setattr(loop, "_update", stopping)
    (failed,) = run_grid(runs, tmp_path, quiet=True)
    assert (failed.status, failed.error) == ("failed", "the machine is gone")
    assert "in stopping" in failed.trace
    monkeypatch.setattr(loop, "_update", lambda *arguments: (done.append(None), update(*arguments)))
    (again,) = run_grid(runs, tmp_path, quiet=True)
    assert again.status == "done"
    # Two epochs of three updates: four before the stop, of which the second epoch's one is done again.
    assert len(done) == 4 + 3
    weights = [folder / "whole" / "seed0" / "model.safetensors" for folder in (tmp_path, reference)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_half_of_a_results_file_is_named_and_left_as_it_is(trained, tmp_path):
    outcomes, _ = trained
    folder = tmp_path / "whole" / "seed0"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text('{"map_total": 0.5, "reci')
    (outcome,) = run_grid([grid.GridRun("whole", outcomes[0].run.recipe, folder)], tmp_path)
    assert outcome.error.endswith(f"is not whole; remove {str(folder)!r} to train again.")
    assert (folder / "results.json").read_text() == '{"map_total": 0.5, "reci'
    assert json.loads((tmp_path / "grid.json").read_text())["rows"][0]["seeds"] == []


@pytest.mark.parametrize(("number", "code"), [(15, 143), (2, 130)])
def test_a_signal_ends_the_grid_with_its_own_code(number, code, recipes, tmp_path, tiny_data, monkeypatch, capsys):
    begun = []

    def interrupted(recipe, folder, **options):
        begun.append((folder, options["resume"]))
        raise TrainingInterruptedError("the run is saved; go on by --resume auto.", number)

    monkeypatch.setattr(grid, "train", interrupted)
    assert start(recipes, tmp_path / "runs", tiny_data) == code
    assert begun == [(tmp_path / "runs" / "whole" / "seed0", "auto")]
    assert "the run is saved" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipes", "more", "message"),
    [
        ("lt_digits,lt_digit", [], "did you mean 'lt_digits'"),
        ("lt_digits,lt_digits", [], "two recipes of the grid are named 'lt_digits'"),
        ("lt_voc_net3,lt_voc_cssfe_released", [], "'lt_voc_net3' and 'lt_voc_cssfe_released' are the same run"),
        ("lt_digits", ["--seeds", "0,1,0"], "seed 0 is given twice"),
        ("lt_digits", ["--seeds", "0,one"], "'0,one' is no list of seeds"),
        ("lt_digits", ["--seeds", "0,1", "--seed", "2"], "--seed 2 does not go with a grid"),
        ("lt_digits", ["--seeds", "0,1", "--resume", "somewhere"], "--resume somewhere does not go with a grid"),
        ("lt_digits,lt_digits_net0", ["--set", "epocs=1"], "did you mean 'epochs'"),
        ("lt_digits,lt_digits_net0", ["--output_dir", "{file}"], "is a file; choose a folder"),
    ],
)
def test_a_wrong_grid_is_one_line_and_trains_nothing(recipes, more, message, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    options = ["--output_dir", str(tmp_path / "runs"), *(one.format(file=tmp_path / "file") for one in more)]
    assert main(["train", "--recipe", recipes, *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_without_seeds_each_recipe_has_its_own(tmp_path):
    (tmp_path / "a,b.yaml").write_text("seed: 7\n")
    runs = plan_grid([str(tmp_path / "a,b.yaml"), "lt_digits"], None, tmp_path / "runs")
    assert [run.folder.relative_to(tmp_path / "runs").as_posix() for run in runs] == ["a,b/seed7", "lt_digits/seed0"]


def test_recipes_on_other_images_have_a_table_of_their_own(trained, tmp_path):
    _, folder = trained
    runs = []
    for name, fingerprint in (("a", "1"), ("b", "2"), ("c", "1")):
        results = results_of(folder / "whole" / "seed0")
        results["data_fingerprint"]["test"] = fingerprint
        results["recipe"]["loss"] = {"a": "asl", "b": "bce", "c": "focal"}[name]
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results))
        recipe = load_recipe(results["recipe"])
        runs.append(grid.GridOutcome(grid.GridRun(name, recipe, tmp_path / name), "done"))
    tables = grid_tables(runs)
    assert [[name for name, _ in table.rows if "published" not in name] for table in tables] == [
        ["a (1 seed)", "c (1 seed)"],
        ["b (1 seed)"],
    ]


def test_a_dry_run_of_a_grid_checks_each_recipe_once(recipes, tmp_path, tiny_data, capsys):
    assert start(recipes, tmp_path / "runs", tiny_data, "--dry_run") == 0
    shown = capsys.readouterr().out
    assert [line.strip() for line in shown.splitlines() if "Dry run" in line] == [
        "Dry run of whole",
        "Dry run of plain",
    ]
    assert not (tmp_path / "runs").exists()
    assert start(recipes, tmp_path / "runs", tiny_data, "--dry_run", loss="no_such_loss") == 1
    assert re.search("whole: .* of .* checks failed: model; plain: .* checks failed: model", capsys.readouterr().err)


def test_one_run_shows_what_was_published_beside_what_was_reached(recipes, tmp_path, tiny_data, capsys):
    whole = recipes.split(",")[0]
    overrides = tiny_overrides(tiny_data, epochs=1)
    assert main(["train", "--recipe", whole, "--output_dir", str(tmp_path / "run"), "--set", *overrides]) == 0
    shown = capsys.readouterr().out
    (row,) = [line for line in shown.splitlines() if "published on Squares" in line]
    assert re.findall(r"[\d.]+|-", row) == ["90.1", "-", "-", "75.0"]
