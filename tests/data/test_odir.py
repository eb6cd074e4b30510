# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import csv
import runpy
import sys
from pathlib import Path

import pytest
from devkits import jpeg

from modeling_cssfe.data import load_images
from modeling_cssfe.data.builders.odir import ODIR5K


SCRIPT = Path(__file__).parents[2] / "data_scripts" / "prepare_csv_set.py"
LETTERS = "NDGCAHMO"
COLUMNS = ["ID", "Patient Age", "Patient Sex", "Left-Fundus", "Right-Fundus", "Left-Diagnostic Keywords"]
COLUMNS += ["Right-Diagnostic Keywords", *LETTERS]


def patient_row(patient):
    # Every fifth patient has two diagnoses.
    has = {LETTERS[patient % 8]} | ({"O"} if patient % 5 == 0 else set())
    cells = [patient, 60, "Female", f"{patient}_left.jpg", f"{patient}_right.jpg", "normal fundus, a", "b"]
    return [*cells, *(int(letter in has) for letter in LETTERS)]


ROWS = [patient_row(patient) for patient in range(40)]


def write_csv(path, rows, columns=COLUMNS):
    with path.open("w", newline="", encoding="utf-8-sig") as content:
        csv.writer(content).writerows([columns, *rows])


@pytest.fixture
def odir(tmp_path):
    """The folder of one of the public copies: a table and the training images."""
    root = tmp_path / "odir"
    images = root / "ODIR-5K" / "Training Images"
    images.mkdir(parents=True)
    for patient in range(40):
        for side, eye in enumerate(("left", "right")):
            (images / f"{patient}_{eye}.jpg").write_bytes(jpeg(2 * patient + side))
    write_csv(root / "ODIR-5K" / "data.csv", ROWS)
    return root


@pytest.fixture
def build(odir, tmp_path):
    def prepared(**options):
        builder = ODIR5K(root=str(odir), cache_dir=str(tmp_path / "cache"), **options)
        builder.download_and_prepare()
        return builder.as_dataset()

    return prepared


def test_both_eyes_have_the_patient_s_labels_and_lie_in_one_split(build):
    splits = build()
    assert {split: len(table) for split, table in splits.items()} == {"train": 56, "validation": 8, "test": 16}
    names = splits["train"].features["labels"].feature.names
    assert (names[0], names[4], names[7]) == (
        "normal",
        "age-related macular degeneration",
        "other diseases or abnormalities",
    )
    split_of_patient = {}
    for split, table in splits.items():
        for row in table:
            patient, _ = row["image_id"].split("_")
            assert split_of_patient.setdefault(patient, split) == split
            expected = [index for index, cell in enumerate(ROWS[int(patient)][-8:]) if cell]
            assert row["labels"] == expected
    assert len(split_of_patient) == 40


def test_an_excel_file_gives_the_same_set_as_its_csv_export(build, odir):
    openpyxl = pytest.importorskip("openpyxl")
    from_csv = build()
    (odir / "ODIR-5K" / "data.csv").unlink()
    book = openpyxl.Workbook()
    for row in [COLUMNS, *ROWS]:
        book.active.append(row)
    book.save(odir / "ODIR-5K" / "data.xlsx")
    from_excel = build()
    for split in from_csv:
        assert from_csv[split].to_dict() == from_excel[split].to_dict()


def test_a_table_of_one_row_an_image_is_read(build, odir):
    (odir / "ODIR-5K" / "data.csv").unlink()
    rows = [[*row, f"{row[0]}_{eye}.jpg"] for row in ROWS for eye in ("left", "right") if (row[0], eye) != (3, "left")]
    write_csv(odir / "full_df.csv", rows, [*COLUMNS, "filename"])
    assert sum(len(table) for table in build().values()) == 79


def test_without_openpyxl_the_error_names_the_mend(build, odir, monkeypatch):
    (odir / "ODIR-5K" / "data.csv").rename(odir / "ODIR-5K" / "data.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ImportError, match="pip install openpyxl, or save it as CSV"):
        build()


def test_a_table_that_is_no_excel_file_is_named(build, odir):
    pytest.importorskip("openpyxl")
    (odir / "ODIR-5K" / "data.csv").rename(odir / "ODIR-5K" / "data.xlsx")
    with pytest.raises(ValueError, match=r"data\.xlsx is no Excel file"):
        build()


def changed(row, column, value):
    cells = list(row)
    cells[COLUMNS.index(column)] = value
    return cells


@pytest.mark.parametrize(
    ("rows", "columns", "error", "message"),
    [
        (ROWS, ["ID", *COLUMNS[1:-1], "X"], ValueError, "has no column 'O'"),
        (ROWS, [*COLUMNS[:-1], "N"], ValueError, "two columns named 'N'"),
        ([changed(ROWS[0], "N", 2), *ROWS[1:]], COLUMNS, ValueError, "'normal', row 0 is '2'"),
        ([changed(ROWS[0], "N", -1), *ROWS[1:]], COLUMNS, ValueError, "-1 among the labels"),
        ([*ROWS, ROWS[0]], COLUMNS, ValueError, r"row 42: the image '0_left\.jpg' is in row 2 too"),
        ([changed(ROWS[0], "Left-Fundus", ""), *ROWS[1:]], COLUMNS, ValueError, "row 2: 'Left-Fundus' is empty"),
        ([changed(ROWS[0], "Left-Fundus", "x.jpg"), *ROWS[1:]], COLUMNS, FileNotFoundError, r"missing.*'x\.jpg'"),
        ([changed(ROWS[0], "Left-Fundus", "../x.jpg"), *ROWS[1:]], COLUMNS, ValueError, "leads out of"),
        ([ROWS[0][:-1], *ROWS[1:]], COLUMNS, ValueError, "row 2 has 14 cells, expected 15"),
        ([], COLUMNS, ValueError, "no rows below its column names"),
    ],
)
def test_a_wrong_table_is_a_one_line_error(build, odir, rows, columns, error, message):
    write_csv(odir / "ODIR-5K" / "data.csv", rows, columns)
    with pytest.raises(error, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_an_empty_image_is_named(build, odir):
    (odir / "ODIR-5K" / "Training Images" / "7_left.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"'7_left\.jpg' is empty \(0 bytes\)"):
        build()


def test_a_folder_without_a_table_lists_what_is_looked_for(build, odir):
    (odir / "ODIR-5K" / "data.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"none of .*data\.xlsx.*full_df\.csv.*annotations="):
        build()
    with pytest.raises(ValueError, match="pass root=FOLDER"):
        ODIR5K().download_and_prepare()
    with pytest.raises(ValueError, match="above 0 and below 1 together"):
        ODIR5K(root=str(odir), test_share=0.9)


@pytest.fixture
def script(odir, tmp_path, monkeypatch):
    def run(*arguments):
        values = [SCRIPT, *arguments, "--root", odir, "--output_dir", tmp_path / "out"]
        monkeypatch.setattr(sys, "argv", [str(value) for value in values])
        with pytest.raises(SystemExit) as leave:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return leave.value.code

    return run


def test_the_script_writes_parquet_that_load_images_reads(script, build, tmp_path):
    assert script("odir", "--test_share", 0.3) == 0
    loaded = load_images(tmp_path / "out", cache_dir=tmp_path / "c")
    for split, table in build(test_share=0.3).items():
        assert loaded[split].to_dict() == table.to_dict()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- patients: 40" in card
    assert "- `test_share`: 0.3" in card


def test_the_script_refuses_an_option_of_another_set(script, capsys):
    assert script("nus_wide", "--test_share", 0.3) == 2
    assert "nus_wide has no option --test_share" in capsys.readouterr().err
