import dataclasses
import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_resume import require_equal_runs
from tiny_runs import tiny_overrides

from modeling_cssfe.analysis.pair import train_pair
from modeling_cssfe.cli import main
from modeling_cssfe.recipes import Recipe, first_phase_recipe
from modeling_cssfe.recipes.checks import KEYS_OF_BOTH_PHASES
from modeling_cssfe.training import engine, load_recipe, train
from modeling_cssfe.training.grid import plan_grid, run_grid
from modeling_cssfe.training.interruption import TrainingInterruptedError


FIRST = {"epochs": 1, "freeze_backbone": True, "learning_rate": 0.02}


def two_phases(tiny_data, **changes):
    first = "{" + ", ".join(f"{key}: {value}" for key, value in FIRST.items()) + "}"
    return load_recipe(None, tiny_overrides(tiny_data, first_phase=first, **changes))


@pytest.fixture(scope="module")
def whole(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_phases") / "whole"
    train(two_phases(tiny_data), folder, quiet=True)
    return folder


def test_two_phases_are_the_same_as_two_runs(whole, tiny_data, tmp_path):
    overrides = tiny_overrides(tiny_data)
    settings = [*overrides, "epochs=1", "freeze_backbone=true", "learning_rate=0.02", "test_split=null"]
    train(load_recipe(None, settings), tmp_path / "first", quiet=True)
    train(load_recipe(None, [*overrides, f"initial_model={tmp_path / 'first'}"]), tmp_path / "second", quiet=True)
    for one, other in ((whole / "first_phase", tmp_path / "first"), (whole, tmp_path / "second")):
        assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
        figures = [json.loads((run / "results.json").read_text()) for run in (one, other)]
        assert figures[0]["validation"] == figures[1]["validation"]
        assert figures[0]["test"] == figures[1]["test"]


def test_the_second_phase_starts_where_the_first_ended(tiny_data, tmp_path):
    still = {"learning_rate": 1e-30, "weight_decay": 0.0, "ema_decay": "null", "freeze_batch_norm": "true"}
    train(two_phases(tiny_data, **still), tmp_path / "run", quiet=True)
    first, second = (load_file(tmp_path / "run" / part / "model.safetensors") for part in ("first_phase", "."))
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_the_first_phase_does_not_look_at_the_test_split(whole):
    first, second = (json.loads((whole / part / "results.json").read_text()) for part in ("first_phase", "."))
    assert first["test"] is None
    assert set(first["data_fingerprint"]) == {"train", "validation"}
    assert second["test"]["map_total"] is not None
    assert second["recipe"]["first_phase"] == FIRST
    assert second["recipe"]["initial_model"] is None


def test_results_and_card_tell_of_the_first_phase(whole):
    first, second = (json.loads((whole / part / "results.json").read_text()) for part in ("first_phase", "."))
    summary = {key: first[key] for key in ("map_total", "map_head", "map_medium", "map_tail", "best_epoch")}
    assert second["first_phase"] == {**summary, "wall_time_seconds": first["wall_time_seconds"]}
    assert "first_phase" not in first
    card = (whole / "README.md").read_text()
    assert "; before them 1 in a first phase |" in card
    assert "before them" not in (whole / "first_phase" / "README.md").read_text()


def test_a_signal_in_the_first_phase_says_how_the_whole_run_goes_on(tiny_data, tmp_path, monkeypatch):
    def fit(run):
        raise TrainingInterruptedError(f"go on with --output_dir {run.folder.path}", 15)

    monkeypatch.setattr(engine, "fit", fit)
    with pytest.raises(TrainingInterruptedError, match=f"go on with --output_dir {tmp_path / 'run'} --resume") as told:
        train(two_phases(tiny_data), tmp_path / "run", quiet=True)
    assert told.value.exit_code == 143


def test_a_checkpoint_needs_a_finished_first_phase(tiny_data, tmp_path):
    (tmp_path / "update-1").mkdir()
    with pytest.raises(ValueError, match="no finished first phase; go on by --resume auto"):
        train(two_phases(tiny_data), tmp_path / "run", quiet=True, resume=tmp_path / "update-1")
    assert not (tmp_path / "run").exists()


def test_the_second_phase_refuses_images_that_the_first_did_not_have(whole, tiny_data, tmp_path):
    shutil.copytree(whole / "first_phase", tmp_path / "run" / "first_phase")
    shutil.copytree(tiny_data, tmp_path / "data")
    shutil.copyfile(tiny_data / "validation.parquet", tmp_path / "data" / "train.parquet")
    results = json.loads((whole / "first_phase" / "results.json").read_text())
    results["recipe"]["data"] = str(tmp_path / "data")
    (tmp_path / "run" / "first_phase" / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"split 'train' has changed since the first phase in .* was trained"):
        train(two_phases(tmp_path / "data"), tmp_path / "run", quiet=True, resume="auto")


@pytest.mark.parametrize("key", ["num_workers", "checkpoints_kept"])
def test_what_may_change_in_a_run_may_change_in_its_first_phase(key, whole, tiny_data, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    changed = dataclasses.replace(two_phases(tiny_data), first_phase={**FIRST, key: 1})
    assert train(changed, tmp_path / "run", quiet=True, resume="auto")["seed"] == 0


def test_a_key_of_the_first_phase_that_differs_is_named(whole, tiny_data, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    changed = dataclasses.replace(two_phases(tiny_data), first_phase={**FIRST, "epochs": 3, "loss": "bce"})
    with pytest.raises(ValueError, match=r"run/first_phase', .* recipe\.epochs \(3, was 1\), recipe\.loss \("):
        train(changed, tmp_path / "run", quiet=True, resume="auto")
    shutil.rmtree(tmp_path / "run" / "first_phase")
    with pytest.raises(ValueError, match=r"recipe\.first_phase\.epochs \(3, was 1\), recipe\.first_phase\.loss \("):
        train(changed, tmp_path / "run", quiet=True, resume="auto")
    with pytest.raises(ValueError, match=r"first_phase\.epochs \(null, was 1\)"):
        train(dataclasses.replace(two_phases(tiny_data), first_phase=None), tmp_path / "run", quiet=True, resume="auto")


@pytest.mark.parametrize(
    ("settings", "weight"),
    [({"model": {"map_gate": True}}, "gate"), ({"backbone": "test_vit"}, "pos_embed")],
)
def test_weights_that_depend_on_the_size_keep_it_in_both_phases(settings, weight, tmp_path):
    recipe = Recipe(**{"backbone": "test_resnet", "image_size": 96, **settings}, first_phase={"image_size": 64})
    with pytest.raises(ValueError, match=f"first_phase.image_size 64 .*{weight}.*; give both phases one size"):
        train(recipe, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_null_is_one_phase_also_over_what_a_recipe_extends(tmp_path):
    (tmp_path / "one.yaml").write_text("extends: voc07_lt_two_phases\nfirst_phase: null\n")
    assert load_recipe("voc07_lt_two_phases").first_phase["freeze_backbone"] is True
    assert load_recipe(str(tmp_path / "one.yaml")).first_phase is None
    assert load_recipe("voc07_lt_two_phases", ["first_phase=null"]).first_phase is None
    assert load_recipe("voc07_lt_two_phases", ["first_phase.epochs=3"]).first_phase["epochs"] == 3
    assert load_recipe("lt_digits", ["first_phase.epochs=3"]).first_phase == {"epochs": 3}


def test_what_is_wrong_with_both_phases_is_told_once():
    with pytest.raises(ValueError, match=r"has 1 problem\(s\): epochs is 0: give a number >= 1\.$"):
        Recipe(epochs=0, first_phase={"learning_rate": 0.1})


@pytest.mark.parametrize("stop", ["first", "between", "second"])
def test_a_run_goes_on_in_the_phase_in_which_it_was_stopped(stop, whole, tiny_data, tmp_path, monkeypatch):
    recipe = two_phases(tiny_data)
    inner, seen = engine.fit, []

    def fit(run):
        seen.append(run.folder.path.name)
        if stop == "first" or (stop == "between" and len(seen) == 2):
            raise KeyError("stopped")
        inner(run)
        if stop == "second" and len(seen) == 2:
            raise KeyError("stopped")

    monkeypatch.setattr(engine, "fit", fit)
    with pytest.raises(KeyError, match="stopped"):
        train(recipe, tmp_path / "run", quiet=True)
    begun = list(seen)
    if stop == "first":  # it had nothing to keep
        assert not (tmp_path / "run" / "first_phase").exists()
        (tmp_path / "run" / "first_phase").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds another run; choose another folder or empty it first, or go on"):
        train(recipe, tmp_path / "run", quiet=True)
    monkeypatch.setattr(engine, "fit", lambda run: (seen.append(run.folder.path.name), inner(run)))
    train(recipe, tmp_path / "run", quiet=True, resume="auto")
    assert seen[len(begun) :] == (["first_phase", "run"] if stop == "first" else ["run"])
    require_equal_runs(whole, tmp_path / "run")


def test_another_first_phase_is_no_start_for_this_run(whole, tiny_data, tmp_path):
    shutil.copytree(whole / "first_phase", tmp_path / "run" / "first_phase")
    changed = dataclasses.replace(two_phases(tiny_data), first_phase={**FIRST, "epochs": 2})
    with pytest.raises(ValueError, match=r"first_phase.*another run: recipe\.epochs \(2, was 1\)"):
        train(changed, tmp_path / "run", quiet=True, resume="auto")


def test_a_finished_run_needs_its_first_phase_no_more(whole, tiny_data, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "first_phase")
    results = train(two_phases(tiny_data), tmp_path / "run", quiet=True, resume="auto")
    assert results == json.loads((whole / "results.json").read_text())
    assert not (tmp_path / "run" / "first_phase").exists()


def test_a_run_of_two_phases_can_be_repeated(whole, tmp_path, capsys):
    assert main(["train", "--from", str(whole), "--output_dir", str(tmp_path / "again"), "--quiet"]) == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_dry_run_tries_both_phases(tiny_data, tmp_path, capsys):
    command = ["train", "--output_dir", str(tmp_path / "run"), "--dry_run", "--set", *tiny_overrides(tiny_data)]
    assert main([*command, "first_phase.epochs=1", "first_phase.image_size=48"]) == 0
    shown = capsys.readouterr().out
    assert "Dry run of the first phase" in shown
    assert "x 48 x 48" in shown
    assert "x 64 x 64" in shown
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("first_phase", "message"),
    [
        ({"epochz": 3}, r"in first_phase, unknown key 'epochz' in the recipe; did you mean 'epochs'\?"),
        ({"epochs": 0}, "in first_phase, the recipe has 1 problem.*epochs is 0: give a number >= 1"),
        ({"epochs": "many"}, "in first_phase, epochs is 'many': give a whole number"),
        ({"cache_features": "here"}, "in first_phase, .*cache_features needs freeze_backbone"),
    ],
)
def test_what_is_wrong_with_a_first_phase_is_told(first_phase, message):
    with pytest.raises(ValueError, match=message):
        Recipe(first_phase=first_phase)


def test_a_grid_takes_a_run_of_another_first_phase_for_another_run(whole, tiny_data, tmp_path):
    shutil.copytree(whole, tmp_path / "grid" / "mine" / "seed0")
    file = tmp_path / "mine.yaml"
    for epochs, status in ((1, "done"), (2, "failed")):
        recipe = dataclasses.replace(two_phases(tiny_data), first_phase={**FIRST, "epochs": epochs})
        file.write_text(yaml.safe_dump(dataclasses.asdict(recipe)))
        outcomes = run_grid(plan_grid([str(file)], [0], tmp_path / "grid"), tmp_path / "grid", quiet=True)
        assert [outcome.status for outcome in outcomes] == [status]
    assert "first_phase.epochs (2, was 1)" in outcomes[0].error


def test_a_pair_of_networks_refuses_two_phases(tiny_data, tmp_path):
    with pytest.raises(ValueError, match="more images than the other; set first_phase to null"):
        train_pair(two_phases(tiny_data), tmp_path / "pair", quiet=True)
    assert not (tmp_path / "pair").exists()


@pytest.mark.parametrize("key", KEYS_OF_BOTH_PHASES)
def test_a_first_phase_is_of_the_same_images_and_network(key):
    with pytest.raises(ValueError, match=f"first_phase.{key} is the same in both phases: set {key} itself"):
        Recipe(first_phase={key: getattr(Recipe(), key)})


def test_a_first_phase_has_everything_else_from_the_recipe():
    recipe = Recipe(loss="bce", epochs=3, first_phase={"epochs": 7}, published={"map_total": 0.5})
    expected = dataclasses.replace(recipe, epochs=7, first_phase=None, published={}, test_split=None)
    assert first_phase_recipe(recipe) == expected
    assert first_phase_recipe(expected) is None
