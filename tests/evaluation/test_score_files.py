# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import csv
import json
from dataclasses import fields, replace

import numpy as np
import pytest
from score_cases import COUNTS, NAMES, make_table

from modeling_cssfe.evaluation.class_counts import align_class_counts, read_class_counts
from modeling_cssfe.evaluation.score_files import SCORE_SUFFIXES, read_scores, write_scores


def assert_same_table(one, other, but=("name",)):
    for entry in fields(one):
        if entry.name not in but:
            np.testing.assert_array_equal(getattr(one, entry.name), getattr(other, entry.name), err_msg=entry.name)


def write_rows(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def small(tmp_path):
    """Scores and labels of three images and two classes in two CSV files, in different orders."""
    scores = write_rows(
        tmp_path / "scores.csv", ["image_id", "cow", "dog"], [["a", 0.1, 0.2], ["b", 0.3, 0.4], ["007", 1, 0]]
    )
    labels = write_rows(
        tmp_path / "labels.csv", ["image_id", "dog", "cow"], [["007", 1, 0], ["a", 0, -1], ["b", "", 1]]
    )
    return scores, labels


@pytest.mark.parametrize("suffix", SCORE_SUFFIXES)
def test_a_table_comes_back_to_the_last_digit(suffix, tmp_path):
    names = ("person, standing", 'a "cat"', "score:x", "Über\u202fhund", "line\nbreak", "bus")
    ids = (*(f"00{row}" for row in range(29)), '=HYPERLINK("x"),\n')
    table = make_table(30, ties=False, label_names=names, image_ids=ids, thresholds=(0.1, 0.2, 0.3, 0.4, 0.5, 1 / 3))
    table = replace(table, head_min=200, tail_max=40)
    path = tmp_path / f"scores{suffix}"
    write_scores(table, path)
    assert list(tmp_path.iterdir()) == [path]  # nothing half-written is left
    if suffix == ".csv":  # has no place for the rest
        with pytest.raises(ValueError, match="does not say how many training images each class has"):
            read_scores(path)
        given = {"class_counts": COUNTS, "thresholds": table.thresholds, "head_min": 200, "tail_max": 40}
        assert_same_table(read_scores(path, **given), table)
    else:
        assert_same_table(read_scores(path), table)
    assert read_scores(path, class_counts=COUNTS).name == str(path)


@pytest.mark.parametrize("suffix", SCORE_SUFFIXES)
def test_what_others_write_is_read(suffix, tmp_path):
    import pandas

    scores, labels = [[0.25, 0.5], [0.75, 1.0]], [[1, 0], [0, -1]]
    if suffix == ".npz":
        np.savez(tmp_path / "s.npz", scores=np.float32(scores), image_ids=[1, 2], label_names=["x", "y"])
        np.savez(tmp_path / "l.npz", labels=np.int64(labels), image_ids=["1", "2"], label_names=["x", "y"])
    else:
        for name, values in (("s", scores), ("l", labels)):
            frame = pandas.DataFrame(values, columns=["x", "y"]).assign(image_id=[1, 2])
            path = tmp_path / f"{name}{suffix}"
            frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    table = read_scores(tmp_path / f"s{suffix}", tmp_path / f"l{suffix}", class_counts={"y": 3, "x": 200, "z": 1})
    assert table.image_ids == ("1", "2")
    assert table.class_counts == (200, 3)
    np.testing.assert_array_equal(table.scores, scores)
    np.testing.assert_array_equal(table.labels, labels)


def test_scores_and_labels_in_different_orders_are_brought_together_by_id_and_name(small):
    table = read_scores(*small, class_counts=[4, 48])
    assert table.label_names == ("cow", "dog")
    assert table.image_ids == ("007", "a", "b")  # as the labels have them, and no number
    assert table.scores.tolist() == [[1, 0], [0.1, 0.2], [0.3, 0.4]]
    assert table.labels.tolist() == [[0, 1], [-1, 0], [1, -1]]  # an empty cell is unknown


def test_labels_and_counts_come_from_a_data_set(tiny_data, tmp_path):
    from modeling_cssfe.evaluation.splits import load_split

    judged = load_split(tiny_data, "test")
    ids = [f"test-{row}" for row in range(12)]
    path = write_rows(
        tmp_path / "s.csv", ["image_id", "red", "green", "blue"], [[image, 0.5, 0.25, 0.75] for image in reversed(ids)]
    )
    table = read_scores(path, judged)
    assert table.image_ids == tuple(ids)
    assert table.class_counts == (14, 8, 3)
    assert table.labels[:6].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert read_scores(path, judged.dataset, class_counts=[5, 5, 5]).class_counts == (5, 5, 5)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (
            ["image_id", "cow"],
            [["a", 0.1], ["b", 0.3], ["007", 1]],
            r"different classes \(1 and 2\).*the labels .*'dog'",
        ),
        (["image_id", "cow", "ox"], [["a", 0.1, 0]], "different images"),
        (["image_id", "cow", "dog"], [["a", 0.1, 0], ["b", 0.3, 0]], r"different images \(2 and 3\).*have '007'; give"),
        (["image_id", "cow", "dog"], [[i, 0, 0] for i in ("a", "b", "007", "c")], r"only the scores .* have 'c'"),
        (["image_id", "cow", "dog"], [[i, 0, 0] for i in ("a", "b", "007", "b")], "image id 'b' occurs twice"),
        (["image_id", "cow", "cow"], [["a", 0.1, 0]], "column 'cow' occurs twice"),
        (["id", "cow", "dog"], [["a", 0.1, 0]], "no column 'image_id'; its columns are 'id', 'cow', 'dog'"),
        (
            ["image_id", "cow", "dog"],
            [["a", 0.1, 0], ["b", "nan", 0], ["007", 1, 0]],
            "image 'b' for 'cow' is NaN or miss",
        ),
        (
            ["image_id", "cow", "dog"],
            [["a", 0.1, 0], ["b", 0.3, ""], ["007", 1, 0]],
            "image 'b' for 'dog' is NaN or miss",
        ),
        (["image_id", "cow", "dog"], [["a", 0.1, 0], ["b", -3.5, 0], ["007", 1, 0]], "is -3.5, no probability"),
        (["image_id", "cow", "dog"], [["a", 0.1, 0], ["b", "high", 0], ["007", 1, 0]], "cannot be read.*'high'"),
        (
            ["image_id", "cow", "dog"],
            [["a", 0.1, 0], ["b", 0.3], ["007", 1, 0]],
            "cannot be read.*[Ee]xpected 3 columns",
        ),
        (["image_id", "cow", "dog"], [], "holds no images"),
        (["image_id", "score:cow", "dog"], [["a", 0.1, 0]], "'dog' is neither score:NAME nor label:NAME"),
        (["image_id", "label:cow", "label:dog"], [["a", 1, 0]], "holds no scores"),
        ([], [], "no column 'image_id'; its columns are none"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_scores_that_do_not_fit_are_refused_in_one_line(header, rows, message, small, tmp_path):
    path = write_rows(tmp_path / "bad.csv", header, rows)
    with pytest.raises(ValueError, match=message) as caught:
        read_scores(path, small[1], class_counts=[4, 48])
    assert "\n" not in str(caught.value)
    assert "bad.csv" in str(caught.value)


def test_a_label_that_is_none_of_one_zero_and_unknown_is_refused(small, tmp_path):
    labels = write_rows(tmp_path / "l.csv", ["image_id", "dog", "cow"], [["007", 1, 0], ["a", 2, 0], ["b", 0, 1]])
    with pytest.raises(ValueError, match=r"label of image 'a' for 'dog' is 2.0; labels are 1, 0, or -1"):
        read_scores(small[0], labels, class_counts=[4, 48])


def test_scores_alone_ask_for_labels_and_counts(small):
    with pytest.raises(ValueError, match="holds scores alone; name a file or data set with the labels"):
        read_scores(small[0], class_counts=[4, 48])
    with pytest.raises(ValueError, match=r"class_counts \(--class_counts FILE\)"):
        read_scores(*small)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_counts": [4]}, "class_counts has 1 entries for 2 classes"),
        ({"class_counts": {"cow": 4}}, "class_counts lacks 'dog'"),
        ({"class_counts": [4, 48], "thresholds": [0.5]}, "thresholds has 1 entries for 2 classes"),
    ],
)
def test_counts_and_thresholds_of_the_wrong_length_are_refused(options, message, small):
    with pytest.raises(ValueError, match=message):
        read_scores(*small, **options)


NPZ = {
    "image_ids": ["a", "b"],
    "label_names": ["x"],
    "scores": [[0.5], [0.6]],
    "labels": [[1], [0]],
    "class_counts": [3],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [[0.5]]}, r"scores is float64 \(1, 1\), but there are 2 image_ids and 1 label_names"),
        ({"labels": [[1, 0], [0, 1]]}, r"labels is int64 \(2, 2\)"),
        ({"scores": [["0.5"], ["0.6"]]}, "scores is <U3"),
        ({"thresholds": [0.5, 0.5]}, r"thresholds has shape \(2,\) for 1 classes"),
        ({"class_counts": [3, 4]}, r"class_counts has shape \(2,\) for 1 classes"),
        ({"label_names": None}, "needs the one-dimensional array 'label_names'; it holds image_ids"),
        ({"image_ids": ["a", "a"]}, "image id 'a' occurs twice"),
        ({"image_ids": np.array(["a", {}], dtype=object)}, "no npz file of plain arrays.*allow_pickle"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message, tmp_path):
    path = tmp_path / "scores.npz"
    np.savez(path, **{key: np.array(value) for key, value in (NPZ | change).items() if value is not None})
    with pytest.raises(ValueError, match=message):
        read_scores(path)


@pytest.mark.parametrize("name", ["UPPER.NPZ", "UPPER.CSV", "Mixed.Parquet"])
def test_the_ending_may_be_written_in_capitals(name, tmp_path):
    write_scores(make_table(), tmp_path / name)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    np.testing.assert_array_equal(read_scores(tmp_path / name, class_counts=COUNTS).scores, make_table().scores)


def test_the_row_numbers_of_a_shuffled_pandas_frame_are_no_class(small, tmp_path):
    import pandas

    scores, labels = small
    frame = pandas.read_csv(scores, dtype={"image_id": str}).sample(frac=1, random_state=0)
    frame.to_parquet(tmp_path / "scores.parquet")
    table = read_scores(tmp_path / "scores.parquet", labels, class_counts=[1, 2])
    assert_same_table(table, read_scores(scores, labels, class_counts=[1, 2]))


def test_ids_and_names_of_an_npz_file_may_be_bytes(tmp_path):
    ids, names = np.array([b"a", b"b", b"007"]), np.array(["kühe".encode(), b"dog"])
    np.savez(tmp_path / "s.npz", image_ids=ids, label_names=names, scores=np.eye(3, 2), labels=np.eye(3, 2))
    table = read_scores(tmp_path / "s.npz", class_counts=[1, 2])
    assert (table.image_ids, table.label_names) == (("a", "b", "007"), ("kühe", "dog"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_counts": np.array([1.5, 2])}, "the class count of 'cow' is 1.5; give a whole number"),
        ({"class_counts": np.array(["1", "2"])}, "the class count of 'cow' is '1'"),
        ({"class_counts": np.array([np.nan, 2])}, "the class count of 'cow' is nan"),
        ({"head_min": np.array([1, 2])}, r"head_min is \[1, 2\]; give one whole number"),
        ({"tail_max": np.array(2.5)}, "tail_max is 2.5; give one whole number"),
        ({"image_ids": np.array([b"\xff"])}, "bytes that are no UTF-8"),
    ],
)
def test_what_stands_beside_the_scores_is_checked_and_not_rounded(changes, message, tmp_path):
    arrays = {"image_ids": ["a"], "label_names": ["cow", "dog"], "scores": np.ones((1, 2)), "labels": np.ones((1, 2))}
    np.savez(tmp_path / "s.npz", **{"class_counts": np.array([1, 2]), **arrays, **changes})
    with pytest.raises(ValueError, match=message):
        read_scores(tmp_path / "s.npz")


@pytest.mark.parametrize("counts", [[1.5, 2], {"cow": 1.5, "dog": 2}, [-1, 2]])
def test_counts_that_are_no_whole_numbers_are_refused(counts):
    with pytest.raises(ValueError, match="give a whole number >= 0"):
        align_class_counts(counts, ["cow", "dog"])


def test_a_file_that_is_no_archive_is_refused_without_the_advice_to_unpickle_it(tmp_path):
    (tmp_path / "s.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="is no npz file") as caught:
        read_scores(tmp_path / "s.npz")
    assert "pickle" not in str(caught.value)


def test_a_file_that_is_something_else_is_refused(tmp_path):
    for suffix in SCORE_SUFFIXES:
        path = tmp_path / f"noise{suffix}"
        path.write_bytes(bytes(range(256)))
        with pytest.raises(ValueError, match=f"noise{suffix}"):
            read_scores(path)
        with pytest.raises(FileNotFoundError, match="there is no file"):
            read_scores(tmp_path / f"missing{suffix}")
    with pytest.raises(ValueError, match=r"unknown kind of score file '\.cvs'.*Did you mean '\.csv'\?"):
        read_scores(tmp_path / "scores.cvs")
    with pytest.raises(ValueError, match="unknown kind of score file"):
        write_scores(make_table(), tmp_path / "scores.pkl")


def test_class_counts_are_read_from_json_csv_and_results(tmp_path):
    expected = {"person": 775, "a, b": 4}
    (tmp_path / "counts.json").write_text(json.dumps(expected))
    (tmp_path / "results.json").write_text(json.dumps({"map_total": 0.5, "class_counts": expected}))
    write_rows(tmp_path / "counts.csv", ["count", "label"], [[775, "person"], [4, "a, b"]])
    for name in ("counts.json", "results.json", "counts.csv"):
        assert read_class_counts(tmp_path / name) == expected
    table = make_table()
    write_scores(table, tmp_path / "s.npz")
    (tmp_path / "all.json").write_text(json.dumps(dict(zip(NAMES, range(6), strict=True))))
    assert read_scores(tmp_path / "s.npz", class_counts=tmp_path / "all.json").class_counts == (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.json", '{"a": 1.5}', "the count of 'a' is 1.5; give a whole number"),
        ("c.json", '{"a": true}', "the count of 'a' is True"),
        ("c.json", '["a"]', "must map class names to counts"),
        ("c.json", "{", "is no JSON"),
        ("c.csv", "label,count\na,-1\n", "the count of 'a' is '-1'"),
        ("c.csv", "label,count\na\n", "the count of 'a' is None"),
        ("c.csv", "label,count\na,1\na,2\n", "the class 'a' occurs twice"),
        ("c.csv", "name,number\na,1\n", "it needs 'label' and 'count'"),
    ],
)
def test_bad_class_counts_are_refused(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_class_counts(tmp_path / name)


def test_an_older_file_stays_whole_when_writing_fails(tmp_path, monkeypatch):
    table, path = make_table(), tmp_path / "scores.npz"
    write_scores(table, path)

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(RuntimeError, match=r"cannot save .*scores\.npz.*No space left"):
        write_scores(table, path)
    assert list(tmp_path.iterdir()) == [path]
    assert_same_table(read_scores(path), table)
