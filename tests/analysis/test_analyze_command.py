# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import pytest
from PIL import Image

from modeling_cssfe.cli import main


TRIALS = """trial,seed,map_total,map_head,map_medium,map_tail
net0,0,.6,.7,.6,.5
net0,1,.62,.7,.6,.55
net3,0,.7,.7,.7,.7
"""


def test_figures_are_drawn_from_a_table_of_trials(tmp_path, capsys):
    (tmp_path / "trials.csv").write_text(TRIALS)
    output = tmp_path / "figure.png"
    arguments = ["analyze", "figures", str(tmp_path / "trials.csv"), "--rows", "Net-0=net0", "CSSFE=net3"]
    assert main([*arguments, "--output", str(output)]) == 0
    assert Image.open(output).format == "PNG"
    assert capsys.readouterr().out.strip().endswith("figure.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["figures", "nowhere", "--rows", "net0"], "write NAME=VALUE"),
        (["figures", "nowhere.csv"], "there is no table 'nowhere.csv'"),
        (["localization", "nowhere/at/all", "--data", "lt_digits"], "there is no folder"),
        (["localization", "x/y", "--data", "lt_digits", "--bootstrap", "1"], "at least 2"),
        (["study", "--balanced", "/no", "--long_tailed", "/no", "--data", "x", "--output", "y", "--formats", "pdf"],
         "unknown format 'pdf'"),
        (["study", "--balanced", "/no", "--long_tailed", "/no", "--data", "x", "--output", "y"], "there is no folder"),
        (["train_pair", "--output_dir", "y", "--recipe", "lt_digit"], "did you mean 'lt_digits'"),
        (["train"], "invalid choice"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_one_line_and_exit_code_2(arguments, message, capsys):
    assert main(["analyze", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
