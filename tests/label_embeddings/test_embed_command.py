# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe data embed` and its script."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from modeling_cssfe.cli import main
from modeling_cssfe.label_embeddings import load_label_embeddings, resolve_label_embeddings


NAMES = ["dog", "cat", "traffic_light"]
SCRIPT = Path(__file__).parents[2] / "data_scripts" / "embed_labels.py"


def embed(*arguments) -> int:
    return main(["data", "embed", *map(str, arguments)])


def test_the_file_holds_what_the_function_gives(tmp_path, capsys):
    path = tmp_path / "e.safetensors"
    options = ["--source", "random", "--dim", "9", "--seed", "2", "--output", path]
    assert embed("--label_names", *NAMES, *options) == 0
    assert "3 labels of 9 dimensions from random" in capsys.readouterr().out
    expected, origin = resolve_label_embeddings("random", NAMES, dim=9, seed=2)
    embeddings, provenance = load_label_embeddings(path, NAMES)
    assert torch.equal(embeddings, expected)
    assert provenance["origin"] == origin


def test_the_names_may_be_those_of_a_data_set(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,labels\na.png,dog|cat\n")
    path = tmp_path / "e.safetensors"
    assert embed("--data", tmp_path, "--source", "random", "--output", path) == 0
    assert load_label_embeddings(path, ["dog", "cat"])[0].shape == (2, 512)


def test_the_data_set_is_read_as_the_options_say(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,dog,cat\na.png,1,\n")
    path = tmp_path / "e.safetensors"
    line = ["--data", tmp_path, "--source", "random", "--output", path]
    assert embed(*line) == 2
    assert embed(*line, "--empty_cells", "unknown") == 0
    assert load_label_embeddings(path, ["dog", "cat"])[0].shape == (2, 512)


def test_templates_come_from_the_line_or_a_file(tiny_clip, tmp_path):
    path = tmp_path / "e.safetensors"
    line = ["--label_names", *NAMES, "--source", tiny_clip, "--output", path]
    assert embed(*line, "--template", "a {}", "the {}") == 0
    expected, _ = resolve_label_embeddings(tiny_clip, NAMES, template=["a {}", "the {}"], use_cache=False)
    assert torch.equal(load_label_embeddings(path, NAMES)[0], expected)
    templates = {"cat": ["a {}", "the {}"], "*": "a photo of a {}"}
    (tmp_path / "t.json").write_text(json.dumps(templates))
    assert embed(*line, "--templates_file", tmp_path / "t.json", "--no_normalize") == 0
    expected, origin = resolve_label_embeddings(tiny_clip, NAMES, template=templates, normalize=False, use_cache=False)
    embeddings, provenance = load_label_embeddings(path, NAMES)
    assert torch.equal(embeddings, expected)
    assert provenance["origin"] == origin


def test_the_cache_can_be_moved_and_switched_off(tiny_clip, tmp_path, own_cache):
    line = ["--label_names", *NAMES, "--source", tiny_clip, "--output", tmp_path / "e.safetensors"]
    assert embed(*line, "--no_cache") == 0
    assert embed(*line, "--cache_dir", tmp_path / "cache") == 0
    assert not own_cache.exists()
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert embed(*line) == 0
    assert len(list(own_cache.iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "none.parquet"], "there is no 'none.parquet'"),
        (["--label_names", "a", "a"], "two labels are named 'a'"),
        (["--label_names", "a", "--source", "./no-clip"], "there is no folder './no-clip'"),
        (["--label_names", "a", "--source", "glove:none"], "there is no word vector file 'none'"),
        (["--label_names", "a", "--template", "x"], "template 'x' must hold one {}"),
        (["--label_names", "a", "--templates_file", "none.json"], "there is no templates file"),
        (["--label_names", "a", "--template", "{}", "--templates_file", "t.json"], "not allowed with argument"),
        (["--label_names", "a", "--data", "x"], "not allowed with argument"),
        (["--source", "random"], "one of the arguments --data --label_names is required"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert embed(*arguments, "--output", "e.safetensors") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "e.safetensors").exists()


@pytest.mark.parametrize(
    ("output", "message"),
    [("e.bin", "does not end in .safetensors"), ("no/e.safetensors", "the folder '{}no' does not exist")],
)
def test_an_output_that_cannot_be_written_is_told_before_anything_is_loaded(output, message, tmp_path, capsys):
    assert embed("--data", "nothing here", "--output", tmp_path / output) == 2
    assert message.format(f"{tmp_path}/") in capsys.readouterr().err


def test_a_disk_that_is_full_is_code_1(tmp_path, monkeypatch, capsys):
    import os

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    assert embed("--label_names", "a", "--source", "random", "--output", tmp_path / "e.safetensors") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# Several seconds, as a process of its own imports torch and transformers.
def test_the_script_is_the_same_command(tmp_path):
    path = tmp_path / "e.safetensors"
    options = ["--label_names", *NAMES, "--source", "random", "--output", str(path)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, cwd=SCRIPT.parents[1]
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert torch.equal(load_label_embeddings(path, NAMES)[0], resolve_label_embeddings("random", NAMES)[0])
