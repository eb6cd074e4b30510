# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from modeling_cssfe.cli import main
from modeling_cssfe.inference import find_images


PAGE = Path(__file__).parents[2] / "docs" / "predict.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(small_run, photographs, tmp_path, monkeypatch):
    """A folder with what the page names: a run, a photograph, a folder of them, and an archive."""
    shutil.copytree(small_run, tmp_path / "runs" / "mine")
    shutil.copytree(photographs, tmp_path / "photographs")
    shutil.copytree(photographs, tmp_path / "archive" / "2024")
    shutil.copy(next(file for file in find_images([photographs]) if file.endswith(".jpg")), tmp_path / "photograph.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("code", [block for kind, block in BLOCKS if kind == "python"], ids=["stream", "stock", "post"])
def test_the_pages_code_runs(place, code, capsys):
    exec(compile(code, str(PAGE), "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("line", [block.strip() for kind, block in BLOCKS if kind == ""], ids=["screen", "file"])
def test_the_pages_commands_run(place, line):
    program, *arguments = shlex.split(line)
    assert program == "cssfe"
    if "--num_workers" in arguments:
        arguments[arguments.index("--num_workers") + 1] = "0"
    assert main(arguments) == 0


def test_the_pages_shares_are_the_codes():
    from modeling_cssfe.inference.views import AUGMENTATIONS, CROP_SHARE, SCALES

    text = PAGE.read_text(encoding="utf-8")
    assert f"{round(CROP_SHARE * 248)}/248 of width and height" in text
    assert " and ".join(json.dumps(scale).lstrip("0") for scale in SCALES) in text
    assert all(f"| `{name}` |" in text for name in AUGMENTATIONS)
