# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import csv
import io
import json

import numpy as np
import pytest
from scipy import stats

from modeling_cssfe.evaluation.figure_tables import FORMATS, Cell, FigureTable, escape_latex, format_table
from modeling_cssfe.metrics.long_tail import MAP_FIGURES
from modeling_cssfe.training.run_tables import group_runs, read_run, seeds_table, welch_p_value


TOTALS = {
    "net0": [0.70, 0.71, 0.72],
    "net3": [0.80, 0.82, 0.81],
    "net1": [0.705, 0.715, 0.725],
}


def write_run(folder, total, seed=0, test=True, tail=0.5, **recipe):
    """What matters of a run's results.json."""
    figures = {"map_total": total, "map_head": total, "map_medium": total, "map_tail": tail}
    values = {
        "ablation": "net3",
        "backbone": "resnet50",
        "loss": "asl",
        "data": "lt_digits",
        "model": {"head_min": 100},
    }
    values |= {"test_split": "test", "validation_split": "validation", "seed": seed, "num_workers": None, **recipe}
    results = {"validation": figures, "test": figures if test else None, "seed": seed, "recipe": values}
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def groups(tmp_path):
    runs = [
        read_run(write_run(tmp_path / f"{name}_{seed}", total, seed, ablation=name, num_workers=seed))
        for seed in range(3)
        for name, totals in TOTALS.items()
        for total in [totals[seed]]
    ]
    return group_runs(runs)


def test_runs_that_differ_in_the_seed_alone_are_one_row(groups):
    assert [group.name for group in groups] == ["net0", "net3", "net1"]
    assert [[run.seed for run in group.runs] for group in groups] == [[0, 1, 2]] * 3


def test_mean_spread_and_p_value_are_those_of_numpy_and_scipy(groups):
    for group in groups:
        entry, totals = group.figures["map_total"], TOTALS[group.name]
        assert entry.mean == pytest.approx(np.mean(totals))
        assert entry.std == pytest.approx(np.std(totals, ddof=1))
        if group.name == "net0":
            assert entry.p_value is None
        else:
            assert entry.p_value == pytest.approx(stats.ttest_ind(totals, TOTALS["net0"], equal_var=False).pvalue)
    # net3: t = .10 / sqrt(2 * .01^2 / 3) = 12.25 with 4 degrees of freedom; net1: t = .61.
    assert groups[1].figures["map_total"].p_value == pytest.approx(2 * stats.t.sf(0.1 / np.sqrt(2e-4 / 3), 4))
    assert groups[2].figures["map_total"].p_value > 0.5


def test_the_row_that_differs_has_stars_and_the_others_have_none(groups):
    table = seeds_table(groups, "LT-Digits")
    text = format_table(table, "markdown")
    rows = {line.split(" | ")[0]: line.split(" | ")[1] for line in text.splitlines() if "seeds" in line and "|" in line}
    assert rows == {
        "| net0 (3 seeds)": "71.00 ± 1.00",
        "| net3 (3 seeds)": r"81.00 ± 1.00\*\*\*",
        "| net1 (3 seeds)": "71.50 ± 1.00",
    }
    assert "Welch's t\\-test" in text or "Welch's t-test" in text
    assert "differs from net0" in text


def test_one_seed_has_no_spread_and_no_star(tmp_path):
    runs = [
        write_run(tmp_path / str(i), total, loss=loss) for i, (loss, total) in enumerate([("asl", 0.1), ("bce", 0.9)])
    ]
    table = seeds_table(group_runs([read_run(run) for run in runs]), "one seed")
    text = format_table(table, "latex")
    assert r"asl (1 seed) & 10.00 & 10.00 & 10.00 & 50.00 \\" in text
    assert r"bce (1 seed) & 90.00 & 90.00 & 90.00 & 50.00 \\" in text


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [([0.5], [0.1, 0.2], None), ([0.5, 0.5], [0.1, 0.1], None), ([1, 2, 3], [1, 2, 3], 1.0)],
)
def test_there_is_a_test_only_where_there_are_seeds_and_spread(first, second, expected):
    assert welch_p_value(first, second) == expected


def test_a_run_without_a_test_split_is_judged_by_its_validation_split(tmp_path):
    assert read_run(write_run(tmp_path / "a", 0.5, test=False)).split == "validation"
    runs = [read_run(tmp_path / "a"), read_run(write_run(tmp_path / "b", 0.5, seed=1))]
    with pytest.raises(ValueError, match=r"different splits \(test, validation\)"):
        group_runs(runs)


def test_a_figure_that_a_run_lacks_is_a_dash(tmp_path):
    runs = [write_run(tmp_path / str(seed), 0.5, seed, tail=None if seed else 0.3) for seed in range(2)]
    table = seeds_table(group_runs([read_run(run) for run in runs]), "no tail")
    assert table.rows[0][1][3] == Cell(None)
    assert table.rows[0][0] == "net3, resnet50, asl (2 seeds)"
    assert "-: the group has no class with a positive image." in table.notes


def test_nested_keys_tell_rows_apart(tmp_path):
    runs = [write_run(tmp_path / str(bound), 0.5, model={"head_min": bound}) for bound in (100, 50)]
    assert [group.name for group in group_runs([read_run(run) for run in runs])] == [
        "model.head_min=100",
        "model.head_min=50",
    ]


def test_the_same_seed_twice_is_refused(tmp_path):
    runs = [read_run(write_run(tmp_path / name, 0.5, seed=7)) for name in ("a", "b")]
    with pytest.raises(ValueError, match=r"/a' and .*/b' are the same recipe with the same seed 7"):
        group_runs(runs)


@pytest.mark.parametrize("content", ["{", "[]", '{"recipe": {}}', '{"recipe": {"seed": 0}, "test": {"map_total": 1}}'])
def test_a_results_file_of_another_kind_is_refused(content, tmp_path):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match="is not what `cssfe train` writes"):
        read_run(tmp_path)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no results\.json"):
        read_run(tmp_path)


HOSTILE = r"50% & _x_ | $y$ #1 {z} ~ ^ \input{a} <script>*b*</script> `c` [red]d"
TABLE = FigureTable(
    "Judged on 50%\nof it",
    MAP_FIGURES,
    (
        (HOSTILE, (Cell(0.12345), Cell(0.5, std=0.0123, mark="**"), Cell(0.25, interval=(0.2, 0.3)), Cell(None))),
        ("plain", (Cell(1.0), Cell(0.0), Cell(0.5), Cell(0.5))),
    ),
    ("A note.",),
)


def test_latex_has_no_character_of_a_name_that_commands():
    assert escape_latex("a_b & 50% $x$ #1 {y} ~ ^ \\z") == (
        r"a\_b \& 50\% \$x\$ \#1 \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z"
    )
    lines = format_table(TABLE, "latex").splitlines()
    assert lines[0] == "% Judged on 50% of it"
    assert r"\begin{tabular}{lrrrr}" in lines
    row = next(line for line in lines if "script" in line)
    assert row.replace(r"\&", "").count("&") == 4
    assert r"& 12.3 & 50.0 $\pm$ 1.2$^{**}$ & 25.0 [20.0, 30.0] & - \\" in row
    assert r"\input" not in row


def test_markdown_shows_a_name_as_it_is():
    lines = format_table(TABLE, "markdown").splitlines()
    row = next(line for line in lines if "script" in line)
    assert r"\<script\>" in row
    assert row.replace(r"\|", "").count("|") == 6
    assert r"| 12.3 | 50.0 ± 1.2\*\* | 25.0 [20.0, 30.0] | - |" in row
    assert lines[-1] == "A note."


def test_csv_has_all_digits_and_uncertainties_in_columns_of_their_own():
    rows = list(csv.DictReader(io.StringIO(format_table(TABLE, "csv"))))
    assert rows[0]["model"] == HOSTILE
    assert float(rows[0]["map_total"]) == 0.12345
    assert (rows[0]["map_head_std"], rows[0]["map_head_mark"]) == ("0.0123", "**")
    assert (rows[0]["map_medium_low"], rows[0]["map_medium_high"]) == ("0.2", "0.3")
    assert rows[0]["map_tail"] == ""


def test_the_terminal_s_table_shows_a_name_as_it_is():
    text = format_table(TABLE, "table")
    assert "[red]d" in text
    assert "50.0 ± 1.2**" in text


def test_an_unknown_format_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown format 'latx'.*Did you mean 'latex'\?"):
        format_table(TABLE, "latx")
    assert FORMATS == ("table", "markdown", "latex", "csv")
