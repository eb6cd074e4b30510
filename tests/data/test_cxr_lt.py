# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import csv

import pytest
from devkits import jpeg

from modeling_cssfe.data.builders.cxr_lt import CXRLT


FINDINGS = ["Atelectasis", "Cardiomegaly", "Tortuous Aorta"]
HEAD = ["dicom_id", "subject_id", "study_id", "ViewPosition", *FINDINGS]


def rows_of(first, count):
    # Two images a patient.
    return [
        [f"d{index:03d}", f"1{index // 2:04d}", f"5{index:03d}", "PA", *(int(index % 3 == c) for c in range(3))]
        for index in range(first, first + count)
    ]


TRAIN, TEST = rows_of(0, 40), rows_of(100, 6)


def write_csv(path, rows, head=HEAD):
    with path.open("w", newline="") as content:
        csv.writer(content).writerows([head, *rows])


@pytest.fixture
def cxr(tmp_path):
    root = tmp_path / "cxr"
    root.mkdir()
    write_csv(root / "train.csv", TRAIN)
    write_csv(root / "test.csv", TEST)
    for row in [*TRAIN, *TEST]:
        (root / f"{row[0]}.jpg").write_bytes(jpeg(int(row[0][1:])))
    return root


@pytest.fixture
def build(cxr, tmp_path):
    def prepared(**options):
        builder = CXRLT(**({"root": str(cxr), "cache_dir": str(tmp_path / "cache"), "test": "test.csv"} | options))
        builder.download_and_prepare()
        return builder.as_dataset()

    return prepared


def test_labels_are_the_columns_that_are_no_metadata(build):
    splits = build()
    assert splits["train"].features["labels"].feature.names == FINDINGS
    assert splits["test"]["image_id"][:] == [row[0] for row in TEST]
    assert splits["test"]["labels"][:] == [[index % 3] for index in range(100, 106)]
    assert splits["test"][2]["image"]["bytes"] == jpeg(102)
    assert "unknown_labels" not in splits["train"].column_names


def test_validation_is_drawn_from_train_by_patient(build):
    splits = build(validation_share=0.2)
    assert (len(splits["train"]), len(splits["validation"])) == (32, 8)
    patient = {row[0]: row[1] for row in TRAIN}
    groups = [{patient[image] for image in splits[split]["image_id"]} for split in ("train", "validation")]
    assert not groups[0] & groups[1]
    assert list(build(validation="test.csv", test=None)) == ["train", "validation"]


def test_minus_one_is_unknown_and_empty_cells_are_what_the_option_says(build, cxr):
    write_csv(cxr / "test.csv", [[*TEST[0][:4], 1, -1, 0], [*TEST[1][:4], 0, "", 1]])
    with pytest.raises(ValueError, match=r"column 'Cardiomegaly', row 1 is empty.*empty_cells"):
        build()
    test = build(empty_cells="unknown")["test"]
    assert (test["labels"][:], test["unknown_labels"][:]) == ([[0], [2]], [[1], [1]])
    test = build(empty_cells="negative")["test"]
    assert (test["labels"][:], test["unknown_labels"][:]) == ([[0], [2]], [[1], []])


def test_images_lie_where_a_column_or_a_pattern_says(build, cxr):
    usual = build(test=None)
    for row in TRAIN:
        folder = cxr / "files" / f"p{row[1][:2]}" / f"p{row[1]}" / f"s{row[2]}"
        folder.mkdir(parents=True)
        (cxr / f"{row[0]}.jpg").rename(folder / f"{row[0]}.jpg")
    pattern = "p{subject_id:.2}/p{subject_id}/s{study_id}/{dicom_id}.jpg"
    by_pattern = build(images="files", image_pattern=pattern, test=None)
    paths = [f"files/p{row[1][:2]}/p{row[1]}/s{row[2]}/{row[0]}.jpg" for row in TRAIN]
    write_csv(cxr / "train.csv", [[*row, path] for row, path in zip(TRAIN, paths, strict=True)], [*HEAD, "fpath"])
    by_column = build(test=None)
    assert usual["train"].to_dict() == by_pattern["train"].to_dict() == by_column["train"].to_dict()


def test_any_number_of_labels_and_their_order_can_be_chosen(build):
    chosen = ["Tortuous Aorta", "Atelectasis"]
    splits = build(label_columns=chosen)
    assert splits["train"].features["labels"].feature.names == chosen
    # The first two test images have Cardiomegaly and Tortuous Aorta.
    assert splits["test"]["labels"][:2] == [[], [0]]


@pytest.mark.parametrize(
    ("head", "options", "error", "message"),
    [
        ([*HEAD[:3], "age", *FINDINGS], {}, ValueError, "column 'age', row 0 is 'PA'.*label_columns"),
        (["who", *HEAD[1:]], {}, ValueError, "column 'who', row 0 is 'd100'"),
        (["who", *HEAD[1:]], {"label_columns": FINDINGS}, ValueError, "none of the id columns dicom_id, image_id, id"),
        ([*HEAD[:-1], "Edema"], {}, ValueError, r"test\.csv has other labels.*Edema, Tortuous Aorta"),
        ([*HEAD[:-1], "Atelectasis"], {}, ValueError, "two columns named 'Atelectasis'"),
        (
            HEAD,
            {"label_columns": ["Cardiomegali"]},
            ValueError,
            "no column 'Cardiomegali'.*Did you mean 'Cardiomegaly'",
        ),
        (HEAD, {"image_pattern": "{name}.jpg"}, ValueError, "image_pattern '{name}.jpg' does not fit"),
        (HEAD, {"image_pattern": "../{dicom_id}.jpg"}, ValueError, "leads out of"),
        (HEAD, {"image_pattern": "{dicom_id}.png"}, FileNotFoundError, r"are missing, the first 'd\d+\.png'"),
        (HEAD, {"images": "none"}, FileNotFoundError, "'none', which is no folder"),
        (HEAD, {"test": "none.csv"}, FileNotFoundError, r"no table '.*none\.csv'"),
        (HEAD, {"test": "../none.csv"}, ValueError, "leads out of"),
        (HEAD, {"id_column": "study"}, ValueError, "no column 'study'"),
    ],
)
def test_what_does_not_fit_is_a_one_line_error(build, cxr, head, options, error, message):
    write_csv(cxr / "test.csv", TEST, head)
    with pytest.raises(error, match=message) as caught:
        build(**options)
    assert "\n" not in str(caught.value)


def test_an_id_that_is_there_twice_is_named(build, cxr):
    write_csv(cxr / "test.csv", [*TEST, TEST[0]])
    with pytest.raises(ValueError, match="the id 'd100' is empty or there twice"):
        build()


def test_an_image_of_two_splits_is_named(build, cxr):
    write_csv(cxr / "test.csv", [*TEST, TRAIN[0]])
    with pytest.raises(ValueError, match=r"'d000\.jpg' is in split '(train|validation)' and again in 'test'"):
        build()


def test_a_file_that_is_no_image_is_named(build, cxr):
    (cxr / "d101.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"'d101\.jpg' cannot be read"):
        build()
