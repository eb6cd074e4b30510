import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_runs import make_scene, tiny_overrides

from modeling_cssfe.cli import build_parser, main
from modeling_cssfe.configuration_cssfe import GROUPS


ROOT = Path(__file__).parents[1]


def verbs_of(parser, dest="verb"):
    choices = next(action for action in parser._actions if action.dest == dest).choices
    for name, verb in sorted(choices.items()):
        actions = list(verbs_of(verb, "action")) if any(one.dest == "action" for one in verb._actions) else [""]
        yield from (f"{name} {action}".strip() for action in actions)


VERBS = list(verbs_of(build_parser()))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    import numpy as np

    file = tmp_path_factory.mktemp("scene") / "scene.png"
    make_scene(np.random.default_rng(3), ["red", "blue"]).save(file)
    return file


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_defaults(verb, capsys):
    assert main([*verb.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert f"cssfe {verb}" in text
    if verb not in ("losses", "info"):
        assert "(default:" in text


def test_version_and_no_verb(capsys):
    from modeling_cssfe import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__
    assert main([]) == 2
    assert capsys.readouterr().err == "cssfe: error: which verb? `cssfe --help` lists them.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "invalid choice"),
        (["train"], "--output_dir"),
        (["train", "--output_dir", "{new}", "--recipe", "lt_digit"], "did you mean 'lt_digits'"),
        (["train", "--output_dir", "{new}", "--set", "epocs=1"], "did you mean 'epochs'"),
        (["train", "--output_dir", "{new}", "--set", "preset=papr"], "unknown preset 'papr'"),
        (["train", "--output_dir", "{new}", "--data", "{empty}"], "{empty}"),
        (["train", "--output_dir", "{new}", "--data", "{new}/nowhere"], "nowhere"),
        (["train", "--output_dir", "{run}", "--set", "backbone=test_resnet"], "holds another run"),
        (["evaluate", "{empty}", "--data", "lt_digits"], "no model"),
        (["evaluate", "{run}", "--data", "{data}", "--split", "tset"], "has no split 'tset'"),
        (["predict", "{run}", "{new}.png"], "there is no image"),
        (["predict", "{run}", "{text}"], "text.png"),
        (["predict", "{run}", "{empty}"], "holds no images"),
        (["predict", "{run}", "{scene}", "--top_k", "0"], "--top_k is 0"),
        (["explain", "{run}", "{scene}", "--labels", "blu"], "did you mean 'blue'"),
        (["explain", "{run}", "{scene}", "--output", "{new}.jpg"], "choose a .png or .svg"),
        (["card", "{empty}"], "holds no results.json"),
        (["data", "inspect", "{empty}"], "{empty}"),
        (["data", "inspect", "{data}", "--output", "{text}/a.png"], "is a file; choose another place"),
        (["evaluate", "{run}", "--data", "{data}", "--report", "{text}/a/b"], "is a file; choose another place"),
        (["evaluate", "{run}", "--data", "{data}", "--output", "{empty}"], "is a folder; name a file"),
        (["train", "--output_dir", "{new}", "--set", "backbone=test_resnet.foo"], "unknown pretrained tag 'foo'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "_".join(value)[:40],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, tmp_path, tiny_run, tiny_data, scene, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    text = tmp_path / "text.png"
    text.write_text("this is no image")
    places = {"new": tmp_path / "new", "empty": empty, "run": tiny_run, "data": tiny_data, "text": text, "scene": scene}
    code = main([argument.format(**places) for argument in arguments])
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if "error:" in line]
    assert code == 2, error
    assert len(lines) == 1
    assert message.format(**places) in lines[0]
    assert "Traceback" not in error
    assert not (tmp_path / "new").exists()


def test_debug_shows_the_traceback_and_keeps_the_exit_code(tmp_path, capsys):
    assert main(["train", "--output_dir", str(tmp_path / "new"), "--recipe", "lt_digit", "--debug"]) == 2
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert "did you mean" in error.splitlines()[-1]


def test_train_evaluate_predict_explain_and_card(tiny_data, tmp_path, scene, capsys, monkeypatch):
    run = str(tmp_path / "run")
    assert main(["train", "--recipe", "lt_digits", "--output_dir", run, "--data", str(tiny_data),
                 "--seed", "3", "--set", *tiny_overrides(tiny_data)[1:]]) == 0  # fmt: skip
    shown = capsys.readouterr().out
    assert "medium" in shown
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["seed"] == 3

    assert main(["evaluate", run, "--data", str(tiny_data), "--output", str(tmp_path / "all.json")]) == 0
    judged = json.loads((tmp_path / "all.json").read_text())
    assert judged[0]["map_total"] == results["test"]["map_total"]
    assert f"{100 * judged[0]['map_total']:.1f}" in capsys.readouterr().out

    assert main(["predict", run, str(scene), "--json", "--top_k", "2"]) == 0
    predicted = json.loads(capsys.readouterr().out)
    from transformers import pipeline

    import modeling_cssfe  # noqa: F401  (registers the classes)

    asked = []  # whether to run the code that lies in the folder
    monkeypatch.setattr("builtins.input", lambda *prompt: asked.append(prompt) or "n")
    expected = pipeline("image-classification", model=run)(str(scene), top_k=2)
    assert not asked
    assert [(entry["label"], entry["score"]) for entry in predicted["predictions"]] == [
        (entry["label"], pytest.approx(entry["score"], abs=1e-7)) for entry in expected
    ]

    picture = tmp_path / "maps.png"
    assert main(["explain", run, str(scene), "--labels", "red", "blue", "--output", str(picture)]) == 0
    assert Image.open(picture).size[0] > 500
    card = (tmp_path / "run" / "README.md").read_text()
    assert main(["card", run, "--model_id", "someone/model"]) == 0
    assert "someone/model" in (tmp_path / "run" / "README.md").read_text() != card


def test_losses_and_info_list_the_registries(capsys):
    from modeling_cssfe.losses import list_losses
    from modeling_cssfe.training import list_recipes

    assert main(["losses"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in list_losses())
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in list_recipes())


def test_data_shows_counts_and_groups(tiny_data, tmp_path, capsys):
    picture = tmp_path / "inspection.png"
    options = ["--head_min", "12", "--tail_max", "6", "--output", str(picture)]
    assert main(["data", "inspect", str(tiny_data), *options]) == 0
    assert picture.stat().st_size > 0
    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    shown = {
        row[0]: row[1:]
        for row in rows
        if row and row[0] in ("red", "green", "blue") and len(row) == 5 and row[1] in GROUPS
    }
    assert shown == {
        "red": ["head", "14", "4", "4"],
        "green": ["medium", "8", "6", "6"],
        "blue": ["tail", "3", "4", "4"],
    }


def test_accelerate_launch_runs_the_same_function(tiny_data, tmp_path):
    # A real process; it imports torch and transformers, which takes most of its ten-odd seconds.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "train/train.py"]
    command += ["--output_dir", str(tmp_path / "run"), "--set", *tiny_overrides(tiny_data, epochs=1)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["recipe"]["epochs"] == 1


def test_a_broken_pipe_is_no_error(tiny_data):
    command = f"{sys.executable} -m modeling_cssfe.cli losses | head -n 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
